"""Methods x settings x seeds: options chosen on tuning seeds, results on other seeds, every cell kept on disk.

Equal tuning: each method brings the same number of candidate options, each candidate is fitted on the same tuning
seeds, and the one with the lowest mean of the selection metric is fitted again on the reporting seeds, which no choice
has seen. A fit that fails (an RlcError: diverged, not finite) is a result: it is counted and shown, never dropped, and
a candidate that failed on a tuning seed is chosen only if all did.

Every finished fit is one line of `cells.jsonl` (`ledger.Ledger`); a claim that is started again skips what is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rl_contrastive.analysis.statistics import Interval, mean_interval
from rl_contrastive.analysis.tables import unsigned_zeros
from rl_contrastive.claims.base import Context
from rl_contrastive.claims.ledger import CELLS, Choice, Fit, Ledger, Task, run_task
from rl_contrastive.claims.processes import measured
from rl_contrastive.config import require
from rl_contrastive.spec import FloatArray

NOTHING = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class Grid:
    """What is compared."""

    settings: Sequence[str]
    methods: dict[str, list[Choice]]
    """Method -> candidate options; the same number for each method that is tuned, [{}] for what has nothing to tune."""
    select: str
    """Metric whose mean over the tuning seeds chooses (lowest wins); must not be computed on reporting data."""
    tune_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    together: bool = False
    """The fit takes all seeds at once (batched problems)."""

    def __post_init__(self) -> None:
        require(len(self.seeds) >= 1 and len(self.settings) >= 1, "claim: needs a setting and a seed.")
        shared = set(self.seeds) & set(self.tune_seeds)
        require(not shared, f"claim: seeds {sorted(shared)} are used for tuning and for reporting.")
        sizes = {len(c) for c in self.methods.values()} - {1}
        require(
            len(sizes) <= 1 and all(self.methods.values()),
            "claim: every tuned method needs as many candidates as the others (or exactly one).",
        )
        require(bool(self.tune_seeds) or not sizes, "claim: candidates are given but no tuning seeds.")


@dataclass
class Cell:
    """One method in one setting, on the reporting seeds."""

    setting: str
    method: str
    options: Choice
    seeds: tuple[int, ...]
    metrics: dict[str, FloatArray]
    """(n,) numbers in the order of `seeds`, NaN for a seed that failed."""
    failed: dict[int, str] = field(default_factory=dict)
    """Seed -> why."""
    folders: dict[int, Path] = field(default_factory=dict)
    """Seed -> where its fit left arrays."""
    tuning: list[tuple[Choice, float]] = field(default_factory=list)
    """Candidates with their mean selection metric (NaN: a seed failed)."""

    def interval(self, metric: str) -> Interval:
        """Mean and Student's 95% interval over the seeds that did not fail; NaN where all did."""
        return interval(self.metrics[metric])


def interval(values: FloatArray) -> Interval:
    """Mean with Student's 95% interval over the finite values; NaN where there are none."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return NOTHING
    return mean_interval(finite)


def paired(a: Cell, b: Cell, metric: str) -> Interval:
    """Mean of a - b, seed by seed, with its interval: the seeds share data, so pairing removes their part."""
    require(a.seeds == b.seeds, "claim: a paired difference needs the same seeds on both sides.")
    return interval(a.metrics[metric] - b.metrics[metric])


def metric_of(cell: Cell, metric: str) -> Interval:
    """The cell's interval, NaN where every seed failed and there is no such metric."""
    return cell.interval(metric) if metric in cell.metrics else NOTHING


def gap_of(a: Cell, b: Cell, metric: str) -> Interval:
    """Paired mean of a - b, NaN where one side failed altogether."""
    return paired(a, b, metric) if metric in a.metrics and metric in b.metrics else NOTHING


def figure(value: Interval) -> str:
    """`2.845 [2.839, 2.851]`, or in powers of ten where numbers are large."""
    if not np.isfinite(value.estimate):
        return "failed"
    width = ".3f" if abs(value.estimate) < 1000.0 else ".1e"
    if not np.isfinite(value.low):
        return unsigned_zeros(f"{value.estimate:{width}} (one run)")
    return unsigned_zeros(f"{value.estimate:{width}} [{value.low:{width}}, {value.high:{width}}]")


def run_grid(fit: Fit, config: Any, grid: Grid, context: Context) -> dict[tuple[str, str], Cell]:
    """Tune, then report: {(setting, method): Cell}."""
    ledger = Ledger(context.out / CELLS, config)
    pairs = [(s, m) for s in grid.settings for m in grid.methods]
    candidates = {
        (s, m, i): _tasks(grid, context, s, m, options, grid.tune_seeds)
        for s, m in pairs
        for i, options in enumerate(grid.methods[m])
        if len(grid.methods[m]) > 1
    }
    _measure(fit, config, [t for tasks in candidates.values() for t in tasks], ledger, context, "tuning")
    tuning = {p: _tuned(grid, p, candidates, ledger) for p in pairs}
    chosen = {p: _choose(grid.methods[p[1]], tuning[p]) for p in pairs}
    final = {p: _tasks(grid, context, *p, chosen[p], grid.seeds) for p in pairs}
    _measure(fit, config, [t for tasks in final.values() for t in tasks], ledger, context, "reporting")
    return {p: _cell(p, chosen[p], final[p], tuning[p], ledger) for p in pairs}


def _tasks(
    grid: Grid, context: Context, setting: str, method: str, options: Choice, seeds: tuple[int, ...]
) -> list[Task]:
    groups = [seeds] if grid.together else [(seed,) for seed in seeds]
    out = []
    for group in groups:
        task = Task(setting, method, options, group, context.device, context.out)
        name = hashlib.sha256(task.key.encode()).hexdigest()[:16]
        out.append(replace(task, folder=context.out / "cells" / name))
    return out


def _tuned(grid: Grid, pair: tuple[str, str], candidates: Any, ledger: Ledger) -> list[tuple[Choice, float]]:
    """Mean selection metric of each candidate."""
    out = []
    for i, options in enumerate(grid.methods[pair[1]]):
        tasks = candidates.get((*pair, i), [])
        if tasks:
            out.append((options, float(np.mean([ledger.metric(task, grid.select) for task in tasks]))))
    return out


def _choose(candidates: list[Choice], tuning: list[tuple[Choice, float]]) -> Choice:
    """The candidate of the lowest mean; one that failed (NaN) only if all did, then the first."""
    if not tuning:
        return candidates[0]
    scores = np.array([score for _, score in tuning])
    return tuning[int(np.nanargmin(scores)) if np.isfinite(scores).any() else 0][0]


def _cell(
    pair: tuple[str, str], options: Choice, tasks: list[Task], tuning: list[tuple[Choice, float]], ledger: Ledger
) -> Cell:
    names = sorted({name for task in tasks for name in ledger.line(task)["metrics"]})
    seeds = tuple(seed for task in tasks for seed in task.seeds)
    metrics = {name: np.concatenate([ledger.values(task, name) for task in tasks]).astype(np.float64) for name in names}
    failed = {s: e for task in tasks for s in task.seeds if (e := ledger.line(task)["error"]) is not None}
    folders = {seed: task.folder for task in tasks for seed in task.seeds}
    return Cell(*pair, options, seeds, metrics, failed, folders, tuning)


def _measure(fit: Fit, config: Any, tasks: list[Task], ledger: Ledger, context: Context, phase: str) -> None:
    """Fit what the ledger does not have yet, here or in worker processes."""
    todo = [task for task in tasks if task not in ledger]
    if todo:
        context.say(f"{phase}: {len(todo)} of {len(tasks)} fits to do, from {todo[0].setting}, {todo[0].method} on")
    outcomes = measured(partial(run_task, fit, config), todo, context.workers)
    for count, (task, line) in enumerate(outcomes, start=1):
        ledger.append(task, line)
        seeds = ",".join(str(seed) for seed in task.seeds)
        error = "" if line["error"] is None else f": {line['error']}"
        words = f"{phase} {count}/{len(todo)}  {task.setting}  {task.method}  seed {seeds}  {line['seconds']:.1f} s"
        context.say(words + error)


def all_failures(cells: Iterable[Cell]) -> list[str]:
    """One line a failed seed, for a report's note."""
    return [f"{c.setting}, {c.method}, seed {seed}: {why}" for c in cells for seed, why in c.failed.items()]
