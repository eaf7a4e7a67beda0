"""The base of the optimistic baselines, and their last plan, by whose policies they act until the data has grown."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from rl_contrastive.acting import sample
from rl_contrastive.agents.base import BaseAgent, grew_by
from rl_contrastive.config import load_arrays, require, require_keys
from rl_contrastive.errors import RlcError
from rl_contrastive.features.tables import StateTable
from rl_contrastive.planning.bonus import EllipticalBonus
from rl_contrastive.planning.bounds import ReturnBounds
from rl_contrastive.planning.lsvi import Plan
from rl_contrastive.planning.optimistic_games import GamePlan, NashPlan
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import Env, ExactModel, FloatArray, IntArray, State, Transition

LARGEST_ONEHOT = 1000
"""Most pairs S A for which one-hot features (d = S A) are allowed: the covariances are H (S A)^2 numbers."""


class KeptPlan:
    """A plan as a checkpoint needs it: policies are kept, not recomputed from newer counts.

    `rows` are the transitions it was made from; `report` its scalars.
    """

    arrays: ClassVar[tuple[str, ...]]

    def __init__(self, rows: float, report: dict[str, float]) -> None:
        self.rows, self.report = rows, report

    def policy(self, obs: Any, h: int, *, explore: bool) -> FloatArray:
        """pi_h(.|s) (N, A) of the states obs (N,)."""
        raise NotImplementedError

    def optimism(self, model: ExactModel) -> dict[str, float]:
        """By how much its values of the start are on the safe side: >= 0 with high probability for theory's bonus."""
        raise NotImplementedError

    def state_dict(self) -> State:
        """Arrays, rows and report."""
        return {**{name: getattr(self, name) for name in self.arrays}, "rows": self.rows, "report": dict(self.report)}

    def load_state_dict(self, state: State) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, (*self.arrays, "rows", "report"), "plan")
        load_arrays(self, state, self.arrays, "plan")
        self.rows = float(state["rows"])
        self.report = {name: float(value) for name, value in state["report"].items()}


class LastPlan(KeptPlan):
    """`V` (H+1, S) optimistic values; `explore`, `greedy` (H, S, A) policies with and without the bonus."""

    arrays = ("V", "explore", "greedy")

    def __init__(self, optimistic: Plan, greedy: Plan, rows: float, report: dict[str, float]) -> None:
        super().__init__(rows, {"saturated": optimistic.saturated, **report})
        self.V: FloatArray = optimistic.V
        self.explore, self.greedy = optimistic.greedy(), greedy.greedy()

    def policy(self, obs: Any, h: int, *, explore: bool) -> FloatArray:
        return np.asarray((self.explore if explore else self.greedy)[h, obs])

    def optimism(self, model: ExactModel) -> dict[str, float]:
        """rho . (V^UCB_0 - V*_0)."""
        return {"optimism": float(model.rho @ self.V[0]) - model.optimal_return}


class PlannedGame(KeptPlan):
    """`explore` (H, S, AB) the correlated equilibria sigma; `final_policy` (H, S, AB) the product of the Nash policies
    without bonus; `V_upper`, `V_lower` (S,) the optimistic values at h = 0."""

    arrays = ("explore", "final_policy", "V_upper", "V_lower")

    def __init__(self, optimistic: GamePlan, nash: NashPlan, rows: float, report: dict[str, float]) -> None:
        super().__init__(rows, {"saturated": optimistic.saturated, **report})
        self.explore: FloatArray = optimistic.sigma
        self.final_policy: FloatArray = nash.joint()
        self.V_upper, self.V_lower = optimistic.V_upper[0], optimistic.V_lower[0]

    def policy(self, obs: Any, h: int, *, explore: bool, epsilon: float = 0.0) -> FloatArray:
        """Joint probabilities (N, AB) of the states obs (N,); with explore, uniform with probability epsilon."""
        if not explore:
            return np.asarray(self.final_policy[h, obs])
        return np.asarray((1.0 - epsilon) * self.explore[h, obs] + epsilon / self.explore.shape[2])

    def certificate(self, obs: IntArray) -> FloatArray:
        """V-bar_0 - V-under_0 (N,)."""
        return np.asarray((self.V_upper - self.V_lower)[obs])

    def optimism(self, model: ExactModel) -> dict[str, float]:
        """rho . (V-bar_0 - V*_0) and rho . (V*_0 - V-under_0)."""
        value = model.optimal_return
        upper, lower = float(model.rho @ self.V_upper), float(model.rho @ self.V_lower)
        return {"optimism": upper - value, "pessimism": value - lower}


class OptimisticBaseline(BaseAgent):
    """Base of UCBVI, LSVI-UCB and their games: counts of states, and a plan of them that `_plan` makes."""

    planned: KeptPlan
    elliptical: EllipticalBonus | None = None

    def __init__(self, env: Env, config: Any, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        self.name: str = config.where
        self.table = StateTable(self.env_spec, self.name)
        self.bounds = ReturnBounds(self.env_spec, config.reward_max)
        self.rng = self.seeds.generator("act")

    def act(self, obs: Any, h: int) -> IntArray:
        return sample(self.policy(obs, h, explore=True), rng=self.rng)

    def observe(self, transition: Transition) -> None:
        self.bounds.note(transition.reward[transition.alive])
        self.table.add(transition)

    def update(self) -> dict[str, float]:
        if grew_by(float(self.table.rows().sum()), self.planned.rows, self.config.growth):
            self._plan()
            self.version += 1
        return self.planned.report

    def _plan(self) -> None:
        raise NotImplementedError

    def policy(self, obs: Any, h: int, *, explore: bool = False) -> FloatArray:
        return self.planned.policy(obs, h, explore=explore)

    def exact_metrics(self, model: ExactModel) -> dict[str, float]:
        """Optimism of the plan, in a game for each player."""
        return self.planned.optimism(model)

    def _parts(self) -> dict[str, Any]:
        parts = {"table": self.table, "bounds": self.bounds, "elliptical": self.elliptical, "planned": self.planned}
        return {name: part for name, part in parts.items() if part is not None}

    def state_dict(self) -> State:
        """Counts, covariances, the last plan, generator and counters; true features come from the environment."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return {**parts, "version": self.version, "rng": generator_state(self.rng)}

    def load_state_dict(self, state: State) -> None:
        parts = self._parts()
        require_keys(state, (*parts, "version", "rng"), self.name)
        if self.elliptical is not None:
            d, own = np.shape(state["elliptical"].get("Sigma"))[-1:], self.elliptical.dim
            require(d == (own,), f"{self.name}: the saved Sigma has dimension {d}, not {own}.")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        self.version = int(state["version"])
        restore_generator(self.rng, state["rng"])


def true_features(env: Env, kind: str, agent: str, other: str) -> tuple[FloatArray, FloatArray]:
    """phi (H, S, A, d) and r (H, S, A) of the exact model; phi is one-hot in the pair (d = S A) by request or where the
    model has no factors. `other`: an agent that does without."""
    model, name = env.exact(), env.env_spec.name
    if model is None or not model.observations_are_states:
        raise RlcError(f"{agent} reads the true features, and {name} has no exact model; use {other} instead.")
    if kind == "true" and model.phi is not None:
        return model.phi, model.r
    H, S, A = model.r.shape
    pairs = S * A
    require(
        pairs <= LARGEST_ONEHOT, f"{agent}: one-hot features of {name} need d = S A <= {LARGEST_ONEHOT}, got {pairs}."
    )
    return np.broadcast_to(np.eye(pairs).reshape(S, A, pairs), (H, S, A, pairs)), model.r
