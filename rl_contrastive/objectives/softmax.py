"""Multi-class losses: InfoNCE picks the real successor among M draws of P^-; MLE is its exact-partition limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from rl_contrastive.config import In, Options, config_or
from rl_contrastive.energy.contrast import among
from rl_contrastive.objectives.base import NoOptions, Objective, ObjectiveResult, log_expectation, reduce_rows
from rl_contrastive.registry import register


@dataclass(frozen=True)
class InfoNCEConfig(Options, where="infonce"):
    """InfoNCE with the positive in its own denominator."""

    temperature: Annotated[float, In(1e-4, 1e4)] = 1.0
    """tau: scores are divided by it; then s* = tau log P/P^- + c(s,a)."""


@register("objective", "infonce", InfoNCEConfig)
class InfoNCE(Objective):
    """-s+ + log(e^{s+} + M E_{P^-} e^s): cross-entropy of the positive among itself and M negatives.

    Minimiser s* = log P/P^- + c(s,a), the same for every M. Source: van den Oord et al. 2018, eq. (4).
    """

    def __init__(self, config: InfoNCEConfig | None = None) -> None:
        self.config = config_or(config, InfoNCEConfig)
        self.recovers = "ratio-up-to-row" if self.config.temperature == 1.0 else "tempered"

    def loss(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        s, t = pos / self.config.temperature, neg / self.config.temperature
        rest = log_expectation(t, neg_weight).unsqueeze(-1) + math.log(neg.shape[-1])  # (..., N, 1)
        losses = among(s, rest)  # (..., N, K)
        loss, rows = reduce_rows(losses, torch.zeros_like(losses[..., 0]), pos_weight)
        bound = math.log(neg.shape[-1] + 1.0) - loss  # lower bound of the mutual information, at most log(M + 1)
        return ObjectiveResult(loss, rows, {"mutual_information_bound": bound})


@register("objective", "mle", NoOptions)
class MLE(Objective):
    """-s+ + log E_{P^-} e^s: maximum likelihood of P-hat = P^- e^s / Z(s,a), up to the constant E log P^-.

    Exact when `neg` ranges over all s' with weights P^-(s'); with M draws it is the sampled-partition estimate
    (the row's own positive is not in Z, so a small M can drive it below the true value). This is what Rep-UCB
    (Uehara et al. 2022) fits. Minimiser s* = log P/P^- + c(s,a).
    """

    recovers = "ratio-up-to-row"

    def loss(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        log_partition = log_expectation(neg, neg_weight)  # (..., N)
        loss, rows = reduce_rows(-pos, log_partition, pos_weight)
        mean = (pos_weight.sum(-1) * log_partition).sum(-1)
        return ObjectiveResult(loss, rows, {"mean_log_partition": mean})
