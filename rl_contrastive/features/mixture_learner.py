"""Chooses the number of simplex factors of each step on held-out rows, and again as the rows grow."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from rl_contrastive.config import require_keys
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.learner import take_levels
from rl_contrastive.features.mixture import (
    MixtureConfig,
    MixtureFeatures,
    fit_mixture,
    held_out_score,
    one_factor,
)
from rl_contrastive.features.spectral_linear import LinearSpectralConfig
from rl_contrastive.features.whitening import FULL, LOOK_AGAIN, full_is_better
from rl_contrastive.spec import IntArray, State, StepData

LEAST_ROWS = 20
"""A step with fewer rows has one factor."""
GAIN = 3.0
"""Nats that a further factor must gain over all held-out rows of its step, in addition to two standard errors."""


class MixtureLearner:
    """`fit(data)` -> features. It stores only its choices and the numbers of rows at which it made them."""

    def __init__(self, config: MixtureConfig, learner: LearnerConfig, *, horizon: int, num_actions: int) -> None:
        self.config, self.num_actions = config, num_actions
        self.fixed = learner.dim
        self.given, self.full, self.looked_at = learner.linear, config.whitening == "full", 0
        self.ranks: IntArray = np.full(horizon, learner.dim or 2, dtype=np.int64)

    def fit(self, data: StepData, total: int, *, version: int = 0) -> MixtureFeatures:
        """Features of all steps from stored rows, of which `total` were ever stored."""
        levels = np.flatnonzero(data.count >= LEAST_ROWS)
        D, A = int(np.prod(data.obs.shape[2:], dtype=np.int64)), self.num_actions
        if len(levels) and total >= LOOK_AGAIN * self.looked_at:
            self._choose(take_levels(data, levels), levels)
            self.looked_at = total
        d = int(self.ranks[levels].max(initial=2))
        features = one_factor(len(data.count), D, A, d, self.config, version)
        for rank in np.unique(self.ranks[levels]):
            some = levels[self.ranks[levels] == rank]
            part = fit_mixture(take_levels(data, some), A, int(rank), self.config, self.linear, dim=d)
            for field in fields(part):
                if field.name != "version":
                    getattr(features, field.name)[some] = getattr(part, field.name)
        return features

    @property
    def linear(self) -> LinearSpectralConfig:
        """The whitening in use."""
        return FULL if self.full else self.given

    def _choose(self, data: StepData, levels: IntArray) -> None:
        if self.config.whitening == "auto":
            self.full = full_is_better(data, self.num_actions, self.given)
        if self.fixed is not None:
            return
        best = held_out_score(data, self.num_actions, 2, self.config, self.linear)
        left = np.arange(len(levels))
        self.ranks[levels] = 2
        for rank in range(3, self.config.most + 1):
            part = take_levels(data, left)
            score = held_out_score(part, self.num_actions, rank, self.config, self.linear)
            gain = score - best[left]
            better = gain.sum(axis=1) > np.maximum(GAIN, 2.0 * np.sqrt(np.square(gain).sum(axis=1)))
            left = left[better]
            if not len(left):
                return
            self.ranks[levels[left]] = rank
            best[left] = score[better]

    def scalars(self) -> dict[str, float]:
        """The largest and the mean number of factors, and whether the whitening is the full one."""
        return {"dim": float(self.ranks.max()), "dim_mean": float(self.ranks.mean()), "full": float(self.full)}

    def state_dict(self) -> State:
        return {"full": self.full, "looked_at": self.looked_at, "ranks": self.ranks.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; RlcError on missing keys."""
        require_keys(state, ("full", "looked_at", "ranks"), "mixture")
        self.full, self.looked_at = bool(state["full"]), int(state["looked_at"])
        self.ranks = np.array(state["ranks"], dtype=np.int64)
