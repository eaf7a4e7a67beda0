"""LSVI-UCB (Jin, Yang, Wang, Jordan 2020) on the environment's true features: a reference for learned ones.

    Lambda_h = lambda I + sum_n phi_n phi_n'
    for k = 1..K
      1. for h = H-1..0:  w_h = Lambda_h^-1 sum_n phi_h(s_n,a_n) [r_n + max_a Q_{h+1}(s'_n, a)]
                          Q_h = min(w_h'phi_h + beta ||phi_h||_{Lambda_h^-1}, H - h)         (Algorithm 1, lines 3-7)
      2. play greedily with respect to Q_h; Lambda_h += phi phi' at each visited pair        (lines 8-11)

The paper sums over all episodes in each backward pass, O(N A d^2). With finitely many states the sums over visits are
sums over pairs weighted by counts, sum_{s,a} phi(s,a) [R(s,a) + sum_s' N(s,a,s') V(s')], at a cost of O(S A d + nnz)
for any N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from rl_contrastive.agents.baselines.planned import LastPlan, OptimisticBaseline, true_features
from rl_contrastive.config import Ge, Gt, Options
from rl_contrastive.planning.bonus import EllipticalBonus
from rl_contrastive.planning.lsvi import Plan
from rl_contrastive.registry import register
from rl_contrastive.spec import Env, FloatArray, Transition


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
class LsviUcb(OptimisticBaseline):
    """Optimistic least-squares value iteration on the TRUE features: the ceiling (reads the exact model)."""

    elliptical: EllipticalBonus

    def __init__(self, env: Env, config: LsviUcbConfig, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        self.phi, self.true_reward = true_features(env, config.features, self.name, "ucbvi")  # (H, S, A, d)
        self.elliptical = EllipticalBonus(self.env_spec.horizon, self.phi.shape[-1], config.lam)
        self._plan()

    def observe(self, transition: Transition) -> None:
        super().observe(transition)
        t = transition
        visited = self.phi[t.h, t.obs[t.alive], t.action[t.alive]]  # (k, d)
        self.elliptical.update(t.h, visited)  # (2); the features never change, so Lambda is never rebuilt

    def _plan(self) -> None:
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
