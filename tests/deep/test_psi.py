"""psi(s) and the action apart: counts by hand, actions that are not taken for one another, noise that is left out."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from rl_contrastive.bridges.sb3 import ContrastiveExtractor, EllipticalBonusConfig, EllipticalBonusVecEnv
from rl_contrastive.config import from_dict
from rl_contrastive.deep.agent_config import ContrastiveUCBDeepConfig
from rl_contrastive.deep.bonus_config import BonusConfig
from rl_contrastive.deep.build_bonus import make_bonus
from rl_contrastive.deep.config import DeepLearnerConfig, RepresentationConfig
from rl_contrastive.deep.feature_net import FeatureConfig, FeatureNet, ObsLayout, TransitionFeatures
from rl_contrastive.deep.representation import Representation
from rl_contrastive.errors import RlcError

A, D = 3, 4


class Still(gym.Env):
    """One state, two actions, no reward, no end."""

    observation_space, action_space = spaces.Discrete(5), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        return 0, 0.0, False, False, {}


def counting(of_states: bool = True, lam: float = 0.5):
    config = BonusConfig(lam=lam, tilings=2, directions=3)
    return make_bonus(config, 20, A, D, beta=2.0, rng=np.random.default_rng(0), of_states=of_states)


def test_visits_of_states_are_counted_for_each_action() -> None:
    bonus, far = counting(), np.array([[0.0, 0, 0, 0], [50.0, 0, 0, 0]])
    bonus.store(np.array([0, 1, 2]), far[[0, 0, 1]][:, None])
    bonus.visit(np.array([0, 1, 2]), np.array([1, 1, 2]))
    visits = np.array([[0, 2, 0], [0, 0, 1]])
    np.testing.assert_allclose(bonus.value(far[:, None]), 2.0 / np.sqrt(0.5 + visits))
    np.testing.assert_allclose(bonus.at(np.array([1, 2])), 2.0 / np.sqrt(0.5 + visits))
    np.testing.assert_allclose(bonus.taken(np.array([0, 2]), np.array([0, 2])), 2.0 / np.sqrt(0.5 + np.array([0, 1])))
    # Counted afresh when four more visits have left the replay, three of a state and action that are not in it.
    index, action = np.arange(3), np.array([1, 1, 2])
    bonus.visits = 7
    gone = [(far[:, None], np.array([0, 2]), np.array([3.0, 1.0]))]
    bonus.rebuild(far[[0, 0, 1]], iter([(index, action, far[[0, 0, 1]][:, None])]), gone)
    np.testing.assert_allclose(bonus.value(far[:, None]), 2.0 / np.sqrt(0.5 + np.array([[3, 2, 0], [0, 0, 2]])))


def test_features_alike_in_all_actions_share_their_visits_unless_they_are_of_states() -> None:
    """The control: an action never tried, whose phi is that of one tried often, looks known."""
    x = np.zeros((1, A, D))
    pairs, states = counting(of_states=False), counting()
    for bonus, phi in ((pairs, x), (states, x[:, :1])):
        for _ in range(9):
            bonus.store(np.array([0]), phi)
            bonus.visit(np.array([0]), np.array([0]))
    np.testing.assert_allclose(pairs.value(x), 2.0 / np.sqrt(9.5))
    np.testing.assert_allclose(states.value(x[:, :1])[0, 1:], 2.0 / np.sqrt(0.5))


def test_cells_of_all_actions_differ_and_stay_in_their_tiling() -> None:
    tiles = counting().tiles
    cells = tiles.apart(tiles.cells_of(np.random.default_rng(0).normal(size=(200, 1, D))), 18)
    assert cells.shape == (200, 18, 2)
    assert all(len(set(row[:, j])) == 18 for row in cells for j in range(2))
    assert ((cells // tiles.per_tiling) == np.arange(2)).all()


def test_psi_is_the_head_of_successors() -> None:
    config = RepresentationConfig(dim=D, hidden=0, features="psi")
    net = Representation(5, A, config, rng=torch.Generator().manual_seed(0))
    z = torch.randn((7, 5), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(net.features(z), net.successors(z)[:, None])
    torch.testing.assert_close(net.features(z, torch.zeros(7, dtype=torch.long)), net.successors(z))
    assert not net.features(z).requires_grad


def scatter(net: FeatureNet, observe) -> float:
    """Variance of the features within a state, over that between states: 0 where noise is left out."""
    x = np.stack([net.phi(observe(np.full(200, s)))[:, 0] for s in range(4)])  # (S, n, d)
    return float(x.var(axis=1).sum() / x.mean(axis=1).var(axis=0).sum())


def test_psi_leaves_out_noise_that_nothing_foretells() -> None:
    """A walk on a ring of four states, seen with eight coins larger than they are: (s,a) -> s +- 1."""
    rng = np.random.default_rng(0)

    def observe(s):
        return np.hstack([np.eye(4)[s], 2.0 * rng.integers(2, size=(len(s), 8)) - 1.0]).astype(np.float32)

    fields = {"encoder": {"hidden": [64]}, "representation": {"dim": 8, "hidden": 32, "features": "psi"}, "lr": 0.003}
    config = from_dict(FeatureConfig, fields)
    net = FeatureNet(ObsLayout((12,), "float32"), 2, config, rng=torch.Generator().manual_seed(0))
    net.freeze()
    drawn = scatter(net, observe)
    for _ in range(600):
        s, action = rng.integers(4, size=64), rng.integers(2, size=64)
        batch = (observe(s), action, observe((s + 2 * action - 1) % 4))
        net.descend(*(torch.as_tensor(array) for array in batch))
    net.freeze()
    assert drawn > 1.0  # the control: coins count more than states
    assert scatter(net, observe) < 0.05


def test_a_full_sigma_of_states_is_refused() -> None:
    psi = RepresentationConfig(features="psi")
    with pytest.raises(RlcError, match="psi"):
        EllipticalBonusConfig(features=FeatureConfig(representation=psi))
    with pytest.raises(RlcError, match="psi"):
        ContrastiveUCBDeepConfig(bonus=BonusConfig(kind="elliptical"), learner=DeepLearnerConfig(representation=psi))


def test_psi_in_stable_baselines3() -> None:
    """The extractor has the state's vector once; the wrapper counts each action by itself."""
    representation = {"dim": 6, "hidden": 0, "features": "psi"}
    config = from_dict(FeatureConfig, {"encoder": {"hidden": [16]}, "representation": representation, "capacity": 50})
    rng = torch.Generator().manual_seed(0)
    features = TransitionFeatures(ObsLayout((), "int64", 5), 2, config, rng=rng)
    extractor = ContrastiveExtractor(spaces.Discrete(5), features, output="phi")
    assert extractor(torch.eye(5)).shape == (5, extractor.features_dim) == (5, 6)
    counts = {"kind": "tiles", "lam": 1.0}
    options = replace(from_dict(EllipticalBonusConfig, {"counts": counts, "beta": 1.0}), features=config)
    env = EllipticalBonusVecEnv(DummyVecEnv([Still]), options, rng=np.random.default_rng(0))
    env.reset()
    paid = [float(env.step(np.array([action]))[1][0]) for action in (0, 0, 1, 0)]
    np.testing.assert_allclose(paid, [1.0, 0.5**0.5, 1.0, 3**-0.5], rtol=1e-6)
