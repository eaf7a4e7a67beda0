"""Scores f = psi'phi and log f of softplus factors, which are finite however small f is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from rl_contrastive.energy.low_rank import log_products


def log_softplus(u: Tensor, beta: float) -> Tensor:
    """log(softplus(beta u)/beta); softplus(x) = e^x to float32 rounding below -20, where its log is x itself."""
    x = beta * u
    # The clamp keeps the unused branch's gradient finite: 0 * inf would be NaN.
    value = torch.where(x < -20.0, x, softplus(x.clamp(min=-20.0)).log())
    return value - float(np.log(beta))


def pair_scores(u: Tensor, v: Tensor, beta: float, *, log: bool) -> Tensor:
    """f or log f of all pairs: u (H, N, d), v (H, M, d) -> (H, N, M)."""
    if not log:
        return torch.bmm(softplus(u, beta), softplus(v, beta).transpose(1, 2)).to(u.dtype)
    return log_products(log_softplus(u, beta), log_softplus(v, beta))


def row_scores(u: Tensor, v: Tensor, beta: float, *, log: bool) -> Tensor:
    """f or log f of matching rows: u, v (H, N, d) -> (H, N)."""
    if not log:
        return (softplus(u, beta) * softplus(v, beta)).sum(-1)
    return torch.logsumexp(log_softplus(u, beta) + log_softplus(v, beta), dim=-1)
