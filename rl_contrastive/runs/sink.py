"""Writes a run's results to its folder: each line at once, wall times in their own file, checkpoints by the clock."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rl_contrastive.errors import RlcError
from rl_contrastive.runs.checkpoint import save_state
from rl_contrastive.runs.folder import METRICS, TENSORBOARD, TIMING, RunFolder, json_line
from rl_contrastive.runs.loop import Progress
from rl_contrastive.runs.tensorboard import Board
from rl_contrastive.spec import Array, State


class RunSink:
    """Writes the loop's results to a run folder: each line at once, a checkpoint every `checkpoint_seconds`."""

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
        features: Callable[[], dict[str, float]] | None = None,
        clock: str = "episodes",
    ) -> None:
        """`identity` (the configuration) is stored in each checkpoint, so that no other run can load it.

        `histograms` and `features`: the agent's functions for histograms and for numbers of its features, called at
        each evaluation if TensorBoard is on. `clock`: the horizontal axis of TensorBoard's curves, episodes or
        env_steps.
        """
        self.folder, self.identity, self.checkpoint_seconds = folder, identity, checkpoint_seconds
        self._on_progress, self._should_stop = on_progress, should_stop
        folder.require_own()
        self._earlier = folder.elapsed()
        self._started = self._saved_at = time.monotonic()
        self._metrics = _append(folder.path / METRICS)
        self._checksum = hashlib.sha256(folder.metrics_so_far())
        self._timing = _append(folder.path / TIMING)
        self._board = Board(folder.path / TENSORBOARD, folder.lines(), clock) if tensorboard else None
        self._histograms, self._features = histograms, features

    @property
    def wall(self) -> float:
        """Seconds spent on this run, by all processes that worked on it."""
        return self._earlier + time.monotonic() - self._started

    def evaluated(self, line: dict[str, Any], progress: Progress) -> None:
        """Append the line; its wall time goes to the other file."""
        counts = {"episodes": progress.episodes, "env_steps": progress.env_steps}
        text = json_line(line)
        self.folder.require_own()
        try:
            self._metrics.write(text)
            self._metrics.flush()
            self._timing.write(json_line({**counts, "wall_s": round(self.wall, 3)}))
            self._timing.flush()
        except OSError as error:
            raise RlcError(f"cannot write {self.folder.path / METRICS}: {error.strerror}.") from error
        self._checksum.update(text.encode())
        if self._board is not None:
            self._board.scalars(line)
            if self._histograms is not None:
                self._board.histograms(line[self._board.clock], self._histograms())
            if self._features is not None:
                self._board.features(line[self._board.clock], self._features())
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
        """Write first the lines, then the checkpoint that covers them.

        `snapshot` is called once, before the checkpoint, so that files in the agent's own folder are durable by then.
        """
        self.folder.require_own()
        try:
            os.fsync(self._metrics.fileno())
            os.fsync(self._timing.fileno())
        except OSError as error:
            raise RlcError(f"cannot write {self.folder.path / METRICS}: {error.strerror}.") from error
        if self._board is not None:
            self._board.flush()
        length = os.fstat(self._metrics.fileno()).st_size
        covers = {"metrics_bytes": length, "metrics_sha256": self._checksum.hexdigest()}
        save_state(self.folder.checkpoint, {"run": self.identity, **covers, **snapshot()})
        self._saved_at = time.monotonic()

    def close(self) -> None:
        """Close the files; a full disk was reported at the write that failed."""
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
