"""The interface of every contrastive objective: pairwise scores in, one loss per step and some diagnostics out.

An objective is a pure function of log density ratios s = log f(s,a,s') on positive and negative pairs:
    pos (..., N, K)  scores of row i with its K positives      pos_weight, same shape, sums to 1 over (N, K)
    neg (..., N, M)  scores of row i with its M negatives      neg_weight (..., N, M), sums to 1 over M: the law P^-
Leading axes (H) are separate problems. A row is an anchor (s, a); weights carry counts, masks (0) and importance
weights, so exact expectations over a table and sampled minibatches are the same call. An objective that needs the
ratio itself (the spectral one: f may be <= 0 there) sets `space = "ratio"` and receives f in place of log f.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

Space = Literal["log", "ratio"]


@dataclass(frozen=True)
class NoOptions:
    """An objective without hyperparameters."""


@dataclass(frozen=True)
class ObjectiveResult:
    """loss (...,): to be minimised; rows (..., N): its terms by anchor, loss = sum_i w_i rows_i, w = row weights."""

    loss: Tensor
    rows: Tensor
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """A registered objective: `registry.get("objective", name)` gives its factory, called with its config."""

    space: Space

    def __call__(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        """See the module's first lines for shapes."""


def reduce_rows(pos_terms: Tensor, row_terms: Tensor, pos_weight: Tensor) -> tuple[Tensor, Tensor]:
    """loss = sum_ik w_ik pos_ik + sum_i w_i row_i with w_i = sum_k w_ik -> (loss (...,), rows (..., N))."""
    w = pos_weight.sum(-1)  # (..., N)
    positives = (pos_weight * pos_terms).sum(-1)  # (..., N)
    loss = (positives + w * row_terms).sum(-1)
    # Rows of weight 0 (padding) report 0, not 0/0.
    rows = torch.where(w > 0, positives / torch.where(w > 0, w, torch.ones_like(w)) + row_terms, torch.zeros_like(w))
    return loss, rows


def log_expectation(scores: Tensor, weight: Tensor) -> Tensor:
    """log E_{P^-} exp(s) = logsumexp_j(log v_j + s_j) over the last axis; entries of weight 0 do not count."""
    return torch.logsumexp(scores + weight.log(), dim=-1)  # log 0 = -inf: exp gives exactly 0
