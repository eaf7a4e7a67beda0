"""LSVI-UCB (Jin, Yang, Wang, Jordan 2020) on the environment's true features: the ceiling for learned ones.

    Lambda_h = lambda I + sum_n phi_n phi_n'
    for k = 1..K
      1. for h = H-1..0:  w_h = Lambda_h^-1 sum_n phi_h(s_n,a_n) [r_n + max_a Q_{h+1}(s'_n, a)]
                          Q_h = min(w_h'phi_h + beta ||phi_h||_{Lambda_h^-1}, H - h)         (Algorithm 1, lines 3-7)
      2. play greedily with respect to Q_h; Lambda_h += phi phi' at each visited pair        (lines 8-11)

The paper sums over all episodes in each backward pass, O(N A d^2). With finitely many states the sums over visits are
sums over pairs weighted by counts, sum_{s,a} phi(s,a) [R(s,a) + sum_s' N(s,a,s') V(s')]: O(S A d + nnz) whatever N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from rl_contrastive.acting import sample
from rl_contrastive.agents.base import BaseAgent, grew_by
from rl_contrastive.agents.baselines.planned import LastPlan
from rl_contrastive.config import Ge, Gt, Options, require
from rl_contrastive.errors import RlcError
from rl_contrastive.features.tables import StateTable
from rl_contrastive.planning.bonus import EllipticalBonus
from rl_contrastive.planning.bounds import ReturnBounds
from rl_contrastive.planning.lsvi import Plan
from rl_contrastive.registry import register
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import Env, ExactModel, FloatArray, IntArray, State, Transition

LARGEST_ONEHOT = 1000
"""Most pairs S A for which one-hot features (d = S A) are allowed: the covariances are H (S A)^2 numbers."""


@dataclass(frozen=True)
class LsviUcbConfig(Options, where="lsvi-ucb"):
    """LSVI-UCB with the true phi_h(s,a) of the exact model."""

    batch: Annotated[int, Ge(1)] = 10
    """B, episodes between two updates."""
    c: Annotated[float, Ge(0)] = 0.03
    """Scale of the bonus: beta = c H, in units of the rewards' range. The theory's is
    c d H sqrt(log(2 d T / delta))."""
    lam: Annotated[float, Gt(0)] = 1.0
    """lambda, ridge of the regression and of the covariance."""
    features: Literal["true", "onehot"] = "true"
    """"true": phi of `env.exact()`; "onehot": d = S A, where the method is value iteration on counts. Environments
    without factors fall back to "onehot"."""
    reward: Literal["known", "linear", "table"] = "known"
    """"known": r_h(s,a) of the exact model, as Contrastive-UCB's analysis assumes; "linear": regressed on phi together
    with the next value, as LSVI-UCB does (right only where r is linear in phi); "table": observed mean of each pair."""
    growth: Annotated[float, Ge(0)] = 0.05
    """Replan when the number of transitions grew by this fraction (0: after every batch)."""
    reward_max: float | None = None
    """Largest reward; default the environment's bound, or the largest reward seen where it declares none."""


@register("agent", "lsvi-ucb", LsviUcbConfig)
class LsviUcb(BaseAgent):
    """Optimistic least-squares value iteration on the TRUE features: the ceiling (reads the exact model)."""

    def __init__(self, env: Env, config: LsviUcbConfig, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        spec = self.env_spec
        self.table = StateTable(spec, "lsvi-ucb")
        model = env.exact()
        if model is None or not model.observations_are_states:
            raise RlcError(f"lsvi-ucb reads the true features, and {spec.name} has no exact model; use ucbvi instead.")
        self.phi = true_features(model, config.features, spec.name)  # (H, S, A, d)
        self.true_reward = model.r
        self.elliptical = EllipticalBonus(spec.horizon, self.phi.shape[-1], config.lam)
        self.bounds = ReturnBounds(spec, config.reward_max)
        self.rng = self.seeds.generator("act")
        self._replan()

    def act(self, obs: Any, h: int) -> IntArray:
        return sample(self.policy(obs, h, explore=True), rng=self.rng)  # (2)

    def observe(self, transition: Transition) -> None:
        t = transition
        self.bounds.note(t.reward[t.alive])
        self.table.add(t)
        visited = self.phi[t.h, t.obs[t.alive], t.action[t.alive]]  # (k, d)
        self.elliptical.update(t.h, visited)  # the features never change, so Lambda is never rebuilt

    def update(self) -> dict[str, float]:
        if grew_by(float(self.table.rows().sum()), self.planned.rows, self.config.growth):
            self._replan()
            self.version += 1
        return self.planned.report

    def policy(self, obs: Any, h: int, *, explore: bool = False) -> FloatArray:
        return self.planned.policy(obs, h, explore=explore)

    def _replan(self) -> None:
        self.table.refresh()
        self.floor, self.cap = self.bounds.returns()
        beta = self.config.c * self.env_spec.horizon * self.bounds.unit
        bonus = self.elliptical.bonuses(self.phi, beta, cap=np.inf)  # (H, S, A); Q is capped
        optimistic, greedy = self.plan(bonus), self.plan(np.zeros_like(bonus))
        self.planned = LastPlan(
            optimistic, greedy, float(self.table.rows().sum()), {"bonus": float(bonus.mean()), **self.bounds.scalars()}
        )

    def plan(self, bonus: FloatArray) -> Plan:
        """(1) The backward pass by sufficient statistics, for a bonus (H, S, A)."""
        H, S, A = bonus.shape
        linear = self.config.reward == "linear"
        r_hat = self.true_reward if self.config.reward == "known" else self.table.reward
        Q, V = np.zeros((H, S, A)), np.zeros((H + 1, S))
        counts = self.table.model().counts  # of the transitions that went on
        for h in range(H - 1, -1, -1):
            phi = self.phi[h].reshape(S * A, -1)  # (SA, d)
            target = counts.matrix(h) @ V[h + 1]  # (SA,) sum of next values over the visits of each pair
            if linear:
                target = target + self.table.reward_sum[h].reshape(-1)
            w = self.elliptical.inverse[h] @ (phi.T @ target)  # (d,)
            value = (phi @ w).reshape(S, A) + bonus[h]
            Q[h] = np.clip(value if linear else r_hat[h] + value, self.floor[h], self.cap[h])
            V[h] = Q[h].max(axis=-1)
        return Plan(Q, V, float((self.cap[:, None, None] <= Q).mean()))

    def exact_metrics(self, model: ExactModel) -> dict[str, float]:
        """How optimistic the plan is."""
        return {"optimism": self.planned.optimism(model)}

    def state_dict(self) -> State:
        """Counts, covariances, the last plan, generator and counters; features come from the environment."""
        return {
            "table": self.table.state_dict(),
            "bounds": self.bounds.state_dict(),
            "elliptical": self.elliptical.state_dict(),
            "planned": self.planned.state_dict(),
            "version": self.version,
            "rng": generator_state(self.rng),
        }

    def load_state_dict(self, state: State) -> None:
        for key in self.state_dict():
            require(key in state, f"lsvi-ucb: the saved state lacks '{key}'.")
        d = np.shape(state["elliptical"].get("Sigma"))[-1:]
        require(d == (self.phi.shape[-1],), f"lsvi-ucb: the saved Sigma has dimension {d}, not {self.phi.shape[-1]}.")
        self.table.load_state_dict(state["table"])
        self.bounds.load_state_dict(state["bounds"])
        self.elliptical.load_state_dict(state["elliptical"])
        self.planned.load_state_dict(state["planned"])
        self.version = int(state["version"])
        restore_generator(self.rng, state["rng"])


def true_features(model: ExactModel, kind: str, name: str) -> FloatArray:
    """phi (H, S, A, d) of the exact model, or one-hot features of the pair (d = S A) by request or without factors."""
    if kind == "true" and model.phi is not None:
        return model.phi
    H, S, A = model.r.shape
    pairs = S * A
    require(
        pairs <= LARGEST_ONEHOT, f"lsvi-ucb: one-hot features of {name} need d = S A <= {LARGEST_ONEHOT}, got {pairs}."
    )
    return np.broadcast_to(np.eye(pairs).reshape(S, A, pairs), (H, S, A, pairs))
