"""What a study is given and what it hands back.

A study is a registered function `study(config, context) -> Report`; `rlc energy NAME` runs it. It measures cells
(`grid.run_grid`: methods x settings, tuned on some seeds and reported on others), draws plots and states its bars,
each with what was measured. A bar that is not met is shown as such and is no error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rl_contrastive.analysis.tables import Table

__all__ = ["Bar", "Context", "Report", "Table"]


def _silent(line: str) -> None:
    del line


@dataclass(frozen=True)
class Context:
    """Where and how a study runs; nothing here changes a number but `device`."""

    out: Path
    """The study's own folder; plots and tables go there, measured cells to cells.jsonl."""
    workers: int = 1
    """Cells measured side by side, each in a process of its own (>= 1)."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:1 ..., for the networks."""
    say: Callable[[str], None] = _silent
    """Takes a line of progress."""

    def part(self, name: str) -> Context:
        """The same for one of several grids of a study: its cells go to a folder of their own."""
        return replace(self, out=self.out / name)


@dataclass(frozen=True)
class Bar:
    """A line drawn before the measurement, and the measurement."""

    what: str
    bar: str
    measured: str
    met: bool


@dataclass(frozen=True)
class Report:
    """Everything a study found."""

    name: str
    question: str
    """What was asked, in one sentence."""
    answer: str
    """What the numbers support, in a few sentences, nothing more."""
    tables: list[Table]
    bars: list[Bar]
    plots: list[str] = field(default_factory=list)
    """PNG file names in the study's folder (each has an SVG beside it)."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """What stands behind tables and bars, as JSON values."""
