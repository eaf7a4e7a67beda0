"""Chooses the whitening that the spectral fit starts from, on held-out rows. There are two:

given   few directions of large variance, hardly scaled. It is right where the coordinates that predict vary most. It
        then estimates less, since it ignores the other directions.
full    all directions, scaled to equal variance down to the noise floor. It is right where coordinates that predict
        nothing vary more than those that do.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from rl_contrastive.features.learner import take_levels
from rl_contrastive.features.mixture import MixtureConfig, held_out_score
from rl_contrastive.features.spectral_linear import LinearSpectralConfig, noise_floor, whiten
from rl_contrastive.spec import StepData

Whitening = Literal["auto", "given", "full"]

FULL = LinearSpectralConfig(pca_dim=64, rho=None, floor=2.0, ridge=30.0)
"""The whitening of worlds with distractors."""
JUDGE = MixtureConfig(iterations=4, folds=2)
ROWS = 512
"""Rows of a step used for judging, taken evenly from those stored."""


LOUD = 10.0
"""A direction with a variance of this many noise floors that nothing predicts is a distractor."""
LOOK_AGAIN = 1.5
"""The choice is made again when the rows have grown by this factor."""


def full_is_better(data: StepData, num_actions: int, given: LinearSpectralConfig) -> bool:
    """Whether FULL predicts held-out transitions better than `given`, by two standard errors. While neither predicts,
    whether most steps have a direction of large variance nevertheless."""
    judges = _evenly(data)
    several = np.flatnonzero(judges.count >= JUDGE.folds)  # a step with few rows may have one or none of them
    if len(several) < len(judges.count):
        judges = take_levels(judges, several)
    score = held_out_score(judges, num_actions, 2, JUDGE, given)
    gain = held_out_score(judges, num_actions, 2, JUDGE, FULL) - score
    if score.sum() > 0.0 or (score + gain).sum() > 0.0:
        return bool(gain.sum() > 2.0 * np.sqrt(np.square(gain).sum()))
    obs = judges.obs.reshape(*judges.action.shape, -1)
    variance = whiten(obs, judges.count, FULL)[0].eigenvalues  # (H, k)
    loudness = variance[:, 0] / max(noise_floor(variance, judges.count), 1e-300)
    return bool(np.median(loudness) > LOUD)


def _evenly(data: StepData) -> StepData:
    """At most ROWS rows of each step."""
    N = data.action.shape[1]
    if N <= ROWS:
        return data
    rows = np.linspace(0, N - 1, ROWS).astype(np.int64)
    count = (rows < data.count[:, None]).sum(axis=1).astype(np.int64)
    return StepData(
        data.obs[:, rows], data.action[:, rows], data.reward[:, rows],
        data.next_obs[:, rows], data.discount[:, rows], count,
    )  # fmt: skip
