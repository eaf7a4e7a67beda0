"""Counts and laws of negatives: round trips, sums, splits, draws."""

from __future__ import annotations

import numpy as np
import pytest

from rl_contrastive.errors import RlcError
from rl_contrastive.features.batches import ExactTable, SampledRows, SampledTable, held_out_table, split_rows
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.learner import FeatureLearner
from rl_contrastive.objectives.laws import importance_weights, row_propensity, sample_states, tabular_law


def random_table(H: int = 3, S: int = 5, A: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(0.7, size=(H, S, A, S)).astype(np.float64)


def test_counts_round_trips() -> None:
    table = random_table()
    counts = TransitionCounts.from_dense(table)
    assert np.array_equal(counts.dense(), table)
    again = TransitionCounts.empty(3, 5, 2).with_state(counts.state_dict())
    assert np.array_equal(again.dense(), table)
    assert np.array_equal(counts.pair_total(), table.sum(axis=3))
    assert np.array_equal(counts.succ_total(), table.sum(axis=(1, 2)))
    assert np.array_equal(counts.total(), table.sum(axis=(1, 2, 3)))
    assert np.array_equal(counts.matrix(1).toarray(), table[1].reshape(10, 5))


def test_plus_counts_each_transition_once() -> None:
    rng = np.random.default_rng(2)
    level, s, a, y = (
        rng.integers(3, size=90),
        rng.integers(5, size=90),
        rng.integers(2, size=90),
        rng.integers(5, size=90),
    )
    table = np.zeros((3, 5, 2, 5))
    np.add.at(table, (level, s, a, y), 1.0)
    counts = TransitionCounts.empty(3, 5, 2).plus(level[:40], s[:40], a[:40], y[:40])
    counts = counts.plus(level[40:], s[40:], a[40:], y[40:])
    assert np.array_equal(counts.dense(), table)
    assert np.array_equal(np.sort(counts.level), counts.level)


def test_split_is_a_partition() -> None:
    counts = TransitionCounts.from_dense(50.0 * random_table())
    train, held = counts.split(0.3, rng=np.random.default_rng(1))
    assert np.array_equal(train.dense() + held.dense(), counts.dense())
    assert held.count.sum() / counts.count.sum() == pytest.approx(0.3, abs=0.02)


def test_bad_counts_are_refused() -> None:
    empty = TransitionCounts.empty(3, 5, 2)
    for call in (
        lambda: empty.plus(0, np.array([5]), np.array([0]), np.array([0])),
        lambda: empty.plus(3, np.array([0]), np.array([0]), np.array([0])),
        lambda: TransitionCounts.from_dense(np.zeros((3, 5, 2))),
        lambda: TransitionCounts.from_dense(np.full((1, 2, 1, 2), np.nan)),
        lambda: TransitionCounts.from_dense(np.full((1, 2, 1, 2), 0.5)).split(0.5, rng=np.random.default_rng(0)),
        lambda: empty.with_state({"level": np.zeros(1)}),
    ):
        with pytest.raises(RlcError):
            call()


def test_laws_by_hand() -> None:
    succ = np.array([[6.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    uniform = np.full(4, 0.25)
    assert np.array_equal(tabular_law(succ, "uniform")[0], uniform)
    marginal = tabular_law(succ, "marginal")
    assert np.array_equal(marginal, np.array([[0.75, 0.25, 0, 0], uniform]))
    mixture = tabular_law(succ, "mixture", mixture=0.2)
    assert mixture[0] == pytest.approx([0.65, 0.25, 0.05, 0.05])
    with pytest.raises(RlcError):
        tabular_law(succ, "mixture", mixture=1.5)


def test_draws_follow_the_law_and_weights_correct_it() -> None:
    target = np.array([[0.1, 0.2, 0.7], [1 / 3, 1 / 3, 1 / 3]])
    proposal = np.array([[0.6, 0.2, 0.2], [0.2, 0.2, 0.6]])
    index = sample_states(proposal, 40_000, rng=np.random.default_rng(0))
    frequency = np.stack([np.bincount(row, minlength=3) for row in index]) / 40_000
    assert np.abs(frequency - proposal).max() < 0.01
    v = importance_weights(target, proposal, index)
    corrected = np.stack([np.bincount(row, w, minlength=3) for row, w in zip(index, v, strict=True)])
    assert np.abs(corrected - target).max() < 0.015
    uniform = row_propensity(proposal, index)
    flattened = np.stack([np.bincount(row, w, minlength=3) for row, w in zip(index, uniform, strict=True)])
    assert np.abs(flattened - 1 / 3).max() < 0.015


def test_a_state_of_probability_zero_is_never_drawn() -> None:
    law = np.array([[0.0, 0.5, 0.5, 0.0]])
    assert set(np.unique(sample_states(law, 5000, rng=np.random.default_rng(0)))) == {1, 2}


def test_samplers_hit_what_the_counts_hold() -> None:
    table = random_table()
    table[2] = 0.0  # a step without data weighs nothing
    counts = TransitionCounts.from_dense(table)
    law = tabular_law(counts.succ_total())
    batch = SampledTable(counts, law, 4000, 8).draw(rng=np.random.default_rng(0))
    for h in range(2):
        seen = np.zeros((10, 5))
        np.add.at(seen, (batch.anchors[h], batch.positives[h]), 1 / 4000)
        assert np.abs(seen - table[h].reshape(10, 5) / table[h].sum()).max() < 0.03
        assert (seen[table[h].reshape(10, 5) == 0] == 0).all()
    assert np.array_equal(batch.pos_weight.sum(axis=(1, 2)) > 0, [True, True, False])
    exact = ExactTable(counts, law).draw(rng=np.random.default_rng(0))
    assert exact.pos_weight.sum(axis=(1, 2)) == pytest.approx([1, 1, 0])
    held = held_out_table(counts, law, 1000, None, rng=np.random.default_rng(0))
    assert held.pos_weight.sum(axis=(1, 2)) == pytest.approx([1, 1, 0])


def test_row_parts_are_disjoint_and_complete() -> None:
    count = np.array([40, 7, 1])
    parts = split_rows(count, 40, (0.25, 0.25), rng=np.random.default_rng(0))
    for h in range(3):
        rows = np.concatenate([index[h, : size[h]] for index, size in parts])
        assert np.array_equal(np.sort(rows), np.arange(count[h]))
    index, size = parts[2]
    law = (np.arange(40) < count[:, None]) / count[:, None]
    batch = SampledRows(index, size, law, 64, 32).draw(rng=np.random.default_rng(1))
    for h in range(3):
        allowed = set(index[h, : size[h]].tolist())
        assert set(batch.anchors[h].tolist()) <= allowed
        assert set(batch.negatives[h].tolist()) <= allowed


def test_weighted_counts_are_fitted_where_nothing_is_held_out():
    table = np.random.default_rng(0).random((1, 3, 2, 3))
    counts = TransitionCounts.from_dense(table)
    config = LearnerConfig(method="nce", hold_out=0.0, dim=3, steps=300, device="cpu")
    learner = FeatureLearner(config, horizon=1, num_actions=2, num_states=3)
    features = learner.fit_table(counts, rng=np.random.default_rng(1)).features
    law = counts.succ_total() / counts.total()[:, None]
    P = np.einsum("sad,td,t->sat", features.phi_table[0], features.psi_table[0], law[0])
    np.testing.assert_allclose(P, table[0] / table[0].sum(axis=-1, keepdims=True), atol=0.05)
    held = LearnerConfig(method="nce", hold_out=0.25, dim=3, device="cpu")
    with pytest.raises(RlcError, match="only whole counts can be split"):
        FeatureLearner(held, horizon=1, num_actions=2, num_states=3).fit_table(counts, rng=np.random.default_rng(1))
