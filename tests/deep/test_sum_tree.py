"""The sum tree against cumulative sums: exact sums, proportional and stratified draws, never a leaf of zero."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_contrastive.deep.replay.sum_tree import FAN, TOP, SumTree
from rl_contrastive.errors import RlcError

SIZES = st.sampled_from([1, 2, FAN - 1, FAN, FAN + 1, 1000, FAN**2 + 1, FAN * TOP, FAN * TOP + 1])


@settings(max_examples=80, deadline=None)
@given(SIZES, st.integers(0, 2**31 - 1))
def test_whole_numbers_are_found_like_in_a_cumulative_sum(size, seed):
    """Integers add without rounding, so `find` must agree with a search in all cumulative sums, to the last unit."""
    rng = np.random.default_rng(seed)
    tree, p = SumTree(size), np.zeros(size)
    for _ in range(3):
        index = rng.integers(size, size=rng.integers(1, 60))  # zeros among their values: leaves are taken out again
        value = rng.integers(0, 4, size=len(index)).astype(float)
        tree.set(index, value)
        for i, v in zip(index, value, strict=True):  # of an index given twice the last value stays
            p[i] = v
    np.testing.assert_array_equal(tree.leaves(), p)
    assert tree.total == p.sum()
    if p.sum() > 0:
        u = np.arange(p.sum())
        np.testing.assert_array_equal(tree.find(u), np.searchsorted(np.cumsum(p), u, side="right"))


@settings(max_examples=80, deadline=None)
@given(SIZES, st.integers(0, 2**31 - 1), st.floats(0.0, 1.0))
def test_sums_are_a_function_of_the_leaves_and_zero_leaves_are_never_drawn(size, seed, density):
    """Leaves over 24 orders of magnitude, half of them zero: many updates give the same bytes as one `fill`."""
    rng = np.random.default_rng(seed)
    tree, filled = SumTree(size), SumTree(size)
    for _ in range(6):
        index = rng.integers(size, size=40)
        tree.set(index, 10.0 ** rng.uniform(-12, 12, 40) * (rng.random(40) < density))
    filled.fill(tree.leaves().copy())
    for level, other in zip([*tree._levels, tree._top], [*filled._levels, filled._top], strict=True):
        assert level.tobytes() == other.tobytes()
    if tree.total > 0:
        ends = np.array([0.0, tree.total, np.nextafter(tree.total, 0.0), 2 * tree.total])
        for draws in (tree.find(ends), tree.sample(200, rng=rng)):
            assert (tree.get(draws) > 0).all()


def test_draws_are_stratified():
    """N draws hit each leaf N p_i / sum(p) times up to less than two; independent ones do not (the control)."""
    rng = np.random.default_rng(3)
    tree, p = SumTree(5000), np.zeros(5000)
    index = rng.permutation(5000)[:40]
    p[index] = rng.random(40)
    tree.set(index, p[index])
    expected = 4000 * p / p.sum()
    assert np.abs(np.bincount(tree.sample(4000, rng=rng), minlength=5000) - expected).max() < 2
    independent = tree.find(rng.random(4000) * tree.total)
    assert np.abs(np.bincount(independent, minlength=5000) - expected).max() > 5


def test_an_empty_tree_is_an_error():
    with pytest.raises(RlcError, match="positive finite sum"):
        SumTree(10).sample(1, rng=np.random.default_rng(0))
    with pytest.raises(RlcError, match="expected 10 leaves"):
        SumTree(10).fill(np.ones(9))
