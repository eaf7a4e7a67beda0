"""SRA-CL's claim: semantics, copies and neighbours by hand, bars from the numbers, the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rl_contrastive.analysis.figures import rng_of
from rl_contrastive.claims.base import Context
from rl_contrastive.claims.objectives import sra_cl as claim
from rl_contrastive.claims.objectives import trajectories as world_of
from rl_contrastive.claims.runner import run_claims
from rl_contrastive.objectives.samplers import SemanticConfig, SemanticNeighbours

SMALL = world_of.WorldConfig(trajectories=80, fresh=50, batches=4, batch=16)
TINY = claim.SRAClaimConfig(world=SMALL, settings=(claim.HERE,), seeds=(500, 501))


def test_clear_semantics_are_the_type():
    kind = np.array([3, 0, 7])
    np.testing.assert_array_equal(claim.semantic_of(TINY, kind, 0.0, rng=rng_of(0)).argmax(axis=1), kind)


def test_copies_replace_a_share_by_neighbours_alone():
    states, near = rng_of(0).integers(20, size=(200, 10)), (np.arange(20)[:, None] + [100, 200])
    copy = claim.copies(states, near, 0.2, rng=rng_of(1))
    changed = copy != states
    assert abs(changed.mean() - 0.2) < 0.03
    assert np.isin(copy[changed] - states[changed], (100, 200)).all()
    np.testing.assert_array_equal(claim.copies(states, near, 0.0, rng=rng_of(1)), states)


@pytest.mark.parametrize("method", [claim.RANDOM, claim.LEARNED, claim.MEAN, claim.SRA])
def test_no_method_takes_a_trajectory_for_its_own_neighbour(method):
    world = world_of.draw_world(SMALL, 0)
    z = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    semantic = claim.semantic_of(TINY, world.kind, 0.0, rng=rng_of(0))
    attention = SemanticNeighbours(semantic, SemanticConfig(10), rng=torch.Generator().manual_seed(0))
    index = np.arange(0, 80, 5)
    found, weight = claim.neighbours(TINY, method, index, attention, z, rng_of(0))
    assert found.shape == tuple(weight.shape) == (16, 10)
    assert (found != index[:, None]).all()
    if method in (claim.MEAN, claim.SRA):  # clear semantics: the type, as far as there are enough of it
        few = np.bincount(world.kind)[world.kind[index]] > 10
        assert (world.kind[found] == world.kind[index, None])[few].all()


def test_bars_and_controls_come_from_the_numbers(tmp_path, monkeypatch):
    def bars(shares, name):
        def fit(config, task):
            return {"hit": [0.3] * 2, "rank": [5.0] * 2, "share": [shares.get(task.method, 0.125)] * 2}

        monkeypatch.setattr(claim, "fit", fit)
        return [(bar.met, bar.ok) for bar in claim.sra_cl(TINY, Context(tmp_path / name)).bars]

    assert bars({claim.SRA: 0.4}, "held") == [(True, True), (False, True)]
    assert bars({claim.SRA: 0.3}, "missed") == [(False, False), (False, True)]
    assert bars({claim.SRA: 0.4, claim.SHUFFLED: 0.4}, "control")[1] == (True, False)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    written = []
    for name in ("one", "two"):
        (report,) = run_claims(["objectives/sra-cl"], out=tmp_path / name, config=TINY)
        folder = tmp_path / name / "objectives/sra-cl"
        written.append([(folder / file).read_bytes() for file in ("report.json", "report.md", "sra-cl.png")])
    assert written[0] == written[1]
    assert "share" not in report.numbers[claim.HERE][claim.MAIN]


@pytest.mark.long
def test_the_claim_holds_in_quick_size(tmp_path):
    (report,) = run_claims(["objectives/sra-cl"], out=tmp_path, quick=True)
    assert report.holds, report.bars
