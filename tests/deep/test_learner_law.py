"""What the learner fits: the law of the data under priorities, and values whose differences bfloat16 would lose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rl_contrastive.config import from_dict
from rl_contrastive.deep.bonus_config import BonusConfig
from rl_contrastive.deep.build_bonus import make_bonus
from rl_contrastive.deep.config import DeepLearnerConfig
from rl_contrastive.deep.learner import DeepLearner
from rl_contrastive.deep.replay.replay import Replay
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import EnvSpec

CHAIN = EnvSpec("chain", 1, 1, (), "int64", num_states=4)
VECTORS = EnvSpec("vectors", 6, 10, (4,), "float32")


def fitted_ratio(weighted: bool) -> float:
    """f(0, s=2) / f(0, s=3) after 250 steps of NCE on 0 -> 2 or 3 (half each) and 1 -> 2 or 3 (half each), where
    successors 2 of state 0 are drawn nine times as often."""
    rng = np.random.default_rng(0)
    replay = Replay(2000, (), "int64", gamma=0.9, alpha=1.0)
    for episode in range(400):
        replay.begin(1)
        s, s_next, end = np.array([episode % 2]), np.array([2 + episode // 2 % 2]), np.array([True])
        replay.add(s, np.zeros(1, dtype=np.int64), np.zeros(1), s_next, np.zeros(1), end, end)
    index = np.flatnonzero(replay.ring.ready)
    surprising = (replay.ring.obs[index] == 0) & (replay.ring.obs[replay.ring.next[index]] == 2)
    representation = {"dim": 2, "hidden": 0, "every": 1, "weighted": weighted}
    options = {"batch_size": 256, "lr": 0.03, "device": "cpu", "encoder": {"hidden": [8]}}
    config = {**options, "feature_encoder": {"hidden": [16]}, "representation": representation}
    net = DeepLearner(CHAIN, (), from_dict(DeepLearnerConfig, config), seed=0)
    for _ in range(250):
        replay.update_priorities(index, np.where(surprising, 9.0, 1.0))
        net._contrast(replay.sample(256, rng=rng), replay, rng)
    with torch.no_grad():
        online = net.features.online
        z = online.encoder(torch.tensor([0, 2, 3]))
        phi = torch.nn.functional.softplus(online.heads.anchors(z[:1])[:, 0])
        f = phi @ torch.nn.functional.softplus(online.heads.successors(z[1:])).T
    return float(f[0, 0] / f[0, 1])


def test_features_are_of_the_law_of_the_data_whatever_is_drawn() -> None:
    """P(2|0) = P(3|0): f is the same for both. Unweighted, the drawn law has 9 : 1 at 0 and 1 : 1 at 1."""
    assert fitted_ratio(True) == pytest.approx(1.0, abs=0.15)
    assert fitted_ratio(False) > 1.5


def test_the_contrastive_positive_is_one_step_ahead_whatever_n_the_returns_have() -> None:
    """Episodes 0 -> 1 -> 2 -> 3 with returns of three steps: the positive of s is s + 1, as P(s'|s,a) has it."""
    rng = np.random.default_rng(0)
    replay = Replay(100, (), "int64", gamma=0.9, n_step=3)
    for _ in range(5):
        replay.begin(1)
        for s in range(3):
            end, here, ahead = np.array([s == 2]), np.array([s]), np.array([s + 1])
            replay.add(here, np.zeros(1, dtype=np.int64), np.zeros(1), ahead, 1.0 - end, end, np.array([True]))
    config = from_dict(DeepLearnerConfig, {"device": "cpu", "encoder": {"hidden": [4]}})
    net, seen = DeepLearner(CHAIN, (), config, seed=0), []

    def descend(obs: torch.Tensor, action: torch.Tensor, ahead: torch.Tensor, **rest: Any) -> torch.Tensor:
        seen.append((obs.numpy(), ahead.numpy()))
        return torch.zeros(())

    net.features.descend = descend  # type: ignore[method-assign]
    batch = replay.sample(32, rng=rng)
    net._contrast(batch, replay, rng)
    obs, positive = seen[0]
    np.testing.assert_array_equal(positive, obs + 1)
    assert (batch.next_obs > obs + 1).any()  # the returns look further


def large_values(precision: str) -> DeepLearner:
    net = DeepLearner(VECTORS, (4,), from_dict(DeepLearnerConfig, {"device": "cpu", "precision": precision}), seed=0)
    with torch.no_grad():
        for network in (net.values, net.target):
            network.head.streams[-1].bias[[0, 7]] = 10.0  # V of Q and of G
    return net


def test_bfloat16_does_not_round_the_values_themselves() -> None:
    """Between 8 and 16 its numbers are 1/16 apart, far more than actions differ by."""
    obs = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
    exact, half = large_values("float32"), large_values("bf16")
    for ours, theirs in ((half.target_q(obs), exact.target_q(obs)), (half.q(obs)[1], exact.q(obs)[1])):
        assert all(len(set(row)) == 6 for row in ours)
        np.testing.assert_allclose(
            ours - ours.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True), atol=2e-3
        )
    assert np.ptp(exact.target_q(obs), axis=1).max() < 1 / 16  # bfloat16 would see none of it


def test_self_prediction_reports_its_cosine_and_spread() -> None:
    options: dict[str, Any] = {"device": "cpu", "batch_size": 8, "self_prediction": {"weight": 1.0, "steps": 2}}
    net, rng = DeepLearner(VECTORS, (4,), from_dict(DeepLearnerConfig, options), seed=0), np.random.default_rng(0)
    replay = Replay(60, VECTORS.obs_shape, VECTORS.obs_dtype, gamma=0.9)
    bonus = make_bonus(BonusConfig(), 60, 6, 64, beta=0.0, rng=rng)
    replay.begin(1)
    for k in range(20):
        obs, following = rng.normal(size=(2, 1, 4)).astype("float32")
        end = np.array([k == 19])
        replay.add(obs, rng.integers(6, size=1), np.ones(1), following, np.ones(1), end, np.array([True]))
    report = net.step(replay, bonus, rng=rng)
    assert -1.0 <= float(report["spr_cosine"]) <= 1.0
    assert 0.0 < float(report["spr_spread"]) < 1.0


def test_frames_are_augmented_only_where_both_encoders_see_frames() -> None:
    frames = EnvSpec("frames", 3, 10, (4, 40, 40), "uint8")
    small = {"channels": [1], "hidden": [2], "kind": "minigrid"}
    options = {"augment": {"intensity": 0.05}, "encoder": {"hidden": [2]}, "feature_encoder": small}
    config = from_dict(DeepLearnerConfig, options)
    with pytest.raises(RlcError, match="not for minigrid"):
        DeepLearner(frames, frames.obs_shape, config, seed=0)


def test_observations_that_would_overflow_are_refused() -> None:
    replay = Replay(10, (2,), "uint8", gamma=0.9)
    replay.begin(1)
    obs, end = np.array([[300, 513]], dtype=np.uint16), np.array([True])
    with pytest.raises(RlcError, match="must be uint8"):
        replay.add(obs, np.zeros(1, dtype=np.int64), np.zeros(1), obs, np.zeros(1), end, end)
