"""Promise P6: a terminal is not a truncation, under every autoreset mode, from the environment to the agent's data."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rl_contrastive.config import from_dict
from rl_contrastive.envs.adapters.gym_adapter import GymConfig, GymEnv
from rl_contrastive.registry import get
from rl_contrastive.runs.evaluate import evaluate, exact_evaluation
from rl_contrastive.runs.loop import train
from rl_contrastive.runs.rollout import play
from rl_contrastive.seeding import SeedTree

HORIZON = 12


def corridor(mode: AutoresetMode, rows: int = 6) -> GymEnv:
    """FrozenLake with its random slips: holes and the goal terminate, the limit of 12 steps truncates."""

    def make():
        return gym.make("FrozenLake-v1", map_name="4x4", is_slippery=True, max_episode_steps=HORIZON)

    return GymEnv(SyncVectorEnv([make] * rows, autoreset_mode=mode), GymConfig(id="FrozenLake-v1"), HORIZON)


def transitions(mode: AutoresetMode) -> list[tuple]:
    """Living transitions of some batches of random episodes, row by row."""
    env, rng, out = corridor(mode), np.random.default_rng(0), []
    table = rng.integers(4, size=(5, HORIZON, 6))  # actions fixed beforehand: no mode can shift the draws
    for k in range(5):
        for t in play(env, SeedTree(1).env_seeds("env", k, 6), lambda obs, h, k=k: table[k, h]):
            for i in np.flatnonzero(t.alive):
                row = (t.obs[i], t.action[i], t.reward[i], t.next_obs[i], t.discount[i], t.boundary[i])
                out.append((k, t.h, int(i), *(x.item() for x in row)))
    return out


def test_p6_all_three_autoreset_modes_give_the_same_transitions():
    lists = {mode: transitions(mode) for mode in AutoresetMode}
    first = lists[AutoresetMode.NEXT_STEP]
    assert all(other == first for other in lists.values())
    holes = {5, 7, 11, 12, 15}
    ends = [row for row in first if row[8]]
    assert len(ends) == 30  # each row of each batch ends once
    assert {0.0, 1.0} == {row[7] for row in ends}  # both kinds occurred
    for k, h, i, obs, action, reward, next_obs, discount, boundary in first:
        assert discount == float(next_obs not in holes), (k, h, i)
        assert boundary == (discount == 0.0 or h == HORIZON - 1)
        assert obs not in holes
        assert reward == float(next_obs == 15)
        assert 0 <= action < 4


class Table:
    """A fixed policy as an agent that keeps what it is shown."""

    batch, version = 4, 0

    def __init__(self, pi):
        self.pi, self.seen = pi, []

    def begin(self, num_envs):
        pass

    def act(self, obs, h):
        return self.pi[h, obs].argmax(axis=-1)

    def observe(self, transition):
        self.seen.append(transition)

    def update(self):
        return {}

    def policy(self, obs, h, *, explore=False):
        return self.pi[h, obs]

    def exact_metrics(self, model):
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize(("name", "value", "last"), [("probe-terminal", 2.0, None), ("probe-truncation", 3.0, 1.0)])
def test_p6_probes_have_their_exact_values_and_hand_the_agent_the_right_discount(name, value, last):
    entry, _ = get("env", name)
    env = entry.factory(from_dict(entry.config, {}), 4)
    model = env.exact()
    agent = Table(np.eye(model.r.shape[2])[model.Q.argmax(axis=-1)])
    assert exact_evaluation(agent, model, explore=False) == pytest.approx(model.optimal_return)
    assert evaluate(agent, env, 8, tree=SeedTree(0)).mean == pytest.approx(model.optimal_return)
    train(agent, env, seed=0, episodes=8)
    ends = [(t.h, t.discount[t.boundary]) for t in agent.seen if t.boundary.any()]
    assert len(ends) == 2
    for _, discount in ends:
        assert (discount == (1.0 if name == "probe-truncation" else 0.0)).all()
    if name == "probe-truncation":
        assert model.optimal_return == value
        assert ends[0][0] == 2
