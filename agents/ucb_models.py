"""The learned model behind Contrastive-UCB: features, bonus and optimistic values, on tables or on vectors.

TableModel    states or decoded latents: P-hat = P^- psi'phi is a table of rank d, planned on exactly.
VectorModel   phi(o,a) of the observation: least-squares value iteration on the stored rows, latents for the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from rl_contrastive.agents.base import true_reward
from rl_contrastive.agents.table_features import TableFeatures, accepted
from rl_contrastive.agents.tables import LatentTable
from rl_contrastive.config import require
from rl_contrastive.features.learner import FeatureLearner
from rl_contrastive.features.maps import FeatureMap
from rl_contrastive.features.neural_maps import features_from_state
from rl_contrastive.planning.bonus import EllipticalBonus
from rl_contrastive.planning.lsvi import plan_model, plan_ridge, return_caps
from rl_contrastive.spec import Array, BoolArray, Env, ExactModel, FloatArray, IntArray, State, Transition

if TYPE_CHECKING:
    from rl_contrastive.agents.contrastive_ucb import ContrastiveUCBConfig


class Model(Protocol):
    """What the agent asks of its model."""

    def add(self, transition: Transition, rows: BoolArray) -> None:
        """Store the masked rows."""

    def rows(self) -> IntArray:
        """(H,) rows ever stored."""

    def fit(self, version: int, *, rng: np.random.Generator) -> dict[str, float]:
        """Features, bonus, plan from all stored rows; scalars to record."""

    def q(self, h: int, obs: Array, *, explore: bool) -> FloatArray:
        """Q_h (N, A) with the bonus or without."""

    def exact_metrics(self, model: ExactModel) -> dict[str, float]: ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


class TableModel:
    """Finite states: phi (H,S,A,d) and psi (H,S,d) from counts, P-hat a proper distribution, exact backward pass."""

    def __init__(self, env: Env, config: ContrastiveUCBConfig) -> None:
        spec = env.env_spec
        self.config = config
        self.learned = TableFeatures(spec, config)
        self.floor, self.cap = return_caps(spec, config.reward_max)
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
        table, N, H = self.learned.table, self.learned.visits, len(self.Q)
        b = np.minimum(config.gamma * self.learned.norms(), H)
        if config.roll_in == "on-policy":
            # A pair without data has the features of P^-, which look familiar: it gets the norm of a new direction.
            # Where actions are uniform (paper) it is tried soon anyway, and chasing each one takes twice the episodes.
            b = np.where(N > 0, b, min(config.gamma / np.sqrt(config.lam), H))
        r = table.reward if self.true_reward is None else self.true_reward
        model = self.learned.model()
        plan = plan_model(model, r, b, cap=self.cap, floor=self.floor, alive=table.alive)
        self.Q = plan.Q
        self.Q_greedy = plan_model(model, r, alive=table.alive).Q
        scalars = {"saturated": plan.saturated, "bonus": float((b * N).sum() / max(N.sum(), 1.0))}
        return {**scalars, **accepted(fit)}

    def q(self, h: int, obs: Array, *, explore: bool) -> FloatArray:
        return np.asarray((self.Q if explore else self.Q_greedy)[h, self.learned.label(h, obs, explore=explore)])

    def exact_metrics(self, model: ExactModel) -> dict[str, float]:
        optimism = float(model.rho @ self.Q[0].max(axis=1)) - model.optimal_return
        return {**self.learned.exact_metrics(model), "optimism": optimism}

    def state_dict(self) -> State:
        return {"Q": self.Q, "Q_greedy": self.Q_greedy, **self.learned.state_dict()}

    def load_state_dict(self, state: State) -> None:
        for key in ("Q", "Q_greedy"):
            require(key in state, f"model: the saved state lacks '{key}'.")
        self.Q, self.Q_greedy = (np.array(state[k], dtype=np.float64) for k in ("Q", "Q_greedy"))
        self.learned.load_state_dict(state)


class VectorModel:
    """phi(o,a) in R^d of the observation; Q_h = clip(phi'w_h + b_h) with w_h by ridge regression on the rows.

    The bonus-free policy is planned on latent states decoded from the same rows, by their frequencies. A regression of
    the bonus-free values does not last: the maximum over A noisy phi'w is biased upwards at each step, worst where
    nothing pays, and on the lock of 20 steps it hides the path that the optimistic policy already walks to the end.
    """

    def __init__(self, env: Env, config: ContrastiveUCBConfig) -> None:
        spec = env.env_spec
        require(not config.known_reward, "ucb: known_reward needs a table of states; vectors learn the reward.")
        require(config.learner.dim >= 2, f"ucb: learner.dim must be >= 2 for vectors, got {config.learner.dim}.")
        self.config, self.horizon = config, spec.horizon
        self.table = LatentTable(spec, config.decoder, capacity=config.capacity, growth=config.decoder_growth)
        self.learner = FeatureLearner(config.learner, horizon=spec.horizon, num_actions=spec.num_actions)
        self.floor, self.cap = return_caps(spec, config.reward_max)
        self.bonus = EllipticalBonus(spec.horizon, config.learner.dim, config.lam)
        self.features: FeatureMap | None = None
        self.w: FloatArray = np.zeros((spec.horizon, config.learner.dim))
        self.Q_greedy: FloatArray = np.zeros((spec.horizon, self.table.num_states, spec.num_actions))

    def add(self, transition: Transition, rows: BoolArray) -> None:
        self.table.add(transition, rows)

    def rows(self) -> IntArray:
        return self.table.rows()

    def fit(self, version: int, *, rng: np.random.Generator) -> dict[str, float]:
        data, config, H = self.table.store.data(), self.config, self.horizon
        fit = self.learner.fit_rows(data, rng=rng, start=self.features, version=version)
        self.features = fit.features
        here = np.stack([self.features.phi(h, data.obs[h]) for h in range(H)])  # (H, N, A, d)
        phi = np.take_along_axis(here, data.action[:, :, None, None], axis=2)[:, :, 0]  # (H, N, d)
        there = np.zeros_like(here)  # phi_{h+1}(o', .); V_H = 0 needs none at the last step
        for h in range(H - 1):
            there[h] = self.features.phi(h + 1, data.next_obs[h])
        self.bonus.rebuild(phi, count=data.count)
        b = np.zeros(there.shape[:3])
        for h in range(H - 1):
            b[h] = self.bonus.bonus(h + 1, there[h], config.gamma, H)
        bounds = {"cap": self.cap, "floor": self.floor}
        self.w = plan_ridge(phi, data.reward, there, b, data.discount, data.count, lam=config.lam, **bounds)
        self.table.refresh(rng=rng)
        M = self.table.M
        P = M / np.maximum(M.sum(axis=3, keepdims=True), 1.0)
        self.Q_greedy = plan_model(P, self.table.reward, alive=self.table.alive).Q
        return {"bonus": float(b[:-1].mean()) if H > 1 else 0.0, **accepted(fit)}

    def q(self, h: int, obs: Array, *, explore: bool) -> FloatArray:
        if not explore:
            return np.asarray(self.Q_greedy[h, self.table.label(h, obs, explore=False)])
        assert self.features is not None
        phi = self.features.phi(h, np.asarray(obs))  # (N, A, d)
        b = self.bonus.bonus(h, phi, self.config.gamma, self.horizon)
        return np.asarray(np.clip(phi @ self.w[h] + b, self.floor[h], self.cap[h]))

    def exact_metrics(self, model: ExactModel) -> dict[str, float]:
        return {}

    def state_dict(self) -> State:
        features = None if self.features is None else self.features.state_dict()
        plans = {"w": self.w, "Q_greedy": self.Q_greedy}
        return {**plans, "table": self.table.state_dict(), "features": features, "bonus": self.bonus.state_dict()}

    def load_state_dict(self, state: State) -> None:
        for key in ("w", "Q_greedy", "table", "features", "bonus"):
            require(key in state, f"model: the saved state lacks '{key}'.")
        self.w, self.Q_greedy = (np.array(state[k], dtype=np.float64) for k in ("w", "Q_greedy"))
        self.table.load_state_dict(state["table"])
        self.bonus.load_state_dict(state["bonus"])
        self.features = None if state["features"] is None else features_from_state(state["features"])
