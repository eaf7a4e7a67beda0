"""d from the data: the singular values above the noise of sampling; simplex features; the choice of a whitening."""

from __future__ import annotations

import numpy as np
import pytest

from rl_contrastive.config import from_dict
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.mixture import (
    MixtureConfig,
    MixtureFeatures,
    fit_mixture,
    held_out_score,
    kept_rows,
)
from rl_contrastive.features.mixture_learner import MixtureLearner
from rl_contrastive.features.neural_maps import features_from_state
from rl_contrastive.features.spectral import fit_tabular
from rl_contrastive.features.spectral_linear import LinearSpectralConfig, noise_floor
from rl_contrastive.features.steps import StepStore
from rl_contrastive.features.whitening import full_is_better
from rl_contrastive.registry import get
from rl_contrastive.runs.rollout import play
from rl_contrastive.spec import StepData


def make_env(name: str, rows: int = 1, **fields):
    entry, _ = get("env", name)
    return entry.factory(from_dict(entry.config, fields), rows)


def sampled(P: np.ndarray, n: int, seed: int) -> TransitionCounts:
    """n transitions of every pair."""
    rng = np.random.default_rng(seed)
    return TransitionCounts.from_dense(np.array([[[rng.multinomial(n, p) for p in row] for row in step] for step in P]))


@pytest.mark.parametrize(("S", "d"), [(20, 3), (50, 3), (50, 6), (120, 5)])
def test_d_is_the_rank_of_the_kernel_once_there_are_data(S, d):
    for seed in range(3):
        P = make_env("low-rank", num_states=S, num_actions=4, rank=d, horizon=2, mdp_seed=seed).exact().P
        assert (abs(fit_tabular(sampled(P, 256, seed), None).ranks - d) <= 1).all()
        assert fit_tabular(sampled(P, 1, seed), None).ranks.max() <= d  # too few to see anything more


@pytest.mark.parametrize("n", [1, 10, 100])
def test_where_nothing_predicts_only_the_constant_stands_out(n):
    P = np.broadcast_to(np.random.default_rng(0).dirichlet(np.ones(30)), (4, 30, 3, 30))
    assert fit_tabular(sampled(P, n, n), None).ranks.max() <= 2


def test_deterministic_kernels_keep_all_they_reach():
    """Each successor is a direction of its own: 8 states whose step is a permutation have rank 8."""
    P = np.eye(8)[np.random.default_rng(1).permutation(8)][None, :, None]
    fit = fit_tabular(sampled(P, 20, 0), None)
    assert fit.ranks.tolist() == [8]
    np.testing.assert_allclose(fit.features.model().rows(0), P[0], atol=1e-9)


def test_more_than_the_first_values_are_looked_at_where_tables_are_sparse():
    P = make_env("low-rank", num_states=150, num_actions=3, rank=12, horizon=1, mdp_seed=1).exact().P
    fit = fit_tabular(sampled(P, 400, 0), None)
    assert abs(fit.features.dim - 12) <= 1
    assert not fit.cut


def test_the_rank_does_not_depend_on_the_law_of_the_negatives():
    P = make_env("low-rank", num_states=30, num_actions=3, rank=3, horizon=2, mdp_seed=1).exact().P
    counts = sampled(P, 100, 0)
    uniform = fit_tabular(counts, None, law=np.full((2, 30), 1 / 30))
    np.testing.assert_array_equal(uniform.ranks, fit_tabular(counts, None).ranks)


def test_steps_share_d_and_leave_the_rest_empty():
    one, three = (make_env("low-rank", num_states=20, rank=r, horizon=1, mdp_seed=3).exact().P for r in (1, 3))
    fit = fit_tabular(sampled(np.concatenate([one, three]), 300, 0), None)
    assert fit.ranks[0] < fit.ranks[1] == 3  # the edge of the noise fluctuates: one too many can pass
    assert (fit.features.phi_table[0, ..., 2] == 0).all()
    assert fit.features.dim == 3


# Vectors.

A, H = 6, 4


def lock_rows(name: str = "combination-lock", n: int = 3000, seed: int = 5, **fields):
    """n uniform episodes of a lock of 4 steps, and the lock."""
    env = make_env(name, n, horizon=H, num_actions=A, lock_seed=1, **fields)
    store, rng = StepStore(env.env_spec), np.random.default_rng(seed)
    for step in play(env, [seed * n + i for i in range(n)], lambda obs, h: rng.integers(A, size=len(obs))):
        store.add(step)
    return store.data(), env


@pytest.fixture(name="data", scope="module")
def data_fixture():
    return lock_rows()[0]


def first_rows(data: StepData, count) -> StepData:
    return kept_rows(data, np.arange(data.action.shape[1]) < np.broadcast_to(count, H)[:, None])


def test_mixture_features_are_a_distribution(data):
    features = fit_mixture(data, A, 2, MixtureConfig(), LinearSpectralConfig(), dim=3)
    assert features.ranks.tolist() == [2] * H
    for h in range(H):
        phi, psi = features.phi(h, data.obs[h, :200]), features.psi(h, data.next_obs[h])
        assert phi.shape == (200, A, 3)
        assert (phi >= 0).all()
        assert (psi >= 0).all()
        np.testing.assert_allclose(phi.sum(axis=2), 1.0)
        np.testing.assert_allclose(psi.mean(axis=0)[:2], 1.0, atol=1e-9)  # P-hat sums to 1 over the stored successors
        assert (phi[..., 2] == 0).all()


def test_mixture_features_find_the_good_actions(data):
    """At the first step: the good action of either latent is one vertex, all wrong ones are the other."""
    fresh, env = lock_rows(n=200, seed=9)
    features = fit_mixture(data, A, 2, MixtureConfig(), LinearSpectralConfig())
    rare = int(features.share[0].argmin())  # good successors
    phi = features.phi(0, fresh.obs[0])[..., rare]
    assert set(phi.argmax(axis=1)) == set(env.good_actions[0, :2])
    assert phi.max(axis=1).min() > 0.8
    assert np.sort(phi, axis=1)[:, -2].max() < 0.1


def test_held_out_rows_judge_what_they_have_not_trained(data):
    """Shuffled successors leave nothing to predict, and the score says so."""
    few = first_rows(data, 300)
    order = np.random.default_rng(0).permutation(300)
    shuffled = StepData(few.obs, few.action, few.reward, few.next_obs[:, order], few.discount, few.count)
    config, linear = MixtureConfig(), LinearSpectralConfig()
    assert held_out_score(few, A, 2, config, linear).sum() > 20
    assert held_out_score(shuffled, A, 2, config, linear).sum() < 0


def test_the_learner_picks_the_rank_and_continues_from_its_state(data):
    learner, other = (MixtureLearner(MixtureConfig(), LearnerConfig(), horizon=H, num_actions=A) for _ in range(2))
    features = learner.fit(data, int(data.count.sum()))
    assert set(learner.ranks) <= {2, 3}  # good and bad successors; a third may help a linear softmax
    assert not learner.full
    other.load_state_dict(learner.state_dict())
    again = other.fit(data, int(data.count.sum()))
    for name in ("Phi", "Psi", "share"):
        np.testing.assert_array_equal(getattr(features, name), getattr(again, name))
    restored = features_from_state(features.state_dict())
    assert isinstance(restored, MixtureFeatures)
    np.testing.assert_array_equal(restored.phi(1, data.obs[1, :5]), features.phi(1, data.obs[1, :5]))


def test_steps_with_few_rows_have_one_factor(data):
    few = first_rows(data, [3000, 5, 3000, 0])
    features = MixtureLearner(MixtureConfig(), LearnerConfig(), horizon=H, num_actions=A).fit(few, 1)
    assert features.ranks.tolist() == [2, 1, 2, 1]
    np.testing.assert_array_equal(features.psi(1, data.next_obs[1, :3]), [[1.0, 0.0]] * 3)  # P-hat = P^-


@pytest.mark.parametrize("n", [200, 2000])
@pytest.mark.parametrize(
    ("world", "fields", "full"),
    [
        ("combination-lock", {}, False),
        ("distractor-lock", {"num_distractors": 6, "distractor_scale": 1.5}, True),
    ],
)
def test_distractors_call_for_the_full_whitening(world, fields, full, n):
    data, _ = lock_rows(world, n=n, **fields)
    assert full_is_better(data, A, LinearSpectralConfig()) is full


def test_distractors_do_not_raise_the_noise_floor():
    quiet = np.array([[5.0, 1.0, 0.01, 0.01, 0.01, 0.01, 0.0]])
    loud = np.array([[90.0, 80.0, 70.0, 5.0, 1.0, 0.01, 0.01, 0.01, 0.01, 0.0]])
    count = np.array([100])
    assert noise_floor(quiet, count) == noise_floor(loud, count) == 0.01
