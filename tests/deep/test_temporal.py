"""The distance in time: by hand, as a quasimetric, and learned on a one-way corridor; and the gate made of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deep_common import Walk, walked

from rl_contrastive.config import from_dict
from rl_contrastive.deep.arrival import ArrivalBonus
from rl_contrastive.deep.bonus_config import BonusConfig, with_features
from rl_contrastive.deep.config import DeepLearnerConfig, RepresentationConfig
from rl_contrastive.deep.gates import Temporal
from rl_contrastive.deep.learner import DeepLearner
from rl_contrastive.deep.lifelong import Flat
from rl_contrastive.deep.temporal import contrast_in_time, distances
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import EnvSpec


def test_distances_by_hand_are_a_quasimetric() -> None:
    past = np.array([[3.0, 0.0, 1.0, 1.0], [0.0, 2.0, 4.0, 5.0]])
    x = np.array([1.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(distances(past, x), [2.0 + 0.0, 1.0 + 5.0])
    np.testing.assert_allclose(distances(x[None], past[0]), [1.0])  # back it is another way
    points = np.random.default_rng(0).normal(size=(30, 6))
    d = np.stack([distances(points, y) for y in points], axis=1)
    assert (d >= 0).all()
    np.testing.assert_allclose(d.diagonal(), 0.0)
    assert (d[:, None, :] <= d[:, :, None] + d[None, :, :] + 1e-12).all()  # d(x, z) <= d(x, y) + d(y, z)


def test_the_loss_is_the_mean_of_both_cross_entropies() -> None:
    rng = np.random.default_rng(1)
    u, v, c, w = rng.normal(size=(5, 4)), rng.normal(size=(5, 4)), rng.normal(size=5), rng.random(5)
    log_f = c - np.stack([distances(u, y) for y in v], axis=1)
    given_x = np.log(np.exp(log_f).sum(axis=1)) - log_f.diagonal()
    given_y = np.log(np.exp(log_f).sum(axis=0)) - log_f.diagonal()
    tensors = [torch.tensor(array) for array in (u, v, c)]
    loss = 0.5 * (given_x + given_y)
    assert float(contrast_in_time(*tensors)) == pytest.approx(loss.mean(), abs=1e-6)
    assert float(contrast_in_time(*tensors, torch.tensor(w))) == pytest.approx((w * loss).sum() / w.sum(), abs=1e-6)


def test_the_temporal_gate_by_hand() -> None:
    """States at places 0, 3, 4 with a = -place: a step ahead is as long as it is, and one back costs nothing."""
    places = np.array([0.0, 3.0, 4.0])
    of = np.stack([-places, np.zeros(3)], axis=1)
    walk = Walk(lambda replay, f: ArrivalBonus(Flat(), Temporal(), replay, 2, f, beta=1.0), of)
    here = walk.episode([0, 1, 2, 0])
    # Least distances 3, 1, 0; running means 3, 2, 4/3.
    np.testing.assert_allclose(walk.bonus.taken(here, np.zeros(3, dtype=int)), [1.0, 0.5, 0.0], rtol=1e-6)


@pytest.mark.parametrize("learned", [True, False])
def test_time_is_learned_on_a_one_way_corridor(learned: bool) -> None:
    """Later states are further ahead, and no way leads back. Control: as drawn, they are in no such order."""
    replay, rng = walked(list(range(10)), list(range(10)), list(range(10))), np.random.default_rng(0)
    spec = EnvSpec("corridor", num_actions=2, horizon=10, obs_shape=(), obs_dtype="int64", num_states=10)
    own = {"dim": 16, "hidden": 32, "features": "psi", "loss": "temporal", "ahead": 0.8}
    options = {"feature_encoder": {"hidden": [32]}, "lr": 0.003, "batch_size": 64, "representation": own}
    learner = DeepLearner(spec, (), from_dict(DeepLearnerConfig, options), seed=0)
    for _ in range(300 if learned else 0):
        learner._contrast(replay.sample(64, rng=rng), replay, rng)
    learner.features.freeze()
    x = learner.features.phi(np.arange(10))[:, 0]
    d = np.stack([distances(x, y) for y in x], axis=1)
    ordered = all((np.diff(d[i, i:]) > 0).all() for i in range(9))
    oneway = all(d[j, i] > d[i, j] for i in range(8) for j in range(i + 2, 10))
    assert (ordered, oneway) == (learned, learned)


def test_options_of_etd() -> None:
    learner = with_features(DeepLearnerConfig(), BonusConfig(kind="etd")).representation
    assert (learner.features, learner.loss, learner.ahead) == ("psi", "temporal", 0.99)
    given = DeepLearnerConfig(representation=RepresentationConfig(ahead=0.5))
    assert with_features(given, BonusConfig(kind="etd")).representation.ahead == 0.5
    assert BonusConfig(kind="ours-arrival", features="temporal", gate="temporal").parts.lifelong == "cells"
    with pytest.raises(RlcError, match="dim must be >= 2"):
        RepresentationConfig(loss="temporal", dim=1)
