"""Losses of K completions of one start and their rewards R: contrastive, policy gradients, weighted likelihoods.

    R_b(y) = R(y) - beta h(y),   h = log pi(y) - log pi_ref(y)

E_pi[R_b] is the regularised value, whose best policy is pi* = pi_ref exp(R/beta) / Z. Each loss is the mean over the
group of its rows. sg(x) is x without its gradient; A_i is the advantage of completion i, one number for all its steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from rl_contrastive.config import Ge, Gt, In, Options
from rl_contrastive.preferences.base import (
    LEAST_BETA,
    MOST_BETA,
    Completions,
    GroupObjective,
    PreferenceResult,
    Reduce,
    mean_rows,
    own_config,
)
from rl_contrastive.registry import register

LARGEST = 20.0
"""From here on a ratio grows linearly in its logarithm, with the same slope, so that no gradient overflows."""


def others(x: Tensor) -> Tensor:
    """(..., K): the mean of the other K - 1 numbers."""
    return (x.sum(-1, keepdim=True) - x) / (x.shape[-1] - 1)


def ratio(log_ratio: Tensor) -> Tensor:
    """exp of log-ratios; above exp(20) a straight line of the same slope."""
    return log_ratio.clamp(max=LARGEST).exp() * (1 + (log_ratio - LARGEST).clamp_min(0))


def difference(group: Completions, of: Tensor, minus: Tensor) -> Tensor:
    """(..., K, T): of - minus on real steps, 0 on padding, where both may be infinite."""
    return group.on_real(of) - group.on_real(minus)


def relative(reward: Tensor) -> Tensor:
    """(..., K): rewards less the first of their group, where only differences matter.

    The mean of equal rewards is rounded, so that without this their advantages would not be 0.
    """
    return reward - reward[..., :1]


def diagnose(group: Completions, reward: Tensor) -> dict[str, Tensor]:
    """Means over the group of reward and log-ratio h, and the share of rewards that are above the mean."""
    level = relative(reward)
    above = level > level.mean(-1, keepdim=True)
    return {"reward": reward.mean(-1), "h": group.h().detach().mean(-1), "above": above.to(reward.dtype).mean(-1)}


def importance(group: Completions, old_logp: Tensor | None) -> Tensor | float:
    """(..., K): sg(pi(y) / pi_old(y)); 1 where the policy itself drew the group just now."""
    if old_logp is None:
        return 1.0
    return ratio(difference(group, group.logp.detach(), old_logp).sum(-1))


def likelihood(group: Completions, factor: Tensor, margin: Tensor, reward: Tensor, reduce: Reduce = "sum",
               **told: Tensor) -> PreferenceResult:  # fmt: skip
    """Rows -sg(factor_i) log pi(y_i)."""
    return mean_rows(
        -factor.detach() * group.log_prob(reduce), margin.detach(), None, {**diagnose(group, reward), **told}
    )


@dataclass(frozen=True)
class CoPGConfig(Options, where="copg"):
    """The strength of the regulariser."""

    beta: Annotated[float, In(LEAST_BETA, MOST_BETA)] = 0.1
    """beta: the optimum is pi_ref exp(R/beta) / Z."""


@register("group-objective", "copg", CoPGConfig)
class CoPG(GroupObjective):
    """CoPG: 1/(K-1) sum_{i>j} (R_b(y_i) - R_b(y_j))^2, for samples of any policy (Flet-Berliac et al. 2024).

    It is K/(K-1) sum_i (R_b(y_i) - mean R_b)^2, so row i is K^2/(K-1) (R_b(y_i) - mean R_b)^2. Every sampling law with
    full support has the same unique minimiser pi*, where R_b is constant. K = 2 with rewards 1/2 apart is beta^2 times
    IPO; for groups that the policy itself drew the gradient is 2 beta K times that of `rloo`.
    """

    def __init__(self, config: CoPGConfig | None = None) -> None:
        self.config = own_config(self, config, CoPGConfig)

    def loss(self, group: Completions, reward: Tensor, old_logp: Tensor | None) -> PreferenceResult:
        del old_logp  # any sampling law will do
        value = relative(reward) - self.config.beta * group.h()
        K = value.shape[-1]
        margin = value - value.mean(-1, keepdim=True)
        return mean_rows(K * K / (K - 1) * margin.square(), margin, None, diagnose(group, reward))


@dataclass(frozen=True)
class ReinforceConfig(Options, where="reinforce"):
    """The regulariser and the baseline."""

    beta: Annotated[float, In(0, MOST_BETA)] = 0.1
    """beta of R_b = R - beta h."""
    baseline: Literal["none", "mean"] = "none"
    """none: A = R_b; mean: A = R_b - the mean of the group, which shrinks the gradient by (K - 1)/K."""


@register("group-objective", "reinforce", ReinforceConfig)
class Reinforce(GroupObjective):
    """REINFORCE: -sg(A_i) log pi(y_i) with the divergence in the reward, A = R_b or R_b - mean (Williams 1992).

    With old_logp, rows are weighted by sg(pi/pi_old). Without it and for completions of another law mu, the fixed point
    depends on the level of the rewards ("none"), and is pi* only with the baseline E_mu[R_b] ("mean", K large).
    """

    least, on_policy = 1, True

    def __init__(self, config: ReinforceConfig | None = None) -> None:
        self.config = own_config(self, config, ReinforceConfig)

    def loss(self, group: Completions, reward: Tensor, old_logp: Tensor | None) -> PreferenceResult:
        none = self.config.baseline == "none"
        value = ((reward if none else relative(reward)) - self.config.beta * group.h()).detach()
        advantage = value if none else value - value.mean(-1, keepdim=True)
        return likelihood(group, importance(group, old_logp) * advantage, advantage, reward)


@dataclass(frozen=True)
class RLOOConfig(Options, where="rloo"):
    """The strength of the regulariser."""

    beta: Annotated[float, In(0, MOST_BETA)] = 0.1
    """beta of R_b = R - beta h."""


@register("group-objective", "rloo", RLOOConfig)
class RLOO(GroupObjective):
    """RLOO: -sg(A_i) log pi(y_i), A_i = R_b(y_i) - the mean of the other K - 1 (Ahmadian et al. 2024).

    On-policy its mean gradient is that of -E_pi[R] + beta KL(pi || pi_ref). With old_logp, rows are weighted by
    sg(pi/pi_old).
    """

    on_policy = True

    def __init__(self, config: RLOOConfig | None = None) -> None:
        self.config = own_config(self, config, RLOOConfig)

    def loss(self, group: Completions, reward: Tensor, old_logp: Tensor | None) -> PreferenceResult:
        value = (relative(reward) - self.config.beta * group.h()).detach()
        advantage = value - others(value)
        return likelihood(group, importance(group, old_logp) * advantage, advantage, reward)


def clipped(group: Completions, old_logp: Tensor | None, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """-min(rho A, clip(rho, 1 - eps, 1 + eps) A) by step (..., K, T), rho = pi/pi_old, and where the clip binds."""
    old = group.logp.detach() if old_logp is None else old_logp.detach()
    rho = ratio(difference(group, group.logp, old))
    A = advantage.unsqueeze(-1)
    bounded = rho.clamp(1 - clip, 1 + clip)
    return -torch.minimum(rho * A, bounded * A), (bounded * A < rho * A).to(A.dtype).detach()


@dataclass(frozen=True)
class PPOConfig(Options, where="ppo"):
    """The regulariser and the clip."""

    beta: Annotated[float, In(0, MOST_BETA)] = 0.1
    """beta of R_b = R - beta h, h under the policy that drew the group."""
    clip: Annotated[float, In(0, 1, above=True, below=True)] = 0.2
    """eps: the ratio of a step is worth no more than 1 + eps, or 1 - eps where A < 0."""
    reduce: Reduce = "sum"
    """Over steps: the sum, whose first gradient is that of `rloo`, or the mean."""


@register("group-objective", "ppo", PPOConfig)
class PPO(GroupObjective):
    """PPO: -sum_t min(rho_t A, clip(rho_t, 1 - eps, 1 + eps) A), rho_t = pi/pi_old at step t (Schulman et al. 2017).

    There is no value function: A_i = R_b(y_i) - the mean of the other K - 1, as in `rloo`, fixed when the group is
    drawn. With old_logp None rho = 1 and the gradient is that of `rloo`.
    """

    on_policy = True

    def __init__(self, config: PPOConfig | None = None) -> None:
        self.config = own_config(self, config, PPOConfig)

    def loss(self, group: Completions, reward: Tensor, old_logp: Tensor | None) -> PreferenceResult:
        c = self.config
        old = group.logp.detach() if old_logp is None else old_logp.detach()
        value = relative(reward) - c.beta * difference(group, old, group.ref.detach()).sum(-1)
        advantage = value - others(value)
        terms, bound = clipped(group, old, advantage, c.clip)
        told = {**diagnose(group, reward), "clipped": group.total(bound, "mean").mean(-1)}
        return mean_rows(group.total(terms, c.reduce), advantage, None, told)


@dataclass(frozen=True)
class GRPOConfig(Options, where="grpo"):
    """The regulariser, the clip, and how advantages are scaled."""

    beta: Annotated[float, In(0, MOST_BETA)] = 0.04
    """beta: weight of k3 by step."""
    clip: Annotated[float, In(0, 1, above=True, below=True)] = 0.2
    """eps of the clipped ratio."""
    std: bool = True
    """Divide advantages by the standard deviation of the group's rewards (K - 1 in the denominator) + 1e-4."""
    reduce: Reduce = "mean"
    """Over steps: the mean of each completion, as published, or the sum, which does not favour short ones."""


@register("group-objective", "grpo", GRPOConfig)
class GRPO(GroupObjective):
    """GRPO: mean_t [-min(rho_t A, clip(rho_t) A) + beta k3_t], A = (R - mean)/std of the group (Shao et al. 2024).

    k3 = exp(d) - d - 1 with d = log pi_ref - log pi at step t. Its value estimates KL(pi || pi_ref), but its gradient
    is, on-policy, that of KL(pi_ref || pi). So without std the loss descends to the optimum of
    (K - 1)/K E_pi[R] - beta KL(pi_ref || pi), which is not pi*.
    """

    on_policy = True

    def __init__(self, config: GRPOConfig | None = None) -> None:
        self.config = own_config(self, config, GRPOConfig)

    def loss(self, group: Completions, reward: Tensor, old_logp: Tensor | None) -> PreferenceResult:
        c = self.config
        level = relative(reward)
        advantage = level - level.mean(-1, keepdim=True)
        if c.std:
            advantage = advantage / (level.std(-1, keepdim=True) + 1e-4)  # eps: rewards may all be the same
        terms, bound = clipped(group, old_logp, advantage, c.clip)
        d = difference(group, group.ref.detach(), group.logp)
        k3 = ratio(d) - d - 1
        told = {**diagnose(group, reward), "clipped": group.total(bound, "mean").mean(-1),
                "k3": group.total(k3.detach(), "mean").mean(-1)}  # fmt: skip
        return mean_rows(group.total(terms + c.beta * k3, c.reduce), advantage, None, told)


@dataclass(frozen=True)
class AWRConfig(Options, where="awr"):
    """The temperature of the weights, and their cap."""

    beta: Annotated[float, In(LEAST_BETA, MOST_BETA)] = 0.1
    """beta: the optimum is mu exp(R/beta) / Z for completions of mu; pi* where mu = pi_ref."""
    largest: Annotated[float, Gt(0)] = 20.0
    """Weights are cut here, as published; where it binds the optimum is another."""


@register("group-objective", "awr", AWRConfig)
class AWR(GroupObjective):
    """AWR: -min(exp(A_i/beta), largest) log pi(y_i), A_i = R(y_i) - the mean of the other K - 1 (Peng et al. 2019).

    A likelihood with weights: no completion is pushed down. The mean of the others leaves the expected weight
    proportional to exp(R(y)/beta); the mean of all would temper it to (K - 1)/K of that.
    """

    def __init__(self, config: AWRConfig | None = None) -> None:
        self.config = own_config(self, config, AWRConfig)

    def loss(self, group: Completions, reward: Tensor, old_logp: Tensor | None) -> PreferenceResult:
        del old_logp
        level = relative(reward)
        advantage = level - others(level)
        weight = (advantage / self.config.beta).clamp(max=math.log(self.config.largest)).exp()
        share = weight.sum(-1).square() / weight.square().sum(-1) / weight.shape[-1]
        return likelihood(group, weight, advantage, reward, effective_share=share)


@dataclass(frozen=True)
class BestOfNConfig(Options, where="best-of-n"):
    """How much the worst completion is pushed down, and what a likelihood is."""

    negative: Annotated[float, Ge(0)] = 0.0
    """Weight of + log pi(y_worst); 0: only the best is pushed up."""
    reduce: Reduce = "sum"
    """Over steps: the sum or the mean of log pi."""


@register("group-objective", "best-of-n", BestOfNConfig)
class BestOfN(GroupObjective):
    """Best of n: -log pi(y_best) + negative log pi(y_worst), by reward within the group; ties share equally.

    With negative = 0 it imitates the best of K draws of mu: which is no regularised optimum.
    Groups of equal rewards have nothing that is worst: they are imitated only.
    """

    def __init__(self, config: BestOfNConfig | None = None) -> None:
        self.config = own_config(self, config, BestOfNConfig)

    def loss(self, group: Completions, reward: Tensor, old_logp: Tensor | None) -> PreferenceResult:
        del old_logp
        high, low = reward.amax(-1, keepdim=True), reward.amin(-1, keepdim=True)
        best, worst = ((reward == end).to(group.logp.dtype) for end in (high, low))
        best, worst = (share / share.sum(-1, keepdim=True) for share in (best, worst))
        factor = best - self.config.negative * torch.where(high > low, worst, torch.zeros_like(worst))
        level = relative(reward)
        return likelihood(group, factor * reward.shape[-1], level - others(level), reward, self.config.reduce)
