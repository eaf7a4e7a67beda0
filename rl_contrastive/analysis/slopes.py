"""Exponents of power laws from runs: least squares in the logarithms of both axes, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rl_contrastive.analysis.statistics import (
    Interval,
    Statistic,
    check,
    checked,
    mean_interval,
    median,
    percentiles,
    resample,
    smallest,
)
from rl_contrastive.config import require
from rl_contrastive.spec import FloatArray


def loglog_slope(x: FloatArray, y: FloatArray) -> FloatArray:
    """Least-squares slope of log y on log x, the p of y ~ C x^p; y (..., T) -> (...)."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    require(x.ndim == 1 and len(x) >= 2 and y.shape[-1] == len(x), "statistics: a slope needs >= 2 points (x, y).")
    require(bool((x > 0).all() and (y > 0).all()), "statistics: a log-log slope needs positive x and y.")
    u = np.log(x) - np.log(x).mean()
    require(bool((u != 0).any()), "statistics: a slope needs at least two different x.")
    return np.asarray(np.log(y) @ u / (u @ u))


def slope_interval(x: FloatArray, curves: FloatArray, level: float = 0.95) -> Interval:
    """Mean log-log slope of n curves (n, T) measured at the same x, with Student's interval over curves.

    The points of one curve depend on each other (a regret is a running sum), so whole curves are the sample.
    """
    return mean_interval(np.atleast_1d(loglog_slope(x, curves)), level)


def power_fit(
    x: FloatArray,
    groups: Sequence[FloatArray],
    statistic: Statistic = median,
    *,
    rng: np.random.Generator,
    reps: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Exponent p of statistic(runs at x) ~ C x^p; groups[i] (n_i,) are independent runs at x[i], resampled there.

    Expanded percentiles (`bootstrap`) for the smallest group.
    """
    require(len(groups) == len(x), f"statistics: {len(x)} abscissae and {len(groups)} groups of runs.")
    check(reps, level)
    runs = [checked(g) for g in groups]
    estimate = float(loglog_slope(x, np.array([float(statistic(g)) for g in runs])))
    if all(len(g) == 1 for g in runs):
        return Interval(estimate, np.nan, np.nan)
    heights = np.stack([statistic(g[resample(len(g), reps, rng=rng)]) for g in runs], axis=1)  # (reps, T)
    return Interval(estimate, *percentiles(loglog_slope(x, heights), level, smallest([len(g) for g in runs])))
