"""`rlc compare`, `rlc report` and `rlc theory`: from run folders, or from the theory's claims, to pages."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from rl_contrastive.cli.parse import Done, flags_of, parse
from rl_contrastive.config import require


@dataclass(frozen=True)
class CompareCommand:
    """Compare runs: IQM with bootstrap intervals, episodes to solve, probability of improvement, plots and a page."""

    dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, or folders that hold them."""
    out: Path = Path("runs/compare")
    """Folder for table, plots and page."""
    bar: float = 0.9
    """Solved: this fraction of the optimal return."""
    solve_gap: float = 0.05
    """Solved, in two-player games: an exact duality gap of at most this (> 0)."""
    reps: int = 2000
    """Bootstrap resamples."""
    seed: int = 0
    """Seed of the bootstrap."""
    pdf: bool = False
    """Write the figures as PDF too."""
    json: bool = False
    """Print the result as JSON."""


def compare(args: list[str]) -> int:
    """`rlc compare DIR... --out DIR`."""
    try:
        parsed = parse(CompareCommand, args, prog="rlc compare", flags=flags_of(CompareCommand) - {"--dirs"})
    except Done:
        return 0
    require(len(parsed.dirs) > 0, "rlc compare needs at least one folder.")
    options = {name: getattr(parsed, name) for name in ("bar", "solve_gap", "reps", "seed", "pdf")}
    return write_comparison(list(parsed.dirs), parsed.out, as_json=parsed.json, **options)


@dataclass(frozen=True)
class ReportCommand:
    """Make the page of a folder of runs again, from its files alone."""

    dir: tyro.conf.Positional[Path]
    """Folder that holds runs."""
    out: Path | None = None
    """Folder for the page; default: DIR/compare."""
    json: bool = False
    """Print the result as JSON."""


def report(args: list[str]) -> int:
    """`rlc report DIR`."""
    try:
        parsed = parse(ReportCommand, args, prog="rlc report", flags=flags_of(ReportCommand) - {"--dir"})
    except Done:
        return 0
    return write_comparison([parsed.dir], parsed.out or parsed.dir / "compare", as_json=parsed.json)


def write_comparison(folders: list[Path], out: Path, *, as_json: bool, **options: Any) -> int:
    """Compare, and say where the result is."""
    from rl_contrastive.analysis.compare import compare as make
    from rl_contrastive.runs.progress import Occasionally

    result = make(folders, out, say=Occasionally(2.0), **options)
    if as_json:
        print(json.dumps(result, indent=2, default=str))
    else:
        text = out / "table.md"
        if text.is_file():
            print(text.read_text(encoding="utf-8"))
        print(f"written: {out}")
    return 0


@dataclass(frozen=True)
class TheoryCommand:
    """Measure the theory's claims, each with a verdict and a negative control."""

    name: tyro.conf.Positional[str | None] = None
    """One claim (`rlc list claims`), or the first word of several (`games`); default: all."""
    quick: bool = False
    """Smaller sizes, about a minute in all."""
    out: Path = Path("runs/theory")
    """Folder for measurements, plots and verdicts."""
    workers: int = 1
    """Claims measured side by side; the numbers do not depend on it."""
    seed: int | None = None
    """First seed of the MDPs, locks and games, and seed of the data (>= 0); default: each claim's own, 100 for MDPs and
    locks that are explored, 300 for games that are, else 0. Part of each verdict.json."""
    json: bool = False
    """Print the verdicts as JSON."""


def theory(args: list[str]) -> int:
    """`rlc theory [NAME]`; exit code 1 if a claim does not hold or its control does not fail."""
    try:
        parsed = parse(TheoryCommand, args, prog="rlc theory", flags=flags_of(TheoryCommand) - {"--name"})
    except Done:
        return 0
    from rl_contrastive.claims.theory.runner import render, run_theory

    names = None if parsed.name is None else [parsed.name]
    verdicts = run_theory(names, out=parsed.out, quick=parsed.quick, workers=parsed.workers, seed=parsed.seed)
    if parsed.json:
        print((parsed.out / "verdicts.json").read_text(encoding="utf-8"), end="")
    else:
        from rich.console import Console

        # A file or a pipe has no width of its own, and 80 columns cut this table into slivers.
        Console(width=None if sys.stdout.isatty() else 140).print(render(verdicts))
        print(f"plots: {parsed.out}")
    return 0 if all(verdict.ok for verdict in verdicts) else 1
