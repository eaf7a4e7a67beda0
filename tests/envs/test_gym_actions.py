"""Actions of gymnasium environments as numbers: bins of a Box, digits of a MultiDiscrete, and what is refused."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from rl_contrastive import RlcError, make_agent, make_env, train
from rl_contrastive.envs.adapters import gym_adapter
from rl_contrastive.envs.adapters.gym_actions import action_map

Box = gym.spaces.Box


def test_bins_by_hand():
    actions = action_map("x", Box(np.float32([-2, 0]), np.float32([2, 1])), 3)
    assert actions.num_actions == 9
    found = actions.decode(np.arange(9))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[a, b] for a in (-2, 0, 2) for b in (0, 0.5, 1)])
    bang = action_map("x", Box(-1.0, 3.0, (1,)), 2)
    np.testing.assert_array_equal(bang.decode(np.array([1, 0])), [[3], [-1]])
    matrix = action_map("x", Box(0.0, 1.0, (2, 1)), 2)
    assert matrix.decode(np.array([2])).tolist() == [[[1.0], [0.0]]]


def test_digits_by_hand():
    actions = action_map("x", gym.spaces.MultiDiscrete([2, 3], start=[0, 5]), 3)
    assert actions.num_actions == 6
    np.testing.assert_array_equal(actions.decode(np.array([0, 4, 5])), [[0, 5], [1, 6], [1, 7]])
    assert "flattened to 6 actions" in actions.note
    plain = action_map("x", gym.spaces.Discrete(4, start=3), 3)
    assert (plain.num_actions, plain.note, plain.decode(np.array([2])).tolist()) == (4, "", [5])


@pytest.mark.parametrize(
    "space", [Box(-1.0, 1.0, (2,)), gym.spaces.MultiDiscrete([3, 2]), gym.spaces.Discrete(5, start=-2)]
)
def test_every_number_is_an_action_of_the_space_and_no_two_are_equal(space):
    actions = action_map("x", space, 4)
    found = actions.decode(np.arange(actions.num_actions))
    assert len(np.unique(found, axis=0)) == actions.num_actions
    for row in found:
        assert space.contains(row if row.ndim else np.int64(row))


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (Box(-np.inf, np.inf, (1,)), "must be bounded"),
        (Box(-1.0, 1.0, (8,)), "at most 1024"),
        (gym.spaces.MultiDiscrete([50, 50]), "2500 joint actions"),
        (gym.spaces.MultiBinary(3), "ActionWrapper"),
        (gym.spaces.Dict(a=gym.spaces.Discrete(2)), "Discrete, MultiDiscrete or a bounded Box"),
    ],
)
def test_other_spaces_are_refused_in_one_sentence(space, sentence):
    with pytest.raises(RlcError, match=sentence):
        action_map("gym:x", space, 3)


class Reach(gym.Env):
    """One step: reward 1 - |a - .5| for a in [-1, 1]; two coordinates, of which the second does nothing."""

    observation_space, action_space = gym.spaces.Discrete(1), Box(-1.0, 1.0, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        assert self.action_space.contains(action)
        return 0, float(1 - abs(action[0] - 0.5)), True, False, {}


def test_a_continuous_environment_is_learned_to_the_best_bin(capsys):
    gym_adapter._say_once.cache_clear()
    env = make_env(Reach, num_envs=10, bins=5)
    assert "discretised, 2 coordinates in 5 values each" in capsys.readouterr().err
    result = train(make_agent("ucbvi", env, c=0.1), env, episodes=600, eval_episodes=10)
    assert result.final_return == 1.0  # a = .5 is the fourth of five values
    uniform = train(make_agent("uniform", env), env, episodes=600, eval_episodes=100)
    assert uniform.final_return < 0.6  # control


def test_pendulum_steps_and_decodes_single_actions():
    env = make_env("gym:Pendulum-v1", num_envs=3)
    env.reset(seed=0)
    _, reward, *_ = env.step(np.array([0, 1, 2]))
    assert np.isfinite(reward).all()
    np.testing.assert_array_equal(env.decode(2), [2.0])
