"""UCBVI (Azar, Osband, Munos 2017): optimism from visit counts alone. What features are compared against.

    initialise Q_h(s,a) = H - h
    for k = 1..K
      1. play greedily with respect to Q_h, h = 0..H-1                       (Algorithm 1, line 6)
      2. N_h(s,a,s'), N_h(s,a) from all episodes                             (line 3)
      3. P-hat_h(s'|s,a) = N_h(s,a,s') / N_h(s,a)                            (Algorithm 2, line 1)
      4. for h = H-1..0:  Q_h = min(H - h, r_h + P-hat_h V_{h+1} + b_h), V_h = max_a Q_h
         with b_h(s,a) = c H / sqrt(N_h(s,a)); pairs without visits keep H - h

Differences from the paper: counts are kept by step (the kernel may depend on h); the running minimum with the previous
Q is left out (it serves the proof); plans are redone only when the data grew by `growth`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from rl_contrastive.agents.base import true_reward
from rl_contrastive.agents.baselines.planned import LastPlan, OptimisticBaseline
from rl_contrastive.config import Ge, In, Options
from rl_contrastive.planning.lsvi import plan_model
from rl_contrastive.registry import register
from rl_contrastive.spec import Env, FloatArray


@dataclass(frozen=True)
class UcbviConfig(Options, where="ucbvi"):
    """UCBVI with a scaled or the paper's Hoeffding bonus."""

    batch: Annotated[int, Ge(1)] = 10
    """B, episodes between two updates."""
    c: Annotated[float, Ge(0)] = 0.03
    """Scale of the bonus. With bonus "count" b = c H / sqrt(N); .03 was best of a few on low-rank MDPs."""
    bonus: Literal["count", "hoeffding"] = "count"
    """"count": c H / sqrt(N). "hoeffding": c 7 H L / sqrt(N), L = log(5 S A T / delta) with T the steps seen so far;
    c = 1 is the paper's."""
    delta: Annotated[float, In(0, 1, above=True, below=True)] = 0.05
    """Failure probability of the Hoeffding bonus."""
    growth: Annotated[float, Ge(0)] = 0.05
    """Replan when the number of transitions grew by this fraction (0: after every batch)."""
    known_reward: bool = False
    """Read r_h(s,a) from the environment's exact model, as the paper assumes it known; else use observed means."""
    reward_max: float | None = None
    """Largest reward; default the environment's bound, or the largest reward seen where it declares none."""


@register("agent", "ucbvi", UcbviConfig)
class UCBVI(OptimisticBaseline):
    """Optimistic value iteration on empirical frequencies, with a bonus from visit counts (tabular)."""

    def __init__(self, env: Env, config: UcbviConfig, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        self.true_reward = true_reward(env) if config.known_reward else None
        self._plan()

    def bonus(self) -> FloatArray:
        """b_h(s,a) (H, S, A), infinite where there is no visit."""
        N = self.table.visits
        H, S, A = N.shape
        low, high = self.bounds.reward()
        # The paper's rewards are in [0, 1]; the bonus scales with the largest reward in absolute value.
        scale = self.config.c * H * max(high, -low)
        if self.config.bonus == "hoeffding":
            scale *= 7.0 * np.log(5.0 * S * A * max(N.sum(), 1.0) / self.config.delta)
        return np.where(N > 0, scale / np.sqrt(np.maximum(N, 1.0)), np.inf if self.config.c > 0 else 0.0)

    def _plan(self) -> None:
        self.table.refresh()
        model = self.table.model()  # (3)
        r = self.table.reward if self.true_reward is None else self.true_reward
        floor, cap = self.bounds.returns()
        optimistic = plan_model(model, r, self.bonus(), cap=cap, floor=floor)  # (4)
        greedy = plan_model(model, r)
        visited = float((self.table.visits > 0).mean())
        self.planned = LastPlan(
            optimistic, greedy, float(self.table.rows().sum()), {"visited": visited, **self.bounds.scalars()}
        )
