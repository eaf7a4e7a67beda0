"""Contrastive features of finite states and their confidence, on which the agents' table models are built.

Counts N_h(s,a,s') of states or decoded latents -> phi (G, S, A, d), psi (G, S, d) with P-hat = P^- psi'phi, and the
elliptical norms of all pairs. G = H levels, or G = 1 where every step has the same kernel and all data are pooled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from rl_contrastive.config import require, require_keys
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.decoder import DecoderConfig
from rl_contrastive.features.diagnostics import model_error, phi_angles
from rl_contrastive.features.embedded import at_step, of_counts
from rl_contrastive.features.learner import FeatureLearner, Fit
from rl_contrastive.features.maps import TabularFeatures
from rl_contrastive.features.tables import add_pooled, make_table, one_kernel
from rl_contrastive.planning.bonus import EllipticalBonus
from rl_contrastive.planning.models import DenseModel, LowRankModel, TransitionModel
from rl_contrastive.spec import (
    Array,
    BoolArray,
    Embedded,
    EnvSpec,
    ExactModel,
    FloatArray,
    IntArray,
    State,
    Transition,
)

WHOLE_TABLE = 3e7
"""Largest number of entries of P-hat that are stored for a planner (240 MB of float64)."""


class TableConfig(Protocol):
    """Fields of an agent's config that are read here."""

    @property
    def learner(self) -> LearnerConfig: ...
    @property
    def decoder(self) -> DecoderConfig: ...
    @property
    def decoder_growth(self) -> float: ...
    @property
    def capacity(self) -> int: ...
    @property
    def lam(self) -> float: ...


class TableFeatures:
    """Table of counts, feature learner and covariances of visits, kept in step by `refit`."""

    def __init__(self, spec: EnvSpec, config: TableConfig, *, pooled: bool = False) -> None:
        self.pooled, self.horizon = one_kernel(spec, pooled), spec.horizon
        self.spec = replace(spec, horizon=1) if self.pooled else spec
        self.table = make_table(self.spec, config.decoder, capacity=config.capacity, growth=config.decoder_growth)
        S = self.table.num_states
        learner = config.learner
        if learner.dim is not None:
            learner = replace(learner, dim=min(learner.dim, S))
        self.learner = FeatureLearner(learner, horizon=self.spec.horizon, num_actions=spec.num_actions, num_states=S)
        self.bonus = EllipticalBonus(self.spec.horizon, learner.dim or 1, config.lam)  # d is taken from each fit
        self.features: TabularFeatures | None = None
        self.visits: FloatArray = np.zeros((self.spec.horizon, S, spec.num_actions))
        """N_h(s,a) as of the last `refit`."""

    def add(self, transition: Transition, rows: BoolArray) -> None:
        """Store the masked rows."""
        if self.pooled:
            add_pooled(self.table, transition, self.horizon, rows)
        else:
            self.table.add(transition, rows)

    def level(self, h: int) -> int:
        """Index of step h in the tables."""
        return 0 if self.pooled else h

    def rows(self) -> IntArray:
        """(G,) transitions ever stored."""
        return self.table.rows()

    def label(self, h: int, obs: Array, *, explore: bool) -> IntArray:
        """States of observations (N, ...) of step h."""
        return self.table.label(self.level(h), obs, explore=explore)

    def refit(self, version: int, *, rng: np.random.Generator) -> Fit:
        """Decode and count new rows, fit (phi, psi), rebuild Sigma = lambda I + sum N(s,a) phi phi'."""
        self.table.refresh(rng=rng)
        counts = self.table.counts
        fit = self.learner.fit_table(counts, rng=rng, start=self.features, version=version)
        assert isinstance(fit.features, TabularFeatures)
        self.features = fit.features
        G, S, A, d = self.features.phi_table.shape
        self.visits = counts.pair_total()
        self.bonus.rebuild(self.features.phi_table.reshape(G, S * A, d), weight=self.visits.reshape(G, S * A))
        return fit

    def norms(self) -> FloatArray:
        """||phi(s,a)||_{Sigma^-1} (G, S, A)."""
        assert self.features is not None
        return self.bonus.norms(self.features.phi_table)

    def model(self) -> LowRankModel:
        """P-hat of the last fit, a proper distribution."""
        assert self.features is not None
        return self.features.model()

    def planner(self) -> TransitionModel:
        """The same model for a planner: one table for all steps if it is pooled and of moderate size."""
        model = self.model()
        G, S, A = model.shape
        return DenseModel(model.rows(0)[None]) if G == 1 and S * S * A <= WHOLE_TABLE else model

    def embed(self, h: int, obs: Array, action: IntArray, next_obs: Array) -> Embedded | None:
        """Features of transitions of step h, by the states that they are decoded to."""
        if self.features is None:
            return None
        s, s_next = (
            self.label(step, x, explore=True) for step, x in ((h, obs), (min(h + 1, self.horizon - 1), next_obs))
        )
        return at_step(self.features, self.level(h), s, action, s_next)

    def stored_features(self) -> Embedded | None:
        """Of what was counted; with the states only where they are observed."""
        if self.features is None:
            return None
        found = of_counts(self.features, self.table.counts)
        return found if found is None or self.spec.num_states is not None else replace(found, states=None)

    def exact_metrics(self, model: ExactModel) -> dict[str, float]:
        """TV of P-hat, weighted by visits, over the steps that were reached, and the largest principal angle of phi;
        where observations are states."""
        assert self.features is not None
        # All visits weigh the errors, or the numbers would depend on when a checkpoint merged the last ones.
        self.table.refresh()
        G = self.spec.horizon
        tv = model_error(self.features.model(), model.P[:G], self.table.counts.pair_total())
        reached = np.isfinite(tv.mean)  # episodes may end before a step was ever reached
        metrics = {"tv": float(tv.mean[reached].mean())} if reached.any() else {}
        if model.phi is not None and model.phi.shape[-1] <= self.features.dim:
            metrics["sin_angle"] = float(np.sin(phi_angles(self.features.phi_table, model.phi[:G])).mean())
        return metrics

    def state_dict(self) -> State:
        features = None if self.features is None else self.features.state_dict()
        parts = {"table": self.table.state_dict(), "features": features, "bonus": self.bonus.state_dict()}
        return {**parts, "visits": self.visits.copy()}

    def load_state_dict(self, state: State) -> None:
        require_keys(state, ("table", "features", "bonus", "visits"), "model")
        shape = np.shape(state["visits"])
        require(shape == self.visits.shape, f"model: the saved visits have shape {shape}, not {self.visits.shape}.")
        self.table.load_state_dict(state["table"])
        self.bonus.load_state_dict(state["bonus"])
        self.features = None if state["features"] is None else TabularFeatures.from_state(state["features"])
        self.visits = np.array(state["visits"], dtype=np.float64)


def fit_scalars(fit: Fit) -> dict[str, float]:
    """d of the features, and the share of the steps whose gradient refinement was kept, where there was one."""
    scalars = {"dim": float(fit.features.dim)}
    if "accepted" in fit.report:
        scalars["refined"] = float(np.nanmean(fit.report["accepted"]))
    return scalars
