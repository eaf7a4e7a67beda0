"""Optimistic Nash value iteration (Liu, Yu, Bai, Jin 2021): both players explore by visit counts.

    initialise Q-bar_h = H - h, Q-under_h = 0
    for k = 1..K
      1. play a joint action of sigma_h(.,.|s), h = 0..H-1
      2. N_h(s,a,b,s'), N_h(s,a,b), P-hat_h = N_h(s,a,b,s') / N_h(s,a,b)         (lines 15-17)
      3. for h = H-1..0:  Q-bar_h   = min(r_h + P-hat_h V-bar_{h+1}   + b_h, H - h)
                          Q-under_h = max(r_h + P-hat_h V-under_{h+1} - b_h, 0)  (lines 3-9)
         sigma_h(s) = CCE(Q-bar_h(s), Q-under_h(s)), V-bar_h = <sigma_h, Q-bar_h>, V-under_h = <sigma_h, Q-under_h>
         with b_h(s,a,b) = c (H - h) / sqrt(N_h(s,a,b)); triples without visits keep H - h and 0

The policy handed out is the Nash equilibrium of the same recursion with b = 0. There a triple without visits is worth
the middle of the range; with 0 the minimiser would rely on triples never tried. c = 0 with epsilon > 0 has no optimism.
Differences from the paper: The correction gamma_h = (c / H) P-hat (V-bar - V-under) and the second-order term of the
bonus are left out (they serve constants of the proof). So is the choice of the plan with the smallest V-bar - V-under.
The agent plans again only when the data grew by `growth`. Where the environment declares one kernel for all steps, all
steps are counted together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from rl_contrastive.agents.base import true_reward
from rl_contrastive.agents.baselines.planned import OptimisticBaseline, PlannedGame
from rl_contrastive.config import Ge, In, Options
from rl_contrastive.features.tables import StateTable, add_pooled, one_kernel
from rl_contrastive.planning.optimistic_games import plan_game, plan_nash
from rl_contrastive.registry import register
from rl_contrastive.spec import Array, Env, FloatArray, Transition


@dataclass(frozen=True)
class NashViConfig(Options, where="nash-vi"):
    """Optimistic Nash-VI with a scaled bonus."""

    batch: Annotated[int, Ge(1)] = 50
    """B, episodes between two updates."""
    c: Annotated[float, Ge(0)] = 0.1
    """Scale of the bonus c (H - h) / sqrt(N); for other rewards H - h is the range of the return to go."""
    epsilon: Annotated[float, In(0, 1)] = 0.0
    """Probability that both players act uniformly; with c = 0 the only exploration."""
    growth: Annotated[float, Ge(0)] = 0.0
    """Replan when the number of transitions grew by this fraction (0: after every batch). The equilibria are
    vertices, so between two plans few joint actions are tried: rare plans cost many episodes where much is unknown."""
    pool: bool = True
    """Where the environment declares one kernel for all steps, count all steps together."""
    known_reward: bool = False
    """Read r_h(s,a,b) from the environment's exact model, as the paper assumes it known; else use observed means."""
    reward_max: float | None = None
    """Largest reward; default the environment's bound, or the largest reward seen where it declares none."""


@register("agent", "nash-vi", NashViConfig)
class NashVI(OptimisticBaseline):
    """Optimistic Nash value iteration on empirical frequencies, with a bonus from visit counts (tabular games)."""

    plays = "game"
    planned: PlannedGame

    def __init__(self, env: Env, config: NashViConfig, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        spec = self.env_spec
        self.pooled = one_kernel(spec, config.pool)
        if self.pooled:
            self.table = StateTable(replace(spec, horizon=1), self.name)
        self.true_reward = true_reward(env) if config.known_reward else None
        self._plan()

    def observe(self, transition: Transition) -> None:
        if self.pooled:
            self.bounds.note(transition.reward[transition.alive])
            add_pooled(self.table, transition, self.env_spec.horizon)
        else:
            super().observe(transition)

    def policy(self, obs: Any, h: int, *, explore: bool = False) -> FloatArray:
        return self.planned.policy(obs, h, explore=explore, epsilon=self.config.epsilon)

    def certificate(self, obs: Array) -> FloatArray:
        """V-bar_0 - V-under_0 (N,): bounds the gap of sigma's marginals where the bonus covers the model's error."""
        return self.planned.certificate(np.asarray(obs, dtype=np.int64))

    def bonus(self) -> FloatArray:
        """b_h(s,a,b) (H, S, AB), infinite where there is no visit."""
        N = self.table.visits  # (H, S, AB), or (1, S, AB) of all steps together
        reach = (self.cap - self.floor)[:, None, None]  # (H, 1, 1)
        unseen = np.inf if self.config.c > 0 else 0.0
        return np.where(N > 0, self.config.c * reach / np.sqrt(np.maximum(N, 1.0)), unseen)

    def _plan(self) -> None:
        self.table.refresh()
        self.floor, self.cap = self.bounds.returns()
        model, players = self.table.model(), self.env_spec.game  # (2)
        r = self.table.reward if self.true_reward is None else self.true_reward
        r = np.broadcast_to(r, (self.env_spec.horizon, *r.shape[1:]))
        optimistic = plan_game(model, r, self.bonus(), players, cap=self.cap, floor=self.floor)  # (3)
        middle = ((self.cap + self.floor) / 2.0)[:, None, None]  # (H, 1, 1)
        nash = plan_nash(model, np.where(self.table.visits > 0, r, middle), players)
        visited = float((self.table.visits > 0).mean())
        report = {"visited": visited, "cce_gap": optimistic.gap, **self.bounds.scalars()}
        self.planned = PlannedGame(optimistic, nash, float(self.table.rows().sum()), report)
