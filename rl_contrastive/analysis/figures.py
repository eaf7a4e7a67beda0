"""Output of claims: panels of one figure, intervals in words, JSON values."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_contrastive.analysis import plots
from rl_contrastive.analysis.statistics import Interval
from rl_contrastive.analysis.tables import unsigned_zeros

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(out: Path, name: str, panels: dict[str, Callable[[Axes], None]], caption: str, *, aside: bool = False) -> str:
    """Draw panels (title -> function of an axis), two in a row, into out/name.png and .svg; returns the PNG's name.

    aside: legends to the right of their panels, where many lines leave no room inside.
    """
    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    where: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)} if aside else {}
    with plots.style():
        figure = plots.new_figure(max(4.3 * columns, 6.6), 3.3 * rows + 0.4)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for axis, (title, paint) in zip(axes, panels.items(), strict=False):
            paint(axis)
            axis.set_title(title)
            if axis.get_legend() is None and axis.get_legend_handles_labels()[1]:  # a panel may place its own
                axis.legend(fontsize=8, handlelength=1.6, **where)
        plots.caption(figure, caption)
        plots.save(figure, out / name)
    return f"{name}.png"


def ticks_at(axis: Any, sizes: Any) -> None:
    """Ticks of an x or y axis (`axes.xaxis`) at the sizes measured, as plain numbers and nothing between them."""
    from matplotlib.ticker import NullLocator

    axis.set_ticks(list(sizes), [plots.short(float(size)) for size in sizes])
    axis.set_minor_locator(NullLocator())


def counts_on(axis: Any) -> None:
    """A logarithmic axis with 1, 2 and 5 in each decade, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plots.short(value)))
    axis.set_minor_formatter(NullFormatter())


def colour(index: int) -> str:
    """The index-th colour of the palette."""
    return plots.PALETTE[index % len(plots.PALETTE)]


def rng_of(seed: int, *indices: int) -> np.random.Generator:
    """Generator of one cell of an experiment, independent of the other cells."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=indices)))


def words(value: Interval, decimals: int = 2) -> str:
    """`-0.49 [-0.51, -0.47]`."""
    d = f".{decimals}f"
    if math.isnan(value.low):
        return unsigned_zeros(f"{value.estimate:{d}} (one run, no CI)")
    return unsigned_zeros(f"{value.estimate:{d}} [{value.low:{d}}, {value.high:{d}}]")


def plain(value: Any) -> Any:
    """JSON values: intervals as tables, arrays as lists, numpy numbers as numbers, NaN as null."""
    if isinstance(value, Interval):
        return plain(value.__dict__)
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
