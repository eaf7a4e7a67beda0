"""Binary (logistic) contrastive losses: tell a real successor from a draw of P^-. The paper's own loss is `nce`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor
from torch.nn.functional import softplus

from rl_contrastive.config import Gt, In, Options
from rl_contrastive.objectives.base import NoOptions, Objective, ObjectiveResult, reduce_rows
from rl_contrastive.registry import register


@register("objective", "nce", NoOptions)
class NCE(Objective):
    """The paper's loss y log(1 + 1/f) + (1-y) log(1 + f) of the odds f = psi(s')'phi(s,a) > 0; minimiser f* = P/P^-.

    In logs: log(1 + 1/f) = softplus(-log f) and log(1 + f) = softplus(log f), finite for every f > 0.
    Source: Qiu et al. 2022, eq. (3), with y = 1 and y = 0 equally likely.
    """

    recovers = "ratio"

    def __init__(self, config: NoOptions | None = None) -> None:
        del config

    def __call__(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        negatives = (neg_weight * softplus(neg)).sum(-1)  # (..., N)
        loss, rows = reduce_rows(softplus(-pos), negatives, pos_weight)
        return ObjectiveResult(loss, rows)


@dataclass(frozen=True)
class LogisticConfig(Options, where="logistic"):
    """Logistic regression with M negatives to a positive."""

    negatives: Annotated[float, Gt(0)] = 1.0
    """nu, prior odds of a negative: the classifier's log-odds are s - log nu, as in k-negative NCE."""
    smoothing: Annotated[float, In(0, 0.5, below=True)] = 0.0
    """Label smoothing: labels are 1 - smoothing and smoothing; 0 keeps the minimiser at log P/P^-."""


@register("objective", "logistic", LogisticConfig)
class Logistic(Objective):
    """Logistic loss on log-scores, log(1+e^-(s - log nu)) + nu log(1+e^(s - log nu)); minimiser s* = log P/P^-.

    nu = 1 without smoothing equals `nce` on s = log f; nu > 1 weighs negatives more (Gutmann & Hyvarinen 2012).
    """

    def __init__(self, config: LogisticConfig | None = None) -> None:
        self.config = config or LogisticConfig()
        self.recovers = "nothing" if self.config.smoothing else "ratio"

    def __call__(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        nu, eps = self.config.negatives, self.config.smoothing
        shift = math.log(nu)
        positives = _cross_entropy(pos - shift, 1.0 - eps)
        negatives = nu * (neg_weight * _cross_entropy(neg - shift, eps)).sum(-1)
        loss, rows = reduce_rows(positives, negatives, pos_weight)
        return ObjectiveResult(loss, rows)


def _cross_entropy(logit: Tensor, label: float) -> Tensor:
    return label * softplus(-logit) + (1.0 - label) * softplus(logit)
