"""contrastive-frontier: who acts how at which step, what is stored, and the plan it draws from the table."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from agents_common import batches, uniform

from rl_contrastive.agents.contrastive_frontier import ContrastiveFrontier, FrontierConfig, PCAFrontierConfig
from rl_contrastive.errors import RlcError
from rl_contrastive.planning.frontier import plan_frontier
from rl_contrastive.registry import get

SMALL = {"num_states": 6, "num_actions": 3, "horizon": 4, "rank": 2}
LOCK = {"horizon": 4, "num_actions": 4}


# Who acts how.


def test_the_warm_start_is_uniform_and_stored_whole(make_agent):
    agent = make_agent("contrastive-frontier", "low-rank", env=SMALL, batch=100, warm_start=300, tail=1000)
    actions = []
    batches(agent, 0, 3, lambda step: actions.append(step.action))
    assert agent.episodes == 300
    assert agent.table.rows().tolist() == [300] * 4
    assert uniform(np.concatenate(actions), 3)
    agent.begin(100)
    assert (agent._switch == 4).all()  # the warm start is over


def test_warm_start_without_a_tail_stores_its_first_steps_only(make_agent):
    agent = make_agent("contrastive-frontier", "low-rank", env=SMALL, batch=10, warm_start=30, tail=0)
    batches(agent, 0, 3)
    assert agent.table.rows().tolist() == [30, 30, 0, 0]


def test_the_tail_stops_at_its_bound(make_agent):
    """All uniform steps are kept while a step has fewer rows than `tail`, here until 20 after two batches of 10."""
    agent = make_agent("contrastive-frontier", "low-rank", env=SMALL, batch=10, warm_start=50, tail=20)
    batches(agent, 0, 5)
    assert agent.table.rows().tolist() == [50, 50, 20, 20]


@pytest.mark.parametrize("uniform_steps", [1, 2, 3])
def test_roll_in_then_uniform_from_the_frontier_on_and_only_those_are_stored(uniform_steps, make_agent):
    """Row by row against the plan: argmax of what is reachable up to the first frontier state, uniform afterwards."""
    fields = {"batch": 200, "warm_start": 200, "tail": 0, "uniform_steps": uniform_steps}
    agent = make_agent("contrastive-frontier", "combination-lock", env=LOCK, **fields)
    for _ in range(2):
        batches(agent, agent.version, 1)
    switched, free, stored, way = np.full(200, 4), [], np.zeros(4, dtype=int), 0

    def check(step):
        nonlocal way
        h, z = step.h, agent.table.label(step.h, step.obs)
        at_frontier = agent.plan.bonus[h, z].max(axis=1) >= agent.plan.reachable[h, z].max(axis=1)
        switched[(switched > h) & at_frontier] = h
        going = switched > h
        way += going.sum()
        np.testing.assert_array_equal(step.action[going], agent.plan.reachable[h, z].argmax(axis=1)[going])
        free.append(step.action[~going])
        stored[h] += ((switched <= h) & (h < switched + uniform_steps)).sum()

    before = agent.table.rows().copy()
    for _ in range(8):
        switched[:] = 4
        batches(agent, agent.version, 1, check)
        np.testing.assert_array_equal(agent._switch, switched)
    np.testing.assert_array_equal(agent.table.rows() - before, stored)
    assert way > 100  # some rows did walk
    assert uniform(np.concatenate(free), 4)


def test_the_last_step_is_a_frontier_for_whoever_gets_there(make_agent):
    """E_H = 0, so nothing lies ahead of h = H - 1: every episode ends with a uniform action at the latest."""
    agent = make_agent("contrastive-frontier", "low-rank", env=SMALL)
    batches(agent, 0, 10)
    assert (agent.plan.frontier()[-1] == 1).all()
    assert (agent._switch < 4).all()


# The plan.


@pytest.mark.parametrize(("name", "env"), [("low-rank", SMALL), ("combination-lock", LOCK), ("probe-terminal", {})])
def test_the_plan_is_that_of_the_tables_counts(name, env, make_agent):
    """P-hat(s'|s,a) = N(s,a,s') alive(s') / N(s,a), rows of pairs without data 0."""
    agent = make_agent("contrastive-frontier", name, env=env)
    batches(agent, 0, 6)
    M = agent.table.counts.dense()
    N = M.sum(axis=3)
    P = np.zeros_like(M)
    for index in np.argwhere(N > 0):
        h, s, a = index
        P[h, s, a] = M[h, s, a] / N[h, s, a] * agent.table.alive[h]
    expected = plan_frontier(P, agent.table.reward, N)
    for field in ("bonus", "reachable", "E", "Q"):
        np.testing.assert_allclose(getattr(agent.plan, field), getattr(expected, field), atol=1e-12)


def test_policies_are_greedy_in_q_and_in_what_is_reachable(make_agent):
    agent = make_agent("contrastive-frontier", "low-rank", env=SMALL)
    batches(agent, 0, 5)
    states = np.arange(6)
    for h in range(4):
        for explore, values in ((False, agent.plan.Q), (True, agent.plan.reachable)):
            pi = agent.policy(states, h, explore=explore)
            np.testing.assert_array_equal(pi.sum(axis=1), np.ones(6))
            np.testing.assert_array_equal(pi.argmax(axis=1), values[h].argmax(axis=1))


def test_scalars_and_versions(make_agent):
    agent = make_agent("contrastive-frontier", "low-rank", env=SMALL)
    agent.begin(agent.batch)
    assert agent.update().keys() == {"frontier", "largest_uncertainty", "rows"}
    batches(agent, 0, 3)
    assert agent.version == 4
    report = agent.update()
    assert 0 < report["largest_uncertainty"] <= 1
    assert report["rows"] == agent.table.rows().sum()


def test_uncertainty_falls_as_data_come_in(make_agent):
    agent = make_agent("contrastive-frontier", "low-rank", env=SMALL)
    seen = []
    for k in range(0, 40, 10):
        batches(agent, k, 10)
        seen.append(agent.plan.E[0].max())
    assert seen[0] > 1.5 * seen[-1]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(seen))


def test_the_ring_keeps_the_newest_rows(make_agent):
    agent = make_agent("contrastive-frontier", "combination-lock", env=LOCK, capacity=60)
    batches(agent, 0, 4)
    assert agent.table.counts.total().max() == 60


# Variants, state, configs.


def test_pca_frontier_is_the_same_agent_with_other_directions(make_agent):
    pca = make_agent("pca-frontier", "combination-lock", seed=10, env=LOCK)
    decoder = {"directions": "pca", "backward": 1}  # three principal directions, the control's default
    same = make_agent("contrastive-frontier", "combination-lock", seed=10, env=LOCK, decoder=decoder)
    other = make_agent("contrastive-frontier", "combination-lock", seed=10, env=LOCK)
    assert isinstance(pca, ContrastiveFrontier)
    assert isinstance(get("agent", "pca-frontier")[0].config(), PCAFrontierConfig)
    for agent in (pca, same, other):
        batches(agent, 0, 6)
    np.testing.assert_array_equal(pca.plan.Q, same.plan.Q)
    assert not np.array_equal(pca.table.decoder.W, other.table.decoder.W)


def test_a_restored_agent_has_the_plan_of_the_saved_one(make_agent):
    first, second = (make_agent("contrastive-frontier", "combination-lock", seed=10, env=LOCK) for _ in range(2))
    batches(first, 0, 5)
    second.load_state_dict(first.state_dict())
    for field in ("bonus", "reachable", "E", "Q"):
        np.testing.assert_array_equal(getattr(first.plan, field), getattr(second.plan, field))
    for agent in (first, second):
        batches(agent, 5, 2)
    np.testing.assert_array_equal(first.plan.Q, second.plan.Q)
    np.testing.assert_array_equal(first.table.M, second.table.M)


@pytest.mark.parametrize("key", ["episodes", "version", "rng", "table"])
def test_a_state_with_a_hole_is_refused(key, make_agent):
    agent = make_agent("contrastive-frontier", "low-rank", env=SMALL)
    state = agent.state_dict()
    with pytest.raises(RlcError, match=f"lacks '{key}'"):
        agent.load_state_dict({k: v for k, v in state.items() if k != key})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch", 0),
        ("warm_start", 0),
        ("capacity", 9),
        ("tail", -1),
        ("uniform_steps", 0),
        ("growth", 0.0),
        ("growth", float("inf")),
    ],
)
def test_bad_configs_are_refused(field, value):
    for config in (FrontierConfig, PCAFrontierConfig):
        with pytest.raises(RlcError, match=f"frontier: {field} must be"):
            config(**{field: value})
