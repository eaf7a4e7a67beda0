"""Claim (RPO; Liu et al. 2024): the likelihood of the chosen completions keeps DPO from optimising too far.

A bandit with random features: offline pairs show 20 arms, 40 others have reward 0 and little mass under the reference.
E_pi[R] is exact in every step: how much is lost from the best step to the last. Control: RPO without the likelihood,
which is DPO again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.analysis.figures import colour, draw
from rl_contrastive.claims.base import Context, Report, Table
from rl_contrastive.claims.stacked import above, descend, generators, most, shown
from rl_contrastive.config import MOST_DRAWN, MOST_WIDTH, Ge, Gt, In, Options
from rl_contrastive.preferences.base import Completions, PairObjective, Pairs
from rl_contrastive.preferences.data import LabelConfig, Pool, draw_pairs
from rl_contrastive.preferences.pairwise import CDPO, DPO, IPO, RPO, CDPOConfig, DPOConfig, IPOConfig, RPOConfig
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

SEEDS = tuple(range(500, 510))
NONE = "RPO, eta 0"


@dataclass(frozen=True)
class OverOptimisationClaimConfig(Options, where="over-optimisation"):
    """The bandits, the data and the training."""

    shown: Annotated[int, In(2, MOST_WIDTH)] = 20
    """Arms that the pairs show, with uniform rewards."""
    hidden: Annotated[int, In(1, MOST_WIDTH)] = 40
    """Arms that no pair shows, with reward 0."""
    dim: Annotated[int, In(1, MOST_WIDTH)] = 10
    """k: normal features of an arm, on which the logits are linear."""
    gap: Annotated[float, Ge(0)] = 4.0
    """How much lower the reference's logits are on the hidden arms."""
    pairs: Annotated[int, In(1, MOST_DRAWN)] = 60
    """P: pairs of arms drawn by the reference."""
    temperature: Annotated[float, Ge(0)] = 0.0
    """Of the Bradley-Terry labels; 0: the better arm always wins."""
    beta: Annotated[float, Gt(0)] = 0.1
    """beta of all losses."""
    eta: Annotated[float, Ge(0)] = 0.2
    """eta of RPO."""
    form: Literal["sum", "mean"] = "mean"
    """Form of RPO."""
    steps: Annotated[int, Ge(1)] = 1500
    """Gradient steps on all pairs."""
    lr: Annotated[float, Gt(0)] = 0.05
    """Of Adam."""
    seeds: tuple[int, ...] = SEEDS
    """Bandits, one a seed."""

    @classmethod
    def quick(cls) -> OverOptimisationClaimConfig:
        """Seconds."""
        return cls(steps=600, lr=0.1, seeds=SEEDS[:3])


def methods(config: OverOptimisationClaimConfig) -> dict[str, PairObjective]:
    """What is compared, all at one beta."""
    return {
        "DPO": DPO(DPOConfig(beta=config.beta)),
        "cDPO": CDPO(CDPOConfig(beta=config.beta, smoothing=0.1)),
        "IPO": IPO(IPOConfig(beta=config.beta)),
        "RPO": RPO(RPOConfig(beta=config.beta, eta=config.eta, form=config.form)),
        NONE: RPO(RPOConfig(beta=config.beta, eta=0.0, form=config.form)),
    }


class Study:
    """Bandits, pairs and policies of all seeds."""

    def __init__(self, config: OverOptimisationClaimConfig) -> None:
        self.config = config
        parts = [self.drawn(rng) for rng in generators(config.seeds, 1)]
        self.features, self.reward, self.log_ref, self.chosen, self.rejected = (
            torch.stack(part) for part in zip(*parts, strict=True)
        )

    def drawn(self, rng: torch.Generator) -> tuple[Tensor, ...]:
        """Features (A, k), rewards (A,), reference (A,), chosen and rejected arms (P,) of one seed."""
        c, A = self.config, self.config.shown + self.config.hidden
        features = torch.randn(A, c.dim, dtype=torch.float64, generator=rng) * c.dim**-0.5
        reward = torch.rand(A, dtype=torch.float64, generator=rng)
        reward[c.shown :] = 0
        logits = torch.zeros(A, dtype=torch.float64)
        logits[c.shown :] = -c.gap
        arms = torch.arange(c.shown).unsqueeze(-1)
        kind = LabelConfig(temperature=c.temperature)
        pairs = draw_pairs(Pool(arms, reward[: c.shown]), c.pairs, kind, rng=rng)
        return features, reward, logits.log_softmax(-1), pairs.chosen, pairs.rejected

    def fit(self, objective: PairObjective) -> tuple[FloatArray, FloatArray]:
        """(steps, S) each: E_pi[R] and the mean log pi(chosen), before each step."""
        theta = nn.Parameter(torch.zeros(len(self.reward), self.config.dim, 1, dtype=torch.float64))
        returns, likely = [], []

        def loss(step: int) -> Tensor:
            del step
            log_pi = (self.log_ref + (self.features @ theta).squeeze(-1)).log_softmax(-1)  # (S, A)
            returns.append((log_pi.detach().exp() * self.reward).sum(-1).numpy())
            chosen, rejected = (self.side(log_pi, arms) for arms in (self.chosen, self.rejected))
            likely.append(chosen.log_prob().detach().mean(-1).numpy())
            return objective.step(Pairs(chosen, rejected), {})[0].loss

        descend([theta], loss, self.config.steps, self.config.lr)
        return np.array(returns), np.array(likely)

    def side(self, log_pi: Tensor, arms: Tensor) -> Completions:
        """Completions (S, P, 1) of arms (S, P)."""
        return Completions(*(x.gather(1, arms).unsqueeze(-1) for x in (log_pi, self.log_ref)))


@register("claim", "preferences/over-optimisation", OverOptimisationClaimConfig)
def over_optimisation(config: OverOptimisationClaimConfig, context: Context) -> Report:
    """DPO trained long ends below its best; RPO's likelihood term keeps it there (RPO)."""
    study, curves = Study(config), {}
    for name, objective in methods(config).items():
        curves[name] = study.fit(objective)
        context.say(f"{name}: E[R] {curves[name][0][-1].mean():.3f}, log pi(chosen) {curves[name][1][-1].mean():.2f}")
    return report(config, context, curves)


def report(config: OverOptimisationClaimConfig, context: Context,
           curves: dict[str, tuple[FloatArray, FloatArray]]) -> Report:  # fmt: skip
    """Bars, table, picture."""
    lost = {name: r.max(0) - r[-1] for name, (r, _) in curves.items()}
    likely = {name: x[-1] for name, (_, x) in curves.items()}
    bars = [
        most("best - last E[R], RPO", lost["RPO"], 0.01),
        above("best - last E[R], DPO", lost["DPO"], 0.05),
        above("log pi(chosen), RPO - DPO", likely["RPO"] - likely["DPO"], 0.0),
        most("control: best - last E[R], RPO with eta 0", lost[NONE], 0.01, control=True),
    ]
    rows = [(n, shown(r[0]), shown(r.max(0)), shown(r[-1]), shown(lost[n]), shown(likely[n], 2))
            for n, (r, _) in curves.items()]  # fmt: skip

    def paint(which: int, label: str) -> Any:
        def on(axis: Any) -> None:
            for i, (name, pair) in enumerate(curves.items()):
                axis.plot(np.arange(1, len(pair[which]) + 1), pair[which].mean(1), color=colour(i), label=name)
            axis.set(xlabel="gradient steps", ylabel=label, xscale="log")

        return on

    return Report(
        claim="trained long on few pairs DPO loses return after its best step and the chosen arms become unlikely; "
        "the likelihood of the chosen arms prevents both",
        bars=bars,
        answer=f"E[R] at the last step: RPO - DPO {shown(curves['RPO'][0][-1] - curves['DPO'][0][-1])}; at the best "
        f"step {shown(curves['RPO'][0].max(0) - curves['DPO'][0].max(0))}.",
        tables=[Table("Training", ("Loss", "E[R] at first", "at best", "at last", "best - last", "log pi(chosen)"),
                      rows,                      f"Mean over {len(config.seeds)} seeds, 95% t-interval.", 1)],
        plots=[draw(context.out, "over-optimisation",
                    {"Return": paint(0, "E[R]"), "Likelihood": paint(1, "log pi(chosen)")},
                    f"{config.pairs} pairs, {len(config.seeds)} bandits; means.")],
        numbers={"lost": lost, "log_prob_chosen": likely, "return": {n: r[-1] for n, (r, _) in curves.items()}},
    )  # fmt: skip
