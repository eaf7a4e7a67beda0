"""From observations to latent states, step by step: directions that predict or are predictable, then clusters.

Two observations of step h are the same state if they have the same future (forward: the same distribution of
successors for each action) and the same past (backward: they are predicted alike by the step before). The closed-form
spectral contrastive fit gives both sets of directions. The PCA control takes the directions of largest variance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np

from rl_contrastive.config import Ge, Gt, In, Options, fill_arrays, require, require_keys
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.latents import (
    Clusters,
    cluster,
    discriminant,
    large_enough,
    propose,
    separated,
    settle,
    single_cluster,
)
from rl_contrastive.features.learner import FeatureLearner, take_levels
from rl_contrastive.features.maps import LinearFeatures
from rl_contrastive.features.spectral_linear import LinearSpectralConfig, first_columns, fit_linear
from rl_contrastive.features.whitening import FULL, LOOK_AGAIN, Whitening, full_is_better
from rl_contrastive.spec import Array, BoolArray, FloatArray, IntArray, State, StepData

LEAST_ROWS = 10
"""A step with fewer stored rows has one latent state, because states cannot be told apart yet."""


@dataclass(frozen=True)
class DecoderConfig(Options, where="decoder"):
    """How observations become latent states."""

    directions: Literal["contrastive", "pca"] = "contrastive"
    """contrastive: forward and backward directions of the spectral fit; pca: the leading principal directions of
    the observation alone (a control that uses no dynamics)."""
    most_latents: Annotated[int, In(1, 1000)] = 3
    """Largest number of latent states a step."""
    forward: Annotated[int, In(0, 1000)] = 2
    """Number of directions of o_h that predict its successors."""
    backward: Annotated[int | None, In(0, 1000)] = 2
    """Number of directions of o_h that are predictable from (o_{h-1}, a_{h-1}). None: 2 in the given whitening, 1 in
    the full one, whose second direction is mostly noise."""
    gap: Annotated[float | None, Gt(0)] = None
    """Least distance between the centres of two latents, in within-cluster standard deviations. None: 3 in the given
    whitening, 2.5 in the full one, whose directions carry more noise."""
    smallest: Annotated[int, Ge(1)] = 2
    """Least number of rows of a latent; a single row far from all others may be an outlier."""
    arrivals: bool = True
    """Look for the latents of a step also among the successors of the step before. A rare state appears there first.
    But a latent seen only as a successor counts as never visited, which suits bonuses on features and misleads
    counts."""
    discriminant: bool = False
    """Once the spectral directions have found the latents, replace them by Fisher's discriminant of these latents, the
    best directions for telling them apart. It helps where observation noise is large and Gaussian (noise .3 on the
    lock). It harms where irrelevant coordinates form clusters of their own (distractors), which it then sharpens."""
    shrinkage: Annotated[float, Gt(0)] = 0.01
    """Ridge of the discriminant's covariance, as a fraction of its mean variance."""
    refine: bool = False
    """At each refit, descend the paper's contrastive loss from the spectral fit. At the steps where a held-out loss
    improves, take the directions of the refined features (torch; far slower than the closed form)."""
    whitening: Whitening = "auto"
    """given: that of `spectral`; full: all directions down to the noise floor, right where distractors vary more than
    the coordinates that predict; auto: the one that predicts held-out rows better, chosen again as the rows grow."""
    spectral: LinearSpectralConfig = field(default_factory=LinearSpectralConfig)
    """Whitening and ridge of the closed-form fit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.forward + self.most_backward >= 1, "decoder: forward and backward must not both be 0.")

    @property
    def most_backward(self) -> int:
        """Backward directions of the whitening that has more."""
        return 2 if self.backward is None else self.backward


class LatentDecoder:
    """z_h(o): nearest centre of W_h'(o - mu_h), for all steps; refitted where data have grown.

    mean (H, D), W (H, D, q) with q = forward + backward columns (missing ones are 0), `clusters` of H steps.
    """

    def __init__(self, config: DecoderConfig, *, horizon: int, num_actions: int, obs_shape: tuple[int, ...]) -> None:
        D, q = int(np.prod(obs_shape)), config.forward + config.most_backward
        self.config, self.num_actions = config, num_actions
        self.mean: FloatArray = np.zeros((horizon, D))
        self.W: FloatArray = np.zeros((horizon, D, q))
        self.forward: FloatArray = np.zeros((horizon, D, config.forward))
        self.backward: FloatArray = np.zeros((horizon + 1, D, config.most_backward))  # of o_{h+1}, by the fit of step h
        self.full = config.whitening == "full"
        """Which of the two whitenings is in use."""
        self.looked_at = 0
        """Rows held when it was chosen."""
        K = config.most_latents
        self.clusters = Clusters(np.zeros((horizon, K, q)), np.ones(horizon, dtype=np.int64), np.zeros((horizon, K)))

    def refit(self, data: StepData, levels: IntArray, *, rng: np.random.Generator | None = None) -> IntArray:
        """Fit the steps `levels` on their rows and return the steps whose decoder changed (those and the next ones).

        rng: only for the refinement by descent, because the closed form is deterministic.
        """
        H = len(self.mean)
        levels = levels[data.count[levels] >= LEAST_ROWS]
        if not len(levels):
            return levels
        self._choose(data)
        part = take_levels(data, levels, int(data.count[levels].max()))
        spectral = fit_linear(part, self.num_actions, 2, FULL if self.full else self.config.spectral)
        f, b = self.config.forward, self.config.most_backward
        if self.config.directions == "pca":
            # The same whitened coordinates, ordered by variance and not by what they predict.
            self.W[levels] = first_columns(spectral.here.matrix, f + b)
            self.mean[levels] = spectral.here.mean
            changed = levels
        else:
            forward, backward = spectral.forward, spectral.backward
            if self.config.refine:
                require(rng is not None, "decoder: refinement needs a generator (rng).")
                forward, backward = self._refined(part, forward, backward, rng)
            self.forward[levels] = first_columns(forward, f)
            self.mean[levels] = spectral.here.mean
            wanted = 1 if self.full and self.config.backward is None else b
            self.backward[levels + 1] = first_columns(backward[..., :wanted], b)
            changed = np.unique(np.concatenate([levels, levels[levels + 1 < H] + 1]))
            self.W[changed] = np.concatenate([self.forward[changed], self.backward[changed]], axis=2)
        self._cluster(data, changed)
        return changed

    def _choose(self, data: StepData) -> None:
        """Choose the whitening again, if it is to be chosen and the rows have doubled since the last choice."""
        held, auto = int(data.count.sum()), self.config.whitening == "auto" and self.config.directions != "pca"
        some = np.flatnonzero(data.count >= LEAST_ROWS)
        if auto and held >= LOOK_AGAIN * self.looked_at:
            self.looked_at = held
            self.full = full_is_better(take_levels(data, some), self.num_actions, self.config.spectral)

    @property
    def gap(self) -> float:
        """The gap of the whitening in use."""
        return self.config.gap or (2.5 if self.full else 3.0)

    def _refined(
        self, part: StepData, forward: FloatArray, backward: FloatArray, rng: np.random.Generator | None
    ) -> tuple[FloatArray, FloatArray]:
        """Directions of the descended features: singular directions of (Phi_{h,a})_a and of Psi_h, whitened side."""
        assert rng is not None
        config = LearnerConfig(method="spectral+nce", linear=FULL if self.full else self.config.spectral)
        fit = FeatureLearner(config, horizon=len(forward), num_actions=self.num_actions).fit_rows(part, rng=rng)
        features = fit.features
        assert isinstance(features, LinearFeatures)
        Phi, Psi = features.Phi[:, :, :-1], features.Psi[:, :-1]  # without the constant: (L, A, k, d), (L, k', d)
        Phi = Phi - Phi.mean(axis=3, keepdims=True)  # a part shared by all factors drops out on the simplex
        left = np.linalg.svd(np.concatenate(list(np.swapaxes(Phi, 0, 1)), axis=2), full_matrices=False)[0]
        right = np.linalg.svd(Psi, full_matrices=False)[0]
        accepted = (fit.report["accepted"] > 0)[:, None, None]
        q = min(left.shape[2], forward.shape[2])
        k = min(right.shape[2], backward.shape[2])
        forward, backward = forward.copy(), backward.copy()
        forward[:, :, :q] = np.where(accepted, features.whitening @ left[:, :, :q], forward[:, :, :q])
        backward[:, :, :k] = np.where(accepted, features.next_whitening @ right[:, :, :k], backward[:, :, :k])
        return forward, backward

    def _cluster(self, data: StepData, levels: IntArray) -> None:
        """Clusters of step h from the observations o_h of its own rows and of the rows that led to it."""
        config = self.config
        x, mask = data.obs[levels], seen(data)[levels]
        if config.arrivals:
            before = np.maximum(levels - 1, 0)
            arrived = seen(data)[before] & (levels > 0)[:, None] & (data.discount[before] > 0)
            x = np.concatenate([x, data.next_obs[before]], axis=1)  # (L, 2N, ...)
            mask = np.concatenate([mask, arrived], axis=1)
        x = np.asarray(x.reshape(*x.shape[:2], -1), dtype=np.float64)
        points = (x - self.mean[levels][:, None]) @ self.W[levels]
        if not config.discriminant:
            found = cluster(points, mask, config.most_latents, gap=self.gap, smallest=config.smallest)
            self.clusters.put(levels, found)
            return
        self.clusters.put(levels, single_cluster(points, mask, config.most_latents))
        left = np.arange(len(levels))
        for k in range(config.most_latents, 1, -1):
            if len(left):
                good = self._accept(x[left], mask[left], points[left], levels[left], k)
                left = left[~good]

    def _accept(self, x: FloatArray, mask: BoolArray, points: FloatArray, levels: IntArray, k: int) -> BoolArray:
        """Where k latents are told apart, store them with their discriminant directions; (L,) whether they are.

        The spectral directions find the latents. Fisher's directions, computed from the means and the covariance of
        these latents, tell them apart best. Either may pass the gap test; Fisher's are corrected for having been
        fitted.
        """
        config = self.config
        found, labels = propose(points, mask, k)
        good = separated(points, mask, labels, found.centres, self.gap)
        good &= large_enough(labels, mask, k, config.smallest)
        W, effective = discriminant(x, mask, labels, k, ridge=config.shrinkage)
        q = min(k - 1, self.W.shape[2])
        W = first_columns(W, q)  # the leading ones, where the decoder has no room for all
        sharp = (x - self.mean[levels][:, None]) @ W  # (L, N, q)
        member = ((labels[..., None] == np.arange(k)) & mask[..., None]).astype(np.float64)
        centres = np.swapaxes(member, 1, 2) @ sharp / np.maximum(member.sum(axis=1), 1.0)[..., None]
        found, labels = settle(sharp, mask, Clusters(centres, found.count, np.zeros((len(levels), k))))
        sharper = separated(sharp, mask, labels, found.centres, self.gap, effective)
        good |= sharper & large_enough(labels, mask, k, config.smallest)
        self.W[levels[good]] = 0.0
        self.W[levels[good], :, :q] = W[good]
        self.clusters.put(levels[good], found.take(good))
        return good

    def _points(self, obs: Array, levels: IntArray) -> FloatArray:
        """W_h'(o - mu_h): (L, N, ...) -> (L, N, q)."""
        # Sizes are explicit, because a step that no episode reached has no rows to infer them from.
        x = np.asarray(obs.reshape(*obs.shape[:2], self.W.shape[1]), dtype=np.float64)
        return np.asarray(x @ self.W[levels] - (self.mean[levels][:, None] @ self.W[levels]))

    def labels(self, obs: Array, levels: IntArray) -> IntArray:
        """Latents of stored observations (L, N, ...) of steps `levels` (L,) -> (L, N), weighted by their shares."""
        return self.clusters.labels(self._points(obs, levels), levels, weighted=True)

    def label(self, h: int, obs: Array, *, weighted: bool = True) -> IntArray:
        """Latents of observations (N, ...) of step h -> (N,); weighted by their shares in the data, or just nearest."""
        level = np.array([h])
        return np.asarray(self.clusters.labels(self._points(obs[None], level), level, weighted=weighted)[0])

    def state_dict(self) -> State:
        """Copies of all arrays, and the choice of the whitening."""
        choice = {"full": self.full, "looked_at": self.looked_at}
        return {**{name: array.copy() for name, array in self._arrays().items()}, **choice}

    def _arrays(self) -> dict[str, Array]:
        return {
            "mean": self.mean,
            "W": self.W,
            "forward": self.forward,
            "backward": self.backward,
            "centres": self.clusters.centres,
            "count": self.clusters.count,
            "offset": self.clusters.offset,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        fill_arrays(self._arrays(), state, "decoder")
        require_keys(state, ("full", "looked_at"), "decoder")
        self.full, self.looked_at = bool(state["full"]), int(state["looked_at"])


def seen(data: StepData) -> BoolArray:
    """(H, N) mask of the rows that are not padding."""
    return np.asarray(np.arange(data.action.shape[1]) < data.count[:, None])
