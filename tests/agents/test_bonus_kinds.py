"""Every kind of bonus in the deep agent: resumed to the bit, counted right beyond the replay, and worth its name."""

from __future__ import annotations

import numpy as np
import pytest
from agents_common import batches, same
from deep_common import LEARNER, resumes, sea

from rl_contrastive import registry
from rl_contrastive.config import from_dict, to_dict
from rl_contrastive.deep.bonus_config import KINDS
from rl_contrastive.errors import RlcError

VARIANTS = [
    *({"kind": kind} for kind in KINDS),
    {"kind": "ours-arrival", "gate": "cells", "rho": 0.5, "unit": True},
    {"kind": "ours-arrival", "gate": "ellipse", "lifelong": "ellipse", "difference": 0.1},
    {"kind": "ours-both", "gate": "tried", "unit": True, "past": 10},
    {"kind": "ours-arrival", "past": 10, "features": "drawn"},
    {"kind": "rnd", "gate": "tried", "unit": True},
    {"kind": "rnd", "gate": "tried", "same": "features"},
    {"kind": "ours-arrival", "same": "features", "past": 10},
    {"kind": "none"},
]


@pytest.mark.parametrize("bonus", VARIANTS, ids=str)
def test_it_resumes_to_the_bit(bonus: dict, tmp_path) -> None:
    """Kept in the state, and kept in a folder; the replay was overwritten before."""
    resumes(lambda: sea(bonus), tmp_path)


@pytest.mark.parametrize("bonus", [{"kind": "ours-arrival"}, {"kind": "ours-both"}], ids=str)
def test_every_observation_is_counted_once_in_the_replay_or_outside(bonus: dict) -> None:
    """16 batches of two episodes of six steps show 16 x 2 x 7 observations, of which 120 are still there."""
    agent = sea(bonus, growth=0.01)
    batches(agent, 0, 16)
    part = agent.bonus.arrival if bonus["kind"] == "ours-both" else agent.bonus
    counts = part.lifelong.counts
    assert agent.replay.ring.total == 16 * 2 * 7 == counts.visits
    per_tiling = counts.counts.reshape(counts.tiles.tilings, -1).sum(axis=1)
    np.testing.assert_allclose(per_tiling, 224.0)
    assert agent.bonus.visits == agent.steps == 192
    assert agent.past.visits == 224 - 120


def test_more_observations_than_steps_may_have_left_the_replay() -> None:
    """An episode of two steps shows three observations."""
    agent = sea({"kind": "ours-arrival"}, size=2)
    batches(agent, 0, 100)
    assert agent.past.visits > agent.bonus.visits == agent.steps
    assert agent.rebuilt_at > 0.8 * agent.steps


def test_what_is_paid_on_arrival_is_in_g_from_the_first_step_and_never_added_in_acting() -> None:
    for kind in ("ours-arrival", "ours-both"):
        agent = sea({"kind": kind}, capacity=500, epsilon=0.0)
        batches(agent, 0, 12)
        batch = agent.replay.sample(64, rng=np.random.default_rng(0))
        _, numbers = agent.learner.returns.of(batch, agent.replay, agent.bonus)
        whole = agent.bonus.taken(batch.steps, agent.replay.actions(batch.steps))
        if kind == "ours-both":
            whole[:, 0] -= agent.bonus.pair.taken(batch.index, batch.action)
        expected = [sum(0.99**k * whole[i, k] for k in range(int(batch.mask[i].sum()))) for i in range(64)]
        np.testing.assert_allclose(numbers[:, 1] - numbers[:, 0], expected, rtol=1e-4, atol=1e-6)
        assert agent.bonus.at(batch.end).any() == (kind == "ours-both")
        assert (np.array(expected) > 0).any()


def test_rnd_dqn_is_a_configuration() -> None:
    learner = {**LEARNER, "representation": {}, "feature_encoder": {}, "learn_features": False}
    options = {"beta": 0.3, "epsilon": 0.2, "learner": learner, "growth": 0.2}
    one = sea({}, agent="rnd-dqn", **options)
    other = sea({"kind": "rnd"}, **options)
    for agent in (one, other):
        batches(agent, 0, 10)
    assert same(one.state_dict(), other.state_dict())
    # An older run folder names the width that was usual.
    entry, _ = registry.get("agent", "rnd-dqn")
    from_dict(entry.config, {"bonus": {**to_dict(entry.config().bonus), "width": 1.0}})
    with pytest.raises(RlcError, match="bonus is of no use here"):
        from_dict(entry.config, {"bonus": {"kind": "noveld"}})


def test_unit_scale_makes_the_deviation_of_the_bonus_beta() -> None:
    """Within an episode's changes: b over all visits as they came, against its recorded deviation."""
    agent, seen = sea({"kind": "counts", "unit": True}, beta=0.05, capacity=500), []
    watch = agent.bonus.inner.watch

    def spy(step):
        watch(step)
        seen.append(agent.bonus.inner.taken(step.index, step.action))

    agent.bonus.inner.watch = spy
    batches(agent, 0, 10)
    assert agent.update()["bonus_spread"] == pytest.approx(np.std(np.concatenate(seen)), rel=1e-9)
