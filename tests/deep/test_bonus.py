"""Counts are visits: gradient steps change nothing, rebuilds agree with sums by hand, 10^5 updates stay positive."""

from __future__ import annotations

import numpy as np
import pytest

from rl_contrastive.deep.bonus import VisitBonus
from rl_contrastive.errors import RlcError


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = np.abs(rng.normal(size=shape))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_bonus_by_hand() -> None:
    bonus = VisitBonus(4, 2, lam=1.0, beta=3.0)
    e = np.array([[1.0, 0.0]])
    assert bonus.of(e)[0] == pytest.approx(3.0)
    bonus.visit(np.array([0]), e)
    bonus.visit(np.array([1]), e)
    assert bonus.of(e)[0] == pytest.approx(3.0 / np.sqrt(3.0))  # two visits and lambda = 1
    assert bonus.of(np.array([[0.0, 1.0]]))[0] == pytest.approx(3.0)
    assert bonus.visits == 2
    np.testing.assert_allclose(bonus.of_entries(np.array([[0, 1], [1, 0]])), 3.0 / np.sqrt(3.0))


def test_a_rebuild_from_the_same_features_changes_nothing_and_is_the_sum_of_the_visits() -> None:
    rng = np.random.default_rng(0)
    bonus, phi = VisitBonus(64, 8, lam=0.5, beta=1.0), unit(rng, 50, 8).astype(np.float32)
    for i in range(0, 50, 5):
        bonus.visit(np.arange(i, i + 5), phi[i : i + 5])
    before = bonus.confidence.Sigma.copy()
    expected = 0.5 * np.eye(8) + phi.astype(np.float64).T @ phi.astype(np.float64)
    np.testing.assert_allclose(before[0], expected, rtol=1e-12)
    bonus.rebuild((np.arange(i, i + 10), phi[i : i + 10]) for i in range(0, 50, 10))
    np.testing.assert_allclose(bonus.confidence.Sigma, before, rtol=1e-12)
    # Other features: the counts are kept, the directions are the new ones.
    other = unit(rng, 50, 8)
    bonus.rebuild([(np.arange(50), other)])
    kept = other.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(bonus.confidence.Sigma[0], 0.5 * np.eye(8) + kept.T @ kept, rtol=1e-12)


def test_visits_that_left_the_ring_still_count() -> None:
    bonus, e = VisitBonus(2, 2, lam=1.0, beta=1.0), np.array([[1.0, 0.0]])
    for i in range(10):
        bonus.visit(np.array([i % 2]), e)
    bonus.rebuild([(np.arange(2), np.repeat(e, 2, axis=0))])
    assert bonus.confidence.Sigma[0, 0, 0] == pytest.approx(11.0)
    with pytest.raises(RlcError, match="3 stored visits, but only"):
        VisitBonus(4, 2, lam=1.0, beta=1.0).rebuild([(np.arange(3), np.repeat(e, 3, axis=0))])


@pytest.mark.slow
def test_a_hundred_thousand_updates_stay_finite_and_positive() -> None:
    """The official recipe (float32, ridge 1e-5, full inverse) has negative forms after 100: the control below."""
    rng = np.random.default_rng(1)
    bonus = VisitBonus(1024, 51, lam=1.0, beta=1.0)
    probe = unit(rng, 64, 51)
    last = bonus.of(probe)
    for i in range(100_000):
        phi = np.exp(1.5 * rng.normal(size=(1, 51)))
        bonus.visit(np.array([i % 1024]), phi / phi.sum())
        if i % 10_000 == 0:
            now = bonus.of(probe)
            assert np.isfinite(now).all()
            assert (now > 0).all()
            assert (now <= last + 1e-9).all()
            last = now
    drift = bonus.confidence.Sigma[0] @ bonus.confidence.inverse[0] - np.eye(51)
    assert np.abs(drift).max() < 1e-6


def test_the_official_recipe_turns_most_of_the_bonus_into_nan() -> None:
    """Negative control for the test above: 100 updates of 512 rows in float32 with ridge 1e-5."""
    rng = np.random.default_rng(1)
    Sigma = np.float32(1e-5) * np.eye(51, dtype=np.float32)
    for _ in range(100):
        logits = 1.5 * rng.normal(size=(512, 51))
        phi = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
        Sigma += phi.T @ phi
    stable = VisitBonus(512, 51, lam=1e-5, beta=1.0)
    stable.visit(np.arange(512), phi)
    assert (stable.of(phi) > 0).all()
    base = rng.normal(size=(51, 6)).astype(np.float32)  # features of a narrow network: nearly dependent columns
    near = (base @ rng.normal(size=(6, 512)).astype(np.float32)).T
    narrow = np.float32(1e-5) * np.eye(51, dtype=np.float32)
    for _ in range(100):
        narrow += near.T @ near
    form = np.einsum("nd,nd->n", near @ np.linalg.inv(narrow), near)
    assert (form < 0).any()  # sqrt of these is NaN
    ours = VisitBonus(512, 51, lam=1.0, beta=1.0)
    for _ in range(100):
        ours.visit(np.arange(512), near)
    assert (ours.of(near) > 0).all()


def test_state_survives() -> None:
    rng = np.random.default_rng(2)
    bonus = VisitBonus(8, 3, lam=1.0, beta=2.0)
    bonus.visit(np.arange(4), unit(rng, 4, 3))
    other = VisitBonus(8, 3, lam=1.0, beta=2.0)
    other.load_state_dict(bonus.state_dict())
    probe = unit(rng, 5, 3)
    np.testing.assert_array_equal(other.of(probe), bonus.of(probe))
    assert other.visits == 4
    np.testing.assert_array_equal(other.phi, bonus.phi)
    with pytest.raises(RlcError, match="lacks 'visits'"):
        other.load_state_dict({})
