"""Losses that weigh pairs otherwise than the likelihood does: without the positive, by its score, by hardness, by two
halves of a gradient.

All take scores s = log f as in `base.py`: s+ of positives, negatives s_j with law v (sums to 1), M of them in a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from rl_contrastive.config import In, Options, config_or
from rl_contrastive.objectives.base import Objective, ObjectiveResult, log_expectation, reduce_rows
from rl_contrastive.registry import register


@dataclass(frozen=True)
class DCLScoresConfig(Options, where="dcl"):
    """Decoupled contrastive loss."""

    temperature: Annotated[float, In(1e-4, 1e4)] = 1.0
    """tau: scores are divided by it; then s* = tau log P/P^- + c(s,a). Published: .1, on cosines."""


@register("objective", "dcl", DCLScoresConfig)
class DCLScores(Objective):
    """Decoupled contrastive loss (Yeh et al. 2022): -s+ + log(M E_{P^-} e^s), InfoNCE without the positive below.

    `mle` with another name and log M more; scores (..., N, K) and (..., N, M). Minimiser s* = log P/P^- + c(s,a).
    Code read: raminnakhli/Decoupled-Contrastive-Learning, loss/dcl.py.
    """

    def __init__(self, config: DCLScoresConfig | None = None) -> None:
        self.config = config_or(config, DCLScoresConfig)
        self.recovers = "ratio-up-to-row" if self.config.temperature == 1.0 else "tempered"

    def loss(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        tau = self.config.temperature
        rest = log_expectation(neg / tau, neg_weight) + math.log(neg.shape[-1])  # (..., N)
        return ObjectiveResult(*reduce_rows(-pos / tau, rest, pos_weight))


@dataclass(frozen=True)
class DCLWScoresConfig(Options, where="dclw"):
    """Decoupled contrastive loss with weighted positives."""

    temperature: Annotated[float, In(1e-4, 1e4)] = 1.0
    """tau: scores are divided by it, but not in the weights. Published: .1, on cosines."""
    sigma: Annotated[float, In(1e-4, 1e4)] = 0.5
    """Width of the weights: small ones let the highest positive alone weigh less."""
    detach: bool = False
    """Take the weights as constants; the published code lets the gradient through."""


@register("objective", "dclw", DCLWScoresConfig)
class DCLWScores(Objective):
    """Weighted decoupled loss (Yeh et al. 2022): -w s+ + log(M E_{P^-} e^s), w = 2 - e^{s+/sigma} / E+ e^{s+/sigma}.

    E+ is over the positives of the batch: with B equal ones w_i = 2 - B softmax_i(s+/sigma). Positives that score low
    already weigh up to 2, so the minimiser is no ratio. Code read: as for `dcl`.
    """

    recovers = "nothing"

    def __init__(self, config: DCLWScoresConfig | None = None) -> None:
        self.config = config_or(config, DCLWScoresConfig)

    def loss(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        tau = self.config.temperature
        share = relative_size(pos / self.config.sigma, pos_weight)
        w = 2.0 - (share.detach() if self.config.detach else share)  # (..., N, K)
        rest = log_expectation(neg / tau, neg_weight) + math.log(neg.shape[-1])  # (..., N)
        return ObjectiveResult(*reduce_rows(-w * pos / tau, rest, pos_weight))


def relative_size(scores: Tensor, weight: Tensor) -> Tensor:
    """e^s / sum w e^s over all (N, K) of a problem, (..., N, K); 1 where the weight is 0."""
    real = weight > 0
    shares = torch.where(real.flatten(-2).any(-1)[..., None, None], weight, torch.ones_like(weight))
    mean = torch.logsumexp((scores + shares.log()).flatten(-2), dim=-1)[..., None, None]
    # Padding may hold any score: its own exponential could be infinite, so it is not formed.
    return torch.where(real, scores - mean, torch.zeros_like(scores)).exp()


@dataclass(frozen=True)
class HardConfig(Options, where="hard"):
    """InfoNCE of the hardest negatives."""

    alpha: Annotated[float, In(0, 1, above=True)] = 0.5
    """Share of the negatives of a row that enter the sum, the highest scores first; 1 is `infonce`."""
    temperature: Annotated[float, In(1e-4, 1e4)] = 1.0
    """tau: scores are divided by it."""


@register("objective", "hard", HardConfig)
class Hard(Objective):
    """InfoNCE of hard negatives alone (Wang & Liu 2021): -s+ + log(e^{s+} + M E_{P^-}[e^s; s >= q]).

    q is the upper alpha-quantile of the row's negatives, ties included; it has no gradient. Nothing holds the scores
    below q, so the minimiser is no ratio.
    """

    def __init__(self, config: HardConfig | None = None) -> None:
        self.config = config_or(config, HardConfig)
        whole = "ratio-up-to-row" if self.config.temperature == 1.0 else "tempered"
        self.recovers = whole if self.config.alpha == 1.0 else "nothing"  # type: ignore[assignment]

    def loss(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        s, t = pos / self.config.temperature, neg / self.config.temperature
        kept = torch.where(upper_part(t.detach(), neg_weight, self.config.alpha), neg_weight, 0.0)
        rest = log_expectation(t, kept).unsqueeze(-1) + math.log(neg.shape[-1])  # (..., N, 1)
        losses = torch.logaddexp(s, rest) - s  # (..., N, K)
        return ObjectiveResult(*reduce_rows(losses, torch.zeros_like(losses[..., 0]), pos_weight))


def upper_part(scores: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """Which of (..., M) belong to the highest scores whose weights reach `alpha` together; equal scores go together."""
    ordered, order = scores.sort(dim=-1, descending=True)
    v = weight.gather(-1, order)
    before = torch.cumsum(v, dim=-1).roll(1, -1)
    before[..., 0] = 0.0
    enough = alpha * v.sum(-1, keepdim=True) * (1.0 - 1e-5)  # sums of equal weights are not exact
    among = (before < enough) & (v > 0)
    q = torch.where(among, ordered, torch.inf).amin(-1, keepdim=True)
    return (scores >= q) & (weight > 0)


Half = Literal["sft", "cl"]


@dataclass(frozen=True)
class ReweightedConfig(Options, where="reweighted"):
    """Which half of the gradient comes from where: supervised fine-tuning (sft) or contrastive learning (cl)."""

    weight: Half = "sft"
    """sft: 1 - p(yes) of a positive, p(yes) of a negative; cl: what softmax leaves of them."""
    direction: Half = "sft"
    """sft: grad(yes - no); cl: grad yes. Two logits tell them apart (`two_logits`); one score a pair has no = 0 and one
    direction."""


@register("objective", "reweighted", ReweightedConfig)
class Reweighted(Objective):
    """Gradient sg(weight) x direction, each that of SFT or of contrastive learning (a review of SFT against CL).

    SFT: log(1 + e^-(yes - no)) of positives and E_{P^-} log(1 + e^(yes - no)); CL: InfoNCE of `yes`. Here yes = s and
    no = 0, where the direction is grad s either way. So the gradient is that of `nce` with the weights of SFT, and
    s* = log P/P^-; that of `infonce` with the weights of CL, and s* = log P/P^- + c(s,a): both derived here, crossed
    or not. The value is that of the loss whose weights are taken.
    """

    def __init__(self, config: ReweightedConfig | None = None) -> None:
        self.config = config_or(config, ReweightedConfig)
        self.recovers = "ratio" if self.config.weight == "sft" else "ratio-up-to-row"

    def loss(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        none = torch.zeros_like(pos), torch.zeros_like(neg)
        return self.two_logits((pos, none[0]), (neg, none[1]), pos_weight, neg_weight)

    def two_logits(
        self, pos: tuple[Tensor, Tensor], neg: tuple[Tensor, Tensor], pos_weight: Tensor, neg_weight: Tensor
    ) -> ObjectiveResult:
        """The same for a scorer with two outputs: (yes, no) of positives (..., N, K) and of negatives (..., N, M).

        For each anchor -sum_k p_k sg(w+_k) d+_k + sum_j sg(w-_j) d_j, d = yes - no or yes, p_k shares of positives.
        """
        weigh = sft_weights if self.config.weight == "sft" else cl_weights
        w_pos, w_neg, value, rest = weigh(pos, neg, pos_weight, neg_weight)
        sft = self.config.direction == "sft"
        d_pos, d_neg = (yes - no if sft else yes for yes, no in (pos, neg))
        # The gradient of the weighted directions, the value of the loss.
        terms = value.detach() - w_pos * (d_pos - d_pos.detach())  # (..., N, K)
        rest = rest.detach() + (w_neg * (d_neg - d_neg.detach())).sum(-1)  # (..., N)
        total = (pos_weight.sum(-1) * w_neg.sum(-1)).sum(-1)
        told = {"weight_positive": (pos_weight * w_pos).sum((-2, -1)), "weight_negatives": total}
        return ObjectiveResult(*reduce_rows(terms, rest, pos_weight), told)


Pair = tuple[Tensor, Tensor]
Weights = tuple[Tensor, Tensor, Tensor, Tensor]


def sft_weights(pos: Pair, neg: Pair, pos_weight: Tensor, neg_weight: Tensor) -> Weights:
    """w+ = 1 - p(yes) (..., N, K), w-_j = v_j p(yes) (..., N, M), and the logistic loss's terms of both."""
    del pos_weight
    s, t = (pos[0] - pos[1]).detach(), (neg[0] - neg[1]).detach()
    return torch.sigmoid(-s), neg_weight * torch.sigmoid(t), softplus(-s), (neg_weight * softplus(t)).sum(-1)


def cl_weights(pos: Pair, neg: Pair, pos_weight: Tensor, neg_weight: Tensor) -> Weights:
    """w+ = 1 - softmax+ (..., N, K), w-_j = mean over the anchor's positives of softmax_j (..., N, M), and InfoNCE.

    softmax+_k = e^{y_k} / D_k and softmax_j = M v_j e^{y_j} / D_k with D_k = e^{y_k} + M E_{P^-} e^y, y = yes.
    """
    s, t = pos[0].detach(), neg[0].detach()
    row = pos_weight.sum(-1, keepdim=True)
    share = torch.where(row > 0, pos_weight / torch.where(row > 0, row, 1.0), 1.0 / s.shape[-1])
    log_v = neg_weight.log() + math.log(neg_weight.shape[-1])  # of M v_j
    rest = torch.logsumexp(t + log_v, dim=-1, keepdim=True)  # (..., N, 1)
    log_d = torch.logaddexp(s, rest)  # (..., N, K)
    mean = torch.logsumexp(share.log() - log_d, dim=-1, keepdim=True)  # log E_k 1/D_k
    return torch.exp(rest - log_d), torch.exp(t + log_v + mean), log_d - s, torch.zeros_like(s[..., 0])
