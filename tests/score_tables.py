"""Inputs that tests of score losses share: two views of a few vectors, and a table of laws."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

P = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.3, 0.5], [0.25, 0.35, 0.2, 0.2], [0.05, 0.15, 0.6, 0.2]]).double()
LAW = torch.tensor([0.3, 0.2, 0.4, 0.1]).double()
ROWS = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
"""P(s'|anchor), P^- and the weights of the anchors."""


def wave(n: int, d: int, k: float) -> Tensor:
    """X(n, d, k) of the specification, in single precision, then rows of length 1."""
    return normalize(torch.tensor(np.sin(np.arange(n * d) + k).reshape(n, d), dtype=torch.float32).double(), dim=-1)


def two_views(n: int = 4) -> tuple[Tensor, Tensor]:
    """Cosines of a_i with b_i (n, 1), and with all b_j and a_j of j != i (n, 2n - 2)."""
    a, b = wave(n, 3, 0), wave(n, 3, 0.3)
    off = ~torch.eye(n, dtype=torch.bool)
    return (a * b).sum(-1, keepdim=True), torch.cat([(a @ x.T)[off].reshape(n, -1) for x in (b, a)], dim=1)
