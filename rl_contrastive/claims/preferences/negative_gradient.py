"""Claim (Tajwar et al. 2024): pushing worse samples down finds a far mode sooner on-policy, and not from offline pairs.

100 bins with reward exp(-((a - 70)/10)^2), and a reference at bin 20. Each step takes pairs of actions, drawn by the
policy itself or once and for all by the reference, and labels them by reward. Winners-only raises the better action;
the others also lower the worse one. E_pi[R] is exact. Control: labels by coin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from rl_contrastive.analysis.figures import colour, draw
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.stacked import descend, generators, shown
from rl_contrastive.config import MOST_DRAWN, MOST_WIDTH, Ge, Gt, In, Options
from rl_contrastive.preferences.base import Completions, GroupObjective, PairObjective, Pairs
from rl_contrastive.preferences.groups import AWR, RLOO, AWRConfig, BestOfN, BestOfNConfig, RLOOConfig
from rl_contrastive.preferences.pairwise import DPO, IPO, DPOConfig, IPOConfig
from rl_contrastive.preferences.worlds import Listed, bins_bandit
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

BETA = 0.05
SEEDS = tuple(range(500, 510))
GOAL = 0.5
WINNERS, NEGATIVE, COIN = "winners only", "negative gradient", "DPO, labels by coin"
METHODS: dict[str, PairObjective | GroupObjective] = {
    WINNERS: BestOfN(),
    "AWR": AWR(AWRConfig(beta=BETA)),
    NEGATIVE: BestOfN(BestOfNConfig(negative=BETA)),
    "DPO": DPO(DPOConfig(beta=BETA)),
    "IPO": IPO(IPOConfig(beta=BETA)),
    "RLOO": RLOO(RLOOConfig(beta=BETA)),
    COIN: DPO(DPOConfig(beta=BETA)),
}
PAIRWISE = (WINNERS, NEGATIVE, "DPO", "IPO")
"""What sees the order of a pair and not the rewards."""


@dataclass(frozen=True)
class NegativeGradientClaimConfig(Options, where="negative-gradient"):
    """The policy's features, the data and the training; the same for all losses."""

    pairs: Annotated[int, In(1, MOST_DRAWN)] = 8
    """Pairs a step on-policy."""
    stored: Annotated[int, In(1, MOST_DRAWN)] = 500
    """Pairs of the reference, all of them in each step offline."""
    centres: Annotated[int, In(2, MOST_WIDTH)] = 25
    """Radial features of a bin, on which the logits are linear."""
    width: Annotated[float, Gt(0)] = 6.0
    """Their standard deviation in bins."""
    steps: Annotated[int, Ge(1)] = 300
    """Gradient steps."""
    lr: Annotated[float, Gt(0)] = 0.02
    """Of Adam, for all losses."""
    seeds: tuple[int, ...] = SEEDS
    """Samples of each."""

    @classmethod
    def quick(cls) -> NegativeGradientClaimConfig:
        """Seconds."""
        return cls(stored=200, lr=0.05, steps=150, seeds=SEEDS[:3])


class Study:
    """Policies of all seeds with one loss."""

    def __init__(self, config: NegativeGradientClaimConfig, method: str, online: bool) -> None:
        self.config, self.method, self.online = config, method, online
        self.world: Listed = bins_bandit()
        bins = torch.arange(len(self.world.reward), dtype=torch.float64)
        middle = torch.linspace(0, float(bins[-1]), config.centres, dtype=torch.float64)
        self.features = (-0.5 * ((bins.unsqueeze(-1) - middle) / config.width) ** 2).exp()  # (100, k)
        self.theta = torch.nn.Parameter(torch.zeros(len(config.seeds), config.centres, dtype=torch.float64))
        self.rngs = generators(config.seeds, 1)
        self.stored = None if online else self.drawn(self.world.log_ref.expand(len(config.seeds), -1), config.stored)
        self.curve: list[FloatArray] = []

    def log_pi(self) -> Tensor:
        """(S, 100)."""
        return (self.world.log_ref[0] + self.theta @ self.features.mT).log_softmax(-1)

    def drawn(self, log_pi: Tensor, count: int) -> Tensor:
        """Actions (S, count, 2) of policies (S, 100)."""
        parts = [torch.multinomial(p.exp(), 2 * count, replacement=True, generator=rng)
                 for p, rng in zip(log_pi, self.rngs, strict=True)]  # fmt: skip
        return torch.stack(parts).unflatten(-1, (count, 2))  # type: ignore[no-untyped-call, no-any-return]

    def fit(self) -> FloatArray:
        """E_pi[R] (steps, S) before each step."""
        descend([self.theta], self.step, self.config.steps, self.config.lr)
        return np.array(self.curve)

    def step(self, step: int) -> Tensor:
        """Loss (S,)."""
        del step
        log_pi = self.log_pi()
        self.curve.append((log_pi.detach().exp() @ self.world.reward).numpy())
        actions = self.drawn(log_pi.detach(), self.config.pairs) if self.stored is None else self.stored
        S, P, _ = actions.shape
        logp = log_pi.gather(-1, actions.flatten(1)).reshape(S, P, 2)
        ref, reward = self.world.log_ref[0][actions], self.world.reward[actions]
        objective = METHODS[self.method]
        if isinstance(objective, GroupObjective):
            return objective(Completions(logp.unsqueeze(-1), ref.unsqueeze(-1)), reward).loss.mean(-1)
        first = reward[..., :1] >= reward[..., 1:]  # (S, P, 1)
        if self.method == COIN:
            first = torch.stack([torch.rand(P, 1, generator=rng) < 0.5 for rng in self.rngs])
        order = torch.cat([~first, first], -1).long()  # rows of the better and of the worse
        logp, ref = logp.gather(-1, order), ref.gather(-1, order)
        better, worse = (Completions(logp[..., i : i + 1], ref[..., i : i + 1]) for i in (0, 1))
        told = (actions[..., 0] != actions[..., 1]).double()  # equal actions are no pair
        return objective.step(Pairs(better, worse, told), {})[0].loss


def steps_to(curve: FloatArray, goal: float) -> FloatArray:
    """(S,) first step at which curves (steps, S) are at the goal; the number of steps where none is."""
    there = curve >= goal
    return np.where(there.any(0), there.argmax(0), len(curve)).astype(np.float64)


@register("claim", "preferences/negative-gradient", NegativeGradientClaimConfig)
def negative_gradient(config: NegativeGradientClaimConfig, context: Context) -> Report:
    """On-policy DPO needs fewer steps to a far mode than winners alone; offline no pairwise loss gets there."""
    curves = {}
    for online in (True, False):
        for method in METHODS:
            curves[method, online] = Study(config, method, online).fit()
            context.say(f"{method}, {'on-policy' if online else 'offline'}: {curves[method, online][-1].mean():.3f}")
    return report(config, context, curves)


def report(config: NegativeGradientClaimConfig, context: Context,
           curves: dict[tuple[str, bool], FloatArray]) -> Report:  # fmt: skip
    """Bars, table, picture."""
    steps = {m: steps_to(curves[m, True], GOAL) for m in METHODS}
    ratio = {m: x / steps[WINNERS] for m, x in steps.items()}
    offline = {m: curves[m, False][-1] for m in METHODS}
    last = max(PAIRWISE, key=lambda m: float(offline[m].mean()))
    bars = [
        Bar("steps to .5 on-policy, DPO / winners only", "mean <= 0.8", shown(ratio["DPO"]),
            float(ratio["DPO"].mean()) <= 0.8),
        Bar(f"E[R] offline after {config.steps} steps, the best pairwise loss ({last})", "mean < 0.5",
            shown(offline[last]), float(offline[last].mean()) < GOAL),
        Bar(f"control: DPO with labels by coin, {shown(ratio[COIN])} of the steps", "mean <= 0.8", shown(ratio[COIN]),
            float(ratio[COIN].mean()) <= 0.8, control=True),
        Bar(f"control: DPO on-policy, E[R] {shown(curves['DPO', True][-1])}", "mean < 0.5",
            shown(curves["DPO", True][-1]), float(curves["DPO", True][-1].mean()) < GOAL, control=True),
    ]  # fmt: skip
    rows = [(m, shown(curves[m, True][-1]), shown(steps[m], 1), shown(ratio[m], 2), shown(offline[m]))
            for m in METHODS]  # fmt: skip

    def paint(online: bool) -> Any:
        def on(axis: Any) -> None:
            for i, m in enumerate(METHODS):
                axis.plot(curves[m, online].mean(1), color=colour(i), label=m)
            axis.axhline(GOAL, color="#555555", linewidth=0.8)
            axis.set(xlabel="gradient steps", ylabel="E[R]", ylim=(-0.02, 1.05))

        return on

    return Report(
        claim="on its own samples a loss that also lowers the worse one reaches a far mode in fewer steps; from the "
        "reference's pairs no pairwise loss does",
        bars=bars,
        answer="Steps to .5 over those of winners only: "
        + ", ".join(f"{m} {shown(ratio[m], 2)}" for m in METHODS if m not in (WINNERS, COIN))
        + f". A curve that never gets there counts {config.steps} steps.",
        tables=[Table("After training", ("Loss", "E[R] on-policy", "steps to .5", "of winners only", "E[R] offline"),
                      rows, f"Mean over {len(config.seeds)} seeds, 95% t-interval.", 1)],
        plots=[draw(context.out, "negative-gradient", {"On-policy": paint(True), "Offline": paint(False)},
                    f"{config.pairs} pairs a step or {config.stored} stored ones, {len(config.seeds)} seeds.",
                    aside=True)],
        numbers={"steps": steps, "offline": offline, "on-policy": {m: curves[m, True][-1] for m in METHODS}},
    )  # fmt: skip
