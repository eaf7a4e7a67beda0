"""Exact regularised optima: brute force, and the difference that random transitions make."""

import itertools

import numpy as np
import pytest
import torch

from rl_contrastive.errors import RlcError
from rl_contrastive.preferences import divergence, optimum, policy_value, regret, regularised_value, soft_optimal


def test_bandit_by_hand():
    reward, log_ref = np.array([1.0, 0.0]), np.log([0.5, 0.5])
    pi = np.exp(optimum(reward, log_ref, 0.5))
    assert pi == pytest.approx([np.exp(2) / (np.exp(2) + 1), 1 / (np.exp(2) + 1)])
    assert regret(np.log(pi), reward, log_ref, 0.5) == pytest.approx(0, abs=1e-15)


def test_regret_is_beta_times_the_divergence_from_the_optimum():
    rng = np.random.default_rng(0)
    reward, log_ref, log_pi = rng.normal(size=(3, 7)), *np.log(rng.dirichlet(np.ones(7), size=(2, 3)))
    best = optimum(reward, log_ref, 0.3)
    assert regret(log_pi, reward, log_ref, 0.3) == pytest.approx(0.3 * divergence(log_pi, best))
    assert (regularised_value(best, reward, log_ref, 0.3) > regularised_value(log_pi, reward, log_ref, 0.3)).all()


def test_arms_without_mass_keep_none():
    log_ref = np.array([0.0, -np.inf])
    assert np.exp(optimum(np.array([0.0, 9.0]), log_ref, 1.0)) == pytest.approx([1, 0])
    assert divergence(np.log([0.5, 0.5]), log_ref) == np.inf
    assert divergence(log_ref, np.log([0.5, 0.5])) == pytest.approx(np.log(2))


def mdp(noisy, H=3, S=3, A=2, seed=1):
    """P (H, S, A, S), r, log_ref; without noise each pair has one successor."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(S, 0.5), size=(H, S, A)) if noisy else np.eye(S)[rng.integers(S, size=(H, S, A))]
    return P, rng.normal(size=(H, S, A)), np.log(rng.dirichlet(np.ones(A), size=(H, S)))


def test_without_noise_it_is_the_tilted_law_of_trajectories():
    P, r, log_ref = mdp(noisy=False)
    pi = soft_optimal(P, r, log_ref, 0.7).log_pi
    logs, rewards, refs = [], [], []
    for actions in itertools.product(range(2), repeat=3):
        s, log_p, total, ref = 0, 0.0, 0.0, 0.0
        for h, a in enumerate(actions):
            log_p, total, ref = log_p + pi[h, s, a], total + r[h, s, a], ref + log_ref[h, s, a]
            s = int(P[h, s, a].argmax())
        logs.append(log_p), rewards.append(total), refs.append(ref)
    assert np.array(logs) == pytest.approx(optimum(np.array(rewards), np.array(refs), 0.7))


def test_no_policy_near_it_is_better_and_its_value_is_V():
    P, r, log_ref = mdp(noisy=True)
    best, start = soft_optimal(P, r, log_ref, 0.5), np.array([0.2, 0.5, 0.3])

    def worth(log_pi):
        found = policy_value(P, r, start, log_pi, log_ref)
        return found.value - 0.5 * found.kl

    assert worth(best.log_pi) == pytest.approx(start @ best.V[0])
    rng = np.random.default_rng(2)
    for _ in range(50):
        other = best.log_pi + 0.1 * rng.normal(size=best.log_pi.shape)
        other -= np.logaddexp.reduce(other, axis=-1, keepdims=True)
        assert worth(other) < worth(best.log_pi)


@pytest.mark.parametrize("beta", [0.0, -1.0, np.nan, np.inf])
def test_beta_must_be_positive(beta):
    with pytest.raises(RlcError, match="beta must be > 0"):
        optimum(np.zeros(2), np.log([0.5, 0.5]), beta)


R, REF, NONE = np.array([1.0, 0.0]), np.log([0.5, 0.5]), np.full(2, -np.inf)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: optimum(R, np.zeros(3), 1.0), r"optimum: shapes .* reward \(2,\), log_ref \(3,\)"),
        (lambda: optimum(np.zeros((2, 2)), np.zeros((3, 2)), 1.0), "optimum: shapes"),
        (lambda: optimum(R, np.zeros((2, 1)), 1.0), "optimum: shapes"),
        (lambda: optimum(R * np.nan, REF, 1.0), "optimum: reward holds NaN"),
        (lambda: optimum(R, NONE, 1.0), "optimum: log_ref is -inf for every action"),
        (lambda: optimum(torch.zeros(2, requires_grad=True), REF, 1.0), r"pass reward\.detach\(\)"),
        (lambda: optimum("ab", REF, 1.0), "optimum: reward must be an array of numbers, got str"),
        (lambda: optimum(np.float64(1), REF, 1.0), r"optimum: reward must have shape \(\.\.\., A\)"),
        (lambda: optimum(R, REF, None), "optimum: beta must be a number"),
        (lambda: regret(REF, R, NONE, 1.0), "regret: log_ref is -inf"),
        (lambda: regret(REF * np.nan, R, REF, 1.0), "regret: log_pi holds NaN"),
        (lambda: regularised_value(REF, R[:1], REF, 1.0), "regularised_value: shapes"),
        (lambda: regularised_value(torch.zeros(2, requires_grad=True), R, REF, 1.0), "log_pi requires a gradient"),
        (lambda: divergence(REF, np.zeros(3)), "divergence: shapes"),
        (lambda: divergence(REF, NONE), "divergence: log_ref is -inf"),
    ],
)
def test_wrong_use_is_one_sentence(call, words):
    with pytest.raises(RlcError, match=words) as error:
        call()
    assert str(error.value).count("\n") == 0


def test_rows_of_one_reference_and_tensors_are_taken():
    rows = np.log(np.random.default_rng(0).dirichlet(np.ones(2), size=3))
    assert regret(rows, R, REF, 1.0) == pytest.approx([float(regret(row, R, REF, 1.0)) for row in rows])
    assert np.array_equal(optimum(torch.tensor(R), torch.tensor(REF), 1.0), optimum(R, REF, 1.0))
