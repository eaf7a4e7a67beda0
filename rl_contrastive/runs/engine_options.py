"""Options of the command line that choose where runs are executed."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Annotated, Literal

from rl_contrastive.config import Ge, Gt, Options, require


@dataclass(frozen=True)
class EngineOptions(Options, where="--"):
    """Where the runs are executed."""

    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine; ray: tasks of a Ray cluster."""
    workers: Annotated[int | None, Ge(1)] = None
    """Runs at a time; default: the cores (local), or as many as the cluster holds (ray)."""
    address: str | None = None
    """Ray: the cluster, such as auto or HOST:6379; default: RAY_ADDRESS, else Ray is started on this machine alone."""
    cpus: Annotated[float | None, Gt(0)] = None
    """Ray: CPUs of each run, overriding the file; default: the run's threads."""
    gpus: Annotated[float | None, Ge(0)] = None
    """Ray: GPUs of each run (parts allowed), overriding the file; default: 1 for a device cuda."""
    retries: Annotated[int | None, Ge(0)] = None
    """Times that a run whose process or node died is started again; default: 0 local, 3 on Ray."""
    disk: Literal["auto", "apart"] = "auto"
    """Ray. auto: a node that sees the sweep's folder writes there, others send folders back; apart: all send them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("address", "cpus", "gpus") if getattr(self, name) is not None]
        given += ["disk"] if self.disk != "auto" else []
        stray = self.engine == "local" and given
        require(not stray, f"--{' and --'.join(given)}: for --engine ray only.")
        found = self.engine == "local" or importlib.util.find_spec("ray") is not None
        require(found, "--engine ray needs the package ray: pip install -e '.[ray]'.")
