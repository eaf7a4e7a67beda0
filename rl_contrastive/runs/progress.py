"""One line a run while it goes: episodes, time left, return, solved; without a terminal a line every half minute.

The lines go to stderr, so that stdout stays readable by programs.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rl_contrastive.runs.workers import Job

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


EVERY = 30.0
"""Seconds between two lines where there is no terminal."""
MOST = 4
"""Runs that a line tells of, those heard of last."""


class ProgressLines:
    """A context manager whose `report` is what `workers.Pool` calls: bars on a terminal, else now and then a line."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
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
                self._newest[key] = _words(job, message)
                going = list(self._newest.values())
                more = f" and {len(going) - MOST} more" if len(going) > MOST else ""
                self._say("; ".join(going[-MOST:]) + more)
            return
        if key not in self._tasks:
            name = f"{job.folder.name} {job.folder.parent.name}"  # the seed first: long names are cut
            self._tasks[key] = self._bars.add_task(
                name, total=job.config.budget.episodes or job.config.budget.steps, value="", solved=""
            )
        steps_only = job.config.budget.episodes is None
        value, solved = message["return"], message["solved_at"]
        self._bars.update(
            self._tasks[key],
            completed=message["env_steps" if steps_only else "episodes"],
            value="" if value is None else f"return {value:.3f}",
            solved="" if solved is None else f"solved at {solved}",
        )


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
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    return Progress(
        TextColumn("{task.description}", table_column=Column(max_width=32, no_wrap=True, overflow="ellipsis")),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[value]}"),
        TextColumn("{task.fields[solved]}"),
        console=Console(stderr=True),
        refresh_per_second=4,
    )
