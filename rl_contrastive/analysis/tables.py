"""The comparison as text: a Markdown table for files, a rich table for terminals, plain JSON for scripts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rich.table import Table

from rl_contrastive.analysis.comparison import FEWEST, GAP, Group, Task
from rl_contrastive.analysis.statistics import Interval, SolveSummary


def columns(tasks: list[Task]) -> tuple[str, ...]:
    """Heads of the columns of `row`; games have the slope of their gaps too."""
    finals = sorted({task.headline.final for task in tasks}, reverse=True)
    slope = ("Log-log slope of the gap: mean [95% CI]",) if GAP in [task.headline for task in tasks] else ()
    return (
        "Agent",
        "Runs",
        "Solved",
        "Episodes to solve: median (range)",
        "Env steps to solve: median (range)",
        f"Final {' or '.join(finals)}: IQM [95% CI]",
        *slope,
        "Seconds a run: median",
    )


def number(value: float) -> str:
    """Thousands separated by thin gaps, at most 3 significant decimals: 12 600, 0.953, 1.2e-04."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def counts(summary: SolveSummary | None) -> str:
    """`1 200 (900 – ≥ 5 000)`; `≥` marks a number that unsolved runs make a lower bound."""
    if summary is None:
        return "–"
    mid, low, high = (
        ("≥ " if censored else "") + number(value)
        for value, censored in (
            (summary.median, summary.median_censored),
            (summary.low, summary.low_censored),
            (summary.high, summary.high_censored),
        )
    )
    return mid if low == high else f"{mid} ({low} – {high})"


def interval(value: Interval | None) -> str:
    """`0.953 [0.910, 0.990]`: as many decimals in all three; one run has no interval."""
    if value is None:
        return "–"
    if math.isnan(value.low):
        return f"{number(value.estimate)} [n < {FEWEST}: no interval]"
    words = [number(v) for v in (value.estimate, value.low, value.high)]
    if not any("e" in word or " " in word for word in words):
        decimals = max(len(word.partition(".")[2]) for word in words)
        words = [f"{v:.{decimals}f}" for v in (value.estimate, value.low, value.high)]
    return f"{words[0]} [{words[1]}, {words[2]}]"


def row(group: Group, task: Task, heads: tuple[str, ...]) -> tuple[str, ...]:
    """The cells of one group of the task under `columns(...)`."""
    walls = [wall for run in group.runs if (wall := run.number("wall_s")) is not None]
    failed = sum(run.status == "failed" for run in group.failed)
    bad = {"failed": failed, "unfinished": len(group.failed) - failed}
    words = ", ".join(f"{count} {word}" for word, count in bad.items() if count)
    return (
        group.agent,
        f"{len(group.runs)}{f' ({words})' if words else ''}",
        f"{group.episodes.solved}/{group.episodes.n}" if task.judged else "–",
        counts(group.episodes) if task.judged else "–",
        counts(group.steps) if task.judged else "–",
        interval(group.final),
        *([interval(group.slope)] if len(heads) == 8 else []),
        number(float(np.median(walls))) if walls else "–",
    )


def markdown(tasks: list[Task], notes: list[str]) -> str:
    """table.md: one table a task, then the failed runs and how the numbers were made."""
    lines: list[str] = []
    for task in tasks:
        heads = columns([task])
        optimal = "" if task.optimal is None else f" ({optimum(task)})"
        lines += [f"## {task.heading}{optimal}", "", *aligned([heads, *(row(g, task, heads) for g in task.groups)]), ""]
        if tested := tests(task):
            lines += [
                f"{tested[0][0]} against each other agent, {task.measure}:",
                "",
                *aligned([TESTED, *(r[1:] for r in tested)]),
                "",
            ]
    lines += [f"- {sentence}" for sentence in failures(tasks)]
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines) + "\n"


TESTED = ("Against", "P(improvement) [95% CI]", "Test", "p")


def tests(task: Task) -> list[tuple[str, ...]]:
    """(best agent, other agent, probability of improvement, test, p) for each agent that was compared with the best."""
    pairs = [(x, y) for x, y in task.tests if x == task.groups[0].agent]
    return [
        (x, y, interval(task.improvement[x, y]), f"{found.test}, n = {found.n}", f"{found.p:.2g}")
        for x, y in pairs
        if min(len(g.runs) for g in task.groups if g.agent in (x, y)) > 1 and (found := task.tests[x, y])
    ]


def optimum(task: Task) -> str:
    """The best that can be had, in words; empty where it is not known."""
    if task.optimal is None:
        return ""
    values = [run.number("optimal_return") for group in task.groups for run in group.runs]
    mean = "" if np.allclose([v for v in values if v is not None], task.optimal, rtol=1e-6) else "mean "
    return f"{mean}{'Nash value' if task.game else 'optimal return'} {number(task.optimal)}"


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """A Markdown table whose columns also line up in a terminal: the first row is the header, numbers to the right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in cells
    ]
    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return ["| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]]]


def failures(tasks: list[Task]) -> list[str]:
    """One sentence for the runs of a group that did not finish for the same reason, with their seeds."""
    seeds: dict[tuple[str, str, str, str | None], list[str]] = {}
    for task in tasks:
        for group in task.groups:
            for run in group.failed:
                same = seeds.setdefault((run.status, run.agent, task.name, run.error), [])
                same.append("?" if run.seed is None else str(run.seed))
    return [
        f"{status}: {agent} on {task}, seed{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}: {error}"
        for (status, agent, task, error), numbers in seeds.items()
    ]


def terminal(tasks: list[Task]) -> Table:
    """A rich table of all tasks."""
    table = Table(title="Comparison", header_style="bold", title_justify="left")
    table.add_column("Task")
    heads = columns(tasks)
    for index, column in enumerate(heads):
        table.add_column(column, justify="left" if index == 0 else "right")
    for task in tasks:
        for index, group in enumerate(task.groups):
            last = group is task.groups[-1]
            table.add_row(task.heading if index == 0 else "", *row(group, task, heads), end_section=last)
    return table


def as_json(tasks: list[Task]) -> list[dict[str, Any]]:
    """JSON values: every number of the tables and plots' ends, NaN as null."""
    return [
        {
            "task": task.name,
            "optimal_return": task.optimal,
            "game": task.game,
            "headline": task.headline.key,
            "improvement_measure": task.measure,
            "judged": task.judged,
            "groups": [_group(group, task) for group in task.groups],
            "improvement": [
                {"agent": x, "over": y, **finite(value), **task.tests[x, y].__dict__}
                for (x, y), value in task.improvement.items()
            ],
        }
        for task in tasks
    ]


def _group(group: Group, task: Task) -> dict[str, Any]:
    headline = task.headline
    to_solve = {
        "solved": group.episodes.solved,
        "episodes_to_solve": {**group.episodes.__dict__, "runs": group.counts.tolist()},
        "env_steps_to_solve": None if group.steps is None else dict(group.steps.__dict__),
    }
    return {
        "agent": group.agent,
        "n": len(group.runs),
        "seeds": [run.seed for run in group.runs],
        "failed": len(group.failed),
        # Where the best return is not known, nothing is said of what was solved.
        **(to_solve if task.judged else dict.fromkeys(to_solve)),
        f"final_{headline.final}": None
        if group.final is None
        else {**finite(group.final), "runs": group.finals.tolist()},
        **({"gap_slope": None if group.slope is None else finite(group.slope)} if headline is GAP else {}),
        "area_under_curve": None if group.area is None else finite(group.area),
        "wall_s": [run.number("wall_s") for run in group.runs],
        "wall_s_to_solve": [
            run.wall_at(run.solved_at) if task.judged and run.solved_at is not None else None for run in group.runs
        ],
        "runs": [
            {"folder": str(run.folder), "seed": run.seed, "status": run.status, "error": run.error}
            for run in group.runs
        ],
    }


def finite(value: Interval) -> dict[str, float | None]:
    """An interval as JSON values: NaN, which JSON lacks, as null."""
    return {k: None if math.isnan(v) else v for k, v in value.__dict__.items()}
