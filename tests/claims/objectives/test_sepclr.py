"""SepCLR: mixed images, bars from numbers, a sabotaged joint entropy, same seed same bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rl_contrastive.claims.base import Context
from rl_contrastive.claims.objectives import sepclr as claim
from rl_contrastive.claims.objectives.digits import split_digits
from rl_contrastive.claims.stacked import generators
from rl_contrastive.objectives import separated

QUICK = claim.SepclrClaimConfig.quick()
TINY = replace(QUICK, steps=2, batch=16, hidden=16, common=4)


def numbers(variant: str = "", **values: float) -> dict[str, dict[str, np.ndarray]]:
    row = {"common->c": 0.8, "common->k": 0.45, "salient->c": 0.7, "salient->k": 0.75}
    row |= {"background": 0.1, "target": 3.0}
    own = {
        claim.FULL: row,
        claim.NO_ENTROPY: {**row, "common->k": 0.75},
        claim.STRANGE: {**row, "common->k": 0.74},
        claim.NO_PULL: {**row, "background": 2.0},
    }
    out = {}
    for name, given in own.items():
        both = {**given, **(values if name == variant else {})}
        out[name] = {k if "->" in k else f"|s| {k}": np.array([v, v * 1.01]) for k, v in both.items()}
    return out


def test_bars_follow_the_numbers(tmp_path):
    def failed(found: dict[str, dict[str, np.ndarray]]) -> list[int]:
        return [i for i, bar in enumerate(claim.report(TINY, Context(tmp_path), found).bars) if not bar.ok]

    assert failed(numbers()) == []
    assert failed(numbers(claim.FULL, **{"common->k": 0.6})) == [0]
    assert failed(numbers(claim.FULL, **{"salient->k": 0.6})) == [1]
    assert failed(numbers(claim.FULL, background=0.5)) == [2]
    assert failed(numbers(claim.STRANGE, **{"common->k": 0.5})) == [3]
    assert failed(numbers(claim.NO_PULL, background=0.2)) == [4]


def test_a_target_is_two_digits_of_which_one_is_rotated():
    data, rngs = split_digits((1, 2)), generators((1, 2), 0)
    rotation = torch.stack([torch.linalg.qr(torch.randn(64, 64, generator=rng))[0] for rng in rngs])
    mixed = claim.add_second(data.x, data.y, rotation, rngs)
    second = (mixed.x - data.x) @ rotation.mT
    assert torch.equal(mixed.c, data.y)
    assert int(mixed.k.max()) == 4
    distance, where = torch.cdist(second[:, :50], data.x).min(-1)
    assert float(distance.max()) < 1e-2
    assert torch.equal(data.y.gather(1, where), mixed.k[:, :50])


@pytest.mark.long
def test_same_seed_same_bytes(tmp_path):
    first, again = (claim.sepclr(TINY, Context(tmp_path)) for _ in range(2))
    assert str(first.numbers) == str(again.numbers)


def test_the_control_pairs_c_with_another_s():
    z = torch.randn(2, 2, 8, 6, generator=torch.Generator().manual_seed(0))
    group = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1]).expand(2, -1)
    views = claim.Views(z, group=group)
    config = claim.SepCLRConfig(common=3, salient=1.0, empty=1.0)
    full, strange, none = (
        kind(claim.replace(config, independent=lam))(views).loss
        for kind, lam in ((claim.SepCLR, 10.0), (claim.StrangeEntropy, 10.0), (claim.StrangeEntropy, 0.0))
    )
    assert not torch.allclose(full, strange)
    assert torch.allclose(none, claim.SepCLR(claim.replace(config, independent=0.0))(views).loss)


@pytest.mark.long
def test_quick_holds_but_not_with_a_sabotaged_entropy(tmp_path, monkeypatch):
    report = claim.sepclr(QUICK, Context(tmp_path))
    assert all(bar.ok for bar in report.bars), report.bars
    assert (tmp_path / report.plots[0]).read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(separated, "joint_entropy", lambda c, s, w, tau: torch.zeros_like(w))
    assert not claim.sepclr(QUICK, Context(tmp_path)).bars[0].ok
