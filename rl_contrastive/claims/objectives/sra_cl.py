"""Claim: semantic neighbours find trajectories of the same type; whether they also help to rank the next state.

The semantic embedding of a trajectory is its type with noise. SRA-CL's positive is the weighted sum of the encodings of
its ten semantic neighbours; a second term compares two copies in which states were replaced by semantic neighbours of
theirs. Controls: random neighbours, neighbours by the learned encoding, plain mean for attention, copies alone, and
semantics that were handed to other trajectories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from rl_contrastive.analysis.figures import colour, draw, rng_of
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.grid import Cell, Grid, figure, gap_of, metric_of, run_grid
from rl_contrastive.claims.ledger import Choice, Task
from rl_contrastive.claims.objectives import trajectories as world_of
from rl_contrastive.claims.stacked import SEEDS
from rl_contrastive.config import Ge, Gt, Options
from rl_contrastive.objectives.augmenters import symmetric_nce
from rl_contrastive.objectives.samplers import HardTopK, HardTopKConfig, SemanticConfig, SemanticNeighbours, mixed
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray, IntArray

TIMES = 2.5
"""The bar: neighbours of the right type this many times as often as random ones."""
MAIN, COPIES, RANDOM, LEARNED = "main loss", "copies alone", "random neighbours", "learned neighbours"
MEAN, SRA, SHUFFLED = "semantic, plain mean", "SRA-CL", "SRA-CL, semantics shuffled"
HERE, FEW, CLEAR = "as specified", "a quarter of the data", "clear semantics, a quarter of the data"
LONG = "three times the batches"


@dataclass(frozen=True)
class SRAClaimConfig(Options, where="sra-cl"):
    """Sizes of the measurement."""

    world: world_of.WorldConfig = field(default_factory=world_of.WorldConfig)
    """Trajectories, encoder, training."""
    noise: Annotated[float, Ge(0)] = 0.6
    """Standard deviation in each coordinate of the semantic embedding, the type's own being 1; .2 where it is clear."""
    neighbours: Annotated[int, Ge(1)] = 10
    """N."""
    weight: Annotated[float, Gt(0)] = 0.1
    """Weight of each contrastive term."""
    replaced: Annotated[float, Gt(0)] = 0.2
    """Share of the states of a copy that are replaced."""
    settings: tuple[str, ...] = (HERE, LONG, FEW, CLEAR)
    """Where it is measured; the bar is on the first."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds."""

    @classmethod
    def quick(cls) -> SRAClaimConfig:
        """Seconds."""
        world = world_of.WorldConfig(trajectories=200, fresh=500, batches=60)
        return cls(world=world, settings=(HERE,), seeds=(500, 501))


def semantic_of(config: SRAClaimConfig, kind: IntArray, noise: float, *, rng: np.random.Generator) -> FloatArray:
    """(n, types): the type as a unit vector, with noise."""
    return np.asarray(np.eye(config.world.types)[kind] + noise * rng.standard_normal((len(kind), config.world.types)))


def copies(states: IntArray, near: IntArray, share: float, *, rng: np.random.Generator) -> IntArray:
    """States (N, T) with a share of them replaced by one of their neighbours: near (S, k)."""
    other = near[states, rng.integers(near.shape[1], size=states.shape)]
    return np.where(rng.random(states.shape) < share, other, states)


def fit(config: SRAClaimConfig, task: Task) -> dict[str, Sequence[float]]:
    """hit@10, rank and share of neighbours of the right type; methods of a seed share world, batches, first weights."""
    sizes, few = config.world, task.setting in (FEW, CLEAR)
    sizes = replace(sizes, trajectories=sizes.trajectories // 4) if few else sizes
    sizes = replace(sizes, batches=3 * sizes.batches) if task.setting == LONG else sizes
    worlds = [world_of.draw_world(sizes, seed) for seed in task.seeds]
    rngs = [torch.Generator().manual_seed(seed) for seed in task.seeds]
    encoder = world_of.MeanPool(sizes, rngs=rngs)
    parts = [
        Meaning(config, task, world, seed, rng=rng) for world, seed, rng in zip(worlds, task.seeds, rngs, strict=True)
    ]
    attended = [p for part in parts for p in part.attention.parameters()]
    optimiser = torch.optim.Adam([*encoder.parameters(), *attended], lr=sizes.lr)
    bags = torch.stack([world_of.bags_of(world.states[:, :-1], sizes.states) for world in worlds])  # (n, all, S)
    each, right = torch.arange(len(worlds)), []
    for batch in world_of.batches(sizes, worlds, task.seeds):
        loss, even = world_of.next_loss(encoder, batch), torch.zeros(batch.index.shape)
        if task.method != MAIN:
            a, b = (
                encoder(
                    torch.stack([part.copy(i, config.replaced) for part, i in zip(parts, batch.index, strict=True)])
                )
                for _ in range(2)
            )
            loss = loss + config.weight * symmetric_nce(a, b, even).mean(-1).sum()
        if task.method not in (MAIN, COPIES):
            with torch.no_grad():
                z = encoder(bags)
            drawn = [
                neighbours(config, task.method, i, part.attention, of, part.draws)
                for part, i, of in zip(parts, batch.index, z, strict=True)
            ]
            right.append([part.right(i, found) for part, i, (found, _) in zip(parts, batch.index, drawn, strict=True)])
            found = torch.from_numpy(np.stack([f for f, _ in drawn]))  # (n, B, N)
            encoded = encoder(bags[each[:, None, None], found].flatten(1, 2)).unflatten(1, found.shape[1:])
            positive = torch.stack([mixed(e, w) for e, (_, w) in zip(encoded, drawn, strict=True)])
            own = encoder(bags[each[:, None], torch.from_numpy(batch.index)])
            loss = loss + config.weight * symmetric_nce(own, positive, even).mean(-1).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    metrics: dict[str, Sequence[float]] = {**world_of.judged(encoder, worlds)}
    return metrics | ({"share": np.mean(right, axis=0).tolist()} if right else {})


class Meaning:
    """What a seed's trajectories and states mean, and its own draws."""

    def __init__(
        self, config: SRAClaimConfig, task: Task, world: world_of.World, seed: int, *, rng: torch.Generator
    ) -> None:
        self.world, self.draws = world, rng_of(seed, 3)
        noise = 0.2 if task.setting == CLEAR else config.noise
        semantic = semantic_of(config, world.kind, noise, rng=self.draws)
        if task.method == SHUFFLED:
            semantic = rng_of(seed, 4).permutation(semantic)
        self.attention = SemanticNeighbours(semantic, SemanticConfig(config.neighbours), rng=rng)
        # A state's meaning is what it says of the type: log of its probability under each, with the same noise.
        meaning = np.log(world.laws.T) - np.log(world.laws.T).mean(axis=1, keepdims=True)
        meaning = meaning + noise * self.draws.standard_normal(meaning.shape)
        self.near, _ = HardTopK(meaning, HardTopKConfig(5))(np.arange(len(meaning)))

    def copy(self, index: IntArray, share: float) -> Tensor:
        """Bags (B, S) of the trajectories `index`, with states replaced."""
        states = copies(self.world.states[index, :-1], self.near, share, rng=self.draws)
        return world_of.bags_of(states, len(self.near))

    def right(self, index: IntArray, found: IntArray) -> float:
        """Share of the neighbours (B, N) that are of the type of their trajectory."""
        return float((self.world.kind[found] == self.world.kind[index, None]).mean())


def neighbours(
    config: SRAClaimConfig,
    method: str,
    index: IntArray,
    attention: SemanticNeighbours,
    z: Tensor,
    rng: np.random.Generator,
) -> tuple[IntArray, Tensor]:
    """Neighbours (B, N) of a batch of one seed and their weights (B, N); z (all, d): all encodings of the moment."""
    k = config.neighbours
    even = torch.full((len(index), k), 1.0 / k)
    if method in (SRA, SHUFFLED):
        return attention(index, rng)
    if method == MEAN:
        return attention.nearest(index)[0], even
    if method == LEARNED:
        return HardTopK(z.double().numpy(), HardTopKConfig(k))(index)[0], even
    others = rng.random((len(index), len(z)))
    others[np.arange(len(index)), index] = 2.0  # not itself
    return np.asarray(others.argsort(axis=1)[:, :k]), even


@register("claim", "objectives/sra-cl", SRAClaimConfig)
def sra_cl(config: SRAClaimConfig, context: Context) -> Report:
    """Semantic neighbours have the right type 2.5 times as often as random ones; ranking is compared."""
    every = (MAIN, COPIES, RANDOM, LEARNED, MEAN, SRA, SHUFFLED)
    few = (MAIN, COPIES, RANDOM, LEARNED, SRA)
    cells: dict[tuple[str, str], Cell] = {}
    for i, setting in enumerate(config.settings):
        methods: dict[str, list[Choice]] = {m: [{}] for m in (every if i == 0 else few)}
        grid = Grid([setting], methods, "hit", (), config.seeds, together=True)
        cells |= run_grid(fit, config, grid, context.part(setting.replace(" ", "-").replace(",", "")))
    return _report(config, context, cells)


def _report(config: SRAClaimConfig, context: Context, cells: dict[tuple[str, str], Cell]) -> Report:
    here = {m: c for (s, m), c in cells.items() if s == config.settings[0]}
    share = {m: metric_of(here[m], "share") for m in (RANDOM, LEARNED, SRA, SHUFFLED)}

    def bar(what: str, method: str, wanted: str, *, control: bool = False) -> Bar:
        times = share[method].estimate / share[RANDOM].estimate
        measured = f"{figure(share[method])} against {figure(share[RANDOM])}, {times:.2f} x"
        return Bar(what, wanted, measured, times >= TIMES, control=control)

    bars = [
        bar("neighbours of the right type", SRA, f">= {TIMES} x random"),
        bar("control: semantics shuffled", SHUFFLED, f"must not be {TIMES} x random", control=True),
    ]
    rows = [
        (s, m, *(figure(metric_of(c, x)) if x in c.metrics else "-" for x in ("hit", "share", "rank")),
         *("-" if m == o else figure(gap_of(c, cells[s, o], "hit")) for o in (MAIN, RANDOM)))
        for (s, m), c in cells.items()
    ]  # fmt: skip
    note = (
        f"n = {len(config.seeds)} seeds, 95% t-intervals; differences are paired by seed. hit@10 of the last state of "
        f"{config.world.fresh} fresh trajectories. Right type: share of the {config.neighbours} neighbours in training."
    )
    head = ("setting", "method", "hit@10", "right type", "rank", "hit@10 - main loss", "hit@10 - random neighbours")
    return Report(
        claim="Semantic neighbours are of the right type more often than chance; ranking is reported, no bar",
        answer=_answer(config, cells),
        bars=bars,
        tables=[Table("Methods", head, rows, note)],
        plots=[_plot(config, context, cells)],
        numbers={s: {m: c.metrics for (t, m), c in cells.items() if t == s} for s in config.settings},
    )


def _answer(config: SRAClaimConfig, cells: dict[tuple[str, str], Cell]) -> str:
    """What the numbers support."""
    words = []
    for setting in config.settings:
        gaps = {m: gap_of(cells[setting, SRA], cells[setting, m], "hit") for m in (RANDOM, COPIES, LEARNED)}
        said = ", ".join(f"{g.estimate:+.3f} [{g.low:+.3f}, {g.high:+.3f}] against {m}" for m, g in gaps.items())
        gain = "a sure gain" if min(gaps[m].low for m in (RANDOM, COPIES)) > 0 else "no sure gain"
        gain += f" over chance, {'better' if gaps[LEARNED].low > 0 else 'not better'} than learned neighbours"
        words.append(f"{setting}: hit@10 of SRA-CL is {said}: {gain}.")
    return " ".join(words)


def _plot(config: SRAClaimConfig, context: Context, cells: dict[tuple[str, str], Cell]) -> str:
    def paint(setting: str) -> Any:
        def panel(axis: Any) -> None:
            here = [(m, c) for (s, m), c in cells.items() if s == setting]
            for i, (_, cell) in enumerate(here):
                axis.plot(cell.metrics["hit"], [i] * len(cell.seeds), "o", color=colour(0), alpha=0.35)
                axis.plot(cell.interval("hit").estimate, i, "D", color=colour(1))
            axis.set_yticks(range(len(here)), [m for m, _ in here], fontsize=8)
            axis.invert_yaxis()
            axis.set_xlabel("hit@10")

        return panel

    text = f"Dots: {len(config.seeds)} seeds, diamonds: their mean."
    return draw(
        context.out, "sra-cl", {setting.replace(", ", ",\n"): paint(setting) for setting in config.settings}, text
    )
