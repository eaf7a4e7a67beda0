"""What foreign environments show must arrive: a small problem behind each kind of observation, solved or refused."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from match_env import DEEP, STEPS, blocks, match, pictures

from rl_contrastive.config import from_dict
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import get
from rl_contrastive.runs.evaluate import evaluate
from rl_contrastive.seeding import SeedTree


def agent_on(env: Any, name: str, fields: dict[str, Any]) -> Any:
    entry, _ = get("agent", name)
    return entry.factory(env, from_dict(entry.config, fields), seed=0)


def learned(env: Any, name: str = "contrastive-ucb-deep", fields: dict[str, Any] = DEEP, steps: int = 1600) -> float:
    """Mean return of the trained agent."""
    agent = agent_on(env, name, fields)
    agent.learn(steps=steps, eval_every=10_000, eval_episodes=4)
    return evaluate(agent, env, 20, tree=SeedTree(7)).mean


@pytest.mark.parametrize(
    ("shape", "name"),
    [((4, 12, 12), "contrastive-ucb-deep"), ((8, 8, 8), "contrastive-ucb-deep"), ((4, 12, 12), "rnd-dqn")],
)
def test_bytes_are_brightness_whatever_their_shape(shape, name):
    assert learned(match(pictures(shape), blocks(shape)), name) > 0.9 * STEPS


KINDS = {
    "a single number": (gym.spaces.Box(0.0, 6.0, ()), lambda card: np.float32(2 * card), {}),
    "channels last": (pictures((12, 12, 3)), blocks((12, 12, 3), axis=2), {}),
    "many bits": (gym.spaces.MultiBinary(20), lambda card: np.eye(20, dtype=np.int8)[card], {}),
    "many factors": (gym.spaces.MultiDiscrete([10] * 8), lambda card: np.array([9] * 7 + [card]), {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_deep_agent_sees_the_card(kind):
    space, show, fields = KINDS[kind]
    assert learned(match(space, show, **fields)) > 0.9 * STEPS


def test_bins_cut_where_the_bounds_say():
    env = match(gym.spaces.Box(0.0, 1004.0, (1,)), lambda card: np.array([251.0 * card + 100], np.float32),
                observation="bins", resolution=4)  # fmt: skip
    assert env.env_spec.num_states == 4
    assert learned(env, "ucbvi", {"batch": 4}) > 0.9 * STEPS


def test_pictures_with_channels_last_fit_the_convolutions_of_frames():
    env = match(pictures((40, 40, 3)), blocks((40, 40, 3), axis=2))
    agent = agent_on(env, "contrastive-ucb-deep", {**DEEP, "learner": {"device": "cpu"}})
    assert agent.learner.values.encoder.kind == "nature"


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        (gym.spaces.Discrete(4), 4, r"observation 4 at step 0 of sub-environment 0 is not in Discrete\(4\)"),
        (gym.spaces.Discrete(4, start=2), 1, r"observation 1 at step 0 of sub-environment 0 is not in Discrete\(4, st"),
        (gym.spaces.MultiDiscrete([2, 3]), np.array([1, 3]), r"observation \[1, 3\] at step 0 .* MultiDiscrete\(\[2 3"),
        (gym.spaces.MultiDiscrete([10] * 8), np.array([10] * 8), r"observation \[10, .* at step 0"),
        (gym.spaces.MultiBinary(3), np.array([0, 2, 0], np.int8), r"observation \[0, 2, 0\] at step 0 .*MultiBinary"),
    ],
)
def test_an_observation_outside_its_finite_space_is_named(space, value, words):
    with pytest.raises(RlcError, match=f"^gym:Match-v0: {words}"):
        match(space, lambda card: value, rows=1).reset(seed=0)


def test_an_agent_of_tables_names_those_that_read_vectors():
    with pytest.raises(RlcError, match=r"^ucbvi needs tabular observations, but .* \(contrastive-ucb-deep\), an env"):
        agent_on(match(*KINDS["many bits"][:2]), "ucbvi", {"batch": 4})


@pytest.mark.parametrize("name", ["contrastive-ucb-deep", "rnd-dqn"])
def test_rewards_beyond_float32_are_a_sentence(name):
    def paid(scale: float) -> Any:
        env = match(gym.spaces.Discrete(4), lambda card: card)
        step = env.step
        env.step = lambda action: (lambda out: (out[0], scale * out[1], *out[2:]))(step(action))  # type: ignore[method-assign]
        return env

    words = r"a reward of 1e\+39 times learner.reward_scale 1 is beyond .*reward-scale, e.g. 1e-39"
    with pytest.raises(RlcError, match=words):
        agent_on(paid(1e39), name, DEEP).learn(steps=32)
    fields = {**DEEP, "learner": {**DEEP["learner"], "reward_scale": 1e-39}}
    assert learned(paid(1e39), name, fields) > 0.9e39 * STEPS


def test_observations_beyond_float32_are_a_sentence():
    env = match(gym.spaces.Box(-np.inf, np.inf, (1,), np.float64), lambda card: np.array([card * 1e39]))
    with pytest.raises(RlcError, match=r"gym:Match-v0: [123]e\+39 in an observation at step \d is beyond float32"):
        agent_on(env, "contrastive-ucb-deep", DEEP).learn(steps=32)


def test_an_environment_of_gymnasium_itself_is_a_sentence():
    with pytest.raises(
        RlcError, match=r"^UCBVI needs an environment with an env_spec, but .* has none: make it by its"
    ):
        agent_on(gym.make("FrozenLake-v1"), "ucbvi", {})
