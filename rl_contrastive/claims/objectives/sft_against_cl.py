"""Claim: supervised fine-tuning (SFT) weighs its pairs more than contrastive learning (CL) does; which ranks better?

A scorer with two logits (yes, no); each gradient is sg(weight) x direction, and both halves can be exchanged:
    SFT   weights 1 - p(yes) of the positive, p(yes) of negatives            direction grad (yes - no)
    CL    weights 1 - softmax(positive), softmax(negative), of yes alone     direction grad yes
Each of an anchor's 1 + M pairs is one example of SFT; a control lets the M negatives together count as one.
Source: a review of SFT against CL for retrievers; no code was found. The ranking is reported without a bar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from rl_contrastive.analysis.figures import colour, draw, words
from rl_contrastive.analysis.statistics import Interval
from rl_contrastive.claims.base import Bar, Context, Report, Table, control
from rl_contrastive.claims.objectives.worlds import BlockWorld, Encoders, WorldConfig, tensor
from rl_contrastive.claims.stacked import SEEDS, interval
from rl_contrastive.config import Ge, Gt, In, Options
from rl_contrastive.objectives.weighted import Reweighted, ReweightedConfig
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

Half = Literal["sft", "cl"]
HALVES: tuple[Half, Half] = ("sft", "cl")
CELLS = tuple(product(HALVES, HALVES))
"""weight, direction."""
BALANCED = "far negatives, all together one example"
Logits = tuple[Tensor, Tensor]
WORLD = WorldConfig(detail=0.8, noise=0.4)


@dataclass(frozen=True)
class SFTConfig(Options, where="sft-against-cl"):
    """Sizes of the measurement."""

    seeds: Annotated[tuple[int, ...], Ge(0)] = SEEDS
    """Worlds; nothing was chosen on them."""
    steps: Annotated[int, Ge(1)] = 300
    """Gradient steps."""
    near_steps: Annotated[int, Ge(1)] = 80
    """The same with near negatives: instances of the anchor's own latent."""
    negatives: Annotated[int, Ge(1)] = 7
    """M of an anchor."""
    false: Annotated[float, In(0, 1)] = 0.2
    """Share of the negatives that are positives in truth, in one of the settings."""
    batch: Annotated[int, Ge(2)] = 32
    """Anchors in a batch."""
    dim: Annotated[int, Ge(2)] = 16
    """Features of each logit."""
    hidden: Annotated[int, Ge(1)] = 64
    """Width of the hidden layer."""
    lr: Annotated[float, Gt(0)] = 2e-3
    """Adam's step size."""
    judged: Annotated[int, Ge(10)] = 500
    """New anchors that ranks are measured on."""
    world: WorldConfig = WORLD
    """Where the data come from."""

    @classmethod
    def quick(cls) -> SFTConfig:
        """Seconds."""
        return cls(seeds=SEEDS[:2], steps=120, near_steps=60, batch=16, judged=200)

    @property
    def settings(self) -> dict[str, tuple[int, float, bool]]:
        """Name -> steps, share of false negatives, near negatives."""
        return {"far negatives": (self.steps, 0.0, False), "false negatives": (self.steps, self.false, False),
                "near negatives": (self.near_steps, 0.0, True), BALANCED: (self.steps, 0.0, False)}  # fmt: skip


@register("claim", "objectives/sft-against-cl", SFTConfig)
def sft_against_cl(config: SFTConfig, context: Context) -> Report:
    """The weights of SFT are larger in total than those of contrastive learning; how both rank is reported."""
    found: dict[tuple[str, Half, Half], dict[str, FloatArray]] = {}
    for setting in context.each("setting", config.settings):
        for weight, direction in CELLS:
            done = found.get(("far negatives", weight, direction)) if setting == BALANCED and weight == "cl" else None
            found[setting, weight, direction] = done or _measured(config, setting, weight, direction)
    judged = [setting for setting in config.settings if setting != BALANCED]

    def excess(setting: str, d: Half) -> Interval:
        return interval(found[setting, "sft", d]["total"] - found[setting, "cl", d]["total"])

    least = {d: min((excess(s, d) for s in judged), key=lambda value: value.estimate) for d in HALVES}
    balanced = max((excess(BALANCED, d) for d in HALVES), key=lambda value: value.estimate)
    columns = ("positive", "negatives", "total", "MRR of yes", "MRR of yes - no")

    def paint(number: Callable[[dict[str, FloatArray]], FloatArray], label: str) -> Any:
        def on(axis: Any) -> None:
            for i, (weight, direction) in enumerate(CELLS):
                values = np.stack([number(found[s, weight, direction]) for s in judged])  # (3, S)
                at = np.arange(len(values)) + 0.15 * (i - 1.5)
                axis.plot(at, values, "o", markersize=3, color=colour(i), alpha=0.5)
                axis.plot(at, values.mean(1), "_", markersize=12, color=colour(i), label=f"{weight}/{direction}")
            axis.set_xticks(range(3), [s.split()[0] for s in judged])
            axis.set(xlabel="negatives", ylabel=label)

        return on

    return Report(
        claim="the weights that SFT gives its pairs exceed those of contrastive learning in total",
        bars=[
            *(Bar(f"total weight SFT - CL, direction {d}, least over the settings", "> 0", words(least[d], 3),
                  least[d].estimate > 0) for d in HALVES),
            control(f"all negatives together one example: SFT - CL {words(balanced, 3)} (must stay <= 0)",
                    failed=balanced.estimate <= 0, what="control: balanced pairs"),
        ],
        answer="The larger weight of SFT is that of its many negatives: the control takes it away. Ranking has no bar. "
        "Mean reciprocal rank with near negatives by weight/direction, the better of yes and yes - no: "
        + ", ".join(f"{w}/{d} {words(interval(best(found['near negatives', w, d])), 3)}" for w, d in CELLS)
        + ". The paper's claim that SFT ranks better is about pretrained models; these are trained from scratch.",
        tables=[Table(setting, ("weight", "direction", *columns),
                      [(w, d, *(words(interval(found[setting, w, d][c]), 3) for c in columns)) for w, d in CELLS],
                      f"Mean [95% interval] over {len(config.seeds)} seeds; weights are means over {steps} steps.")
                for setting, (steps, _, _) in config.settings.items()],
        plots=[draw(context.out, "sft-against-cl", {"Total weight": paint(lambda n: n["total"], "mean weight of a row"),
                                                      "Ranking": paint(best, "MRR, the better of both scores")},
                    f"{config.negatives} negatives, {config.steps} steps ({config.near_steps} with near ones); "
                    f"weight/direction; a dot is one of {len(config.seeds)} seeds.")],
        numbers={" ".join(key): value for key, value in found.items()},
    )  # fmt: skip


def best(numbers: dict[str, FloatArray]) -> FloatArray:
    """(S,) MRR of whichever score ranks better on the mean."""
    return max((numbers["MRR of yes"], numbers["MRR of yes - no"]), key=lambda value: float(value.mean()))


class Scorer:
    """yes and no of (x, x'): each the product of d features of both."""

    def __init__(self, config: SFTConfig) -> None:
        sizes = (config.world.size, config.hidden, 2 * config.dim)
        self.phi, self.psi = Encoders(config.seeds, sizes), Encoders(config.seeds, sizes, 1)

    def __call__(self, x: Tensor, candidates: Tensor) -> Logits:
        """x (S, N, x), candidates (S, N, K, x) -> yes, no (S, N, K)."""
        products = self.phi(x).unsqueeze(-2) * self.psi(candidates)
        yes, no = products.chunk(2, dim=-1)
        return yes.sum(-1), no.sum(-1)

    def parameters(self) -> Iterator[Any]:
        """Of both networks."""
        yield from (*self.phi.parameters(), *self.psi.parameters())


def _measured(config: SFTConfig, setting: str, weight: Half, direction: Half) -> dict[str, FloatArray]:
    """Number -> (S,): mean weights over training and MRR on new anchors."""
    steps, false, near = config.settings[setting]
    loss, scorer = Reweighted(ReweightedConfig(weight=weight, direction=direction)), Scorer(config)
    optimiser = torch.optim.Adam(scorer.parameters(), lr=config.lr)
    world, kept = BlockWorld(config.world, config.seeds), []
    # The weight of one negative: 1 where each pair is an example. The softmax of CL counts each once by itself.
    share = 1.0 if weight == "sft" and setting != BALANCED else 1.0 / config.negatives
    for _ in range(steps):
        yes, no = scorer(*drawn(config, world, config.batch, false=false, near=near))
        pos, neg = (yes[..., :1], no[..., :1]), (yes[..., 1:], no[..., 1:])
        result = loss.two_logits(pos, neg, torch.full_like(pos[0], 1.0 / config.batch), torch.full_like(neg[0], share))
        optimiser.zero_grad()
        result.loss.sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        kept.append([result.diagnostics[name].numpy() for name in ("weight_positive", "weight_negatives")])
    weights = np.array(kept, dtype=np.float64)  # (steps, 2, S)
    judge = BlockWorld(config.world, config.seeds, 1)
    with torch.no_grad():
        yes, no = scorer(*drawn(config, judge, config.judged, false=0.0, near=near))
    return {"positive": weights[:, 0].mean(0), "negatives": weights[:, 1].mean(0), "total": weights.sum(1).mean(0),
            "MRR of yes": reciprocal_rank(yes), "MRR of yes - no": reciprocal_rank(yes - no)}  # fmt: skip


def reciprocal_rank(score: Tensor) -> FloatArray:
    """(S,) mean of 1 / rank of the first of the candidates (S, N, K); equal scores rank above it."""
    rank = 1.0 + (score[..., 1:] >= score[..., :1]).sum(-1)
    return np.asarray((1.0 / rank.double()).mean(-1).numpy())


def drawn(config: SFTConfig, world: BlockWorld, count: int, *, false: float, near: bool) -> tuple[Tensor, Tensor]:
    """Anchors (S, N, x) and candidates (S, N, 1 + M, x), the positive first: a view of the same instance.

    Negatives are other instances, of the anchor's latent if `near`; a share `false` are views of the same instance.
    """
    S, M = len(config.seeds), config.negatives
    latents = world.latents(count)
    other = np.repeat(latents, M, axis=1) if near else world.latents(count * M)
    own = world.instances(latents)  # (S, N, x)
    negative = world.instances(other).reshape(S, count, M, -1)
    wrong = np.stack([rng.random((count, M)) < false for rng in world.rngs])
    negative = np.where(wrong[..., None], own[:, :, None], negative)
    means = np.concatenate([own[:, :, None], own[:, :, None], negative], axis=2)  # (S, N, 2 + M, x)
    x = tensor(world.views(means.reshape(S, -1, means.shape[-1]), 1)).reshape(means.shape)
    return x[:, :, 0], x[:, :, 1:]
