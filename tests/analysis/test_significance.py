"""Tests of two agents by hand, against scipy, and how often they cry wolf."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from rl_contrastive.analysis.significance import difference_test, paired_test
from rl_contrastive.errors import RlcError


def test_mann_whitney_by_hand_and_with_ties():
    """Five all above five: 2 of the 252 splits are as far. Two of two with a tie: ranks 1.5, 3 and 1.5, 4."""
    found = difference_test(np.arange(5.0) + 10, np.arange(5.0))
    assert (found.test, found.p, found.n) == ("Mann-Whitney", pytest.approx(2 / 252), 10)
    assert difference_test(np.array([1.0, 2.0]), np.array([1.0, 3.0])).p == pytest.approx(1.0)
    assert difference_test(np.ones(5), np.ones(5)).p == 1.0
    censored = np.full(5, -1e300)  # unsolved runs all tie
    assert difference_test(-np.arange(5.0), censored).p == pytest.approx(2 / 252)


@pytest.mark.parametrize("n", [6, 20])
def test_mann_whitney_agrees_with_scipy(n):
    rng = np.random.default_rng(n)
    x, y = rng.normal(0.5, 1, n), rng.normal(0, 1, n + 1)
    method = "exact" if n == 6 else "asymptotic"
    assert difference_test(x, y).p == pytest.approx(scipy.stats.mannwhitneyu(x, y, method=method).pvalue)


def test_pairs_are_compared_by_their_differences():
    rng = np.random.default_rng(0)
    problem, noise = 10.0 * rng.normal(size=6), 0.1 * rng.normal(size=6)
    x, y = problem + 1.0 + noise, problem
    assert difference_test(x, y).p > 0.3  # problems differ more than agents
    student = paired_test(x, y, ranks=False)
    assert (student.test, student.n) == ("paired t", 6)
    assert student.p == pytest.approx(scipy.stats.ttest_rel(x, y).pvalue)
    ranked = paired_test(x, y, ranks=True)
    assert (ranked.test, ranked.p) == ("Wilcoxon", pytest.approx(2 / 64))
    assert ranked.p == pytest.approx(scipy.stats.wilcoxon(x, y, method="exact").pvalue)
    assert paired_test(problem + 1.0, problem.round(3), ranks=False).p < 1e-4
    assert paired_test(np.arange(5.0) + 1, np.arange(5.0), ranks=False).test == "Wilcoxon"  # no spread for t
    assert paired_test(x, x, ranks=False).p == 1.0
    many = rng.normal(0.3, 1, 40)
    assert paired_test(many, np.zeros(40), ranks=True).p == pytest.approx(scipy.stats.wilcoxon(many).pvalue, rel=0.1)
    with pytest.raises(RlcError, match="pairs"):
        paired_test(np.ones(3), np.ones(4), ranks=False)


def test_equal_agents_are_told_apart_in_one_case_of_twenty_at_most():
    rng = np.random.default_rng(1)
    samples = [(rng.exponential(size=5), rng.exponential(size=5)) for _ in range(1000)]
    for test in (
        difference_test,
        lambda x, y: paired_test(x, y, ranks=False),
        lambda x, y: paired_test(x, y, ranks=True),
    ):
        assert np.mean([test(x, y).p < 0.05 for x, y in samples]) < 0.065
