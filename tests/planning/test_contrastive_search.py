"""Contrastive search against loops over actions and history, its limits, and sentences for what it cannot take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rl_contrastive.errors import RlcError
from rl_contrastive.planning.contrastive_search import contrastive_scores, contrastive_search, isotropy


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def one(p: np.ndarray, h: np.ndarray, past: list[np.ndarray], alpha: float, k: int) -> int:
    """The best action by the formula, one row."""
    top = sorted(range(len(p)), key=lambda v: (-p[v], v))[:k]

    def score(v: int) -> float:
        return (1 - alpha) * p[v] - alpha * max((cosine(h[v], x) for x in past), default=0.0)

    return max(sorted(top), key=score)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("k", [1, 3, 9])
def test_it_is_the_formula(alpha: float, k: int) -> None:
    rng = np.random.default_rng(0)
    N, A, T, d = 40, 5, 6, 3
    p, h = rng.dirichlet(np.ones(A), size=N), rng.normal(size=(N, A, d))
    past, known = rng.normal(size=(N, T, d)), rng.random((N, T)) < 0.5
    known[:3] = False  # an episode that begins
    found = contrastive_search(p, h, past, alpha=alpha, k=k, known=known)
    expected = [one(p[n], h[n], list(past[n, known[n]]), alpha, k) for n in range(N)]
    assert found.tolist() == expected
    scores = contrastive_scores(p, h, past, alpha=alpha, k=k, known=known)
    assert (np.isfinite(scores).sum(axis=1) == min(k, A)).all()


def test_without_a_history_it_is_the_most_probable_and_with_one_it_leaves_it() -> None:
    p, h = np.array([[0.6, 0.4, 0.0]]), np.eye(3)[None]
    assert contrastive_search(p, h, np.zeros((1, 0, 3)), alpha=0.6, k=2) == [0]
    assert contrastive_search(p, h, np.eye(3)[None, :1], alpha=0.6, k=2) == [1]
    assert contrastive_search(p, h, np.eye(3)[None, :1], alpha=0.1, k=2) == [0]  # .54 - .1 > .36
    # The third is never among the two most probable, though all else was seen.
    assert contrastive_search(p, h, np.eye(3)[None, :2], alpha=1.0, k=2) == [0]


def test_only_directions_count_and_a_zero_vector_has_none() -> None:
    p, h = np.array([[0.5, 0.5]]), np.array([[[1.0, 0.0], [0.0, 1.0]]])
    past = np.array([[[1.0, 0.5]]])
    sizes = [contrastive_scores(p, a * h, b * past, alpha=0.5, k=2) for a, b in ((1, 1), (1e200, 1e-200), (3, 1e300))]
    for other in sizes[1:]:
        np.testing.assert_allclose(other, sizes[0], rtol=1e-12)
    np.testing.assert_allclose(contrastive_scores(p, 0 * h, past, alpha=0.5, k=2), [[0.25, 0.25]])


def test_isotropy_is_one_minus_the_mean_cosine() -> None:
    x = np.random.default_rng(1).normal(size=(3, 5, 4))
    pairs = [cosine(s[i], s[j]) for s in x for i in range(5) for j in range(5) if i != j]
    assert isotropy(x) == pytest.approx(1 - np.mean(pairs))
    assert isotropy(x[0]) == pytest.approx(isotropy(x[:1]))
    assert isotropy(np.eye(4)) == pytest.approx(1.0)
    assert isotropy(np.ones((4, 2))) == pytest.approx(0.0)


GOOD: dict[str, Any] = {
    "probabilities": np.full((2, 3), 1 / 3),
    "features": np.ones((2, 3, 4)),
    "history": np.ones((2, 5, 4)),
    "alpha": 0.5,
    "k": 2,
}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"alpha": 1.5}, r"alpha must lie in \[0, 1\], got 1.5"),
        ({"alpha": float("nan")}, "alpha must lie in"),
        ({"k": 0}, "k must be >= 1, got 0"),
        ({"probabilities": np.ones(3)}, r"probabilities must be \(N, A\)"),
        ({"probabilities": -np.ones((2, 3))}, "probabilities must be >= 0"),
        ({"features": np.ones((2, 4, 4))}, r"features must be \(N, A, d\)"),
        ({"features": np.full((2, 3, 4), np.nan)}, "must be finite"),
        ({"history": np.ones((2, 5, 3))}, r"history must be \(N, T, d\) with N = 2 and d = 4"),
        ({"known": np.ones((2, 4), dtype=bool)}, r"known must be \(2, 5\)"),
    ],
)
def test_bad_input_is_a_sentence(bad: dict[str, Any], words: str) -> None:
    with pytest.raises(RlcError, match=words):
        contrastive_search(**{**GOOD, **bad})
    contrastive_search(**GOOD)
    for few in (np.ones((1, 4)), np.ones(3), np.full((3, 2), np.inf)):
        with pytest.raises(RlcError, match="isotropy"):
            isotropy(few)
