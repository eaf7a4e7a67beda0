"""Match: a card of 0..3 is drawn at each step and shown; the action of its number pays 1. Best return 8, chance 2.

What is shown, and in which space, is the caller's: an agent that reads it wrongly stays at chance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv

from rl_contrastive.envs.adapters.gym_adapter import GymConfig, GymEnv

STEPS = 8
DEEP = {
    "beta": 0.0, "epsilon": 0.2, "gamma": 0.0, "warm_start": 200, "train_every": 2, "batch": 4, "capacity": 5000,
    "learner": {"lr": 1e-3, "encoder": {"hidden": [64]}, "device": "cpu"},
}  # fmt: skip
"""Options of the deep agents that learn it in 1600 steps."""


class Match(gym.Env[Any, Any]):
    """`show(card)` is the observation, of `space`."""

    def __init__(self, space: gym.Space[Any], show: Callable[[int], Any]) -> None:
        self.observation_space, self.show = space, show
        self.action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward, self.t = float(action == self.card), self.t + 1
        return self._draw(), reward, self.t == STEPS, False, {}

    def _draw(self) -> Any:
        self.card = int(self.np_random.integers(4))
        return self.show(self.card)


def match(space: gym.Space[Any], show: Callable[[int], Any], rows: int = 4, **fields: Any) -> GymEnv:
    """Rows of it behind the adapter of `gym:`; `fields` are those of its config."""
    envs = SyncVectorEnv([lambda: Match(space, show)] * rows)
    return GymEnv(envs, GymConfig(id="Match-v0", **fields), STEPS)


def blocks(shape: tuple[int, int, int], axis: int = 0) -> Callable[[int], Any]:
    """Pictures of grey 60 in which the quarter of the card is grey 200; `axis`: which one counts planes."""

    def show(card: int) -> Any:
        picture = np.full(shape, 60, dtype=np.uint8)
        seen = np.moveaxis(picture, axis, 0)
        y, x = (size // 2 for size in seen.shape[1:])
        seen[:, (card // 2) * y : (card // 2 + 1) * y, (card % 2) * x : (card % 2 + 1) * x] = 200
        return picture

    return show


def pictures(shape: tuple[int, ...]) -> gym.spaces.Box:
    """Bytes of this shape."""
    return gym.spaces.Box(0, 255, shape, np.uint8)
