"""Laws P^- of the negative successors: every contrastive objective estimates the ratio P(s'|s,a) / P^-(s').

uniform   P^-(s') = 1/S                      the paper's choice; needs a finite state space
marginal  P^-(s') = N_h(s') / N_h            the empirical law of successors: no state space needed
mixture   (1-eps) marginal + eps uniform     finite ratios P/P^- on the support, mass everywhere
A law must be positive where successors occur, or the ratio does not exist there.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.spec import FloatArray, IntArray

Law = Literal["uniform", "marginal", "mixture"]


def tabular_law(succ_total: FloatArray, law: Law = "marginal", *, mixture: float = 0.1) -> FloatArray:
    """P^- (H, S) from successor counts (H, S). A step without data gets the uniform law under each choice."""
    require(
        law in ("uniform", "marginal", "mixture"), f"negatives: law must be uniform, marginal or mixture, not {law}."
    )
    require(0.0 <= mixture <= 1.0, f"negatives: the mixture weight must lie in [0, 1], got {mixture}.")
    uniform = np.full(succ_total.shape, 1.0 / succ_total.shape[-1])
    if law == "uniform":
        return uniform
    total = succ_total.sum(axis=-1, keepdims=True)
    marginal = np.where(total > 0, succ_total / np.where(total > 0, total, 1.0), uniform)
    eps = mixture if law == "mixture" else 0.0
    return np.asarray((1.0 - eps) * marginal + eps * uniform)


def importance_weights(target: FloatArray, proposal: FloatArray, index: IntArray) -> FloatArray:
    """Self-normalised weights v_j ∝ target(s'_j)/proposal(s'_j) of negatives s'_j drawn from `proposal`.

    target, proposal (H, S); index (H, M) states -> (H, M), rows sum to 1. Raises RlcError where the proposal is 0.
    """
    q = np.take_along_axis(proposal, index, axis=-1)
    require(bool((q > 0).all()), "negatives: a sampled state has probability 0 under the proposal law.")
    ratio = np.take_along_axis(target, index, axis=-1) / q
    total = ratio.sum(axis=-1, keepdims=True)
    require(bool((total > 0).all()), "negatives: the target law gives every sampled state probability 0.")
    return np.asarray(ratio / total)


def sample_states(law: FloatArray, size: int, *, rng: np.random.Generator) -> IntArray:
    """`size` draws from each row of law (H, S) by inverse CDF -> (H, size) int64."""
    cdf = np.cumsum(law, axis=-1)
    cdf /= cdf[:, -1:]
    u = rng.random((law.shape[0], size))
    draws = np.stack([np.searchsorted(c, row, side="right") for c, row in zip(cdf, u, strict=True)])
    return np.asarray(np.minimum(draws, law.shape[1] - 1), dtype=np.int64)


def row_propensity(density: FloatArray, index: IntArray) -> FloatArray:
    """Weights v_j ∝ 1/density(y_j) (H, M): negatives drawn from the data weigh as if drawn uniformly.

    `index` (H, M) are row numbers; `density` (H, N) is the (estimated) visit density of each stored successor, > 0.
    """
    p = np.take_along_axis(density, index, axis=-1)
    require(bool((p > 0).all()), "negatives: visit densities must be > 0.")
    return np.asarray((1.0 / p) / (1.0 / p).sum(axis=-1, keepdims=True))
