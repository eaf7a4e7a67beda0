"""The numbers in the comparison page: curves of every recorded scalar, thinned so that a browser can show them.

Each agent on each task has one curve for each metric, and curves of some of its single runs. In a large comparison both
have fewer points, then there are fewer single runs, and last fewer metrics; `note` says which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_contrastive.analysis import plots
from rl_contrastive.analysis.comparison import Task
from rl_contrastive.analysis.curves import (
    EXACT,
    FEWEST,
    GAP,
    RETURN,
    Curve,
    common_end,
    common_grid,
    finite_part,
    spread,
    thinned,
)
from rl_contrastive.analysis.groups import Group
from rl_contrastive.analysis.runs import Run, natural
from rl_contrastive.analysis.statistics import iqm
from rl_contrastive.spec import FloatArray

NUMBERS = 900_000
"""Numbers in the page, at most: some six million characters."""
MOST_POINTS, FEWEST_POINTS, FEW_OF_A_RUN = 200, 16, 30
"""Points of a curve; below the last number single runs are left out instead."""
AXES = ("episodes", "env_steps", "wall_s")
"""The possible axes of curves."""


@dataclass(frozen=True)
class Plan:
    """The sizes of the parts of a comparison that the page includes."""

    metrics: tuple[str, ...]
    left_out: int
    """Metrics that the menu has no room for."""
    points: int
    """Points of an agent's curve."""
    runs: int
    """Number of single runs of an agent on a task."""
    run_metrics: tuple[str, ...]
    """Number of metrics of single runs."""
    run_points: int


def recorded(tasks: list[Task]) -> list[str]:
    """Every scalar of metrics.jsonl but the counts that it is recorded at: those of the headlines first."""
    names = {name for task in tasks for group in task.groups for run in group.runs for name in run.series}
    asked = {group.metric.key for task in tasks for group in task.groups if group.metric}
    heads = {task.headline.key for task in tasks}
    first = [*sorted(asked), *(h.key for h in (RETURN, GAP) if h.key in heads), *EXACT]
    rest = sorted(names - {*first, "episodes", "env_steps"}, key=natural)
    return [*dict.fromkeys(name for name in first if name in names), *rest]


def plan(tasks: list[Task]) -> Plan:
    """The largest sizes that fit into NUMBERS: half for agents' curves, half for those of single runs."""
    groups = [group for task in tasks for group in task.groups]
    names, half = recorded(tasks), NUMBERS // 2
    weight = sum(3 if len(group.runs) >= FEWEST else 1 for group in groups)
    shown = names[: max(half // (weight * FEWEST_POINTS), 1)]
    points = min(max(half // (weight * max(len(shown), 1)), FEWEST_POINTS), MOST_POINTS)
    chosen, run_points = (1, shown[:1]), FEWEST_POINTS
    for chosen in ((20, shown), (10, shown), (5, shown), (5, shown[:4]), (3, shown[:2]), (1, shown[:1])):
        most, of_runs = chosen
        columns = sum(min(len(group.runs), most) for group in groups) * (len(of_runs) + len(AXES))
        run_points = min(half // max(columns, 1), MOST_POINTS)
        if run_points >= FEW_OF_A_RUN:
            break
    most, of_runs = chosen
    return Plan(tuple(shown), len(names) - len(shown), points, most, tuple(of_runs), max(run_points, 2))


def note(tasks: list[Task], used: Plan) -> str:
    """A sentence about the curves that the page leaves out; empty if there are none."""
    groups = [group for task in tasks for group in task.groups]
    longest = max((len(run.series.get("episodes", ())) for group in groups for run in group.runs), default=0)
    cuts = []
    if longest > min(used.points, used.run_points):
        cuts.append(f"curves of agents are thinned to {used.points} points and those of runs to {used.run_points}")
    if any(len(group.runs) > used.runs for group in groups):
        cuts.append(f"{used.runs} run{'' if used.runs == 1 else 's'} of an agent on a task can be seen one by one")
    if len(used.run_metrics) < len(used.metrics):
        cuts.append(f"runs one by one have only {', '.join(used.run_metrics)}")
    if used.left_out:
        cuts.append(f"{used.left_out} of the recorded metrics have no room here (rlc compare --metric NAME draws them)")
    return f"This comparison is large: {'; '.join(cuts)}. Tables and figures use everything." if cuts else ""


def data(tasks: list[Task], agents: list[str], *, bar: float, solve_gap: float) -> dict[str, Any]:
    """JSON values for the page's script."""
    used, looks = plan(tasks), plots.colours(agents)
    place = {agent: i for i, agent in enumerate(agents)}
    asked = any(group.metric for task in tasks for group in task.groups)
    dark = dict(zip(plots.PALETTE, plots.PALETTE_DARK, strict=True))
    return {
        "agents": [
            {"name": agent, "light": colour, "dark": dark[colour], "dash": ", ".join(f"{3 * d:g}px" for d in dash)}
            for agent, (colour, dash) in looks.items()
        ],
        "metrics": list(used.metrics),
        # The first is shown at first; the empty one is each task's own headline.
        "menu": [*([""] if len({task.headline for task in tasks}) > 1 and not asked else []), *used.metrics],
        "note": note(tasks, used),
        "tasks": [
            {
                "name": task.heading,
                "clock": task.clock,
                "headline": task.headline.key,
                "bars": _bars(task, bar, solve_gap),
                "groups": [{"agent": place[group.agent], **_group(group, task, used)} for group in task.groups],
            }
            for task in tasks
        ],
    }


def _bars(task: Task, bar: float, solve_gap: float) -> dict[str, list[Any]]:
    """Metric -> height and words of the line at which a run counts as solved."""
    if task.headline is GAP:
        return {GAP.key: [solve_gap, f"solved: gap ≤ {solve_gap:g}"]}
    if task.optimal is None or task.game:
        return {}
    return {RETURN.key: [short(task.optimal - (1.0 - bar) * abs(task.optimal)), f"bar: {bar:g} of optimal"]}


def _group(group: Group, task: Task, used: Plan) -> dict[str, Any]:
    """The curves of one agent on one task, and of its first runs."""
    grids: list[FloatArray] = []
    curves: dict[str, Any] = {}
    for key in used.metrics:
        curve, interval = _curve(group, task, key)
        if curve is None:
            continue
        kept = spread(len(curve.x), used.points)
        x = curve.x[kept]
        at = next((i for i, grid in enumerate(grids) if np.array_equal(grid, x)), len(grids))
        if at == len(grids):
            grids.append(x)
        curves[key] = {"grid": at, "ci": interval, "mid": values(curve.centre[kept])}
        if np.isfinite(curve.low).any():
            curves[key] |= {"low": values(curve.low[kept]), "high": values(curve.high[kept])}
    return {
        "n": len(group.runs),
        "grids": [{axis: _mean_axis(group, task.clock, axis, grid) for axis in AXES} for grid in grids],
        "curves": curves,
        "runs": [_run(run, used) for run in group.runs[: used.runs] if run.series],
    }


def _curve(group: Group, task: Task, key: str) -> tuple[Curve | None, bool]:
    """The curve of a metric, and whether its band is a confidence interval: that of the figures where they have one."""
    if key == task.headline.key and group.curve is not None:
        return group.curve, True
    if key in group.exact:
        return group.exact[key], True
    if group.metric is not None and group.metric.key == key:
        return group.metric.curve, True
    parts = [part for run in group.runs if len((part := finite_part(run, key, task.clock))[0])]
    if not parts:
        return None, False
    first, last = max(float(at[0]) for at, _ in parts), common_end([at for at, _ in parts], math.inf)
    x = thinned(common_grid([at for at, _ in parts], first, last)) if group.curve is None else group.curve.x
    x = x[(x >= first) & (x <= last)]
    if not len(x):
        x = np.array([last])
    rows = np.stack([v[np.maximum(np.searchsorted(at, x, side="right") - 1, 0)] for at, v in parts])
    none = np.full(len(x), math.nan)
    low, high = np.quantile(rows, (0.25, 0.75), axis=0) if len(rows) >= FEWEST else (none, none)
    return Curve(x, iqm(rows.T), low, high, last, ()), False


def _mean_axis(group: Group, clock: str, axis: str, x: FloatArray) -> list[float | None] | None:
    """Mean of the runs' episodes, steps or seconds at these counts of the clock; None if some run has none."""
    if axis == clock:
        return values(x)
    rows = []
    for run in group.runs:
        if not run.series:
            continue
        there = along(run, axis)
        if there is None or clock not in run.series:
            return None
        rows.append(np.interp(x, run.series[clock], there))
    return values(np.mean(rows, axis=0)) if rows else None


def along(run: Run, axis: str) -> FloatArray | None:
    """Episodes, steps or seconds at each evaluation of the run; None where they are not recorded."""
    if axis != "wall_s":
        column = run.series.get(axis)
        return column if column is not None and bool(np.isfinite(column).all()) else None
    if not run.wall or not len(run.wall["episodes"]):
        return None
    return np.interp(run.series["episodes"], run.wall["episodes"], run.wall["wall_s"])


def _run(run: Run, used: Plan) -> dict[str, Any]:
    kept = spread(len(run.series["episodes"]), used.run_points)
    axes = {axis: along(run, axis) for axis in AXES}
    return {
        "seed": "?" if run.seed is None else str(run.seed),
        "status": run.status,
        "x": {axis: None if column is None else values(column[kept]) for axis, column in axes.items()},
        "y": {key: values(run.series[key][kept]) for key in used.run_metrics if key in run.series},
    }


def values(numbers: FloatArray) -> list[float | None]:
    """Five digits each, NaN as null."""
    return [short(float(number)) if math.isfinite(number) else None for number in numbers]


def short(number: float) -> float:
    """Five digits; whole numbers as they are."""
    if number == int(number) and abs(number) < 1e15:
        return int(number)
    return float(f"{number:.5g}")
