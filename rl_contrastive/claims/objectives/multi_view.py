"""Claim: with negatives from the anchor's own view (MV-DHEL) more views of an instance fill more dimensions.

    pairwise    NT-Xent of every pair of views            MV-InfoNCE   one term an instance, negatives of all views
    MV-DHEL     -log sum_{l<m} e^{S_li,mi} + sum_l log sum_{j != i} e^{S_li,lj}

A fixed set of instances, one temperature for all. Source: Koromilas et al. 2025. Measured: effective rank of the
directions of new views, and their alignment, which the paper's claim leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from torch import Tensor

from rl_contrastive.analysis.figures import colour, draw, ticks_at, words
from rl_contrastive.claims.base import Bar, Context, Report, Table, control
from rl_contrastive.claims.objectives.worlds import (
    BlockWorld,
    Encoders,
    WorldConfig,
    ranks,
    smallest_step,
    tensor,
    train,
)
from rl_contrastive.claims.stacked import SEEDS, interval
from rl_contrastive.config import Ge, Gt, Options, require
from rl_contrastive.features.embedding import alignment
from rl_contrastive.objectives.multi_view import MVDHEL, MVDHELConfig, MVInfoNCE, MVInfoNCEConfig
from rl_contrastive.objectives.pairwise import NTXent, NTXentConfig
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

MARGIN = 1.0
JUDGED = 16
"""New views of each instance, an even number."""
WORLD = WorldConfig(size=64, details=32, detail=1.0, noise=1.2)


@dataclass(frozen=True)
class MultiViewConfig(Options, where="multi-view"):
    """Sizes of the measurement."""

    seeds: Annotated[tuple[int, ...], Ge(0)] = SEEDS
    """Worlds; nothing was chosen on them."""
    views: Annotated[tuple[int, ...], Ge(2)] = (2, 3, 5)
    """V, rising."""
    instances: Annotated[int, Ge(2)] = 64
    """The same in every batch."""
    steps: Annotated[int, Ge(1)] = 400
    """Gradient steps."""
    temperature: Annotated[float, Gt(0)] = 0.2
    """tau of all three losses."""
    dim: Annotated[int, Ge(2)] = 32
    """d."""
    hidden: Annotated[int, Ge(1)] = 64
    """Width of the hidden layer."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Adam's step size."""
    world: WorldConfig = WORLD
    """Where the data come from."""

    @classmethod
    def quick(cls) -> MultiViewConfig:
        """Seconds."""
        return cls(seeds=SEEDS[:3], views=(2, 4), instances=32, steps=200, dim=24)

    def __post_init__(self) -> None:
        super().__post_init__()
        rising = list(self.views) == sorted(set(self.views)) and len(self.views) >= 2
        require(rising, "multi-view: give at least two V, rising.")


@register("claim", "objectives/multi-view", MultiViewConfig)
def multi_view(config: MultiViewConfig, context: Context) -> Report:
    """MV-DHEL uses more dimensions than pairwise losses, and more with more views."""
    tau = config.temperature
    losses: dict[str, Any] = {
        "pairwise": NTXent(NTXentConfig(temperature=tau)),
        "MV-InfoNCE": MVInfoNCE(MVInfoNCEConfig(temperature=tau)),
        "MV-DHEL": MVDHEL(MVDHELConfig(temperature=tau)),
    }
    rank, apart = {}, {}
    for name in context.each("loss", losses):
        both = [_measured(config, losses[name], V) for V in config.views]
        rank[name], apart[name] = (np.stack(values) for values in zip(*both, strict=True))  # (T, S)
    few, many = config.views[0], config.views[-1]
    dhel, best = rank["MV-DHEL"], rank["pairwise"].max(axis=0)  # best: of any V, on each seed
    above, more = interval(dhel[0] - best), interval(dhel[-1] - dhel[0])
    across = interval(rank["MV-InfoNCE"][-1] - best)
    cost = smallest_step(apart["MV-DHEL"], 1)

    def paint(values: dict[str, FloatArray], label: str) -> Any:
        def on(axis: Any) -> None:
            for i, (name, value) in enumerate(values.items()):
                axis.plot(config.views, value, color=colour(i), alpha=0.3, linewidth=1)
                axis.plot(config.views, value.mean(1), "o-", color=colour(i), label=name)
            axis.set(xlabel="views of an instance V", ylabel=label)
            ticks_at(axis.xaxis, config.views)

        return on

    def table(title: str, values: dict[str, FloatArray], decimals: int) -> Table:
        rows = [(name, *(words(interval(v), decimals) for v in value)) for name, value in values.items()]
        return Table(title, ("loss", *(f"V = {V}" for V in config.views)), rows,
                     f"Mean [95% interval] over {len(config.seeds)} seeds, of {JUDGED} new views of each "
                     "instance.")  # fmt: skip

    return Report(
        claim="MV-DHEL spreads embeddings over more dimensions than pairwise NT-Xent with any number of views, and "
        "over more with more views",
        bars=[
            Bar(f"rank: MV-DHEL with {few} views - pairwise with any", f">= {MARGIN:g}", words(above),
                above.estimate >= MARGIN),
            Bar(f"rank: MV-DHEL with {many} views - with {few}", f">= {MARGIN:g}", words(more),
                more.estimate >= MARGIN),
            control(f"MV-InfoNCE with {many} views - pairwise with any: rank {words(across)} (must stay < {MARGIN:g})",
                    failed=across.estimate < MARGIN, what="control: negatives of all views"),
        ],
        answer=f"The price is alignment: |z - z+|^2 of MV-DHEL is {apart['MV-DHEL'][0].mean():.2f} with {few} and "
        f"{apart['MV-DHEL'][-1].mean():.2f} with {many} views (smallest step {words(cost, 3)}), "
        f"{apart['pairwise'].mean():.2f} for pairwise.",
        tables=[table("Effective rank", rank, 2), table("Alignment |z - z+|^2, lower is closer", apart, 3)],
        plots=[draw(context.out, "multi-view", {"Effective rank": paint(rank, f"effective rank of {config.dim}"),
                                                "Alignment": paint(apart, "mean |z - z+|^2")},
                    f"{config.instances} instances, {config.steps} steps, tau {tau:g}; thin lines: "
                    f"{len(config.seeds)} seeds.")],
        numbers={"views": config.views, "rank": rank, "alignment": apart},
    )  # fmt: skip


def _measured(config: MultiViewConfig, loss: Any, views: int) -> tuple[FloatArray, FloatArray]:
    """Effective rank and alignment (S,) of new views, after training on `views` views of the instances."""
    world = BlockWorld(config.world, config.seeds)
    instances = world.instances(world.latents(config.instances))
    encoders = Encoders(config.seeds, (config.world.size, config.hidden, config.dim))

    def batches() -> Iterator[Tensor]:
        for _ in range(config.steps):
            yield tensor(world.views(instances, views))

    train(encoders, loss, batches(), lr=config.lr)
    judge = BlockWorld(config.world, config.seeds, 1)
    z = encoders.embed(judge.views(instances, JUDGED))  # (S, 16, N, d)
    pairs = [(one[0::2].reshape(-1, config.dim), one[1::2].reshape(-1, config.dim)) for one in z]
    return ranks(z.reshape(len(z), -1, config.dim)), np.array([alignment(a, b) for a, b in pairs])
