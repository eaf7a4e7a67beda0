"""Claim: MCLRec's learned views raise the rank of a trajectory encoder; whether they also rank the next state better.

Every method gets two encoder steps a batch, as MCLRec does (encoder, augmenters, encoder). The main loss is next-state
prediction; NCE compares a crop and a masking of each trajectory; MCLRec adds two networks that make views of those.
Controls: the same loss with augmenters that are never trained, and NCE alone with the weight of all four terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from rl_contrastive.analysis.figures import colour, draw
from rl_contrastive.analysis.statistics import Interval
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.grid import Cell, Grid, figure, gap_of, run_grid
from rl_contrastive.claims.ledger import Choice, Task
from rl_contrastive.claims.objectives import trajectories as world_of
from rl_contrastive.claims.stacked import SEEDS
from rl_contrastive.config import Ge, Options
from rl_contrastive.features.embedding import effective_rank
from rl_contrastive.objectives.augmenters import (
    Augmenters,
    AugmentersConfig,
    MCLRec,
    MCLRecConfig,
    TurnsConfig,
    symmetric_nce,
    take_turns,
)
from rl_contrastive.objectives.base import ObjectiveResult
from rl_contrastive.objectives.views import Views, unit
from rl_contrastive.registry import register

GAIN = 2.0
"""The bar: this much more rank than with NCE alone."""
MAIN, NCE, STRONG = "main loss, two steps", "+ NCE", "+ NCE, weight of all terms"
MCLREC, WITHOUT_R, UNTRAINED = "MCLRec", "MCLRec without R", "MCLRec, untrained augmenters"
ONE_STEP = "main loss, one step"
HEAVY, QUICK_VIEWS = "MCLRec, beta x 10", "MCLRec, augmenters' step x 10"
LEARNED = (MCLREC, WITHOUT_R, HEAVY, QUICK_VIEWS)
HERE, MORE, WEAK, UNIT = "as specified", "four times the data", "main loss x .1", "unit vectors, tau .2"


@dataclass(frozen=True)
class MCLRecClaimConfig(Options, where="mclrec"):
    """Sizes of the measurement."""

    world: world_of.WorldConfig = field(default_factory=world_of.WorldConfig)
    """Trajectories, encoder, training."""
    weight: Annotated[float, Ge(0)] = 0.1
    """Weight of NCE(v1,v2) and of M (lmd and beta of the paper)."""
    regulariser: Annotated[float, Ge(0)] = 0.1
    """Weight of R in M."""
    settings: tuple[str, ...] = (HERE, MORE, WEAK, UNIT)
    """Where it is measured; the bar is on the first."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds."""

    @classmethod
    def quick(cls) -> MCLRecClaimConfig:
        """Seconds."""
        world = world_of.WorldConfig(trajectories=200, fresh=500, batches=150)
        return cls(world=world, settings=(HERE,), seeds=(500, 501))


class SideBySide(Augmenters):
    """The augmenters of n seeds in one: v1, v2 (n, N, d) -> (n, 4, N, d)."""

    def __init__(self, seeds: Sequence[Augmenters], *, of_length_1: bool) -> None:
        self.config, self.dim, self.of_length_1 = seeds[0].config, seeds[0].dim, of_length_1
        self.nets = nn.ModuleList([Stacked([a.nets[i] for a in seeds]) for i in (0, 1)])
        self.optimiser = torch.optim.Adam(self.nets.parameters(), lr=self.config.lr)

    def __call__(self, v1: Tensor, v2: Tensor) -> Tensor:
        z = torch.stack([v1, v2, self.nets[0](v1), self.nets[1](v2)], dim=-3)
        return unit(z) if self.of_length_1 else z


class Stacked(nn.Module):
    """n networks of two layers with a ReLU: (n, N, d) -> (n, N, d)."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        layers = [[m for m in net.modules() if isinstance(m, nn.Linear)] for net in nets]
        self.W = nn.ParameterList([torch.stack([of[i].weight.detach().T for of in layers]) for i in (0, 1)])
        self.b = nn.ParameterList([torch.stack([of[i].bias.detach() for of in layers]).unsqueeze(1) for i in (0, 1)])

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = (z @ self.W[0] + self.b[0]).relu() @ self.W[1] + self.b[1]
        return out


class Summed(MCLRec):
    """M summed over the seeds."""

    def __call__(self, views: Views) -> ObjectiveResult:
        found = super().__call__(views)
        return replace(found, loss=found.loss.sum())


def fit(config: MCLRecClaimConfig, task: Task) -> dict[str, Sequence[float]]:
    """hit@10, rank and cosines of one method; all methods of a seed share world, batches and first weights."""
    more = task.setting == MORE
    sizes = replace(config.world, trajectories=config.world.trajectories * (4 if more else 1))
    worlds = [world_of.draw_world(sizes, seed) for seed in task.seeds]
    rngs = [torch.Generator().manual_seed(seed) for seed in task.seeds]
    encoder = world_of.MeanPool(sizes, rngs=rngs)
    optimiser = torch.optim.Adam(encoder.parameters(), lr=sizes.lr)
    of_length_1 = task.setting == UNIT
    step = AugmentersConfig(lr=1e-2 if task.method == QUICK_VIEWS else 1e-3)
    augmenters = SideBySide([Augmenters(sizes.dim, step, rng=rng) for rng in rngs], of_length_1=of_length_1)
    temperature, main_weight = 0.2 if of_length_1 else 1.0, 0.1 if task.setting == WEAK else 1.0
    similarity = 0.0 if task.method == WITHOUT_R else config.regulariser
    objective = Summed(MCLRecConfig(temperature=temperature, regulariser=similarity))
    n = len(task.seeds)
    for batch in world_of.batches(sizes, worlds, task.seeds):

        def encode(batch: world_of.Batch = batch) -> tuple[Tensor, Tensor, Tensor]:
            views = [encoder(bag) for bag in (batch.first, batch.second)]
            v1, v2 = [unit(v) for v in views] if of_length_1 else views
            return v1, v2, main_weight * world_of.next_loss(encoder, batch)

        if task.method in LEARNED:
            turns = TurnsConfig(n * config.weight, config.weight * (10.0 if task.method == HEAVY else 1.0))
            take_turns(encode, augmenters, optimiser, objective, turns)  # NCE(v1,v2) there is a mean over the seeds
        else:
            for _ in range(1 if task.method == ONE_STEP else 2):
                _own_step(config, task.method, encode, augmenters, optimiser, objective)
    with torch.no_grad():
        cosines = augmented_cosines(augmenters, *encode()[:2])
    best = [world_of.best_hit(world) for world in worlds]
    return {**world_of.judged(encoder, worlds), **cosines, "best": best}


def augmented_cosines(augmenters: Augmenters, v1: Tensor, v2: Tensor) -> dict[str, list[float]]:
    """By seed, on the last batch: mean cos(q1,q2) of a trajectory, and of two different ones; the rank of q1."""
    q1, q2 = augmenters(v1, v2).unbind(-3)[2:]
    cosine, N = unit(q1) @ unit(q2).mT, q1.shape[-2]  # (n, N, N)
    own = cosine.diagonal(dim1=-2, dim2=-1).sum(-1)
    others = (cosine.sum((-2, -1)) - own) / (N * (N - 1))
    ranks = [effective_rank(of.double().numpy(), squared=False) for of in q1]
    return {"cosine": (own / N).tolist(), "common": others.tolist(), "views": ranks}


def _own_step(
    config: MCLRecClaimConfig, method: str, encode: Any, augmenters: Augmenters, optimiser: Any, objective: MCLRec
) -> None:
    """One encoder step of a control, with no step of the augmenters."""
    v1, v2, loss = encode()
    if method in (NCE, STRONG, UNTRAINED):
        even = torch.zeros(v1.shape[:-1])
        plain = symmetric_nce(v1, v2, even, temperature=objective.config.temperature).mean(-1).sum()
        loss = loss + config.weight * (4.0 if method == STRONG else 1.0) * plain
    if method == UNTRAINED:
        loss = loss + config.weight * objective(Views(augmenters(v1, v2))).loss
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


@register("claim", "objectives/mclrec", MCLRecClaimConfig)
def mclrec(config: MCLRecClaimConfig, context: Context) -> Report:
    """Learned augmenters raise the rank of the encoder by 2; ranking is compared on equal budgets."""
    few, all_of = (MAIN, NCE, MCLREC), (ONE_STEP, MAIN, NCE, STRONG, MCLREC, WITHOUT_R, HEAVY, QUICK_VIEWS, UNTRAINED)
    cells: dict[tuple[str, str], Cell] = {}
    for setting in config.settings:
        methods: dict[str, list[Choice]] = {m: [{}] for m in (all_of if setting == config.settings[0] else few)}
        part = context.part(setting.replace(" ", "-").replace(",", ""))
        cells |= run_grid(fit, config, Grid([setting], methods, "hit", (), config.seeds, together=True), part)
    return _report(config, context, cells)


def _report(config: MCLRecClaimConfig, context: Context, cells: dict[tuple[str, str], Cell]) -> Report:
    first = config.settings[0]
    here = {m: c for (s, m), c in cells.items() if s == first}
    ranks = {m: gap_of(here[m], here[NCE], "rank") for m in here}

    def bar(what: str, method: str, *, control: bool) -> Bar:
        wanted = f"must not gain {GAIN:g}" if control else f">= rank of NCE only + {GAIN:g}"
        measured = f"{figure(here[method].interval('rank'))} against {figure(here[NCE].interval('rank'))}; "
        measured += f"difference {figure(ranks[method])}"
        return Bar(what, wanted, measured, ranks[method].estimate >= GAIN, control=control)

    bars = [
        bar("effective rank of MCLRec", MCLREC, control=False),
        bar("control: two steps of the main loss", MAIN, control=True),
        bar("control: NCE with the weight of all four terms", STRONG, control=True),
    ]
    rows = [
        (s, m, *(figure(c.interval(x)) for x in ("hit", "rank", "cosine", "common", "views")),
         "-" if m == MAIN else figure(gap_of(c, cells[s, MAIN], "hit")))
        for (s, m), c in cells.items()
    ]  # fmt: skip
    n = len(config.seeds)
    note = (
        f"n = {n} seeds, 95% t-intervals; differences are paired by seed. hit@10 of the last state of "
        f"{config.world.fresh} fresh trajectories; who knows the type has {figure(here[MAIN].interval('best'))}. "
        "Rank: exp of the entropy of the shares of the singular values, uncentred. cos(q1,q2): of the augmented views "
        "of a trajectory, and of two different ones; rank of q1 on a batch."
    )
    head = ("setting", "method", "hit@10", "rank", "cos(q1,q2)", "of others", "rank of q1", "hit@10 - two main steps")
    return Report(
        claim="Learned augmentations raise the rank of the encoder; better next-state ranking is not shown",
        answer=_answer(config, cells, ranks),
        bars=bars,
        tables=[Table("Methods", head, rows, note)],
        plots=[_plot(config, context, here)],
        numbers={s: {m: c.metrics for (t, m), c in cells.items() if t == s} for s in config.settings},
    )


def _answer(config: MCLRecClaimConfig, cells: dict[tuple[str, str], Cell], ranks: dict[str, Interval]) -> str:
    """What the numbers support."""
    first, words = config.settings[0], []
    gain = gap_of(cells[first, MCLREC], cells[first, NCE], "rank")
    others = ", ".join(f"{m} {v.estimate:+.2f}" for m, v in ranks.items() if m not in (NCE, MCLREC))
    own, far = (cells[first, MCLREC].interval(x).estimate for x in ("cosine", "common"))
    before = cells[first, UNTRAINED].interval("cosine").estimate
    words.append(
        f"MCLRec's rank is {gain.estimate:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}] against NCE only; the others: "
        f"{others}. Learned views of one trajectory have cosine {own:.2f} ({before:.2f} untrained), of two {far:.2f}: "
        "the augmenters undo crop and masking."
    )
    R = gap_of(cells[first, MCLREC], cells[first, WITHOUT_R], "hit")
    words.append(f"R changes hit@10 by {R.estimate:+.3f} [{R.low:+.3f}, {R.high:+.3f}].")
    for setting in config.settings:
        gaps = [gap_of(cells[setting, MCLREC], cells[setting, m], "hit") for m in (MAIN, NCE)]
        said = [f"{g.estimate:+.3f} [{g.low:+.3f}, {g.high:+.3f}]" for g in gaps]
        verdict = "better than both" if min(g.low for g in gaps) > 0 else "not better than both"
        words.append(f"{setting}: hit@10 {said[0]} against two main steps and {said[1]} against NCE, {verdict}.")
    return " ".join(words)


def _plot(config: MCLRecClaimConfig, context: Context, here: dict[str, Cell]) -> str:
    def paint(metric: str, names: bool) -> Any:
        def panel(axis: Any) -> None:
            for i, cell in enumerate(here.values()):
                axis.plot(cell.metrics[metric], [i] * len(cell.seeds), "o", color=colour(0), alpha=0.35)
                axis.plot(cell.interval(metric).estimate, i, "D", color=colour(1))
            axis.set_yticks(range(len(here)), list(here) if names else [""] * len(here))
            axis.invert_yaxis()
            axis.set_xlabel("effective rank of the encodings" if metric == "rank" else "hit@10")

        return panel

    text = f"Dots: {len(config.seeds)} seeds, diamonds: their mean; {config.settings[0]}."
    return draw(context.out, "mclrec", {"Rank": paint("rank", True), "Ranking": paint("hit", False)}, text)
