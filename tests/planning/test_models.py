"""Transition models: the low-rank expectation equals its table, rows are distributions whatever the factors are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_contrastive.errors import RlcError
from rl_contrastive.planning import models
from rl_contrastive.planning.models import DenseModel, LowRankModel


def factors(rng, signed: bool, H: int = 2, S: int = 7, A: int = 3, d: int = 2):
    phi, psi = rng.random((H, S, A, d)), rng.random((H, S, d))
    if signed:
        phi, psi = phi - 0.4, psi - 0.4
    return phi, psi, rng.dirichlet(np.ones(S), size=H)


@settings(max_examples=40, deadline=None)
@given(st.booleans(), st.integers(0, 2**31 - 1))
def test_expectation_equals_the_table_and_rows_are_distributions(signed, seed):
    rng = np.random.default_rng(seed)
    model = LowRankModel(*factors(rng, signed))
    V = rng.normal(size=(7, 2))
    for h in range(2):
        rows = model.rows(h)
        assert (rows >= 0).all()
        np.testing.assert_allclose(rows.sum(axis=-1), 1.0)
        np.testing.assert_allclose(model.expect(h, V), rows @ V, atol=1e-10)
        np.testing.assert_allclose(model.expect(h, V[:, 0]), rows @ V[:, 0], atol=1e-10)


def test_clipping_happens_only_where_factors_are_signed():
    rng = np.random.default_rng(0)
    assert LowRankModel(*factors(rng, signed=False)).nonnegative.all()
    phi, psi, law = factors(rng, signed=True)
    model = LowRankModel(phi, psi, law)
    assert not model.nonnegative.any()
    raw = np.einsum("sad,td->sat", phi[0], law[0][:, None] * psi[0])
    assert (raw < 0).any()  # otherwise the clip would not be tested


def test_blocks_do_not_change_the_expectation(monkeypatch):
    rng = np.random.default_rng(1)
    model, V = LowRankModel(*factors(rng, signed=True)), rng.normal(size=7)
    whole = model.expect(0, V)
    monkeypatch.setattr(models, "BLOCK", 10)  # one row at a time
    np.testing.assert_allclose(model.expect(0, V), whole, atol=1e-14)


def test_a_row_without_mass_falls_back_to_the_law_of_negatives():
    law = np.array([[0.2, 0.8]])
    model = LowRankModel(-np.ones((1, 2, 1, 1)), np.ones((1, 2, 1)), law)
    np.testing.assert_allclose(model.rows(0)[:, 0], [law[0], law[0]])
    np.testing.assert_allclose(model.expect(0, np.array([1.0, 0.0])), [[0.2], [0.2]])


def test_true_factors_give_the_true_kernel():
    rng = np.random.default_rng(2)
    phi = rng.dirichlet(np.ones(3), size=(1, 5, 2))
    mu = rng.dirichlet(np.ones(5), size=(1, 3)).transpose(0, 2, 1)
    law = np.full((1, 5), 0.2)
    P = np.einsum("hsad,htd->hsat", phi, mu)
    np.testing.assert_allclose(LowRankModel(phi, mu / law[..., None], law).rows(0), P[0], atol=1e-12)
    np.testing.assert_array_equal(DenseModel(P).rows(0), P[0])


def test_factors_that_do_not_fit_are_refused():
    with pytest.raises(RlcError, match="do not fit together"):
        LowRankModel(np.ones((1, 3, 2, 2)), np.ones((1, 3, 1)), np.ones((1, 3)))
