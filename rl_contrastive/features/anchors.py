"""From signed spectral factors to non-negative ones, so that both sides of a contrastive fit start warm.

The paper's phi and psi are >= 0 (psi'phi is an odds ratio); an SVD gives them in some signed basis. In a low-rank MDP
the features phi(s,a) lie in a simplex, and in the coordinates of its vertices both factors are >= 0: if the rows of
A are d vertices ("anchors"), then phi A^-1 are mixture weights and psi A' are the ratios P(s'|anchor)/P^-(s').
"""

from __future__ import annotations

import numpy as np

from rl_contrastive.spec import FloatArray

VERTEX_SHARE = 0.02
"""Share of the rows averaged into one anchor: a single extreme row would be mostly noise."""
RCOND = 1e-3
"""Relative singular values of A below this are no directions: A is rank deficient (d is above the true rank)."""


def find_anchors(phi: FloatArray, weight: FloatArray) -> FloatArray:
    """d anchors (H, d, d) of the rows phi (H, N, d) by successive projection, smoothed (Bhattacharyya & Kannan 2020).

    weight (H, N): visits of each row. Rows below the median of the positive weights are too noisy to be vertices.
    """
    H, N, d = phi.shape
    positive = np.where(weight > 0, weight, np.nan)
    solid = np.zeros(weight.shape, dtype=bool)
    for h in range(H):
        solid[h] = weight[h] >= (np.nanmedian(positive[h]) if (weight[h] > 0).any() else 0.0)
    residual = np.where(solid[..., None], phi, 0.0)
    take = max(1, int(VERTEX_SHARE * N))
    anchors = np.empty((H, d, d))
    for k in range(d):
        far = np.square(residual).sum(axis=2).argmax(axis=1)  # (H,)
        direction = residual[np.arange(H), far]  # (H, d)
        along = np.where(solid, np.einsum("hnd,hd->hn", residual, direction), -np.inf)
        top = np.argpartition(-along, take - 1, axis=1)[:, :take]  # (H, take)
        share = np.take_along_axis(solid * weight, top, axis=1)
        share = share / np.maximum(share.sum(axis=1, keepdims=True), 1e-300)  # no data at all: anchors at the origin
        anchors[:, k] = np.einsum("hn,hnd->hd", share, np.take_along_axis(phi, top[..., None], axis=1))
        axis = np.einsum("hn,hnd->hd", share, np.take_along_axis(residual, top[..., None], axis=1))
        axis /= np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-300)
        residual = residual - np.einsum("hn,hd->hnd", np.einsum("hnd,hd->hn", residual, axis), axis)
    return anchors


def anchor_coordinates(anchors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Matrices (A^+, A') (H, d, d): phi A^+ are mixture weights, psi A' ratios, and their product is psi'phi again."""
    return np.asarray(np.linalg.pinv(anchors, rcond=RCOND)), np.swapaxes(anchors, 1, 2)


def inverse_softplus(value: FloatArray, sharpness: float, floor: float) -> FloatArray:
    """u with softplus(beta u)/beta = max(value, floor): the floor keeps a gradient where a factor should be 0."""
    scaled = sharpness * np.maximum(value, floor)
    return np.asarray((scaled + np.log(-np.expm1(-scaled))) / sharpness)
