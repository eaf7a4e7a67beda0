"""Claim: whitening with a gradient through C^-1/2 lets an alignment loss without negatives learn; without it, not.

    loss = E |zn - zn+|^2 of the whitened embeddings of two views,   white = C^-1/2 (z - mean) in groups of channels

Three copies with shuffles of their own are views of one another, as published. The published code passes no gradient
through C^-1/2 (detached). Without whitening the loss is 0 where all embeddings are equal. The head is for training:
what is judged is z itself. Source: Zhuo et al. 2023 (WhitenedCSE).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from rl_contrastive.analysis.figures import colour, draw, words
from rl_contrastive.claims.base import Bar, Context, Report, Table, control
from rl_contrastive.claims.objectives.worlds import (
    BlockWorld,
    Encoders,
    WorldConfig,
    each,
    probe,
    ranks,
    train,
    uniformities,
)
from rl_contrastive.claims.stacked import SEEDS, interval
from rl_contrastive.config import Ge, Gt, Options, require
from rl_contrastive.features.embedding import effective_rank
from rl_contrastive.objectives.base import ObjectiveResult, State
from rl_contrastive.objectives.heads import ShuffledWhitening, WhiteningConfig
from rl_contrastive.objectives.views import ViewObjective, Views, unit, weighted_rows
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

UNIFORM, ACCURATE, WIDE = -2.0, 0.98, 10.0
COPIES = 3
"""Shuffles of a batch."""
FORMS = ("gradient through C^-1/2", "detached, as published", "no whitening")
WORLD = WorldConfig(detail=0.5, noise=0.5)


@dataclass(frozen=True)
class WhiteningClaimConfig(Options, where="whitening"):
    """Sizes of the measurement."""

    seeds: Annotated[tuple[int, ...], Ge(0)] = SEEDS
    """Worlds; nothing was chosen on them."""
    steps: Annotated[int, Ge(1)] = 400
    """Gradient steps."""
    batch: Annotated[int, Ge(2)] = 64
    """B."""
    dim: Annotated[int, Ge(2)] = 16
    """d."""
    groups: Annotated[int, Ge(1)] = 8
    """G, a divisor of d."""
    hidden: Annotated[int, Ge(1)] = 64
    """Width of the hidden layer."""
    lr: Annotated[float, Gt(0)] = 2e-3
    """Adam's step size."""
    world: WorldConfig = WORLD
    """Where the data come from."""

    @classmethod
    def quick(cls) -> WhiteningClaimConfig:
        """Seconds."""
        return cls(seeds=SEEDS[:2])

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.dim % self.groups == 0, f"whitening: groups must divide d = {self.dim}, got {self.groups}.")


class Alignment(ViewObjective):
    """Mean |zn - zn+|^2 of the pairs of views (Wang & Isola 2020), and nothing that keeps instances apart.

    Of V unit vectors with mean m it is 2 V/(V - 1) (1 - |m|^2).
    """

    least_instances = 1

    def loss(self, views: Views, state: State) -> tuple[ObjectiveResult, State]:
        V = views.z.shape[-3]
        m = unit(views.z).mean(-3)
        return weighted_rows(2.0 * V / (V - 1) * (1.0 - m.square().sum(-1)), views.anchor_weight), state


@register("claim", "objectives/whitening", WhiteningClaimConfig)
def whitening(config: WhiteningClaimConfig, context: Context) -> Report:
    """Shuffled group whitening prevents collapse without negatives, if the gradient passes through it."""
    found = {}
    for form in context.each("form", FORMS):
        found[form] = _measured(config, form)
    through, detached, plain = (found[form] for form in FORMS)
    uniform, accurate, wide = (interval(through[name]) for name in ("uniformity", "probe", "rank"))
    lost = interval(plain["uniformity"])
    columns = ("uniformity", "probe", "rank", "rank by singular values", "rank of white z")

    def paint(name: str, bar: float) -> Any:
        def on(axis: Any) -> None:
            for i, form in enumerate(FORMS):
                values = found[form][name]
                axis.plot(np.full(len(values), i), values, "o", color=colour(i), alpha=0.6)
            axis.axhline(bar, color="#555555", linestyle="--", linewidth=1, label="bar")
            axis.set_xticks(range(3), ["through", "detached", "none"])
            axis.set(xlim=(-0.5, 2.5), ylabel=name)
            axis.legend(fontsize=8, loc="center right")

        return on

    return Report(
        claim="an alignment loss without negatives does not collapse behind shuffled group whitening whose gradient "
        "passes through C^-1/2",
        bars=[
            Bar("uniformity of z", f"<= {UNIFORM:g}", words(uniform), uniform.estimate <= UNIFORM),
            Bar("linear accuracy of the latent", f">= {ACCURATE:g}", words(accurate, 3), accurate.estimate >= ACCURATE),
            Bar("effective rank of z", f">= {WIDE:g} of {config.dim}", words(wide), wide.estimate >= WIDE),
            control(f"no whitening: uniformity {words(lost)} (must stay above {UNIFORM:g}), rank "
                    f"{words(interval(plain['rank']))}",
                    failed=lost.estimate > UNIFORM, what="control: no whitening"),
        ],
        answer="The detached form, as published, has no bar: uniformity "
        f"{words(interval(detached['uniformity']))}, accuracy {words(interval(detached['probe']), 3)}, rank "
        f"{words(interval(detached['rank']))}.",
        tables=[Table("By gradient of the whitening", ("form", *columns),
                      [(form, *(words(interval(found[form][name]), 3) for name in columns)) for form in FORMS],
                      f"Mean [95% interval] over {len(config.seeds)} seeds. uniformity, probe, rank: of z, without the "
                      "head; white z: whitened in its own groups.")],
        plots=[draw(context.out, "whitening", {"Uniformity": paint("uniformity", UNIFORM),
                                               "Effective rank": paint("rank", WIDE)},
                    f"Alignment loss alone, {config.dim} channels in {config.groups} groups, {config.steps} steps; "
                    f"a dot is one of {len(config.seeds)} seeds.")],
        numbers=found,
    )  # fmt: skip


def _measured(config: WhiteningClaimConfig, form: str) -> dict[str, FloatArray]:
    """Number -> (S,) of encoders trained behind one form of the head."""
    encoders = Encoders(config.seeds, (config.world.size, config.hidden, config.dim))
    world = BlockWorld(config.world, config.seeds)
    options = WhiteningConfig(groups=config.groups, through=form == FORMS[0])
    heads = [ShuffledWhitening(config.dim, options) for _ in config.seeds]
    shuffles = [torch.Generator().manual_seed(seed) for seed in config.seeds]

    def head(z: Tensor) -> Tensor:
        """(S, 2, B, d) -> (S, 6, B, d): copies of both views, which agree only if no channel repeats."""
        white = [h.copies(x.flatten(0, 1), COPIES, rng=rng) for h, x, rng in zip(heads, z, shuffles, strict=True)]
        return torch.stack(white).reshape(len(z), -1, *z.shape[2:])

    train(encoders, Alignment(), world.batches(config.steps, config.batch, 2), lr=config.lr,
          head=None if form == FORMS[2] else head)  # fmt: skip
    judge = BlockWorld(config.world, config.seeds, 1)
    z = encoders.embed(judge.views(judge.instances(judge.latents(1000, even=True)), 1)[:, 0])
    fresh = WhiteningConfig(groups=config.groups, shuffle=False)
    white = np.stack([ShuffledWhitening(config.dim, fresh, dtype=torch.float64)(torch.as_tensor(x), True).numpy()
                      for x in z])  # fmt: skip
    return {"uniformity": uniformities(z), "probe": probe(judge, encoders.embed), "rank": ranks(z),
            "rank by singular values": each(partial(effective_rank, squared=False), z),
            "rank of white z": ranks(white)}  # fmt: skip
