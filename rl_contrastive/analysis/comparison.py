"""From runs to the numbers of a comparison: groups of seeds, curves on a common grid, episodes to solve, improvement.

Rules, the same for every group:
- A group is one agent (its label) on one task (environment name and settings, apart from seeds of the task itself).
- Agents are compared by the headline: the mean return, or in two-player games the exact duality gap, where lower is
  better. Games without an exact model have no headline, because returns of self-play rank nothing.
- Solved means: two evaluations in a row at bar * optimal (games: with a gap of at most `solve_gap`). Unsolved runs
  count at their cap, failed ones too.
- The axis of curves is the unit of all budgets of the task, episodes or environment steps.
`curves` defines the curves, `groups` the numbers of an agent.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rl_contrastive.analysis import statistics as st
from rl_contrastive.analysis.curves import GAP, LEVEL, RETURN, Frame, Headline, if_enough, records, scalar
from rl_contrastive.analysis.groups import Group, group_of, rank, solve_keys, twin
from rl_contrastive.analysis.runs import Run, natural
from rl_contrastive.analysis.significance import Comparison, difference_test, paired_test
from rl_contrastive.errors import unknown_name
from rl_contrastive.spec import BoolArray, FloatArray

MOST_COMPARED = 20
"""Number of best agents of a task for which probabilities of improvement are computed."""


SOONER = "fewer episodes to solve"


@dataclass(frozen=True)
class Task:
    """One environment with its groups, best first, and the improvement probabilities between them."""

    name: str
    optimal: float | None
    """The best return, or the Nash value of a game."""
    game: bool
    headline: Headline
    clock: str
    """The axis of curves: episodes, or env_steps where all budgets are in steps."""
    groups: tuple[Group, ...]
    measure: str
    """The meaning of "better" in `improvement`."""
    improvement: dict[tuple[str, str], st.Interval]
    tests: dict[tuple[str, str], Comparison]
    """Of the same pairs, by the same numbers."""

    @property
    def judged(self) -> bool:
        """Whether runs can be solved: the best return is known, or the gap of a game is."""
        return (self.optimal is not None and not self.game) or self.headline is GAP

    @property
    def heading(self) -> str:
        """The name as a title: `lock,lock_seed=1,horizon=5` reads `lock, lock seed 1, horizon 5`."""
        env, *settings = re.split(r"[, ](?=\w+=)", self.name)
        words = (f"{key.replace('_', ' ')} {value}" for key, _, value in (s.partition("=") for s in settings))
        return ", ".join([env, *words])


def build(
    runs: Sequence[Run],
    *,
    bar: float,
    reps: int,
    seed: int,
    solve_gap: float = 0.05,
    say: Callable[[str], None] = lambda sentence: None,
) -> list[Task]:
    """All tasks of the runs, by name, numbers in their order."""
    runs = [_judge(run, bar, solve_gap) for run in runs]
    groups: dict[str, list[Run]] = {}
    for run, name in zip(runs, task_names(runs), strict=True):
        groups.setdefault(name, []).append(run)
    tasks = []
    for done, name in enumerate(sorted(groups, key=natural)):
        say(f"computing the tasks: {done} of {len(groups)}")
        members = groups[name]
        # One generator for each task, so that adding a task does not change the intervals of the others.
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *name.encode()])))
        tasks.append(_task(name, members, reps=reps, rng=rng))
    return tasks


def with_metric(tasks: Sequence[Task], key: str, *, reps: int, seed: int) -> list[Task]:
    """The tasks with the numbers of any recorded scalar beside their own; RlcError where no run recorded it."""
    names = {name for task in tasks for group in task.groups for run in group.runs for name in run.series}
    if key not in names - {"episodes", "env_steps"}:
        raise unknown_name("metric", key, names - {"episodes", "env_steps"}, first=f"{key}_mean")
    out = []
    for task in tasks:
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *task.name.encode(), *key.encode()])))
        groups = [replace(g, metric=scalar(list(g.runs), key, task.clock, reps=reps, rng=rng)) for g in task.groups]
        out.append(replace(task, groups=tuple(groups)))
    return out


def task_names(runs: Sequence[Run]) -> list[str]:
    """Name of each run's task: the environment, and those settings in which runs of the same environment differ."""
    settings = [{k: v for k, v in run.env_config.items() if not k.endswith("_seed")} for run in runs]
    # A run whose config is lost has no settings; it keeps the plain name if that is ambiguous.
    same: dict[str, list[dict[str, Any]]] = {run.env: [] for run in runs}
    for run, own in zip(runs, settings, strict=True):
        if run.env_config:
            same[run.env].append(own)
    varied = {env: _varied(tables) for env, tables in same.items()}
    return [
        " ".join([run.env, *(f"{key}={own[key]}" for key in varied[run.env] if key in own)])
        for run, own in zip(runs, settings, strict=True)
    ]


def _varied(tables: list[dict[str, Any]]) -> list[str]:
    """The keys in which the tables differ."""
    keys = sorted({key for table in tables for key in table})
    return [key for key in keys if len({json.dumps(table.get(key), sort_keys=True) for table in tables}) > 1]


def first_of_two(met: BoolArray) -> int | None:
    """Index of the first of two evaluations in a row that met a bar, of evaluations (T,), or None."""
    both = np.flatnonzero(met[:-1] & met[1:])
    return int(both[0]) if len(both) else None


def _judge(run: Run, bar: float, solve_gap: float) -> Run:
    """The run judged at `bar` (a game: at `solve_gap`): its own record if it used the same, else the rule applied to
    its evaluations."""
    optimal = run.number("optimal_return")
    if run.game:
        if math.isclose(run.solve_gap, solve_gap) or "gap" not in run.series:
            return run
        met = run.series["gap"] <= solve_gap
    else:
        if math.isclose(run.solve_at, bar) or optimal is None or not run.series:
            return run
        met = run.series["return_mean"] >= optimal - (1.0 - bar) * abs(optimal)
    first = first_of_two(met)
    steps = run.series.get("env_steps")
    last = float(run.series["episodes"][-1])
    return Run(
        **{
            **run.__dict__,
            "solved_at": float(run.series["episodes"][first]) if first is not None else None,
            "solved_at_steps": float(steps[first]) if first is not None and steps is not None else None,
            # A run that stopped at a lower bar says nothing about what lies behind its end.
            "cap": last if run.solved else run.cap,
        }
    )


def _task(name: str, runs: list[Run], *, reps: int, rng: np.random.Generator) -> Task:
    game = any(run.game for run in runs)
    headline = GAP if game and any(records(run, GAP) for run in runs) else RETURN
    values = [headline.sign * run.series[headline.key] for run in runs if records(run, headline)]
    worst = headline.sign * float(min(np.min(v) for v in values)) if values else None
    clock = _clock(runs)
    ends = [float(run.series[clock][-1]) for run in runs if run.series]
    frame = Frame(headline, worst, clock, end=max(ends) if ends else 0.0)
    agents = sorted({run.agent for run in runs})
    groups = [
        group_of(agent, name, [r for r in runs if r.agent == agent], frame, reps=reps, rng=rng) for agent in agents
    ]
    groups.sort(key=lambda group: rank(group, headline))
    measure, keys = _measure(groups, headline, game)
    compared = list(zip(groups, keys, strict=True))[:MOST_COMPARED]
    improvement = {
        (x.agent, y.agent): if_enough(
            st.probability_of_improvement(mine, theirs, level=LEVEL), min(len(mine), len(theirs))
        )
        for x, mine in compared
        for y, theirs in compared
        if x is not y and len(mine) and len(theirs)
    }
    by_ranks = measure == SOONER
    tests = {
        pair: _test(*pair, {g.agent: (g, k) for g, k in zip(groups, keys, strict=True)}, ranks=by_ranks)
        for pair in improvement
    }
    known = [v for v in (run.number("optimal_return") for run in runs) if v is not None]
    optimal = known[0] if len(set(known)) == 1 else float(np.mean(known)) if known else None
    return Task(name, optimal, game, headline, clock, tuple(groups), measure, improvement, tests)


def _clock(runs: list[Run]) -> str:
    """env_steps if every run that recorded anything had its budget in steps, else episodes."""
    recorded = [run for run in runs if run.series]
    in_steps = all(r.clock == "env_steps" and np.isfinite(r.series.get(r.clock, math.nan)).all() for r in recorded)
    return "env_steps" if recorded and in_steps else "episodes"


def _measure(groups: list[Group], headline: Headline, game: bool) -> tuple[str, list[FloatArray]]:
    """The meaning of "better" on a task, and the runs of each group as numbers; higher ones are better."""
    if headline is GAP:
        return "lower final gap", [-group.finals for group in groups]
    if game:
        return "nothing: returns of self-play rank no agents", [np.zeros(0) for _ in groups]
    if any(any(group.solved) for group in groups):
        return SOONER, [-solve_keys(group) for group in groups]
    return "higher final return", [group.finals for group in groups]


def _test(x: str, y: str, of: dict[str, tuple[Group, FloatArray]], *, ranks: bool) -> Comparison:
    """Paired where each run of X has one twin among those of Y: the same seed on the same problem."""
    (first, mine), (second, theirs) = of[x], of[y]
    here, there = ([twin(run) for run in group.runs] for group in (first, second))
    if len(set(here)) == len(here) == len(there) and set(here) == set(there):
        return paired_test(mine, theirs[[there.index(key) for key in here]], ranks=ranks)
    return difference_test(mine, theirs)
