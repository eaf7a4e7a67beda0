"""Numbers that say how an embedding is spread, from its vectors alone: collapse, clusters, hard negatives.

All of them look at directions zn = z/|z| (rank: at the vectors themselves), so they do not change under a rotation.
Pairs are pairs of distinct rows; N rows are compared in blocks, which needs O(block N) memory. Rows of length 0 have no
direction: each function refuses them, while `describe` leaves them out and says what share they are.

    uniformity  log E exp(-2 |zn - zn'|^2)                  0: all directions are equal; lower: more uniform
    tolerance   E[zn . zn' | same latent]                   1: what belongs together lies together
    alignment   E |zn - zn+|^2                              0: both views of a pair agree; 2: unrelated; 4: opposite
    isotropy    1 - E[zn . zn']                             0: all directions are equal
    rank        exp(entropy of the shares of the singular values)            dimensions in use, in [1, d]
    hardness    share of the push on the hardest 10 % of negatives, r_ij = exp(S_ij/tau) / sum_{k != i} exp(S_ik/tau)

Sources: Wang & Isola 2020 (uniformity, alignment), Wang & Liu 2021 (tolerance, r_ij), Su et al. 2022 (isotropy),
Roy & Vetterli 2007 (rank).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.spec import Array, FloatArray, IntArray

BLOCK = 1024
"""Rows that are compared with all others at once."""
HARDEST = 0.1
"""Share of the negatives that counts as the hardest."""
TEMPERATURE = 0.1
"""tau of the hardness share, the usual one of NT-Xent."""


def directions(features: Array, name: str = "features") -> FloatArray:
    """z/|z| (N, d) of features (N, d), without overflow for long or underflow for short vectors."""
    x = finite_rows(features, name)
    largest = np.abs(x).max(axis=1, keepdims=True)
    require(bool((largest > 0).all()), f"diagnostics: {name}: a feature vector is 0 and has no direction.")
    x = x / largest
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def finite_rows(features: Array, name: str = "features") -> FloatArray:
    """The same as float64 (N, d); RlcError unless there are rows, coordinates, and finite numbers."""
    x = np.asarray(features, dtype=np.float64)
    good = x.ndim == 2 and x.shape[0] > 0 and x.shape[1] > 0
    require(good, f"diagnostics: {name} must have shape (N, d), N and d >= 1, got {x.shape}.")
    require(bool(np.isfinite(x).all()), f"diagnostics: {name} are NaN or infinite.")
    return x


def hardness_share(
    features: Array, temperature: float = TEMPERATURE, *, keys: Array | None = None, hardest: float = HARDEST
) -> float:
    """Share of the push on the hardest negatives: mean_i of the sum of r_ij over i's `hardest` (0, 1] most similar j.

    r_ij = exp(S_ij/tau) / sum_{k != i} exp(S_ik/tau), S = cosine: how the gradient of InfoNCE shares its push among the
    N - 1 negatives (Wang & Liu 2021, eq. (8)). At least one negative counts; equal negatives give hardest itself, up to
    rounding up to a whole number of them. features (N, d), the anchors; keys (N, d): the other views, of which key i is
    the positive of anchor i; default: the anchors themselves.
    """
    require(0.0 < temperature < math.inf, f"diagnostics: temperature must be > 0 and finite, got {temperature}.")
    require(0.0 < hardest <= 1.0, f"diagnostics: hardest must lie in (0, 1], got {hardest}.")
    z = directions(features)
    other = z if keys is None else directions(keys, "keys")
    _require_alike(z, other, "keys")
    N = _pairs(z)
    count = max(1, math.ceil(hardest * (N - 1) - 1e-9))  # .1 * 10 is a little above 1
    total = 0.0
    for rows, cosine in _blocks(z, other):
        s = cosine / temperature
        s[np.arange(len(rows)), rows] = -np.inf  # the positive
        e = np.exp(s - s.max(axis=1, keepdims=True))
        total += float((np.partition(e, N - count, axis=1)[:, N - count :].sum(axis=1) / e.sum(axis=1)).sum())
    return total / N


def uniformity(features: Array, t: float = 2.0) -> float:
    """log E exp(-t |zn - zn'|^2) over pairs of distinct rows (N, d); 0 is collapse, lower is more uniform.

    Source: Wang & Isola 2020, eq. (2).
    """
    require(0.0 < t < math.inf, f"diagnostics: uniformity: t must be > 0 and finite, got {t}.")
    z = directions(features)
    N = _pairs(z)
    sums = []
    for rows, cosine in _blocks(z, z):
        s = -t * np.maximum(2.0 - 2.0 * cosine, 0.0)  # rounding puts some cosines above 1
        s[np.arange(len(rows)), rows] = -np.inf
        top = s.max()
        sums.append(top + math.log(np.exp(s - top).sum()))  # a large t would underflow
    return float(np.logaddexp.reduce(sums)) - math.log(N * (N - 1))


def tolerance(features: Array, latents: IntArray) -> float:
    """Mean cosine of distinct rows with the same latent (Wang & Liu 2021); NaN if no latent has two rows.

    By sums over the n_c rows of a latent: sum of the cosines of its pairs = |sum zn|^2 - n_c.
    """
    z = directions(features)
    latents = np.asarray(latents)
    require(latents.shape == (len(z),), f"diagnostics: latents have shape {latents.shape}, expected {(len(z),)}.")
    _, of = np.unique(latents, return_inverse=True)
    sums = np.zeros((of.max() + 1, z.shape[1]))
    np.add.at(sums, of, z)
    n = np.bincount(of).astype(np.float64)
    pairs = float((n * (n - 1)).sum())
    return float((np.square(sums).sum(axis=1) - n)[n > 1].sum() / pairs) if pairs else math.nan


def alignment(features: Array, positives: Array) -> float:
    """E |zn - zn+|^2 of rows (N, d) and their positives (N, d), in [0, 4] (Wang & Isola 2020, eq. (1), alpha 2)."""
    z, other = directions(features), directions(positives, "positives")
    _require_alike(z, other, "positives")
    return float(np.square(z - other).sum(axis=1).mean())


def isotropy(features: Array) -> float:
    """1 - mean cosine of distinct rows (N, d), in [0, N/(N - 1)] (Su et al. 2022, contrastive search)."""
    z = directions(features)
    N = _pairs(z)
    return max(0.0, 1.0 - float((np.square(z.sum(axis=0)).sum() - N) / (N * (N - 1))))


def effective_rank(features: Array, *, centred: bool = False, squared: bool = True) -> float:
    """exp(entropy of shares), in [1, d], of features (N, d): of the eigenvalues of E[x x'] (squared) or their roots.

    The roots, the shares of the singular values of x, are Roy & Vetterli 2007, eq. (3). Uncentred by default: collapsed
    features (all rows equal) have rank 1. What centring leaves of them is rounding, which counts as 0, and features
    that are all 0 have rank 0.
    """
    x = np.asarray(features, dtype=np.float64)
    require(x.ndim == 2 and x.size > 0, f"diagnostics: features must have shape (N, d), got {x.shape}.")
    require(bool(np.isfinite(x).all()), "diagnostics: features are NaN or infinite.")
    largest = float(np.abs(x).max())
    if largest == 0:
        return 0.0
    x = np.ldexp(x, -math.frexp(largest)[1])  # squares neither overflow nor vanish, and no digit is lost
    values = np.linalg.svd(x - x.mean(axis=0) if centred else x, compute_uv=False)
    if centred:
        values = np.where(values > max(x.shape) * np.finfo(np.float64).eps, values, 0.0)
    share = np.square(values) if squared else values
    if share.sum() == 0:
        return 0.0
    p = share / share.sum()
    return float(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()))


def describe(
    features: Array,
    *,
    positives: Array | None = None,
    latents: IntArray | None = None,
    temperature: float = TEMPERATURE,
) -> dict[str, float]:
    """All numbers of one embedding (N, d) by name; what cannot be said (pairs of a single row) is left out, never NaN.

    positives (N, d): of each row, for alignment; latents (N,): for tolerance. Rows of length 0 are left out of all but
    the ranks: `zero` is their share.
    """
    x = finite_rows(features)
    if latents is not None:
        latents = np.asarray(latents)
        require(latents.shape == (len(x),), f"diagnostics: latents have shape {latents.shape}, expected {(len(x),)}.")
    there = np.abs(x).max(axis=1) > 0
    out = {"rows": float(len(x)), "zero": float(1.0 - there.mean())}
    z = x[there]
    if len(z) >= 2:
        out |= {"uniformity": uniformity(z), "isotropy": isotropy(z), "hardness": hardness_share(z, temperature)}
        if latents is not None:
            same = tolerance(z, latents[there])
            out |= {} if math.isnan(same) else {"tolerance": same}
    if positives is not None:
        other = finite_rows(positives, "positives")
        _require_alike(x, other, "positives")
        both = there & (np.abs(other).max(axis=1) > 0)
        out |= {"alignment": alignment(x[both], other[both])} if both.any() else {}
    ranks = {"rank": effective_rank(x, squared=False), "rank_centred": effective_rank(x, centred=True, squared=False)}
    return {**out, **ranks}


def mean_of(parts: list[dict[str, float]]) -> dict[str, float]:
    """Means over feature spaces that have nothing to do with each other (steps), weighted by rows; rows are summed."""
    out: dict[str, float] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        some = [(part["rows"], part[name]) for part in parts if name in part]
        total = sum(rows for rows, _ in some)
        out[name] = total if name == "rows" else sum(rows * value for rows, value in some) / total
    return out


def _pairs(z: FloatArray) -> int:
    require(len(z) >= 2, f"diagnostics: pairs need at least two rows, got {len(z)}.")
    return len(z)


def _require_alike(z: FloatArray, other: FloatArray, name: str) -> None:
    require(z.shape == other.shape, f"diagnostics: {name} have shape {other.shape}, expected {z.shape}.")


def _blocks(z: FloatArray, other: FloatArray) -> Iterator[tuple[IntArray, FloatArray]]:
    """Row numbers (n,) and their cosines (n, N) with all rows of `other`, block by block."""
    for start in range(0, len(z), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(z)))
        yield rows, z[rows] @ other.T
