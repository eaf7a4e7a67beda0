"""Finished and unfinished runs of some folders in groups, for the tables made of them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from rl_contrastive.analysis.comparison import task_names
from rl_contrastive.analysis.runs import Run, find_runs, read_run
from rl_contrastive.config import require

Members = dict[int | None, Run]
"""Seed -> run."""


def grouped(folders: list[str]) -> dict[tuple[str, str], Members]:
    """(environment, agent) -> runs by seed; RlcError where a seed was run twice, so that no mean counts it twice."""
    runs = [read_run(folder) for folder in find_runs([Path(folder) for folder in folders])]
    groups: dict[tuple[str, str], Members] = defaultdict(dict)
    for run, task in zip(runs, task_names(runs), strict=True):
        members = groups[task, run.agent]
        twice = f"{run.agent} has two runs of {task} with seed {run.seed}: give folders of one sweep."
        require(run.seed not in members, twice)
        members[run.seed] = run
    return dict(groups)


def by_size(folders: list[str]) -> dict[tuple[int, str], list[Run]]:
    """(number of states, agent) -> runs, of random worlds of which each is one sample; RlcError for other worlds."""
    groups: dict[tuple[int, str], list[Run]] = defaultdict(list)
    for folder in find_runs([Path(folder) for folder in folders]):
        run = read_run(folder)
        require("num_states" in run.env_config, f"{folder}: {run.env} has no option num_states, the size of a world.")
        groups[int(run.env_config["num_states"]), run.agent].append(run)
    return dict(groups)
