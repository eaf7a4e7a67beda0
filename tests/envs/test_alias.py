"""Alias tables reproduce their distribution: exactly by adding up columns, and in draws by chi-square."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rl_contrastive.envs.alias import AliasTable, alias_table
from rl_contrastive.envs.streams import Streams, high_half
from rl_contrastive.errors import RlcError


def law(table: AliasTable) -> np.ndarray:
    """The distribution that the table draws from, by adding up the columns in exact 32-bit shares."""
    m, mask = int(table.size), int(table.mask)
    entries = table.entries.reshape(-1, m)
    share = ((entries >> mask.bit_length()) + 1) / 2.0**32 - np.arange(m)
    p = np.zeros(entries.shape)
    rows = np.arange(len(entries))[:, None]
    np.add.at(p, (rows, np.arange(m)[None]), share)
    np.add.at(p, (rows, entries & mask), 1.0 - share)
    return p / m


@pytest.mark.parametrize(("rows", "m", "alpha"), [(1, 1, 1.0), (7, 2, 0.3), (200, 5, 0.1), (3, 1000, 0.5)])
def test_columns_add_up_to_the_distribution(rows, m, alpha):
    p = np.random.default_rng(0).dirichlet(np.full(m, alpha), rows)
    np.testing.assert_allclose(law(alias_table(p)), p, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30).filter(lambda w: sum(w) > 0))
def test_any_weights_with_zeros_and_ties(weights):
    p = np.array(weights, dtype=np.float64) / sum(weights)
    np.testing.assert_allclose(law(alias_table(p))[0], p, atol=1e-9)


def test_draws_follow_the_rows_by_chi_square():
    p = np.array([[0.5, 0.25, 0.2, 0.05], [0.0, 0.0, 1.0, 0.0]])
    table = alias_table(p)
    y, j = table.columns(high_half(Streams(range(40_000)).words(1)[0]))
    first = table.draw(np.zeros(40_000, dtype=np.int64), y, j)
    counts = np.bincount(first, minlength=4)
    assert stats.chisquare(counts, 40_000 * p[0]).pvalue > 1e-4
    assert stats.chisquare(counts, np.full(4, 10_000.0)).pvalue < 1e-4  # the test can fail
    assert np.all(table.draw(np.ones(40_000, dtype=np.int64), y, j) == 2)


def test_extreme_bits_stay_in_range():
    table = alias_table(np.array([0.0, 1.0, 0.0]))
    y, j = table.columns(np.array([0, 2**32 - 1, 2**31]))
    assert table.draw(np.zeros(3, dtype=np.int64), y, j).tolist() == [1, 1, 1]


@pytest.mark.parametrize("p", [[0.5, 0.6], [-0.1, 1.1], [np.nan, 1.0]])
def test_not_a_distribution_is_refused(p):
    with pytest.raises(RlcError, match="sum to 1"):
        alias_table(np.array(p))


def test_too_many_values_are_refused():
    with pytest.raises(RlcError, match=r"2\^15"):
        alias_table(np.full(1 << 16, 2.0**-16))
