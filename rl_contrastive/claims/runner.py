"""`run_study(name, config, context)`: run one registered study and write report.md, report.json and its tables."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_contrastive import registry
from rl_contrastive.analysis.figures import plain
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.config import require, to_dict
from rl_contrastive.errors import RlcError
from rl_contrastive.files import write_text
from rl_contrastive.runs.folder import write_json

if TYPE_CHECKING:
    from rich.console import RenderableType

REPORT = "report.json"


def run_study(name: str, config: Any, context: Context, *, command: str = "", overwrite: bool = False) -> Report:
    """Run `name` into context.out; cells measured before with the same configuration are not measured again."""
    require(context.workers >= 1, f"study: workers must be >= 1, got {context.workers}.")
    entry, _ = registry.get("study", name)
    prepare(context.out, overwrite=overwrite)
    report: Report = entry.factory(config, context)
    record = {"command": command, "config": to_dict(config), **plain(dataclasses.asdict(report))}
    write_json(context.out / REPORT, record)
    write_text(context.out / "report.md", markdown(report, command))
    return report


def prepare(folder: Path, *, overwrite: bool) -> None:
    """Make the study's folder, empty if `overwrite`; only what looks like a study's is ever deleted."""
    if overwrite and folder.exists():
        mine = any(folder.rglob("cells.jsonl")) or (folder / REPORT).is_file() or not any(folder.iterdir())
        require(mine, f"{folder} is no study's folder (no cells.jsonl, no {REPORT}); it is not deleted.")
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RlcError(f"study: cannot make the folder {folder}: {error.strerror}.") from error


def markdown(report: Report, command: str = "") -> str:
    """The report as a page: question, answer, bars, tables, plots."""
    lines = [f"# {report.name}", "", report.question, "", report.answer, ""]
    if command:
        lines += [f"Made by `{command}`.", ""]
    if report.bars:
        lines += [*_bars(report.bars).markdown(), ""]
    for table in report.tables:
        lines += [f"## {table.title}", "", *table.markdown(), ""]
        lines += [table.note, ""] if table.note else []
    for plot in report.plots:
        lines += [f"![{plot.removesuffix('.png')}]({plot})", ""]
    return "\n".join(lines)


def render(report: Report) -> list[RenderableType]:
    """Rich tables and sentences for the terminal."""
    from rich.markup import escape

    out: list[RenderableType] = [f"[bold]{escape(report.question)}[/]"]
    bars = [_bars(report.bars)] if report.bars else []
    for table in [*report.tables, *bars]:
        out.append(table.rich())
        out += [f"[dim]{escape(table.note)}[/]"] if table.note else []
    return [*out, escape(report.answer)]


def _bars(bars: list[Bar]) -> Table:
    rows = [(b.what, b.bar, b.measured, "met" if b.met else "NOT met") for b in bars]
    return Table("Bars", ("What", "Bar", "Measured", "Verdict"), rows)
