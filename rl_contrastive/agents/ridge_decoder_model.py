"""The variant of Contrastive-UCB that is not Algorithm 1: it acts by ridge LSVI and hands out a decoder's policy.

It acts by least-squares value iteration on phi; no plan uses psi, P^- or P-hat. The policy handed out is planned on
latent states decoded from the same rows, with their frequencies, and never uses phi.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rl_contrastive.agents.table_features import fit_scalars
from rl_contrastive.config import require, require_keys
from rl_contrastive.features.embedded import at_step, of_rows
from rl_contrastive.features.learner import FeatureLearner
from rl_contrastive.features.maps import FeatureMap
from rl_contrastive.features.neural_maps import features_from_state
from rl_contrastive.features.tables import LatentTable
from rl_contrastive.planning.bonus import EllipticalBonus
from rl_contrastive.planning.bounds import ReturnBounds
from rl_contrastive.planning.lsvi import plan_model, plan_ridge
from rl_contrastive.spec import Array, BoolArray, Embedded, Env, ExactModel, FloatArray, IntArray, State, Transition

if TYPE_CHECKING:
    from rl_contrastive.agents.ucb_config import ContrastiveUCBConfig

PLANS = ("w", "Q_greedy", "floor", "cap")


class RidgeDecoderModel:
    """phi(o,a) in R^d of the observation; Q_h = clip(phi'w_h + b_h) with w_h by ridge regression on the rows.

    The bonus-free values of this regression fail over long horizons. The maximum over A noisy phi'w is biased upwards
    at each step, most where nothing pays. On the lock of 20 steps this hides the path that the optimistic policy
    already walks to the end. So the policy handed out is a decoder's.
    """

    def __init__(self, env: Env, config: ContrastiveUCBConfig) -> None:
        spec = env.env_spec
        require(not config.known_reward, "ucb: known_reward needs a table of states; vectors learn the reward.")
        dim = config.learner.dim
        require(dim is None or dim >= 2, f"ucb: learner.dim must be >= 2 for vectors, got {dim}.")
        self.config, self.horizon = config, spec.horizon
        self.table = LatentTable(spec, config.decoder, capacity=config.capacity, growth=config.decoder_growth)
        self.learner = FeatureLearner(config.learner, horizon=spec.horizon, num_actions=spec.num_actions)
        self.bounds = ReturnBounds(spec, config.reward_max)
        self.unit = self.bounds.unit
        self.floor, self.cap = self.bounds.returns()  # as of the last plan
        self.bonus = EllipticalBonus(spec.horizon, self.learner.dim, config.lam)
        self.features: FeatureMap | None = None
        self.w: FloatArray = np.zeros((spec.horizon, self.learner.dim))
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
        self.floor, self.cap = self.bounds.returns()
        self.unit = self.bounds.unit
        b = np.zeros(there.shape[:3])
        for h in range(H - 1):
            b[h] = self._bonus(h + 1, there[h])
        bounds = {"cap": self.cap, "floor": self.floor}
        self.w = plan_ridge(phi, data.reward, there, b, data.discount, data.count, lam=config.lam, **bounds)
        self.table.refresh(rng=rng)
        M = self.table.M
        P = M / np.maximum(M.sum(axis=3, keepdims=True), 1.0)
        self.Q_greedy = plan_model(P, self.table.reward, alive=self.table.alive).Q
        return {"bonus": float(b[:-1].mean()) if H > 1 else 0.0, **self.bounds.scalars(), **fit_scalars(fit)}

    def _bonus(self, h: int, phi: FloatArray) -> FloatArray:
        """b_h, in units of the rewards' range."""
        return self.unit * self.bonus.bonus(h, phi, self.config.gamma, self.horizon)

    def q(self, h: int, obs: Array, *, explore: bool) -> FloatArray:
        if not explore:
            return np.asarray(self.Q_greedy[h, self.table.label(h, obs, explore=False)])
        assert self.features is not None
        phi = self.features.phi(h, np.asarray(obs))  # (N, A, d)
        return np.asarray(np.clip(phi @ self.w[h] + self._bonus(h, phi), self.floor[h], self.cap[h]))

    def embed(self, h: int, obs: Array, action: IntArray, next_obs: Array) -> Embedded | None:
        return None if self.features is None else at_step(self.features, h, obs, action, next_obs)

    def stored_features(self) -> Embedded | None:
        return None if self.features is None else of_rows(self.features, self.table.store.data())

    def exact_metrics(self, model: ExactModel) -> dict[str, float]:
        return {}

    def state_dict(self) -> State:
        features = None if self.features is None else self.features.state_dict()
        plans = {name: getattr(self, name).copy() for name in PLANS}
        plans |= {"unit": self.unit, "bounds": self.bounds.state_dict()}
        return {**plans, "table": self.table.state_dict(), "features": features, "bonus": self.bonus.state_dict()}

    def load_state_dict(self, state: State) -> None:
        require_keys(state, (*PLANS, "unit", "bounds", "table", "features", "bonus"), "model")
        for name in PLANS:
            setattr(self, name, np.array(state[name], dtype=np.float64))
        self.unit = float(state["unit"])
        self.bounds.load_state_dict(state["bounds"])
        self.table.load_state_dict(state["table"])
        self.bonus.load_state_dict(state["bonus"])
        self.features = None if state["features"] is None else features_from_state(state["features"])
