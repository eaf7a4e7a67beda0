"""Combines the curves of many runs: on a common grid, with a bootstrap band.

At a count x a curve takes each run's newest evaluation at or before x. Counts are chosen so that each run has a new
evaluation at each of them. A run that stopped because it was solved keeps its last value. After its last evaluation an
unfinished run counts with the worst value that any run of the task recorded, so that failures never look good.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np

from rl_contrastive.analysis import statistics as st
from rl_contrastive.analysis.runs import Run
from rl_contrastive.spec import FloatArray, IntArray

EXACT = ("gap", "regret", "suboptimality")
"""Columns of metrics.jsonl drawn on logarithmic axes where they occur."""
LEVEL = 0.95
FEWEST = 5
"""Agents with fewer runs get no interval, because resampling three runs says little about new runs."""
MOST_POINTS = 2000
"""Largest number of points of a curve; those of longer records are thinned. Numbers are of all evaluations."""


@dataclass(frozen=True)
class Headline:
    """The number by which agents are compared."""

    key: str
    """Column of metrics.jsonl."""
    sign: float
    """+1: higher is better, -1: lower is."""
    final: str
    """Name of the last value in tables."""
    curve: str
    """Label of the axis it is drawn along."""


@dataclass(frozen=True)
class Frame:
    """What all groups of a task are drawn by."""

    headline: Headline
    worst: float | None
    """The worst value of the headline that any run recorded; None if none did."""
    clock: str
    end: float
    """The newest evaluation of any run, on the clock."""


RETURN = Headline("return_mean", 1.0, "return", "mean return of the policy")
GAP = Headline("gap", -1.0, "gap", "exact duality gap of the policies")


@dataclass(frozen=True)
class Curve:
    """A statistic over the task's clock: x, centre, low, high (T,); up to `solid_to` some run was still going."""

    x: FloatArray
    centre: FloatArray
    low: FloatArray
    high: FloatArray
    solid_to: float
    stops: tuple[float, ...]
    """Where runs stopped because they were solved."""


@dataclass(frozen=True)
class Scalar:
    """A column of metrics.jsonl over the runs that recorded it."""

    key: str
    n: int
    """Runs that recorded it."""
    final: st.Interval
    finals: FloatArray
    """(n,) the last value recorded by each."""
    curve: Curve | None


def headline_grid(runs: list[Run], frame: Frame) -> FloatArray | None:
    """Counts at which the runs' headlines are compared, all of them; None where no run recorded it."""
    clock = frame.clock
    recorded = [run for run in runs if records(run, frame.headline)]
    if frame.worst is None or not recorded:
        return None
    first = max(float(run.series[clock][0]) for run in recorded)
    # Nothing is known after the end of a finished, unsolved run, so the curve ends there.
    last = max(common_end([run.series[clock] for run in recorded if run.finished and not run.solved], frame.end), first)
    return np.unique(np.append(common_grid([run.series[clock] for run in recorded], first, last), last))


def headline_curve(runs: list[Run], frame: Frame, x: FloatArray, *, reps: int, rng: np.random.Generator) -> Curve:
    """x: the counts of `headline_grid`."""
    headline, worst, clock = frame.headline, frame.worst, frame.clock
    recorded = [run for run in runs if records(run, headline)]
    x, last = thinned(x), float(x[-1])
    values = np.stack([values_at(run, headline.key, x, worst, clock) for run in runs])
    centre, low, high = band(values, reps=reps, rng=rng)
    ends = [float(run.series[clock][-1]) for run in recorded]
    stops = tuple(sorted(e for run, e in zip(recorded, ends, strict=True) if run.finished and run.solved and e < last))
    return Curve(x, centre, low, high, min(max(ends), last), stops)


def exact_curve(runs: list[Run], key: str, clock: str, *, reps: int, rng: np.random.Generator) -> Curve | None:
    """An exact column from 1 on, up to where the first run ends; failed runs have no exact value there."""
    having = [run for run in runs if key in run.series and np.isfinite(run.series[key]).all()]
    if not having:
        return None
    first = max(max(float(run.series[clock][0]) for run in having), 1.0)
    last = common_end([run.series[clock] for run in having], np.inf)
    x = thinned(common_grid([run.series[clock] for run in having], first, last))
    if len(x) < 2:
        return None
    values = np.stack([values_at(run, key, x, None, clock) for run in having])
    centre, low, high = band(values, reps=reps, rng=rng)
    return Curve(x, centre, low, high, last, ())


def band(values: FloatArray, *, reps: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Centre, low and high of curves (n, T); no band of fewer than FEWEST."""
    centre, low, high = st.bootstrap_curve(values, rng=rng, reps=reps, level=LEVEL)
    none = np.full(len(centre), math.nan)
    return (centre, low, high) if len(values) >= FEWEST else (centre, none, none)


def common_end(counts: list[FloatArray], end: float) -> float:
    """The count up to which all these runs went, at most `end`.

    Budgets in steps end with an episode. So the last evaluations of equal budgets come at slightly different counts,
    and a curve up to the first of them would leave out the others. Each run is therefore extended by less than half of
    an evaluation interval.
    """
    if not counts:
        return end
    ends = np.array([each[-1] for each in counts])
    reach = min(each[-1] + np.diff(each[-2:]).sum() / 2 for each in counts)
    return min(float(ends[ends < reach].max(initial=ends.min())), end)


def common_grid(counts: list[FloatArray], first: float, last: float) -> FloatArray:
    """Counts in [first, last] between which each run was evaluated again or has ended. Evaluations due at one count
    come at slightly different ones, and a point at each of them would mix new and old values."""
    lists = [each.tolist() for each in counts]  # bisection in lists is much faster than in arrays, one by one
    start = max(first, *(each[0] for each in lists))
    places = (bisect_left(each, start) for each in lists)
    x = min((each[n] for each, n in zip(lists, places, strict=True) if n < len(each)), default=math.nan)
    kept: list[float] = []
    while x <= last:
        kept.append(x)
        places = (bisect_right(each, x) for each in lists)
        x = max((each[n] for each, n in zip(lists, places, strict=True) if n < len(each)), default=math.nan)
    return np.array(kept)


def values_at(run: Run, key: str, x: FloatArray, worst: float | None, clock: str) -> FloatArray:
    """The run's newest value at or before each x; behind the end of an unfinished run, `worst`."""
    if key not in run.series or not np.isfinite(run.series[key]).all():
        return np.full(len(x), math.nan if worst is None else worst)
    at = run.series[clock]
    values = run.series[key][np.maximum(np.searchsorted(at, x, side="right") - 1, 0)]
    return values if run.finished or worst is None else np.where(x > at[-1], worst, values)


def if_enough(value: st.Interval, n: int) -> st.Interval:
    """The estimate alone where it is of fewer than FEWEST runs."""
    return value if n >= FEWEST else st.Interval(value.estimate, math.nan, math.nan)


def records(run: Run, headline: Headline) -> bool:
    """Whether all evaluations of the run have the headline."""
    return headline.key in run.series and bool(np.isfinite(run.series[headline.key]).all())


def thinned(x: FloatArray) -> FloatArray:
    """At most MOST_POINTS of these counts."""
    return x[spread(len(x), MOST_POINTS)]


def spread(n: int, most: int) -> IntArray:
    """At most `most` of the indices below n: half of them evenly spaced, half ever denser towards the beginning, as on
    a logarithmic axis; the first and the last are among them."""
    if n <= most:
        return np.arange(n)
    even, early = np.linspace(0, n - 1, most // 2), np.geomspace(1, n, most // 2) - 1
    return np.unique(np.rint(np.concatenate([even, early])).astype(np.int64))


def finite_part(run: Run, key: str, clock: str) -> tuple[FloatArray, FloatArray]:
    """Where, on the clock, the run recorded the metric, and what: both (t,), empty if it never did."""
    if key not in run.series or clock not in run.series:
        return np.zeros(0), np.zeros(0)
    at, values = run.series[clock], run.series[key]
    known = np.isfinite(values) & np.isfinite(at)
    return at[known], values[known]


def scalar(runs: list[Run], key: str, clock: str, *, reps: int, rng: np.random.Generator) -> Scalar | None:
    """Any recorded column, up to the end of the first run. It is not known which of its values are bad, so a run that
    did not finish counts with its recorded values."""
    parts = [part for run in runs if len((part := finite_part(run, key, clock))[0])]
    if not parts:
        return None
    finals = np.array([values[-1] for _, values in parts])
    final = if_enough(st.bootstrap([finals], rng=rng, reps=reps, level=LEVEL), len(finals))
    last = common_end([at for at, _ in parts], np.inf)
    x = thinned(common_grid([at for at, _ in parts], max(float(at[0]) for at, _ in parts), last))
    curve = None
    if len(x):
        rows = [values[np.maximum(np.searchsorted(at, x, side="right") - 1, 0)] for at, values in parts]
        curve = Curve(x, *band(np.stack(rows), reps=reps, rng=rng), last, ())
    return Scalar(key, len(parts), final, finals, curve)
