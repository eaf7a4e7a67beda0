"""The origin of a run: the versions, the processor and the commit that determine its bytes."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("rl-contrastive", "numpy", "scipy", "gymnasium", "torch", "stable-baselines3")


def origin() -> dict[str, Any]:
    """Versions, processor and git commit. Calling git takes longer than the rest of making a folder."""
    return {"versions": versions(), "processor": processor(), "git": _git_commit()}


def versions() -> dict[str, str | None]:
    """Of Python and of the packages that decide a run's bytes; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def processor() -> str:
    """The processor's name. Matrix libraries choose their code by it, and sums in another order round differently: the
    same seed gives the same bytes on the same kind of processor only."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """Commit of the library's checkout ("-dirty" if changed), or None outside a repository."""
    here = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
