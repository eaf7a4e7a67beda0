"""Deep Sea (Osband et al., bsuite): one path of N moves right pays, each move costs, random play needs 2^N episodes.

A diver starts at the top left of an N x N grid and sinks one row a step; one action moves right, the other left,
and which is which differs from cell to cell. A move right costs move_cost / N; moving right in the last column
(reachable in the last row only) pays 1. Optimal return: 1 - move_cost = .99.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import gymnasium as gym
import numpy as np

from rl_contrastive.config import In, Options
from rl_contrastive.device import require_memory
from rl_contrastive.envs.base import BatchEnv, Outcome
from rl_contrastive.envs.streams import Words, normals, uniforms
from rl_contrastive.registry import register
from rl_contrastive.spec import Array, BoolArray, EnvSpec, ExactModel, IntArray, optimal_values


@dataclass(frozen=True)
class DeepSeaConfig(Options, where="deep-sea"):
    """Deep Sea by bsuite's rules."""

    size: Annotated[int, In(2, 500)] = 10
    """N: grid size and horizon. bsuite's sweep is 10, 12, ..., 50."""
    mapping_seed: Annotated[int, In(0, 2**32, below=True)] = 42
    """Which action means "right" in which cell; bsuite's default, and its very mapping."""
    move_cost: Annotated[float, In(0, 1)] = 0.01
    """Cost of N moves right together; one costs move_cost / N."""
    deterministic: bool = True
    """False: a move right fails with probability 1/N and the two bottom corners pay N(0, 1) noise on top."""
    observation: Literal["tabular", "onehot", "picture"] = "tabular"
    """"tabular": the column 0..N-1 (the row is the step h, which an agent knows); "onehot": the N x N grid,
    flattened float32, all zeros after the last step, as in bsuite; "picture": the same grid in bool. It takes a fourth
    of the memory, and networks read one input instead of N x N."""


DTYPES = {"tabular": "int64", "onehot": "float32", "picture": "bool"}


def action_mapping(size: int, seed: int) -> IntArray:
    """(N, N) the action that moves right in each cell (row, column), by bsuite's generator and draw."""
    rng = np.random.RandomState(seed)  # a private legacy generator: the published mapping is its draw
    return np.asarray(rng.binomial(1, 0.5, (size, size)), dtype=np.int64)


@register("env", "deep-sea", DeepSeaConfig)
class DeepSeaEnv(BatchEnv):
    """Deep Sea by bsuite's rules: exploration that needs N right decisions in a row."""

    def __init__(self, config: DeepSeaConfig, num_envs: int) -> None:
        self.config = config
        N = config.size
        require_memory(32 * N**3, f"deep-sea: the exact model of size {N}", "lower size")
        self.mapping = action_mapping(N, config.mapping_seed)
        tabular = config.observation == "tabular"
        spec = EnvSpec(
            name="deep-sea",
            num_actions=2,
            horizon=N,
            obs_shape=() if tabular else (N * N,),
            obs_dtype=DTYPES[config.observation],
            num_states=N if tabular else None,
            optimal_return=self._exact.optimal_return,
            reward_range=(-config.move_cost / N, 1.0) if config.deterministic else (-np.inf, np.inf),
        )
        space = None if tabular else gym.spaces.Box(0, 1, (N * N,), np.dtype(spec.obs_dtype))
        super().__init__(spec, num_envs, words_per_step=2, observation_space=space)
        self._rows = np.arange(num_envs)
        self._column: IntArray = np.zeros(num_envs, dtype=np.int64)

    def _prepare(self, words: Words) -> None:
        if not self.config.deterministic:
            self._slip = uniforms(words[:, 0]) < 1.0 / self.config.size  # (K, n)
            self._noise = normals(words[:, 1])[0]

    def _start(self, slot: int, rows: BoolArray | None) -> None:
        self._column = np.zeros(self.num_envs, dtype=np.int64)

    def _advance(self, action: IntArray, slot: int) -> Outcome:
        N, column = self.config.size, self._column
        right = action == self.mapping[self.h][column]
        reward = np.where(right, -self.config.move_cost / N, 0.0)
        reward += right & (column == N - 1)
        moved = right
        if not self.config.deterministic:
            if self.h == N - 1:
                reward += np.where((column == 0) | (column == N - 1), self._noise[slot], 0.0)
            moved = right & ~self._slip[slot]
        # A slip keeps the column: it is neither a move right nor a move left.
        step = moved.astype(np.int64) - ~right
        self._column = np.clip(column + step, 0, N - 1)
        return reward, None, None

    def _observe(self, slot: int) -> Array:
        if self.config.observation == "tabular":
            return self._column.copy()
        N = self.config.size
        grid = np.zeros((self.num_envs, N * N), dtype=self.env_spec.obs_dtype)
        if self.h < N:
            grid[self._rows, self.h * N + self._column] = 1
        return grid

    def latent_states(self) -> IntArray:
        """(n,) columns; the row is the step."""
        return self._column.copy()

    def exact(self) -> ExactModel:
        """The model over columns (S = N, the row is h), with the trivial factors phi = P, psi = identity."""
        return self._exact

    @cached_property
    def _exact(self) -> ExactModel:
        N, cost = self.config.size, self.config.move_cost / self.config.size
        columns = np.arange(N)
        P, r = np.zeros((N, N, 2, N)), np.zeros((N, N, 2))
        slip = 0.0 if self.config.deterministic else 1.0 / N
        for h in range(N):
            right = self.mapping[h]
            P[h, columns, right, np.minimum(columns + 1, N - 1)] = 1.0 - slip
            P[h, columns, right, columns] += slip
            P[h, columns, 1 - right, np.maximum(columns - 1, 0)] = 1.0
            r[h, columns, right] = (columns == N - 1) - cost
        V, Q = optimal_values(P, r)
        rho = (columns == 0).astype(np.float64)
        psi = np.broadcast_to(np.eye(N), (N, N, N))
        return ExactModel(P, r, rho, P, psi, V, Q, observations_are_states=self.config.observation == "tabular")
