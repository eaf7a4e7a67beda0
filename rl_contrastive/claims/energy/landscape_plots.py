"""Pictures of the study landscape: losses and gradients along the path from q to p*, and slices in (mean, log Z)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path as Folder
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rl_contrastive.analysis.figures import colour, draw, ticks_at
from rl_contrastive.claims.energy.population import Line, Shape, line, truth
from rl_contrastive.spec import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes


ARROWS = 11
"""Arrows an axis of a slice."""


NEAR_END = 0.9
"""Flatness is looked for up to this share of the way: at the end every gradient vanishes, as it must."""


@dataclass(frozen=True)
class Path:
    """One loss from q to p* through the normalised models N(share * R, 1); arrays are (n,)."""

    share: FloatArray
    """0 = q, ..., 1 = p*."""
    value: FloatArray
    """The loss."""
    size: FloatArray
    """Norm of the gradient in (theta, c), or |gradient| in theta for the likelihood, which has no c."""
    cosine: FloatArray
    """Cosine of the angle between the descent direction and the straight way to p*; NaN at p*."""
    smallest: FloatArray
    """Smallest eigenvalue of the Hessian."""
    largest: FloatArray
    """Largest eigenvalue."""

    @property
    def flat(self) -> float:
        """Smallest gradient on the first nine tenths of the way, relative to the one at q."""
        return float(self.size[self.share <= NEAR_END].min() / self.size[0])

    @property
    def path_condition(self) -> float:
        """Largest curvature on the way over the smallest at p*."""
        return float(self.largest.max() / self.smallest[-1])

    @property
    def end_condition(self) -> float:
        """Largest over smallest curvature at p*."""
        return float(self.largest[-1] / self.smallest[-1])


def paths(
    out: Folder, distance: float, shown: dict[str, Path], distances: Sequence[float], conditions: dict[str, list[float]]
) -> str:
    """Loss, size and direction of the gradient along the path at R = distance; condition numbers over all distances."""
    looks = {name: {"color": colour(i), "label": name, "linewidth": 1.6} for i, name in enumerate(shown)}

    def losses(axis: Any) -> None:
        for name, path in shown.items():
            drop = path.value - path.value[-1]
            axis.plot(path.share, drop / drop[0], **{**looks[name], "label": None})
        axis.set(xlabel="model mean / R", ylabel="loss above its minimum, at q = 1")

    def sizes(axis: Any) -> None:
        for name, path in shown.items():
            axis.semilogy(path.share[:-1], path.size[:-1] / path.size[0], **looks[name])
        axis.set(xlabel="model mean / R", ylabel="gradient, at q = 1")

    def directions(axis: Any) -> None:
        for name, path in shown.items():
            if name != "eNCE":  # the direction of log eNCE
                axis.plot(path.share, path.cosine, **{**looks[name], "label": None})
        axis.set(xlabel="model mean / R", ylabel="cosine: descent to straight way")

    def numbers(axis: Any) -> None:
        for name, values in conditions.items():
            axis.loglog(distances, values, marker="o", markersize=4, **{**looks[name], "label": None})
        ticks_at(axis.xaxis, distances)
        axis.set(xlabel="distance R", ylabel="condition number of the path")

    panels: dict[str, Callable[[Axes], None]] = {
        f"Loss, R = {distance:g}": losses, f"Size of the gradient, R = {distance:g}": sizes,
        f"Direction of descent, R = {distance:g}": directions, "Largest curvature / smallest at p*": numbers,
    }  # fmt: skip
    caption = (
        "Noise and start N(0, 1), data N(R, 1), models N(share R, 1) with the right log Z between them; exact "
        "expectations by quadrature, so no seeds and no interval. eNCE has the direction of log eNCE."
    )
    return draw(out, "landscape-path", panels, caption, aside=True)


def slices(out: Folder, distance: float, pixels: int, evaluate: Callable[[str, torch.Tensor, Line], Shape]) -> str:
    """Loss over (mean, log Z) with the direction of descent, one panel a loss."""
    at, end = line(distance), truth(distance)
    theta = torch.linspace(-0.15 * distance, 1.15 * distance, pixels, dtype=torch.float64)
    c = torch.linspace(-0.25 * float(end[1]), 1.25 * float(end[1]), pixels, dtype=torch.float64)

    thin = np.linspace(0, pixels - 1, ARROWS + 2).round().astype(int)[1:-1]  # not on the frame
    x, y = theta.numpy(), c.numpy()

    def painter(name: str) -> Callable[[Axes], None]:
        def paint(axis: Any) -> None:
            found = evaluate(name, _mesh(theta, c), at)
            excess = (found.value - evaluate(name, end, at).value).clamp(min=1e-16).log10().numpy()
            mesh = axis.contourf(x, y, excess, levels=_levels(excess), cmap="Greys", extend="both", alpha=0.8)
            axis.get_figure().colorbar(mesh, ax=axis, label="log10(loss - minimum)", format="%.1f")
            g = found.gradient.numpy()[np.ix_(thin, thin)]
            u, v = np.moveaxis(-g / np.maximum(np.linalg.norm(g, axis=-1, keepdims=True), 1e-300), -1, 0)
            axis.quiver(x[thin], y[thin], u, v, angles="xy", color=colour(0), width=0.006, scale=16)
            along = np.linspace(0.0, distance, 100)
            axis.plot(along, 0.5 * along**2, color=colour(1), linewidth=1.2)
            axis.plot([0.0], [0.0], "o", color=colour(1), markersize=5)
            axis.plot([distance], [float(end[1])], "*", color=colour(1), markersize=10)
            axis.set(xlabel="mean", ylabel="log Z", xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))

        return paint

    panels = {title: painter(title) for title in ("NCE", "log eNCE", "likelihood")}
    caption = (
        f"R = {distance:g}. Arrows: direction of descent, all of one length. Line: models with the right log Z, from q "
        "(dot) to p* (star). The likelihood computes log Z, so it does not depend on it. Exact, by quadrature."
    )
    return draw(out, "landscape-slices", panels, caption)


def _mesh(theta: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """(len(c), len(theta), 2), as contour plots want it."""
    rows, columns = torch.meshgrid(c, theta, indexing="ij")
    return torch.stack([columns, rows], dim=-1)


def _levels(values: Any) -> Any:
    """About twelve levels between the extremes, away from the minimum's pixel."""
    low, high = np.quantile(values, [0.02, 1.0])
    return np.linspace(low, high, 13)
