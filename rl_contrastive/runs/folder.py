"""The run folder: the files that a run writes, and how they are opened again after a kill.

    runs/<group>/<label or agent>--<env>/seed-<n>/
        config.json     the whole RunConfig; under "meta" command, versions, processor, git commit
        metrics.jsonl   one line an evaluation, deterministic values only: the same seed gives the same bytes
        timing.jsonl    {"episodes", "env_steps", "wall_s"} of the same evaluations: wall times are kept apart
        summary.json    how the run ended
        checkpoint/     state.npz and the one before it
        replay/         files of agents with `persist_in`, if any; the checkpoints name the files they need
        tensorboard/    the same scalars over episodes; histograms and numbers of features of agents that offer them

A checkpoint stores its whole configuration, and the length and checksum of metrics.jsonl. Resuming cuts the file back
to that length, and later lines are made again, byte by byte. If the newest checkpoint or the lines that it covers are
damaged, the previous checkpoint is tried.

A run's folder may be deleted or replaced while the run continues. So before each write the lock on the path is
compared with the held lock, and the run id of config.json with that of the start.

A run that replaces another one first renames the old files to <name>.replaced. They are deleted once the new agent and
its environment are built, and get their names back if those turn out to be impossible.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.files import write_text
from rl_contrastive.runs.checkpoint import has_state, load_first
from rl_contrastive.spec import State

T = TypeVar("T")
CONFIG, METRICS, TIMING, SUMMARY = "config.json", "metrics.jsonl", "timing.jsonl", "summary.json"
CHECKPOINT, REPLAY, TENSORBOARD, LOCK = "checkpoint", "replay", "tensorboard", "lock"
REPLACED = ".replaced"
RECORDS = (SUMMARY, CHECKPOINT, REPLAY, METRICS, TIMING, TENSORBOARD, CONFIG)
"""In the order in which they are renamed: a kill in between leaves a run that only has to be resumed."""
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
        self._run_id: str | None = None

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    @property
    def replay(self) -> Path:
        return self.path / REPLAY

    def create(self, config: dict[str, Any]) -> None:
        """Make the folder of a new run, with its config.json, and take the lock. Files of an earlier run are set aside
        until `drop_replaced` or `discard`."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RlcError(f"cannot make the run folder {self.path}: {error.strerror}.") from error
        self.lock()
        self._set_aside()
        try:
            write_json(self.path / CONFIG, config)
        except RlcError:
            self.unlock()
            self.discard()
            raise
        self._run_id = run_id(config)

    def lock(self, wait: float | None = None) -> None:
        """Take the lock; RlcError if another process keeps it for `wait` seconds, by default LOCK_WAIT."""
        try:
            handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RlcError(f"cannot write in {self.path}: {error.strerror}.") from error
        give_up = time.monotonic() + (LOCK_WAIT if wait is None else wait)
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
                if not self._lock_is_here():  # the folder was replaced while we waited
                    self.unlock()
                    raise RlcError(f"{self.path} was replaced by another process; start again.")
                self._run_id = self._id_on_disk()
                return

    def require_own(self) -> None:
        """RlcError unless the folder at the path is still the one that was locked, with this run's config."""
        gone = f"the folder {self.path} was deleted or replaced while the run went on; what it recorded there is lost"
        require(self._lock_is_here(), f"{gone}.")
        require(self._id_on_disk() == self._run_id, f"{gone}: it holds another run.")

    def _id_on_disk(self) -> str | None:
        try:
            return run_id(read_json(self.path / CONFIG))
        except RlcError:  # no config yet, or a damaged one, which `run_config.read_config` reports
            return None

    def _lock_is_here(self) -> bool:
        """Whether the lock on the path is the file that this process holds, and not one of a later folder."""
        try:
            return self._lock is not None and os.path.samestat(os.fstat(self._lock), os.stat(self.path / LOCK))
        except OSError:
            return False

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

    def _set_aside(self) -> None:
        """Rename the files of the run that is to be replaced. If one waits already, the run after it never started."""
        if not self._aside(CONFIG).exists():
            for name in RECORDS:
                if (self.path / name).exists():
                    os.replace(self.path / name, self._aside(name))
        self.clear()

    def _put_back(self) -> bool:
        """Give the files that were set aside their names again; whether there were any."""
        found = [name for name in reversed(RECORDS) if self._aside(name).exists()]
        for name in found:
            os.replace(self._aside(name), self.path / name)
        return bool(found)

    def drop_replaced(self) -> None:
        """Delete the files that were set aside; to be called once the new run can start."""
        for name in RECORDS:
            path = self._aside(name)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _aside(self, name: str) -> Path:
        return self.path / f"{name}{REPLACED}"

    def discard(self) -> None:
        """Remove a run that was not started, unless another process writes there; the run that it was to replace is
        put back."""
        try:
            self.lock(wait=0.0)
        except RlcError:
            return
        self.clear()
        (self.path / CONFIG).unlink(missing_ok=True)
        back = self._put_back()
        self.unlock()
        if back:
            return
        (self.path / LOCK).unlink(missing_ok=True)
        for folder in (self.path, *self.path.parents[:2]):  # the seed's, the agent's and the group's
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def restore(self, check: Callable[[State], None], load: Callable[[State], T]) -> T | None:
        """`load` the newest usable checkpoint and cut metrics.jsonl and timing.jsonl back to it; None: start from
        scratch.

        A checkpoint is usable if it can be read, `check` accepts it, metrics.jsonl still has the bytes that it
        covers, and `load` accepts it. If the newest is not, the previous one is used, with a message on stderr. If
        neither is, RlcError is raised and nothing is changed.
        """
        if not has_state(self.checkpoint):
            self.clear()
            return None

        def use(state: State) -> tuple[State, T]:
            check(state)
            self._check_metrics(state)
            return state, load(state)

        state, loaded = load_first(self.checkpoint, use, lambda text: print(f"rlc: {text}", file=sys.stderr))
        (self.path / SUMMARY).unlink(missing_ok=True)  # first: it vouches for all of metrics.jsonl
        os.truncate(self.path / METRICS, state["metrics_bytes"])
        self._cut_timing(int(state["progress"]["episodes"]))
        return loaded

    def _check_metrics(self, state: State) -> None:
        """RlcError unless metrics.jsonl begins with the bytes that the checkpoint covers."""
        length, path = state.get("metrics_bytes"), self.path / METRICS
        require(isinstance(length, int), f"the checkpoint in {self.path} does not say how long {METRICS} was.")
        try:
            with open(path, "r+b") as file:  # it is cut later, and that must be possible
                data = file.read(int(length or 0))
        except OSError as error:
            raise RlcError(f"cannot go on with {path}: {error.strerror}.") from error
        require(
            len(data) == length, f"{path} has {len(data)} bytes but its checkpoint counted {length}: lines were lost."
        )
        # Checkpoints older than this key have no checksum.
        same = state.get("metrics_sha256") in (None, hashlib.sha256(data).hexdigest())
        require(same, f"{path} was changed since its checkpoint: its first {length} bytes have another checksum.")

    def _cut_timing(self, episodes: int) -> None:
        """Keep the lines up to the checkpoint. Unreadable lines are dropped: a kill may have left half a line, and a
        damaged one should not cost the run."""
        path = self.path / TIMING
        if os.path.lexists(path):
            kept = [json_line(row) for row in self._timing() if row["episodes"] <= episodes]
            write_text(path, "".join(kept))

    def _timing(self) -> list[dict[str, Any]]:
        """The readable lines of timing.jsonl; none if it cannot be read."""
        try:
            lines = (self.path / TIMING).read_bytes().split(b"\n")
        except OSError:
            return []
        rows = []
        for line in lines:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and all(_is_count(row.get(key)) for key in ("episodes", "env_steps", "wall_s")):
                rows.append(row)
        return rows

    def metrics_so_far(self) -> bytes:
        """The recorded evaluations as they lie on the disk."""
        path = self.path / METRICS
        try:
            return path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise RlcError(f"cannot read {path}: {error.strerror}.") from error

    def lines(self) -> list[dict[str, Any]]:
        """The evaluations recorded so far."""
        try:
            return [json.loads(line) for line in self.metrics_so_far().splitlines()]
        except ValueError as error:
            raise RlcError(f"{self.path / METRICS} is damaged: {error}.") from error

    def elapsed(self) -> float:
        """Wall seconds at the last line of timing.jsonl."""
        rows = self._timing()
        return float(rows[-1]["wall_s"]) if rows else 0.0


def run_id(config: dict[str, Any]) -> str | None:
    """A unique id, drawn when the folder was made; None for runs made before ids existed."""
    meta = config.get("meta")
    return meta.get("run_id") if isinstance(meta, dict) else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far (ru_maxrss is in KiB on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
