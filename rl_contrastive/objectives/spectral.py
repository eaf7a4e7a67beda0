"""The spectral contrastive loss: least-squares density ratio, solved in closed form by `features.spectral`."""

from __future__ import annotations

from torch import Tensor

from rl_contrastive.objectives.base import NoOptions, Objective, ObjectiveResult, reduce_rows
from rl_contrastive.registry import register


@register("objective", "spectral", NoOptions)
class Spectral(Objective):
    """E_pos[-2 f] + E_neg[f^2] of the ratio f itself (any sign); minimiser f* = P/P^-, value -E_pos[P/P^-].

    Source: HaoChen et al. 2021, eq. (6), as a least-squares density ratio (Kanamori et al. 2009).
    """

    space = "ratio"
    recovers = "ratio"

    def loss(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        second_moment = (neg_weight * neg.square()).sum(-1)  # (..., N)
        loss, rows = reduce_rows(-2.0 * pos, second_moment, pos_weight)
        mean = (pos_weight.sum(-1) * (neg_weight * neg).sum(-1)).sum(-1)  # 1 for a ratio of distributions
        return ObjectiveResult(loss, rows, {"mean_ratio": mean})
