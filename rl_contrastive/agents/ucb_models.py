"""The learned model behind Contrastive-UCB on finite states: P-hat = P^- psi'phi is a table of rank d, planned exactly.

The states are observed, or decoded latents (`representation latent`). `vector_model.py` does the same on observations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from rl_contrastive.agents.base import true_reward
from rl_contrastive.agents.table_features import TableFeatures, fit_scalars
from rl_contrastive.config import require_keys
from rl_contrastive.planning.bounds import ReturnBounds
from rl_contrastive.planning.lsvi import plan_model
from rl_contrastive.spec import Array, BoolArray, Embedded, Env, ExactModel, FloatArray, IntArray, State, Transition

if TYPE_CHECKING:
    from rl_contrastive.agents.ucb_config import ContrastiveUCBConfig


class Model(Protocol):
    """The interface of the agent's model."""

    def add(self, transition: Transition, rows: BoolArray) -> None:
        """Store the masked rows."""

    bounds: ReturnBounds
    """Of the return to go."""

    def rows(self) -> IntArray:
        """(H,) rows ever stored."""

    def fit(self, version: int, *, rng: np.random.Generator) -> dict[str, float]:
        """Features, bonus, plan from all stored rows; scalars to record."""

    def q(self, h: int, obs: Array, *, explore: bool) -> FloatArray:
        """Q_h (N, A) with the bonus or without."""

    def embed(self, h: int, obs: Array, action: IntArray, next_obs: Array) -> Embedded | None:
        """As `spec.WithFeatures`."""

    def stored_features(self) -> Embedded | None:
        """As `spec.WithFeatures`."""

    def exact_metrics(self, model: ExactModel) -> dict[str, float]: ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


class TableModel:
    """Finite states: phi (H,S,A,d) and psi (H,S,d) from counts, P-hat a proper distribution, exact backward pass."""

    def __init__(self, env: Env, config: ContrastiveUCBConfig) -> None:
        spec = env.env_spec
        self.config = config
        self.learned = TableFeatures(spec, config, pooled=config.pool)
        self.bounds = ReturnBounds(spec, config.reward_max)
        S = self.learned.table.num_states
        self.Q: FloatArray = np.zeros((spec.horizon, S, spec.num_actions))
        self.Q_greedy: FloatArray = np.zeros_like(self.Q)
        self.true_reward = true_reward(env) if config.known_reward else None

    def add(self, transition: Transition, rows: BoolArray) -> None:
        self.learned.add(transition, rows)

    def rows(self) -> IntArray:
        return self.learned.rows()

    def fit(self, version: int, *, rng: np.random.Generator) -> dict[str, float]:
        fit, config = self.learned.refit(version, rng=rng), self.config
        table, N, H = self.learned.table, self.learned.visits, len(self.Q)  # N (G, S, A), G = 1 where pooled
        b = np.minimum(config.gamma * self.learned.norms(), H)
        if config.roll_in in ("on-policy", "thinned"):
            # A pair without data has the features of P^-, which look familiar, so it gets the norm of a new direction.
            # Where actions are uniform (paper) it is tried soon anyway, and chasing each one takes twice the episodes.
            b = np.where(N > 0, b, min(config.gamma / np.sqrt(config.lam), H))
        b, r = np.broadcast_to(self.bounds.unit * b, self.Q.shape), np.broadcast_to(table.reward, self.Q.shape)
        r = r if self.true_reward is None else self.true_reward
        model = self.learned.planner()
        floor, cap = self.bounds.returns()
        plan = plan_model(model, r, b, cap=cap, floor=floor, alive=table.alive)
        self.Q = plan.Q
        self.Q_greedy = plan_model(model, r, alive=table.alive).Q
        weight = np.broadcast_to(N, b.shape)
        scalars = {"saturated": plan.saturated, "bonus": float((b * weight).sum() / max(weight.sum(), 1.0))}
        return {**scalars, **self.bounds.scalars(), **fit_scalars(fit)}

    def q(self, h: int, obs: Array, *, explore: bool) -> FloatArray:
        return np.asarray((self.Q if explore else self.Q_greedy)[h, self.learned.label(h, obs, explore=explore)])

    def embed(self, h: int, obs: Array, action: IntArray, next_obs: Array) -> Embedded | None:
        return self.learned.embed(h, obs, action, next_obs)

    def stored_features(self) -> Embedded | None:
        return self.learned.stored_features()

    def exact_metrics(self, model: ExactModel) -> dict[str, float]:
        optimism = float(model.rho @ self.Q[0].max(axis=1)) - model.optimal_return
        return {**self.learned.exact_metrics(model), "optimism": optimism}

    def state_dict(self) -> State:
        plans = {"Q": self.Q, "Q_greedy": self.Q_greedy, "bounds": self.bounds.state_dict()}
        return {**plans, **self.learned.state_dict()}

    def load_state_dict(self, state: State) -> None:
        require_keys(state, ("Q", "Q_greedy", "bounds"), "model")
        self.bounds.load_state_dict(state["bounds"])
        self.Q, self.Q_greedy = (np.array(state[k], dtype=np.float64) for k in ("Q", "Q_greedy"))
        self.learned.load_state_dict(state)
