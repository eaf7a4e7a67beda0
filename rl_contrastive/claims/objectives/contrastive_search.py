"""Claim: contrastive search leaves the loops of a greedy policy and finds the goal more often than random penalties.

A 10 x 10 grid; a policy leans towards the far corner, but every cell has its own wrong preferences, so greedy play ends
in a loop. The selector takes, of the k most probable moves, argmax (1 - alpha) p(v) - alpha max_j cos(h_v, h_j), h = a
bump of cells around the next one. A random penalty in [0, 1] has the same alpha and k, and knows nothing of the past.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from rl_contrastive.analysis.figures import colour, draw, rng_of
from rl_contrastive.analysis.statistics import Interval
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.grid import Cell, Grid, figure, gap_of, run_grid
from rl_contrastive.claims.ledger import Choice, Task
from rl_contrastive.claims.stacked import SEEDS
from rl_contrastive.config import Ge, Gt, In, Options, require
from rl_contrastive.planning.contrastive_search import contrastive_search
from rl_contrastive.registry import register
from rl_contrastive.spec import BoolArray, FloatArray, IntArray

MOVES = np.array([[0, 1], [0, -1], [1, 0], [-1, 0]])
RATIO = 1.5
"""The bar: reaching the goal this many times as often."""
SEARCH, RANDOM, OTHER = "contrastive search", "random penalty", "past of another episode"
GREEDY, SAMPLING = "greedy", "sampling"


@dataclass(frozen=True)
class SearchConfig(Options, where="contrastive-search"):
    """Sizes of the measurement."""

    size: Annotated[int, Ge(3)] = 10
    """Cells along a side."""
    steps: Annotated[int, Ge(1)] = 60
    """Steps of an episode."""
    k: Annotated[int, Ge(1)] = 3
    """Moves the selector chooses among."""
    alphas: tuple[float, ...] = (0.3, 0.6, 0.8, 0.9, 0.97)
    """Weights of the penalty; the bar is at `bar_alpha`, the paper's is .6."""
    bar_alpha: Annotated[float, In(0, 1)] = 0.9
    """One of alphas."""
    paper_alpha: Annotated[float, In(0, 1)] = 0.6
    """One of alphas."""
    lean: Annotated[float, Ge(0)] = 0.4
    """Logit of a move towards the goal; of one away from it with a minus."""
    noise: Annotated[float, Ge(0)] = 1.5
    """Standard deviation of each cell's own logits; set so that sampling reaches the goal in about 10 % of episodes."""
    width: Annotated[float, Gt(0)] = 1.5
    """Cells; features of cells at distance r have cosine exp(-r^2 / (2 width^2)), inside the grid."""
    other_widths: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0)
    """Further widths, reported at bar_alpha."""
    episodes: Annotated[int, Ge(1)] = 200
    """Worlds of a seed, an episode each."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds."""

    @classmethod
    def quick(cls) -> SearchConfig:
        """Seconds."""
        return cls(alphas=(0.6, 0.9), other_widths=(3.0,), episodes=60, seeds=(500, 501))

    def __post_init__(self) -> None:
        super().__post_init__()
        inside = {self.bar_alpha, self.paper_alpha} <= set(self.alphas)
        require(inside, "contrastive-search: alphas must hold bar_alpha and paper_alpha.")


@dataclass(frozen=True)
class Worlds:
    """n grids of one map, each with a policy of its own."""

    next_cell: IntArray
    """(S, 4)."""
    policy: FloatArray
    """(n, S, 4)."""


def draw_worlds(config: SearchConfig, n: int, *, rng: np.random.Generator) -> Worlds:
    """Softmax of lean * (steps gained) + noise; a move into the wall stays and gains 0. The goal is cell S - 1."""
    S = config.size**2
    xy = np.stack(np.divmod(np.arange(S), config.size), axis=1)  # (S, 2)
    after = np.clip(xy[:, None] + MOVES, 0, config.size - 1)  # (S, 4, 2)
    next_cell = after[..., 0] * config.size + after[..., 1]
    left = np.abs(xy - (config.size - 1)).sum(axis=1)  # steps to the goal
    logits = config.lean * (left[:, None] - left[next_cell]) + config.noise * rng.standard_normal((n, S, 4))
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return Worlds(next_cell, e / e.sum(axis=-1, keepdims=True))


def bumps(size: int, width: float) -> FloatArray:
    """(S, S) features exp(-|x - c|^2 / width^2) of cell x at every cell c."""
    xy = np.stack(np.divmod(np.arange(size**2), size), axis=1).astype(np.float64)
    return np.asarray(np.exp(-np.square(xy[:, None] - xy).sum(axis=-1) / width**2))


def play(
    worlds: Worlds, features: FloatArray, config: SearchConfig, method: str, alpha: float, *, rng: np.random.Generator
) -> tuple[BoolArray, IntArray]:
    """An episode of each world from cell 0, side by side: reached the goal (n,), distinct cells seen (n,)."""
    n, S, _ = worlds.policy.shape
    each = np.arange(n)
    cell, past = np.zeros(n, dtype=np.int64), np.zeros((n, config.steps + 1), dtype=np.int64)
    reached = np.zeros(n, dtype=np.bool_)
    for t in range(config.steps):
        p = worlds.policy[each, cell]  # (n, 4)
        if method == SAMPLING:
            move = (p.cumsum(axis=1) > rng.random((n, 1)) * p.sum(axis=1, keepdims=True)).argmax(axis=1)
        elif method == RANDOM:
            top = np.argsort(-p, axis=1, kind="stable")[:, : config.k]
            scores = (1.0 - alpha) * np.take_along_axis(p, top, axis=1) - alpha * rng.random(top.shape)
            move = top[each, scores.argmax(axis=1)]
        else:
            seen = np.roll(past[:, : t + 1], 1, axis=0) if method == OTHER else past[:, : t + 1]
            h, history = features[worlds.next_cell[cell]], features[seen]
            move = contrastive_search(p, h, history, alpha=alpha, k=config.k)
        cell = np.where(reached, cell, worlds.next_cell[cell, move])
        past[:, t + 1] = cell
        reached |= cell == S - 1
    return reached, np.array([len(set(row)) for row in past.tolist()])


def fit(config: SearchConfig, task: Task) -> dict[str, Sequence[float]]:
    """Share of episodes that reach the goal, and distinct cells, of one selector; all of a seed share their worlds."""
    (seed,) = task.seeds
    worlds = draw_worlds(config, config.episodes, rng=rng_of(seed, 0))
    features = bumps(config.size, float(task.setting))
    kind, _, alpha = task.method.partition(" @ ")
    reached, cells = play(worlds, features, config, kind, float(alpha or 0.0), rng=rng_of(seed, 1))
    return {"reached": [float(reached.mean())], "cells": [float(cells.mean())]}


@register("claim", "objectives/contrastive-search", SearchConfig)
def contrastive_search_grid(config: SearchConfig, context: Context) -> Report:
    """Contrastive search reaches the goal 1.5 times as often as a random penalty."""
    curve = [f"{kind} @ {a:g}" for kind in (SEARCH, RANDOM) for a in config.alphas]
    bar = f"{OTHER} @ {config.bar_alpha:g}"
    main: dict[str, list[Choice]] = {m: [{}] for m in (GREEDY, SAMPLING, *curve, bar)}
    grid = Grid([f"{config.width:g}"], main, "reached", (), config.seeds)
    cells = {m: cell for (_, m), cell in run_grid(fit, config, grid, context.part("curve")).items()}
    at_bar = f"{SEARCH} @ {config.bar_alpha:g}"
    wide: dict[tuple[str, str], Cell] = {}
    if config.other_widths:
        grid = Grid([f"{w:g}" for w in config.other_widths], {at_bar: [{}]}, "reached", (), config.seeds)
        wide = run_grid(fit, config, grid, context.part("widths"))
    return _report(config, context, cells, {w: cell for (w, _), cell in wide.items()})


def ratio(a: Cell, b: Cell) -> float:
    """How many times as often a's episodes reach the goal, all seeds together."""
    often, rarely = a.metrics["reached"].sum(), b.metrics["reached"].sum()
    return float(often / rarely) if rarely else (np.inf if often else 1.0)


def _report(config: SearchConfig, context: Context, cells: dict[str, Cell], widths: dict[str, Cell]) -> Report:
    search, random, other = (cells[f"{kind} @ {config.bar_alpha:g}"] for kind in (SEARCH, RANDOM, OTHER))
    paper, at_paper = (cells[f"{kind} @ {config.paper_alpha:g}"] for kind in (SEARCH, RANDOM))
    best = max((c for m, c in cells.items() if m.startswith(RANDOM)), key=lambda c: c.interval("reached").estimate)
    gap, over_best = gap_of(search, random, "reached"), gap_of(search, best, "reached")
    n = config.episodes * len(config.seeds)

    def against(a: Cell, b: Cell) -> str:
        return f"{a.interval('reached').estimate:.3f} against {b.interval('reached').estimate:.3f}, {ratio(a, b):.2f} x"

    def sure(value: Interval) -> bool:
        return bool(value.low > 0.0)

    bars = [
        Bar(f"goal reached at alpha {config.bar_alpha:g}", f">= {RATIO} x random penalty at the same alpha",
            f"{against(search, random)}; difference {figure(gap)}; {n} episodes", ratio(search, random) >= RATIO),
        Bar("against the best random penalty", "difference > 0, its interval too",
            f"{against(search, best)} ({best.method}); difference {figure(over_best)}", sure(over_best)),
        Bar(f"control: the paper's alpha {config.paper_alpha:g}", f"must not be {RATIO} x random penalty",
            against(paper, at_paper), ratio(paper, at_paper) >= RATIO, control=True),
        Bar(f"control: {OTHER}", f"must not be {RATIO} x random penalty", against(other, random),
            ratio(other, random) >= RATIO, control=True),
    ]  # fmt: skip
    rows = [(m, *(figure(c.interval(x)) for x in ("reached", "cells"))) for m, c in cells.items()]
    wide = [(w, *(figure(c.interval(x)) for x in ("reached", "cells"))) for w, c in widths.items()]
    note = f"Means over {len(config.seeds)} seeds of {config.episodes} episodes, 95% t-intervals over the seeds."
    return Report(
        claim="Contrastive search with alpha fitted to the size of the probabilities reaches a goal that greedy play "
        "and random penalties mostly miss",
        answer=_answer(config, cells, widths),
        bars=bars,
        tables=[
            Table("Selectors, k = " + str(config.k), ("selector @ alpha", "reached", "distinct cells"), rows, note),
            Table(f"Contrastive search at alpha {config.bar_alpha:g} by width of the features",
                  ("width", "reached", "distinct cells"), wide, f"The others have width {config.width:g}. " + note),
        ],
        plots=[_plot(config, context, cells)],
        numbers={"cells": {m: c.metrics for m, c in cells.items()}, "widths": {w: c.metrics for w, c in widths.items()},
                 "ratio": ratio(search, random), "difference": gap, "episodes": n},
    )  # fmt: skip


def _answer(config: SearchConfig, cells: dict[str, Cell], widths: dict[str, Cell]) -> str:
    """What the numbers support."""
    a = f"{config.bar_alpha:g}"
    search, random, other = (cells[f"{kind} @ {a}"] for kind in (SEARCH, RANDOM, OTHER))
    often = {m: c.interval("reached").estimate for m, c in cells.items()}
    words = [
        f"At alpha {a} contrastive search reaches the goal {ratio(search, random):.1f} times as often as a random "
        f"penalty ({often[search.method]:.3f} against {often[random.method]:.3f}; greedy {often[GREEDY]:.3f}, sampling "
        f"{often[SAMPLING]:.3f}); with the past of another episode it reaches it in {often[other.method]:.3f}.",
        f"At the paper's {config.paper_alpha:g} it reaches {often[f'{SEARCH} @ {config.paper_alpha:g}']:.3f}.",
    ]
    if widths:
        by_width = ", ".join(f"{w}: {c.interval('reached').estimate:.3f}" for w, c in widths.items())
        words.append(f"alpha has to suit the features as well: at {a}, by their width, {by_width}.")
    return " ".join(words)


def _plot(config: SearchConfig, context: Context, cells: dict[str, Cell]) -> str:
    def paint(metric: str) -> Any:
        def panel(axis: Any) -> None:
            for i, kind in enumerate((SEARCH, RANDOM)):
                found = [cells[f"{kind} @ {a:g}"].interval(metric) for a in config.alphas]
                mid, low, high = (np.array([getattr(v, x) for v in found]) for x in ("estimate", "low", "high"))
                axis.fill_between(config.alphas, low, high, color=colour(i), alpha=0.2, linewidth=0)
                axis.plot(config.alphas, mid, "o-" if i == 0 else "s--", color=colour(i), label=kind)
            for kind, style in ((SAMPLING, ":"), (GREEDY, "-.")):
                axis.axhline(cells[kind].interval(metric).estimate, color="#555555", linestyle=style, label=kind)
            axis.set(xlabel="alpha, weight of the penalty", ylim=(0, None))
            axis.set_ylabel("share of episodes" if metric == "reached" else "cells")

        return panel

    panels = {"Reached the goal": paint("reached"), "Distinct cells": paint("cells")}
    text = (
        f"{config.size} x {config.size} grid, {config.steps} steps, k {config.k}, features of width {config.width:g}; "
        f"{len(config.seeds)} seeds of {config.episodes} episodes, bands: 95% t-intervals."
    )
    return draw(context.out, "contrastive-search", panels, text)
