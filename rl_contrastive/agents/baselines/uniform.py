"""Uniform actions: what an agent is worth that learns nothing. The floor of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from rl_contrastive.agents.base import BaseAgent
from rl_contrastive.config import Ge, Options, require_keys
from rl_contrastive.registry import register
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import Env, FloatArray, IntArray, State, Transition


@dataclass(frozen=True)
class UniformConfig(Options, where="uniform"):
    """Uniform actions have nothing to choose but how many episodes run side by side."""

    batch: Annotated[int, Ge(1)] = 50
    """B, episodes played side by side."""


@register("agent", "uniform", UniformConfig)
class Uniform(BaseAgent):
    """Every action with probability 1/A, on any observation; in a game, of both players."""

    plays = "any"

    def __init__(self, env: Env, config: UniformConfig, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        self.rng = self.seeds.generator("act")

    def act(self, obs: Any, h: int) -> IntArray:
        return self.rng.integers(self.env_spec.num_actions, size=len(obs))

    def observe(self, transition: Transition) -> None:
        """Nothing is learned."""

    def update(self) -> dict[str, float]:
        return {}

    def policy(self, obs: Any, h: int, *, explore: bool = False) -> FloatArray:
        A = self.env_spec.num_actions
        return np.full((len(obs), A), 1.0 / A)

    def state_dict(self) -> State:
        return {"rng": generator_state(self.rng)}

    def load_state_dict(self, state: State) -> None:
        require_keys(state, ("rng",), "uniform")
        restore_generator(self.rng, state["rng"])
