"""Closed form of the spectral contrastive loss on tables: whitened counts, rank-d SVD, all steps in one call.

L(f) = E_{p(s,a,s')}[-2 f] + E_{p(s,a) P^-(s')}[f^2] over f = phi(s,a)'psi(s') is a least-squares fit of the density
ratio f* = P(s'|s,a)/P^-(s'): L(f) + const = ||M - F||_F^2 with
    M = D^-1/2 p(s,a,s') Q^-1/2,   F = D^1/2 f Q^1/2,   D = diag p(s,a),   Q = diag P^-(s').
Its minimiser of rank d is the truncated SVD of M (HaoChen et al. 2021). Here psi = Q^-1/2 V, so that
E_{P^-}[psi psi'] = I, and phi(s,a) = E-hat[psi(s') | s,a]: each pair's features are an average over its own successors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from rl_contrastive.config import require
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.maps import TabularFeatures
from rl_contrastive.objectives.laws import tabular_law
from rl_contrastive.spec import BoolArray, FloatArray, IntArray

DENSE_STATES = 224
"""Up to this S an eigh of the (S, S) Gram matrices finds a given d faster than block Krylov iteration."""
DENSE_STATES_ANY_RANK = 1000
"""The same where d is chosen from the data: the iteration converges slowly on values that are all noise."""
DENSE_ENTRIES = 1 << 22
"""Up to this many entries H S A S (32 MiB) the counts of all steps are one dense array and each stage one call."""
OVERSAMPLE = 4
"""Extra basis vectors of the block iteration; they widen the gap that drives convergence."""
KRYLOV_BLOCKS = 5
"""Powers of the Gram matrix kept before a restart."""
MOST_DIMENSIONS = 64
"""Largest d that is chosen from the data."""
FIRST_DIMENSIONS = 8
"""Number of singular values computed first; it doubles while all of them stand out."""
TOLERANCE = 1e-10
"""Residual ||G v - theta v|| / theta_1 at which a subspace counts as exact."""


@dataclass(frozen=True)
class SpectralFit:
    """A tabular fit: `features`, singular values (H, d) of M (the first is 1 when P^- is the marginal), visited pairs.

    `visited` (H, S, A): a pair without data has the features of P^- itself (ratio 1). This is a fair guess
    of the model but says nothing about confidence, so give such pairs the largest bonus.
    """

    features: TabularFeatures
    singular_values: FloatArray
    visited: BoolArray
    ranks: IntArray
    """(H,) number of dimensions that each step uses; the others are 0. It is d unless d was chosen from the data."""
    cut: bool = False
    """Whether d was chosen from the data and more than MOST_DIMENSIONS singular values stood out."""


def fit_tabular(
    counts: TransitionCounts,
    rank: int | None,
    *,
    law: FloatArray | None = None,
    smoothing: float = 0.0,
    start: TabularFeatures | None = None,
    version: int = 0,
) -> SpectralFit:
    """Rank-d minimiser of the spectral contrastive loss for all steps; rank None: d comes from the singular values.

    With None each step keeps the values above `noise_level`, at least one, and d is the largest number kept.
    law: P^- (H, S), default the empirical marginal. smoothing: pseudo-count kappa of transitions s' ~ P^- added to
    each pair's average, phi = (N E-hat[psi|s,a] + kappa E_{P^-}[psi]) / (N + kappa); 0 is the exact minimiser.
    start: features of an earlier fit, whose psi warms the iteration (same result to TOLERANCE, fewer sweeps).
    """
    H, S, A = counts.horizon, counts.num_states, counts.num_actions
    require(rank is None or 1 <= rank <= S, f"spectral: rank must lie in 1..S={S}, got {rank}.")
    require(np.isfinite(smoothing) and smoothing >= 0, f"spectral: smoothing must be >= 0, got {smoothing}.")
    marginal = tabular_law(counts.succ_total())
    law = marginal if law is None else np.asarray(law, dtype=np.float64)
    require(law.shape == (H, S), f"spectral: the law of negatives has shape {law.shape}, expected {(H, S)}.")
    require(
        bool((law[counts.level, counts.succ] > 0).all()),
        "spectral: the law of negatives is 0 at a successor that occurs, where the ratio P/P^- does not exist.",
    )
    pair_total = counts.pair_total()  # (H, S, A)
    n_pair = pair_total.reshape(H, S * A)[counts.level, counts.pair]  # (nnz,)
    root = np.sqrt(np.where(law > 0, law, 1.0))  # (H, S); entries without mass stay out of psi
    n_level = np.maximum(counts.total(), 1.0)[counts.level]
    whitened = counts.count / (np.sqrt(n_pair * n_level) * root[counts.level, counts.succ])  # entries of M
    guess = None if start is None else start.psi_table * root[..., None]
    direct = (DENSE_STATES_ANY_RANK if rank is None else DENSE_STATES) >= S
    dense = direct and H * S * A * S <= DENSE_ENTRIES
    if dense:
        M = _table(counts, whitened)  # (H, SA, S)
        V, sigma = _leading(np.swapaxes(M, 1, 2) @ M, rank or S)  # (H, S, d)
    else:
        matrices = [counts.matrix(h, whitened) for h in range(H)]
        first = min(MOST_DIMENSIONS if direct else FIRST_DIMENSIONS, S)
        V, sigma = _right_singular_vectors(matrices, rank or first, guess, direct=direct)
    cut, ranks = False, np.full(H, rank or 1)
    if rank is None and not np.array_equal(law, marginal):
        # P has the same rank under every law, and the noise is even under the marginal one.
        own = fit_tabular(counts, None)
        ranks, cut, rank = own.ranks, own.cut, own.features.dim
        if sigma.shape[1] < rank:
            V, sigma = _right_singular_vectors(matrices, rank, V, direct=direct)
    elif rank is None:
        floor = noise_level(counts, law)[:, None]
        while (sigma[:, -1:] > floor).any() and sigma.shape[1] < min(MOST_DIMENSIONS, S):
            more = min(2 * sigma.shape[1], MOST_DIMENSIONS, S)
            V, sigma = _right_singular_vectors(matrices, more, V, direct=direct)
        ranks = np.maximum((sigma > floor).sum(axis=1), 1)
        cut = bool((ranks > MOST_DIMENSIONS).any() or (MOST_DIMENSIONS < S and (ranks == MOST_DIMENSIONS).any()))
        rank = int(min(ranks.max(), MOST_DIMENSIONS))
    used = np.arange(rank) < ranks[:, None]  # (H, d)
    V, sigma = V[:, :, :rank] * used[:, None], sigma[:, :rank] * used
    psi = np.where(law[..., None] > 0, V / root[..., None], 0.0)
    prior = np.einsum("hs,hsd->hd", law, psi)  # phi of the ratio 1, projected on the span
    if dense:
        sums = _table(counts, counts.count) @ psi  # (H, SA, d)
    else:
        sums = np.stack([counts.matrix(h) @ psi[h] for h in range(H)])
    weight = pair_total.reshape(H, S * A, 1) + smoothing
    sums = sums + smoothing * prior[:, None]
    phi = np.where(weight > 0, sums / np.where(weight > 0, weight, 1.0), prior[:, None])
    # A step without data has no singular vectors: the constant feature alone, whose P-hat is P^-.
    empty = counts.total() == 0
    constant = np.eye(rank)[0]
    phi[empty], psi[empty], sigma[empty] = constant, constant, 0.0
    features = TabularFeatures(phi.reshape(H, S, A, rank), psi, law, version)
    return SpectralFit(features, sigma, pair_total > 0, np.minimum(ranks, rank).astype(np.int64), cut)


def noise_level(counts: TransitionCounts, law: FloatArray) -> FloatArray:
    """(H,) the singular value that sampling noise alone reaches in the whitened counts M.

    Entries N_h(s,a,s') (n N_h(s,a) q)^-1/2 have variance P (1 - P) / (n q). With m rows and k columns of this total
    variance F^2 the largest singular value of the noise is near F (m^-1/2 + k^-1/2), exactly so where it is spread
    evenly (Marchenko & Pastur). P is estimated with one pseudo-transition s' ~ P^- for each pair. Without it a pair
    seen once would count as free of noise. With it the noise of deterministic kernels falls as their pairs are seen
    again.
    """
    H, S, A = counts.horizon, counts.num_states, counts.num_actions
    n_pair = counts.pair_total().reshape(H, S * A)
    seen, k = n_pair > 0, (law > 0).sum(axis=1)  # (H, SA), (H,)
    share = np.where(seen, 1.0 / (n_pair + 1.0), 0.0)  # weight of the pseudo-transition
    # Successors not seen have P = share q; those seen are corrected below.
    total = (share * k[:, None] - share**2).sum(axis=1)
    q, w = law[counts.level, counts.succ], share[counts.level, counts.pair]
    P = w * (counts.count + q)
    total += np.bincount(counts.level, P * (1.0 - P) / q - w * (1.0 - w * q), minlength=H)
    n, m = np.maximum(counts.total(), 1.0), np.maximum(seen.sum(axis=1), 1)
    return np.asarray(np.sqrt(np.maximum(total, 0.0) / n) * (1.0 / np.sqrt(m) + 1.0 / np.sqrt(np.maximum(k, 1))))


def _right_singular_vectors(
    matrices: list[sparse.csr_matrix], rank: int, guess: FloatArray | None, *, direct: bool
) -> tuple[FloatArray, FloatArray]:
    """Top right singular vectors V (H, S, d) and values (H, d) of sparse matrices (SA, S), signs fixed.

    direct: by an eigh of each Gram matrix and not by block Krylov iteration.
    """
    S = matrices[0].shape[1]
    if min(rank + OVERSAMPLE, S) * KRYLOV_BLOCKS > S or direct:
        found = [_leading((M.T @ M).toarray()[None], rank) for M in matrices]
        return np.concatenate([V for V, _ in found]), np.concatenate([sigma for _, sigma in found])
    pairs = [_block_krylov(M, rank, None if guess is None else guess[h]) for h, M in enumerate(matrices)]
    return _signed(np.stack([v for _, v in pairs]), np.stack([t for t, _ in pairs]))


def _table(counts: TransitionCounts, values: FloatArray) -> FloatArray:
    """The triples' values as a dense (H, SA, S) array."""
    H, S, A = counts.horizon, counts.num_states, counts.num_actions
    table = np.zeros((H, S * A, S))
    table[counts.level, counts.pair, counts.succ] = values
    return table


def _leading(gram: FloatArray, rank: int) -> tuple[FloatArray, FloatArray]:
    """Top eigenvectors (H, S, d) and root eigenvalues (H, d) of Gram matrices (H, S, S)."""
    theta, vectors = np.linalg.eigh(gram)
    return _signed(vectors[:, :, ::-1][:, :, :rank], theta[:, ::-1][:, :rank])


def _signed(V: FloatArray, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Signs fixed by the largest entry; eigenvalues to singular values."""
    largest = np.take_along_axis(V, np.abs(V).argmax(axis=1, keepdims=True), axis=1)  # (H, 1, d)
    return V * np.where(largest < 0, -1.0, 1.0), np.sqrt(np.maximum(theta, 0.0))


def _block_krylov(M: sparse.csr_matrix, rank: int, guess: FloatArray | None) -> tuple[FloatArray, FloatArray]:
    """Leading eigenpairs of M'M by restarted block Krylov with full orthogonalisation (Musco & Musco 2015).

    Deterministic: the starting block is a constant Gaussian matrix, or the guess beside some of its columns. Sparse
    products cost O(nnz); a dense SVD of the (SA, S) matrix would cost O(S^3 A).
    """
    S, width = M.shape[1], rank + OVERSAMPLE
    constant = np.random.Generator(np.random.PCG64(0)).standard_normal((S, width))
    X = constant if guess is None else np.column_stack([guess[:, :width], constant[:, : width - guess.shape[1]]])
    MT = M.T.tocsr()
    for _ in range(60):
        blocks = [np.linalg.qr(X)[0]]
        for _ in range(KRYLOV_BLOCKS - 1):
            blocks.append(np.linalg.qr(MT @ (M @ blocks[-1]))[0])
        K = np.linalg.qr(np.concatenate(blocks, axis=1))[0]  # (S, width * KRYLOV_BLOCKS)
        GK = MT @ (M @ K)
        theta, Y = np.linalg.eigh(K.T @ GK)
        theta, Y = theta[::-1][:width], Y[:, ::-1][:, :width]
        X = K @ Y  # Ritz vectors
        residual = np.linalg.norm((GK @ Y - X * theta)[:, :rank], axis=0)
        if residual.max() <= TOLERANCE * max(float(theta[0]), 1e-300):
            break
    return theta[:rank], X[:, :rank]
