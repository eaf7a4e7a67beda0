"""Binary (logistic) contrastive losses: tell a real successor from a draw of P^-. The paper's own loss is `nce`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from rl_contrastive.config import In, Options, config_or
from rl_contrastive.energy.contrast import data_term, noise_term
from rl_contrastive.objectives.base import NoOptions, Objective, ObjectiveResult, reduce_rows
from rl_contrastive.registry import register


@register("objective", "nce", NoOptions)
class NCE(Objective):
    """The paper's loss y log(1 + 1/f) + (1-y) log(1 + f) of the odds f = psi(s')'phi(s,a) > 0; minimiser f* = P/P^-.

    In logs: log(1 + 1/f) = softplus(-log f) and log(1 + f) = softplus(log f), finite for every f > 0.
    Source: Qiu et al. 2022, eq. (3), with y = 1 and y = 0 equally likely.
    """

    recovers = "ratio"

    def loss(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        negatives = (neg_weight * noise_term(neg)).sum(-1)  # (..., N)
        loss, rows = reduce_rows(data_term(pos), negatives, pos_weight)
        return ObjectiveResult(loss, rows)


@dataclass(frozen=True)
class LogisticConfig(Options, where="logistic"):
    """Logistic regression with M negatives to a positive."""

    negatives: Annotated[float, In(1e-6, 1e6)] = 1.0
    """nu, prior odds of a negative: the classifier's log-odds are s - log nu, as in k-negative NCE."""
    smoothing: Annotated[float, In(0, 0.5, below=True)] = 0.0
    """Label smoothing: labels are 1 - smoothing and smoothing; 0 keeps the minimiser at log P/P^-."""


@register("objective", "logistic", LogisticConfig)
class Logistic(Objective):
    """Logistic loss on log-scores, log(1+e^-(s - log nu)) + nu log(1+e^(s - log nu)); minimiser s* = log P/P^-.

    nu = 1 without smoothing equals `nce` on s = log f; nu > 1 weighs negatives more (Gutmann & Hyvarinen 2012).
    """

    def __init__(self, config: LogisticConfig | None = None) -> None:
        self.config = config_or(config, LogisticConfig)
        self.recovers = "nothing" if self.config.smoothing else "ratio"

    def loss(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        nu, eps = self.config.negatives, self.config.smoothing
        shift = math.log(nu)
        positives = (1.0 - eps) * data_term(pos, shift) + eps * noise_term(pos, shift)
        negatives = eps * data_term(neg, shift) + (1.0 - eps) * noise_term(neg, shift)  # (..., N, M)
        loss, rows = reduce_rows(positives, nu * (neg_weight * negatives).sum(-1), pos_weight)
        return ObjectiveResult(loss, rows)
