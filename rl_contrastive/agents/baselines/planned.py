"""The last plan of an optimistic baseline: the policies it acts by until the next plan, and scalars."""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.planning.lsvi import Plan
from rl_contrastive.spec import ExactModel, FloatArray, State

ARRAYS = ("V", "explore", "greedy")


class LastPlan:
    """The last plan of a finite problem, as a checkpoint needs it: policies are kept, not recomputed from newer counts.

    `V` (H+1, S) optimistic values; `explore`, `greedy` (H, S, A) policies with and without the bonus; `rows` the
    transitions it was made from; `report` its scalars.
    """

    def __init__(self, optimistic: Plan, greedy: Plan, rows: float, report: dict[str, float]) -> None:
        self.V: FloatArray = optimistic.V
        self.explore, self.greedy = optimistic.greedy(), greedy.greedy()
        self.rows = rows
        self.report = {"saturated": optimistic.saturated, **report}

    def policy(self, obs: Any, h: int, *, explore: bool) -> FloatArray:
        """pi_h(.|s) (N, A) of the states obs (N,)."""
        return np.asarray((self.explore if explore else self.greedy)[h, obs])

    def optimism(self, model: ExactModel) -> float:
        """rho . (V^UCB_0 - V*_0): >= 0 with high probability for a theory-size bonus."""
        return float(model.rho @ self.V[0]) - model.optimal_return

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
            setattr(self, key, saved)
        self.rows = float(state["rows"])
        self.report = {name: float(value) for name, value in state["report"].items()}
