"""Games whose payoffs are of very different sizes: a forbidden action as a payoff of -1e12 beside others of order 1.

Relative to the range of such payoffs, 1e12, a gap of 2 is rounding, so a solver that works relative to the range may
play anything. These are tools for the few games where this matters. None of them rounds:

    without_dominated   replaces dominated rows and columns by copies of those that dominate them
    exact_packing       solves the programme of `simplex.packing` in rational numbers, for the remaining game
    crowded             tells whether most payoffs are near the value and a few are far off
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from rl_contrastive.spec import BoolArray, FloatArray, IntArray

APART = 1e-4
"""Payoffs are of different sizes if some that matter are smaller than this times the range of all."""
NOISE = 1e-14
"""Differences below this times the range are rounding of the payoffs, if the larger payoffs cannot be left out."""
FLOOR = 1e-13
"""Gaps below this times the value are rounding in any case."""
SHRUNK = 1e-3
"""A game is solved again only if its range falls below this times its old range, so the process ends."""
SADDLE = 1e-24
"""Differences below this times the range are rounding of the value of a pure saddle point, whose gap is 0."""
REACH = 1e4
"""Payoffs further from the value than this times the gap are clipped; players avoid them before and after."""


def crowded(M: FloatArray, value: FloatArray, least: float = 0.0) -> BoolArray:
    """(N,) whether half of M (N, A, B) lies within APART (and no nearer than `least`) times its range of the value."""
    distance = np.abs(M - value[:, None, None]).reshape(len(M), M.shape[1] * M.shape[2])
    half = (distance.shape[1] - 1) // 2
    near, scale = np.partition(distance, half, axis=1)[:, half], np.ptp(M, axis=(1, 2))
    return np.asarray((near < APART * scale) & (near >= least * scale))


def without_dominated(U: FloatArray, L: FloatArray) -> tuple[FloatArray, FloatArray, IntArray, IntArray]:
    """U, L (N, A, B), each dominated row and column replaced by one that dominates it, and its index (N, A), (N, B).

    Row k dominates row i if U(k, b) >= U(i, b) for all b, and column k dominates column j if L(a, k) <= L(a, j) for all
    a. This is repeated until nothing changes. The undominated part has every equilibrium value of the whole game.
    """
    N, A, B = U.shape
    rows, columns = np.tile(np.arange(A), (N, 1)), np.tile(np.arange(B), (N, 1))
    while True:
        before = rows, columns
        better = _dominator(U)
        U, L = (np.take_along_axis(M, better[:, :, None], axis=1) for M in (U, L))
        cheaper = _dominator(-L.transpose(0, 2, 1))
        U, L = (np.take_along_axis(M, cheaper[:, None], axis=2) for M in (U, L))
        rows, columns = np.take_along_axis(rows, better, axis=1), np.take_along_axis(columns, cheaper, axis=1)
        if (rows == before[0]).all() and (columns == before[1]).all():
            return U, L, rows, columns


def _dominator(M: FloatArray) -> IntArray:
    """(N, A) for each row of M (N, A, B) the first undominated row that dominates it, or the row itself.

    Of equal rows the first one counts as dominating the others.
    """
    A = M.shape[1]
    over: BoolArray = np.all(M[:, :, None] >= M[:, None], axis=3)  # (N, k, i): k is nowhere worse than i
    strict: BoolArray = over & (~over.transpose(0, 2, 1) | (np.arange(A)[:, None] < np.arange(A)))
    free: BoolArray = ~np.any(strict, axis=1)  # (N, i)
    by: BoolArray = strict & free[:, :, None]
    return np.where(free, np.arange(A), by.argmax(axis=1))


def rationals(M: FloatArray) -> list[list[Fraction]]:
    """The entries of a matrix as exact rational numbers."""
    return [[Fraction(x) for x in row] for row in M.tolist()]


def exact_deviations(U: FloatArray, L: FloatArray) -> list[list[Fraction]]:
    """`simplex.deviations` of one pair, U and L (A, B), in rational numbers: A + B rows."""
    u, l = rationals(U), rationals(L)  # noqa: E741
    cells = [(a, b) for a in range(len(u)) for b in range(len(u[0]))]
    of_max = [[u[other][b] - u[a][b] for a, b in cells] for other in range(len(u))]
    return of_max + [[l[a][b] - l[a][other] for a, b in cells] for other in range(len(u[0]))]


def within_reach(M: FloatArray, value: FloatArray, size: FloatArray, scale: FloatArray) -> FloatArray:
    """M (N, A, B); where entries are still far off, M minus the value, clipped at REACH times `size` (N,)."""
    most = REACH * size[:, None, None]
    wide = (np.ptp(M, axis=(1, 2)) >= SHRUNK * scale) & crowded(M, value, least=NOISE)
    return np.where(wide[:, None, None], np.clip(M - value[:, None, None], -most, most), M)


def fold(p: FloatArray, onto: IntArray) -> FloatArray:
    """Probabilities p (N, k) moved to the entries that replaced them, (N, k)."""
    out = np.zeros_like(p)
    np.add.at(out, (np.arange(len(p))[:, None], onto), p)
    return out


def fold_joint(sigma: FloatArray, rows: IntArray, columns: IntArray) -> FloatArray:
    """The same for joint probabilities (N, A, B), by rows (N, A) and columns (N, B)."""
    out = np.zeros_like(sigma)
    np.add.at(out, (np.arange(len(sigma))[:, None, None], rows[:, :, None], columns[:, None]), sigma)
    return out


def exact_packing(M: Sequence[Sequence[Fraction]]) -> tuple[FloatArray, FloatArray]:
    """w (n,) that minimises max_i (M w)_i and u (m,) that maximises min_j (u'M)_j, without rounding on the way.

    It uses the condensed tableau of `simplex.packing` in rational numbers, with P = M - min M + 1 > 0 and Bland's rule,
    which cannot cycle.
    """
    m, n, least = len(M), len(M[0]), min(map(min, M))
    T = [[*(x - least + 1 for x in row), Fraction(1)] for row in M] + [[Fraction(-1)] * n + [Fraction(0)]]
    basic, nonbasic = list(range(n, n + m)), list(range(n))
    while entering := [c for c in range(n) if T[m][c] < 0]:
        c = min(entering, key=lambda j: nonbasic[j])
        r = min((i for i in range(m) if T[i][c] > 0), key=lambda i: (T[i][n] / T[i][c], basic[i]))
        p, row, column = T[r][c], T[r], [T[i][c] for i in range(m + 1)]
        for i in range(m + 1):
            if i != r:
                factor = column[i] / p
                T[i] = [x - factor * y for x, y in zip(T[i], row, strict=True)]
                T[i][c] = -factor
        T[r] = [x / p for x in row]
        T[r][c] = 1 / p
        basic[r], nonbasic[c] = nonbasic[c], basic[r]
    primal, dual = [Fraction(0)] * (n + m), [Fraction(0)] * (n + m)
    for i, label in enumerate(basic):
        primal[label] = T[i][n]
    for j, label in enumerate(nonbasic):
        dual[label] = T[m][j]
    value = T[m][n]
    return tuple(np.array([float(x / value) for x in part]) for part in (primal[:n], dual[n:]))  # type: ignore[return-value]
