"""Claim: without the positive in the sum (DCL) a contrastive loss learns from small batches; large ones do not care.

    InfoNCE   -S+ + log(e^{S+} + sum_neg e^S)         its gradient has a factor 1 - softmax+, small for small B
    DCL       -S+ + log sum_neg e^S                   the factor is gone

Source: Yeh et al. 2022. Measured: linear accuracy of the latent after equally many steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from rl_contrastive.analysis.figures import colour, draw, ticks_at, words
from rl_contrastive.claims.base import Bar, Context, Report, Table, control
from rl_contrastive.claims.objectives.worlds import BlockWorld, Encoders, WorldConfig, probe, train
from rl_contrastive.claims.stacked import SEEDS, interval
from rl_contrastive.config import Ge, Gt, Options, require
from rl_contrastive.objectives.pairwise import DCL, DCLConfig, NTXent, NTXentConfig
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

GAP, ALIKE = 0.02, 0.01
WORLD = WorldConfig(detail=0.3, noise=1.3)


@dataclass(frozen=True)
class DCLClaimConfig(Options, where="dcl"):
    """Sizes of the measurement."""

    seeds: Annotated[tuple[int, ...], Ge(0)] = SEEDS
    """Worlds; nothing was chosen on them."""
    batches: Annotated[tuple[int, ...], Ge(2)] = (4, 16, 256)
    """B, rising: the first is the small one, the last the large one."""
    steps: Annotated[int, Ge(1)] = 400
    """Gradient steps, for every B."""
    temperature: Annotated[float, Gt(0)] = 0.1
    """tau of both losses."""
    dim: Annotated[int, Ge(2)] = 16
    """d."""
    hidden: Annotated[int, Ge(1)] = 64
    """Width of the hidden layer."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Adam's step size."""
    world: WorldConfig = WORLD
    """Where the data come from."""

    @classmethod
    def quick(cls) -> DCLClaimConfig:
        """Seconds."""
        return cls(batches=(4, 64))

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.batches) >= 2 and list(self.batches) == sorted(set(self.batches)), "dcl: batches must rise.")


@register("claim", "objectives/dcl", DCLClaimConfig)
def dcl(config: DCLClaimConfig, context: Context) -> Report:
    """DCL learns more than InfoNCE from small batches, and as much from large ones."""
    losses = {"InfoNCE": NTXent(NTXentConfig(temperature=config.temperature)),
              "DCL": DCL(DCLConfig(temperature=config.temperature))}  # fmt: skip
    accuracy = {}
    for name, loss in losses.items():
        accuracy[name] = np.stack([_accuracy(config, loss, B) for B in config.batches])  # (T, S)
        context.say(f"dcl: {name} trained")
    first, last = config.batches[0], config.batches[-1]
    # The easiest of an anchor's 2B - 2 negatives is left out in place of the positive.
    fewer = NTXent(NTXentConfig(temperature=config.temperature, hard=1.0 - 1.0 / (2 * first - 2)))
    again = _accuracy(config, fewer, first)
    gaps = accuracy["DCL"] - accuracy["InfoNCE"]
    small, large = interval(gaps[0]), interval(gaps[-1])
    noise = interval(again - accuracy["InfoNCE"][0])

    def paint(axis: Any) -> None:
        for i, (name, values) in enumerate(accuracy.items()):
            axis.semilogx(config.batches, values, color=colour(i), alpha=0.3, linewidth=1)
            axis.semilogx(config.batches, values.mean(1), "o-", color=colour(i), label=name)
        axis.set(xlabel="batch size B", ylabel="linear accuracy of the latent")
        ticks_at(axis.xaxis, config.batches)

    rows = [
        (str(B), *(words(interval(values[i]), 3) for values in accuracy.values()), words(interval(gaps[i]), 3))
        for i, B in enumerate(config.batches)
    ]
    return Report(
        claim="leaving the positive out of the sum (DCL) helps InfoNCE where batches are small, and only there",
        bars=[
            Bar(f"DCL - InfoNCE at B = {first}", f">= {GAP}", words(small, 4), small.estimate >= GAP),
            Bar(f"DCL - InfoNCE at B = {last}", f"at most {ALIKE} either way", words(large, 4),
                abs(large.estimate) <= ALIKE),
            control(f"a negative left out - InfoNCE at B = {first}: {words(noise, 4)} (must stay < {GAP})",
                    failed=noise.estimate < GAP, what="control: a negative in place of the positive"),
        ],
        tables=[Table("Linear accuracy of the latent", ("B", *accuracy, "DCL - InfoNCE"), rows,
                      f"Mean [95% interval] over {len(config.seeds)} seeds, differences paired.")],
        plots=[draw(context.out, "dcl", {"Small batches": paint},
                    f"Block world, {config.world.latents} latents, {config.steps} steps, tau {config.temperature:g}; "
                    f"thin lines: {len(config.seeds)} seeds.")],
        numbers={"batches": config.batches, **accuracy, "a negative left out": again},
    )  # fmt: skip


def _accuracy(config: DCLClaimConfig, loss: Any, batch: int) -> FloatArray:
    """(S,) of encoders trained with this loss."""
    encoders = Encoders(config.seeds, (config.world.size, config.hidden, config.dim))
    world = BlockWorld(config.world, config.seeds)
    train(encoders, loss, world.batches(config.steps, batch, 2), lr=config.lr)
    return probe(BlockWorld(config.world, config.seeds, 1), encoders.embed, count=5000)
