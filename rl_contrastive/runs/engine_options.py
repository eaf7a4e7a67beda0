"""Options of the command line that choose where runs are executed."""

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
    """Where the runs are executed."""

    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine; ray: tasks of a Ray cluster."""
    workers: int | None = None
    """Runs at a time (>= 1); default: the cores (local), or as many as the cluster holds (ray)."""
    address: str | None = None
    """Ray: the cluster, such as auto or HOST:6379; default: RAY_ADDRESS, else Ray is started on this machine alone."""
    cpus: float | None = None
    """Ray: CPUs of each run (> 0), overriding the file; default: the run's threads."""
    gpus: float | None = None
    """Ray: GPUs of each run (>= 0, parts allowed), overriding the file; default: 1 for a device cuda."""
    retries: int | None = None
    """Times that a run whose process or node died is started again (>= 0); default: 0 local, 3 on Ray."""
    disk: Literal["auto", "apart"] = "auto"
    """Ray. auto: a node that sees the sweep's folder writes there, others send folders back; apart: all send them."""

    def __post_init__(self) -> None:
        require(self.workers is None or self.workers >= 1, f"--workers must be >= 1, got {self.workers}.")
        require(self.retries is None or self.retries >= 0, f"--retries must be >= 0, got {self.retries}.")
        Needs(self.cpus, self.gpus)
        given = [name for name in ("address", "cpus", "gpus") if getattr(self, name) is not None]
        given += ["disk"] if self.disk != "auto" else []
        stray = self.engine == "local" and given
        require(not stray, f"--{' and --'.join(given)}: for --engine ray only.")
        found = self.engine == "local" or importlib.util.find_spec("ray") is not None
        require(found, "--engine ray needs the package ray: pip install rl-contrastive[ray].")
