"""`reward_scale`: learning is that of larger rewards and bonuses, values are read in the unit of the rewards."""

from __future__ import annotations

import numpy as np
import pytest

from rl_contrastive.config import from_dict
from rl_contrastive.deep.bonus_config import BonusConfig
from rl_contrastive.deep.build_bonus import make_bonus
from rl_contrastive.deep.config import DeepLearnerConfig
from rl_contrastive.deep.learner import DeepLearner
from rl_contrastive.deep.replay.replay import Replay
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import EnvSpec

VECTORS = EnvSpec("vectors", 3, 10, (5,), "float32")
SMALL = {
    "batch_size": 8,
    "device": "cpu",
    "clip": 1e6,
    "encoder": {"hidden": [16], "layer_norm": True},
    "feature_encoder": {"hidden": [16]},
    "representation": {"dim": 4, "hidden": 8},
}


def descend(times: float, reward_scale: float) -> DeepLearner:
    """Five steps on rewards and bonuses of `times` their size."""
    rng = np.random.default_rng(1)
    replay = Replay(60, VECTORS.obs_shape, VECTORS.obs_dtype, gamma=0.9, n_step=3)
    bonus = make_bonus(BonusConfig(), 60, 3, 4, beta=times, rng=np.random.default_rng(3))
    replay.begin(1)
    obs = rng.normal(size=(1, 5)).astype("float32")
    for k in range(40):
        action, reward, following = rng.integers(3, size=1), rng.normal(size=1), rng.normal(size=(1, 5))
        end, following = np.array([k == 39]), following.astype("float32")
        replay.add(obs, action, times * reward, following, np.ones(1), end, np.array([True]))
        bonus.store(replay.ring.acted, rng.normal(size=(1, 3, 4)))
        bonus.visit(replay.ring.acted, action)
        obs = following
    options = {**SMALL, "reward_scale": reward_scale}
    net = DeepLearner(VECTORS, (5,), from_dict(DeepLearnerConfig, options), seed=0)
    for _ in range(5):
        net.step(replay, bonus, rng=rng)
    return net


def test_it_is_learning_of_larger_rewards_and_bonuses_to_the_bit() -> None:
    obs = np.random.default_rng(5).normal(size=(20, 5)).astype("float32")
    scaled, larger, plain = descend(1.0, 8.0), descend(8.0, 1.0), descend(1.0, 1.0)
    for ours, theirs in zip(scaled.q(obs), larger.q(obs), strict=True):
        np.testing.assert_array_equal(8.0 * ours, theirs)
    np.testing.assert_array_equal(8.0 * scaled.target_q(obs), larger.target_q(obs))
    assert not np.allclose(plain.q(obs)[1], scaled.q(obs)[1])


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_scales_are_refused(bad: float) -> None:
    with pytest.raises(RlcError, match="reward_scale must be > 0"):
        DeepLearnerConfig(reward_scale=bad)
