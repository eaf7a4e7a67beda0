"""Where runs are worked on, as options of the command line."""

from __future__ import annotations
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol
from rl_contrastive.config import require
from rl_contrastive.runs.workers import Job, Needs, Outcome, Pool, Report


@dataclass(frozen=True)
class EngineOptions:
    """Where the runs are worked on."""

    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine; ray: tasks of a Ray cluster."""
    workers: int | None = None
    """Runs at a time (>= 1); default: the cores (local), or as many as the cluster holds (ray)."""
    address: str | None = None
    """Ray: the cluster, such as auto or HOST:6379; default: RAY_ADDRESS, else Ray is started on this machine alone."""
    cpus: float | None = None
    """Ray: CPUs of each run (> 0), in place of what the file says; default: the run's threads."""
    gpus: float | None = None
    """Ray: GPUs of each run (>= 0, parts allowed), in place of what the file says; default: 1 for a device cuda."""
    retries: int | None = None
    """Times that a run whose process or node died is started again (>= 0); default: 0 local, 3 on Ray."""
    disk: Literal["auto", "apart"] = "auto"
    """Ray: auto: a node that sees the sweep's folder writes there, from others folders travel back; apart: all travel."""

    def __post_init__(self) -> None:
        require(self.workers is None or self.workers >= 1, f"--workers must be >= 1, got {self.workers}.")
        require(self.retries is None or self.retries >= 0, f"--retries must be >= 0, got {self.retries}.")
        Needs(self.cpus, self.gpus)
        given = [name for name in ("address", "cpus", "gpus") if getattr(self, name) is not None]
        given += ["disk"] if self.disk != "auto" else []
        stray = self.engine == "local" and given
        require(not stray, f"--{' and --'.join(given)}: for --engine ray only.")
        found = self.engine == "local" or importlib.util.find_spec("ray") is not None
        require(found, "--engine ray needs the package ray: pip install -e '.[ray]'.")
