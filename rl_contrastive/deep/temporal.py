"""A distance in time between states, learned by contrast: the successor distance of Myers et al. 2024, as in ETD.

    d(x, y) = max_i (a_i(x) - a_i(y))^+ + |s(x) - s(y)|,    (a, s): both halves of u_psi
    log f(x, y) = c(y) - d(x, y),    so that    d(x, y) = log f(y, y) - log f(x, y)

d is a quasimetric, a metric residual network (Liu et al. 2023): d >= 0, d(x, x) = 0, the triangle inequality holds, and
d(x, y) = d(y, x) does not. f is fitted by symmetric InfoNCE on pairs (o_t, o_{t+K}), K ~ Geometric(1 - gamma_c)
(`Replay.ahead`): the mean of both cross-entropies, of y among all successors given x, and of x among all states given
y. Source of the bonus: ETD (Jiang et al. 2025).

Unlike the published code: features are frozen between two rebuilds, as all features here; c is linear in the encoder's
vector; pairs of equal observations stay in the batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rl_contrastive.spec import FloatArray

SMALL = 1e-8
"""Added below the square root, whose slope at 0 is infinite, as in the published code."""


def distances(past: FloatArray, x: FloatArray) -> FloatArray:
    """d from each of past (n, d) to x (d,): (n,)."""
    half = past.shape[-1] // 2
    ahead = np.maximum(past[:, :half] - x[:half], 0.0).max(axis=1)
    return np.asarray(ahead + np.sqrt(np.square(past[:, half:] - x[half:]).sum(axis=1)))


def contrast_in_time(u: Tensor, v: Tensor, potential: Tensor, weight: Tensor | None = None) -> Tensor:
    """The symmetric InfoNCE loss of u (N, d) of o_t and v (N, d), c (N,) of o_{t+K}; weight (N,) of the rows."""
    half = u.shape[1] // 2
    ahead = (u[:, None, :half] - v[None, :, :half]).clamp_min(0.0).amax(-1)
    apart = ((u[:, None, half:] - v[None, :, half:]).square().sum(-1) + SMALL).sqrt()
    log_f = potential - ahead - apart  # (N, N)
    own = torch.arange(len(u), device=u.device)
    loss = 0.5 * (cross_entropy(log_f, own, reduction="none") + cross_entropy(log_f.T, own, reduction="none"))
    return loss.mean() if weight is None else (weight * loss).sum() / weight.sum()
