"""Tests whether two agents differ, with named tests for paired runs (same seeds and problems) and unpaired ones."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product
from math import comb

import numpy as np
from scipy.special import stdtr

from rl_contrastive.analysis.statistics import checked
from rl_contrastive.config import require
from rl_contrastive.spec import FloatArray


@dataclass(frozen=True)
class Comparison:
    """A two-sided test of whether two agents' runs differ: its name, p, and how many pairs or runs it saw."""

    test: str
    p: float
    n: int


MOST_SPLITS = 20_000
"""Largest number of splits of two samples that are enumerated: up to 8 against 8."""


def difference_test(x: FloatArray, y: FloatArray) -> Comparison:
    """Mann-Whitney test of two independent samples, ties by mid-ranks.

    p is the share of all splits of the pooled runs into n and m whose rank sum is as far from its mean as the observed
    one; above MOST_SPLITS splits by the normal law. Five runs each: p >= .008.
    """
    x, y = checked(x), checked(y)
    n, m = len(x), len(y)
    from scipy.stats import mannwhitneyu, rankdata  # here, because it would slow every `rlc` by a second

    ranks = rankdata(np.concatenate([x, y]))
    if comb(n + m, n) > MOST_SPLITS:
        return Comparison("Mann-Whitney", float(mannwhitneyu(x, y, method="asymptotic").pvalue), n + m)
    sums = ranks[np.array(list(combinations(range(n + m), n)))].sum(axis=1)
    return Comparison("Mann-Whitney", _share_as_far(sums, float(ranks[:n].sum())), n + m)


def paired_test(x: FloatArray, y: FloatArray, *, ranks: bool) -> Comparison:
    """Of n pairs (x_i, y_i) on the same seed and problem: Student's paired t, or with `ranks` Wilcoxon's signed ranks.

    Ranks where an unsolved run counts at its cap; then p is the share of all signs whose rank sum is as far from 0, and
    five pairs cannot have p < .06. Differences that are all equal have no spread for t: ranks as well.
    """
    x, y = checked(x), checked(y)
    require(x.shape == y.shape, f"statistics: pairs need as many runs of each agent, got {len(x)} and {len(y)}.")
    from scipy.stats import rankdata, wilcoxon

    d, n = x - y, len(x)
    if not ranks and n >= 2 and np.ptp(d) > 0:
        t = float(d.mean() / (d.std(ddof=1) / np.sqrt(n)))
        return Comparison("paired t", float(2.0 * stdtr(n - 1, -abs(t))), n)
    d = d[d != 0]
    if not len(d):
        return Comparison("Wilcoxon", 1.0, n)
    if len(d) > np.log2(MOST_SPLITS):
        return Comparison("Wilcoxon", float(wilcoxon(d, method="asymptotic").pvalue), n)
    size = rankdata(np.abs(d))
    signs = np.array(list(product((-1.0, 1.0), repeat=len(d))))
    return Comparison("Wilcoxon", _share_as_far(signs @ size, float(np.sign(d) @ size)), n)


def _share_as_far(sums: FloatArray, observed: float) -> float:
    """Share of equally likely sums at least as far from their mean as the observed one, up to rounding."""
    away = np.abs(sums - sums.mean())
    return float((away >= abs(observed - sums.mean()) - 1e-9).mean())
