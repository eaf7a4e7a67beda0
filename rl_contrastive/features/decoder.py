"""From observations to latent states, step by step: directions that predict or are predictable, then clusters.

Two observations of step h are the same state if they act alike (forward: the same law of what follows, for each
action) and are reached alike (backward: predictable from what came before). Both sets of directions come from the
closed-form spectral contrastive fit; the PCA control takes the directions of largest variance instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np

from rl_contrastive.config import Ge, Gt, In, check_ranges, require
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
"""A step with fewer stored rows has one latent state: nothing can be told apart yet."""


@dataclass(frozen=True)
class DecoderConfig:
    """How observations become latent states."""

    directions: Literal["contrastive", "pca"] = "contrastive"
    """contrastive: forward and backward directions of the spectral fit; pca: the leading principal directions of
    the observation alone (a control that uses no dynamics)."""
    most_latents: Annotated[int, In(1, 1000)] = 3
    """Largest number of latent states a step."""
    forward: Annotated[int, In(0, 1000)] = 2
    """Directions of o_h that matter for what follows."""
    backward: Annotated[int, In(0, 1000)] = 2
    """Directions of o_h that are predictable from (o_{h-1}, a_{h-1})."""
    gap: float | None = None
    """Least distance of two latents' centres, in within-cluster standard deviations (> 0); None: 3 in the whitening
    that is given, 2.5 in the full one, whose directions carry more noise."""
    smallest: Annotated[int, Ge(1)] = 2
    """Least number of rows of a latent: one row far from all others may be an outlier."""
    arrivals: bool = True
    """Look for the latents of a step also among the successors of the step before. A rare state shows there first,
    but a latent that only arrivals show counts as never visited: right for bonuses on features, a trap for counts."""
    discriminant: bool = False
    """Replace the spectral directions, once they have found the latents, by Fisher's discriminant of these latents,
    the best directions for telling them apart. Helps where observation noise is large and Gaussian (noise .3 on the
    lock); harms where irrelevant coordinates form clusters of their own (distractors), which it then sharpens."""
    shrinkage: Annotated[float, Gt(0)] = 0.01
    """Ridge of the discriminant's covariance, as a fraction of its mean variance."""
    refine: bool = False
    """Descend the paper's contrastive loss from the spectral fit at each refit and, at the steps where a held-out
    loss improves, take the directions of the refined features (torch; far slower than the closed form)."""
    whitening: Whitening = "auto"
    """given: that of `spectral`; full: all directions down to the noise floor, right where distractors vary more than
    what predicts; auto: the one that predicts held-out rows better, looked at again as the rows grow."""
    spectral: LinearSpectralConfig = field(default_factory=LinearSpectralConfig)
    """Whitening and ridge of the closed-form fit."""

    def __post_init__(self) -> None:
        check_ranges(self, "decoder")
        require(
            self.forward >= 0 and self.backward >= 0 and self.forward + self.backward >= 1,
            f"decoder: forward and backward must be >= 0 and not both 0, got {self.forward} and {self.backward}.",
        )
        require(self.gap is None or 0 < self.gap < np.inf, f"decoder: gap must be > 0, got {self.gap}.")


class LatentDecoder:
    """z_h(o): nearest centre of W_h'(o - mu_h), for all steps; refitted where data have grown.

    mean (H, D), W (H, D, q) with q = forward + backward columns (missing ones are 0), `clusters` of H steps.
    """

    def __init__(self, config: DecoderConfig, *, horizon: int, num_actions: int, obs_shape: tuple[int, ...]) -> None:
        D, q = int(np.prod(obs_shape)), config.forward + config.backward
        self.config, self.num_actions = config, num_actions
        self.mean: FloatArray = np.zeros((horizon, D))
        self.W: FloatArray = np.zeros((horizon, D, q))
        self.forward: FloatArray = np.zeros((horizon, D, config.forward))
        self.backward: FloatArray = np.zeros((horizon + 1, D, config.backward))  # of o_{h+1}, by the fit of step h
        self.full = config.whitening == "full"
        """Which of the two whitenings is in use."""
        self.looked_at = 0
        """Rows held when it was chosen."""
        K = config.most_latents
        self.clusters = Clusters(np.zeros((horizon, K, q)), np.ones(horizon, dtype=np.int64), np.zeros((horizon, K)))

    def refit(self, data: StepData, levels: IntArray, *, rng: np.random.Generator | None = None) -> IntArray:
        """Fit the steps `levels` on their rows; returns the steps whose decoder changed (those and the next ones).

        rng: for the refinement by descent only; the closed form draws nothing.
        """
        H = len(self.mean)
        levels = levels[data.count[levels] >= LEAST_ROWS]
        if not len(levels):
            return levels
        self._choose(data)
        part = take_levels(data, levels, int(data.count[levels].max()))
        spectral = fit_linear(part, self.num_actions, 2, FULL if self.full else self.config.spectral)
        f, b = self.config.forward, self.config.backward
        if self.config.directions == "pca":
            # The same whitened coordinates, in order of variance and regardless of what they predict.
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
            self.backward[levels + 1] = first_columns(backward, b)
            changed = np.unique(np.concatenate([levels, levels[levels + 1 < H] + 1]))
            self.W[changed] = np.concatenate([self.forward[changed], self.backward[changed]], axis=2)
        self._cluster(data, changed)
        return changed

    def _choose(self, data: StepData) -> None:
        """The whitening, where it is to be chosen and the rows have doubled since."""
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
        Phi = Phi - Phi.mean(axis=3, keepdims=True)  # what all factors share drops out on the simplex
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
        """Clusters of step h from the observations o_h of its own rows, and of the rows that led to it."""
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

        The spectral directions find the latents; Fisher's ones, from the latents' own means and covariance, tell them
        apart best. Either may pass the gap test, the fitted one after correction for having been fitted.
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
        # Sizes are said: of a step that no episode reached there are no rows to tell them from.
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
        for key, value in self._arrays().items():
            require(key in state, f"decoder: the saved state lacks '{key}'.")
            shape = np.shape(state[key])
            require(shape == value.shape, f"decoder: the saved {key} has shape {shape}, not {value.shape}.")
            value[...] = state[key]
        for key in ("full", "looked_at"):
            require(key in state, f"decoder: the saved state lacks '{key}'.")
        self.full, self.looked_at = bool(state["full"]), int(state["looked_at"])


def seen(data: StepData) -> BoolArray:
    """(H, N) mask of the rows that are not padding."""
    return np.asarray(np.arange(data.action.shape[1]) < data.count[:, None])
