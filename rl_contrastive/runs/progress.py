"""Progress of runs: a line for each run (episodes, time left, return, solved), or a line now and then in a pipe.

The lines go to stderr, so that stdout stays readable by programs.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rl_contrastive.runs.workers import Job

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


EVERY = 5.0
"""Least seconds between two lines where there is no terminal."""
SPARSE = 20.0
"""The wait between two lines is this share of the time so far, so that long sweeps do not fill a log."""
LONGEST = 60.0
"""Most seconds between two lines."""
MOST = 2
"""Number of runs in a line: those that reported last."""
BASIS = 5.0
"""Least seconds, and"""
SHARE = 0.05
"""least share of the work, between two reports that an estimate rests on; or"""
ENOUGH = 60.0
"""so many seconds, whatever the share. The estimate is of this much of the recent past, or of a quarter of all."""


class Pace:
    """The time left at the recent rate; nothing before there is a basis for it.

    Time counts from the first report, so neither the start of processes nor what was done before a resume does.
    """

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque()
        self._first = 0.0

    def left(self, share: float) -> float | None:
        """Seconds until the share that is done, in [0, 1], is 1; None: not known yet."""
        now = time.monotonic()
        points = self._points
        if not points:
            self._first = now
        if not points or now - points[-1][0] >= 1.0:
            points.append((now, share))
        recent = now - max(ENOUGH, (now - self._first) / 4)
        while len(points) > 2 and points[1][0] <= recent:
            points.popleft()
        seconds, gained = now - points[0][0], share - points[0][1]
        if gained <= 0 or seconds < BASIS or (gained < SHARE and seconds < ENOUGH):
            return None
        return seconds * (1.0 - share) / gained


class ProgressLines:
    """A context manager whose `report` is what `workers.Pool` calls: bars on a terminal, else now and then a line.

    runs: their number, to estimate the time left; None: not known, because trials may be dropped.
    """

    def __init__(self, *, runs: int | None = None, quiet: bool = False) -> None:
        self.quiet, self.runs = quiet, runs
        self._started, self._shares = time.monotonic(), dict[str, float]()
        self._paces: dict[str, Pace] = {}
        self.drawn = not quiet and sys.stderr.isatty()
        self._say = Occasionally(EVERY)
        self._newest: dict[str, str] = {}
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressLines:
        if self.drawn:
            self._bars = _bars()
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def report(self, job: Job, message: dict[str, Any]) -> None:
        """Move the line of `job`; rich is safe to call from the pool's threads."""
        key = str(job.folder)
        if self._bars is None:
            if not self.quiet:
                self._newest.pop(key, None)  # the newest comes last
                self._shares[key] = 1.0 if message.get("done") else min(_share(job, message), 0.99)
                if not message.get("done"):
                    self._newest[key] = _words(job, message)
                self._say_how_far()
            return
        if key not in self._tasks:
            name = f"{job.folder.name} {job.folder.parent.name}"  # the seed first: long names are cut
            self._tasks[key] = self._bars.add_task(
                name, total=job.config.budget.episodes or job.config.budget.steps, left="", value="", solved=""
            )
        steps_only = job.config.budget.episodes is None
        value, solved = message["return"], message["solved_at"]
        self._bars.update(
            self._tasks[key],
            completed=message["env_steps" if steps_only else "episodes"],
            left=self._left(key, _share(job, message)),
            value="" if value is None else f"return {value:.3f}",
            solved="" if solved is None else f"solved at {solved}",
        )

    def _say_how_far(self) -> None:
        """Runs done, an estimate of the time left at the pace so far, and the last reports."""
        elapsed = time.monotonic() - self._started
        self._say.seconds = min(max(EVERY, elapsed / SPARSE), LONGEST)
        done = sum(part == 1.0 for part in self._shares.values())
        words = f"{done} runs done"
        if self.runs is not None:
            left = self._left("all", sum(self._shares.values()) / self.runs)
            words = f"{done} of {self.runs} runs done" + (f", {left}" if left else "")
        self._say("; ".join([words, *list(self._newest.values())[-MOST:]]))

    def _left(self, key: str, share: float) -> str:
        """`about 12 min left`, or nothing."""
        left = self._paces.setdefault(key, Pace()).left(share)
        return "" if left is None else f"about {duration(left)} left"


def _share(job: Job, message: dict[str, Any]) -> float:
    """The share of its budget that the run has used, in [0, 1]."""
    budget = job.config.budget
    done, cap = message["episodes"], budget.episodes
    if cap is None:
        done, cap = message["env_steps"], budget.steps
    return float(done) / max(cap or 1, 1)


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _words(job: Job, message: dict[str, Any]) -> str:
    """`tiny--low-rank seed-0 24/40 episodes, return 0.250`."""
    cap = job.config.budget.episodes
    count = f"{message['env_steps']}/{job.config.budget.steps} steps"
    if cap is not None:
        count = f"{message['episodes']}/{cap} episodes"
    value = message["return"]
    return f"{job.folder.parent.name} {job.folder.name} {count}" + ("" if value is None else f", return {value:.3f}")


class Occasionally:
    """Says a sentence on stderr if `seconds` have passed since the one before."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._last = seconds, time.monotonic()

    def __call__(self, sentence: str) -> None:
        now = time.monotonic()
        if now - self._last >= self.seconds:
            self._last = now
            print(f"rlc: {sentence}", file=sys.stderr, flush=True)


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    return Progress(
        TextColumn("{task.description}", table_column=Column(max_width=32, no_wrap=True, overflow="ellipsis")),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[value]}"),
        TextColumn("{task.fields[solved]}"),
        console=Console(stderr=True),
        refresh_per_second=4,
    )
