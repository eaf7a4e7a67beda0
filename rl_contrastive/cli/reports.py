"""`rlc compare` and `rlc report`: from run folders to pages."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rl_contrastive.cli.parse import Done, flags_of, parse
from rl_contrastive.config import require

if TYPE_CHECKING:
    from rl_contrastive.analysis.drawing import Paper


@dataclass(frozen=True)
class CompareCommand:
    """Compare runs: IQM with bootstrap intervals, episodes to solve, probability of improvement, plots and a page."""

    dirs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR [DIR ...]")]
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
    metric: str | None = None
    """Any scalar that metrics.jsonl records, such as gap: gets a column of the table and a figure."""
    format: Literal["pdf", "svg", "png"] | None = None
    """Figures for a paper, in this format; with --width they go to OUT/paper."""
    width: str | None = None
    """Of the figures for a paper: column (3.25 in), text (6.75 in) or inches; as PDF if no format is given."""
    svg_text: Literal["text", "path"] = "text"
    """Words in SVG figures for a paper: text, which needs the font where it is shown, or path, outlines."""
    pdf: bool = False
    """Old name of --format pdf."""
    json: bool = False
    """Print the result as JSON."""


def compare(args: list[str]) -> int:
    """`rlc compare DIR... --out DIR`."""
    try:
        parsed = parse(CompareCommand, args, prog="rlc compare", flags=flags_of(CompareCommand) - {"--dirs"})
    except Done:
        return 0
    require(len(parsed.dirs) > 0, "rlc compare needs at least one folder.")
    options = {name: getattr(parsed, name) for name in ("bar", "solve_gap", "reps", "seed", "metric")}
    options["paper"] = _paper(parsed)
    return write_comparison(list(parsed.dirs), parsed.out, as_json=parsed.json, **options)


def _paper(parsed: CompareCommand) -> Paper | None:
    """What the options say of figures for a paper; None if nothing."""
    from rl_contrastive.analysis.drawing import Paper, inches

    if parsed.pdf:
        print("rlc: --pdf is now called --format pdf.", file=sys.stderr)
    wanted = parsed.format or ("pdf" if parsed.pdf or parsed.width else None)
    if wanted is None:
        require(parsed.svg_text == "text", "rlc compare: --svg-text needs --format svg.")
        return None
    require(parsed.svg_text == "text" or wanted == "svg", f"rlc compare: --svg-text needs --format svg, got {wanted}.")
    return Paper(wanted, None if parsed.width is None else inches(parsed.width), parsed.svg_text)


@dataclass(frozen=True)
class ReportCommand:
    """Make the page of a folder of runs again, from its files alone."""

    dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
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
