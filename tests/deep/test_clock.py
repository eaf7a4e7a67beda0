"""The step h beside the observation: by hand, in the replay, and refused where there is no place for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from agents_common import batches

from rl_contrastive import registry
from rl_contrastive.config import from_dict
from rl_contrastive.deep.clock import Clock
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import EnvSpec, Transition

STATES = EnvSpec("states", num_actions=2, horizon=3, obs_shape=(), obs_dtype="int64", num_states=5)
VECTORS = EnvSpec("vectors", num_actions=2, horizon=4, obs_shape=(2,), obs_dtype="float32")


def step_of(obs, next_obs, h: int) -> Transition:
    n = len(obs)
    rest = {"reward": np.zeros(n), "discount": np.ones(n), "boundary": np.zeros(n, bool), "alive": np.ones(n, bool)}
    return Transition(h, obs, np.zeros(n, np.int64), next_obs=next_obs, **rest)


def test_each_step_has_states_of_its_own():
    clock = Clock(STATES)
    assert (clock.spec.num_states, clock.spec.obs_shape, clock.spec.horizon) == (20, (), 3)
    np.testing.assert_array_equal(clock.show(np.array([0, 4]), 2), [10, 14])
    step = clock.timed(step_of(np.array([1, 2]), np.array([3, 4]), h=2))
    np.testing.assert_array_equal(step.obs, [11, 12])
    np.testing.assert_array_equal(step.next_obs, [18, 19])  # h = H: the last of the (H + 1) S
    shown = np.concatenate([clock.show(np.arange(5), h) for h in range(4)])
    np.testing.assert_array_equal(shown, np.arange(20))


def test_vectors_get_one_more_number():
    clock = Clock(VECTORS)
    assert clock.spec == replace(VECTORS, obs_shape=(3,))
    obs = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
    step = clock.timed(step_of(obs, 10 * obs, h=1))
    np.testing.assert_array_equal(step.obs, [[1, 2, 0.25], [3, 4, 0.25]])
    np.testing.assert_array_equal(step.next_obs, [[10, 20, 0.5], [30, 40, 0.5]])
    assert step.obs.dtype == np.float32


@pytest.mark.parametrize("changes", [{"obs_shape": (10, 10)}, {"obs_dtype": "uint8"}, {"obs_shape": ()}])
def test_what_cannot_carry_it_is_refused(changes):
    with pytest.raises(RlcError, match="only state indices and vectors of floats"):
        Clock(replace(VECTORS, **changes))


@pytest.mark.parametrize("name", ["contrastive-ucb-deep", "rnd-dqn"])
def test_agents_store_it_act_on_it_and_are_judged_with_it(name):
    entry, _ = registry.get("agent", name)
    env_entry, _ = registry.get("env", "low-rank")
    small = {"batch": 2, "warm_start": 6, "capacity": 200, "clock": True, "learner": {"batch_size": 4}}
    law = {"num_states": 6, "num_actions": 3, "horizon": 3, "rank": 2}
    agent = entry.factory(
        env_entry.factory(from_dict(env_entry.config, law), 2), from_dict(entry.config, small), seed=0
    )
    batches(agent, 0, 10)
    kept = agent.replay.ring.obs[: 10 * 2 * 4].ravel()  # 20 episodes of 4 observations
    np.testing.assert_array_equal(np.bincount(kept // 6), [20, 20, 20, 20])
    policies = [agent.policy(np.arange(6), h) for h in range(3)]
    assert any((policies[0] != later).any() for later in policies[1:])  # another one at each step


def test_with_a_memory_of_the_episode_it_is_refused():
    entry, _ = registry.get("agent", "contrastive-ucb-deep")
    with pytest.raises(RlcError, match="clock and episodic exclude each other"):
        from_dict(entry.config, {"clock": True, "episodic": True})
