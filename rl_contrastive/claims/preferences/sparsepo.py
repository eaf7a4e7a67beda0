"""Claim (SparsePO; Christopoulou et al. 2024): masks learned from preferences find the steps that matter.

Trajectories of 12 steps, in three of which the reward depends on the action; the reference acts at random and its
features tell the steps apart. Pairs are labelled by return. Policy and masks descend together. Measured: the mask on
critical steps over that on the others, the exact return, KL(pi_ref || pi) on the other steps. Controls: features of
another step each time, and no L1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.analysis.figures import colour, draw
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.stacked import centres, generators, interval, shown
from rl_contrastive.config import MOST_DRAWN, MOST_WIDTH, Ge, Gt, In, Options, require
from rl_contrastive.preferences.base import Completions, PairObjective, Pairs, State
from rl_contrastive.preferences.data import LabelConfig, wins
from rl_contrastive.preferences.masks import TDPO, MaPO, MaPOConfig, SparsePO, SparsePOConfig, TDPOConfig
from rl_contrastive.preferences.pairwise import DPO, DPOConfig
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

SEEDS = tuple(range(500, 505))
SPARSE, TWO, NO_L1, BLIND = "SparsePO", "SparsePO, two masks", "SparsePO, L1 0", "SparsePO, features of other steps"


@dataclass(frozen=True)
class SparsePOClaimConfig(Options, where="sparsepo-claim"):
    """The world and the training."""

    horizon: Annotated[int, In(2, 1000)] = 12
    """T."""
    critical: Annotated[int, In(1, 1000)] = 3
    """Steps whose action is rewarded."""
    actions: Annotated[int, In(2, MOST_WIDTH)] = 4
    """A."""
    hidden: Annotated[int, In(2, MOST_WIDTH)] = 12
    """k: features of a step by the reference, a random vector of its own and noise."""
    noise: Annotated[float, Ge(0)] = 0.1
    """Standard deviation of the features' noise."""
    pairs: Annotated[int, In(1, MOST_DRAWN)] = 256
    """P: pairs of the reference's trajectories."""
    temperature: Annotated[float, Ge(0)] = 0.0
    """Of the Bradley-Terry labels; 0: the greater return always wins."""
    beta: Annotated[float, Gt(0)] = 0.8
    """beta of all losses."""
    l1: Annotated[float, Ge(0)] = 0.01
    """L1 of both masks."""
    decay: Annotated[float, Ge(0)] = 0.01
    """Weight decay of the masks."""
    steps: Annotated[int, Ge(1)] = 150
    """Gradient steps on all pairs."""
    lr: Annotated[float, Gt(0)] = 0.05
    """Of Adam."""
    mask_lr: Annotated[float, Gt(0)] = 0.01
    """Of AdamW on the masks, below the policy's: at first L1 is all that they feel."""
    seeds: tuple[int, ...] = SEEDS
    """Worlds, one a seed."""

    @classmethod
    def quick(cls) -> SparsePOClaimConfig:
        """Seconds."""
        return cls(steps=80, lr=0.1, mask_lr=0.02, seeds=SEEDS[:3])

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.critical < self.horizon, "sparsepo-claim: critical must be below horizon.")


def methods(config: SparsePOClaimConfig) -> dict[str, PairObjective]:
    """What is compared, all at one beta."""
    sparse = SparsePO(SparsePOConfig(beta=config.beta, l1_u=config.l1, l1_d=config.l1))
    return {
        "DPO": DPO(DPOConfig(beta=config.beta)),
        "TDPO": TDPO(TDPOConfig(beta=config.beta)),
        "MaPO": MaPO(MaPOConfig(beta=config.beta)),
        SPARSE: sparse,
        TWO: SparsePO(SparsePOConfig(beta=config.beta, l1_u=config.l1, l1_d=config.l1, masks="two")),
        NO_L1: SparsePO(SparsePOConfig(beta=config.beta)),
        BLIND: sparse,
    }


class Study:
    """Worlds, pairs, policies and masks of all seeds with one loss."""

    def __init__(self, config: SparsePOClaimConfig, method: str) -> None:
        self.config, self.method, self.objective = config, method, methods(config)[method]
        parts = [self.drawn(rng) for rng in generators(config.seeds, 1)]
        self.critical, self.reward, self.actions, self.hidden = (torch.stack(x) for x in zip(*parts, strict=True))
        self.logits = nn.Parameter(torch.zeros(len(config.seeds), config.horizon, config.actions, dtype=torch.float32))
        self.state = self.masks()

    def drawn(self, rng: torch.Generator) -> tuple[Tensor, ...]:
        """Critical steps (T,) bool, rewards (T, A), actions (2, P, T) chosen first, hidden (2, P, T, k) of one seed."""
        c = self.config
        critical = torch.zeros(c.horizon, dtype=torch.bool)
        critical[torch.randperm(c.horizon, generator=rng)[: c.critical]] = True
        reward = torch.randn(c.horizon, c.actions, dtype=torch.float32, generator=rng) * critical.unsqueeze(-1)
        y = torch.randint(c.actions, (2, c.pairs, c.horizon), generator=rng)
        returns = reward[torch.arange(c.horizon), y].sum(-1)  # (2, P)
        won = wins(returns[0], returns[1], LabelConfig(temperature=c.temperature), rng=rng)
        y = torch.where(won.unsqueeze(-1), y, y.flip(0))
        code = torch.randn(c.horizon, c.hidden, dtype=torch.float32, generator=rng)
        hidden = code + c.noise * torch.randn(*y.shape, c.hidden, dtype=torch.float32, generator=rng)
        if self.method == BLIND:
            order = torch.rand(y.shape, generator=rng).argsort(-1)
            hidden = hidden.gather(-2, order.unsqueeze(-1).expand_as(hidden))
        return critical, reward, y, hidden

    def masks(self) -> State:
        """The masks' parameters of all seeds: a leading axis S, and axes for pairs and steps to broadcast over."""
        each = [self.objective.initial(self.config.hidden, rng) for rng in generators(self.config.seeds, 2)]
        wide = {name: torch.stack([state[name].detach() for state in each])[:, None, None] for name in each[0]}
        return {name: nn.Parameter(value) for name, value in wide.items()}

    def side(self, log_pi: Tensor, which: int) -> Completions:
        """Completions (S, P, T) of the chosen (0) or the rejected (1)."""
        A, y = self.config.actions, self.actions[:, which]  # (S, P, T)
        logp = log_pi.unsqueeze(1).expand(-1, y.shape[1], -1, -1).gather(-1, y.unsqueeze(-1)).squeeze(-1)
        ref = torch.full_like(logp, -float(np.log(A)))
        kl = (-np.log(A) - log_pi.mean(-1)).unsqueeze(1).expand_as(logp)  # KL(uniform || pi)
        return Completions(logp, ref, kl=kl, hidden=self.hidden[:, which])

    def fit(self) -> None:
        """All steps."""
        c = self.config
        optimiser = torch.optim.AdamW([self.logits], lr=c.lr, weight_decay=0.0)
        if self.state:
            masks = {"params": list(self.state.values()), "lr": c.mask_lr, "weight_decay": c.decay}
            optimiser.add_param_group(masks)
        for _ in range(c.steps):
            log_pi = self.logits.log_softmax(-1)
            pairs = Pairs(self.side(log_pi, 0), self.side(log_pi, 1))
            optimiser.zero_grad(set_to_none=True)
            self.objective.step(pairs, self.state)[0].loss.sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    @torch.no_grad()
    def judge(self) -> dict[str, FloatArray]:
        """(S,) each: masks, return, KL on the other steps."""
        log_pi = self.logits.log_softmax(-1)
        kl = -np.log(self.config.actions) - log_pi.mean(-1)  # (S, T)
        other = ~self.critical
        out = {"return": (log_pi.exp() * self.reward).sum((-1, -2)).numpy(),
               "KL elsewhere": ((kl * other).sum(-1) / other.sum(-1)).numpy()}  # fmt: skip
        if isinstance(self.objective, SparsePO):
            m = self.objective.mask(self.side(log_pi, 0), self.state, "u").mean(1)  # (S, T)
            on = (m * self.critical).sum(-1) / self.critical.sum(-1)
            off = (m * other).sum(-1) / other.sum(-1)
            out |= {"mask, critical": on.numpy(), "mask, others": off.numpy()}
        return out


@register("claim", "preferences/sparsepo", SparsePOClaimConfig)
def sparsepo(config: SparsePOClaimConfig, context: Context) -> Report:
    """SparsePO's masks are large on critical steps and small elsewhere; the return is reported (SparsePO)."""
    found = {}
    for method in methods(config):
        study = Study(config, method)
        study.fit()
        found[method] = study.judge()
        context.say(f"{method}: " + ", ".join(f"{key} {x.mean():.3f}" for key, x in found[method].items()))
    return report(config, context, found)


def ratio(of: dict[str, FloatArray]) -> FloatArray:
    """(S,) mask on critical steps over that on the others; one of 0 counts as 1e-3."""
    return of["mask, critical"] / np.maximum(of["mask, others"], 1e-3)


def report(config: SparsePOClaimConfig, context: Context, found: dict[str, dict[str, FloatArray]]) -> Report:
    """Bars, table, picture."""
    ratios = {name: ratio(of) for name, of in found.items() if "mask, others" in of}
    # Ratios have a long tail, so that the ratio of the means decides and the least seed is told beside it.
    means = {n: float(found[n]["mask, critical"].mean() / max(found[n]["mask, others"].mean(), 1e-3)) for n in ratios}
    words = {n: f"{means[n]:.2f} (by seed {ratios[n].min():.2f} to {ratios[n].max():.2f})" for n in ratios}
    gain = found[SPARSE]["return"] - found["DPO"]["return"]
    bars = [
        Bar("mask on critical steps / on others, SparsePO", "ratio of means > 5", words[SPARSE], means[SPARSE] > 5),
        Bar(f"control: features of other steps: {words[BLIND]}", "ratio of means > 5", words[BLIND], means[BLIND] > 5,
            control=True),
        Bar(f"control: no L1: {words[NO_L1]}", "ratio of means > 5", words[NO_L1], means[NO_L1] > 5, control=True),
    ]  # fmt: skip
    keys = ["mask, critical", "mask, others", "return", "KL elsewhere"]
    rows = [(name, *(shown(of[k]) if k in of else "" for k in keys)) for name, of in found.items()]

    def paint(key: str) -> Any:
        def on(axis: Any) -> None:
            names = list(found)
            centre, error = centres([found[name][key] for name in names])
            axis.errorbar(centre, range(len(names)), xerr=error, fmt="o", color=colour(0))
            axis.set_yticks(range(len(names)), [name.replace(", ", ",\n") for name in names])
            axis.set(xlabel=key, ylim=(len(names) - 0.5, -0.5))

        return on

    return Report(
        claim="masks of the reference's features, learned with an L1 term, keep the critical steps and drop the others",
        bars=bars,
        answer=f"Return of SparsePO - DPO: {shown(gain)}"
        + (" (better)" if interval(gain).low > 0 else " (worse)" if interval(gain).high < 0 else " (not shown)")
        + f"; KL on the other steps: {shown(found[SPARSE]['KL elsewhere'])} against "
        f"{shown(found['DPO']['KL elsewhere'])}.",
        tables=[Table("Masks and policies", ("Loss", *keys), rows,
                      f"Mean over {len(config.seeds)} seeds, 95% t-interval.", 1)],
        plots=[draw(context.out, "sparsepo", {"Return": paint("return"),
                     "Off the critical steps": paint("KL elsewhere")},
                    f"{config.critical} critical steps of {config.horizon}, {config.pairs} pairs, {len(config.seeds)} "
                    "seeds.")],
        numbers={"found": found, "ratio": means},
    )  # fmt: skip
