"""Pictures of the study gaussian-mean: iterations over distance, errors over iterations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_contrastive.analysis.figures import colour, draw, ticks_at
from rl_contrastive.claims.energy.gaussian_sampled import METHODS, Setting
from rl_contrastive.claims.energy.population import DESCENTS
from rl_contrastive.claims.grid import Cell
from rl_contrastive.spec import FloatArray

if TYPE_CHECKING:
    from rl_contrastive.claims.energy.gaussian_config import GaussianMeanConfig

Cells = dict[tuple[str, str], Cell]


def exact(config: GaussianMeanConfig, out: Path, cells: Cells) -> str:
    """Iterations of every method over R, and the error of the mean over iterations at the largest R."""
    largest, distances = max(config.exact_distances), config.exact_distances

    def sizes(axis: Any) -> None:
        for i, method in enumerate(DESCENTS):
            counts = np.array([cells[f"R={R:g}", method].metrics["iterations"][0] for R in distances])
            shown = np.where(np.isfinite(counts), counts, config.budget)
            axis.loglog(distances, shown, color=colour(i), marker="o", markersize=4)
            lost = ~np.isfinite(counts)
            axis.plot(np.array(distances)[lost], shown[lost], "o", color=colour(i), markersize=9, fillstyle="none")
        axis.set(xlabel="distance R", ylabel="iterations (ring: fails)")
        ticks_at(axis.xaxis, distances)

    def errors(axis: Any) -> None:
        for i, method in enumerate(DESCENTS):
            iteration, error = _curve(cells[f"R={largest:g}", method])
            axis.loglog(iteration, np.maximum(error, 1e-3), color=colour(i), label=method)
        axis.axhline(config.tolerance, color="#8a8a8a", linewidth=0.9, linestyle=":")
        axis.set(xlabel="iteration", ylabel="|mean - R|")

    caption = (
        f"Exact expectations by quadrature, so one run and no interval; best of {len(config.exact_rates)} step sizes "
        f"for every method, budget {config.budget}. Dotted: the error that counts as right. Errors below 0.001 are "
        "drawn there."
    )
    return draw(out, "gaussian-exact", {"Iterations": sizes, f"Error, R = {largest:g}": errors}, caption, aside=True)


def sampled(config: GaussianMeanConfig, out: Path, parts: dict[str, Cells]) -> str:
    """Error of the suffix average over iterations: the hardest setting of each kind."""
    far = max(config.distances)
    shown = [Setting(far, config.batch, "mix", "centred"), Setting(far, config.batch, "mix", "raw")]
    if config.small_distances:
        shown.append(Setting(max(config.small_distances), config.small_batch, "mix", "centred"))
    narrow = [s for s in config.settings["narrow"] if s.distance >= 8.0]
    shown += narrow[:1]
    cells = {key: cell for part in parts.values() for key, cell in part.items()}

    def painter(setting: Setting, labelled: bool) -> Any:
        def paint(axis: Any) -> None:
            for i, method in enumerate(METHODS):
                iteration, error = _curve(cells[setting.name, method])  # (K,), (K, S)
                error = np.maximum(error, 1e-3)
                axis.loglog(iteration, np.median(error, axis=1), color=colour(i), label=method if labelled else None)
                axis.fill_between(iteration, error.min(1), error.max(1), color=colour(i), alpha=0.13, linewidth=0)
            axis.axhline(config.tolerance, color="#8a8a8a", linewidth=0.9, linestyle=":")
            axis.set(xlabel="iteration", ylabel="|suffix average - R|")

        return paint

    panels = {_title(s): painter(s, i == 1) for i, s in enumerate(shown)}
    caption = (
        f"Median and range over n = {len(config.seeds)} seeds, each method at the step size chosen on other seeds. "
        "Dotted: the error that counts as right. Errors below 0.001 are drawn there."
    )
    return draw(out, "gaussian-sampled", panels, caption, aside=True)


def _title(setting: Setting) -> str:
    noise = "noise N(0, 1)" if setting.noise == "narrow" else "covering noise"
    return f"R = {setting.distance:g}, B = {setting.batch}, {noise}, {setting.form}"


def _curve(cell: Cell) -> tuple[FloatArray, FloatArray]:
    with np.load(cell.folders[cell.seeds[0]] / "curve.npz") as arrays:
        return arrays["iteration"].astype(np.float64), arrays["error"]
