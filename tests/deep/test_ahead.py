"""Contrast K steps ahead: the law of K within an episode, and the ratio that f learns from it."""

from __future__ import annotations

import numpy as np
import pytest
from deep_common import resumes, sea, walked

from rl_contrastive.config import from_dict
from rl_contrastive.deep.config import DeepLearnerConfig, RepresentationConfig
from rl_contrastive.deep.feature_net import FeatureConfig, ObsLayout
from rl_contrastive.deep.learner import DeepLearner
from rl_contrastive.deep.transition_learner import TransitionLearner
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import EnvSpec


def test_k_is_geometric_within_the_episode() -> None:
    """Against (1 - g) g^(k-1) / (1 - g^L) of each entry; nothing of the next episode is met."""
    replay, gamma, draws = walked([0, 1, 2, 3, 4, 5], [9, 8]), 0.7, 20000
    for entry, last in ((0, 5), (3, 5), (4, 5), (6, 8)):
        there = replay.ring.obs[replay.ahead(np.full(draws, entry), gamma, rng=np.random.default_rng(entry))]
        start = int(replay.ring.obs[entry])
        states = [9 - 1] if entry == 6 else list(range(start + 1, last + 1))
        k = np.arange(1, len(states) + 1)
        expected = (1 - gamma) * gamma ** (k - 1) / (1 - gamma ** len(states))
        share = np.array([(there == state).mean() for state in states])
        np.testing.assert_allclose(share, expected, atol=4 * np.sqrt(0.25 / draws))
        assert share.sum() == pytest.approx(1.0)


def test_steps_beyond_the_tail_are_left_out_and_small_gammas_stay_next_door() -> None:
    replay = walked(list(range(39)))
    for gamma, most in ((0.5, 10), (1e-9, 1)):  # .5^10 < 1e-3
        there = replay.ring.obs[replay.ahead(np.zeros(50000, dtype=int), gamma, rng=np.random.default_rng(0))]
        assert (there.min(), there.max()) == (1, most)


@pytest.mark.parametrize("gamma", [0.5, 0.0])
def test_f_is_the_ratio_of_discounted_visits(gamma: float) -> None:
    """On a circle of 4 states: k = 1..4 steps on with (1 - g) g^(k-1) / (1 - g^4), each a quarter of the data.

    Control, gamma 0: the next state alone has a ratio, 4.
    """
    replay, rng = walked([h % 4 for h in range(38)]), np.random.default_rng(0)
    spec = EnvSpec("circle", num_actions=2, horizon=40, obs_shape=(), obs_dtype="int64", num_states=4)
    options = {"feature_encoder": {"hidden": [32]}, "lr": 0.005, "batch_size": 128}
    small = {"dim": 8, "hidden": 0, "ahead": gamma}
    learner = DeepLearner(spec, (), from_dict(DeepLearnerConfig, {**options, "representation": small}), seed=0)
    for _ in range(500):
        learner._contrast(replay.sample(128, rng=rng), replay, rng)
    learner.features.freeze()
    s, ahead = np.zeros(4, dtype=int), np.array([1, 2, 3, 0])
    phi, psi = learner.features.factors(s, np.zeros(4, dtype=int), ahead)
    k = np.arange(1, 5)
    expected = 4 * 0.5 ** (k - 1) * 0.5 / (1 - 0.5**4) if gamma else np.array([4.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose((phi * psi).sum(axis=1), expected, atol=0.35)


def test_an_agent_that_looks_ahead_resumes_to_the_bit(tmp_path) -> None:
    learner = {"batch_size": 8, "encoder": {"hidden": [16]}, "feature_encoder": {"hidden": [16]}}
    learner["representation"] = {"dim": 8, "hidden": 16, "ahead": 0.8}
    resumes(lambda: sea({"kind": "ours-arrival"}, learner=learner), tmp_path)


def test_where_it_cannot_be_is_a_sentence() -> None:
    with pytest.raises(RlcError, match="of single steps"):
        RepresentationConfig(loss="inverse", ahead=0.5)
    config = FeatureConfig(representation=RepresentationConfig(ahead=0.5), encoder=DeepLearnerConfig().feature_encoder)
    with pytest.raises(RlcError, match="needs episodes"):
        TransitionLearner(ObsLayout((3,), "float32"), 2, config, rng=np.random.default_rng(0))
