"""The feature learner: from counts or stored rows to (phi_h, psi_h) of all steps h, with a report of the fit.

    spectral       closed form; exact, fast, no torch
    nce            gradient descent on a contrastive objective from random factors
    spectral+nce   descent from the spectral solution, kept at a step h only if a held-out loss improves there

Held-out data: a share `hold_out` of the transitions is set apart. One half of it stops the descent, the other half
compares its result with the spectral fit of the same training part. After this verdict everything is fitted again on
all data: the spectral solution, and where accepted the descent, for the number of iterations that was best.
Method nce has no other fit to be compared with. By default it holds nothing out and continues from the features of the
last fit. Where it holds data out, each fit starts cold, because an earlier fit has seen the data held out now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.features.config import VECTOR_DIM, LearnerConfig
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.maps import FeatureMap, LinearFeatures, TabularFeatures, constant_features
from rl_contrastive.features.neural_maps import NeuralFeatures
from rl_contrastive.features.spectral import SpectralFit, fit_tabular
from rl_contrastive.features.spectral_linear import LinearSpectralFit, fit_linear
from rl_contrastive.objectives.laws import tabular_law
from rl_contrastive.registry import require_recovers
from rl_contrastive.spec import BoolArray, FloatArray, IntArray, StepData

BIASED = {"tempered": "only a tempered ratio (P/P^-)^tau", "nothing": "no ratio P/P^-"}
"""What `recovers` means in words, for objectives whose minimiser is no model."""


@dataclass(frozen=True)
class Fit:
    """Features and a report of their fit.

    report: (H,) arrays; after a gradient stage `accepted` (0/1), `steps` (best iteration), `loss_spectral`,
    `loss_start` (the lifted start), `loss_refined` and `gain_se` (what refinement gains over the better of the two, in
    standard errors), all on held-out rows (NaN where none).
    visited (H, S, A): pairs with data, tables only. spectral: the closed form that the fit started from, if any.
    """

    features: FeatureMap
    report: dict[str, FloatArray]
    visited: BoolArray | None = None
    spectral: SpectralFit | LinearSpectralFit | None = None


class FeatureLearner:
    """`fit_table` for state indices, `fit_rows` for vector observations; stateless between calls."""

    def __init__(self, config: LearnerConfig, *, horizon: int, num_actions: int, num_states: int | None = None) -> None:
        tabular = num_states is not None
        require(
            config.model == "auto" or (config.model == "tabular") == tabular,
            f"learner: model {config.model} does not fit {'state indices' if tabular else 'vector observations'}.",
        )
        require(
            tabular or config.law in ("marginal", "propensity"),
            f"learner: the law of negatives '{config.law}' needs a finite state space; vectors allow 'marginal' and, "
            "with method nce, 'propensity'.",
        )
        require(
            tabular or config.law == "marginal" or config.method == "nce",
            "learner: the closed form of vectors has the law 'marginal'; 'propensity' needs method nce.",
        )
        if config.method != "spectral":
            from rl_contrastive.objectives import make

            recovers = make(config.objective, config.objective_options).recovers
            require_recovers(f"learner: objective {config.objective}", recovers)
            biased = BIASED.get(recovers)
            require(
                biased is None or config.allow_biased,
                f"learner: {config.objective} with these options recovers {biased}, so P-hat would be wrong; choose "
                "other options or another objective, or set allow_biased (--agent.learner.allow-biased) for a control.",
            )
        self.config = config
        self.dim = config.dim or VECTOR_DIM
        """Largest d on vectors."""
        self.horizon, self.num_actions, self.num_states = horizon, num_actions, num_states

    def fit_table(
        self, counts: TransitionCounts, *, rng: np.random.Generator, start: FeatureMap | None = None, version: int = 0
    ) -> Fit:
        """Fit transition counts; `start`: features of an earlier fit, which warm the spectral iteration, or the descent
        of method nce where nothing is held out."""
        sizes = (counts.horizon, counts.num_states, counts.num_actions)
        expected = (self.horizon, self.num_states, self.num_actions)
        require(sizes == expected, f"learner: counts have sizes (H, S, A) = {sizes}, expected {expected}.")
        config, S = self.config, counts.num_states
        require(config.dim is None or config.dim <= S, f"learner: dim must be at most S = {S}, got {config.dim}.")
        if start is not None and not isinstance(start, TabularFeatures):
            raise RlcError("learner: start must be features of a table as well.")
        law = tabular_law(counts.succ_total(), config.law, mixture=config.mixture)
        spectral = None
        if config.method != "nce" or config.dim is None:
            spectral = fit_tabular(counts, config.dim, law=law, start=start, version=version)
            if config.method == "spectral":
                return Fit(spectral.features, {}, spectral.visited, spectral)
            config = replace(config, dim=spectral.features.dim)
            spectral = spectral if config.method != "nce" else None
        from rl_contrastive.features.refine import refine
        from rl_contrastive.features.table_problem import TableProblem

        problem = TableProblem(counts, law, config, spectral=spectral, start=start, rng=rng, version=version)
        features, report = refine(problem, config, rng=rng)
        return Fit(features, report, counts.pair_total() > 0, spectral)

    def fit_rows(
        self, data: StepData, *, rng: np.random.Generator, start: FeatureMap | None = None, version: int = 0
    ) -> Fit:
        """Fit stored rows; a step without rows gets the constant feature (P-hat = P^-). `start`: see `fit_table`.

        `spectral` of the result covers the steps with rows only, in order.
        """
        H = data.obs.shape[0]
        require(self.horizon == H, f"learner: data have {H} steps, expected {self.horizon}.")
        inside = (data.action >= 0) & (data.action < self.num_actions)
        require(bool(inside.all()), f"learner: a stored action is outside 0..{self.num_actions - 1}.")
        if start is not None and not isinstance(start, LinearFeatures | NeuralFeatures):
            raise RlcError("learner: start must be features of vector observations as well.")
        levels: IntArray = np.flatnonzero(data.count >= 1).astype(np.int64)
        D = int(np.prod(data.obs.shape[2:], dtype=np.int64))
        k = min(self.config.linear.pca_dim, D)
        # The closed form has at most k directions and the constant: a given d above is refused, the default is lowered.
        dim = self.dim if self.config.dim or self.config.method == "nce" else min(self.dim, k + 1)
        if not len(levels):
            return Fit(constant_features(H, D, k, self.num_actions, dim, version), {})
        some = data if len(levels) == H else take_levels(data, levels)
        spectral = None
        report: dict[str, FloatArray] = {}
        if self.config.method != "nce":
            spectral = fit_linear(some, self.num_actions, dim, self.config.linear, version=version)
        if spectral is not None and self.config.method == "spectral":
            fitted: LinearFeatures | NeuralFeatures = spectral.features
        else:
            fitted, report = self._refine_rows(some, levels, spectral, start, version, rng)
        if len(levels) == H:
            return Fit(fitted, report, None, spectral)
        report = {name: _scattered(value, levels, H, np.nan) for name, value in report.items()}
        return Fit(spread_levels(fitted, levels, H), report, None, spectral)

    def _refine_rows(
        self,
        data: StepData,
        levels: IntArray,
        spectral: LinearSpectralFit | None,
        start: LinearFeatures | NeuralFeatures | None,
        version: int,
        rng: np.random.Generator,
    ) -> tuple[LinearFeatures | NeuralFeatures, dict[str, FloatArray]]:
        from rl_contrastive.features.refine import refine
        from rl_contrastive.features.row_problem import RowProblem

        some = None if start is None else select_levels(start, levels)
        config = replace(self.config, dim=self.dim if spectral is None else spectral.features.dim)
        problem = RowProblem(data, self.num_actions, config, spectral=spectral, start=some, rng=rng, version=version)
        return refine(problem, config, rng=rng)


def take_levels(data: StepData, levels: IntArray, rows: int | None = None) -> StepData:
    """The data of some steps only, with the first `rows` rows of each (default: all, padding included)."""
    return StepData(
        data.obs[levels, :rows],
        data.action[levels, :rows],
        data.reward[levels, :rows],
        data.next_obs[levels, :rows],
        data.discount[levels, :rows],
        data.count[levels],
    )


ARRAYS = ("mean", "whitening", "Phi", "next_mean", "next_whitening", "Psi", "sharpness", "scale")


def select_levels(features: LinearFeatures | NeuralFeatures, levels: IntArray) -> LinearFeatures | NeuralFeatures:
    """The features of some steps only."""
    linear = features.linear if isinstance(features, NeuralFeatures) else features
    part = LinearFeatures(**{name: getattr(linear, name)[levels] for name in ARRAYS}, version=linear.version)
    if isinstance(features, NeuralFeatures):
        return NeuralFeatures(part, {name: value[levels] for name, value in features.weights.items()})
    return part


def spread_levels(
    features: LinearFeatures | NeuralFeatures, levels: IntArray, horizon: int
) -> LinearFeatures | NeuralFeatures:
    """Inverse of `select_levels`: constant features at the steps that are not listed."""
    linear = features.linear if isinstance(features, NeuralFeatures) else features
    D, k = linear.whitening.shape[1:]
    _, A, _, d = linear.Phi.shape
    base = constant_features(horizon, D, k, A, d)
    arrays = {name: np.array(getattr(base, name)) for name in ARRAYS}
    for name, value in arrays.items():
        value[levels] = getattr(linear, name)
    full = LinearFeatures(**arrays, version=linear.version)
    if isinstance(features, NeuralFeatures):
        return NeuralFeatures(full, {n: _scattered(v, levels, horizon, 0.0) for n, v in features.weights.items()})
    return full


def _scattered(value: FloatArray, levels: IntArray, horizon: int, fill: float) -> FloatArray:
    out = np.full((horizon, *value.shape[1:]), fill)
    out[levels] = value
    return out
