"""A PettingZoo parallel game whose players see different vectors; together they are the state."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from pettingzoo import ParallelEnv

STEPS = 3


class Sums(ParallelEnv):
    """Each player draws a number in [-1, 1] and sees it alone; "first" is paid a times the product, "second" pays."""

    render_mode = None

    def __init__(self) -> None:
        self.metadata = {"name": "sums"}
        self.possible_agents = ["first", "second"]

    def observation_space(self, agent: str) -> gym.Space[Any]:
        return gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def action_space(self, agent: str) -> gym.Space[Any]:
        return gym.spaces.Discrete(2 if agent == "first" else 3)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.rng, self.t, self.agents = np.random.default_rng(seed), 0, list(self.possible_agents)
        return self._seen(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> Any:
        self.t += 1
        reward = float(actions["first"]) * float(self.numbers[0] * self.numbers[1])
        over = self.t == STEPS
        seen, names = self._seen(), list(self.possible_agents)
        self.agents = [] if over else names
        ends = dict.fromkeys(names, over)
        return seen, {"first": reward, "second": -reward}, ends, dict.fromkeys(names, False), {a: {} for a in names}

    def _seen(self) -> dict[str, Any]:
        self.numbers = self.rng.uniform(-1, 1, size=2).astype(np.float32)
        return {agent: self.numbers[i : i + 1] for i, agent in enumerate(self.possible_agents)}
