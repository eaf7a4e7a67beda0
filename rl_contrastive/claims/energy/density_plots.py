"""Plots of density-2d: excess NLL by method, the densities themselves, and where the mass went under narrow noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rl_contrastive.analysis import plots
from rl_contrastive.analysis.figures import colour, counts_on, draw
from rl_contrastive.claims.energy.density_fits import BULK, PIXELS, VIEW, Density2DConfig, data_of
from rl_contrastive.claims.energy.toy_densities import make_density
from rl_contrastive.claims.grid import Cell, interval
from rl_contrastive.spec import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Cells = dict[tuple[str, str], Cell]
NEAR = 4.7
"""Half side of the pictures under covering noise."""


def plot_all(config: Density2DConfig, covering: Cells, references: Cells, narrow: Cells, out: Path) -> list[str]:
    """Draw everything; file names of the PNGs."""
    return [
        _excess(config, {**covering, **references}, out),
        _pictures(config, covering, out),
        _narrow(config, narrow, out),
        _narrow_pictures(config, narrow, out),
    ]


def _excess(config: Density2DConfig, cells: Cells, out: Path) -> str:
    panels: dict[str, Callable[[Axes], None]] = {}
    for density in config.densities:
        mine = {m: c for (s, m), c in cells.items() if s == density and m != "truth"}

        def paint(axis: Axes, mine: dict[str, Cell] = mine) -> None:
            _dots(axis, mine, "excess")
            axis.axvline(0.0, color="#999999", linewidth=0.8)
            axis.set_xlabel("NLL - NLL of the truth (nats)")

        panels[density] = paint
    caption = (
        f"Held-out NLL above that of the true density on the same points, covering noise: mean and 95% t "
        f"interval over n = {len(config.seeds)} seeds (small dots: seeds)."
    )
    return draw(out, "density-2d", panels, caption)


def _dots(axis: Axes, cells: dict[str, Cell], metric: str) -> None:
    """One row a method: seeds, mean, interval; a method without a number keeps its row."""
    for row, cell in enumerate(cells.values()):
        values = cell.metrics.get(metric, np.zeros(0))
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        found = interval(values)
        axis.plot(values, np.full(len(values), row), ".", color=colour(row), alpha=0.45, markersize=5)
        axis.plot([found.low, found.high], [row, row], color=colour(row), linewidth=2.2)
        axis.plot(found.estimate, row, "o", color=colour(row), markersize=6)
    axis.set_yticks(
        range(len(cells)), [n if not c.failed else f"{n} ({len(c.failed)} failed)" for n, c in cells.items()]
    )
    axis.invert_yaxis()


def _narrow(config: Density2DConfig, cells: Cells, out: Path) -> str:
    settings = list(dict.fromkeys(s for s, _ in cells))
    panels: dict[str, Callable[[Axes], None]] = {}
    for setting in settings:
        mine = {m: c for (s, m), c in cells.items() if s == setting}

        def paint(axis: Axes, mine: dict[str, Cell] = mine) -> None:
            _dots(axis, mine, "excess")
            axis.set_xscale("log")
            counts_on(axis.xaxis)
            axis.set_xlabel("NLL - NLL of the truth (nats)")

        panels[f"{setting} network"] = paint
    caption = (
        f"Noise {config.narrowness:g} times as wide as the data (NCE + wide: {config.share:.0%} of it "
        f"{config.wide:g} times as wide): mean and 95% t interval over n = {len(config.seeds)} seeds."
    )
    return draw(out, "density-2d-narrow", panels, caption)


def _picture(cell: Cell, seed: int) -> FloatArray | None:
    """(PIXELS, PIXELS) log-density, first axis x_1; None where the fit of this seed failed."""
    path = cell.folders[seed] / "picture.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        return np.asarray(file["log_density"], dtype=np.float64)


def _pictures(config: Density2DConfig, cells: Cells, out: Path) -> str:
    """Rows: the truth and every method; columns: densities."""
    axis = torch.linspace(-VIEW, VIEW, PIXELS, dtype=torch.float64)
    nodes = torch.cartesian_prod(axis, axis)
    shown = nodes.abs().amax(-1) <= NEAR
    side = int(shown.sum().sqrt().round())
    rows: dict[str, list[FloatArray | None]] = {"truth": []}
    for density in config.densities:
        rows["truth"].append(make_density(density).log_prob(nodes[shown]).reshape(side, side).numpy())
    keep = np.abs(axis.numpy()) <= NEAR
    for method in ("NCE", "SNIS", "MECO .9"):
        found = [_picture(cells[d, method], config.seeds[0]) for d in config.densities]
        rows[method] = [None if p is None else p[np.ix_(keep, keep)] for p in found]
    peaks = [float(np.exp(p).max()) for p in rows["truth"] if p is not None]
    with plots.style():
        figure = plots.new_figure(1.0 + 2.0 * len(config.densities), 2.1 * len(rows) + 0.4)
        axes = figure.subplots(len(rows), len(config.densities), squeeze=False)
        for i, (name, pictures) in enumerate(rows.items()):
            for j, picture in enumerate(pictures):
                _image(axes[i, j], None if picture is None else np.exp(picture), 0.0, peaks[j], NEAR)
                axes[i, j].set_title(config.densities[j] if i == 0 else "")
            axes[i, 0].set_ylabel(name)
        plots.caption(figure, f"Densities under covering noise, seed {config.seeds[0]}; one colour scale a column.")
        plots.save(figure, out / "density-2d-pictures")
    return "density-2d-pictures.png"


def _image(axis: Axes, picture: FloatArray | None, low: float, high: float, half: float) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    if picture is None:
        axis.text(0.5, 0.5, "failed", ha="center", va="center", transform=axis.transAxes)
        return
    extent = (-half, half, -half, half)
    axis.imshow(picture.T, origin="lower", extent=extent, cmap="viridis", vmin=low, vmax=high)


def _narrow_pictures(config: Density2DConfig, cells: Cells, out: Path) -> str:
    """log10 density on the whole view, with the bulk of the narrow noise: mass beyond it lights up."""
    settings = list(dict.fromkeys(s for s, _ in cells))
    methods = list(dict.fromkeys(m for _, m in cells))
    with plots.style():
        figure = plots.new_figure(1.2 + 2.4 * len(methods), 2.4 * len(settings) + 0.5)
        axes = figure.subplots(len(settings), len(methods), squeeze=False)
        for i, setting in enumerate(settings):
            for j, method in enumerate(methods):
                picture = _picture(cells[setting, method], config.seeds[0])
                _image(axes[i, j], None if picture is None else picture / np.log(10.0), -8.0, 0.0, VIEW)
                _bulk(axes[i, j], config, setting.partition(", ")[0])
                axes[i, j].set_title(method if i == 0 else "")
            axes[i, 0].set_ylabel(setting)
        images = [image for axis in axes.ravel() for image in axis.images]
        if images:
            figure.colorbar(images[0], ax=axes, shrink=0.7, label="log10 density")
        plots.caption(
            figure,
            f"log10 density on [-{VIEW:g}, {VIEW:g}]^2, seed {config.seeds[0]}; white: {BULK:.1%} of the narrow noise.",
        )
        plots.save(figure, out / "density-2d-narrow-pictures")
    return "density-2d-narrow-pictures.png"


def _bulk(axis: Axes, config: Density2DConfig, density: str) -> None:
    """The ellipse |L^{-1}(x - mean)|^2 = -2 log(1 - BULK) of the narrow law."""
    train = data_of(density, config.seeds[0], config.points).train.double().numpy()
    factor = np.linalg.cholesky(config.narrowness**2 * np.cov(train.T, bias=True))
    angle = np.linspace(0.0, 2.0 * np.pi, 200)
    circle = np.sqrt(-2.0 * np.log1p(-BULK)) * np.stack([np.cos(angle), np.sin(angle)])
    ellipse = factor @ circle + train.mean(0)[:, None]
    axis.plot(ellipse[0], ellipse[1], color="white", linewidth=1.0)
