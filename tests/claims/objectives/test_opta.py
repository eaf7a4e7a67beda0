"""OpTA: episodes, bars computed from numbers, a sabotaged transport, same seed same bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rl_contrastive.claims.base import Context
from rl_contrastive.claims.objectives import opta as claim

QUICK = claim.OptaClaimConfig.quick()
TINY = replace(QUICK, episodes=4)
NAMES = ("prototypes", *claim.METHODS, "queries of other classes")


def numbers(**gains: float) -> dict[str, dict[str, np.ndarray]]:
    base = {"1 pass": 0.1, "5 passes": 0.1, "estimated shares": 0.1, "relaxed shares": 0.1}
    balanced = {**base, "queries of other classes": -0.3, **gains}
    loss = {**base, "5 passes": -0.2, "estimated shares": -0.05, "relaxed shares": -0.1, **gains}
    out = {}
    for setting in claim.SETTINGS:
        gain = loss if setting == "unbalanced" else balanced
        out[setting] = {name: 0.7 + np.array([0.0, 0.02]) + gain.get(name, 0.0) for name in NAMES}
    return out


def test_bars_follow_the_numbers(tmp_path):
    report = claim.report(TINY, Context(tmp_path), numbers())
    assert report.holds
    assert report.bars[0].measured.startswith("0.100")
    found = claim.report(TINY, Context(tmp_path), numbers(**{"5 passes": 0.07})).bars
    assert [b.ok for b in found] == [False, False, False, False, True]
    found = claim.report(TINY, Context(tmp_path), numbers(**{"queries of other classes": 0.09})).bars
    assert [b.ok for b in found] == [True, True, True, True, False]


def test_episodes_have_disjoint_images_and_the_asked_counts():
    z, _ = claim.components(20)
    episodes = claim.draw_episodes(TINY, 3, 1, claim.UNBALANCED, 0.0)
    assert episodes.support.shape == (4, 5, 1, 20)
    assert episodes.query.shape == episodes.strange.shape == (4, 75, 20)
    assert torch.bincount(episodes.label).tolist() == list(claim.UNBALANCED)
    assert np.allclose(np.cov(z.T), np.diag(np.var(z, axis=0, ddof=1)), atol=1e-8)
    own = torch.cat([episodes.support.flatten(1, 2), episodes.query, episodes.strange], 1)
    assert float((torch.cdist(own, own) + 9 * torch.eye(155)).min()) > 1e-6


def test_the_shift_has_its_length_and_moves_queries_alone():
    plain = claim.draw_episodes(TINY, 3, 1, claim.BALANCED, 1e-9)
    moved = claim.draw_episodes(TINY, 3, 1, claim.BALANCED, 1.5)
    assert torch.equal(plain.support, moved.support)
    np.testing.assert_allclose((moved.query - plain.query).norm(dim=-1), 1.5, rtol=1e-4)


@pytest.mark.long
def test_same_seed_same_bytes(tmp_path):
    first, again = (claim.opta(TINY, Context(tmp_path)) for _ in range(2))
    assert str(first.numbers) == str(again.numbers)


@pytest.mark.long
def test_quick_gains_but_not_with_a_sabotaged_transport(tmp_path, monkeypatch):
    report = claim.opta(QUICK, Context(tmp_path))
    one = report.numbers["one shot"]  # 80 episodes say less than 1000: its bar is for the full size
    assert (one["5 passes"] - one["prototypes"]).mean() > 0.05
    assert all(bar.ok for bar in report.bars[1:]), report.bars
    assert (tmp_path / report.plots[0]).read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(claim, "OpTA", lambda kind: lambda support, query: support)
    assert [b.ok for b in claim.opta(QUICK, Context(tmp_path)).bars] == [False] * 4 + [True]
