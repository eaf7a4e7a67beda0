"""Which embeddings SupReMix mixes, and how much of each: exact lists where they are short, even draws where not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Of each of R rows i, M mixtures lam z_j + (1 - lam) z_k with lam y_j + (1 - lam) y_k = y_i."""

    j: Tensor
    """(..., R, M): the row of the smaller value."""
    k: Tensor
    """(..., R, M): the row of the larger value."""
    lam: Tensor
    """(..., R, M) in (0, 1): (y_k - y_i) / (y_k - y_j)."""
    count: Tensor
    """(..., R, M): how many pairs each one stands for; 0 fills up rows that have fewer than M."""


def draw_beta(size: tuple[int, ...], shape: tuple[int, int], *, generator: torch.Generator) -> Tensor:
    """Beta(a, b) of whole a, b >= 1: the a-th smallest of a + b - 1 uniform numbers. float64 (*size)."""
    a, b = shape
    return torch.rand(*size, a + b - 1, dtype=torch.float64, generator=generator).kthvalue(a, dim=-1).values


def draw_pairs(y: Tensor, real: Tensor, window: float, most: int, *, generator: torch.Generator) -> Pairs:
    """Pairs (j, k) of real rows with y_i - window < y_j < y_i < y_k < y_i + window; `most` of a row at most.

    y, real (..., R). Pairs of a row are numbered. If it has more than M, one is drawn from each of M equal parts of the
    numbers, so each pair is as likely as any other and stands for number / M.
    """
    gap = y.unsqueeze(-2) - y.unsqueeze(-1)  # (..., R, R): y_b - y_i
    below = (gap < 0) & (gap > -window) & real.unsqueeze(-2)
    above = (gap > 0) & (gap < window) & real.unsqueeze(-2)
    n_k = above.sum(-1, keepdim=True)
    number = below.sum(-1, keepdim=True) * n_k  # (..., R, 1)
    M = min(most, int(number.max()))
    t = torch.arange(M, device=y.device)
    u = torch.rand(*y.shape, M, dtype=torch.float64, generator=generator).to(y.device)
    drawn = ((t + u) * (number / max(M, 1)).double()).long().clamp_max(number - 1)
    which = torch.where(number > M, drawn, t.clamp_max(number - 1)).clamp_min(0)  # (..., R, M)
    j = _listed(below).gather(-1, which // n_k.clamp_min(1))
    k = _listed(above).gather(-1, which % n_k.clamp_min(1))
    low, high = gap.gather(-1, j), gap.gather(-1, k)
    here = t < number
    lam = torch.where(here, high / torch.where(here, high - low, torch.ones_like(high)), torch.zeros_like(high))
    return Pairs(j, k, lam, here * (number / max(M, 1)).clamp_min(1.0))


def _listed(chosen: Tensor) -> Tensor:
    """Indices of the chosen entries of each row first, in their order: (..., R) bool -> (..., R) int64."""
    return chosen.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
