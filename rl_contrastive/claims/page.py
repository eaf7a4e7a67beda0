"""Reports as text: the page of a claim, the summary of several, and both for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rl_contrastive.claims.base import Bar, Report, Table

if TYPE_CHECKING:
    from rich.console import RenderableType


def page(report: Report) -> str:
    """Claim, answer, bars, tables, plots, in Markdown."""
    lines = [f"# {report.name}", "", report.claim, ""]
    lines += [report.answer, ""] if report.answer else []
    lines += [f"Made by `{report.command}`.", ""] if report.command else []
    lines += [*bars(report).markdown(), ""] if report.bars else []
    for table in report.tables:
        lines += [f"## {table.title}", "", *table.markdown(), ""]
        lines += [table.note, ""] if table.note else []
    for plot in report.plots:
        lines += [f"![{plot.removesuffix('.png')}]({plot})", ""]
    return "\n".join(lines)


def summary(reports: Sequence[Report], folders: dict[str, str]) -> str:
    """One section a claim, with its bars; folders: name -> where its page lies, relative to the summary."""
    lines = ["# Claims, measured", ""]
    for report in reports:
        lines += [f"## [{report.name}]({folders[report.name]}/report.md): {_holds(report)}", "", report.claim, ""]
        lines += [*bars(report).markdown(), ""] if report.bars else []
    return "\n".join(lines)


def render(reports: Sequence[Report]) -> list[RenderableType]:
    """Rich tables and sentences for the terminal: all of a single report, the bars of several."""
    from rich.markup import escape

    out: list[RenderableType] = []
    for report in reports:
        out.append(f"[bold]{escape(report.claim)}[/]")
        for table in [*(report.tables if len(reports) == 1 else ()), bars(report)]:
            out.append(table.rich())
            out += [f"[dim]{escape(table.note)}[/]"] if table.note else []
        out += [escape(report.answer)] if report.answer else []
        out.append("")
    return out


def bars(report: Report) -> Table:
    """What was drawn beforehand beside what was measured."""
    rows = [(b.what, b.bar, b.measured, _verdict(b)) for b in report.bars]
    return Table(f"{report.name}: {_holds(report)}", ("What", "Bar", "Measured", "Verdict"), rows)


def _verdict(bar: Bar) -> str:
    if bar.control:
        return "fails as it must" if bar.ok else "DID NOT FAIL"
    return "met" if bar.met else "NOT met"


def _holds(report: Report) -> str:
    return "holds" if report.holds else "does not hold"
