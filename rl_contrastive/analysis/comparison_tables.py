"""The comparison as text: a Markdown table for files, a rich table for terminals, plain JSON for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rl_contrastive.analysis.comparison import Task
from rl_contrastive.analysis.curves import GAP, Scalar
from rl_contrastive.analysis.groups import Group
from rl_contrastive.analysis.tables import Table, counts, finite, interval, number

if TYPE_CHECKING:
    from rich.table import Table as RichTable


LAST = "Last "
"""Prefix of the column head of a requested metric."""
SLOPE = "Log-log slope of the gap: mean [95% CI]"


def columns(tasks: list[Task]) -> tuple[str, ...]:
    """Heads of the columns of `row`; games have the slope of their gaps too."""
    finals = sorted({task.headline.final for task in tasks}, reverse=True)
    slope = (SLOPE,) if GAP in [task.headline for task in tasks] else ()
    return (
        "Agent",
        "Runs",
        "Solved",
        "Episodes to solve: median (range)",
        "Env steps to solve: median (range)",
        f"Final {' or '.join(finals)}: IQM [95% CI]",
        *slope,
        *(f"{LAST}{metric}: IQM [95% CI]" for metric in metrics(tasks)),
        "Seconds a run: median",
    )


def metrics(tasks: list[Task]) -> list[str]:
    """The requested metric, as a list of one; empty if there is none."""
    return sorted({group.metric.key for task in tasks for group in task.groups if group.metric is not None})


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
        *([interval(group.slope)] if SLOPE in heads else []),
        *(
            [interval(None if group.metric is None else group.metric.final)]
            if len(heads) > 7 + (SLOPE in heads)
            else []
        ),
        number(float(np.median(walls))) if walls else "–",
    )


def table(task: Task) -> Table:
    """All agents of one task, best first."""
    heads = columns([task])
    return Table(task.heading, heads, [row(group, task, heads) for group in task.groups], text_columns=1)


def markdown(tasks: list[Task], notes: list[str]) -> str:
    """table.md: one table for each task, then the failed runs, then how the numbers were made."""
    lines: list[str] = []
    for task in tasks:
        optimal = "" if task.optimal is None else f" ({optimum(task)})"
        lines += [f"## {task.heading}{optimal}", "", *table(task).markdown(), ""]
        if tested := tests(task):
            against = Table("", TESTED, [found[1:] for found in tested], text_columns=1)
            lines += [f"{tested[0][0]} against each other agent, {task.measure}:", "", *against.markdown(), ""]
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
    """The best possible value, in words; empty where it is not known."""
    if task.optimal is None:
        return ""
    values = [run.number("optimal_return") for group in task.groups for run in group.runs]
    mean = "" if np.allclose([v for v in values if v is not None], task.optimal, rtol=1e-6) else "mean "
    return f"{mean}{'Nash value' if task.game else 'optimal return'} {number(task.optimal)}"


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


def terminal(tasks: list[Task]) -> RichTable:
    """A rich table of all tasks."""
    heads, rows, ends = columns(tasks), list[tuple[str, ...]](), set[int]()
    for task in tasks:
        rows += [(task.heading if i == 0 else "", *row(group, task, heads)) for i, group in enumerate(task.groups)]
        ends.add(len(rows) - 1)
    return Table("Comparison", ("Task", *heads), rows, text_columns=2).rich(ends)


def as_json(tasks: list[Task]) -> list[dict[str, Any]]:
    """JSON values: every number of the tables and the ends of the plots, NaN as null."""
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


def _metric(found: Scalar) -> dict[str, Any]:
    return {"key": found.key, "n": found.n, **finite(found.final), "runs": found.finals.tolist()}


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
        **({} if group.metric is None else {"metric": _metric(group.metric)}),
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
