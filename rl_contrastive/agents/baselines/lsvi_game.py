"""OMNI-VI (Xie, Chen, Wang, Yang 2020) on a game's true features phi_h(s,a,b): an upper reference for learned ones.

    Lambda_h = lambda I + sum_n phi_n phi_n'
    for k = 1..K
      1. for h = H-1..0:  w-bar_h   = Lambda_h^-1 sum_n phi_h(s_n,a_n,b_n) V-bar_{h+1}(s'_n),  w-under_h likewise
                          Q-bar_h   = min(r_h + w-bar_h'phi_h   + beta_h ||phi_h||_{Lambda_h^-1}, H - h)
                          Q-under_h = max(r_h + w-under_h'phi_h - beta_h ||phi_h||_{Lambda_h^-1}, 0)
                          sigma_h(s) = CCE(Q-bar_h(s), Q-under_h(s)),  V-bar_h = <sigma_h, Q-bar_h>, V-under_h likewise
      2. play a joint action of sigma_h; Lambda_h += phi phi' at each visited triple

beta_h = c (H - h). The regression is the expectation under the signed measure mu_h(s') = phi_h Lambda_h^-1 sum_n phi_n
[s'_n = s'], summed over counts of triples instead of visits as in `lsvi_ucb`. So the planner of models works unchanged.
The policy handed out is the Nash equilibrium of the same recursion with beta = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from rl_contrastive.agents.baselines.planned import OptimisticBaseline, PlannedGame, true_features
from rl_contrastive.config import Ge, Gt, Options
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.planning.bonus import EllipticalBonus
from rl_contrastive.planning.optimistic_games import plan_game, plan_nash
from rl_contrastive.registry import register
from rl_contrastive.spec import Array, Env, FloatArray, Transition


@dataclass(frozen=True)
class LsviGameConfig(Options, where="lsvi-game"):
    """OMNI-VI with the true phi_h(s,a,b) of the exact model."""

    batch: Annotated[int, Ge(1)] = 50
    """B, episodes between two updates."""
    c: Annotated[float, Ge(0)] = 0.1
    """Scale of the bonus: beta_h = c (H - h); for other rewards H - h is the range of the return to go."""
    lam: Annotated[float, Gt(0)] = 1.0
    """lambda, ridge of the regression and of the covariance."""
    features: Literal["true", "onehot"] = "true"
    """"true": phi of `env.exact()`; "onehot": d = S A B, where the method is value iteration on counts. Environments
    without factors fall back to "onehot"."""
    reward: Literal["known", "table"] = "known"
    """"known": r_h(s,a,b) of the exact model, as Contrastive-UCB's analysis assumes; "table": observed means."""
    growth: Annotated[float, Ge(0)] = 0.0
    """Replan when the number of transitions grew by this fraction (0: after every batch)."""
    reward_max: float | None = None
    """Largest reward; default the environment's bound, or the largest reward seen where it declares none."""


@dataclass(frozen=True)
class RidgeModel:
    """The regression as a model: expect(h, V) = phi_h(s,a,b)' Lambda_h^-1 sum_n phi_n V(s'_n), linear in V.

    Its rows are no distributions: they may be negative, and shrinkage by lambda makes them sum to less than 1.
    """

    phi: FloatArray
    """(H, S, AB, d)."""
    inverse: FloatArray
    """Lambda_h^-1 (H, d, d)."""
    counts: TransitionCounts
    """N_h(s,a,b,s') of the transitions after which the episode went on."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.phi.shape[0], self.phi.shape[1], self.phi.shape[2]

    def expect(self, h: int, values: FloatArray) -> FloatArray:
        """(S,) or (S, k) -> (S, AB) or (S, AB, k)."""
        _, S, AB = self.shape
        phi = self.phi[h].reshape(S * AB, -1)  # (SAB, d)
        target = np.asarray(self.counts.matrix(h) @ values)  # (SAB, ...) sums over the visits of each triple
        w = self.inverse[h] @ (phi.T @ target)  # (d, ...)
        return np.asarray((phi @ w).reshape(S, AB, *values.shape[1:]))

    def rows(self, h: int) -> FloatArray:
        """mu_h as a table (S, AB, S)."""
        return self.expect(h, np.eye(self.phi.shape[1]))


@register("agent", "lsvi-game", LsviGameConfig)
class LsviGame(OptimisticBaseline):
    """Optimistic least-squares value iteration for games on the TRUE features: the ceiling (reads the exact model)."""

    plays = "game"
    planned: PlannedGame
    elliptical: EllipticalBonus

    def __init__(self, env: Env, config: LsviGameConfig, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        self.phi, self.true_reward = true_features(env, config.features, self.name, "nash-vi")  # (H, S, AB, d)
        self.elliptical = EllipticalBonus(self.env_spec.horizon, self.phi.shape[-1], config.lam)
        self._plan()

    def observe(self, transition: Transition) -> None:
        super().observe(transition)
        t = transition
        self.elliptical.update(t.h, self.phi[t.h, t.obs[t.alive], t.action[t.alive]])  # (2)

    def certificate(self, obs: Array) -> FloatArray:
        """V-bar_0 - V-under_0 (N,): bounds the gap of sigma's marginals where the bonus covers the model's error."""
        return self.planned.certificate(np.asarray(obs, dtype=np.int64))

    def _plan(self) -> None:
        self.table.refresh()
        self.floor, self.cap = self.bounds.returns()
        players = self.env_spec.game
        model = RidgeModel(self.phi, self.elliptical.inverse, self.table.model().counts)
        r = self.true_reward if self.config.reward == "known" else self.table.reward
        bonus = self.config.c * (self.cap - self.floor)[:, None, None] * self.elliptical.norms(self.phi)  # (H, S, AB)
        optimistic = plan_game(model, r, bonus, players, cap=self.cap, floor=self.floor)  # (1)
        report = {"bonus": float(bonus.mean()), "cce_gap": optimistic.gap, **self.bounds.scalars()}
        self.planned = PlannedGame(optimistic, plan_nash(model, r, players), float(self.table.rows().sum()), report)
