"""The comparison page: one HTML file with tables, curves to look into, figures, and how each number was made.

It needs no other file and no network: style, script, numbers and plotly are inside, and its policy forbids the rest.
"""

from __future__ import annotations

import json
import re
from typing import Any

from rl_contrastive.analysis import comparison_tables as tables
from rl_contrastive.analysis import config_table, page_data
from rl_contrastive.analysis.comparison import Task
from rl_contrastive.analysis.drawing import agents_of
from rl_contrastive.analysis.groups import Group

HELP = {
    "Runs": "How many runs (seeds), and how many of them did not finish.",
    "Solved": "Runs that reached the bar at two evaluations in a row.",
    "Episodes to solve": "Unsolved runs count at their cap; ≥ marks a lower bound.",
    "Env steps to solve": "The same in steps of the environment.",
    "Final": "Interquartile mean of the runs' last evaluations, with its bootstrap interval.",
    "Log-log slope": "Of the gap against episodes: −0.5 means that the gap falls with the square root.",
    "Last": "Interquartile mean of the last value that each run recorded.",
    "Seconds": "Wall-clock time of a run.",
}
"""Prefix of a column head -> its explanation on the page."""


def html(
    tasks: list[Task],
    sentences: list[str],
    *,
    bar: float,
    solve_gap: float,
    title: str,
    figures: list[tuple[str, str, str]],
    live: str = "",
    seconds: float = 0.0,
) -> str:
    """The page's text. figures: (file name, title, SVG) of each. live: the version that `rlc view` compares every
    `seconds` with what the run folders hold now; empty: the page stays as it is."""
    from plotly.offline import get_plotlyjs

    agents = agents_of(tasks)
    data = page_data.data(tasks, agents, bar=bar, solve_gap=solve_gap)
    return str(
        _template("compare").render(
            title=title,
            tasks=tasks,
            agents=data["agents"],
            place={agent: i for i, agent in enumerate(agents)},
            total=sum(len(group.runs) for task in tasks for group in task.groups),
            failed=tables.failures(tasks),
            unfinished=sum(len(group.failed) for task in tasks for group in task.groups),
            columns=tables.columns,
            row=tables.row,
            optimum=tables.optimum,
            explained=explained,
            seeds=seeds_of,
            figures=[(name, inline(svg, file)) for file, name, svg in figures],
            differences=config_table.differences(tasks),
            notes=sentences,
            data=data,
            json=script_json(data),
            plotly=get_plotlyjs(),
            live=live,
            seconds=seconds,
        )
    )


def waiting(title: str, sentence: str, *, live: str, seconds: float) -> str:
    """The page of `rlc view` while there is no run to show."""
    return str(_template("page_waiting").render(title=title, sentence=sentence, live=live, seconds=seconds))


def _template(name: str) -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("rl_contrastive.analysis", package_path="")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template(f"{name}.html.j2")


def explained(head: str) -> str:
    """The explanation of a column."""
    return next((words for start, words in HELP.items() if head.startswith(start)), "")


def script_json(data: dict[str, Any]) -> str:
    """JSON inside a script element: no `<` that could end it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def seeds_of(group: Group) -> str:
    """The group's seeds in order, ? where a folder does not name its seed."""
    return ", ".join("?" if run.seed is None else str(run.seed) for run in group.runs)


def inline(svg: str, name: str) -> str:
    """An SVG document as an element: no XML header, and ids made its own so that figures do not share clip paths."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r'\bid="', f'id="{name}-', body)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", body)
