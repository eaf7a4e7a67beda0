"""Claim (CoPG; Flet-Berliac et al. 2024): one optimum, pi* = pi_ref exp(R/beta)/Z, whoever draws the completions.

Random bandits whose arms are drawn by a law mu that is neither policy nor reference. CoPG descends to pi* for every mu
with full support and from every start. The policy gradient of the same draws without a baseline ends elsewhere; with
the baseline E_mu[R_b] it ends at pi* as well. Controls: half the beta, and a mu that never draws the best arm. Beside
them DPO and IPO, each against its own exact optimum under full coverage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch

from rl_contrastive.analysis.figures import colour, draw, rng_of
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.preferences.bandits import Bandits, expected, fit, of_pairs, random_bandits, sampled
from rl_contrastive.claims.preferences.common import SEEDS
from rl_contrastive.claims.stacked import shown
from rl_contrastive.config import Ge, Gt, In, Options, require
from rl_contrastive.preferences.exact import optimum
from rl_contrastive.preferences.groups import RLOO, CoPG, CoPGConfig, Reinforce, ReinforceConfig, RLOOConfig
from rl_contrastive.preferences.pairwise import DPO, IPO, DPOConfig, IPOConfig
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

COPG, DRAWN, PLAIN, BASELINE, OWN = "CoPG", "CoPG, drawn groups", "no baseline", "baseline E_mu", "RLOO, own draws"
HALF, UNSEEN = "CoPG, half of beta", "CoPG, best arm never drawn"
CLOSE, FAR = 1e-3, 0.3


@dataclass(frozen=True)
class CoPGClaimConfig(Options, where="copg"):
    """Bandits and training."""

    bandits: Annotated[int, In(1, 1000)] = 12
    """Random bandits a seed."""
    arms: Annotated[int, In(2, 100)] = 5
    """A."""
    beta: Annotated[float, Gt(0)] = 0.5
    """Weight of KL(pi || pi_ref)."""
    least: Annotated[float, In(0, 0.01, above=True)] = 0.01
    """Each arm's least probability under reference and mu."""
    laws: Annotated[int, In(1, 100)] = 3
    """Further laws mu a bandit, each from another random start."""
    groups: Annotated[int, In(1, 1000)] = 16
    """Groups a step where they are drawn."""
    K: Annotated[int, In(2, 100)] = 4
    """Arms a drawn group."""
    steps: Annotated[int, Ge(1)] = 1000
    """Steps of Adam on exact expectations, or on drawn groups."""
    lr: Annotated[float, Gt(0)] = 0.1
    """Of Adam; it falls to 0 as a cosine."""
    seeds: tuple[int, ...] = SEEDS
    """Sets of bandits."""

    @classmethod
    def quick(cls) -> CoPGClaimConfig:
        """Seconds."""
        return cls(bandits=4, laws=1, steps=300, seeds=SEEDS[:2])

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.seeds) >= 2, "copg: give at least two seeds.")


@dataclass
class Study:
    """The bandits of all seeds and how each method ends."""

    config: CoPGClaimConfig

    def __post_init__(self) -> None:
        c = self.config
        self.bandits = random_bandits(c.seeds, c.bandits, c.arms, c.beta, c.least)
        self.regrets: dict[str, FloatArray] = {}
        self.curves: dict[str, FloatArray] = {}

    def by_seed(self, values: FloatArray) -> FloatArray:
        """(S, bandits)."""
        out: FloatArray = values.reshape(len(self.config.seeds), self.config.bandits, -1).max(-1)
        return out

    def measure(self, name: str, loss: Any, at: Bandits | None = None, start: FloatArray | None = None) -> None:
        """Train and keep regrets (S, bandits), the worst where a bandit is there several times, and their median."""
        at = at or self.bandits
        log_pi, seen = fit(loss, at.log_ref if start is None else start, self.config.steps, self.config.lr, at.regret)
        self.regrets[name] = np.maximum(self.by_seed(at.regret(log_pi)), 0)  # rounding may leave -1e-16
        self.curves[name] = np.median(np.array(seen), axis=1)

    def others(self) -> tuple[Bandits, FloatArray]:
        """Each bandit under `laws` further laws mu, and random starts."""
        c = self.config
        many = self.bandits.repeated(c.laws)
        rngs = [rng_of(seed, 1) for seed in c.seeds]
        mu = np.concatenate([rng.dirichlet(np.full(c.arms, 0.5), size=c.bandits * c.laws) for rng in rngs])
        start = np.concatenate([2 * rng.normal(size=(c.bandits * c.laws, c.arms)) for rng in rngs])
        return many.under(np.log(c.least + (1 - c.arms * c.least) * mu)), start

    def blind(self) -> Bandits:
        """mu without the arm that pi* likes best."""
        mu = np.exp(self.bandits.log_mu)
        mu[np.arange(len(mu)), self.bandits.best.argmax(-1)] = 0
        with np.errstate(divide="ignore"):
            return self.bandits.under(np.log(mu / mu.sum(-1, keepdims=True)))

    def of_pairs(self) -> dict[str, FloatArray]:
        """(S,) largest distance of a probability from each loss's own exact optimum, DPO and IPO."""
        c, b = self.config, self.bandits
        p = 1 / (1 + np.exp(b.reward[:, None, :] - b.reward[:, :, None]))  # (N, A, A): first beats second
        own = {"DPO": b.best, "IPO": optimum((p * np.exp(b.log_mu)[:, None, :]).sum(-1), b.log_ref, c.beta)}
        loss = {"DPO": DPO(DPOConfig(beta=c.beta)), "IPO": IPO(IPOConfig(beta=c.beta))}
        out = {}
        for name, best in own.items():
            log_pi, _ = fit(of_pairs(loss[name], b), b.log_ref, c.steps, c.lr)
            out[name] = self.by_seed(np.abs(np.exp(log_pi) - np.exp(best)).max(-1)).max(-1)
        return out

    def example(self) -> dict[str, float]:
        """Regrets on the bandit R = 2.5, 2, 1 with mu = .1, .2, .7 and a uniform reference."""
        c = self.config
        one = Bandits(np.array([[2.5, 2.0, 1.0]]), np.full((1, 3), -np.log(3.0)), np.log([[0.1, 0.2, 0.7]]), 0.5)
        losses = {COPG: CoPG(CoPGConfig(beta=0.5)), PLAIN: Reinforce(ReinforceConfig(beta=0.5)),
                  BASELINE: RLOO(RLOOConfig(beta=0.5))}  # fmt: skip
        return {name: float(one.regret(fit(expected(o, one), one.log_ref, c.steps, c.lr)[0])[0])
                for name, o in losses.items()}  # fmt: skip

    def run(self, context: Context) -> None:
        """All methods on all bandits."""
        c, b = self.config, self.bandits
        copg, rloo = CoPG(CoPGConfig(beta=c.beta)), RLOO(RLOOConfig(beta=c.beta))
        other, start = self.others()
        rng = torch.Generator().manual_seed(int(rng_of(c.seeds[0], 2).integers(2**31)))
        self.measure(COPG, expected(copg, b))
        self.measure(DRAWN, sampled(copg, b, c.groups, c.K, rng))
        self.measure(PLAIN, expected(Reinforce(ReinforceConfig(beta=c.beta)), b))
        self.measure(BASELINE, expected(rloo, b))
        self.measure(OWN, expected(rloo, b, on_policy=True))
        context.say("copg: all methods trained under one law; next: other laws, controls, pairs")
        self.measure("CoPG, other laws and starts", expected(copg, other), other, start)
        self.measure(HALF, expected(CoPG(CoPGConfig(beta=c.beta / 2)), b))
        self.measure(UNSEEN, expected(copg, self.blind()))


@register("claim", "preferences/copg", CoPGClaimConfig)
def copg(config: CoPGClaimConfig, context: Context) -> Report:
    """CoPG has one optimum whoever draws; the plain policy gradient of such draws does not find it."""
    study = Study(config)
    study.run(context)
    return report(config, context, study.regrets, study.curves, study.of_pairs(), study.example())


def within(what: str, values: FloatArray, bound: float, *, control: bool = False) -> Bar:
    """Every regret (S, bandits) is below the bound."""
    share, worst = float((values < bound).mean()), float(values.max())
    measured = f"{int((values < bound).sum())} of {values.size}, largest {worst:.1e}"
    return Bar(what, f"all < {bound:g}", measured, share == 1.0, control)


def report(config: CoPGClaimConfig, context: Context, regrets: dict[str, FloatArray], curves: dict[str, FloatArray],
           pairs: dict[str, FloatArray], example: dict[str, float]) -> Report:  # fmt: skip
    """Bars, table, picture."""
    plain = regrets[PLAIN].mean(-1)
    laws = "CoPG, other laws and starts"
    bars = [
        within("regret of CoPG, one law", regrets[COPG], CLOSE),
        within("regret of CoPG, groups drawn from the law", regrets[DRAWN], CLOSE),
        within(f"regret of CoPG, {config.laws} other laws, random starts (the worst)", regrets[laws], CLOSE),
        Bar(f"regret of the off-policy gradient without baseline, largest of {config.bandits}",
            f"> {FAR:g} on every seed", shown(regrets[PLAIN].max(-1)), bool((regrets[PLAIN].max(-1) > FAR).all())),
        Bar("the same on R = 2.5, 2, 1, mu = .1, .2, .7", f"> {FAR:g}", f"{example[PLAIN]:.3f}", example[PLAIN] > FAR),
        *[Bar(f"{name} with full coverage, distance from its exact optimum", f"all < {CLOSE:g}",
              f"largest {x.max():.1e}", bool((x < CLOSE).all())) for name, x in pairs.items()],
        within("control: CoPG with half of beta", regrets[HALF], CLOSE, control=True),
        within("control: CoPG where mu never draws the best arm", regrets[UNSEEN], CLOSE, control=True),
    ]  # fmt: skip
    rows = [(name, shown(x.mean(-1)), f"{x.max():.2e}", f"{int((x < CLOSE).sum())} of {x.size}")
            for name, x in regrets.items()]  # fmt: skip

    def paint(axis: Any) -> None:
        for i, name in enumerate((COPG, DRAWN, PLAIN, BASELINE, OWN)):
            steps = np.linspace(0, config.steps, len(curves[name]))
            axis.semilogy(steps, np.maximum(curves[name], 1e-12), color=colour(i), label=name)
        axis.set(xlabel="step", ylabel="median regret")

    def paint_all(axis: Any) -> None:
        for i, name in enumerate((COPG, DRAWN, PLAIN, BASELINE, OWN)):
            values = np.sort(np.maximum(regrets[name].ravel(), 1e-12))
            axis.semilogy(np.arange(1, len(values) + 1) / len(values), values, color=colour(i))
        axis.axhline(CLOSE, color="#8a8a8a", linestyle="--")
        axis.set(xlabel="share of bandits", ylabel="regret at the end, sorted")

    return Report(
        claim="CoPG reaches the regularised optimum from draws of any law with full support; the policy gradient of "
        "the same draws needs a baseline for that",
        bars=bars,
        answer=f"Without a baseline the regret is {shown(plain)} on average and {regrets[PLAIN].max():.2f} at most; "
        f"{int((regrets[PLAIN] < 1e-2).sum())} of {regrets[PLAIN].size} bandits end below 1e-2. With the baseline E_mu "
        f"it is {regrets[BASELINE].max():.1e} at most: what matters is the baseline, and CoPG contains it.",
        tables=[Table("Regret at the end", ("Method", "mean over bandits", "largest", f"< {CLOSE:g}"), rows,
                      f"Means over {len(config.seeds)} seeds of {config.bandits} bandits, 95% t-interval.", 1)],
        plots=[draw(context.out, "copg", {"Regret in training": paint, "Regret at the end": paint_all},
                    f"{regrets[COPG].size} bandits of {config.arms} arms, beta {config.beta:g}; values below 1e-12 are "
                    "drawn there; dashed: the bar.")],
        numbers={"regret": regrets, "pairs": pairs, "example": example},
    )  # fmt: skip
