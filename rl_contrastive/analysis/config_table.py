"""A table of the options in which the compared runs differ, with one column for each agent."""

from __future__ import annotations

import json
from typing import Any

from rl_contrastive.analysis.comparison import Task
from rl_contrastive.analysis.drawing import agents_of
from rl_contrastive.analysis.runs import Run
from rl_contrastive.analysis.tables import Table

NOTE = (
    "Options whose values differ between runs of the same task, defaults included, without seeds. –: an agent has no "
    "such option. Several values of one agent are all listed."
)


def differences(tasks: list[Task]) -> Table:
    """The options that differ between runs of one task; no row where all are equal."""
    agents = agents_of(tasks)
    found: dict[str, dict[str, dict[str, None]]] = {}  # option -> agent -> values in order
    differing: set[str] = set()
    for task in tasks:
        here: dict[str, set[str]] = {}
        for group in task.groups:
            for run in group.runs:
                for key, value in options(run).items():
                    here.setdefault(key, set()).add(value)
                    found.setdefault(key, {}).setdefault(group.agent, {})[value] = None
        differing |= {key for key, values in here.items() if len(values) > 1}
    rows = [
        (key, *(", ".join(found[key].get(agent, {})) or "–" for agent in agents))
        for key in sorted(found, key=lambda key: (key.count(".") > 0, key))
        if key in differing
    ]
    return Table("Differences of the configurations", ("Option", *agents), rows, NOTE)


def options(run: Run) -> dict[str, str]:
    """`agent.learner.rate` -> `0.1`: all options of a run but its seeds."""
    flat: dict[str, str] = {}
    for name, table in (("", run.budget), ("agent.", run.agent_config), ("env.", run.env_config)):
        _flatten(name, table, flat)
    named = {"agent"} if flat.get("agent") == run.agent else set[str]()  # the head of its column says so already
    return {key: value for key, value in flat.items() if not key.endswith("seed") and key not in named}


def _flatten(prefix: str, table: dict[str, Any], into: dict[str, str]) -> None:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            _flatten(f"{prefix}{key}.", value, into)
        else:
            into[prefix + key] = value if isinstance(value, str) else json.dumps(value)
