"""Algorithm 1 on vector observations: phi, psi and P-hat = P^- psi'phi over the stored successors.

features   phi, psi on the simplex (`features/mixture.py`), or another contrastive fit of the learner
Sigma_h    lambda I + sum over the stored rows of phi phi',   b_h = gamma ||phi||_{Sigma_h^-1}
theta_h    ridge regression of the rewards on phi: r-hat_h = phi'theta_h
w_h        E_{o' ~ P^-_h}[psi_h(o') V_{h+1}(o')], so that P-hat_h V_{h+1} = phi'w_h
Q_h        clip(phi'(theta_h + w_h) + b_h, floor_h, cap_h);  the policy handed out is greedy in the same with b = 0
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rl_contrastive.config import require, require_keys
from rl_contrastive.features.embedded import at_step, of_rows
from rl_contrastive.features.learner import FeatureLearner
from rl_contrastive.features.maps import FeatureMap
from rl_contrastive.features.mixture_learner import LEAST_ROWS, MixtureLearner
from rl_contrastive.features.neural_maps import features_from_state
from rl_contrastive.features.steps import StepStore
from rl_contrastive.objectives.laws import row_law
from rl_contrastive.planning.bonus import EllipticalBonus
from rl_contrastive.planning.bounds import ReturnBounds
from rl_contrastive.planning.lsvi import plan_features
from rl_contrastive.spec import (
    Array,
    BoolArray,
    Embedded,
    Env,
    ExactModel,
    FloatArray,
    IntArray,
    State,
    StepData,
    Transition,
)

if TYPE_CHECKING:
    from rl_contrastive.agents.ucb_config import ContrastiveUCBConfig

PLANS = ("theta", "w", "w_greedy", "floor", "cap")


class VectorModel:
    """phi(o,a) and psi(o') of the observation; plans through P-hat, and hands out the plan without a bonus."""

    def __init__(self, env: Env, config: ContrastiveUCBConfig) -> None:
        spec = env.env_spec
        require(not config.known_reward, "ucb: known_reward needs a table of states; vectors learn the reward.")
        dim = config.learner.dim
        require(dim is None or dim >= 2, f"ucb: learner.dim must be >= 2 for vectors, got {dim}.")
        self.config, self.horizon = config, spec.horizon
        self.store = StepStore(spec, config.capacity)
        sizes = {"horizon": spec.horizon, "num_actions": spec.num_actions}
        simplex = config.learner.method == "spectral" and config.learner.model == "auto"
        enough = not simplex or config.capacity >= LEAST_ROWS
        require(enough, f"ucb: capacity must be >= {LEAST_ROWS} for simplex features, got {config.capacity}.")
        self.learner = MixtureLearner(config.mixture, config.learner, **sizes) if simplex else None
        other = FeatureLearner(config.learner, **sizes)  # always made: it refuses options that vectors do not have
        self.other = None if simplex else other
        self.features: FeatureMap | None = None
        self.fitted = 0
        """Rows ever stored at the last fit of the features."""
        self.bounds = ReturnBounds(spec, config.reward_max)
        self.bonus = EllipticalBonus(spec.horizon, 1, config.lam)
        self.unit = self.bounds.unit
        self.floor, self.cap = self.bounds.returns()  # of the last plan, as all attributes below
        self.theta: FloatArray = np.zeros((spec.horizon, 1))
        self.w: FloatArray = np.zeros((spec.horizon, 1))
        self.w_greedy: FloatArray = np.zeros((spec.horizon, 1))

    def add(self, transition: Transition, rows: BoolArray) -> None:
        self.store.add(transition, rows)

    def rows(self) -> IntArray:
        return self.store.total

    def fit(self, version: int, *, rng: np.random.Generator) -> dict[str, float]:
        """2.-4. Fit the features if the rows grew by `feature_growth`; do the rest each time."""
        total = int(self.store.total.sum())
        if self.features is None or total >= (1.0 + self.config.feature_growth) * self.fitted:
            self._learn(version, rng)
            self.fitted = total
        assert self.features is not None
        data, H, features = self.store.data(), self.horizon, self.features
        N = data.action.shape[1]
        real = np.arange(N) < data.count[:, None]
        pairs = np.stack([features.phi(h, data.obs[h])[np.arange(N), data.action[h]] for h in range(H)])  # (H, N, d)
        self.bonus.rebuild(pairs, count=data.count)
        masked = pairs * real[..., None]
        self.theta = np.einsum("hij,hj->hi", self.bonus.inverse, np.einsum("hnd,hn->hd", masked, data.reward))
        psi = np.stack([features.psi(h, data.next_obs[h]) for h in range(H)])
        ahead = np.zeros((H, N, *features.phi(0, data.obs[0, :1]).shape[1:]))  # phi_{h+1}(o', .) (H, N, A, d)
        for h in range(H - 1):  # V_H = 0 needs none at the last step
            ahead[h] = features.phi(h + 1, data.next_obs[h])
        self.unit = self.bounds.unit
        self.floor, self.cap = self.bounds.returns()
        b = np.zeros(ahead.shape[:3])
        for h in range(H - 1):
            b[h] = self._bonus(h + 1, ahead[h])
        reward = np.zeros_like(b)
        reward[:-1] = np.einsum("hnad,hd->hna", ahead[:-1], self.theta[1:])
        law = self._law(data)
        bounds = {"cap": self.cap, "floor": self.floor}
        self.w = plan_features(psi, law, ahead, reward, b, data.discount, **bounds)
        self.w_greedy = plan_features(psi, law, ahead, reward, np.zeros_like(b), data.discount, **bounds)
        scalars = self.learner.scalars() if self.learner is not None else {"dim": float(features.dim)}
        return {"bonus": float(b[:-1].mean()) if H > 1 else 0.0, **self.bounds.scalars(), **scalars}

    def _learn(self, version: int, rng: np.random.Generator) -> None:
        data = self.store.data()
        if self.learner is not None:
            self.features = self.learner.fit(data, int(self.store.total.sum()), version=version)
        else:
            assert self.other is not None
            self.features = self.other.fit_rows(data, rng=rng, start=self.features, version=version).features

    def _law(self, data: StepData) -> FloatArray:
        """P^-_h (H, N) of the stored successors, that of the features' negatives."""
        if self.config.learner.law == "marginal":
            return row_law(np.zeros((*data.action.shape, 0)), data.count)
        from rl_contrastive.features.row_problem import successor_law  # torch, which the descent needs anyway

        return successor_law(data, self.config.learner)

    def _bonus(self, h: int, phi: FloatArray) -> FloatArray:
        """b_h, in units of the rewards' range."""
        return self.unit * self.bonus.bonus(h, phi, self.config.gamma, self.horizon)

    def q(self, h: int, obs: Array, *, explore: bool) -> FloatArray:
        assert self.features is not None
        phi = self.features.phi(h, np.asarray(obs))  # (N, A, d)
        Q = phi @ (self.theta[h] + (self.w if explore else self.w_greedy)[h])
        return np.asarray(np.clip(Q + self._bonus(h, phi), self.floor[h], self.cap[h]) if explore else Q)

    def embed(self, h: int, obs: Array, action: IntArray, next_obs: Array) -> Embedded | None:
        return None if self.features is None else at_step(self.features, h, obs, action, next_obs)

    def stored_features(self) -> Embedded | None:
        return None if self.features is None else of_rows(self.features, self.store.data())

    def exact_metrics(self, model: ExactModel) -> dict[str, float]:
        return {}

    def state_dict(self) -> State:
        plans = {name: getattr(self, name).copy() for name in PLANS}
        features = None if self.features is None else self.features.state_dict()
        parts = {"store": self.store.state_dict(), "bounds": self.bounds.state_dict(), "bonus": self.bonus.state_dict()}
        learner = None if self.learner is None else self.learner.state_dict()
        return {**plans, **parts, "features": features, "learner": learner, "fitted": self.fitted, "unit": self.unit}

    def load_state_dict(self, state: State) -> None:
        require_keys(state, (*PLANS, "store", "bounds", "bonus", "features", "learner", "fitted", "unit"), "model")
        for name in PLANS:
            setattr(self, name, np.array(state[name], dtype=np.float64))
        self.store.load_state_dict(state["store"])
        self.bounds.load_state_dict(state["bounds"])
        self.bonus.load_state_dict(state["bonus"])
        if self.learner is not None:
            self.learner.load_state_dict(state["learner"])
        self.features = None if state["features"] is None else features_from_state(state["features"])
        self.fitted, self.unit = int(state["fitted"]), float(state["unit"])
