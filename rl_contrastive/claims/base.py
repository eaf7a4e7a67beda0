"""What a claim is given and what it hands back: bars drawn before the measurement, and what was measured.

A claim is a registered function `claim(config, context) -> Report` with a name of its group, such as `theory/tv-rate`;
`rlc claims NAME` runs it. One that compares methods measures cells (`grid.run_grid`: methods x settings, tuned on some
seeds, reported on others). A negative control is a bar that must be missed: a variant in which the claim must not hold,
so that a measurement which cannot tell the difference is found out. A missed bar is a result and no error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from rl_contrastive.analysis.tables import Table
from rl_contrastive.runs.progress import duration

__all__ = ["Bar", "Context", "Report", "Table", "Timed", "control", "silent"]
T = TypeVar("T")


def silent(line: str) -> None:
    """Takes a line of progress and says nothing."""
    del line


@dataclass(frozen=True)
class Timed:
    """Puts the claim's name and the time since its start before each line: `theory/tv-rate, 12 s: S 2 of 3: 40`."""

    name: str
    say: Callable[[str], None]
    started: float = field(default_factory=time.monotonic)

    def __call__(self, line: str) -> None:
        self.say(f"{self.name}, {duration(time.monotonic() - self.started)}: {line}")


@dataclass(frozen=True)
class Context:
    """Where and how a claim runs; nothing here changes a number but `device`."""

    out: Path
    """The claim's own folder; plots and tables go there, measured cells to cells.jsonl."""
    workers: int = 1
    """Cells measured side by side, each in a process of its own (>= 1)."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:1 ..., for the networks."""
    say: Callable[[str], None] = silent
    """Takes a line of progress."""

    def part(self, name: str) -> Context:
        """The same for one of several grids of a claim: its cells go to a folder of their own."""
        return replace(self, out=self.out / name)

    def each(self, what: str, items: Iterable[T]) -> Iterator[T]:
        """The items, with a line of progress as each of them begins: `method 2 of 5: SRA`."""
        known = list(items)
        for i, item in enumerate(known, start=1):
            name = " ".join(map(str, item)) if isinstance(item, tuple) else str(item)
            self.say(f"{what} {i} of {len(known)}: {name}")
            yield item


@dataclass(frozen=True)
class Bar:
    """A line drawn before the measurement, and the measurement."""

    what: str
    bar: str
    measured: str
    met: bool
    control: bool = False
    """A negative control: this bar has to be missed."""

    @property
    def ok(self) -> bool:
        """Came out as it must."""
        return self.met != self.control


def control(measured: str, *, failed: bool, what: str = "control") -> Bar:
    """A negative control; `failed`: the claim did not hold for it, as it must."""
    return Bar(what, "must fail", measured, not failed, control=True)


@dataclass(frozen=True)
class Report:
    """Everything a claim's measurement found."""

    claim: str
    """The statement or the question, in one sentence."""
    bars: Sequence[Bar]
    answer: str = ""
    """What the numbers support, in a few sentences, nothing more; bars alone may say it."""
    tables: Sequence[Table] = ()
    plots: Sequence[str] = ()
    """PNG file names in the claim's folder (each has an SVG beside it)."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """What stands behind tables and bars; arrays and intervals become JSON values."""
    name: str = ""
    """GROUP/NAME; the runner fills in this and what follows."""
    config: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    """Makes it again; empty where a program called."""

    @property
    def holds(self) -> bool:
        """All bars are met and all controls failed."""
        return all(bar.ok for bar in self.bars)
