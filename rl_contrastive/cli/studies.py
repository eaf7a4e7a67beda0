"""`rlc energy NAME`: a study of energy models, with its own options, tables, plots and bars."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import tyro

from rl_contrastive import registry
from rl_contrastive.cli.parse import Done, Nothing, flags_of, parse
from rl_contrastive.config import require
from rl_contrastive.device import require_device

Config = TypeVar("Config")


@dataclass(frozen=True)
class StudyFlags:
    """Options of every study."""

    quick: bool = False
    """Small sizes: tens of seconds; options below keep their small values unless given."""
    out: Path = Path("runs/energy")
    """Folder of all studies; this one goes to OUT/NAME. Fits that are there already are not measured again."""
    workers: int = 1
    """Fits side by side, each in a process of its own (>= 1); the numbers do not depend on it."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:1 ..., for the networks."""
    overwrite: bool = False
    """Delete what this study measured before."""
    json: bool = False
    """Print the report as JSON."""


@dataclass(frozen=True)
class StudyCommand(Generic[Config]):
    """Run a study: methods tuned equally on some seeds, reported on others; tables, plots, a page in OUT/NAME."""

    run: tyro.conf.OmitArgPrefixes[StudyFlags]
    study: Config


def energy(args: list[str]) -> int:
    """`rlc energy NAME [options]`; exit code 0 whether or not the study's bars are met: they are in its report."""
    name = args[0] if args and not args[0].startswith("-") else None
    options = args if name is None else args[1:]
    known = ", ".join(entry.name for entry in registry.entries("study"))
    wants_help = "-h" in options or "--help" in options
    require(name is not None or wants_help, f"rlc energy needs the name of a study: {known}.")
    config: Any = Nothing
    default: Any = Nothing()
    if name is not None:
        config = registry.get("study", name)[0].config
        default = config.quick() if "--quick" in options else config()
    generic: Any = StudyCommand
    flags = flags_of(StudyFlags) | flags_of(config, "--study.")
    prog = f"rlc energy {name or 'NAME'}"
    try:
        parsed = parse(generic[config], options, prog=prog, flags=flags, default=StudyCommand(StudyFlags(), default))
    except Done:
        print(f"studies: {known}") if name is None else None
        return 0
    assert name is not None
    return _run(name, parsed, "rlc energy " + shlex.join(_what(args)))


def _what(args: list[str]) -> list[str]:
    """The words that decide numbers: a page may lie anywhere and be made by any number of workers."""
    out, skip = [], False
    for word in args:
        where = word in ("--out", "--workers")
        if not (skip or where or word.startswith(("--out=", "--workers="))):
            out.append(word)
        skip = where
    return out


def _run(name: str, parsed: Any, command: str) -> int:
    from rich.console import Console

    from rl_contrastive.claims.base import Context
    from rl_contrastive.claims.runner import REPORT, render, run_study

    flags: StudyFlags = parsed.run
    require_device(flags.device)
    lines = Console(stderr=True)
    context = Context(
        flags.out / name, flags.workers, flags.device, lambda line: lines.print(line, markup=False, highlight=False)
    )
    report = run_study(name, parsed.study, context, command=command, overwrite=flags.overwrite)
    if flags.json:
        print((context.out / REPORT).read_text(encoding="utf-8"), end="")
        return 0
    # A file or a pipe has no width of its own, and 80 columns cut these tables into slivers.
    console = Console(width=None if sys.stdout.isatty() else 140)
    for part in render(report):
        console.print(part)
    console.print(f"written: {context.out}", markup=False)
    return 0
