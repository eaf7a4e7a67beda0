"""Reading run folders: config.json, metrics.jsonl, timing.jsonl and summary.json, and nothing else.

A folder that cannot be read is a failed run with a sentence, counted like any other; it never stops a comparison.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.run_config import completed
from rl_contrastive.runs.seal import broken_seal
from rl_contrastive.spec import FloatArray

FILES = ("config.json", "metrics.jsonl", "summary.json")
NAMES = ("meta", "label", "env", "env_label", "group", "imports", "seed")
"""Keys of a config.json that are no options of the run."""
HUGE = 1e300
"""Larger numbers, which JSON can hold as integers, are refused."""
SEED_FOLDER = re.compile(r"seed-(\d+)$")
WORLD = re.compile(r",\w*_seed=\d+(?=,|$)")
"""Settings of a task name that choose the world of a family; worlds of a family are pooled."""


@dataclass(frozen=True)
class Run:
    """One run as read from its folder. `series` holds the columns of metrics.jsonl, each (T,), NaN where absent."""

    folder: Path
    agent: str
    env: str
    env_config: dict[str, Any]
    agent_config: dict[str, Any]
    seed: int | None
    status: str
    """finished | aborted | failed."""
    error: str | None
    """Why a run did not finish, in one sentence."""
    summary: dict[str, Any] = field(default_factory=dict)
    series: dict[str, FloatArray] = field(default_factory=dict)
    solved_at: float | None = None
    """Episodes at the first of two evaluations in a row at the bar."""
    solved_at_steps: float | None = None
    cap: float = 0.0
    """Episodes the run was allowed, or played where its budget was in steps."""
    solve_at: float = 0.9
    """The bar the run itself was judged by."""
    solve_gap: float = 0.05
    """Games: the duality gap the run itself was judged by."""
    wall: dict[str, FloatArray] = field(default_factory=dict)
    """`episodes` and `wall_s` of the evaluations, from timing.jsonl; empty if it cannot be read."""
    clock: str = "episodes"
    """The column that the budget counted: episodes or env_steps."""
    budget: dict[str, Any] = field(default_factory=dict)
    """The options of the run that are neither the agent's nor the environment's: budget, evaluation, device."""

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def solved(self) -> bool:
        """A failed run counts as unsolved, whatever it reached earlier."""
        return self.solved_at is not None and self.status != "failed"

    def wall_at(self, episodes: float) -> float | None:
        """Wall seconds at the evaluation after so many episodes."""
        at = np.flatnonzero(self.wall["episodes"] == episodes) if self.wall else np.zeros(0, dtype=np.int64)
        return float(self.wall["wall_s"][at[0]]) if len(at) else None

    @property
    def game(self) -> bool:
        """Whether it is a two-player game, from the summary, or without one from the evaluations of both players."""
        return bool(self.summary.get("players")) or "loss_max" in self.series

    @property
    def steps_played(self) -> float | None:
        """Environment steps of the whole run, or at its last evaluation where it left no summary."""
        steps = self.series.get("env_steps", np.zeros(0))
        return _number(self.summary.get("env_steps"), _number(float(steps[-1])) if len(steps) else None)

    def number(self, key: str) -> float | None:
        """A finite number of the summary, else None."""
        return _number(self.summary.get(key))


def find_runs(folders: list[Path]) -> list[Path]:
    """Run folders at or below the given ones, sorted; RlcError where a folder does not exist or none is found."""
    require(len(folders) > 0, "compare: give at least one run folder or a folder of runs.")
    found: dict[Path, Path] = {}
    for folder in folders:
        require(folder.is_dir(), f"compare: there is no folder {folder}.")
        for run in _walk(folder):
            found.setdefault(run.resolve(), run)
    listed = ", ".join(str(f) for f in folders)
    require(len(found) > 0, f"compare: no run folder (config.json, metrics.jsonl, summary.json) at or below {listed}.")
    return [found[key] for key in sorted(found, key=lambda path: natural(str(path)))]


def _walk(folder: Path) -> list[Path]:
    if any((folder / name).is_file() for name in FILES) or SEED_FOLDER.fullmatch(folder.name):
        return [folder]
    return [run for child in sorted(folder.iterdir()) if child.is_dir() for run in _walk(child)]


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key: seed-2 before seed-10, horizon=5 before horizon=20."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def read_run(folder: Path) -> Run:
    """Read one run. Any fault becomes status "failed" with a sentence; if only the summary is missing, the status is
    "aborted"."""
    problems: list[str] = []
    config = _guarded(problems, _read_json, folder / "config.json")
    summary = _guarded(problems, _read_json, folder / "summary.json")
    series = _todays_names(_guarded(problems, _read_series, folder / "metrics.jsonl"))
    if not problems:
        _guarded(problems, _require_seal, folder, summary)
    timing = _guarded([], _read_timing, folder / "timing.jsonl")  # wall times are a convenience: none is no failure
    parent, _, env_of_path = folder.parent.name.partition("--")
    seed = SEED_FOLDER.fullmatch(folder.name)
    env = config.get("env_label") or config.get("env") or summary.get("env") or env_of_path or "unknown"
    status = summary.get("status", "failed")
    error = summary.get("error")
    if problems:
        going = len(problems) == 1 and not (folder / "summary.json").exists()
        said = [str(error)] if status == "failed" and error else []  # why it left no evaluation
        status, error = "aborted" if going else "failed", " ".join(said + problems)
    elif status not in ("finished", "aborted", "failed"):
        status, error = "failed", f"{folder / 'summary.json'} has the unknown status {status!r}."
    elif status != "finished" and not error:
        error = "The run was stopped before its end." if status == "aborted" else "The run failed without a sentence."
    episodes = series.get("episodes", np.zeros(0))
    played = float(episodes[-1]) if len(episodes) else 0.0
    caps = [_number(value) for value in (summary.get("episode_cap"), config.get("episodes"), played)]
    return Run(
        folder=folder,
        agent=str(config.get("label") or summary.get("label") or config.get("agent") or summary.get("agent") or parent),
        env=WORLD.sub("", str(env)),
        env_config=_completed("env", config),
        agent_config=_completed("agent", config),
        seed=_first_int(config.get("seed"), summary.get("seed"), int(seed.group(1)) if seed else None),
        status=status,
        error=None if error is None else str(error),
        summary=summary,
        series=series,
        solved_at=_number(summary.get("solved_at_episode")),
        solved_at_steps=_number(summary.get("solved_at_env_steps")),
        cap=next(cap for cap in caps if cap is not None),
        solve_at=_number(config.get("solve_at")) or 0.9,
        solve_gap=_number(config.get("solve_gap")) or 0.05,
        wall=timing,
        clock="env_steps" if config.get("episodes") is None and _number(config.get("steps")) else "episodes",
        budget={name: value for name, value in config.items() if name not in NAMES and not name.endswith("_config")},
    )


def _require_seal(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    broken = broken_seal(folder, summary)
    require(broken is None, str(broken))
    return summary


def _guarded(problems: list[str], read: Any, path: Path, *more: Any) -> dict[Any, Any]:
    try:
        return dict(read(path, *more))
    except RlcError as error:
        problems.append(str(error))
        return {}


def _completed(kind: Literal["agent", "env"], config: dict[str, Any]) -> dict[str, Any]:
    """The options of the agent or environment, those newer than the record with their defaults; {} of a lost config."""
    return _defaults_added(kind, str(config.get(kind)), json.dumps(_table(config.get(f"{kind}_config"))))


@lru_cache(maxsize=512)
def _defaults_added(kind: Literal["agent", "env"], name: str, values: str) -> dict[str, Any]:
    """`run_config.completed`, once for runs that agree: a sweep has many seeds of one config."""
    return completed(kind, name, json.loads(values))


def _text(path: Path) -> str:
    return "".join(_text_lines(path))


def _text_lines(path: Path) -> Iterator[str]:
    """The lines of a text file one by one: a long record is never in memory as text."""
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except FileNotFoundError as error:
        raise RlcError(f"{path.name} is missing: the run was killed, is still running, or was not copied.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RlcError(f"{path.name} cannot be read: {error}.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise RlcError(f"{path.name} is not valid JSON (line {error.lineno}).") from error
    require(isinstance(value, dict), f"{path.name} holds no JSON object.")
    return dict(value)


def _read_series(path: Path) -> dict[str, FloatArray]:
    """Columns of a JSON-lines file; `episodes` must increase strictly and `return_mean` be a finite number."""
    columns: dict[str, array[float]] = {}
    count = 0
    for count, line in enumerate(_text_lines(path), start=1):
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise RlcError(f"{path.name} is not valid JSON in line {count}.") from error
        require(isinstance(row, dict), f"{path.name} has no number 'episodes' in line {count}.")
        for name in row.keys() - columns.keys():
            columns[name] = array("d", [math.nan]) * (count - 1)
        for name, column in columns.items():
            value = row.get(name)
            number = value if type(value) is float else _number(value)
            column.append(math.nan if number is None else number)
    require(count > 0, f"{path.name} holds no evaluation.")
    for name, words in (("episodes", "number"), ("return_mean", "finite")):
        bad = np.flatnonzero(~np.isfinite(columns.get(name, array("d", [math.nan]))))
        require(not len(bad), f"{path.name} has no {words} '{name}' in line {int(bad[0]) + 1 if len(bad) else 0}.")
    series = {name: np.array(columns[name]) for name in sorted(columns)}
    require(bool((np.diff(series["episodes"]) > 0).all()), f"{path.name}: 'episodes' does not increase strictly.")
    return {name: np.where(np.isfinite(column), column, math.nan) for name, column in series.items()}


def _todays_names(series: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """Old records call the sum of pi_k's loss over the episodes "regret", whatever was played. It becomes the mean
    `suboptimality`, and their regret is unknown."""
    if "regret" not in series or "suboptimality" in series:
        return series
    mean = series["regret"] / np.maximum(series["episodes"], 1.0)
    return {**{name: column for name, column in series.items() if name != "regret"}, "suboptimality": mean}


def _read_timing(path: Path) -> dict[str, FloatArray]:
    """`episodes` and `wall_s` of each line; those that cannot be read are left out."""
    columns = {"episodes": array("d"), "wall_s": array("d")}
    for line in _text_lines(path):
        try:
            row = _table(json.loads(line))
        except (json.JSONDecodeError, RecursionError):
            continue
        values = [_number(row.get(name)) for name in columns]
        if None not in values:
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value or 0.0)
    return {name: np.array(column) for name, column in columns.items()}


def _number(value: Any, default: float | None = None) -> float | None:
    """A finite int or float as float; anything else (bool, NaN, text) is the default."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -HUGE < value < HUGE:
        return default
    return float(value)


def _table(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _first_int(*values: Any) -> int | None:
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool)), None)
