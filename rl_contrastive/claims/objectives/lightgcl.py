"""Claim: a low-rank view of the table of counts raises the coverage of a recommender; is it better than its raw SVD?

A low-rank MDP gives transitions of pairs (s,a) to successors s'; a fifth of the edges is held out. recall@20: share of
a pair's held-out successors among the 20 best that it has not been seen with. Controls: popularity, the raw SVD, no
contrast, a view with randomly dropped edges. MovieLens-100k is measured too where it is installed (`movielens.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.analysis.figures import colour, draw, rng_of
from rl_contrastive.analysis.statistics import Interval
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.grid import Cell, Grid, figure, gap_of, metric_of, run_grid
from rl_contrastive.claims.ledger import Choice, Task
from rl_contrastive.claims.objectives import movielens
from rl_contrastive.claims.stacked import SEEDS
from rl_contrastive.config import Ge, Gt, Options, require
from rl_contrastive.objectives.graph import (
    Layers,
    SVDView,
    SVDViewConfig,
    agreement,
    both_sides,
    drop_edges,
    normalised,
    propagate,
)
from rl_contrastive.objectives.views import unit
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

TOP = 20
POPULARITY, RAW, SCALED, NONE = "popularity", "raw SVD", "raw SVD x root of popularity", "no contrast"
VIEW, UNIT, DROP = "SVD view", "unit SVD view", "dropping"
MOVIES, NOISY = "MovieLens-100k", "noise"


@dataclass(frozen=True)
class LightGCLClaimConfig(Options, where="lightgcl"):
    """Sizes of the measurement."""

    pairs: Annotated[int, Ge(2)] = 300
    """Rows of the table: pairs (s,a)."""
    successors: Annotated[int, Ge(21)] = 200
    """Its columns: states s'."""
    rank: Annotated[int, Ge(1)] = 5
    """Rank of the MDP and of the view, q."""
    settings: tuple[str, ...] = ("4000", "1500", "4000 noise")
    """Transitions of the low-rank world; noise: half as many random edges on top. The first has all methods."""
    weights: tuple[float, ...] = (0.2, 0.02, 0.002)
    """Weights of the contrast; the paper's is .2."""
    steps: Annotated[int, Ge(1)] = 300
    """Steps of Adam, all edges each."""
    movie_steps: Annotated[int, Ge(0)] = 120
    """The same on MovieLens-100k; 0 leaves it out."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Adam's step size."""
    start: Annotated[float, Gt(0)] = 0.01
    """Standard deviation of the first embeddings."""
    mixing: Annotated[float, Gt(0)] = 0.2
    """Parameter of the Dirichlet law of phi: the smaller, the closer each pair is to one of the factors."""
    dim: Annotated[int, Ge(2)] = 32
    """d."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds."""

    @classmethod
    def quick(cls) -> LightGCLClaimConfig:
        """Seconds."""
        return cls(settings=("4000",), weights=(0.2, 0.02), steps=80, movie_steps=0, seeds=(500, 501))

    def __post_init__(self) -> None:
        super().__post_init__()
        good = all(word.split(" ")[0].isdigit() and word.split(" ")[1:] in ([], [NOISY]) for word in self.settings)
        require(good, f"lightgcl: a setting is a number of transitions or 'N {NOISY}', got {self.settings}.")


def low_rank_counts(config: LightGCLClaimConfig, transitions: int, *, rng: np.random.Generator) -> FloatArray:
    """Counts (pairs, successors) of transitions of a random MDP, pairs drawn uniformly: P = phi psi'."""
    phi = rng.dirichlet(np.full(config.rank, config.mixing), size=config.pairs)
    e = np.exp(1.5 * rng.standard_normal((config.rank, config.successors)))
    P = phi @ (e / e.sum(axis=1, keepdims=True))
    pair = rng.integers(config.pairs, size=transitions)
    u, cdf = rng.random(transitions), P.cumsum(axis=1)
    after = np.array([np.searchsorted(cdf[i], x * cdf[i, -1], side="right") for i, x in zip(pair, u, strict=True)])
    counts = np.zeros(P.shape)
    np.add.at(counts, (pair, after), 1.0)
    return counts


def split(counts: FloatArray, *, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Counts to train on and the held-out fifth of the edges, each (n, m); an edge is an entry > 0."""
    held = (counts > 0) & (rng.random(counts.shape) < 0.2)
    return np.where(held, 0.0, counts), held.astype(np.float64)


def data(config: LightGCLClaimConfig, setting: str, seed: int) -> tuple[FloatArray, FloatArray]:
    """Training counts and held-out edges of one setting and seed."""
    rng = rng_of(seed, 0)
    if setting == MOVIES:
        edges = movielens.edges()
        counts = np.zeros(edges.max(axis=0) + 1)
        counts[edges[:, 0], edges[:, 1]] = 1.0
        return split(counts, rng=rng)
    size, *noisy = setting.split(" ")
    train, held = split(low_rank_counts(config, int(size), rng=rng), rng=rng)
    if noisy:
        extra = rng.integers(train.size, size=int(0.5 * (train > 0).sum()))
        free = extra[held.ravel()[extra] == 0]
        train.ravel()[free] += 1.0
    return train, held


def judged(scores: Tensor, train: FloatArray, held: FloatArray) -> dict[str, Sequence[float]]:
    """recall@20 over the rows with held-out edges, and the share of columns that is recommended to anyone."""
    best = scores.masked_fill(torch.from_numpy(train > 0), -torch.inf).topk(TOP, dim=1).indices.numpy()
    rows = held.sum(axis=1) > 0
    found = np.take_along_axis(held, best, axis=1).sum(axis=1)[rows] / held.sum(axis=1)[rows]
    return {"recall": [float(found.mean())], "coverage": [len(np.unique(best[rows])) / held.shape[1]]}


def fit(config: LightGCLClaimConfig, task: Task) -> dict[str, Sequence[float]]:
    """recall@20 and coverage of one method on one seed; the methods of a seed share data and first embeddings."""
    (seed,) = task.seeds
    train, held = data(config, task.setting, seed)
    counts = torch.from_numpy(train).float()
    if task.method == POPULARITY:
        return judged(counts.sum(0).expand_as(counts), train, held)
    if task.method in (RAW, SCALED):  # N divides by the root of the popularity, which SCALED undoes
        G = SVDView(SVDViewConfig(config.rank))(counts)
        return judged(G if task.method == RAW else G * counts.sum(0).sqrt(), train, held)
    kind, _, weight = task.method.partition(" x ")
    steps = config.movie_steps if task.setting == MOVIES else config.steps
    graph = trained(config, counts, kind, float(weight or 0.0), steps, seed)
    return judged(graph.E_u @ graph.E_i.T, train, held)


def trained(config: LightGCLClaimConfig, counts: Tensor, kind: str, weight: float, steps: int, seed: int) -> Layers:
    """Embeddings after Adam on BPR + weight L_s: an observed edge should score higher than a random column."""
    rng = torch.Generator().manual_seed(seed)
    n, m = counts.shape
    start = torch.randn(n + m, config.dim, generator=rng) * config.start
    E_u, E_i = nn.Parameter(start[:n]), nn.Parameter(start[n:])
    optimiser = torch.optim.Adam([E_u, E_i], lr=config.lr)
    rows, columns = counts.nonzero(as_tuple=True)
    N = normalised(counts)
    operator = N.to_sparse() if n * m > 10**6 else N  # of MovieLens 5 % is filled
    if kind == DROP:
        view = (torch.eye(n), normalised(drop_edges(counts, 0.1, rng=rng)))
    else:
        view = SVDView(SVDViewConfig(config.rank)).factors(counts)
    for _ in range(steps):
        graph = propagate(operator, view if weight else (N[:, :0], N[:0]), E_u, E_i)
        scores = (graph.E_u @ graph.E_i.T).flatten()
        other = torch.randint(m, rows.shape, generator=rng)
        loss = -nn.functional.logsigmoid(scores[rows * m + columns] - scores[rows * m + other]).mean()
        if weight:
            nodes = [torch.randperm(size, generator=rng)[:512] for size in (n, m)]
            loss = loss + weight * (unit_sides if kind == UNIT else both_sides)(graph, nodes[0], nodes[1])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return Layers(graph.E_u.detach(), graph.E_i.detach(), graph.G_u.detach(), graph.G_i.detach())


def unit_sides(graph: Layers, rows: Tensor, columns: Tensor) -> Tensor:
    """L_s of vectors of length 1."""
    sides = ((graph.G_u, graph.E_u, rows), (graph.G_i, graph.E_i, columns))
    terms = [agreement(unit(G[i]), unit(E[i]), unit(E), temperature=0.2).mean() for G, E, i in sides]
    return terms[0] + terms[1]


@register("claim", "objectives/lightgcl", LightGCLClaimConfig)
def lightgcl(config: LightGCLClaimConfig, context: Context) -> Report:
    """Recall and coverage with a low-rank view of the counts, against raw SVD, popularity and no contrast."""
    fixed = [POPULARITY, RAW, SCALED, NONE]
    every = [f"{kind} x {w:g}" for kind in (VIEW, DROP) for w in config.weights]
    every += [f"{UNIT} x {w:g}" for w in config.weights[:2]]
    few = [f"{VIEW} x {w:g}" for w in config.weights[1:]]
    film = bool(config.movie_steps) and movielens.path() is not None
    cells: dict[tuple[str, str], Cell] = {}
    for i, setting in enumerate((*config.settings, *((MOVIES,) if film else ()))):
        methods: dict[str, list[Choice]] = {m: [{}] for m in [*fixed, *(every if i == 0 else few)]}
        cells |= run_grid(fit, config, Grid([setting], methods, "recall", (), config.seeds), context.part(setting))
    return _report(config, context, cells)


def gaps(cells: dict[tuple[str, str], Cell], setting: str, control: str) -> dict[str, Interval]:
    """Recall of each SVD view minus that of a control, paired by seed."""
    own = {m: c for (s, m), c in cells.items() if s == setting and m.startswith(VIEW)}
    return {m: gap_of(c, cells[setting, control], "recall") for m, c in own.items()}


def _report(config: LightGCLClaimConfig, context: Context, cells: dict[tuple[str, str], Cell]) -> Report:
    settings, n = list(dict.fromkeys(s for s, _ in cells)), len(config.seeds)
    first = settings[0]
    paper = cells[first, f"{VIEW} x {config.weights[0]:g}"]
    wide = gap_of(paper, cells[first, NONE], "coverage")
    popular = gap_of(cells[first, POPULARITY], cells[first, NONE], "coverage")
    bars = [
        Bar(f"coverage of {paper.method}", "more than without contrast, its interval too",
            f"{figure(metric_of(paper, 'coverage'))} against {figure(metric_of(cells[first, NONE], 'coverage'))}; "
            f"difference {figure(wide)}", bool(wide.low > 0)),
        Bar("control: popularity", "must not cover more", f"difference {figure(popular)}", bool(popular.low > 0),
            control=True),
    ]  # fmt: skip
    rows = [
        (s, m, *(figure(metric_of(c, x)) for x in ("recall", "coverage")),
         *("-" if m == o else figure(gap_of(c, cells[s, o], "recall")) for o in (NONE, RAW)))
        for (s, m), c in cells.items()
    ]  # fmt: skip
    note = f"n = {n} seeds, 95% t-intervals; differences are paired by seed."
    head = ("setting", "method x weight", "recall@20", "coverage", "recall - no contrast", "recall - raw SVD")
    return Report(
        claim="A low-rank view as a contrast covers more of the items; better recall is not shown",
        answer=_answer(config, cells, settings),
        bars=bars,
        tables=[Table("Recall and coverage (no bar on recall)", head, rows, note)],
        plots=[_plot(context, cells, settings, n)],
        numbers={s: {m: c.metrics for (t, m), c in cells.items() if t == s} for s in settings},
    )


def _answer(config: LightGCLClaimConfig, cells: dict[tuple[str, str], Cell], settings: list[str]) -> str:
    """What the numbers support."""
    words = []
    for setting in settings:
        found = gaps(cells, setting, NONE)
        best = max(found, key=lambda m: found[m].estimate)
        helps = [m for m in found if found[m].low > 0]
        raw = [m for m in helps if gaps(cells, setting, RAW)[m].low > 0]
        words.append(
            f"{setting}: the best view, {best}, has recall {found[best].estimate:+.3f} [{found[best].low:+.3f}, "
            f"{found[best].high:+.3f}] against no contrast; "
            + (f"{', '.join(helps)} help" if helps else "none helps surely")
            + (f", {', '.join(raw)} beyond the raw SVD." if raw else ", none beyond the raw SVD.")
        )
    if MOVIES not in settings and config.movie_steps:
        words.append(movielens.HOW)
    return " ".join(words)


def _plot(context: Context, cells: dict[tuple[str, str], Cell], settings: list[str], n: int) -> str:
    def panel_of(setting: str) -> Any:
        def panel(axis: Any) -> None:
            here = [(m, c) for (s, m), c in cells.items() if s == setting]
            for i, (_, cell) in enumerate(here):
                axis.plot(cell.metrics["recall"], [i] * len(cell.seeds), "o", color=colour(0), alpha=0.35)
                axis.plot(cell.metrics["coverage"].mean(), i, "|", color=colour(1), markersize=11, markeredgewidth=2)
            axis.set_yticks(range(len(here)), [m for m, _ in here], fontsize=7)
            axis.invert_yaxis()
            axis.set(xlabel="recall@20 (dots), coverage (bars)", xlim=(0, 1))

        return panel

    panels = {s if s == MOVIES else re.sub(r"^(\d+)", r"\1 transitions", s): panel_of(s) for s in settings}
    return draw(context.out, "lightgcl", panels, f"Dots: {n} seeds; bars: mean share of columns that is recommended.")
