"""Claim (GCPO): a bonus for a tool, paid only where it raised the group's accuracy, does no harm where the tool hurts.

Three contexts: the tool raises the chance of success from .4 to .8, lowers it from .6 to .3, or leaves it at .5. The
policy decides in each whether to use it (at first with probability .1) and learns by GRPO from groups of 8. Controls:
no bonus, which is plain GRPO, and a bonus that is always paid. The harder case, without a bar: the tool is one of seven
bits, and each wrong one of the others lowers the chance of success, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.analysis.figures import colour, draw
from rl_contrastive.claims.base import Context, Report, Table
from rl_contrastive.claims.preferences.common import SEEDS
from rl_contrastive.claims.stacked import centres, descend, generators, least, most, shown
from rl_contrastive.config import Ge, Gt, In, Options, require
from rl_contrastive.preferences.base import Completions
from rl_contrastive.preferences.groups import GRPO, GRPOConfig
from rl_contrastive.preferences.transforms import GCPO, GCPOConfig
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

PLAIN, ALWAYS, CONTRAST = "no bonus", "bonus always", "GCPO"
METHODS = (PLAIN, ALWAYS, CONTRAST)
CONTEXTS = ("helps", "hurts", "neutral")
STEPS = "steps until it is used"
SUCCESS = torch.tensor([[0.4, 0.8], [0.6, 0.3], [0.5, 0.5]])
"""(3, 2): chance of success without and with the tool, all other bits right."""


@dataclass(frozen=True)
class GCPOClaimConfig(Options, where="gcpo"):
    """The world and the training."""

    start: Annotated[float, In(0, 1, above=True, below=True)] = 0.1
    """P(tool) before training."""
    bonus: Annotated[float, Ge(0)] = 0.5
    """Of the use of the tool."""
    eps: Annotated[float, Ge(0)] = 0.05
    """Differences of accuracy up to this earn nothing."""
    wider: Annotated[tuple[float, ...], Ge(0)] = (0.15, 0.3)
    """Further values of eps, reported."""
    n: Annotated[int, In(2, 1024)] = 8
    """K: answers a group."""
    groups: Annotated[int, In(1, 1024)] = 4
    """Groups a context and step."""
    steps: Annotated[int, Ge(1)] = 500
    """Gradient steps."""
    lr: Annotated[float, Gt(0)] = 0.03
    """Of Adam."""
    bits: Annotated[int, In(2, 64)] = 7
    """Bits of an answer in the harder case, the tool among them."""
    penalty: Annotated[float, In(0, 1)] = 0.35
    """Each wrong one of the other bits takes this share of the chance of success."""
    seeds: tuple[int, ...] = SEEDS
    """Trainings."""

    @classmethod
    def quick(cls) -> GCPOClaimConfig:
        """Seconds."""
        return cls(steps=250, lr=0.06, wider=(), seeds=SEEDS[:3])

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.seeds) >= 2, "gcpo: give at least two seeds.")


class Study:
    """Policies of all seeds, trained with one reward; bit 0 is the tool, the others are right where they are 1."""

    def __init__(self, config: GCPOClaimConfig, method: str, bits: int, eps: float | None = None) -> None:
        self.config, self.method, self.bits = config, method, bits
        self.rngs = generators(config.seeds, bits)
        start = torch.full((len(config.seeds), len(CONTEXTS), bits), 0.0)
        start[..., 0] = float(np.log(config.start / (1 - config.start)))
        self.logits = nn.Parameter(start)
        self.objective = GRPO(GRPOConfig(beta=0.0, reduce="sum"))
        rule = GCPOConfig(bonus=config.bonus, eps=config.eps if eps is None else eps)
        self.transform = {PLAIN: GCPO(GCPOConfig(bonus=0.0)), CONTRAST: GCPO(rule),
                          ALWAYS: GCPO(GCPOConfig(bonus=config.bonus, rule="always"))}[method]  # fmt: skip
        self.curve: list[FloatArray] = []

    def fit(self) -> None:
        """All steps."""
        descend([self.logits], self.step, self.config.steps, self.config.lr)

    def uniform(self, *shape: int) -> Tensor:
        """(S, *shape), each seed from its own generator."""
        return torch.stack([torch.rand(shape, generator=rng) for rng in self.rngs])

    def step(self, step: int) -> Tensor:
        """Loss (S,) of the groups of a step."""
        if step % 10 == 0:
            self.curve.append(self.logits.detach()[..., 0].sigmoid().numpy())
        c, shape = self.config, (len(CONTEXTS), self.config.groups, self.config.n)
        logits = self.logits[:, :, None, None]  # (S, 3, 1, 1, T)
        bits = (self.uniform(*shape, self.bits) < logits.sigmoid()).float()  # (S, 3, G, n, T)
        without, with_it = (SUCCESS[:, i, None, None] for i in (0, 1))  # (3, 1, 1)
        chance = torch.where(bits[..., 0] > 0, with_it, without)
        chance = chance * (1 - c.penalty) ** (1 - bits[..., 1:]).sum(-1)
        accuracy = (self.uniform(*shape) < chance).float()
        reward = self.transform({"accuracy": accuracy}, bits[..., 0])
        logp = nn.functional.logsigmoid(logits * (2 * bits - 1))
        return self.objective(Completions(logp, logp.detach()), reward).loss.sum((-1, -2))

    @torch.no_grad()
    def judge(self) -> dict[str, FloatArray]:
        """(S,) each: P(tool) by context, exact accuracy, steps until P(tool) > .5 where it helps."""
        p = self.logits.sigmoid()  # (S, 3, T)
        right = (1 - self.config.penalty * (1 - p[..., 1:])).prod(-1)
        accuracy = ((SUCCESS[:, 0] * (1 - p[..., 0]) + SUCCESS[:, 1] * p[..., 0]) * right).mean(-1)
        tool = {name: p[:, i, 0].double().numpy() for i, name in enumerate(CONTEXTS)}
        used = np.array(self.curve)[..., 0] > 0.5  # (steps / 10, S), where it helps
        steps = np.where(used.any(0), 10.0 * used.argmax(0), self.config.steps)
        return {**tool, "accuracy": accuracy.double().numpy(), STEPS: steps}


@register("claim", "preferences/gcpo", GCPOClaimConfig)
def gcpo(config: GCPOClaimConfig, context: Context) -> Report:
    """A bonus for tools that is conditional on their gain does no harm where they hurt (GCPO)."""
    found: dict[str, dict[str, FloatArray]] = {}
    hard: dict[str, dict[str, FloatArray]] = {}
    curves = {}
    for bits, kept in ((1, found), (config.bits, hard)):
        for method in METHODS:
            study = Study(config, method, bits)
            study.fit()
            kept[method] = study.judge()
            curves[bits, method] = np.array(study.curve)
            context.say(f"{bits} bits, {method}: " + ", ".join(f"{k} {x.mean():.3f}" for k, x in kept[method].items()))
    for eps in config.wider:
        study = Study(config, CONTRAST, 1, eps)
        study.fit()
        found[f"GCPO, eps {eps:g}"] = study.judge()
    return report(config, context, found, hard, curves)


def report(config: GCPOClaimConfig, context: Context, found: dict[str, dict[str, FloatArray]],
           hard: dict[str, dict[str, FloatArray]], curves: dict[tuple[int, str], FloatArray]) -> Report:  # fmt: skip
    """Bars, tables, picture."""
    gain = {name: of[CONTRAST]["accuracy"] - of[PLAIN]["accuracy"] for name, of in (("one", found), ("seven", hard))}
    bars = [
        most("P(tool) where it hurts, GCPO", found[CONTRAST]["hurts"], 0.1),
        least("accuracy, GCPO - bonus always", found[CONTRAST]["accuracy"] - found[ALWAYS]["accuracy"], 0.05),
        most("control: P(tool) where it hurts, bonus always", found[ALWAYS]["hurts"], 0.1, control=True),
    ]
    titles = {"P(tool) and accuracy, the tool alone decides": found, f"The same, one of {config.bits} bits": hard}
    tables = [
        Table(title, ("Reward", *of[PLAIN]), [(name, *map(shown, row.values())) for name, row in of.items()],
              f"Means over {len(config.seeds)} seeds, 95% t-interval.", 1)
        for title, of in titles.items()
    ]  # fmt: skip

    def paint_curves(axis: Any) -> None:
        for i, method in enumerate(METHODS):
            for j, which in enumerate(("-", "--", ":")):
                values = curves[1, method][..., j].mean(-1)
                axis.plot(10 * np.arange(len(values)), values, which, color=colour(i), label=method if j == 1 else None)
        axis.set(xlabel="step", ylabel="P(tool)", ylim=(0, 1))

    def paint_accuracy(axis: Any) -> None:
        for i, (label, of) in enumerate((("tool alone", found), (f"one of {config.bits} bits", hard))):
            centre, error = centres([of[name]["accuracy"] for name in METHODS])
            axis.bar(np.arange(3) + 0.4 * (i - 0.5), centre, 0.38, yerr=error, color=colour(i + 3), label=label)
        axis.set_xticks(range(3), METHODS)
        axis.set(ylabel="accuracy", ylim=(0, 0.85))

    return Report(
        claim="a bonus that is paid only where the tool raised accuracy takes away the harm of one that is always paid",
        bars=bars,
        answer=f"Against plain GRPO the accuracy changes by {shown(gain['one'])} where the tool alone decides and by "
        f"{shown(gain['seven'])} where it is one of {config.bits} bits; there P(tool) where it helps is "
        f"{shown(hard[PLAIN]['helps'])} without a bonus and {shown(hard[CONTRAST]['helps'])} with GCPO, where it hurts "
        f"{shown(hard[PLAIN]['hurts'])} and {shown(hard[CONTRAST]['hurts'])}. Steps until it is used where it helps: "
        f"{shown(hard[PLAIN][STEPS], 0)} and {shown(hard[CONTRAST][STEPS], 0)}.",
        tables=tables,
        plots=[draw(context.out, "gcpo", {"Use of the tool": paint_curves, "Accuracy": paint_accuracy},
                    f"{len(config.seeds)} seeds. Left: the tool helps (solid), hurts (dashed), does nothing (dotted). "
                    "Bars: 95% t-intervals.")],
        numbers={"tool alone": found, f"one of {config.bits}": hard},
    )  # fmt: skip
