"""A user's file: rock, paper, scissors played H times, and an agent whose two mixed strategies are its config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rl_contrastive.agents.base import BaseAgent
from rl_contrastive.config import require
from rl_contrastive.envs.base import BatchEnv
from rl_contrastive.registry import register
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import EnvSpec, ExactModel, product

RPS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
"""Payoff of max: rock, paper, scissors."""


@dataclass(frozen=True)
class TinyGameConfig:
    """Rock, paper, scissors."""

    horizon: int = 1
    """H, rounds (>= 1)."""
    payoff: Literal["signed", "positive"] = "signed"
    """-1, 0, 1 a round, or 0, 1/2, 1."""
    model: bool = True
    """Whether `exact()` gives the model."""


class _Rounds(BatchEnv):
    """One state; the reward is the payoff of the joint action."""

    def __init__(self, config, num_envs):
        H, signed = config.horizon, config.payoff == "signed"
        self.payoff = RPS.ravel() if signed else (RPS.ravel() + 1.0) / 2.0
        self.model = config.model
        spec = EnvSpec(
            name="tiny-game", num_actions=9, horizon=H, obs_shape=(), obs_dtype="int64", num_states=1,
            optimal_return=(0.0 if signed else 0.5 * H) if config.model else None,
            reward_range=(float(self.payoff.min()), 1.0), players=(3, 3), stationary=True,
        )  # fmt: skip
        super().__init__(spec, num_envs, 1)

    def _prepare(self, words):
        """Nothing is random."""

    def _start(self, slot, rows):
        """There is one state."""

    def _advance(self, action, slot):
        return self.payoff[action].copy(), None, None

    def _observe(self, slot):
        return np.zeros(self.num_envs, dtype=np.int64)

    def latent_states(self):
        return np.zeros(self.num_envs, dtype=np.int64)

    def exact(self):
        if not self.model:
            return None
        H, value = self.env_spec.horizon, float(self.payoff.mean())  # uniform play is the equilibrium
        V = value * np.arange(H, -1, -1.0)[:, None]
        r = np.broadcast_to(self.payoff, (H, 1, 9))
        P = np.ones((H, 1, 9, 1))
        return ExactModel(P, r, np.ones(1), None, None, V, r + V[1:, :, None], True, players=(3, 3))


@register("env", "tiny-game", TinyGameConfig)
def tiny_game(config: TinyGameConfig, num_envs: int):
    """Rock, paper, scissors, for tests."""
    return _Rounds(config, num_envs)


class _DrawnRounds(_Rounds):
    """Rounds with a picture: a bar that grows with h."""

    def _draw(self, row):
        picture = np.full((12, 30, 3), 255, dtype=np.uint8)
        picture[:, : 3 * self.h] = (0, 114, 178)
        return picture


@register("env", "tiny-drawn-game", TinyGameConfig)
def tiny_drawn_game(config: TinyGameConfig, num_envs: int):
    """Rock, paper, scissors with a picture, for tests."""
    return _DrawnRounds(config, num_envs)


@dataclass(frozen=True)
class FixedConfig:
    """Two mixed strategies that never change."""

    batch: int = 2
    """B (>= 1)."""
    mu: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Weights of max's actions."""
    nu: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Weights of min's actions."""


@register("agent", "tiny-fixed", FixedConfig)
class Fixed(BaseAgent):
    """Fixed mixed strategies, for tests."""

    plays = "game"

    def __init__(self, env, config, *, seed=0):
        super().__init__(env, config, seed=seed)
        mu, nu = np.array(config.mu), np.array(config.nu)
        self.joint = product(mu / mu.sum(), nu / nu.sum())
        self.rng = self.seeds.generator("act")

    def act(self, obs, h):
        return self.rng.choice(len(self.joint), size=len(obs), p=self.joint)

    def observe(self, transition):
        """Nothing is learned."""

    def update(self):
        return {}

    def policy(self, obs, h, *, explore=False):
        return np.tile(self.joint, (len(obs), 1))

    def state_dict(self):
        return {"rng": generator_state(self.rng), "joint": self.joint}

    def load_state_dict(self, state):
        require("joint" in state, "tiny-fixed: the saved state lacks 'joint'.")
        self.joint = state["joint"]
        restore_generator(self.rng, state["rng"])
