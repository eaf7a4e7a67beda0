"""The run folder: what a run leaves on disk, and how it is opened again after a kill.

    runs/<experiment>/<label or agent>--<env>/seed-<n>/
        config.json     the whole RunConfig; under "meta" command, versions, processor, git commit
        metrics.jsonl   one line an evaluation, deterministic values only: the same seed gives the same bytes
        timing.jsonl    {"episodes", "env_steps", "wall_s"} of the same evaluations: wall times are kept apart
        summary.json    how the run ended
        checkpoint/     state.npz and the one before it
        replay/         what agents with `keep_in` wrote, if any: the checkpoints name what they need of it
        tensorboard/    the same scalars over episodes, and histograms of agents that offer them (`board.py`)

A checkpoint stores the length of metrics.jsonl. Resuming cuts the file back to it, and the lines behind it are made
again, byte by byte.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.experiment.board import Board
from rl_contrastive.experiment.checkpoint import has_state, load_state, save_state
from rl_contrastive.experiment.loop import Progress
from rl_contrastive.files import write_text
from rl_contrastive.spec import Array, State

CONFIG, METRICS, TIMING, SUMMARY = "config.json", "metrics.jsonl", "timing.jsonl", "summary.json"
CHECKPOINT, REPLAY, TENSORBOARD, LOCK = "checkpoint", "replay", "tensorboard", "lock"
LOCK_WAIT = 10.0
"""Seconds to wait for a process that is still closing the same folder."""


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing or damaged file is an RlcError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RlcError(f"cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise RlcError(f"{path} is not valid JSON: {error}.") from error
    require(isinstance(value, dict), f"{path} holds no JSON object.")
    return dict(value)


def json_line(values: dict[str, Any]) -> str:
    """One line of JSON; a float that is not finite becomes null, because JSON has no NaN."""
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return json.dumps(clean, allow_nan=False) + "\n"


class RunFolder:
    """One run's folder, held by one process at a time (a lock file, freed by the system even after kill -9)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    @property
    def replay(self) -> Path:
        return self.path / REPLAY

    def create(self, config: dict[str, Any]) -> None:
        """Make the folder with nothing but its config.json, and take the lock."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RlcError(f"cannot make the run folder {self.path}: {error.strerror}.") from error
        self.lock()
        self.clear()
        write_json(self.path / CONFIG, config)

    def lock(self, wait: float = LOCK_WAIT) -> None:
        """Take the lock; RlcError if another process keeps it for `wait` seconds."""
        try:
            handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RlcError(f"cannot write in {self.path}: {error.strerror}.") from error
        give_up = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > give_up:
                    os.close(handle)
                    raise RlcError(f"another process is writing in {self.path}; wait for it or stop it.") from error
                time.sleep(0.1)
            else:
                self._lock = handle
                return

    def unlock(self) -> None:
        """Free the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def clear(self) -> None:
        """Remove what an earlier run left, except the config and the lock."""
        for name in (METRICS, TIMING, SUMMARY):
            (self.path / name).unlink(missing_ok=True)
        for name in (CHECKPOINT, REPLAY, TENSORBOARD):  # in this order: no checkpoint ever lacks its replay
            shutil.rmtree(self.path / name, ignore_errors=True)

    def discard(self) -> None:
        """Remove a folder that no run was started in; one that another process writes in stays as it is."""
        try:
            self.lock(wait=0.0)
        except RlcError:
            return
        self.unlock()
        self.clear()
        for name in (CONFIG, LOCK):
            (self.path / name).unlink(missing_ok=True)
        for folder in (self.path, *self.path.parents[:2]):  # the seed's, the agent's and the experiment's
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def restore(self, identity: dict[str, Any]) -> State | None:
        """The newest whole checkpoint, with metrics.jsonl and timing.jsonl cut back to it; None to start anew.

        RlcError, and nothing is changed, if the checkpoint cannot be read or is not of the run `identity`.
        """
        if not has_state(self.checkpoint):
            self.clear()
            return None
        state = load_state(self.checkpoint)
        found, length = state.get("run"), state.get("metrics_bytes")
        require(found == identity, f"the checkpoint in {self.path} is of another run: {found}, not {identity}.")
        require(isinstance(length, int), f"the checkpoint in {self.path} does not say how long {METRICS} was.")
        self._cut_metrics(int(length or 0))
        self._cut_timing(Progress.from_state(state["progress"]).episodes)
        (self.path / SUMMARY).unlink(missing_ok=True)
        return state

    def _cut_metrics(self, length: int) -> None:
        path = self.path / METRICS
        size = path.stat().st_size if path.exists() else 0
        require(size >= length, f"{path} has {size} bytes but its checkpoint counted {length}: lines were lost.")
        if path.exists():
            os.truncate(path, length)

    def _cut_timing(self, episodes: int) -> None:
        """Keep the whole lines up to the checkpoint; a kill may have left half a line at the end."""
        path = self.path / TIMING
        if path.exists():
            whole = path.read_bytes().split(b"\n")[:-1]
            kept = [line for line in whole if json.loads(line)["episodes"] <= episodes]
            os.truncate(path, sum(len(line) + 1 for line in kept))  # in place: rewriting could be killed halfway

    def lines(self) -> list[dict[str, Any]]:
        """The evaluations recorded so far."""
        path = self.path / METRICS
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def elapsed(self) -> float:
        """Wall seconds at the last line of timing.jsonl."""
        path = self.path / TIMING
        lines = path.read_text().splitlines() if path.exists() else []
        return float(json.loads(lines[-1])["wall_s"]) if lines else 0.0


class RunSink:
    """The loop's results into a run folder: lines as they come, a checkpoint every `checkpoint_seconds`."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        identity: dict[str, Any],
        checkpoint_seconds: float,
        tensorboard: bool,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
        histograms: Callable[[], dict[str, Array]] | None = None,
        clock: str = "episodes",
    ) -> None:
        """`identity` (agent, env, seed) is stored in each checkpoint, so that no other run can load it.

        `histograms`: the agent's, asked for at each evaluation where TensorBoard is on, and never elsewhere. `clock`:
        what TensorBoard's curves run over, episodes or env_steps.
        """
        self.folder, self.identity, self.checkpoint_seconds = folder, identity, checkpoint_seconds
        self._on_progress, self._should_stop = on_progress, should_stop
        self._earlier = folder.elapsed()
        self._started = self._saved_at = time.monotonic()
        self._metrics = _append(folder.path / METRICS)
        self._timing = _append(folder.path / TIMING)
        self._board = Board(folder.path / TENSORBOARD, folder.lines(), clock) if tensorboard else None
        self._histograms = histograms

    @property
    def wall(self) -> float:
        """Seconds spent on this run, by all processes that worked on it."""
        return self._earlier + time.monotonic() - self._started

    def evaluated(self, line: dict[str, Any], progress: Progress) -> None:
        """Append the line; its wall time goes to the other file."""
        counts = {"episodes": progress.episodes, "env_steps": progress.env_steps}
        try:
            self._metrics.write(json_line(line))
            self._metrics.flush()
            self._timing.write(json_line({**counts, "wall_s": round(self.wall, 3)}))
            self._timing.flush()
        except OSError as error:
            raise RlcError(f"cannot write {self.folder.path / METRICS}: {error.strerror}.") from error
        if self._board is not None:
            self._board.scalars(line)
            if self._histograms is not None:
                self._board.histograms(line[self._board.clock], self._histograms())
        self._on_progress(progress)

    def iterated(self, progress: Progress, snapshot: Callable[[], State] | None) -> bool:
        """Save if it is time; stop if asked to."""
        if snapshot is not None and time.monotonic() - self._saved_at >= self.checkpoint_seconds:
            self.save(snapshot)
        self._on_progress(progress)
        return self._should_stop()

    def finished(self, progress: Progress, snapshot: Callable[[], State] | None) -> None:
        """The last checkpoint."""
        if snapshot is not None:
            self.save(snapshot)

    def save(self, snapshot: Callable[[], State]) -> None:
        """First the lines to the disk, then the checkpoint that counts them.

        `snapshot` is called once, and before: what an agent wrote to its own folder is durable by then.
        """
        try:
            os.fsync(self._metrics.fileno())
        except OSError as error:
            raise RlcError(f"cannot write {self.folder.path / METRICS}: {error.strerror}.") from error
        if self._board is not None:
            self._board.flush()
        length = os.fstat(self._metrics.fileno()).st_size
        save_state(self.folder.checkpoint, {"run": self.identity, "metrics_bytes": length, **snapshot()})
        self._saved_at = time.monotonic()

    def close(self) -> None:
        """Close the files; what a full disk could not take was reported at its write."""
        for file in (self._metrics, self._timing):
            try:
                file.close()
            except OSError as error:
                print(f"rlc: {file.name}: {error.strerror}.", file=sys.stderr)
        if self._board is not None:
            self._board.close()


def _append(path: Path) -> Any:
    try:
        return open(path, "a", encoding="utf-8")  # closed by RunSink.close
    except OSError as error:
        raise RlcError(f"cannot write {path}: {error.strerror}.") from error


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far (ru_maxrss is in KiB on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
