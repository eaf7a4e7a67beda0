"""Diagnostics by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rl_contrastive.errors import RlcError
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.diagnostics import (
    effective_rank,
    misfit,
    model_error,
    phi_angles,
    principal_angles,
    purity,
    tolerance,
    uniformity,
)
from rl_contrastive.planning.models import DenseModel


def test_total_variation_by_hand() -> None:
    P = np.array([[[[1.0, 0.0]], [[0.5, 0.5]]], [[[0.0, 1.0]], [[0.25, 0.75]]]])  # H=2, S=2, A=1
    guess = np.array([[[[0.8, 0.2]], [[0.5, 0.5]]], [[[1.0, 0.0]], [[0.5, 0.5]]]])
    error = model_error(DenseModel(guess), P)
    assert error.mean == pytest.approx([0.1, (1.0 + 0.25) / 2])
    assert error.worst == pytest.approx([0.2, 1.0])
    weight = np.array([[[3.0], [1.0]], [[0.0], [2.0]]])
    weighted = model_error(DenseModel(guess), P, weight)
    assert weighted.mean == pytest.approx([0.15, 0.25])
    assert weighted.worst == pytest.approx([0.2, 0.25])  # the pair of weight 0 does not count
    assert np.isnan(model_error(DenseModel(guess), P, np.zeros((2, 2, 1))).mean).all()
    with pytest.raises(RlcError):
        model_error(DenseModel(guess), P[:1])
    with pytest.raises(RlcError):
        model_error(DenseModel(guess), P, -weight)


def test_misfit_by_hand() -> None:
    """Four arrivals in 1, which P-hat takes for a coin: e = 1/2, no noise. Two of each: the coin, and noise alone."""
    V = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])[..., None]  # H = 2, S = 2
    half = DenseModel(np.full((2, 2, 1, 2), 0.5))
    counts = np.zeros((2, 2, 1, 2))
    counts[0, 0, 0], counts[1, 0, 0] = [0.0, 4.0], [4.0, 0.0]
    assert misfit(TransitionCounts.from_dense(counts), half, V)[:, 0] == pytest.approx([0.5, 0.0])  # V_2 = 0
    assert misfit(TransitionCounts.from_dense(counts), half, V, alive=0.5)[:, 0] == pytest.approx([0.25, 0.0])
    counts[0, 0, 0] = [2.0, 2.0]
    assert misfit(TransitionCounts.from_dense(counts), half, V)[:, 0] == pytest.approx([0.0, 0.0])
    counts[0, 0, 0], counts[0, 1, 0] = [0.0, 4.0], [0.0, 1.0]  # a pair seen once does not count
    assert misfit(TransitionCounts.from_dense(counts), half, V)[:, 0] == pytest.approx([0.5, 0.0])


@pytest.mark.parametrize("n", [5, 50])
def test_misfit_is_the_error_of_the_model_and_not_the_noise_of_the_data(n: int) -> None:
    rng = np.random.default_rng(n)
    P = rng.dirichlet(np.ones(8), size=(1, 8, 40))
    V = np.concatenate([np.zeros((1, 8, 1)), rng.random((1, 8, 1))])
    counts = TransitionCounts.from_dense(rng.multinomial(n, P.reshape(-1, 8)).reshape(P.shape).astype(np.float64))
    law = np.broadcast_to(P.mean(axis=(1, 2), keepdims=True), P.shape)
    true = np.sqrt(np.square((P - law) @ V[1, :, 0]).mean())
    assert misfit(counts, DenseModel(P), V)[0, 0] < 0.25 * true
    assert misfit(counts, DenseModel(law), V)[0, 0] == pytest.approx(true, rel=0.15)


def test_angles_by_hand() -> None:
    x, y, z = np.eye(3)
    assert principal_angles(np.column_stack([x, y]), np.column_stack([x, y + z])) == pytest.approx([math.pi / 4, 0.0])
    assert principal_angles(x[:, None], y[:, None]) == pytest.approx([math.pi / 2])
    A = np.random.default_rng(0).normal(size=(8, 3))
    assert principal_angles(A @ np.diag([1e4, 1.0, 1e-4]), A).max() < 1e-7
    table = A.reshape(1, 4, 2, 3)
    assert phi_angles(table, table).max() < 1e-7
    with pytest.raises(RlcError):
        principal_angles(A, A[:-1])
    with pytest.raises(RlcError):
        principal_angles(A * np.nan, A)


def test_purity_by_hand() -> None:
    latents = np.array([0, 0, 0, 1, 1, 2])
    assert purity(np.array([7, 7, 7, 3, 3, 5]), latents) == 1.0  # names do not matter
    assert purity(np.array([0, 0, 0, 0, 0, 0]), latents) == pytest.approx(3 / 6)
    assert purity(np.array([0, 1, 2, 3, 4, 5]), latents) == pytest.approx(3 / 6)  # splitting does not pay
    # Majority voting would give both clusters latent 0; one-to-one assignment does not.
    assert purity(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])) == pytest.approx(3 / 4)
    with pytest.raises(RlcError):
        purity(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


def test_effective_rank_by_hand() -> None:
    assert effective_rank(np.eye(4)) == pytest.approx(4.0)
    assert effective_rank(np.ones((10, 3))) == pytest.approx(1.0)
    p = np.array([0.75, 0.25])
    expected = math.exp(-(p * np.log(p)).sum())
    assert effective_rank(np.diag(np.sqrt(p))) == pytest.approx(expected)
    assert effective_rank(np.zeros((4, 2))) == 0.0
    assert effective_rank(np.array([[1.0, 0.0], [1.0, 1.0]]), centred=True) == pytest.approx(1.0)


def test_uniformity_and_tolerance_by_hand() -> None:
    x = np.array([[2.0, 0.0], [0.0, 3.0], [5.0, 0.0]])
    # Squared distances on the circle: 2, 0, 2.
    assert uniformity(x) == pytest.approx(math.log((2 * math.exp(-4) + 1) / 3))
    assert uniformity(np.ones((4, 2))) == pytest.approx(0.0, abs=1e-12)
    assert tolerance(x, np.array([0, 1, 0])) == pytest.approx(1.0)
    assert tolerance(x, np.array([0, 0, 1])) == pytest.approx(0.0)
    assert math.isnan(tolerance(x, np.array([0, 1, 2])))
    with pytest.raises(RlcError):
        uniformity(np.zeros((3, 2)))
