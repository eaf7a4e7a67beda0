"""Figures of whole runs: episodes to solve, and the probability that one agent is better than another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rl_contrastive.analysis import plots
from rl_contrastive.analysis.panels import LOG_RANGE, WIDE, label_inches, panels, plain_counts, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rl_contrastive.analysis.comparison import Task
    from rl_contrastive.analysis.groups import Group


MOST_IN_MATRIX = 10
"""Largest number of agents in the matrix of improvement; with more, cells are too small to read."""
NAMES, LEAST_CELL, WITH_INTERVAL = 1.2, 0.4, 0.75
"""Inches, in a paper: of the names beside a matrix, of its smallest cell, and of one with room for its interval."""


def episodes_to_solve(tasks: Sequence[Task], agents: Sequence[str], *, paper: float | None = None) -> Figure | None:
    """One dot a run, a bar at the median; open triangles are unsolved runs at their cap. None where no task can be
    solved, because its best return is not known."""
    tasks = [task for task in tasks if task.judged and task.groups]
    if not tasks:
        return None
    figure, axes = panels(tasks, paper, row_height=0.42)
    looks = plots.colours(agents)
    for axis, task in zip(axes, tasks, strict=True):
        positive = [c for group in task.groups for c in group.counts if c > 0]
        log = bool(positive) and max(positive) / min(positive) > LOG_RANGE
        if log:
            axis.set_xscale("log")
        for y, group in enumerate(task.groups):
            _draw_counts(axis, y, group, looks[group.agent][0], log=log)
        axis.set_yticks(range(len(task.groups)), [_count_label(group) for group in task.groups])
        axis.set_ylim(len(task.groups) - 0.4, -0.6)
        axis.grid(visible=False, axis="y")
        axis.tick_params(axis="y", length=0, labelcolor=plots.INK)
        title(axis, task, beside=label_inches(task))
        axis.set(xlabel="episodes to solve" + (" (log)" if log else ""))
        axis.margins(x=0.08)
        if not log:
            axis.set_xlim(left=0, right=None if positive else 1)
        plain_counts(axis, log=log)
    plots.caption(
        figure,
        "Dot: a solved run; open triangle: an unsolved or failed run at its cap; "
        "bar: median over all runs (a lower bound where triangles reach it).",
        paper=paper is not None,
    )
    return figure


def improvement_matrix(tasks: Sequence[Task], *, level: float = 0.95, paper: float | None = None) -> Figure | None:
    """P(row better than column) for the agents of each task; None where no task has two agents."""
    limit = MOST_IN_MATRIX if paper is None else min(MOST_IN_MATRIX, max(int((paper - NAMES) / LEAST_CELL), 2))
    having = [replace(task, groups=task.groups[:limit]) for task in tasks if task.improvement]
    having = [task for task in having if len(task.groups) > 1]
    if not having:
        return None
    most = max(len(task.groups) for task in having)
    columns = 2 if most <= 3 else 1
    figure, axes = panels(having, paper, width=2.0 + 1.1 * most, row_height=0.6, columns=columns)
    cell = np.inf if paper is None else (paper / (columns if paper >= WIDE else 1) - NAMES) / most
    for axis, task in zip(axes, having, strict=True):
        _draw_matrix(axis, task, inches=cell)
    interval = f", with {level:.0%} CI" if cell > WITH_INTERVAL else ""
    words = f"P(a run of the row is better than one of the column), ties 1/2{interval}."
    cut = any(len(task.groups) > limit for task in tasks)
    words += f" The {limit} best agents of each task." if cut else ""
    plots.caption(figure, words, paper=paper is not None)
    return figure


def _draw_matrix(axis: Axes, task: Task, *, inches: float) -> None:
    """The cells of one task, each about so many inches wide: small ones without their intervals."""
    names = [group.agent for group in task.groups]
    table = np.full((len(names), len(names)), np.nan)
    cells = {key: value for key, value in task.improvement.items() if {*key} <= {*names}}
    for (x, y), value in cells.items():
        table[names.index(x), names.index(y)] = value.estimate
    # A mesh, not an image: the SVG then holds no raster.
    axis.pcolormesh(np.ma.masked_invalid(table), cmap=plots.diverging(), vmin=0, vmax=1, edgecolor="white", linewidth=2)
    axis.invert_yaxis()
    for (x, y), value in cells.items():
        shown = value if inches > WITH_INTERVAL else replace(value, low=math.nan, high=math.nan)
        _improvement_cell(axis, names.index(y) + 0.5, names.index(x) + 0.5, shown.estimate, shown.low, shown.high)
    ticks, small = np.arange(len(names)) + 0.5, plots.points(8.5)
    narrow = inches <= WITH_INTERVAL
    across = [plots.wrap(n, plots.LABEL if narrow else 14) for n in names]
    axis.set_xticks(ticks, across, fontsize=small, rotation=90 if narrow else 0)
    axis.set_yticks(ticks, [plots.wrap(n, plots.LABEL if inches == np.inf else 18) for n in names], fontsize=small)
    axis.tick_params(length=0, labelcolor=plots.INK)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    title(axis, task, beside=label_inches(task))
    axis.set_xlabel(f"better: {task.measure}", fontsize=small)


def _draw_counts(axis: Axes, y: int, group: Group, colour: str, *, log: bool) -> None:
    """Runs spread a little in y so that equal counts stay visible."""
    n = len(group.counts)
    heights = y + (np.linspace(-0.17, 0.17, n) if n > 1 else np.zeros(1))
    # A run that failed before its first evaluation has no place on a log axis; the table lists it.
    placed, solved = (group.counts > 0) | (not log), np.array(group.solved, dtype=bool)
    for which, marker, face in ((placed & solved, "o", colour), (placed & ~solved, ">", "white")):
        axis.plot(group.counts[which], heights[which], marker, color=colour, markerfacecolor=face, markersize=6,
                  markeredgewidth=1.2, alpha=0.9, zorder=3)  # fmt: skip
    axis.plot(
        [group.episodes.median] * 2, [y - 0.3, y + 0.3], color=plots.INK, linewidth=2.2, zorder=2, solid_capstyle="butt"
    )


def _count_label(group: Group) -> str:
    return f"{plots.wrap(group.agent, plots.LABEL)}\n{group.episodes.solved}/{group.episodes.n} solved"


def _improvement_cell(axis: Axes, x: float, y: float, value: float, low: float, high: float) -> None:
    colour = "white" if abs(value - 0.5) > 0.33 else plots.INK
    text = f"{value:.2f}" + ("" if math.isnan(low) else f"\n[{low:.2f}, {high:.2f}]")
    axis.text(x, y, text, ha="center", va="center", color=colour, fontsize=plots.points(8.5), linespacing=1.35)
