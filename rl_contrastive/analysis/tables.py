"""One table for Markdown, terminals and JSON, and how numbers and intervals are written in it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rl_contrastive.analysis.curves import FEWEST
from rl_contrastive.analysis.statistics import Interval, SolveSummary
from rl_contrastive.config import require

if TYPE_CHECKING:
    from rich.table import Table as RichTable

ZERO = re.compile(r"(?<![\w.)-])-(0(?:\.0+)?(?:e[+-]0+)?)(?!\w|\.\d)")
"""A zero with a minus sign: not `seed-0`, `1-0` or the begin of `-0.5`."""


def unsigned_zeros(text: str) -> str:
    """The text with 0 for -0 and 0.00 for -0.00, as small negative numbers are rounded."""
    return ZERO.sub(r"\1", text)


@dataclass(frozen=True)
class Table:
    """Cells as text; `dataclasses.asdict` of it are its JSON values."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    """What the numbers are: metric, unit, n, kind of interval."""
    text_columns: int | None = None
    """Columns from the left that hold text; the others hold numbers and stand to the right. None: all hold text."""

    def __post_init__(self) -> None:
        whole = all(len(row) == len(self.columns) for row in self.rows)
        require(whole, f"a row of the table '{self.title}' has not {len(self.columns)} cells.")
        object.__setattr__(self, "rows", [tuple(map(unsigned_zeros, row)) for row in self.rows])

    def _left(self, column: int) -> bool:
        return self.text_columns is None or column < self.text_columns

    def markdown(self) -> list[str]:
        """The lines of a Markdown table, whose columns also line up in a terminal; without title and note."""
        cells = [[cell.replace("|", "\\|") for cell in row] for row in (self.columns, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        rule = ["-" * w if self._left(i) else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
        lines = [
            [cell.ljust(w) if self._left(i) else cell.rjust(w) for i, (cell, w) in enumerate(sized)]
            for sized in (list(zip(row, widths, strict=True)) for row in cells)
        ]
        return ["| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]]]

    def rich(self, ends: Collection[int] = ()) -> RichTable:
        """A table for the terminal; a line follows each row in `ends`."""
        from rich.markup import escape
        from rich.table import Table as RichTable

        view = RichTable(title=escape(self.title), header_style="bold", title_justify="left")
        for i, column in enumerate(self.columns):
            view.add_column(escape(column), justify="left" if self._left(i) else "right", overflow="fold")
        for i, row in enumerate(self.rows):
            view.add_row(*(escape(cell) for cell in row), end_section=i in ends)
        return view


def number(value: float) -> str:
    """Thousands separated by thin gaps, at most 3 significant decimals: 12 600, 0.953, 1.2e-04."""
    if value == 0 or abs(value) >= 1000:
        return unsigned_zeros(f"{value:,.0f}".replace(",", " "))
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def counts(summary: SolveSummary | None) -> str:
    """`1 200 (900 – ≥ 5 000)`; `≥` marks a number that unsolved runs make a lower bound."""
    if summary is None:
        return "–"
    mid, low, high = (
        ("≥ " if censored else "") + number(value)
        for value, censored in (
            (summary.median, summary.median_censored),
            (summary.low, summary.low_censored),
            (summary.high, summary.high_censored),
        )
    )
    return mid if low == high else f"{mid} ({low} – {high})"


def interval(value: Interval | None) -> str:
    """`0.953 [0.910, 0.990]`: as many decimals in all three; one run has no interval."""
    if value is None:
        return "–"
    if math.isnan(value.low):
        return f"{number(value.estimate)} [n < {FEWEST}: no interval]"
    words = [number(v) for v in (value.estimate, value.low, value.high)]
    if not any("e" in word or " " in word for word in words):
        decimals = max(len(word.partition(".")[2]) for word in words)
        words = [f"{v:.{decimals}f}" for v in (value.estimate, value.low, value.high)]
    return unsigned_zeros(f"{words[0]} [{words[1]}, {words[2]}]")


def finite(value: Interval) -> dict[str, float | None]:
    """An interval as JSON values: NaN, which JSON lacks, as null."""
    return {k: None if math.isnan(v) else v for k, v in value.__dict__.items()}
