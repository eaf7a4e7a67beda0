"""Where runs are worked on: `Engine` is one interface for processes of this machine and for the nodes of a Ray cluster.

Both start the same worker process for each run (`workers.py`), so folders and bytes are the same, and a sweep that was
stopped on one engine is finished by the other.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from rl_contrastive.runs.engine_options import EngineOptions
from rl_contrastive.runs.workers import Job, Outcome, Pool, Report


class Engine(Protocol):
    """Works on runs whose folders exist, several at a time."""

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """All outcomes, in the order of the jobs. Ctrl-C stops the runs after their batch, a second one at once."""

    def stop(self, *, at_once: bool = False) -> None:
        """As Ctrl-C does: ask the runs to stop after their batch, or end them; none is started any more."""

    def close(self) -> None:
        """Give back what the engine holds; `run` was called for the last time."""


def start_engine(options: EngineOptions, report: Report = lambda job, message: None) -> Engine:
    """The engine that the options ask for."""
    if options.engine == "ray":
        from rl_contrastive.runs.ray_engine import RayEngine

        return RayEngine(options, report)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Pool(options.workers or cores, report, retries=options.retries or 0)
