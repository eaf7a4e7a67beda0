"""How runs become numbers: means, IQM, probability of improvement, episodes to solve.

A handful of seeds is a sample, so every aggregate carries an interval, and the docstring of each interval says how
often it covers the truth at five and ten runs, by simulation (tests/analysis/test_coverage.py). Runs that did not
solve their task are censored observations: they count at the cap and are never dropped.
"""

# scipy.stats gives the same numbers to 1e-14 and is not called here: on ten runs its trim_mean, mannwhitneyu, binomtest
# and ttest_1samp take 35 to 160 times as long, bootstrap refuses a task of one run, and the import costs a second.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import ndtr, stdtrit

from rl_contrastive.config import require
from rl_contrastive.spec import BoolArray, FloatArray, IntArray

Statistic = Callable[[FloatArray], FloatArray]
"""Reduces the last axis: (..., n) -> (...)."""
BLOCK = 1 << 21
"""Resampled numbers held at a time (16 MiB of float64)."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval; low and high are NaN where one run says nothing of the next ones."""

    estimate: float
    low: float
    high: float


def iqm(values: FloatArray) -> FloatArray:
    """Interquartile mean over the last axis: floor(n/4) values cut at each end, mean of the rest; (..., n) -> (...).

    As robust as the median to outliers, with less variance. Two or three runs: the plain mean. Over a runs x tasks
    matrix: pass it flattened (Agarwal et al. 2021 pool all runs of all tasks).
    """
    values = np.asarray(values, dtype=np.float64)
    n = values.shape[-1]
    require(n >= 1, "statistics: an IQM needs at least one run.")
    cut = n // 4
    return np.asarray(np.sort(values, axis=-1)[..., cut : n - cut].mean(axis=-1))


def median(values: FloatArray) -> FloatArray:
    """Median over the last axis."""
    return np.asarray(np.median(values, axis=-1))


def mean(values: FloatArray) -> FloatArray:
    """Mean over the last axis."""
    return np.asarray(np.mean(values, axis=-1))


def bootstrap(
    strata: Sequence[FloatArray],
    statistic: Statistic = iqm,
    *,
    rng: np.random.Generator,
    reps: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Stratified expanded percentile bootstrap: each task's runs are resampled among themselves, then pooled.

    The percentiles of n runs are Phi(-+ sqrt(n / (n-1)) t_{n-1}), not 2.5% and 97.5%: resampling makes a spread too
    small by sqrt((n-1) / n), and knows the spread no better than t_{n-1} (Hesterberg 2015). strata: one (n_i,) array of
    runs a task (one task: a list of one array); n is that of the smallest one.
    Coverage of an IQM with level .95 at n = 5 / 10: normal .94 / .97, exponential .94 / .97, lognormal .94 / .96, two
    values 1 : 1 .94 / .97, 4 : 1 .94 / .97; plain percentiles .90 / .93 of the normal law. Means: `mean_interval`.
    """
    groups = [checked(s) for s in strata]
    require(len(groups) >= 1, "statistics: the bootstrap needs at least one task.")
    check(reps, level)
    estimate = float(statistic(np.concatenate(groups)))
    if all(len(g) == 1 for g in groups):
        return Interval(estimate, np.nan, np.nan)
    draws = np.concatenate([g[resample(len(g), reps, rng=rng)] for g in groups], axis=1)  # (reps, sum n_i)
    return Interval(estimate, *percentiles(statistic(draws), level, smallest([len(g) for g in groups])))


def bootstrap_curve(
    curves: FloatArray,
    statistic: Statistic = iqm,
    *,
    rng: np.random.Generator,
    reps: int = 2000,
    level: float = 0.95,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Pointwise bands of n curves (n, T): whole curves are resampled, so all points share the seeds drawn.

    Returns the statistic, lower and upper ends, each (T,); the ends are NaN when n = 1.
    """
    curves = np.asarray(curves, dtype=np.float64)
    require(curves.ndim == 2 and len(curves) >= 1, f"statistics: curves must be (n, T), got {curves.shape}.")
    check(reps, level)
    n, T = curves.shape
    centre = statistic(curves.T)
    if n == 1:
        return centre, np.full(T, np.nan), np.full(T, np.nan)
    index = resample(n, reps, rng=rng)
    low, high = np.empty(T), np.empty(T)
    step = max(1, BLOCK // (reps * n))
    tail = expanded_tail(level, n)
    for i in range(0, T, step):
        draws = statistic(curves.T[i : i + step][:, index])  # (t, reps, n) -> (t, reps)
        low[i : i + step], high[i : i + step] = np.quantile(draws, [tail, 1.0 - tail], axis=1)
    return centre, low, high


def mean_interval(values: FloatArray, level: float = 0.95) -> Interval:
    """Mean of n runs with Student's interval, mean -+ t_{n-1} s / sqrt(n).

    Coverage with level .95 at n = 5 / 10: normal .95 / .95, uniform .94 / .95, exponential .88 / .90, lognormal
    .82 / .84, two values 1 : 1 .94 / .94, 4 : 1 .70 / .89; percentile bootstrap of the normal law .84 / .89. The mean
    of a law with rare large values is not to be had from five runs: where one run of five differs, look at the runs.
    """
    runs = checked(values)
    check(1, level)
    centre, n = float(runs.mean()), len(runs)
    if n == 1:
        return Interval(centre, np.nan, np.nan)
    half = float(stdtrit(n - 1, 0.5 + level / 2) * runs.std(ddof=1) / np.sqrt(n))
    return Interval(centre, centre - half, centre + half)


def resample(n: int, reps: int, *, rng: np.random.Generator) -> IntArray:
    """(reps, n) indices of runs, drawn with replacement."""
    return rng.integers(n, size=(reps, n))


def improvement(x: FloatArray, y: FloatArray) -> float:
    """P(X > Y) + P(X = Y)/2 over all pairs of runs: the Mann-Whitney statistic U / (n m)."""
    x, y = checked(x), checked(y)
    # sign is +1, 0, -1 for a win, a tie, a loss; halving and centring gives 1, 1/2, 0.
    return float((0.5 + 0.5 * np.sign(x[:, None] - y[None, :])).mean())


def probability_of_improvement(x: FloatArray, y: FloatArray, *, level: float = 0.95) -> Interval:
    """`improvement` p of X over Y, with Newcombe's interval: all p' with |p' - p| <= z sqrt(v(p')); larger is better.

        v(p) = p (1-p) / (n m) (1 + N (1-p) / (2-p) + N p / (1+p)),  N = (n + m) / 2 - 1         (Newcombe 2006, 5)

    Never empty, not even where all runs of X beat all of Y. Coverage with level .95 at n = m = 5 / 10: normal, p = .5
    .95 / .94, .76 .96 / .95, .92 .94 / .97; exponential .96 / .95; two values .97 / .95; bootstrap at .92 .62 / .89.
    """
    x, y = checked(x), checked(y)
    check(1, level)
    n, m, p, z = len(x), len(y), improvement(x, y), normal_quantile(0.5 + level / 2)
    if n == 1 and m == 1:
        return Interval(p, np.nan, np.nan)
    N = (n + m) / 2 - 1

    def inside(q: float) -> bool:
        v = q * (1 - q) / (n * m) * (1 + N * (1 - q) / (2 - q) + N * q / (1 + q))
        return abs(q - p) <= z * float(np.sqrt(v))

    return Interval(p, _edge(inside, p, 0.0), _edge(inside, p, 1.0))


def _edge(inside: Callable[[float], bool], good: float, bad: float) -> float:
    """Where a set that holds `good` ends towards `bad`, by bisection."""
    if inside(bad):
        return bad
    for _ in range(60):
        middle = (good + bad) / 2
        good, bad = (middle, bad) if inside(middle) else (good, middle)
    return good


def crossed(table: FloatArray, *, rng: np.random.Generator, reps: int = 2000, level: float = 0.95) -> Interval:
    """Mean of a table (n, m) of n runs against m others; the bootstrap resamples rows and columns, not cells.

    Cells of one row share a run, so they are no independent sample; the runs of each side are. Expanded percentiles
    (`bootstrap`) for the smaller side.
    """
    table = np.asarray(table, dtype=np.float64)
    good = table.ndim == 2 and table.size > 0 and bool(np.isfinite(table).all())
    require(good, f"statistics: expected a finite table of runs against runs, got shape {table.shape}.")
    check(reps, level)
    n, m = table.shape
    if n == 1 and m == 1:
        return Interval(float(table[0, 0]), np.nan, np.nan)
    i, j = resample(n, reps, rng=rng), resample(m, reps, rng=rng)
    draws = table[i[:, :, None], j[:, None, :]].mean(axis=(1, 2))
    return Interval(float(table.mean()), *percentiles(draws, level, smallest([n, m])))


def wilson(share: float, n: int, level: float = 0.95) -> Interval:
    """A share of n independent trials with Wilson's score interval, which never is empty, not even at 0 or n.

    centre (p + z^2/2n) / (1 + z^2/n), half width z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n)     (Wilson 1927)
    """
    require(0.0 <= share <= 1.0 and n >= 1, f"statistics: no share of trials: {share} of {n}.")
    check(1, level)
    z = normal_quantile(0.5 + level / 2)
    p, scale = share, 1.0 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z * float(np.sqrt(p * (1.0 - p) / n + z * z / (4.0 * n * n))) / scale
    # At 0 and 1 the ends touch the share exactly, but for rounding.
    return Interval(p, 0.0 if share == 0 else centre - half, 1.0 if share == 1 else centre + half)


def normal_interval(estimate: float, sem: float, level: float = 0.95) -> Interval:
    """estimate -+ z sem, for means of many independent episodes."""
    half = normal_quantile(0.5 + level / 2) * sem
    return Interval(estimate, estimate - half, estimate + half)


def normal_quantile(q: float) -> float:
    """Quantile of the standard normal law: 1.96 at q = .975."""
    return NormalDist().inv_cdf(q)


@dataclass(frozen=True)
class SolveSummary:
    """Episodes (or steps) until solved, over n runs of which `solved` were solved.

    Unsolved runs count at their cap, so each number is a lower bound where its `*_censored` flag is set.
    """

    n: int
    solved: int
    median: float
    median_censored: bool
    low: float
    low_censored: bool
    high: float
    high_censored: bool

    def __str__(self) -> str:
        """`4/5 solved, median 1200 (range 900 to >= 5000)`."""
        parts = [
            ("≥ " if censored else "") + f"{value:.0f}"
            for value, censored in (
                (self.median, self.median_censored),
                (self.low, self.low_censored),
                (self.high, self.high_censored),
            )
        ]
        return f"{self.solved}/{self.n} solved, median {parts[0]} (range {parts[1]} to {parts[2]})"


def solve_summary(count: FloatArray, solved: BoolArray) -> SolveSummary:
    """count (n,): episodes to solve, or the cap where solved (n,) is False."""
    count, solved = checked(count), np.asarray(solved, dtype=np.bool_)
    require(solved.shape == count.shape, f"statistics: {len(count)} counts and {solved.shape} solved flags.")
    # A statistic is censored exactly when it moves as the unsolved runs' unknown counts grow without end.
    beyond = np.where(solved, count, np.inf)
    stats = [(float(f(count)), bool(f(count) != f(beyond))) for f in (np.median, np.min, np.max)]
    (mid, mid_c), (low, low_c), (high, high_c) = stats
    return SolveSummary(len(count), int(solved.sum()), mid, mid_c, low, low_c, high, high_c)


def area_under_curve(x: FloatArray, y: FloatArray) -> float:
    """Mean height of a curve by trapezoids: integral of y dx / (x_T - x_1); a single point is its own mean."""
    x, y = checked(x), checked(y)
    require(x.shape == y.shape, f"statistics: curve has {len(x)} abscissae and {len(y)} values.")
    require(bool((np.diff(x) > 0).all()), "statistics: abscissae of a curve must increase strictly.")
    return float(y[0]) if len(x) == 1 else float(np.trapezoid(y, x) / (x[-1] - x[0]))


def performance_profile(values: FloatArray, thresholds: FloatArray) -> FloatArray:
    """Fraction of runs with a value > tau, for each threshold tau; (n,), (T,) -> (T,)."""
    return np.asarray((checked(values)[None, :] > np.asarray(thresholds)[:, None]).mean(axis=1))


def checked(values: FloatArray) -> FloatArray:
    """One finite number a run, (n,) with n >= 1."""
    array = np.asarray(values, dtype=np.float64)
    require(array.ndim == 1 and len(array) >= 1, f"statistics: expected a list of runs, got shape {array.shape}.")
    require(bool(np.isfinite(array).all()), "statistics: a run's value is NaN or infinite; count failed runs instead.")
    return array


def expanded_tail(level: float, n: int) -> float:
    """Phi(-sqrt(n / (n-1)) t_{n-1}), the share of resamples beyond each end for n runs (see `bootstrap`)."""
    return float(ndtr(-np.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.5 + level / 2)))


def smallest(sizes: Sequence[int]) -> int:
    """The smallest number of runs that is no single one."""
    return min(size for size in sizes if size > 1)


def percentiles(draws: FloatArray, level: float, n: int) -> tuple[float, float]:
    """Low and high end of the interval of n runs, expanded (see `bootstrap`)."""
    tail = expanded_tail(level, n)
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return float(low), float(high)


def check(reps: int, level: float) -> None:
    """RlcError unless both make sense."""
    require(reps >= 1, f"statistics: reps must be >= 1, got {reps}.")
    require(0.0 < level < 1.0, f"statistics: level must lie in (0, 1), got {level}.")
