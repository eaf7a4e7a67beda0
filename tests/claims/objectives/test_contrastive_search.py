"""Contrastive search on the grid: worlds by hand, the bar against sabotaged selectors, the same bytes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rl_contrastive.analysis.figures import rng_of
from rl_contrastive.claims.base import Context
from rl_contrastive.claims.objectives import contrastive_search as claim
from rl_contrastive.claims.runner import run_claims
from rl_contrastive.errors import RlcError

TINY = dataclasses.replace(claim.SearchConfig.quick(), other_widths=(), episodes=40, seeds=(500,))


def test_a_cell_leads_to_its_neighbours_and_a_wall_stays():
    worlds = claim.draw_worlds(claim.SearchConfig(size=3, noise=0.0, lean=1.0), 2, rng=rng_of(0))
    np.testing.assert_array_equal(worlds.next_cell[0], [1, 0, 3, 0])  # right, left (wall), down, up (wall)
    np.testing.assert_array_equal(worlds.next_cell[4], [5, 3, 7, 1])
    e = np.exp([1.0, -1.0, 1.0, -1.0])
    np.testing.assert_allclose(worlds.policy[0, 4], e / e.sum())
    np.testing.assert_allclose(worlds.policy[1, 8, 0], 1.0 / (2.0 + 2.0 * np.exp(-1.0)))  # a wall gains 0


def test_features_of_cells_have_the_cosine_of_their_distance():
    F = claim.bumps(10, 1.5)
    u = F / np.linalg.norm(F, axis=1, keepdims=True)
    assert u[44] @ u[45] == pytest.approx(np.exp(-1.0 / (2 * 1.5**2)), abs=1e-3)
    assert u[44] @ u[99] == pytest.approx(np.exp(-50.0 / (2 * 1.5**2)), abs=1e-3)


def test_play_by_hand():
    config = claim.SearchConfig(size=3, steps=6, k=1, noise=0.0, lean=3.0)
    worlds = claim.draw_worlds(config, 3, rng=rng_of(0))
    reached, cells = claim.play(worlds, claim.bumps(3, 1.0), config, claim.GREEDY, 0.0, rng=rng_of(1))
    assert reached.all()  # always the first of the best moves: right, right, down, down
    np.testing.assert_array_equal(cells, 5)


def test_the_claim_holds_in_quick_size(tmp_path):
    (report,) = run_claims(["objectives/contrastive-search"], out=tmp_path, quick=True)
    assert report.holds, report.bars
    reached = {m: x["reached"].sum() for m, x in report.numbers["cells"].items()}
    ratio = reached["contrastive search @ 0.9"] / reached["random penalty @ 0.9"]
    assert report.numbers["ratio"] == pytest.approx(ratio)
    assert f"{ratio:.2f} x" in report.bars[0].measured
    assert (tmp_path / "objectives/contrastive-search/contrastive-search.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    written = []
    for name in ("one", "two"):
        run_claims(["objectives/contrastive-search"], out=tmp_path / name, config=TINY)
        folder = tmp_path / name / "objectives/contrastive-search"
        written.append(
            [(folder / file).read_bytes() for file in ("report.json", "report.md", "contrastive-search.png")]
        )
    assert written[0] == written[1]


def test_a_selector_without_its_penalty_misses_the_bar(tmp_path, monkeypatch):
    def greedy(p, features, history, *, alpha, k):
        return p.argmax(axis=1)

    monkeypatch.setattr(claim, "contrastive_search", greedy)
    report = claim.contrastive_search_grid(TINY, Context(tmp_path))
    assert not report.bars[0].met
    assert not report.holds


def test_a_past_that_is_its_own_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(claim.np, "roll", lambda x, *args, **options: x)  # the control now works: it must be reported
    report = claim.contrastive_search_grid(TINY, Context(tmp_path))
    assert not report.bars[-1].ok


def test_the_bar_needs_its_alphas():
    with pytest.raises(RlcError, match="bar_alpha"):
        claim.SearchConfig(alphas=(0.3, 0.6))
