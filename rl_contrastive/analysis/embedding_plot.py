"""An embedding as a picture: the two directions in which its vectors vary most, coloured by what they stand for.

phi of pairs (s,a) and psi of successors s', in each feature space, of many steps in some. Vectors that coincide are one
disc, whose area grows with their number. Colours: the latent (block, factor or state) where there are few enough;
beside it the step where all steps share a space; else the reward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rl_contrastive.analysis.plots import PALETTE, caption, new_figure, verbatim
from rl_contrastive.spec import FloatArray, IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rl_contrastive.analysis.watched import Watched

MOST_PANELS = 5
FLAT = 1e-6
"""A second direction with less of the variance is none."""
NAMES = {"phi": "φ(s,a)", "psi": "ψ(s′)"}


def principal(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coordinates (N, 2) along the two directions of largest variance, and their shares of it (2,); x (N, d).

    The sign is that in which the largest loading is positive. Missing directions, and what is rounding, are 0.
    """
    centred = x - x.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    real = values > 1e-9 * max(float(np.abs(x).max()), 1e-300) * np.sqrt(len(x))
    axes = axes * np.where(real, np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]), 0.0)[:, None]
    out, share = np.zeros((len(x), 2)), np.zeros(2)
    n = min(2, len(axes))
    out[:, :n] = centred @ axes[:n].T
    variance = np.square(np.where(real, values, 0.0))
    share[:n] = variance[:n] / (variance.sum() or 1.0)
    return out, share


def picture(seen: Watched, kind: str, title: str) -> Figure:
    """The figure, in the style that holds."""
    spaces = np.unique(seen.level)
    shown = spaces[np.linspace(0, len(spaces) - 1, min(MOST_PANELS, len(spaces))).astype(np.int64)]
    figure = _one_space(seen, kind) if len(spaces) == 1 else _steps(seen, kind, shown)
    figure.suptitle(verbatim(title), fontsize=11, x=0.01, ha="left", weight="bold")
    text = "The two principal directions. Vectors that coincide are one disc, whose area grows with their number."
    if len(spaces) > 1:
        text += f" {len(shown)} of {len(spaces)} steps; each has its own features and its own axes."
        text += " Where one direction holds all variance, each latent has a line of its own." if few(seen, kind) else ""
    caption(figure, text)
    return figure


def few(seen: Watched, kind: str) -> bool:
    """Whether there are latents, and a colour for each."""
    return bool(kind) and len(np.union1d(seen.latent, seen.next_latent)) <= len(PALETTE)


def _one_space(seen: Watched, kind: str) -> Figure:
    """phi to the left, psi to the right; by latents above, where there are few, and by steps."""
    by = ["latent", "step"] if few(seen, kind) else ["step"]
    figure = new_figure(10.4, 1.2 + 3.9 * len(by))
    grid = figure.subplots(len(by), 2, squeeze=False)
    for axes, what in zip(grid, by, strict=True):
        for ax, side in zip(axes, NAMES, strict=True):
            marks = _panel(ax, seen, side, what, seen)
            ax.set_title(f"{NAMES[side]} by {kind if what == 'latent' else 'step'}")
        if what == "latent":
            axes[1].legend(handles=_handles(seen, kind), loc="best", fontsize=9)
        else:
            _bar(figure, marks, list(axes), "step")
    return figure


def _steps(seen: Watched, kind: str, shown: IntArray) -> Figure:
    """phi above, psi below; a column for each step, by latents or by rewards."""
    what = "latent" if few(seen, kind) else "reward"
    figure = new_figure(2.45 * len(shown) + 1.7, 5.9)
    grid = figure.subplots(2, len(shown), squeeze=False)
    for axes, side in zip(grid, NAMES, strict=True):
        for ax, space in zip(axes, shown, strict=True):
            marks = _panel(ax, seen.take(seen.level == space), side, what, seen)
            ax.set_title(f"{NAMES[side]}, step {space}")
    if what == "latent":
        figure.legend(handles=_handles(seen, kind), loc="outside right center", fontsize=9)
    else:
        _bar(figure, marks, list(grid.ravel()), "reward")
    return figure


def _panel(ax: Axes, part: Watched, side: str, what: str, whole: Watched) -> Any:
    """One space: its discs, small ones on large ones; colours mean the same in all panels of `whole`."""
    xy, share = principal(getattr(part, side))
    value = {"step": part.step, "reward": part.reward}.get(what)
    if value is None:
        value = part.latent if side == "phi" else part.next_latent
    flat, lanes = share[1] < FLAT, what == "latent" and share[1] < FLAT
    xy[:, 1] = 0.0 if flat else xy[:, 1]
    places, label, count = _discs(xy, value)
    order = np.argsort(-count, kind="stable")
    places, label, count = places[order], label[order], count[order]
    places[:, 1] = label if lanes else places[:, 1]
    how: dict[str, Any] = {"s": 10.0 + 240.0 * np.sqrt((count - 1) / len(xy)), "alpha": 0.65, "linewidths": 0}
    if what == "latent":
        marks = ax.scatter(places[:, 0], places[:, 1], c=[_colour(int(k)) for k in label], **how)
    else:
        values = getattr(whole, what)
        shade: dict[str, Any] = {"cmap": "viridis", "vmin": float(values.min()), "vmax": float(values.max()) + 1e-9}
        marks = ax.scatter(places[:, 0], places[:, 1], c=label, **shade, **how)
    _axes(ax, places, share, [int(k) for k in np.union1d(whole.latent, whole.next_latent)] if lanes else [], flat)
    return marks


def _axes(ax: Axes, places: FloatArray, share: FloatArray, lanes: list[int], flat: bool) -> None:
    ax.margins(0.12)
    ax.set_xlabel(f"{share[0]:.0%} of the variance", fontsize=8)
    ax.tick_params(labelsize=7)
    if flat:
        ax.set_yticks(lanes, [""] * len(lanes))
        ax.set_ylim(lanes[0] - 0.7 if lanes else -1.0, lanes[-1] + 0.7 if lanes else 1.0)
    else:
        ax.set_ylabel(f"{share[1]:.0%}", fontsize=8)
    if float(np.ptp(places[:, 0])) == 0:
        ax.set_xlim(float(places[0, 0]) - 1.0, float(places[0, 0]) + 1.0)


def _discs(xy: FloatArray, value: Any) -> tuple[FloatArray, Any, IntArray]:
    """Places (M, 2), values (M,) and numbers (M,) of what coincides to a thousandth of the extent."""
    extent = float(np.abs(xy).max()) or 1.0
    keys = np.concatenate([np.round(xy / extent, 3), np.asarray(value, dtype=np.float64)[:, None]], axis=1)
    found, count = np.unique(keys, axis=0, return_counts=True)
    return found[:, :2] * extent, found[:, 2], count


def _colour(label: int) -> str:
    return PALETTE[label % len(PALETTE)]


def _handles(seen: Watched, kind: str) -> list[Any]:
    from matplotlib.lines import Line2D

    dot: dict[str, Any] = {"marker": "o", "linestyle": "", "markersize": 7}
    labels = np.union1d(seen.latent, seen.next_latent)
    return [Line2D([], [], color=_colour(int(k)), label=f"{kind} {k}", **dot) for k in labels]


def _bar(figure: Figure, marks: Any, axes: list[Any], what: str) -> None:
    from matplotlib.ticker import MaxNLocator

    bar = figure.colorbar(marks, ax=axes, fraction=0.03, pad=0.02)
    bar.set_label(what)
    if what == "step":
        bar.locator = MaxNLocator(nbins=6, integer=True)
        bar.update_ticks()
    bar.outline.set_visible(False)
