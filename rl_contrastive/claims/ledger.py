"""Fits and the file that keeps them: one line of cells.jsonl a fit, synced at once, read again by name.

A line of another configuration of the study, or a damaged file, is a sentence; a line cut by a kill is measured again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_contrastive.config import require, to_dict
from rl_contrastive.errors import RlcError
from rl_contrastive.files import write_text
from rl_contrastive.spec import FloatArray

Choice = dict[str, Any]
CELLS = "cells.jsonl"


@dataclass(frozen=True)
class Task:
    """One fit, or one batch of fits that share everything but their seed."""

    setting: str
    method: str
    options: Choice
    seeds: tuple[int, ...]
    device: str
    folder: Path
    """For arrays a plot needs later (npz); not made until the fit makes it."""

    @property
    def key(self) -> str:
        """Name of the fit in cells.jsonl."""
        return json.dumps([self.setting, self.method, self.options, list(self.seeds)], sort_keys=True)


Fit = Callable[[Any, Task], dict[str, Sequence[float]]]
"""fit(config, task) -> metrics, one number a seed each. A function of a module: worker processes import it."""


def run_task(fit: Fit, config: Any, task: Task) -> dict[str, Any]:
    """One line of the ledger: metrics or the sentence of an RlcError, and the seconds it took."""
    start = time.perf_counter()
    error = None
    metrics: dict[str, list[float]] = {}
    try:
        metrics = {name: [float(v) for v in values] for name, values in fit(config, task).items()}
        for name, values in metrics.items():
            got = len(values)
            require(got == len(task.seeds), f"claim: {name} has {got} numbers for {len(task.seeds)} seeds.")
    except RlcError as problem:
        error = str(problem)
    return {"key": task.key, "metrics": metrics, "error": error, "seconds": time.perf_counter() - start}


class Ledger:
    """cells.jsonl: a first line with the configuration, then one line a fit."""

    def __init__(self, path: Path, config: Any) -> None:
        self.path, self._head = path, {"config": json.loads(json.dumps(to_dict(config)))}
        self._lines: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._read()
        else:
            _append(path, self._head)

    def __contains__(self, task: Task) -> bool:
        return task.key in self._lines

    def append(self, task: Task, line: dict[str, Any]) -> None:
        _append(self.path, line)
        self._lines[task.key] = _floats(line)

    def line(self, task: Task) -> dict[str, Any]:
        return self._lines[task.key]

    def values(self, task: Task, name: str) -> FloatArray:
        """(seeds of the task,), NaN where the fit failed."""
        found = self.line(task)["metrics"].get(name)
        return np.full(len(task.seeds), np.nan) if found is None else np.asarray(found, dtype=np.float64)

    def metric(self, task: Task, name: str) -> float:
        """Mean over the task's seeds; NaN if one failed."""
        line = self.line(task)
        known = sorted(line["metrics"])
        require(
            line["error"] is not None or name in known,
            f"claim: the selection metric {name!r} is not among the fit's metrics: {', '.join(known)}.",
        )
        return float(self.values(task, name).mean())

    def _read(self) -> None:
        text = self.path.read_text(encoding="utf-8")
        whole, newline, cut = text.rpartition("\n")
        if cut:  # a line that a kill cut in two: what it measured is measured again
            write_text(self.path, whole + newline)
        try:
            head, *lines = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise RlcError(f"{self.path} is damaged ({error}); delete it to measure again.") from error
        require(
            head == self._head,
            f"{self.path} holds cells of another configuration of this claim; choose another --out, or --overwrite.",
        )
        self._lines = {line["key"]: _floats(line) for line in lines}


def _floats(line: dict[str, Any]) -> dict[str, Any]:
    """Metrics as numbers again: JSON has no NaN and no infinity, so they are written as words."""
    metrics = {name: [float(v) for v in values] for name, values in line["metrics"].items()}
    return {**line, "metrics": metrics}


def _append(path: Path, line: dict[str, Any]) -> None:
    if "metrics" in line:
        words = {n: [v if np.isfinite(v) else str(v) for v in values] for n, values in line["metrics"].items()}
        line = {**line, "metrics": words}
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RlcError(f"claim: cannot write {path}: {error.strerror}.") from error
