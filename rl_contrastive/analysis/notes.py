"""The notes under the tables of a comparison: one sentence about how each number was made."""

from __future__ import annotations

import json

from rl_contrastive.analysis import drawing
from rl_contrastive.analysis.comparison import MOST_COMPARED, Task
from rl_contrastive.analysis.curves import FEWEST, GAP
from rl_contrastive.analysis.groups import SLOPE_FROM, twin


def notes(tasks: list[Task], *, bar: float, solve_gap: float, reps: int, seed: int) -> list[str]:
    """All sentences that hold for these tasks."""
    return [
        *_solved(tasks, bar, solve_gap),
        *_always(reps, seed),
        *_cut(tasks),
        *_games(tasks),
        *_asked(tasks),
        *_unequal(tasks),
    ]


def _solved(tasks: list[Task], bar: float, solve_gap: float) -> list[str]:
    """When a run counts as solved."""
    rules = []
    if any(task.judged and not task.game for task in tasks):
        rules.append(f"the bonus-free policy's mean return is at least {bar:g} of the optimal one")
    if any(task.judged and task.game for task in tasks):
        rules.append(f"in a game the exact duality gap of the bonus-free policies is at most {solve_gap:g}")
    solved = (
        f"Solved: {'; '.join(rules)} at two evaluations in a row; the count is that of the first of the two, warm "
        "start included."
    )
    unknown = "Solved –: the best return of the task is not known, so no run of it can be."
    return [*([solved] if rules else []), *([unknown] if any(not task.judged for task in tasks) else [])]


def _always(reps: int, seed: int) -> list[str]:
    """Notes of all comparisons: unsolved runs, finals, intervals, tests, curves, improvement."""
    return [
        "Unsolved and failed runs count at the cap and are never dropped; ≥ marks a median or range end that they "
        "make a lower bound.",
        "Final value: interquartile mean (IQM) over runs: a quarter of the runs is cut at each end.",
        f"Intervals: 95%, of IQMs by expanded percentiles of {reps} resamples of the runs (generator seed {seed}), of "
        "mean slopes by Student's t, of the probability of improvement by Newcombe's method. Of normal laws they cover "
        "the truth in 93% to 97% of simulated fives and tens of runs; `rl_contrastive/analysis/statistics.py` "
        f"says it of others. None where an agent has fewer than {FEWEST} runs.",
        "Tests: two-sided, of the two agents' runs. Where each run of one has its twin of the other, on the same seed "
        "and problem, paired t, or Wilcoxon's signed ranks of episodes to solve; else Mann-Whitney. p is not corrected "
        "for the number of comparisons.",
        "Curves: a run's newest evaluation, at counts of episodes (of environment steps where all budgets are in "
        "steps) by which each run was evaluated anew; a run stopped because it was solved keeps its last value; a run "
        "that did not finish counts with the worst value recorded on the task.",
        "Probability of improvement: over all pairs of runs, ties count 1/2; by episodes to solve, unsolved runs "
        "behind solved ones (where no run solved, by the final return); games by the final gap.",
    ]


def _cut(tasks: list[Task]) -> list[str]:
    """The parts that figures and matrices leave out."""
    sentences = []
    shown = drawing.trimmed(tasks)
    if [len(task.groups) for task in shown] != [len(task.groups) for task in tasks]:
        sentences.append(
            f"Figures show the first {len(shown)} of {len(tasks)} tasks and at most {drawing.MOST_AGENTS} agents, the "
            "best ones; the tables have all."
        )
    if any(len(task.groups) > MOST_COMPARED for task in tasks):
        sentences.append(f"Probability of improvement: between the {MOST_COMPARED} best agents of a task.")
    return sentences


def _games(tasks: list[Task]) -> list[str]:
    """The definition of the gap, and games without one."""
    sentences = []
    if any(task.headline is GAP for task in tasks):
        sentences.append(
            "Duality gap of a game: what best responses gain against both players together, from the true model; "
            f"slope: least squares of log gap on log episodes, each finished run from {SLOPE_FROM:g} of its episodes "
            "on, – where a gap vanishes."
        )
    if any(task.game and task.headline is not GAP for task in tasks):
        sentences.append(
            "Games without an exact model: a return of the policy against itself ranks nothing; use `rlc matches` and "
            "`rlc exploit`."
        )
    return sentences


def _asked(tasks: list[Task]) -> list[str]:
    """The meaning of the numbers of a requested metric."""
    keys = {group.metric.key for task in tasks for group in task.groups if group.metric is not None}
    return [
        f"{key}: of the runs that recorded it, IQM of each run's last value; nothing says which values are bad, so a "
        "run that did not finish counts with what it recorded."
        for key in sorted(keys)
    ]


def _unequal(tasks: list[Task]) -> list[str]:
    """Runs under one label that differ in more than their seed, or do not differ in it."""
    sentences = []
    for task in tasks:
        for group in task.groups:
            configs = {json.dumps(run.agent_config, sort_keys=True) for run in group.runs if run.agent_config}
            if len(configs) > 1:
                sentences.append(
                    f"Mixed settings: the runs of {group.agent} on {task.name} have {len(configs)} different agent "
                    "configs; give them different labels to compare them apart."
                )
            seeds = [twin(run) for run in group.runs if run.seed is not None]
            if len(set(seeds)) < len(seeds):
                sentences.append(f"Repeated seeds: the runs of {group.agent} on {task.name} share seeds.")
    return sentences
