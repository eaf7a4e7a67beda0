"""contrastive-ucb on vectors at the edges: one number to observe, huge rewards, stores too short, lost ridges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from agents_common import batches, same

from rl_contrastive.agents.contrastive_ucb import ContrastiveUCB
from rl_contrastive.agents.ucb_config import ContrastiveUCBConfig
from rl_contrastive.config import from_dict
from rl_contrastive.envs.base import BatchEnv
from rl_contrastive.envs.streams import uniforms
from rl_contrastive.errors import RlcError
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.maps import LinearFeatures
from rl_contrastive.features.mixture import MixtureConfig
from rl_contrastive.features.mixture_learner import MixtureLearner
from rl_contrastive.spec import EnvSpec, StepData


class Ring(BatchEnv):
    """Three noisy places on a ring, seen as D numbers; an action moves on by 1 or 2. Each step pays `reward`."""

    def __init__(self, num_envs: int, D: int = 2, reward: float = 1.0) -> None:
        super().__init__(EnvSpec("ring", 2, 3, (D,), "float64"), num_envs, words_per_step=1)
        self.place, self.noise, self.reward = np.zeros(num_envs, np.int64), np.zeros(num_envs), reward

    def _prepare(self, words):
        self.drawn = uniforms(words[:, 0])

    def _start(self, slot, rows):
        self.place = np.where(True if rows is None else rows, 0, self.place)

    def _advance(self, action, slot):
        self.place, self.noise = (self.place + action + 1) % 3, self.drawn[slot]
        return np.full(self.num_envs, self.reward), None, None

    def _observe(self, slot=0):
        return np.repeat((self.place + 0.1 * self.noise)[:, None], self.env_spec.obs_shape[0], axis=1)


def ucb(D: int = 2, reward: float = 1.0, **fields: Any) -> ContrastiveUCB:
    """The agent on the ring, with batches of 20 that are learned from at once."""
    config = from_dict(ContrastiveUCBConfig, {"batch": 20, "warm_start": 20, **fields})
    return ContrastiveUCB(Ring(20, D, reward), config)


@pytest.mark.parametrize(
    "fields",
    [
        {"representation": "ridge"},
        {"learner": {"model": "linear"}},
        {"learner": {"method": "spectral+nce", "steps": 2}},
    ],
)
def test_of_one_number_the_default_is_two_features(fields):
    """A default of three was refused at the first fit, in the middle of a run."""
    agent = ucb(D=1, **fields)
    batches(agent, 0, 2)
    assert agent.model.features.dim == 2
    again = ucb(D=1, **fields)
    again.load_state_dict(agent.state_dict())
    obs = np.array([[0.0], [2.0]])
    np.testing.assert_array_equal(agent.policy(obs, 1, explore=True), again.policy(obs, 1, explore=True))


def test_descent_without_held_out_rows_goes_on_from_the_last_features():
    """As `LearnerConfig.hold_out` says: a step of no length leaves them where they were."""
    agent = ucb(growth=0.0, feature_growth=0.0, learner={"method": "nce", "hold_out": 0.0, "steps": 1, "lr": 1e-12})
    batches(agent, 0, 1)
    first = agent.model.features
    batches(agent, 1, 1)
    second = agent.model.features
    assert isinstance(first, LinearFeatures)
    assert isinstance(second, LinearFeatures)
    assert second.version > first.version
    np.testing.assert_allclose(second.Phi, first.Phi, atol=1e-6)


@pytest.mark.parametrize("representation", ["vector", "ridge"])
@pytest.mark.parametrize("reward", [1e200, -1e300])
def test_rewards_that_cannot_be_squared_are_one_sentence(representation, reward):
    with pytest.raises(RlcError, match=r"^spectral: a reward is NaN, infinite or beyond 1e150\.$"):
        batches(ucb(reward=reward, representation=representation), 0, 1)


def test_a_store_too_short_for_simplex_features_is_refused():
    """Of fewer rows than it learns from every step would keep the constant feature for good."""
    with pytest.raises(RlcError, match="capacity must be >= 20 for simplex features, got 19"):
        ucb(capacity=19)
    batches(ucb(capacity=20), 0, 2)
    ucb(capacity=10, representation="ridge")


def test_a_step_with_few_of_many_rows_does_not_judge_the_whitening():
    """Rows are judged evenly over the longest step; of 30 beside 20 000 one is left, and one of two parts was empty."""
    rng, N = np.random.default_rng(0), 20_000
    obs, zero = rng.normal(size=(2, N, 2)), np.zeros((2, N))
    data = StepData(obs, rng.integers(2, size=(2, N)), zero, obs + 1.0, zero + 1.0, np.array([N, 30]))
    learner = MixtureLearner(MixtureConfig(iterations=1), LearnerConfig(dim=2), horizon=2, num_actions=2)
    np.testing.assert_allclose(learner.fit(data, N).share.sum(axis=1), 1.0)


def test_a_law_that_vectors_do_not_have_is_refused():
    with pytest.raises(RlcError, match="law of negatives 'uniform' needs a finite state space"):
        ucb(learner={"law": "uniform"})


def test_the_law_propensity_plays_and_resumes():
    """Stored successors weigh 1/density in the fit and in the plan; the closed form has no such law."""
    learner = {"method": "nce", "law": "propensity", "steps": 5, "dim": 2}
    whole, half, rest = (ucb(learner=learner) for _ in range(3))
    batches(whole, 0, 3)
    batches(half, 0, 2)
    rest.load_state_dict(half.state_dict())
    rest.env.noise = half.env.noise.copy()  # a ring starts with the noise of its last step
    batches(rest, 2, 1)
    assert same(whole.state_dict(), rest.state_dict())
    marginal = ucb(learner={**learner, "law": "marginal"})
    batches(marginal, 0, 3)
    assert not np.array_equal(marginal.state_dict()["model"]["w"], whole.state_dict()["model"]["w"])
    with pytest.raises(RlcError, match="'propensity' needs method nce"):
        ucb(learner={"law": "propensity"})


def test_a_ridge_lost_to_rounding_is_refused():
    """1e-300 left the Newton steps of an action without rows singular: a LinAlgError in the middle of a run."""
    with pytest.raises(RlcError, match="mixture: ridge must be >= 1e-09, got 1e-300"):
        MixtureConfig(ridge=1e-300)
    batches(ucb(mixture={"ridge": 1e-9}), 0, 2)
