"""The matrix of matches as JSON, as Markdown tables and as a heat map: rows are maximisers, columns minimisers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_contrastive.analysis import plots
from rl_contrastive.analysis import statistics as st
from rl_contrastive.analysis.tables import Table, finite, interval, number, unsigned_zeros
from rl_contrastive.runs.load import (
    Trained,
)
from rl_contrastive.spec import FloatArray

OUTCOMES = ("win", "draw", "loss")
"""Outcomes for max: return above, at or below 0."""


LEVEL = 0.95


@dataclass(frozen=True)
class Match:
    """One cell of the matrix: the runs of agent X as max against those of agent Y as min."""

    maximiser: str
    minimiser: str
    episodes: int
    """Episodes of all pairs of runs together."""
    mean: st.Interval
    """Mean return of max."""
    shares: dict[str, st.Interval]
    """Shares of OUTCOMES; empty where all rewards are >= 0."""
    means: FloatArray
    """(n, m) mean return of each run of X against each run of Y."""


@dataclass(frozen=True)
class Matches:
    """All cells on one game, agents in the order in which they were given."""

    game: str
    agents: tuple[str, ...]
    runs: dict[str, tuple[Trained, ...]]
    cells: dict[tuple[str, str], Match]
    episodes: int
    """Of one pair of runs."""
    seed: int
    nash_value: float | None

    @property
    def signed(self) -> bool:
        """Whether wins and losses are defined."""
        return any(cell.shares for cell in self.cells.values())


def as_json(played: Matches, left_out: list[str]) -> dict[str, Any]:
    """JSON values, NaN as null."""
    return {
        "game": played.game,
        "nash_value": played.nash_value,
        "episodes_per_pair_of_runs": played.episodes,
        "seed": played.seed,
        "level": LEVEL,
        "agents": [
            {"agent": agent, "seeds": [r.config.seed for r in runs], "folders": [str(r.folder) for r in runs]}
            for agent, runs in played.runs.items()
        ],
        "matches": [_cell(cell) for cell in played.cells.values()],
        "left_out": left_out,
        "notes": notes(played),
    }


def _cell(cell: Match) -> dict[str, Any]:
    return {
        "max": cell.maximiser,
        "min": cell.minimiser,
        "episodes": cell.episodes,
        "mean_return": finite(cell.mean),
        **{name: finite(share) for name, share in cell.shares.items()},
        "means_by_run": cell.means.tolist(),
    }


def markdown(played: Matches, left_out: list[str]) -> str:
    """table.md: mean returns, then the shares of wins and draws where there are any, then how they were made."""
    nash = "" if played.nash_value is None else f" (Nash value {number(played.nash_value)})"
    lines = [f"## {played.game}: mean return of max [95% CI]{nash}", ""]
    lines += _matrix(played, lambda cell: interval(cell.mean))
    if played.signed:
        for name, heading in zip(OUTCOMES, ("wins", "draws", "losses"), strict=True):
            lines += ["", f"### Share of {heading} of max [95% CI]", ""]
            lines += _matrix(played, lambda cell, name=name: interval(cell.shares[name]))
    return "\n".join([*lines, "", *(f"- {note}" for note in [*left_out, *notes(played)])]) + "\n"


def _matrix(played: Matches, cell: Any) -> list[str]:
    rows = [(x, *(cell(played.cells[x, y]) for y in played.agents)) for x in played.agents]
    return Table("", ("max \\ min", *played.agents), rows, text_columns=1).markdown()


def notes(played: Matches) -> list[str]:
    """How each number was made, one sentence each."""
    sizes = ", ".join(f"{agent} {len(runs)}" for agent, runs in played.runs.items())
    sentences = [
        f"Runs (seeds) of each agent: {sizes}. Every run of a row meets every run of a column in {played.episodes} "
        f"episodes, all on the same seeds (generator seed {played.seed}); policies are the bonus-free marginals.",
        "Mean return: the wider of two 95% intervals: the bootstrap that resamples the runs of both sides, and the "
        "normal one over episodes.",
    ]
    if played.signed:
        sentences.append(
            "Win, draw, loss of max: return above, at, below 0. The wider of Wilson's interval over the "
            f"{played.episodes} episodes and the bootstrap over runs."
        )
    return sentences


def draw(played: Matches, stem: Path) -> None:
    """stem.png and stem.svg: colour is the mean return of max, text its interval and the share of wins."""
    names, n = played.agents, len(played.agents)
    with plots.style():
        figure = plots.new_figure(max(3.4 + 1.5 * n, 6.0), 1.9 + 0.85 * n)
        axis = figure.subplots()
        table = np.array([[played.cells[x, y].mean.estimate for y in names] for x in names])
        low, high, centre = _scale(played, table)
        decimals = 2 if high - low > 0.2 else 3
        # A mesh, not an image: the SVG then holds no raster.
        mesh = axis.pcolormesh(table, cmap=plots.diverging(), vmin=low, vmax=high, edgecolor="white", linewidth=2)
        axis.invert_yaxis()
        for i, x in enumerate(names):
            for j, y in enumerate(names):
                dark = abs(table[i, j] - centre) > 0.66 * (high - centre)
                axis.text(
                    j + 0.5, i + 0.5, _text(played.cells[x, y], decimals), ha="center", va="center", fontsize=8.5,
                    color="white" if dark else plots.INK, linespacing=1.35,
                )  # fmt: skip
        axis.set_xticks(np.arange(n) + 0.5, [plots.wrap(name, 18) for name in names])
        axis.set_yticks(np.arange(n) + 0.5, [plots.wrap(name, plots.LABEL) for name in names])
        axis.tick_params(length=0, labelcolor=plots.INK)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        axis.set(title=plots.verbatim(f"{played.game}: return of max"), xlabel="minimiser", ylabel="maximiser")
        bar = figure.colorbar(mesh, ax=axis, shrink=0.9, aspect=18, pad=0.02)
        bar.outline.set_visible(False)
        words = "" if played.nash_value is None else f"; white: the Nash value {number(played.nash_value)}"
        plots.caption(
            figure,
            f"Blue: max does better{words}. A minimiser is good where its column is orange, a maximiser where its row "
            f"is blue. Mean return [{LEVEL:.0%} CI]{', share of wins' if played.signed else ''}.",
        )
        plots.save(figure, stem)


def _scale(played: Matches, table: Any) -> tuple[float, float, float]:
    """Ends of the colours, symmetric about the Nash value, or about 0 or the middle where it is not known."""
    if played.nash_value is not None:
        centre = played.nash_value
    else:
        centre = 0.0 if played.signed else float(table.min() + table.max()) / 2
    reach = max(float(np.abs(table - centre).max()), 1e-9)
    return centre - reach, centre + reach, centre


def _text(cell: Match, decimals: int) -> str:
    mean, low, high = (f"{v:.{decimals}f}" for v in (cell.mean.estimate, cell.mean.low, cell.mean.high))
    text = unsigned_zeros(mean if math.isnan(cell.mean.low) else f"{mean}\n[{low}, {high}]")
    return text + (f"\nwins {cell.shares['win'].estimate:.1%}" if cell.shares else "")
