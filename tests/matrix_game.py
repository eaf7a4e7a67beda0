"""The smallest Markov game for tests: one state, one matrix, played H times; observations are the state or a vector."""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_contrastive.envs.base import BatchEnv, Outcome
from rl_contrastive.envs.streams import Words
from rl_contrastive.spec import EnvSpec, ExactModel

PENNIES = np.array([[1.0, 0.0], [0.0, 1.0]])
"""Matching pennies: value 1/2, both players mix evenly."""


class MatrixGame(BatchEnv):
    """Payoff (A, B) to the maximiser at each of H steps; rich: the observation is (1, h/H), not the state 0."""

    def __init__(self, num_envs: int, payoff: Any = PENNIES, *, horizon: int = 1, rich: bool = False) -> None:
        self.payoff = np.asarray(payoff, dtype=np.float64)
        A, B = self.payoff.shape
        obs = {"obs_shape": (2,), "obs_dtype": "float64"} if rich else {"obs_shape": (), "obs_dtype": "int64"}
        low, high = float(self.payoff.min()), float(self.payoff.max())
        spec = EnvSpec(
            "matrix-game",
            A * B,
            horizon,
            **obs,
            num_states=None if rich else 1,
            reward_range=(low, high),
            players=(A, B),
            stationary=True,
        )
        self.rich = rich
        super().__init__(spec, num_envs, 1)

    def _prepare(self, words: Words) -> None:
        """Nothing is random."""

    def _start(self, slot: int, rows: Any) -> None:
        """One state."""

    def _advance(self, action: Any, slot: int) -> Outcome:
        return self.payoff.reshape(-1)[action], None, None

    def _observe(self, slot: int) -> Any:
        n = self.num_envs
        if not self.rich:
            return np.zeros(n, dtype=np.int64)
        return np.column_stack([np.ones(n), np.full(n, self.h / self.env_spec.horizon)])

    def latent_states(self) -> Any:
        return np.zeros(self.num_envs, dtype=np.int64)

    def exact(self) -> ExactModel:
        """Values by the matrix's own value, which the tests know: only P, r and rho are read of it."""
        H, AB = self.env_spec.horizon, self.payoff.size
        P, r = np.ones((H, 1, AB, 1)), np.broadcast_to(self.payoff.reshape(1, 1, AB), (H, 1, AB))
        V, Q = np.full((H + 1, 1), np.nan), np.full((H, 1, AB), np.nan)
        return ExactModel(P, r, np.ones(1), None, None, V, Q, not self.rich, self.env_spec.players)
