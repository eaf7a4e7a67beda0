"""Panels of a comparison's figures, one a task: their sizes, titles, legend and axes of counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rl_contrastive.analysis import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rl_contrastive.analysis.comparison import Task


LOG_RANGE = 6.0
"""Agents' curves whose lengths differ by more than this factor are drawn over a logarithmic axis."""
CLOCKS = {"episodes": "episodes", "env_steps": "environment steps"}
"""Columns that curves run over -> labels."""
WIDE = 4.5
"""Inches of a paper's figure from which on two panels stand side by side."""


def panels(
    tasks: Sequence[Task], paper: float | None, width: float = 5.0, row_height: float = 0.0, columns: int = 2
) -> tuple[Figure, list[Axes]]:
    """One axis a task, two in a row at most; heights follow the number of agents where row_height is given.

    paper: inches of the whole figure's width, where a paper gives it; narrow ones have one panel in a row.
    """
    columns = min(columns if paper is None or paper >= WIDE else 1, len(tasks))
    rows = [tasks[i : i + columns] for i in range(0, len(tasks), columns)]
    most = [max(len(task.groups) for task in row) for row in rows]
    high, edge, foot = (3.3, 1.25, 0.7) if paper is None else (min(max(0.62 * paper / columns, 1.7), 2.6), 0.75, 0.3)
    each = row_height if paper is None else plots.points(row_height)
    heights = [edge + each * n if row_height else high for n in most]
    if paper is not None and not row_height:  # the legend takes its place from the panels
        names = [f"{agent} (n=10)" for agent in {group.agent for task in tasks for group in task.groups}]
        foot += plots.points(0.19) * math.ceil(len(names) / legend_columns(names, paper))
    figure = plots.new_figure(max(width * columns, 7.4) if paper is None else paper, sum(heights) + foot)
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights).ravel()
    for axis in grid[len(tasks) :]:
        axis.set_visible(False)
    return figure, list(grid[: len(tasks)])


def label_inches(task: Task) -> float:
    """About the width of the agents' names beside a panel."""
    return 0.3 + plots.points(0.075) * max(min(len(group.agent), plots.LABEL) for group in task.groups)


def title(axis: Axes, task: Task, beside: float = 0.8) -> None:
    """The task in words, broken between settings where its panel, `beside` inches of labels left out, is too narrow."""
    import textwrap

    figure = axis.get_figure()
    assert figure is not None
    columns = axis.get_gridspec().ncols  # type: ignore[union-attr]
    characters = max(int((figure.get_size_inches()[0] / columns - beside) * 10.5 / plots.points(1.0)), 12)  # type: ignore[union-attr]
    whole = task.heading.replace(" ", "\u00a0").replace(",\u00a0", ", ")
    axis.set_title(plots.verbatim("\n".join(textwrap.wrap(whole, characters, break_on_hyphens=False))))


def legend(figure: Figure, tasks: Sequence[Task], agents: Sequence[str], looks: dict[str, Any]) -> None:
    """Above the panels, once for the figure; n runs are named where they are the same in all panels."""
    from matplotlib.lines import Line2D

    handles, labels = [], []
    for agent in agents:
        sizes = {len(group.runs) for task in tasks for group in task.groups if group.agent == agent}
        if sizes:
            colour, dash = looks[agent]
            handles.append(Line2D([], [], color=colour, dashes=dash or (None, None), linewidth=2.2))
            labels.append(f"{plots.verbatim(agent)} (n={'–'.join(str(n) for n in sorted({min(sizes), max(sizes)}))})")
    width = figure.get_size_inches()[0]
    columns = legend_columns(labels, width)
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=plots.points(9), handlelength=1.8)


def plain_counts(axis: Axes, *, log: bool) -> None:
    """1000 -> 1k on the episode axis; log axes carry decades and, on short ranges, 2 and 5 between them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: plots.short(v)))
    if log:
        low, high = axis.get_xlim()
        few = math.log10(max(high, 1e-300) / max(low, 1e-300)) < 2.5
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


def legend_columns(labels: Sequence[str], width: float) -> int:
    """Entries that stand side by side in so many inches."""
    each = 0.62 + plots.points(0.085) * max(len(label) for label in labels)
    return max(1, min(len(labels), int(width / each)))
