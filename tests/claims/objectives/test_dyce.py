"""DyCE: bars computed from numbers, the share of right positives, a sabotaged memory, same seed same bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rl_contrastive.claims.base import Context
from rl_contrastive.claims.objectives import dyce as claim

QUICK = claim.DyceClaimConfig.quick()
TINY = replace(QUICK, latents=5, items=20, prototypes=4, scale=8, k=3, batch=16, steps=8)


def numbers(**values: float) -> dict[str, np.ndarray]:
    base = {claim.TOP: 0.7, claim.OURS: 0.8, claim.PUBLISHED: 0.3, **values}
    return {name: np.array([v, v + 0.01]) for name, v in base.items()}


PURE = {method: np.array([0.8, 0.9]) for method in claim.METHODS}
SHOT = {method: np.array([0.5, 0.6]) for method in claim.METHODS}


def test_bars_follow_the_numbers(tmp_path):
    report = claim.report(TINY, Context(tmp_path), numbers(), SHOT, PURE)
    assert report.holds
    assert report.bars[0].measured.startswith("0.100")
    worse = claim.report(TINY, Context(tmp_path), numbers(**{claim.OURS: 0.74}), SHOT, PURE)
    assert [b.ok for b in worse.bars] == [False, True]
    blind = claim.report(TINY, Context(tmp_path), numbers(**{claim.PUBLISHED: 0.8}), SHOT, PURE)
    assert [b.ok for b in blind.bars] == [True, False]


def test_the_share_counts_members_of_the_own_latent():
    study = claim.Study(replace(TINY, spread=1e-3, noise=1e-3, batch=32), claim.TOP)
    study.fit()  # items of a latent are one point: an untrained encoder finds them, up to 3 copies in a memory of 32
    assert all(0.6 < share.min() <= 1.0 for share in study.right)
    study.x = study.x.flip(1)
    assert study.one_shot().min() > 0.9


def test_no_memory_adds_nothing():
    study = claim.Study(TINY, claim.NONE)
    study.fit()
    assert study.right == []
    assert study.memories[0].total == 0


def test_same_seed_same_bytes(tmp_path):
    first, again = (claim.dyce(TINY, Context(tmp_path)) for _ in range(2))
    assert str(first.numbers) == str(again.numbers)


def test_partitions_of_one_latent_each_are_pure():
    study = claim.Study(TINY, claim.OURS)
    for memory in study.memories:
        memory.index = np.arange(memory.capacity) % 4 * TINY.items
        memory.label = np.arange(memory.capacity) % 4
    assert study.purity().tolist() == [1.0, 1.0]
    study.memories[0].label = study.memories[0].label // 2
    assert study.purity().tolist() == [0.5, 1.0]


@pytest.mark.long
def test_quick_is_measured_and_its_control_fails(tmp_path):
    report = claim.dyce(QUICK, Context(tmp_path))
    assert report.bars[1].ok, report.bars
    assert (tmp_path / report.plots[0]).read_bytes().startswith(b"\x89PNG")
