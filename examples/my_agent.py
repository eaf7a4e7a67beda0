"""An agent of your own: random search over deterministic policies of a table.

    rlc run random-search probe-match --import examples/my_agent.py --episodes 400

`rlc new agent NAME` writes one that learns by Q-learning.
"""

from dataclasses import dataclass

import numpy as np

from rl_contrastive import register
from rl_contrastive.agents.base import BaseAgent
from rl_contrastive.config import require
from rl_contrastive.seeding import generator_state, restore_generator


@dataclass(frozen=True)
class RandomSearchConfig:
    """Options: a docstring under each field becomes its help text."""

    batch: int = 10
    """B, episodes side by side, all of one policy (>= 1)."""


@register("agent", "random-search", RandomSearchConfig)
class RandomSearch(BaseAgent):
    """Plays a random policy in each batch and keeps the best."""

    def __init__(self, env, config, *, seed=0):
        super().__init__(env, config, seed=seed)
        spec, self.rng = env.env_spec, self.seeds.generator("act")
        require(spec.num_states is not None, f"random-search needs a table of states, which {spec.name} has not.")
        self.tried = self.best = np.zeros((spec.horizon, spec.num_states), dtype=np.int64)  # actions (H, S)
        self.total, self.best_return = 0.0, -np.inf

    def begin(self, num_envs):
        self.total, self.tried = 0.0, self.rng.integers(self.env_spec.num_actions, size=self.best.shape)

    def act(self, obs, h):
        return self.tried[h, obs]

    def observe(self, transition):
        self.total += float(transition.reward[transition.alive].sum()) / self.batch

    def update(self):
        if self.total > self.best_return:
            self.best, self.best_return, self.version = self.tried, self.total, self.version + 1
        return {"best_return": self.best_return}

    def policy(self, obs, h, *, explore=False):
        return np.eye(self.env_spec.num_actions)[(self.tried if explore else self.best)[h, obs]]

    def state_dict(self):
        arrays = {"best": self.best.copy(), "tried": self.tried.copy(), "rng": generator_state(self.rng)}
        return {**arrays, "best_return": self.best_return, "version": self.version}

    def load_state_dict(self, state):
        for key in ("best", "tried", "best_return", "version", "rng"):
            require(key in state, f"random-search: the saved state lacks '{key}'.")
        self.best, self.tried, self.best_return = state["best"], state["tried"], state["best_return"]
        self.version = state["version"]
        restore_generator(self.rng, state["rng"])
