"""Options of the gradient stage that must not change what it learns: compilation, autocast, double precision."""

from __future__ import annotations

import numpy as np
import pytest

from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.learner import FeatureLearner

H, S, A = 2, 6, 2


def fitted(**options) -> np.ndarray:
    """P-hat (H, S, A, S) of a short descent on the same counts from the same start."""
    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.full(S, 0.3), size=(H, S, A))
    counts = TransitionCounts.from_dense(np.round(200 * P))
    config = LearnerConfig(method="nce", steps=30, dim=2, **options)
    fit = FeatureLearner(config, horizon=H, num_actions=A, num_states=S).fit_table(counts, rng=np.random.default_rng(1))
    return np.stack([fit.features.model().rows(h) for h in range(H)])


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"precision": "float64"}, 1e-3),
        ({"precision": "bf16"}, 0.05),
        pytest.param({"compile": True}, 1e-3, marks=pytest.mark.slow),
    ],
    ids=["float64", "bf16", "compile"],
)
def test_an_option_of_speed_learns_what_the_plain_stage_learns(options, tolerance):
    plain = fitted()
    assert np.abs(fitted(**options) - plain).max() < tolerance
    assert np.abs(fitted(objective="mle") - plain).max() > 1e-3  # another loss is told apart
