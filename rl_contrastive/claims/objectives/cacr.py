"""Claim: CACR's two softmax weights keep embeddings spread; that it bears unequal frequencies better is measured, too.

    attraction sum_k w_k c_k, w = softmax(t+ c) over the K other views       the farthest positive is pulled most
    repulsion  -sum_j v_j c_j, v = softmax(-t- c) over other instances       the nearest negative is pushed most

c = |zn - zn'|^2. Control: uniform weights in place of both. Source: Zheng et al. 2023.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch

from rl_contrastive.analysis.figures import colour, draw, words
from rl_contrastive.claims.base import Bar, Context, Report, Table, control
from rl_contrastive.claims.objectives.worlds import BlockWorld, Encoders, WorldConfig, probe, ranks, train
from rl_contrastive.claims.stacked import SEEDS, interval
from rl_contrastive.config import Ge, Gt, Options, require
from rl_contrastive.objectives.multi_view import CACR, CACRConfig
from rl_contrastive.objectives.pairwise import NTXent, NTXentConfig
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

RATIO = 1.5
LOSSES: dict[str, Any] = {
    "InfoNCE": NTXent(NTXentConfig()),
    "CACR": CACR(),
    "uniform weights": CACR(CACRConfig(uniform=True)),
    "attraction weights only": CACR(CACRConfig(t_minus=0.0)),
    "repulsion weights only": CACR(CACRConfig(t_plus=0.0)),
}
COMPARED = tuple(LOSSES)[:3]
"""At all frequencies; the others at the first alone."""
WORLD = WorldConfig(detail=0.8, noise=0.8)


@dataclass(frozen=True)
class CACRClaimConfig(Options, where="cacr"):
    """Sizes of the measurement."""

    seeds: Annotated[tuple[int, ...], Ge(0)] = SEEDS
    """Worlds; nothing was chosen on them."""
    zipf: Annotated[tuple[float, ...], Ge(0)] = (0.0, 1.0, 1.5)
    """Exponents of the frequencies in training; the judge sees each latent equally often."""
    views: Annotated[int, Ge(3)] = 3
    """V: each anchor has V - 1 positives."""
    steps: Annotated[int, Ge(1)] = 300
    """Gradient steps."""
    batch: Annotated[int, Ge(2)] = 64
    """B."""
    dim: Annotated[int, Ge(2)] = 16
    """d."""
    hidden: Annotated[int, Ge(1)] = 64
    """Width of the hidden layer."""
    lr: Annotated[float, Gt(0)] = 2e-3
    """Adam's step size."""
    world: WorldConfig = WORLD
    """Where the data come from; its own zipf is not used."""

    @classmethod
    def quick(cls) -> CACRClaimConfig:
        """Seconds."""
        return cls(seeds=SEEDS[:3], zipf=(0.0, 1.5), views=3, steps=150, batch=32)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.zipf) >= 2, "cacr: give at least two exponents.")


@register("claim", "objectives/cacr", CACRClaimConfig)
def cacr(config: CACRClaimConfig, context: Context) -> Report:
    """CACR's weights keep the rank up; robustness to imbalance is reported as measured."""
    rank: dict[str, list[FloatArray]] = {name: [] for name in LOSSES}
    accuracy: dict[str, list[FloatArray]] = {name: [] for name in LOSSES}
    lean: dict[str, list[FloatArray]] = {name: [] for name in LOSSES}
    for name in context.each("loss", LOSSES):
        for zipf in config.zipf if name in COMPARED else config.zipf[:1]:
            for kept, value in zip((rank, accuracy, lean), _measured(config, LOSSES[name], zipf), strict=True):
                kept[name].append(value)
    ratios = [interval(a / b) for a, b in zip(rank["CACR"], rank["uniform weights"], strict=True)]
    worst = min(ratios, key=lambda ratio: ratio.estimate)
    pull = interval(np.min(lean["CACR"], axis=0))
    even = interval(np.max(lean["uniform weights"], axis=0))
    fall = {n: interval(accuracy[n][0] - accuracy[n][-1]) for n in ("InfoNCE", "CACR")}
    gain = interval((accuracy["CACR"][-1] - accuracy["CACR"][0]) - (accuracy["InfoNCE"][-1] - accuracy["InfoNCE"][0]))
    one_sided = {n: interval(rank["CACR"][0] / rank[n][0]) for n in LOSSES if n not in COMPARED}

    def paint(values: dict[str, list[FloatArray]], label: str) -> Any:
        def on(axis: Any) -> None:
            for i, (name, value) in enumerate(values.items()):
                axis.plot(config.zipf[: len(value)], np.mean(value, axis=1), "o-", color=colour(i), label=name)
            axis.set(xlabel="exponent of the frequencies", ylabel=label)
            axis.set_xticks(config.zipf)

        return on

    def table(title: str, values: dict[str, list[FloatArray]], decimals: int) -> Table:
        rows = [
            (name, *([words(interval(v), decimals) for v in value] + ["" for _ in config.zipf])[: len(config.zipf)])
            for name, value in values.items()
        ]
        return Table(title, ("loss", *(f"Zipf {z:g}" for z in config.zipf)), rows,
                     f"Mean [95% interval] over {len(config.seeds)} seeds.")  # fmt: skip

    return Report(
        claim="CACR's weights by distance keep embeddings from losing dimensions, and pull the farthest positive most",
        bars=[
            Bar("rank(CACR) / rank(uniform weights), least over the frequencies", f"> {RATIO:g}", words(worst),
                worst.estimate > RATIO),
            Bar("weight of the farthest positive - of the nearest, least over the frequencies", "> 0 on every seed",
                words(pull, 4), bool((np.array(lean["CACR"]) > 0).all())),
            control(f"uniform weights: farthest - nearest {words(even, 4)} (must not exceed 0)",
                    failed=even.estimate <= 0, what="control: uniform weights"),
        ],
        answer="More robust to unequal frequencies (no bar): from Zipf "
        f"{config.zipf[0]:g} to {config.zipf[-1]:g} InfoNCE loses {words(fall['InfoNCE'], 3)} of accuracy and CACR "
        f"{words(fall['CACR'], 3)}; CACR's advantage changes by {words(gain, 3)}: "
        + ("shown here. " if gain.low > 0 else "not shown, but the reverse. " if gain.high < 0 else "not shown. ")
        + "Rank of CACR over that with one kind of weight: "
        + ", ".join(f"{name} {words(value)}" for name, value in one_sided.items()) + ".",
        tables=[table("Effective rank", rank, 2), table("Linear accuracy of the latent", accuracy, 3)],
        plots=[draw(context.out, "cacr", {"Effective rank": paint(rank, f"effective rank of {config.dim}"),
                                          "Accuracy under imbalance": paint(accuracy, "linear accuracy of the latent")},
                    f"{config.views} views, {config.steps} steps; means of {len(config.seeds)} seeds.")],
        numbers={"zipf": config.zipf, "rank": rank, "probe": accuracy, "farthest_minus_nearest": lean},
    )  # fmt: skip


def _measured(config: CACRClaimConfig, loss: Any, zipf: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Effective rank, accuracy, and weight of the farthest minus that of the nearest positive, (S,) each."""
    encoders = Encoders(config.seeds, (config.world.size, config.hidden, config.dim))
    world = BlockWorld(replace(config.world, zipf=zipf), config.seeds)
    train(encoders, loss, world.batches(config.steps, config.batch, config.views), lr=config.lr)
    judge = BlockWorld(config.world, config.seeds, 1)
    z = encoders.embed(judge.views(judge.instances(judge.latents(500, even=True)), config.views))  # (S, V, N, d)
    t_plus = 0.0 if not isinstance(loss, CACR) or loss.config.uniform else loss.config.t_plus
    return ranks(z[:, 0]), probe(judge, encoders.embed), lean(z, t_plus)


def lean(z: FloatArray, t_plus: float) -> FloatArray:
    """(S,) mean over anchors (view 0) of the weight of the farthest minus that of the nearest positive; w as CACR's."""
    zn = z / np.linalg.norm(z, axis=-1, keepdims=True)
    c = np.square(zn[:, 1:] - zn[:, :1]).sum(-1)  # (S, V - 1, N)
    w = torch.softmax(t_plus * torch.as_tensor(c), dim=1).numpy()
    farthest, nearest = (np.take_along_axis(w, at(c, axis=1)[:, None], axis=1)[:, 0] for at in (np.argmax, np.argmin))
    return np.asarray((farthest - nearest).mean(-1))
