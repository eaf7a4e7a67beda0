"""The curve behind "MECO survives narrow noise": NCE and MECO over the width of the noise, where each one fails.

One width shows one point of a curve that crosses: noise far too narrow tells neither method anything, wide noise both,
and the order in between is what is asked. Noise: a Gaussian of the given times the data's standard deviations; the
network of steep first layer, one learning rate, nothing tuned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rl_contrastive.analysis.figures import colour, draw
from rl_contrastive.claims.base import Context, Table
from rl_contrastive.claims.energy.density_fits import Density2DConfig, fit_energy
from rl_contrastive.claims.grid import Cell, Grid, all_failures, figure, gap_of, metric_of, run_grid
from rl_contrastive.claims.ledger import Choice

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHODS: dict[str, tuple[str, Choice]] = {"NCE": ("nce", {}), "MECO": ("meco", {"gamma": 0.1})}
FAILED = 1.0
"""Nats above the truth from which a fit counts as failed."""
Cells = dict[tuple[str, str], Cell]


def run_widths(config: Density2DConfig, context: Context) -> Cells:
    """Both methods at every width: {("density, width", method): Cell}."""
    methods: dict[str, list[Choice]] = {
        name: [{"objective": o, "of": of, "noise": "by setting", "network": "sharp", "lr": config.rate}]
        for name, (o, of) in METHODS.items()
    }
    settings = [setting(density, width) for density in config.curve for width in config.widths]
    return run_grid(fit_energy, config, Grid(settings, methods, "validation", (), config.seeds), context)


def setting(density: str, width: float) -> str:
    """Name of a point of the curve; `density_fits` reads the width from it."""
    return f"{density}, {width:g}"


def verdict(cells: Cells, point: str) -> str:
    """both fail | MECO is ahead | NCE is ahead | neither is ahead, of one point."""
    nce, meco = (cells[point, method] for method in METHODS)
    worst = [metric_of(cell, "excess").estimate for cell in (nce, meco)]
    if not any(excess < FAILED for excess in worst):  # NaN, where all seeds failed, is no success
        return "both fail"
    gap = gap_of(nce, meco, "nll")
    if np.isnan(gap.low):
        return "MECO is ahead" if np.isnan(worst[0]) else "NCE is ahead"
    return "MECO is ahead" if gap.low > 0 else "NCE is ahead" if gap.high < 0 else "neither is ahead"


def widths_answer(config: Density2DConfig, cells: Cells) -> str:
    """The window in which MECO is ahead, where both fail and where NCE is ahead."""
    parts = []
    for density in config.curve:
        found: dict[str, list[str]] = {}
        for width in config.widths:
            found.setdefault(verdict(cells, setting(density, width)), []).append(f"{width:g}")
        parts.append(f"{density}: " + ", ".join(f"{what} at {', '.join(at)}" for what, at in found.items()))
    return (
        f"Over widths of the noise, in the data's standard deviations (failing: {FAILED:g} nat or more above the "
        f"truth, mean over seeds): {'; '.join(parts)}."
    )


def widths_table(config: Density2DConfig, cells: Cells) -> Table:
    rows = []
    for density in config.curve:
        for width in config.widths:
            point = setting(density, width)
            nce, meco = (cells[point, method] for method in METHODS)
            gap = figure(gap_of(nce, meco, "nll"))
            each = (figure(metric_of(cell, "excess")) for cell in (nce, meco))
            rows.append((density, f"{width:g}", *each, gap, verdict(cells, point)))
    failed = all_failures(cells.values())
    note = (
        f"Excess: NLL - NLL of the truth on the same points, in nats. n = {len(config.seeds)} seeds, the network of "
        f"steep first layer, learning rate {config.rate:g}, nothing tuned."
    )
    note += f" {len(failed)} failed fits, left out of the means: " + "; ".join(failed) if failed else ""
    columns = ("Density", "Width", "Excess of NCE", "Excess of MECO", "NLL of NCE - NLL of MECO", "Verdict")
    return Table("Over widths of the noise", columns, rows, note)


def plot_widths(config: Density2DConfig, cells: Cells, out: Path) -> str:
    """Excess NLL against the width, one panel a density."""
    panels: dict[str, Callable[[Axes], None]] = {}
    for density in config.curve:

        def paint(axis: Axes, density: str = density) -> None:
            for row, method in enumerate(METHODS):
                mine = [cells[setting(density, width), method] for width in config.widths]
                means = np.array([astuple(metric_of(cell, "excess")) for cell in mine])  # estimate, low, high
                axis.plot(config.widths, means[:, 0], "o-", color=colour(row), label=method, markersize=4)
                axis.fill_between(config.widths, means[:, 1], means[:, 2], color=colour(row), alpha=0.2, linewidth=0)
            axis.axhline(FAILED, color="#999999", linewidth=0.8, linestyle=":")
            axis.set_yscale("log")
            axis.set_xlabel("width of the noise / that of the data")
            axis.set_ylabel("NLL - NLL of the truth (nats)")
            axis.legend()

        panels[density] = paint
    caption = (
        f"Noise narrower and wider than the data: mean and 95% interval over n = {len(config.seeds)} seeds; "
        f"dotted: {FAILED:g} nat, from which a fit counts as failed."
    )
    return draw(out, "density-2d-widths", panels, caption)
