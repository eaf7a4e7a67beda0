"""`Engine`: one interface for executing runs in processes of this machine or on the nodes of a Ray cluster.

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
    """Executes runs whose folders exist, several at a time."""

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """All outcomes, in the order of the jobs. Ctrl-C stops the runs after their batch, a second one at once."""

    def stop(self, *, at_once: bool = False) -> None:
        """Like Ctrl-C: ask the runs to stop after their batch, or end them, and start no more."""

    def close(self) -> None:
        """Release the resources of the engine after the last call of `run`."""


def start_engine(options: EngineOptions, report: Report = lambda job, message: None) -> Engine:
    """The engine that the options ask for."""
    if options.engine == "ray":
        from rl_contrastive.runs.ray_engine import RayEngine

        return RayEngine(options, report)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Pool(options.workers or cores, report, retries=options.retries or 0)
