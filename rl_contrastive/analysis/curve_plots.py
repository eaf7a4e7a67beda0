"""Figures of curves: returns, exact gap and regret, or any recorded metric, one panel a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rl_contrastive.analysis import plots
from rl_contrastive.analysis.panels import CLOCKS, LOG_RANGE, legend, panels, plain_counts, title
from rl_contrastive.spec import FloatArray, IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rl_contrastive.analysis.comparison import Task
    from rl_contrastive.analysis.curves import Curve


POINTS = 20_000
"""Points of all curves of a figure together: each is thinned to its share."""


def learning_curves(
    tasks: Sequence[Task], agents: Sequence[str], *, bar: float, level: float = 0.95, paper: float | None = None
) -> Figure | None:
    """Return over the task's clock, one panel a task: IQM over runs with its bootstrap band; None if nothing has one.

    Two-player games are left out, because returns of self-play do not tell how well either side plays.
    """
    tasks = [task for task in tasks if not task.game and any(group.curve for group in task.groups)]
    if not tasks:
        return None
    figure, axes = panels(tasks, paper)
    looks, most = plots.colours(agents), _share(tasks)
    for axis, task in zip(axes, tasks, strict=True):
        drawn = [(group, group.curve) for group in task.groups if group.curve is not None]
        log = _wants_log([curve for _, curve in drawn])
        for place, (group, curve) in reversed(list(enumerate(drawn))):  # best last: on top
            _draw_curve(axis, curve, *looks[group.agent], log=log, width=_width(place), most=most)
        if log:
            axis.set_xscale("log")
        if task.optimal is not None:
            _bar(axis, task.optimal - (1.0 - bar) * abs(task.optimal), f"bar: {bar:g} of optimal")
        title(axis, task)
        axis.set(xlabel=CLOCKS[task.clock] + (" (log)" if log else ""), ylabel="mean return of the policy")
        plain_counts(axis, log=log)
        axis.margins(x=0.02)
    legend(figure, tasks, agents, looks)
    plots.caption(
        figure,
        f"Line: IQM over runs; band: {level:.0%} bootstrap CI; worse agents below, in wider lines. "
        "Dot: a run stopped because solved, its last value is kept (dashed).",
        paper=paper is not None,
    )
    return figure


def exact_curves(
    tasks: Sequence[Task],
    agents: Sequence[str],
    key: str,
    *,
    solve_gap: float,
    level: float = 0.95,
    paper: float | None = None,
) -> Figure | None:
    """One exact column over the task's clock, both logarithmic; None where no task has it."""
    having = [task for task in tasks if any(key in group.exact for group in task.groups)]
    if not having:
        return None
    figure, axes = panels(having, paper)
    looks, most = plots.colours(agents), _share(having)
    names = {
        "gap": "exact gap  V* − V of the policy",
        "regret": "exact regret of the episodes played",
        "suboptimality": "mean of V* − V of π_k over the episodes",
    }
    for axis, task in zip(axes, having, strict=True):
        for place, group in reversed(list(enumerate(task.groups))):
            if key in group.exact:
                curve = _positive(group.exact[key])
                _draw_curve(axis, curve, *looks[group.agent], log=True, width=_width(place), most=most)
        headline = task.headline.key == key
        if headline:
            _bar(axis, solve_gap, f"solved: gap ≤ {solve_gap:g}")
        title(axis, task)
        label = task.headline.curve if headline else names.get(key, key)
        axis.set(xscale="log", yscale="log", xlabel=f"{CLOCKS[task.clock]} (log)", ylabel=label)
        plain_counts(axis, log=True)
        axis.margins(x=0.02)
    legend(figure, having, agents, looks)
    words = f"Line: IQM over runs; band: {level:.0%} bootstrap CI. Computed from the true model, no sampling."
    plots.caption(figure, words, paper=paper is not None)
    return figure


def metric_curves(tasks: Sequence[Task], agents: Sequence[str], *, paper: float | None = None) -> Figure | None:
    """The requested metric over the task's clock; None where no run recorded it twice."""
    having = [task for task in tasks if any(group.metric and group.metric.curve for group in task.groups)]
    if not having:
        return None
    figure, axes = panels(having, paper)
    looks, most = plots.colours(agents), _share(having)
    for axis, task in zip(axes, having, strict=True):
        drawn = [(g.agent, g.metric.key, g.metric.curve) for g in task.groups if g.metric and g.metric.curve]
        log = _wants_log([curve for *_, curve in drawn])
        for place, (agent, key, curve) in reversed(list(enumerate(drawn))):
            _draw_curve(axis, curve, *looks[agent], log=log, width=_width(place), most=most)
            axis.set_ylabel(plots.verbatim(key))
        if log:
            axis.set_xscale("log")
        title(axis, task)
        axis.set_xlabel(CLOCKS[task.clock] + (" (log)" if log else ""))
        plain_counts(axis, log=log)
        axis.margins(x=0.02)
    legend(figure, having, agents, looks)
    words = "Line: IQM over the runs that recorded it; band: 95% bootstrap CI. Each curve ends with its first run."
    plots.caption(figure, words, paper=paper is not None)
    return figure


def _bar(axis: Axes, height: float, words: str) -> None:
    """A thin line at what counts as solved."""
    axis.axhline(height, color=plots.FAINT, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    axis.annotate(
        words, (0.01, height), xycoords=("axes fraction", "data"), ha="left", va="bottom", fontsize=plots.points(8),
        color="#666666", xytext=(0, 1), textcoords="offset points", zorder=5,
        bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6},
    )  # fmt: skip


def _positive(curve: Curve) -> Curve:
    """The part of a curve for a logarithmic axis: points with a positive centre, bands cut at half the lowest one."""
    keep = curve.centre > 0
    floor = curve.centre[keep].min(initial=1.0) * 0.5
    low, high = np.maximum(curve.low[keep], floor), np.maximum(curve.high[keep], floor)
    return replace(curve, x=curve.x[keep], centre=curve.centre[keep], low=low, high=high)


def _width(place: int) -> float:
    """Line width of the agent in this place (0: the best, on top): curves that coincide stay visible as its borders."""
    return 1.8 + 0.5 * min(place, 4)


def _draw_curve(
    axis: Axes, curve: Curve, colour: str, dash: tuple[float, ...], *, log: bool, width: float, most: int
) -> None:
    keep = np.flatnonzero(curve.x > 0) if log else np.arange(len(curve.x))
    if not len(keep):  # gaps that are 0 throughout have no place on a logarithmic axis
        return
    keep = keep[_spread(curve.x[keep], most, log=log)]
    x, centre, low, high = curve.x[keep], curve.centre[keep], curve.low[keep], curve.high[keep]
    solid, after = x <= curve.solid_to, x >= curve.solid_to
    axis.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0, zorder=2)
    axis.plot(x[solid], centre[solid], color=colour, dashes=dash or (None, None), linewidth=width, zorder=3)
    axis.plot(
        x[after], centre[after], color=colour, linestyle=(0, (2, 1.5)), linewidth=width * 0.7, alpha=0.8, zorder=3
    )
    stops = [stop for stop in curve.stops if stop >= x[0]]
    axis.plot(
        stops, np.interp(stops, x, centre), "o", color=colour, markersize=4.5, markeredgecolor="white",
        markeredgewidth=0.7, zorder=4,
    )  # fmt: skip


def _spread(x: FloatArray, most: int, *, log: bool) -> IntArray:
    """Indices of at most `most` of the increasing points x, even along the axis, the first and the last among them."""
    if len(x) <= most:
        return np.arange(len(x))
    space = np.geomspace if log else np.linspace
    return np.unique(np.clip(np.searchsorted(x, space(x[0], x[-1], most)), 0, len(x) - 1))


def _share(tasks: Sequence[Task]) -> int:
    """Points that each curve of a figure may have."""
    return max(POINTS // max(sum(len(task.groups) for task in tasks), 1), 40)


def _wants_log(curves: Sequence[Curve]) -> bool:
    """Log episodes when some agent is done long before another one."""
    ends = [curve.solid_to for curve in curves if curve.solid_to > 0]
    return bool(ends) and max(ends) / min(ends) > LOG_RANGE
