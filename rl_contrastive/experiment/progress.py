"""One line a run while it goes: episodes, time left, return, solved; silent where no one watches.

The lines go to stderr, so that stdout stays readable by programs.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rl_contrastive.experiment.workers import Job

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class ProgressLines:
    """A context manager whose `report` is what `workers.Pool` calls; it draws nothing unless stderr is a terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet or not sys.stderr.isatty()
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressLines:
        if not self.quiet:
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
        if self._bars is None:
            return
        key = str(job.folder)
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
