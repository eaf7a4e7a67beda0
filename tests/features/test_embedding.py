"""Numbers of an embedding: exact against brute force, blind to rotations, and with the right limits."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from rl_contrastive.errors import RlcError
from rl_contrastive.features import embedding
from rl_contrastive.features.embedding import (
    alignment,
    describe,
    effective_rank,
    hardness_share,
    isotropy,
    mean_of,
    tolerance,
    uniformity,
)


def cloud(n: int = 37, d: int = 5, seed: int = 0) -> Any:
    return np.random.Generator(np.random.PCG64(seed)).normal(size=(n, d)) + 0.4


def brute(x: Any, latents: Any, tau: float) -> dict[str, float]:
    """Every pair by a loop."""
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    N = len(z)
    apart, cosines, same, shares = [], [], [], []
    for i in range(N):
        others = [j for j in range(N) if j != i]
        cosines += [float(z[i] @ z[j]) for j in others]
        apart += [math.exp(-2.0 * float(np.square(z[i] - z[j]).sum())) for j in others]
        same += [float(z[i] @ z[j]) for j in others if latents[i] == latents[j]]
        e = sorted((math.exp(float(z[i] @ z[j]) / tau) for j in others), reverse=True)
        shares.append(sum(e[: math.ceil(0.1 * (N - 1) - 1e-9)]) / sum(e))
    return {
        "uniformity": math.log(np.mean(apart)),
        "isotropy": 1.0 - float(np.mean(cosines)),
        "tolerance": float(np.mean(same)),
        "hardness": float(np.mean(shares)),
    }


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_blocks_equal_brute_force(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "BLOCK", block)
    x, latents = cloud(), np.arange(37) % 4
    found = describe(x, latents=latents, temperature=0.2)
    for name, value in brute(x, latents, 0.2).items():
        assert found[name] == pytest.approx(value, abs=1e-10), name


def test_hardness_by_hand() -> None:
    # Of an axis, the two negatives have cosines 1 and 0 at tau 1: the harder one takes e / (e + 1).
    x = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    expected = (2 * math.e / (math.e + 1) + 0.5) / 3
    assert hardness_share(x, 1.0) == pytest.approx(expected)
    # With keys, the positive of each anchor is left out: both negatives of the third one are alike.
    assert hardness_share(x, 1.0, keys=x) == pytest.approx(expected)
    assert hardness_share(x, 1e-4) == pytest.approx((1 + 1 + 0.5) / 3)


def test_hardness_falls_with_the_temperature() -> None:
    shares = [hardness_share(cloud(200), tau) for tau in (0.05, 0.1, 0.2, 0.5, 1.0)]
    assert all(a > b for a, b in itertools.pairwise(shares))


def test_alignment_by_hand() -> None:
    x = np.array([[2.0, 0.0], [0.0, 1.0]])
    assert alignment(x, 7.0 * x) == 0.0
    assert alignment(x, -x) == pytest.approx(4.0)
    assert alignment(x, x[::-1]) == pytest.approx(2.0)


def test_rank_by_hand() -> None:
    # Singular values 3 and 1: shares .75, .25 of the values, .9, .1 of their squares.
    x = np.diag([3.0, 1.0])
    assert effective_rank(x, squared=False) == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))
    assert effective_rank(x) == pytest.approx(math.exp(-(0.9 * math.log(0.9) + 0.1 * math.log(0.1))))


def test_a_rotation_and_positive_lengths_change_nothing() -> None:
    x, latents = cloud(), np.arange(37) % 3
    turn, _ = np.linalg.qr(cloud(5, 5, seed=1))
    before = describe(x, positives=x[::-1], latents=latents)
    after = describe(x @ turn, positives=x[::-1] @ turn, latents=latents)
    for name, value in before.items():
        assert after[name] == pytest.approx(value, abs=1e-10), name
    longer = x * np.linspace(0.1, 9.0, 37)[:, None]
    for name in ("uniformity", "isotropy", "hardness", "tolerance"):
        assert describe(longer, latents=latents)[name] == pytest.approx(before[name], abs=1e-10), name


@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300, 0.1])
def test_all_equal_is_collapse(scale: float) -> None:
    found = describe(np.full((25, 3), scale), positives=np.full((25, 3), scale), latents=np.zeros(25, dtype=np.int64))
    wanted = {"uniformity": 0, "isotropy": 0, "alignment": 0, "tolerance": 1, "rank": 1, "rank_centred": 0, "zero": 0}
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    assert found["hardness"] == pytest.approx(3 / 24)


def test_each_point_twice_keeps_what_is_a_mean() -> None:
    """Of 2N rows each has one more equal one: all sums over pairs follow from those of N rows."""
    x, N = cloud(), 37
    twice = np.concatenate([x, x])
    e = math.exp(uniformity(x)) * N * (N - 1)
    assert math.exp(uniformity(twice)) * 2 * N * (2 * N - 1) == pytest.approx(4 * e + 2 * N)
    assert effective_rank(twice) == pytest.approx(effective_rank(x))
    assert tolerance(twice, np.tile(np.arange(N), 2)) == pytest.approx(1.0)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_rows_never_give_nan(n: int) -> None:
    found = describe(cloud(n), positives=cloud(n, seed=2), latents=np.arange(n))
    assert all(math.isfinite(value) for value in found.values())
    assert ("uniformity" in found) == (n > 1)
    assert "tolerance" not in found


def test_zero_rows_are_counted_and_left_out() -> None:
    x = cloud()
    padded = np.concatenate([x, np.zeros((37, 5))])
    found = describe(padded, positives=padded[::-1])
    assert found["zero"] == 0.5
    assert found["uniformity"] == pytest.approx(uniformity(x))
    assert "alignment" not in found
    assert describe(np.zeros((4, 2))) == {"rows": 4.0, "zero": 1.0, "rank": 0.0, "rank_centred": 0.0}


def test_opposite_directions() -> None:
    x = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert isotropy(x) == pytest.approx(2.0)
    assert uniformity(x) == pytest.approx(-8.0)
    assert math.isfinite(uniformity(x, t=1e4))


def test_means_of_steps_are_weighted_by_rows() -> None:
    assert mean_of([{"rows": 1.0, "rank": 1.0}, {"rows": 3.0, "rank": 2.0, "tolerance": 0.5}]) == {
        "rows": 4.0,
        "rank": 1.75,
        "tolerance": 0.5,
    }


BAD: dict[str, Any] = {
    "shape": lambda: uniformity(np.ones(3)),
    "at least two rows": lambda: isotropy(np.ones((1, 3))),
    "NaN or infinite": lambda: describe(np.full((3, 2), np.nan)),
    "temperature": lambda: hardness_share(cloud(), 0.0),
    "hardest": lambda: hardness_share(cloud(), hardest=0.0),
    "positives have shape": lambda: alignment(cloud(), cloud(5)),
    "keys have shape": lambda: hardness_share(cloud(), keys=cloud(37, 4)),
    "latents have shape": lambda: tolerance(cloud(), np.zeros(3, dtype=np.int64)),
    "no direction": lambda: uniformity(np.zeros((3, 2))),
    "t must be > 0": lambda: uniformity(cloud(), t=-1.0),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_a_sentence(words: str) -> None:
    with pytest.raises(RlcError, match=words):
        BAD[words]()


def test_latents_of_another_length_are_one_sentence() -> None:
    for latents in (np.arange(4), np.arange(6), np.zeros((5, 1), dtype=int)):
        with pytest.raises(RlcError, match=r"latents have shape .*, expected \(5,\)"):
            describe(np.ones((5, 3)), latents=latents)
