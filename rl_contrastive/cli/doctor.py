"""`rlc doctor`: what this installation can do, checked without writing anything."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rl_contrastive.cli.parse import Done, flags_of, parse

REQUIRED = ("numpy", "scipy", "gymnasium", "torch", "tyro", "rich", "matplotlib", "plotly", "jinja2", "tensorboard")
OPTIONAL = ("stable-baselines3", "sb3-contrib", "pettingzoo", "ale-py", "MinAtar", "minigrid", "ray")
LEAST_FREE_GB = 1.0
"""A run takes megabytes; below this a sweep may fill the disk."""


@dataclass(frozen=True)
class DoctorCommand:
    """Check Python, packages, CUDA, cores and disk; writes nothing. Exit code 1 if something needed is missing."""

    json: bool = False
    """Print the findings as JSON."""


@dataclass(frozen=True)
class Finding:
    """One line: ok, note (fine without it) or bad."""

    name: str
    status: str
    text: str


def doctor(args: list[str]) -> int:
    """`rlc doctor`."""
    try:
        parsed = parse(DoctorCommand, args, prog="rlc doctor", flags=flags_of(DoctorCommand))
    except Done:
        return 0
    findings = [_python(), *map(_package, REQUIRED), *map(_extra, OPTIONAL), _cuda(), _cores(), _disk(), _names()]
    if parsed.json:
        print(json.dumps([vars(f) for f in findings], indent=2))
    else:
        for f in findings:
            print(f"{f.status:<5} {f.name:<18} {f.text}")
    return 1 if any(f.status == "bad" for f in findings) else 0


def _python() -> Finding:
    good = sys.version_info >= (3, 11)
    return Finding("python", "ok" if good else "bad", platform.python_version() + ("" if good else ", needs >= 3.11"))


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "bad", "missing: `make setup` installs it")


def _extra(name: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "note", "not installed (optional)")


def _cuda() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("cuda", "bad", "torch is missing")
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is the finding
        return Finding("cuda", "bad", f"torch is installed, but broken: {_short(error)}")

    if not torch.cuda.is_available():
        return Finding("cuda", "note", "no CUDA device: networks train on the CPU")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("cuda", "ok", ", ".join(names))


def _short(error: Exception) -> str:
    """`ImportError: text` on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("cores", "ok", f"{cores}: that many seeds run side by side")


def _disk() -> Finding:
    here = Path.cwd()
    free = shutil.disk_usage(here).free / 1e9
    if not os.access(here, os.W_OK):
        return Finding("disk", "note", "the current folder is read-only: give runs an --out")
    return Finding("disk", "ok" if free >= LEAST_FREE_GB else "note", f"{free:.1f} GB free in the current folder")


def _names() -> Finding:
    """Whether everything registered can be imported."""
    from rl_contrastive import registry
    from rl_contrastive.cli.lists import KINDS

    try:
        counts = [f"{len(registry.entries(kind))} {name}" for name, kind in KINDS.items()]
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is the finding
        return Finding("registry", "bad", f"not everything can be imported: {_short(error)}")
    return Finding("registry", "ok", ", ".join(counts))
