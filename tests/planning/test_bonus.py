"""Elliptical confidence: counts as a special case, invariance, updates against rebuilds, the potential lemma."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_contrastive.errors import RlcError
from rl_contrastive.planning.bonus import EllipticalBonus, elliptical_norm, potential_bound, spd_inverse


def covariance(phi: np.ndarray, lam: float) -> np.ndarray:
    return lam * np.eye(phi.shape[1]) + phi.T @ phi


def test_three_visits_by_hand():
    """d = 2, lambda = 1, visits e1, e1, e2: Sigma = diag(3, 2), ||(1,1)|| = sqrt(1/3 + 1/2)."""
    bonus = EllipticalBonus(1, 2)
    bonus.update(0, np.array([1.0, 0.0]))
    bonus.update(0, np.array([1.0, 0.0]))
    bonus.update(0, np.array([0.0, 1.0]))
    np.testing.assert_allclose(bonus.Sigma[0], np.diag([3.0, 2.0]))
    assert bonus.norm(0, np.array([1.0, 1.0])) == pytest.approx(np.sqrt(1 / 3 + 1 / 2), abs=1e-12)


@pytest.mark.parametrize("lam", [0.1, 1.0, 7.0])
def test_onehot_features_give_the_bonus_of_counts(lam):
    """||e_i||_{Sigma^-1} = 1 / sqrt(lambda + N_i), by rank-one updates and by weights alike."""
    rng = np.random.default_rng(0)
    d = 6
    visits = rng.integers(d - 1, size=200)  # the last pair is never visited
    N = np.bincount(visits, minlength=d)
    one_by_one, weighted = EllipticalBonus(1, d, lam), EllipticalBonus(1, d, lam)
    for i in visits:
        one_by_one.update(0, np.eye(d)[i])
    weighted.rebuild(np.eye(d)[None], weight=N[None].astype(float))
    for bonus in (one_by_one, weighted):
        np.testing.assert_allclose(bonus.norm(0, np.eye(d)), 1 / np.sqrt(lam + N), atol=1e-10, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 30), st.integers(0, 2**31 - 1))
def test_norm_is_invariant_under_a_change_of_basis(d, n, seed):
    """phi -> A phi, Sigma -> A Sigma A' (lambda A A' included) leaves ||phi||_{Sigma^-1} alone."""
    rng = np.random.default_rng(seed)
    phi, test = rng.normal(size=(n, d)), rng.normal(size=(9, d))
    A = rng.normal(size=(d, d)) + 3 * np.eye(d)
    if np.linalg.cond(A) > 1e3:
        A = np.eye(d) * 2.5
    Sigma = covariance(phi, 0.7)
    before = elliptical_norm(spd_inverse(Sigma), test)
    after = elliptical_norm(spd_inverse(A @ Sigma @ A.T), test @ A.T)
    np.testing.assert_allclose(after, before, rtol=1e-8, atol=1e-10)


def test_norm_is_not_invariant_when_lambda_is_left_out():
    """The negative control: with lambda I in both bases the norm changes."""
    phi = np.random.default_rng(1).normal(size=(5, 3))
    plain = elliptical_norm(spd_inverse(covariance(phi, 1.0)), phi)
    scaled = elliptical_norm(spd_inverse(covariance(3 * phi, 1.0)), 3 * phi)
    assert np.abs(scaled - plain).max() > 0.01


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**31 - 1))
def test_woodbury_updates_equal_a_rebuild(d, blocks, size, seed):
    """Blocks below, at and above d (the last two go through a fresh factorisation)."""
    rng = np.random.default_rng(seed)
    bonus, rebuilt = EllipticalBonus(2, d, 0.5), EllipticalBonus(2, d, 0.5)
    rows = rng.normal(size=(2, blocks * size, d))
    for h in (0, 1):
        for block in np.split(rows[h], blocks):
            bonus.update(h, block)
    rebuilt.rebuild(rows)
    np.testing.assert_allclose(bonus.Sigma, rebuilt.Sigma, atol=1e-10)
    np.testing.assert_allclose(bonus.inverse, rebuilt.inverse, atol=1e-8)
    test = rng.normal(size=(2, 5, d))
    np.testing.assert_allclose(bonus.norms(test), rebuilt.norms(test), atol=1e-8)


def test_drift_of_2000_rank_one_updates_is_negligible():
    rng = np.random.default_rng(2)
    d = 16
    bonus = EllipticalBonus(1, d)
    for phi in rng.normal(size=(2000, d)) / np.sqrt(d):
        bonus.update(0, phi)
    np.testing.assert_allclose(bonus.inverse[0], spd_inverse(bonus.Sigma[0]), atol=1e-12)


def test_a_rebuild_counts_only_real_rows():
    rng = np.random.default_rng(3)
    phi = rng.normal(size=(2, 10, 3))
    bonus = EllipticalBonus(2, 3)
    bonus.rebuild(phi, count=np.array([4, 0]))
    np.testing.assert_allclose(bonus.Sigma[0], covariance(phi[0, :4], 1.0))
    np.testing.assert_array_equal(bonus.Sigma[1], np.eye(3))


def test_a_rebuild_may_change_the_dimension():
    bonus = EllipticalBonus(1, 3)
    bonus.rebuild(np.ones((1, 4, 2)))
    assert bonus.norm(0, np.array([[1.0, 1.0]])) == pytest.approx(np.sqrt(2 / 9), abs=1e-12)  # Sigma = I + 4 11'


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 150), st.floats(0.1, 5.0), st.integers(0, 2**31 - 1))
def test_elliptical_potential_lemma(d, n, lam, seed):
    """sum_n min(1, ||phi_n||^2_{Sigma_{n-1}^-1}) <= 2 d log(1 + n/(d lambda)) for |phi_n| <= 1."""
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(n, d))
    phi /= np.maximum(np.linalg.norm(phi, axis=1, keepdims=True), 1.0)
    bonus = EllipticalBonus(1, d, lam)
    total = 0.0
    for row in phi:
        total += min(1.0, float(bonus.norm(0, row)) ** 2)
        bonus.update(0, row)
    assert total <= potential_bound(n, d, lam)


def test_potential_without_counting_visits_breaks_the_bound():
    """Negative control: a Sigma that is never updated pays 1 a step, which the lemma forbids."""
    n, d = 500, 2
    assert n * 1.0 > potential_bound(n, d, 1.0) == pytest.approx(2 * d * np.log(1 + n / d))


def test_cap_and_gamma():
    bonus = EllipticalBonus(2, 2, lam=0.25)  # ||e1|| = 2
    phi = np.array([[1.0, 0.0], [0.1, 0.0]])
    np.testing.assert_allclose(bonus.bonus(0, phi, gamma=3.0, cap=5.0), [5.0, 0.6])
    np.testing.assert_allclose(bonus.bonuses(np.stack([phi, phi]), 3.0, 5.0), [[5.0, 0.6]] * 2)


# The defect of the official implementation (spec benchmarks, section 2f).


def value_atoms(updates: int, rows: int = 512, atoms: int = 51, width: float = 1.5):
    """Features of the official recipe: softmax over 51 atoms on [-10, 10], float32, bumps of width 1.5."""
    rng = np.random.default_rng(0)
    support = np.linspace(-10, 10, atoms)
    for _ in range(updates):
        phi = np.exp(-0.5 * ((support - 2 * rng.normal(size=(rows, 1))) / width) ** 2)
        yield (phi / phi.sum(axis=1, keepdims=True)).astype(np.float32)


def test_the_official_recipe_goes_indefinite_and_ours_does_not():
    """Ridge 1e-5 in float32 with a full inverse: negative quadratic forms, which the official code turns into bonus 0.

    How many of the 512 differs from update to update; over 200 updates some are, and Lambda ends indefinite. The same
    features at the same ridge in float64 by Cholesky are positive at each update, and so is every eigenvalue.
    """
    d = 51
    Lambda = (1e-5 * np.eye(d)).astype(np.float32)
    ours = EllipticalBonus(1, d, lam=1e-5)
    negative = 0
    for k, phi in enumerate(value_atoms(200)):
        Lambda += phi.T @ phi
        ours.update(0, phi.astype(np.float64))
        if k % 10 == 9:
            official = np.einsum("nd,de,ne->n", phi, np.linalg.inv(Lambda), phi)
            negative += int((official < 0).sum())
            square = np.einsum("nd,de,ne->n", phi.astype(float), ours.inverse[0], phi.astype(float))
            assert (square > 0).all()
    assert negative > 20
    assert np.linalg.eigvalsh(Lambda.astype(np.float64)).min() < -1e-5
    assert np.linalg.eigvalsh(ours.Sigma[0]).min() >= 0.99e-5


# Bad input and state.


def test_bad_input_is_named():
    bonus = EllipticalBonus(2, 3)
    with pytest.raises(RlcError, match="NaN or infinite"):
        bonus.norm(0, np.array([np.nan, 0.0, 0.0]))
    with pytest.raises(RlcError, match="NaN or infinite"):
        bonus.update(0, np.array([np.inf, 0.0, 0.0]))
    with pytest.raises(RlcError, match="NaN or infinite"):
        bonus.rebuild(np.full((2, 4, 3), np.nan))
    with pytest.raises(RlcError, match="dimension 2, expected 3"):
        bonus.norm(0, np.zeros(2))
    with pytest.raises(RlcError, match="expected 2 steps"):
        bonus.norms(np.zeros((1, 4, 3)))
    with pytest.raises(RlcError, match="weights must be"):
        bonus.rebuild(np.zeros((2, 4, 3)), weight=np.full((2, 4), np.nan))
    with pytest.raises(RlcError, match="not positive definite"):
        spd_inverse(np.diag([1.0, -1.0]))
    for lam in (0.0, -1.0, np.nan):
        with pytest.raises(RlcError, match="lambda"):
            EllipticalBonus(1, 2, lam)


def test_state_round_trip_to_the_bit():
    bonus = EllipticalBonus(2, 3, 0.3)
    bonus.update(1, np.random.default_rng(0).normal(size=(2, 3)))
    other = EllipticalBonus(2, 1)
    other.load_state_dict(bonus.state_dict())
    for left, right in ((bonus.Sigma, other.Sigma), (bonus.inverse, other.inverse)):
        assert left.tobytes() == right.tobytes()
    assert (other.lam, other.dim) == (0.3, 3)
    for key in ("lam", "Sigma", "inverse"):
        with pytest.raises(RlcError, match=f"lacks '{key}'"):
            other.load_state_dict({k: v for k, v in bonus.state_dict().items() if k != key})
    with pytest.raises(RlcError, match="shapes"):
        EllipticalBonus(3, 3).load_state_dict(bonus.state_dict())
