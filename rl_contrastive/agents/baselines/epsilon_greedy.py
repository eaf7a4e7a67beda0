"""Epsilon-greedy: the same planning without optimism. It measures how far undirected exploration gets.

With probability epsilon_k a uniform action, else the greedy one of
  tabular:  value iteration on P-hat, r-hat from visit counts (pairs without visits are worth 0);
  vectors:  least-squares value iteration on phi(x, a) = one-hot(a) (x) (x, 1), one regression per step and action:
            w_{h,a} = (Z_a'Z_a + lambda I)^-1 Z_a'[r + max_a' Q_{h+1}(x', a')],  Z_a rows (x, 1) where a was played.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from rl_contrastive.acting import sample
from rl_contrastive.agents.base import BaseAgent, grew_by
from rl_contrastive.config import Ge, Gt, In, Options, require, require_keys
from rl_contrastive.features.steps import StepStore
from rl_contrastive.features.tables import StateTable
from rl_contrastive.planning.bonus import spd_inverse
from rl_contrastive.planning.lsvi import plan_model
from rl_contrastive.registry import register
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import Array, Env, FloatArray, IntArray, State, StepData, Transition


@dataclass(frozen=True)
class EpsilonGreedyConfig(Options, where="epsilon-greedy"):
    """Epsilon-greedy on a model (tabular) or on linear values of the raw observation (vectors)."""

    batch: Annotated[int, Ge(1)] = 10
    """B, episodes between two updates."""
    epsilon: Annotated[float, In(0, 1)] = 0.1
    """Final probability of a uniform action."""
    decay_episodes: Annotated[int, Ge(0)] = 0
    """epsilon_k falls linearly from 1 to `epsilon` over this many episodes (0: constant)."""
    growth: Annotated[float, Ge(0)] = 0.05
    """Replan when the number of transitions grew by this fraction (0: after every batch)."""
    lam: Annotated[float, Gt(0)] = 1.0
    """lambda, ridge of the regressions; vector observations only."""
    capacity: Annotated[int, Ge(1)] = 10_000
    """Rows kept of each step, the newest ones; vector observations only."""


@register("agent", "epsilon-greedy", EpsilonGreedyConfig)
class EpsilonGreedy(BaseAgent):
    """Greedy on learned values, uniform with probability epsilon: no optimism, any observation."""

    def __init__(self, env: Env, config: EpsilonGreedyConfig, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        spec = self.env_spec
        H, A, S = spec.horizon, spec.num_actions, spec.num_states
        self.tabular = S is not None
        self.memory: StateTable | StepStore = (
            StateTable(spec) if S is not None else StepStore(spec, capacity=config.capacity)
        )
        # Q itself (H, S, A) for tables, weights (H, D+1, A) for vectors.
        self.values: FloatArray = np.zeros((H, S if S is not None else int(np.prod(spec.obs_shape)) + 1, A))
        self.rng = self.seeds.generator("act")
        self.planned_at, self.episodes = 0.0, 0

    @property
    def epsilon(self) -> float:
        """epsilon_k of the current batch."""
        config = self.config
        if self.episodes >= config.decay_episodes:
            return float(config.epsilon)
        return float(1.0 - (1.0 - config.epsilon) * self.episodes / config.decay_episodes)

    def act(self, obs: Any, h: int) -> IntArray:
        return sample(self.policy(obs, h, explore=True), rng=self.rng)

    def observe(self, transition: Transition) -> None:
        self.memory.add(transition)

    def update(self) -> dict[str, float]:
        # epsilon_k moves the behaviour, so the version counts those changes too.
        before = self.epsilon
        self.episodes += self.batch
        seen = float((self.memory.rows() if isinstance(self.memory, StateTable) else self.memory.total).sum())
        planned = grew_by(seen, self.planned_at, self.config.growth)
        if planned:
            self.planned_at = seen
            self._plan()
        self.version += int(planned or before != self.epsilon)
        return {"epsilon": self.epsilon}

    def policy(self, obs: Any, h: int, *, explore: bool = False) -> FloatArray:
        Q = self.values[h, obs] if self.tabular else design(obs) @ self.values[h]  # (N, A)
        best = (Q.max(axis=-1, keepdims=True) == Q).astype(np.float64)
        greedy = best / best.sum(axis=-1, keepdims=True)
        epsilon = self.epsilon if explore else 0.0
        return np.asarray((1.0 - epsilon) * greedy + epsilon / Q.shape[-1])

    def _plan(self) -> None:
        if isinstance(self.memory, StateTable):
            self.memory.refresh()
            self.values = plan_model(self.memory.model(), self.memory.reward).Q
        else:
            self.values = linear_values(self.memory.data(), self.env_spec.num_actions, self.config.lam)

    def state_dict(self) -> State:
        """Data, values of the last plan, generator and counters."""
        return {
            "memory": self.memory.state_dict(),
            "values": self.values,
            "planned_at": self.planned_at,
            "episodes": self.episodes,
            "version": self.version,
            "rng": generator_state(self.rng),
        }

    def load_state_dict(self, state: State) -> None:
        require_keys(state, ("memory", "values", "planned_at", "episodes", "version", "rng"), "epsilon-greedy")
        values, shape = np.array(state["values"], dtype=np.float64), self.values.shape
        require(values.shape == shape, f"epsilon-greedy: the saved values have shape {values.shape}, not {shape}.")
        self.memory.load_state_dict(state["memory"])
        self.values = values
        self.planned_at, self.episodes = float(state["planned_at"]), int(state["episodes"])
        self.version = int(state["version"])
        restore_generator(self.rng, state["rng"])


def design(obs: Array) -> FloatArray:
    """(x, 1): observations (N, ...) -> (N, D+1) float64."""
    x = np.asarray(obs, dtype=np.float64).reshape(len(obs), -1)
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def linear_values(data: StepData, num_actions: int, lam: float) -> FloatArray:
    """Weights (H, D+1, A) of Q_h(x, a) = (x, 1) . w_{h,a} by backward ridge regression, without bonus or cap.

    The same as `planning.lsvi.plan_ridge` with phi = one-hot(a) (x) (x, 1), whose covariance is block-diagonal:
    A solves of size D+1 instead of one of size A (D+1).
    """
    H = len(data.count)
    Z = design(data.obs[0])[:0]
    w = np.zeros((H, Z.shape[1], num_actions))
    for h in range(H - 1, -1, -1):
        n = int(data.count[h])
        if n == 0:
            continue
        Z = design(data.obs[h, :n])  # (n, D+1)
        target = data.reward[h, :n].copy()
        if h < H - 1:
            target += data.discount[h, :n] * (design(data.next_obs[h, :n]) @ w[h + 1]).max(axis=1)
        played = (data.action[h, :n, None] == np.arange(num_actions)).astype(np.float64)  # (n, A)
        gram = np.stack([(Z * played[:, a : a + 1]).T @ Z for a in range(num_actions)])  # (A, D+1, D+1)
        inverse = spd_inverse(gram + lam * np.eye(Z.shape[1]))
        w[h] = np.einsum("aij,ja->ia", inverse, Z.T @ (played * target[:, None]))
    return w
