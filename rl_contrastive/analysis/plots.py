"""Figures of a comparison: learning curves, episodes to solve, probability of improvement, exact gap and regret.

Headless (Agg canvas, no pyplot state), a colour-blind-safe palette (Okabe & Ito), and the same bytes for the same
numbers: SVG ids are salted, dates left out, text kept as text.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_contrastive.files import durably, write_text
from rl_contrastive.spec import FloatArray, IntArray

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rl_contrastive.analysis.comparison import Task
    from rl_contrastive.analysis.curves import Curve
    from rl_contrastive.analysis.groups import Group

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5D3A9B", "#7F7F7F")
DASHES = ((), (5, 2), (1, 1.2), (6, 2, 1, 2))
INK, FAINT = "#222222", "#8a8a8a"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "text.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.hashsalt": "rl_contrastive",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # text that can be searched and edited, as in the SVG
    "path.simplify": False,
}
MOST_IN_MATRIX = 10
"""Agents of a task in the matrix of improvement: more cells are too small to read."""
POINTS = 20_000
"""Points of all curves of a figure together: each is thinned to its share."""
LABEL = 24
"""Characters of an agent's name in one line beside a panel."""
LOG_RANGE = 6.0
"""Agents' curves whose lengths differ by more than this factor are drawn over a logarithmic axis."""
CLOCKS = {"episodes": "episodes", "env_steps": "environment steps"}
"""Columns that curves run over -> labels."""


@contextmanager
def style() -> Iterator[None]:
    """The library's figure style, for the duration of a `with`."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure with its own Agg canvas: nothing global, no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, stem: Path, *, pdf: bool = False) -> str:
    """Write stem.png and stem.svg, and stem.pdf if asked, without dates or versions; returns the SVG text."""
    png = stem.with_suffix(".png")
    durably(png, lambda file: figure.savefig(file, format="png", dpi=160, metadata={"Software": None}))
    # Everything has its place now, and to compute it again would take as long as to draw.
    figure.set_layout_engine(None)
    if pdf:
        nowhere = {"CreationDate": None, "Creator": None, "Producer": None}
        durably(stem.with_suffix(".pdf"), lambda file: figure.savefig(file, format="pdf", metadata=nowhere))
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    write_text(stem.with_suffix(".svg"), buffer.getvalue())
    return buffer.getvalue()


def colours(agents: Sequence[str]) -> dict[str, tuple[str, tuple[float, ...]]]:
    """Agent -> (colour, dash pattern); more agents than colours differ by dashes."""
    n = len(PALETTE)
    return {a: (PALETTE[i % n], DASHES[(i // n) % len(DASHES)]) for i, a in enumerate(agents)}


def learning_curves(tasks: Sequence[Task], agents: Sequence[str], *, bar: float, level: float = 0.95) -> Figure | None:
    """Return over the task's clock, one panel a task: IQM over runs with its bootstrap band; None if nothing has one.

    Two-player games are left out: what a policy earns against itself does not tell how well either side plays.
    """
    tasks = [task for task in tasks if not task.game and any(group.curve for group in task.groups)]
    if not tasks:
        return None
    figure, axes = _panels(tasks)
    looks, most = colours(agents), _share(tasks)
    for axis, task in zip(axes, tasks, strict=True):
        drawn = [(group, group.curve) for group in task.groups if group.curve is not None]
        log = _wants_log([curve for _, curve in drawn])
        for place, (group, curve) in reversed(list(enumerate(drawn))):  # best last: on top
            _draw_curve(axis, curve, *looks[group.agent], log=log, width=_width(place), most=most)
        if log:
            axis.set_xscale("log")
        if task.optimal is not None:
            _bar(axis, task.optimal - (1.0 - bar) * abs(task.optimal), f"bar: {bar:g} of optimal")
        _title(axis, task)
        axis.set(xlabel=CLOCKS[task.clock] + (" (log)" if log else ""), ylabel="mean return of the policy")
        _plain_counts(axis, log=log)
        axis.margins(x=0.02)
    _legend(figure, tasks, agents, looks)
    caption(
        figure,
        f"Line: IQM over runs; band: {level:.0%} bootstrap CI; worse agents below, in wider lines. "
        "Dot: a run stopped because solved, its last value is kept (dashed).",
    )
    return figure


def exact_curves(
    tasks: Sequence[Task], agents: Sequence[str], key: str, *, solve_gap: float, level: float = 0.95
) -> Figure | None:
    """One exact column over the task's clock, both logarithmic; None where no task has it."""
    having = [task for task in tasks if any(key in group.exact for group in task.groups)]
    if not having:
        return None
    figure, axes = _panels(having)
    looks, most = colours(agents), _share(having)
    words = {
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
        _title(axis, task)
        label = task.headline.curve if headline else words.get(key, key)
        axis.set(xscale="log", yscale="log", xlabel=f"{CLOCKS[task.clock]} (log)", ylabel=label)
        _plain_counts(axis, log=True)
        axis.margins(x=0.02)
    _legend(figure, having, agents, looks)
    caption(figure, f"Line: IQM over runs; band: {level:.0%} bootstrap CI. Computed from the true model, no sampling.")
    return figure


def episodes_to_solve(tasks: Sequence[Task], agents: Sequence[str]) -> Figure | None:
    """One dot a run, a bar at the median; open triangles are unsolved runs at their cap. None where no task can be
    solved, because its best return is not known."""
    tasks = [task for task in tasks if task.judged and task.groups]
    if not tasks:
        return None
    figure, axes = _panels(tasks, row_height=0.42)
    looks = colours(agents)
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
        axis.tick_params(axis="y", length=0, labelcolor=INK)
        _title(axis, task, beside=_label_inches(task))
        axis.set(xlabel="episodes to solve" + (" (log)" if log else ""))
        axis.margins(x=0.08)
        if not log:
            axis.set_xlim(left=0, right=None if positive else 1)
        _plain_counts(axis, log=log)
    caption(
        figure,
        "Dot: a solved run; open triangle: an unsolved or failed run at its cap; "
        "bar: median over all runs (a lower bound where triangles reach it).",
    )
    return figure


def improvement_matrix(tasks: Sequence[Task], *, level: float = 0.95) -> Figure | None:
    """P(row better than column) for the agents of each task; None where no task has two agents."""
    having = [replace(task, groups=task.groups[:MOST_IN_MATRIX]) for task in tasks if task.improvement]
    having = [task for task in having if len(task.groups) > 1]
    if not having:
        return None
    most = max(len(task.groups) for task in having)
    figure, axes = _panels(having, width=2.0 + 1.1 * most, row_height=0.6, columns=2 if most <= 3 else 1)
    for axis, task in zip(axes, having, strict=True):
        names = [group.agent for group in task.groups]
        table = np.full((len(names), len(names)), np.nan)
        cells = {key: value for key, value in task.improvement.items() if {*key} <= {*names}}
        for (x, y), value in cells.items():
            table[names.index(x), names.index(y)] = value.estimate
        # A mesh, not an image: the SVG then holds no raster.
        axis.pcolormesh(np.ma.masked_invalid(table), cmap=diverging(), vmin=0, vmax=1, edgecolor="white", linewidth=2)
        axis.invert_yaxis()
        for (x, y), value in cells.items():
            _improvement_cell(axis, names.index(y) + 0.5, names.index(x) + 0.5, value.estimate, value.low, value.high)
        axis.set_xticks(np.arange(len(names)) + 0.5, [wrap(n) for n in names], fontsize=8.5)
        axis.set_yticks(np.arange(len(names)) + 0.5, [wrap(n, LABEL) for n in names], fontsize=8.5)
        axis.tick_params(length=0, labelcolor=INK)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        _title(axis, task, beside=_label_inches(task))
        axis.set_xlabel(f"better: {task.measure}", fontsize=8.5)
    words = f"P(a run of the row is better than one of the column), ties 1/2, with {level:.0%} CI."
    cut = any(len(task.groups) > MOST_IN_MATRIX for task in tasks)
    caption(figure, words + (f" The {MOST_IN_MATRIX} best agents of each task." if cut else ""))
    return figure


def _panels(
    tasks: Sequence[Task], width: float = 5.0, row_height: float = 0.0, columns: int = 2
) -> tuple[Figure, list[Axes]]:
    """One axis a task, two in a row at most; heights follow the number of agents where row_height is given."""
    columns = min(columns, len(tasks))
    rows = [tasks[i : i + columns] for i in range(0, len(tasks), columns)]
    most = [max(len(task.groups) for task in row) for row in rows]
    heights = [1.25 + row_height * n if row_height else 3.3 for n in most]
    figure = new_figure(max(width * columns, 7.4), sum(heights) + 0.7)
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights).ravel()
    for axis in grid[len(tasks) :]:
        axis.set_visible(False)
    return figure, list(grid[: len(tasks)])


def _label_inches(task: Task) -> float:
    """About the width of the agents' names beside a panel."""
    return 0.3 + 0.075 * max(min(len(group.agent), LABEL) for group in task.groups)


def _title(axis: Axes, task: Task, beside: float = 0.8) -> None:
    """The task in words, broken between settings where its panel, `beside` inches of labels left out, is too narrow."""
    import textwrap

    figure = axis.get_figure()
    assert figure is not None
    columns = axis.get_gridspec().ncols  # type: ignore[union-attr]
    characters = max(int((figure.get_size_inches()[0] / columns - beside) * 10.5), 12)  # type: ignore[union-attr]
    whole = task.heading.replace(" ", "\u00a0").replace(",\u00a0", ", ")
    axis.set_title(verbatim("\n".join(textwrap.wrap(whole, characters, break_on_hyphens=False))))


def _bar(axis: Axes, height: float, words: str) -> None:
    """A thin line at what counts as solved."""
    axis.axhline(height, color=FAINT, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    axis.annotate(
        words, (0.01, height), xycoords=("axes fraction", "data"), ha="left", va="bottom", fontsize=8,
        color="#666666", xytext=(0, 1), textcoords="offset points", zorder=5,
        bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6},
    )  # fmt: skip


def _positive(curve: Curve) -> Curve:
    """What a logarithmic axis can show: points where the centre is positive, bands cut at half the lowest of them."""
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
        [group.episodes.median] * 2, [y - 0.3, y + 0.3], color=INK, linewidth=2.2, zorder=2, solid_capstyle="butt"
    )


def _count_label(group: Group) -> str:
    return f"{wrap(group.agent, LABEL)}\n{group.episodes.solved}/{group.episodes.n} solved"


def _improvement_cell(axis: Axes, x: float, y: float, value: float, low: float, high: float) -> None:
    colour = "white" if abs(value - 0.5) > 0.33 else INK
    text = f"{value:.2f}" + ("" if math.isnan(low) else f"\n[{low:.2f}, {high:.2f}]")
    axis.text(x, y, text, ha="center", va="center", color=colour, fontsize=8.5, linespacing=1.35)


def diverging() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("orange-blue", ["#B04A00", "#F4C9A8", "#F5F5F5", "#A9CFE6", "#005A91"])


def _wants_log(curves: Sequence[Curve]) -> bool:
    """Log episodes when some agent is done long before another one."""
    ends = [curve.solid_to for curve in curves if curve.solid_to > 0]
    return bool(ends) and max(ends) / min(ends) > LOG_RANGE


def _plain_counts(axis: Axes, *, log: bool) -> None:
    """1000 -> 1k on the episode axis; log axes carry decades and, on short ranges, 2 and 5 between them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: short(v)))
    if log:
        low, high = axis.get_xlim()
        few = math.log10(max(high, 1e-300) / max(low, 1e-300)) < 2.5
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


def short(value: float) -> str:
    """950, 1.5k, 4096, 20k, 3M."""
    if 1e3 <= abs(value) < 1e4 and value % 10:
        return f"{value:.0f}"
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def _legend(figure: Figure, tasks: Sequence[Task], agents: Sequence[str], looks: dict[str, Any]) -> None:
    """Above the panels, once for the figure; n runs are named where they are the same in all panels."""
    from matplotlib.lines import Line2D

    handles, labels = [], []
    for agent in agents:
        sizes = {len(group.runs) for task in tasks for group in task.groups if group.agent == agent}
        if sizes:
            colour, dash = looks[agent]
            handles.append(Line2D([], [], color=colour, dashes=dash or (None, None), linewidth=2.2))
            labels.append(f"{verbatim(agent)} (n={'–'.join(str(n) for n in sorted({min(sizes), max(sizes)}))})")
    width = figure.get_size_inches()[0]
    columns = max(1, min(len(labels), int(width / (0.62 + 0.085 * max(len(label) for label in labels)))))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=9, handlelength=1.8)


def caption(figure: Figure, text: str) -> None:
    """One or two small lines under the panels, wrapped to the figure's width."""
    import textwrap

    lines = textwrap.wrap(text, int(figure.get_size_inches()[0] * 14.5))
    figure.supxlabel(verbatim("\n".join(lines)), fontsize=8, color="#555555", x=0.01, ha="left")


def wrap(name: str, width: int = 14) -> str:
    """A long agent name in lines, broken at hyphens and spaces."""
    import textwrap

    return verbatim("\n".join(textwrap.wrap(name, width)))


def verbatim(text: str) -> str:
    """A user's words as they are written: matplotlib reads what stands between two dollar signs as mathematics."""
    return text.replace("$", r"\$")
