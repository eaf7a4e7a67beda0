"""Claim (HyPO; Song et al. 2024): offline DPO needs global coverage, a divergence on the policy's own samples does not.

On the coverage bandit offline pairs show two of three arms, and the features tie the third, of reward -5, to the better
one. DPO raises the better arm until the third has taken over. Worth is E_pi[R] - beta KL(pi || pi_ref), exact.
Control: features that do not tie the arms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from rl_contrastive.analysis.figures import colour, draw
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.stacked import above, centres, descend, generators, shown
from rl_contrastive.config import MOST_DRAWN, Ge, Gt, In, Options
from rl_contrastive.preferences.base import Completions, PairObjective, Pairs
from rl_contrastive.preferences.data import LabelConfig, wins
from rl_contrastive.preferences.exact import divergence, optimum, regularised_value
from rl_contrastive.preferences.pairwise import DPO, IPO, RPO, DPOConfig, HyPO, HyPOConfig, IPOConfig, RPOConfig
from rl_contrastive.preferences.worlds import CoverageBandit, coverage_bandit
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

BETA = 0.1
SEEDS = tuple(range(500, 510))
FREE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
"""Features of the control: the third arm has none."""
UNTIED = "DPO, arms not tied"
EVERY = 10
"""Steps between two looks at the worth."""


@dataclass(frozen=True)
class CoverageClaimConfig(Options, where="coverage"):
    """Data, training, and the weights of the two remedies."""

    pairs: Annotated[int, In(2, MOST_DRAWN)] = 200
    """P: pairs of arms 0 and 1, each seed's own."""
    temperature: Annotated[float, Gt(0)] = 0.5
    """Of the Bradley-Terry labels."""
    steps: Annotated[int, Ge(1)] = 1500
    """Gradient steps on all pairs."""
    lr: Annotated[float, Gt(0)] = 0.2
    """Of Adam."""
    online: Annotated[int, In(2, MOST_DRAWN)] = 32
    """k: own samples a step, for HyPO."""
    kl_weight: Annotated[float, Ge(0)] = 0.05
    """lambda of HyPO."""
    eta: Annotated[float, Ge(0)] = 0.2
    """eta of RPO, form mean."""
    seeds: tuple[int, ...] = SEEDS
    """One set of labels each."""

    @classmethod
    def quick(cls) -> CoverageClaimConfig:
        """Seconds."""
        return cls(steps=500, seeds=SEEDS[:3])


def methods(config: CoverageClaimConfig) -> dict[str, PairObjective]:
    """What is compared, all at one beta."""
    return {
        "DPO": DPO(DPOConfig(beta=BETA)),
        "IPO": IPO(IPOConfig(beta=BETA)),
        "RPO": RPO(RPOConfig(beta=BETA, eta=config.eta, form="mean")),
        "HyPO": HyPO(HyPOConfig(beta=BETA, kl_weight=config.kl_weight)),
        UNTIED: DPO(DPOConfig(beta=BETA)),
    }


def fit(config: CoverageClaimConfig, objective: PairObjective, bandit: CoverageBandit) -> tuple[FloatArray, FloatArray]:
    """log pi (S, 3) at the end, and worths (., S) at every EVERY-th step."""
    shares = labels(config)  # (S,)
    weight = torch.stack([2 * shares, 2 * (1 - shares)], -1)  # of the pairs (0, 1) and (1, 0)
    first, second = torch.tensor([0, 1]), torch.tensor([1, 0])
    theta = torch.nn.Parameter(torch.zeros(len(shares), 2, dtype=torch.float64))
    rngs = generators(config.seeds, 2)
    worths = []

    def loss(step: int) -> Tensor:
        log_pi = bandit.log_pi(theta)  # (S, 1, 3)
        if step % EVERY == 0:
            worths.append(worth(bandit, log_pi))
        y = bandit.world.completions(log_pi)
        pairs = Pairs(at(y, first), at(y, second), weight, own(config, y, rngs) if objective.needs else None)
        return objective.step(pairs, {})[0].loss

    descend([theta], loss, config.steps, config.lr)
    return bandit.log_pi(theta)[:, 0].detach().numpy(), np.array(worths)


def labels(config: CoverageClaimConfig) -> Tensor:
    """(S,) share of each seed's pairs in which arm 0 was preferred to arm 1."""
    reward = coverage_bandit().world.reward
    kind = LabelConfig(temperature=config.temperature)
    first, second = (reward[i].expand(config.pairs) for i in (0, 1))
    return torch.stack([wins(first, second, kind, rng=rng).double().mean() for rng in generators(config.seeds, 1)])


def at(y: Completions, arms: Tensor) -> Completions:
    """Completions of arms (P,)."""
    return Completions(y.logp[:, arms], y.ref[:, arms])


def own(config: CoverageClaimConfig, y: Completions, rngs: list[torch.Generator]) -> Completions:
    """(S, 1, k, 1): what each policy itself draws."""
    drawn = [torch.multinomial(p.exp(), config.online, replacement=True, generator=rng)
             for p, rng in zip(y.logp[..., 0].detach(), rngs, strict=True)]  # fmt: skip
    rows = torch.stack(drawn).unsqueeze(-1)  # (S, k, 1)
    return Completions(*(x.gather(1, rows).unsqueeze(1) for x in (y.logp, y.ref)))


def worth(bandit: CoverageBandit, log_pi: Tensor) -> FloatArray:
    """E_pi[R] - beta KL(pi || pi_ref), (S,) of tables (S, 1, 3)."""
    world = bandit.world
    return regularised_value(log_pi[:, 0].detach().numpy(), world.reward.numpy(), world.log_ref[0].numpy(), BETA)


@register("claim", "preferences/coverage", CoverageClaimConfig)
def coverage(config: CoverageClaimConfig, context: Context) -> Report:
    """Without coverage DPO ends below the reference; HyPO's and RPO's terms hold it (HyPO, RPO)."""
    bandit = coverage_bandit()
    ends: dict[str, FloatArray] = {}
    curves: dict[str, FloatArray] = {}
    for name, objective in methods(config).items():
        used = CoverageBandit(bandit.world, FREE) if name == UNTIED else bandit
        ends[name], curves[name] = fit(config, objective, used)
        context.say(f"{name}: worth {curves[name][-1].mean():.3f}")
    return report(config, context, ends, curves)


def report(config: CoverageClaimConfig, context: Context, ends: dict[str, FloatArray],
           curves: dict[str, FloatArray]) -> Report:  # fmt: skip
    """Bars, table, picture."""
    world = coverage_bandit().world
    R, ref = world.reward.numpy(), world.log_ref[0].numpy()
    base = float(regularised_value(ref, R, ref, BETA))
    best = float(regularised_value(optimum(R, ref, BETA), R, ref, BETA))
    value = {name: regularised_value(x, R, ref, BETA) for name, x in ends.items()}
    kl = {name: divergence(x, ref) for name, x in ends.items()}
    less = kl["DPO"] - kl["HyPO"]
    below = {name: base - value[name] for name in ("DPO", UNTIED)}
    bars = [
        above(f"reference ({base:.3f}) - DPO", below["DPO"], 0.0),
        above("worth of HyPO", value["HyPO"], 0.7),
        above("worth of RPO", value["RPO"], 0.7),
        above("KL(DPO) - KL(HyPO)", less, 0.0),
        Bar(f"control: reference - DPO where arms are not tied: {shown(below[UNTIED])}", "mean > 0",
            shown(below[UNTIED]), float(below[UNTIED].mean()) > 0, control=True),
    ]  # fmt: skip
    rows = [(n, shown(value[n]), shown(kl[n]), shown(np.exp(ends[n][:, 2]))) for n in ends]

    def paint(axis: Any) -> None:
        for i, (name, curve) in enumerate(curves.items()):
            axis.plot(1 + EVERY * np.arange(len(curve)), curve.mean(1), color=colour(i), label=name)
        axis.axhline(base, color="#555555", linewidth=0.8)
        axis.set(xlabel="gradient steps", ylabel="E[R] - beta KL", xscale="log")

    def paint_kl(axis: Any) -> None:
        centre, error = centres(list(kl.values()))
        axis.errorbar(centre, range(len(kl)), xerr=error, fmt="o", color=colour(0))
        axis.set_yticks(range(len(kl)), list(kl))
        axis.set(xlabel="KL(pi || pi_ref)", ylim=(len(kl) - 0.5, -0.5))

    return Report(
        claim="where offline pairs miss an arm that the features tie to a good one, DPO ends below the reference, and "
        "HyPO's divergence on own samples or RPO's likelihood keeps the policy above .7",
        bars=bars,
        answer=f"The best of all policies is worth {best:.3f}. DPO ends at {shown(value['DPO'])}, IPO at "
        f"{shown(value['IPO'])}, RPO at {shown(value['RPO'])}, HyPO at {shown(value['HyPO'])}.",
        tables=[Table("At the end", ("Loss", "E[R] - beta KL", "KL", "pi(uncovered)"), rows,
                      f"Mean over {len(config.seeds)} seeds, 95% t-interval.", 1)],
        plots=[draw(context.out, "coverage", {"Worth in training": paint, "Distance from the reference": paint_kl},
                    f"{config.pairs} pairs, {len(config.seeds)} seeds; line: the reference.")],
        numbers={"worth": value, "kl": kl, "reference": base, "optimum": best},
    )  # fmt: skip
