"""Laws P^- of the negative successors: every contrastive objective estimates the ratio P(s'|s,a) / P^-(s').

uniform   P^-(s') = 1/S                      the paper's choice; needs a finite state space
marginal  P^-(s') = N_h(s') / N_h            the empirical law of successors: no state space needed
mixture   (1-eps) marginal + eps uniform     finite ratios P/P^- on the support, mass everywhere
propensity  stored rows weigh 1/mu(s')       as if drawn uniformly, mu their estimated density; on tables: uniform
A law must be positive where successors occur, or the ratio does not exist there.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from scipy.special import logsumexp

from rl_contrastive.config import require
from rl_contrastive.spec import FloatArray, IntArray

Law = Literal["uniform", "marginal", "mixture", "propensity"]


def tabular_law(succ_total: FloatArray, law: Law = "marginal", *, mixture: float = 0.1) -> FloatArray:
    """P^- (H, S) from successor counts (H, S). A step without data gets the uniform law under each choice.

    propensity is uniform here: a table's states are known, and 1/mu turns their visits into a uniform law.
    """
    known = law in get_args(Law)
    require(known, f"negatives: law must be uniform, marginal, mixture or propensity, not {law}.")
    require(0.0 <= mixture <= 1.0, f"negatives: the mixture weight must lie in [0, 1], got {mixture}.")
    uniform = np.full(succ_total.shape, 1.0 / succ_total.shape[-1])
    if law in ("uniform", "propensity"):
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


def row_law(rows: FloatArray, count: IntArray, law: Law = "marginal") -> FloatArray:
    """P^- (H, N) of stored successors rows (H, N, k), of which the first count[h] >= 1 are real; rows sum to 1.

    marginal: 1/count[h] each. propensity: 1/mu(s'), the density mu estimated from the rows themselves.
    """
    require(law in ("marginal", "propensity"), f"negatives: stored rows have no law {law}, only marginal, propensity.")
    real = np.arange(rows.shape[1]) < count[:, None]
    if law == "marginal":
        return real / np.maximum(count, 1)[:, None]
    out = np.zeros(real.shape)
    for h, n in enumerate(count.tolist()):
        if n:
            out[h, :n] = row_propensity(row_density(rows[h, :n])[None], np.arange(n)[None])[0]
    return out


REFERENCES = 512
"""Rows, evenly from those stored, whose kernels make the density."""
THINNEST = 100.0
"""A density is at least this part of the median: a lone outlier must not take all draws."""


def row_density(x: FloatArray) -> FloatArray:
    """mu (n,) at the rows x (n, k) by Gaussian kernels of Scott's width h = n^(-1/(k+4)) s, in units of its median.

    s (k,): standard deviations; a coordinate that never varies does not count.
    """
    x = np.asarray(x, dtype=np.float64)
    n = len(x)
    s = x.std(axis=0)
    varies = s > 1e-9 * max(float(s.max(initial=0.0)), 1e-300)
    if n == 1 or not varies.any():
        return np.ones(n)
    refs = np.linspace(0, n - 1, min(n, REFERENCES)).astype(np.int64)
    width = len(refs) ** (-1.0 / (int(varies.sum()) + 4))
    z = x[:, varies] / (width * s[varies])
    square = np.square(z).sum(axis=1)
    distance = np.maximum(square[:, None] + square[refs] - 2.0 * z @ z[refs].T, 0.0)  # (n, R)
    log_mu = logsumexp(-0.5 * distance, axis=1)
    return np.asarray(np.exp(np.clip(log_mu - np.median(log_mu), -np.log(THINNEST), None)))
