"""The interface of every contrastive objective: pairwise scores in, one loss per step and some diagnostics out.

An objective is a pure function of log density ratios s = log f(s,a,s') on positive and negative pairs:
    pos (..., N, K)  scores of row i with its K positives      pos_weight, same shape, sums to 1 over (N, K)
    neg (..., N, M)  scores of row i with its M negatives      neg_weight (..., N, M), sums to 1 over M: the law P^-
Leading axes (H) are separate problems. A row is an anchor (s, a); weights carry counts, masks (0) and importance
weights, so exact expectations over a table and sampled minibatches are the same call. An objective that needs the
ratio itself (the spectral one: f may be <= 0 there) sets `space = "ratio"` and receives f in place of log f.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
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


@dataclass(frozen=True)
class Partition:
    """One step of a moving average of Z(s,a): ratio (H, N) = Zhat / sg[Z of the average], log_z (H, N), new state."""

    ratio: Tensor
    log_z: Tensor
    log_u: Tensor


class Compositional(ABC):
    """An objective log Z(s,a) - s+ whose partition function is followed by a moving average u over the descent.

    A call without state (`__call__`) is the likelihood itself with the partition of the batch: what stops and judges a
    fit. `partition` is what the descent uses; log u is float64 whatever the precision of the scores.
    """

    space: Space = "log"

    @abstractmethod
    def initial(self, levels: int, anchors: int, dim: int) -> Tensor:
        """log u before the first step, NaN everywhere: (H, d) or (H, anchors)."""

    @abstractmethod
    def partition(
        self,
        log_phi: Tensor,
        log_psi: Tensor,
        *,
        law: Tensor,
        row_weight: Tensor,
        anchors: Tensor | None,
        log_u: Tensor,
    ) -> Partition:
        """log_phi (H, N, d) of the anchors, log_psi (H, M, d) of the negatives with law (H, M), row_weight (H, N),
        anchors (H, N) or None for all in order, log_u as from `initial`."""

    def __call__(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        """-s+ + log E_{P^-} e^s."""
        log_partition = log_expectation(neg, neg_weight)  # (..., N)
        return ObjectiveResult(*reduce_rows(-pos, log_partition, pos_weight))


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
