"""A user's file: optimistic tabular Q-learning in thirty lines, to test the machinery with (`--import`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_contrastive.agents.base import BaseAgent
from rl_contrastive.config import require
from rl_contrastive.registry import register
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import Transition


@dataclass(frozen=True)
class TinyConfig:
    """Optimistic tabular Q-learning."""

    batch: int = 4
    """B, episodes between two updates (>= 1)."""
    step_size: float = 0.5
    """Step size alpha in (0, 1]."""
    epsilon: float = 0.2
    """Probability of a uniform action, in [0, 1]."""

    def __post_init__(self) -> None:
        require(self.batch >= 1, f"tiny: batch must be >= 1, got {self.batch}.")
        require(0 < self.step_size <= 1, f"tiny: step_size must be in (0, 1], got {self.step_size}.")


@register("agent", "tiny", TinyConfig)
class Tiny(BaseAgent):
    """Optimistic tabular Q-learning, for tests."""

    def __init__(self, env, config, *, seed=0):
        super().__init__(env, config, seed=seed)
        spec = self.env_spec
        require(spec.num_states is not None, f"tiny needs a tabular environment, {spec.name} is none.")
        self.Q = np.full((spec.horizon + 1, spec.num_states, spec.num_actions), 2.0)
        self.Q[-1] = 0.0
        self.rng = self.seeds.generator("act")
        self.rows = []

    def act(self, obs, h):
        explore = self.rng.random(len(obs)) < self.config.epsilon
        random = self.rng.integers(self.env_spec.num_actions, size=len(obs))
        return np.where(explore, random, self.Q[h, obs].argmax(axis=1))

    def observe(self, transition: Transition):
        self.rows.append(transition)

    def update(self):
        for t in self.rows:
            h, i = t.h, np.flatnonzero(t.alive)
            target = t.reward + t.discount * self.Q[h + 1, t.next_obs].max(axis=1)
            for n in i:
                self.Q[h, t.obs[n], t.action[n]] += self.config.step_size * (
                    target[n] - self.Q[h, t.obs[n], t.action[n]]
                )
        self.rows.clear()
        self.version += 1
        return {"q_mean": float(self.Q.mean())}

    def policy(self, obs, h, *, explore=False):
        greedy = np.eye(self.env_spec.num_actions)[self.Q[h, obs].argmax(axis=1)]
        mix = self.config.epsilon if explore else 0.0
        return (1 - mix) * greedy + mix / self.env_spec.num_actions

    def exact_metrics(self, model):
        return {"q_error": float(np.abs(self.Q[:-1] - model.Q).mean())}

    def state_dict(self):
        return {"Q": self.Q.copy(), "rng": generator_state(self.rng), "version": self.version}

    def load_state_dict(self, state):
        require("Q" in state and state["Q"].shape == self.Q.shape, "tiny: the saved Q has a wrong shape.")
        self.Q, self.version = state["Q"].copy(), state["version"]
        restore_generator(self.rng, state["rng"])
