"""Claim (Secrets of RLHF II; Wang et al. 2024): the votes of several reward models find labels that were turned round.

Pairs of items in R^16 with a linear reward: the label is the sign of w . (x - x'), some labels are flipped. Ten
models fit by Bradley-Terry, each on its own half of the pairs; u is their mean difference on every pair. Measured: how
often the sign of u tells rightly whether a label was flipped, and the accuracy on new pairs of a model trained by each
use of u. Controls: u of other pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from rl_contrastive.analysis.figures import colour, draw
from rl_contrastive.claims.base import Context, Report, Table
from rl_contrastive.claims.stacked import centres, descend, generators, least, shown
from rl_contrastive.config import MOST_DRAWN, MOST_WIDTH, Ge, Gt, In, Options, require
from rl_contrastive.preferences.rewards import (
    BradleyTerry,
    Flip,
    FlipConfig,
    Margin,
    RewardLoss,
    Smoothed,
    SmoothedConfig,
    strength,
)
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

SEEDS = tuple(range(500, 510))
PLAIN, FLIPPED, DROPPED, SHUFFLED = "plain", "flip", "drop", "flip by u of other pairs"


@dataclass(frozen=True)
class RewardModelsClaimConfig(Options, where="reward-models"):
    """The world, the models and their training."""

    dim: Annotated[int, In(2, MOST_WIDTH)] = 16
    """Coordinates of an item."""
    pairs: Annotated[int, In(4, MOST_DRAWN)] = 400
    """P: pairs with labels."""
    models: Annotated[int, In(2, 100)] = 10
    """M: voters, each on half of the pairs."""
    flips: Annotated[tuple[float, ...], In(0, 0.5)] = (0.1, 0.3)
    """Shares of labels that are turned round."""
    decay: Annotated[float, Ge(0)] = 0.01
    """Weight of |w|^2 in the loss."""
    steps: Annotated[int, Ge(1)] = 300
    """Gradient steps on all pairs."""
    lr: Annotated[float, Gt(0)] = 0.05
    """Of Adam."""
    test: Annotated[int, In(1, MOST_DRAWN)] = 4000
    """New pairs."""
    seeds: tuple[int, ...] = SEEDS
    """Worlds, one a seed."""

    @classmethod
    def quick(cls) -> RewardModelsClaimConfig:
        """Seconds."""
        return cls(steps=150, test=1000, seeds=SEEDS[:3])

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.flips) == 2, "reward-models: give two shares of flips, the bars being for each.")


@dataclass(frozen=True)
class Data:
    """Pairs of all seeds as differences, chosen - rejected by their label."""

    x: Tensor
    """(S, P, k)."""
    flipped: Tensor
    """(S, P) bool: the label is wrong."""
    test: Tensor
    """(S, N, k) new pairs, the truly better item first."""


def draw_data(config: RewardModelsClaimConfig, flips: float) -> Data:
    """Pairs, labels and new pairs of every seed."""
    parts = []
    for rng in generators(config.seeds, 1):
        w = torch.randn(config.dim, generator=rng)
        x, test = (torch.randn(n, config.dim, generator=rng) * 2**0.5 for n in (config.pairs, config.test))
        x, test = (d * torch.sign(d @ w).unsqueeze(-1) for d in (x, test))
        wrong = torch.rand(config.pairs, generator=rng) < flips
        parts.append((torch.where(wrong.unsqueeze(-1), -x, x), wrong, test))
    return Data(*(torch.stack(part) for part in zip(*parts, strict=True)))


def fit(config: RewardModelsClaimConfig, x: Tensor, loss: RewardLoss, u: Tensor | None,
        used: Tensor | None = None) -> Tensor:  # fmt: skip
    """Weights (..., k) of the linear reward on differences x (..., P, k); used (..., P): 1 on a model's own."""
    w = torch.nn.Parameter(torch.zeros(*x.shape[:-2], x.shape[-1]))

    def total(step: int) -> Tensor:
        del step
        d = (x @ w.unsqueeze(-1)).squeeze(-1)
        found = loss(d, torch.zeros_like(d), strength=u)
        fitted = found.loss if used is None else (found.rows * used).sum(-1) / used.sum(-1)
        return (fitted + config.decay * w.square().sum(-1)).sum()

    descend([w], total, config.steps, config.lr)
    return w.detach()


def votes(config: RewardModelsClaimConfig, data: Data) -> Tensor:
    """u (S, P): the mean difference of M models, each of which saw half of the pairs."""
    S, P, _ = data.x.shape
    used = torch.zeros(config.models, S, P)
    for s, rng in enumerate(generators(config.seeds, 2)):
        for m in range(config.models):
            used[m, s, torch.randperm(P, generator=rng)[: P // 2]] = 1
    x = data.x.expand(config.models, S, P, config.dim)
    w = fit(config, x, BradleyTerry(), None, used)  # (M, S, k)
    d = torch.einsum("spk,msk->smp", data.x, w)
    return strength(d, torch.zeros_like(d)).mean


def measured(config: RewardModelsClaimConfig, flips: float) -> dict[str, FloatArray]:
    """(S,) each: what the sign of u tells, and accuracy on new pairs by method."""
    data = draw_data(config, flips)
    u = votes(config, data)
    order = torch.stack([torch.randperm(config.pairs, generator=rng) for rng in generators(config.seeds, 3)])
    other = u.gather(-1, order)
    uses: dict[str, tuple[RewardLoss, Tensor | None]] = {
        PLAIN: (BradleyTerry(), None),
        FLIPPED: (Flip(FlipConfig(share=flips)), u),
        DROPPED: (Flip(FlipConfig(share=flips, action="drop")), u),
        "smooth": (Smoothed(SmoothedConfig(smoothing=0.3)), u),
        "margin": (Margin(), u),
        SHUFFLED: (Flip(FlipConfig(share=flips)), other),
    }
    hit = (u < 0) & data.flipped
    out = {"detection": _told(u, data), "recall": (hit.sum(-1) / data.flipped.sum(-1).clamp_min(1)).double().numpy(),
           "detection, other pairs": _told(other, data)}  # fmt: skip
    for name, (loss, by) in uses.items():
        w = fit(config, data.x, loss, by)
        out[name] = ((data.test @ w.unsqueeze(-1)).squeeze(-1) > 0).double().mean(-1).numpy()
    return out


def _told(u: Tensor, data: Data) -> FloatArray:
    """(S,) share of pairs where u < 0 exactly if the label is wrong."""
    told: FloatArray = ((u < 0) == data.flipped).double().mean(-1).numpy()
    return told


@register("claim", "preferences/reward-models", RewardModelsClaimConfig)
def reward_models(config: RewardModelsClaimConfig, context: Context) -> Report:
    """The votes of reward models find flipped labels; without these pairs a model is no worse (Secrets of RLHF II)."""
    found = {}
    for flips in config.flips:
        found[flips] = measured(config, flips)
        context.say(f"flips {flips:g}: " + ", ".join(f"{key} {x.mean():.3f}" for key, x in found[flips].items()))
    return report(config, context, found)


def report(config: RewardModelsClaimConfig, context: Context, found: dict[float, dict[str, FloatArray]]) -> Report:
    """Bars, table, picture."""
    low, high = config.flips
    best = {f: max((found[f][name] - found[f][PLAIN] for name in (FLIPPED, DROPPED)), key=lambda d: float(d.mean()))
            for f in config.flips}  # fmt: skip
    bars = [
        least(f"sign of u, {low:g} flipped", found[low]["detection"], 0.9),
        least(f"sign of u, {high:g} flipped", found[high]["detection"], 0.75),
        *(least(f"flip or drop - plain, {f:g} flipped", best[f], 0.0) for f in config.flips),
        least(f"control: sign of u of other pairs, {high:g} flipped", found[high]["detection, other pairs"], 0.75,
              control=True),
        least(f"control: flip by u of other pairs - plain, {low:g} flipped", found[low][SHUFFLED] - found[low][PLAIN],
              0.0, control=True),
    ]  # fmt: skip
    keys = list(found[low])
    rows = [(key, *(shown(found[f][key]) for f in config.flips)) for key in keys]

    def paint(names: list[str], label: str) -> Any:
        def on(axis: Any) -> None:
            for i, f in enumerate(config.flips):
                centre, error = centres([found[f][name] for name in names])
                y = np.arange(len(names)) + 0.2 * (i - 0.5)
                axis.errorbar(centre, y, xerr=error, fmt="o", color=colour(i), label=f"{f:g} flipped")
            axis.set_yticks(range(len(names)), [n.replace(" of other", "\nof other") for n in names])
            axis.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))

        return on

    return Report(
        claim="the sign of the models' mean vote tells flipped labels from right ones, and flipping or dropping the "
        "pairs of lowest strength costs no accuracy",
        bars=bars,
        answer="Gain over Bradley-Terry on all labels: "
        + "; ".join(f"{f:g} flipped, " + ", ".join(f"{name} {shown(found[f][name] - found[f][PLAIN])}"
                                                   for name in (FLIPPED, DROPPED, "smooth", "margin"))
                    for f in config.flips) + ".",
        tables=[Table("Votes and accuracies", ("Measure", *(f"{f:g} flipped" for f in config.flips)), rows,
                      f"{config.test} new pairs, mean over {len(config.seeds)} seeds, 95% t-interval.", 1)],
        plots=[draw(context.out, "reward-models",
                    {"What the votes tell": paint(["detection", "recall", "detection, other pairs"], "share"),
                     "New pairs": paint(keys[3:], "accuracy")},
                    f"{config.pairs} pairs, {config.models} models, {len(config.seeds)} seeds.")],
        numbers={f"{f:g}": x for f, x in found.items()},
    )  # fmt: skip
