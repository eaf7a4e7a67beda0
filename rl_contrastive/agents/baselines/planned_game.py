"""The last plan of an optimistic baseline for games: the policies it acts by until the next plan, and a certificate."""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.planning.optimistic_games import GamePlan, NashPlan
from rl_contrastive.spec import ExactModel, FloatArray, IntArray, State

ARRAYS = ("explore", "final_policy", "V_upper", "V_lower")


class PlannedGame:
    """The last plan of a finite game, as a checkpoint needs it: policies are kept, not recomputed from newer counts.

    `explore` (H, S, AB) the correlated equilibria sigma; `final_policy` (H, S, AB) the product of the
    bonus-free Nash policies; `V_upper`, `V_lower` (S,) the optimistic values at h = 0; `rows` the transitions it was
    made from.
    """

    def __init__(self, optimistic: GamePlan, nash: NashPlan, rows: float, report: dict[str, float]) -> None:
        self.explore: FloatArray = optimistic.sigma
        self.final_policy: FloatArray = nash.joint()
        self.V_upper, self.V_lower = optimistic.V_upper[0], optimistic.V_lower[0]
        self.rows = rows
        self.report = {"saturated": optimistic.saturated, **report}

    def policy(self, obs: Any, h: int, *, explore: bool, epsilon: float = 0.0) -> FloatArray:
        """Joint probabilities (N, AB) of the states obs (N,); with explore, uniform with probability epsilon."""
        if not explore:
            return np.asarray(self.final_policy[h, obs])
        return np.asarray((1.0 - epsilon) * self.explore[h, obs] + epsilon / self.explore.shape[2])

    def certificate(self, obs: IntArray) -> FloatArray:
        """V-bar_0 - V-under_0 (N,)."""
        return np.asarray((self.V_upper - self.V_lower)[obs])

    def optimism(self, model: ExactModel) -> dict[str, float]:
        """rho . (V-bar_0 - V*_0) and rho . (V*_0 - V-under_0): >= 0 with high probability for a theory-size bonus."""
        value = model.optimal_return
        upper, lower = float(model.rho @ self.V_upper), float(model.rho @ self.V_lower)
        return {"optimism": upper - value, "pessimism": value - lower}

    def state_dict(self) -> State:
        """Arrays, rows and report."""
        return {**{name: getattr(self, name) for name in ARRAYS}, "rows": self.rows, "report": dict(self.report)}

    def load_state_dict(self, state: State) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        for key in (*ARRAYS, "rows", "report"):
            require(key in state, f"plan: the saved state lacks '{key}'.")
        for key in ARRAYS:
            saved, shape = np.array(state[key], dtype=np.float64), getattr(self, key).shape
            require(saved.shape == shape, f"plan: the saved {key} has shape {saved.shape}, not {shape}.")
        for key in ARRAYS:
            setattr(self, key, np.array(state[key], dtype=np.float64))
        self.rows = float(state["rows"])
        self.report = {name: float(value) for name, value in state["report"].items()}
