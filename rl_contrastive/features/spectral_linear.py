"""Closed-form spectral contrastive features of vector observations: soft whitening, per-action ridge, one small SVD.

Over f(x,a,y) = 1 + z(x)'B_a y~ (linear per action) the minimiser of E_pos[-2f] + E_neg[f^2] with P^- the empirical
marginal is a ridge regression of the whitened successor y~ on the whitened observation z; its rank-(d-1) truncation
factors as f = phi(x,a)'psi(y) with phi = (1, (B_a V)'z), psi = (1, V'y~). All steps h in batched matrix calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from scipy.linalg import lapack

from rl_contrastive.config import Ge, Gt, Options, require
from rl_contrastive.features.maps import LinearFeatures
from rl_contrastive.spec import Array, FloatArray, IntArray, StepData

SMALL_OBSERVATION = 48
"""Up to this D the levels are whitened together. Beyond it the covariances cost more than separate calls."""


@dataclass(frozen=True)
class LinearSpectralConfig(Options, where="spectral"):
    """Regularisation of the closed form; the defaults suit observations of one dominant scale."""

    pca_dim: Annotated[int, Ge(1)] = 6
    """k, leading principal directions kept of each side."""
    rho: Annotated[float | None, Gt(0)] = 16.0
    """Softness of the whitening, as a multiple of the largest eigenvalue: T = U diag(lam_i + rho lam_1)^-1/2.
    Small values lift weak directions to the level of strong ones, signal and noise alike. None: use a multiple of the
    noise floor instead, which distractor coordinates do not raise."""
    floor: Annotated[float, Gt(0)] = 1.0
    """Without rho: T = U diag(lam_i + floor * nu)^-1/2, nu the noise floor of the observations (`noise_floor`)."""
    ridge: Annotated[float, Gt(0)] = 3.0
    """Ridge of each action's regression, in samples of the whitened scale."""
    reward_target: bool = True
    """Predict the reward together with the successor, so that directions that matter only for reward are kept too."""
    refit: bool = True
    """Solve again inside the d - 1 chosen directions of each side with exact whitening. Soft whitening and its ridge
    are right for choosing directions, but they shrink f towards 1, by a factor of 10 and more at rho = 16."""
    refit_ridge: Annotated[float, Gt(0)] = 1.0
    """Ridge of that second regression, in samples."""


@dataclass(frozen=True)
class Whitening:
    """Soft whitening of every step: x -> T'(x - mu); mean (H, D), matrix T (H, D, k), eigenvalues (H, k)."""

    mean: FloatArray
    matrix: FloatArray
    eigenvalues: FloatArray


@dataclass(frozen=True)
class LinearSpectralFit:
    """`features` of dimension d, and directions for a decoder.

    forward (H, D, m): directions of o_h that predict its successor (left singular directions);
    backward (H, D, m): directions of o_{h+1} that are predictable from (o_h, a_h) (right ones). Apply both
    to centred observations `x - mean`. `forward_values`, `backward_values` (H, m) their singular values, falling.
    """

    features: LinearFeatures
    here: Whitening
    there: Whitening
    regression: FloatArray
    """B (H, A, k+1, k'+1): [whitened o_h, 1] -> [whitened o_{h+1}, reward], by action."""
    forward: FloatArray
    forward_values: FloatArray
    backward: FloatArray
    backward_values: FloatArray


def fit_linear(
    data: StepData,
    num_actions: int,
    dim: int,
    config: LinearSpectralConfig | None = None,
    *,
    version: int = 0,
) -> LinearSpectralFit:
    """Closed-form features of dimension d = dim >= 2 (the constant included) for all steps of `data`.

    Observations of any shape are flattened. Raises RlcError on a step without data or on non-finite observations.
    """
    config = config or LinearSpectralConfig()
    x, y, mask = _flat(data.obs), _flat(data.next_obs), _mask(data)
    k = min(config.pca_dim, x.shape[2])
    require(2 <= dim <= k + 1, f"spectral: dim must lie in 2..{k + 1} (1 + principal directions), got {dim}.")
    (here, z), (there, y_white) = whiten(x, data.count, config), whiten(y, data.count, config)
    reward = data.reward if config.reward_target else np.zeros(mask.shape)
    require(bool((np.abs(reward) < 1e150).all()), "spectral: a reward is NaN, infinite or beyond 1e150.")
    target = np.concatenate([y_white, reward[..., None]], axis=2)  # (H, N, k'+1)
    B, share = _per_action_ridge(z, target, data.action, mask, num_actions, config.ridge)
    weighted = np.sqrt(share)[..., None, None] * B  # (H, A, k+1, k'+1)
    left, forward_values = _top_directions(np.einsum("haij,halj->hil", weighted[:, :, :-1], weighted[:, :, :-1]))
    right, backward_values = _top_directions(np.einsum("haij,hail->hjl", weighted[..., :-1], weighted[..., :-1]))
    forward, backward = here.matrix @ left, there.matrix @ right
    if config.refit:
        Ru = _exact_root(z, left[..., : dim - 1], mask)  # (H, k, d-1)
        Rv = _exact_root(y_white, right[..., : dim - 1], mask)  # (H, k', d-1)
        C, _ = _per_action_ridge(z @ Ru, y_white @ Rv, data.action, mask, num_actions, config.refit_ridge)
        BV, V = np.concatenate([Ru[:, None] @ C[:, :, :-1], C[:, :, -1:]], axis=2), Rv
    else:
        BV, V = B[..., :-1] @ right[:, None, :, : dim - 1], right[..., : dim - 1]
    features = _features(here, there, BV, V, version)
    return LinearSpectralFit(features, here, there, B, forward, forward_values, backward, backward_values)


def whiten(x: Array, count: IntArray, config: LinearSpectralConfig) -> tuple[Whitening, FloatArray]:
    """T = U diag(lam_i + soft)^-1/2 on the top k eigenpairs of Cov(x_h), and T'(x - mu) (H, N, k) itself.

    soft is rho lam_1, or floor times the noise floor of all steps together. x (H, N, D), rows n >= count[h] are padding
    and stay 0. Small observations: all levels in each call. Large ones: one level at a time, converted to float64 once.
    """
    H, N, D = x.shape
    k = min(config.pca_dim, D)
    if D <= SMALL_OBSERVATION:
        return _whiten_together(x, count, config)
    mean, U, lam = np.empty((H, D)), np.zeros((H, D, k)), np.zeros((H, k))
    rest = np.zeros(H)  # mean variance of the directions that are left out
    for h, n in enumerate(count.tolist()):
        block = x[h, :n].astype(np.float64)  # a copy
        mean[h] = np.add.reduce(block, axis=0) / n
        block -= mean[h]
        lam[h], U[h] = _leading_eigenpairs(block, k)
        left = min(D, n - 1) - k
        rest[h] = max(np.square(block).sum() / n - lam[h].sum(), 0.0) / left if left > 0 else 0.0
    matrix = _softened(U, lam, count, config, rest)
    matrix *= _sign_of_largest(matrix)
    projected = np.zeros((H, N, k))
    for h, n in enumerate(count.tolist()):
        projected[h, :n] = (x[h, :n].astype(np.float64) - mean[h]) @ matrix[h]
    return Whitening(mean, matrix, lam), projected


def _whiten_together(x: Array, count: IntArray, config: LinearSpectralConfig) -> tuple[Whitening, FloatArray]:
    """`whiten` with the leading axis in every call."""
    k, n = min(config.pca_dim, x.shape[2]), count[:, None]
    centred = x.astype(np.float64)
    padding = np.arange(x.shape[1]) >= n
    ragged = bool(padding.any())
    if ragged:
        centred[padding] = 0.0
    mean = np.add.reduce(centred, axis=1) / n
    centred -= mean[:, None]
    if ragged:
        centred[padding] = 0.0
    moment = np.swapaxes(centred, 1, 2) @ centred / n[..., None]
    _require_finite(np.diagonal(moment, axis1=1, axis2=2))
    lam, U = np.linalg.eigh(moment)
    lam, U = np.maximum(lam[:, ::-1], 0.0), fix_signs(U[:, :, ::-1][:, :, :k])
    left = np.maximum(np.minimum(x.shape[2], count - 1) - k, 0)
    rest = np.where(left > 0, lam[:, k:].sum(axis=1) / np.maximum(left, 1), 0.0)
    lam = lam[:, :k]
    matrix = _softened(U, lam, count, config, rest)
    return Whitening(mean, matrix, lam), centred @ matrix


def _softened(
    U: FloatArray, lam: FloatArray, count: IntArray, config: LinearSpectralConfig, rest: FloatArray
) -> FloatArray:
    """U diag(lam + soft)^-1/2 (H, D, k); an observation that never varies gets T = 0: the constant feature alone."""
    if config.rho is not None:
        soft = config.rho * lam[:, :1]
    else:
        soft = np.full((len(lam), 1), config.floor * noise_floor(lam, count, rest))
    scale = np.where(lam[:, :1] > 0, lam + soft, 0.0)
    return U * np.where(scale > 0, 1.0 / np.sqrt(np.where(scale > 0, scale, 1.0)), 0.0)[:, None]


NULL = 1e-9
"""Eigenvalues below this share of the largest are directions without any variance."""


def noise_floor(lam: FloatArray, count: IntArray, rest: FloatArray | None = None) -> float:
    """nu, the variance of the weakest directions: lam (H, k) falling eigenvalues of steps with count (H,) rows.

    Where directions were left out, nu is their mean variance `rest`. Otherwise it is the lower quartile of the nonzero
    eigenvalues, so that up to three quarters of the directions may be signal or distractors. It is one number for all
    steps, the mean weighted by rows, because a step of few rows shows too little of its weak directions.
    """
    values = np.zeros(len(lam))
    for h, row in enumerate(lam):
        solid = row[row > NULL * row[0]]
        values[h] = np.quantile(solid, 0.25) if len(solid) else 0.0
    if rest is not None:
        values = np.where(rest > 0, rest, values)
    return float((values * count).sum() / max(int(count.sum()), 1))


def _require_finite(diagonal: FloatArray) -> None:
    """NaN and infinity anywhere in X reach the diagonal of X'X, so a test of the diagonal is enough."""
    require(bool(np.isfinite(diagonal).all()), "spectral: an observation is NaN, infinite or beyond 1e150.")


def _leading_eigenpairs(centred: FloatArray, k: int) -> tuple[FloatArray, FloatArray]:
    """Top k eigenvalues (k,), falling, and eigenvectors (D, k) of X'X/n for X (n, D); null directions get U = 0.

    With n < D the eigenvectors come from the smaller XX'/n = V lam V' as U = X'V (n lam)^-1/2. LAPACK's dsyevr asked
    for k pairs costs half of a full decomposition at D = 128.
    """
    n, D = centred.shape
    wide = n < D
    moment = (centred @ centred.T if wide else centred.T @ centred) / n
    _require_finite(moment.diagonal())
    size = len(moment)
    found = min(k, size)
    values, vectors, count, _, info = lapack.dsyevr(moment, range="I", il=size - found + 1, iu=size, overwrite_a=1)
    require(info == 0 and count == found, "spectral: the eigenvalues of an observation's covariance did not converge.")
    lam, U = np.zeros(k), np.zeros((D, k))
    lam[:found] = np.maximum(values[:found][::-1], 0.0)
    vectors = vectors[:, ::-1]
    if wide:
        # Below rounding of lam_1 a Gram eigenvector determines no direction.
        solid = lam[:found] > 1e-13 * size * lam[0]
        vectors = centred.T @ vectors * np.where(solid, 1.0 / np.sqrt(np.where(solid, n * lam[:found], 1.0)), 0.0)
    U[:, :found] = vectors
    return lam, U


def fix_signs(U: FloatArray) -> FloatArray:
    """Make the largest entry of each column (axis -2) positive: eigenvectors then do not flip between platforms."""
    return np.asarray(U * _sign_of_largest(U))


def _sign_of_largest(U: FloatArray) -> FloatArray:
    largest = np.take_along_axis(U, np.abs(U).argmax(axis=-2, keepdims=True), axis=-2)
    return np.where(largest < 0, -1.0, 1.0)


def _per_action_ridge(
    z: FloatArray, target: FloatArray, action: IntArray, mask: FloatArray, num_actions: int, ridge: float
) -> tuple[FloatArray, FloatArray]:
    """B_a = (Z_a'Z_a + ridge I)^-1 Z_a'Y_a with Z = [z, 1] -> (H, A, k+1, k'), and shares n_a/n (H, A).

    Rows are sorted by action, so that each enters the moments of its own action alone and not of all A.
    """
    H, A, k = len(z), num_actions, z.shape[2] + 1
    gram, cross = np.empty((H, A, k, k)), np.empty((H, A, k, target.shape[2]))
    counts = np.empty((H, A), dtype=np.int64)
    for h in range(H):
        rows = np.flatnonzero(mask[h])
        rows = rows[np.argsort(action[h, rows], kind="stable")]
        counts[h] = np.bincount(action[h, rows], minlength=A)
        Z, Y = np.column_stack([z[h, rows], np.ones(len(rows))]), target[h, rows]  # (n, k+1), (n, k')
        ends = np.cumsum(counts[h])
        for a, (start, end) in enumerate(zip(ends - counts[h], ends, strict=True)):
            gram[h, a], cross[h, a] = Z[start:end].T @ Z[start:end], Z[start:end].T @ Y[start:end]
    B = np.linalg.solve(gram + ridge * np.eye(k), cross)
    return np.asarray(B, dtype=np.float64), counts / mask.sum(axis=1)[:, None]


def _top_directions(gram: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Eigenvectors (columns, falling) and root eigenvalues of (H, m, m) second moments."""
    lam, U = np.linalg.eigh(gram)
    return fix_signs(U[:, :, ::-1]), np.sqrt(np.maximum(lam[:, ::-1], 0.0))


def first_columns(directions: FloatArray, q: int) -> FloatArray:
    """The first q columns of (H, D, m), filled with 0 where an observation of few dimensions has fewer."""
    H, D, m = directions.shape
    out = np.zeros((H, D, q))
    out[..., : min(m, q)] = directions[..., :q]
    return out


def _exact_root(z: FloatArray, directions: FloatArray, mask: FloatArray) -> FloatArray:
    """W C^-1/2 (H, k, m) with C = Cov(W'z): coordinates of covariance I, each as near to its direction as possible."""
    u = (z @ directions) * mask[..., None]  # (H, N, m); z is centred
    lam, U = np.linalg.eigh(np.swapaxes(u, 1, 2) @ u / mask.sum(axis=1)[:, None, None])
    # Directions without variance (a constant observation) would divide 0 by 0; they get coordinate 0.
    floor = 1e-12 * np.maximum(lam[:, -1:], 1e-300)
    root = np.where(lam > floor, 1.0 / np.sqrt(np.maximum(lam, floor)), 0.0)
    return np.asarray(directions @ (U * root[:, None]) @ np.swapaxes(U, 1, 2))


def _features(here: Whitening, there: Whitening, BV: FloatArray, V: FloatArray, version: int) -> LinearFeatures:
    """phi = (1, (B_a V)'z) and psi = (1, V'y~): BV (H, A, k+1, m), V (H, k', m)."""
    H, A, rows, m = BV.shape
    Phi = np.zeros((H, A, rows, m + 1))
    Phi[:, :, -1, 0] = 1.0
    Phi[..., 1:] = BV
    Psi = np.zeros((H, V.shape[1] + 1, m + 1))
    Psi[:, -1, 0] = 1.0
    Psi[:, :-1, 1:] = V
    signed, ones = np.zeros(H), np.ones((H, m + 1))
    return LinearFeatures(
        here.mean, here.matrix, Phi, there.mean, there.matrix, Psi, sharpness=signed, scale=ones, version=version
    )


def _flat(obs: Array) -> Array:
    """(H, N, ...) of any real dtype -> (H, N, D)."""
    require(np.ndim(obs) >= 2, f"spectral: observations must have shape (H, N, ...), got {np.shape(obs)}.")
    return np.asarray(obs).reshape(*np.shape(obs)[:2], -1)


def _mask(data: StepData) -> FloatArray:
    require(bool((data.count >= 1).all()), "spectral: a step has no stored transition.")
    return (np.arange(data.obs.shape[1]) < data.count[:, None]).astype(np.float64)
