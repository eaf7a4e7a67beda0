"""Contrastive search: of the k most probable actions the one whose outcome resembles least what the episode has seen.

    argmax over the top k of (1 - alpha) p(v) - alpha max_j cos(h_v, h_j)

p (N, A) is a policy, h_v (N, A, d) features of what action v leads to, h_j (N, T, d) those of the history. It selects,
it is no loss. alpha must suit the size of the probabilities: text has k 5 and alpha .6, where four actions want .9.
Source: Su & Collier 2023; code read: yxuansu/Contrastive_Search_Is_What_You_Need (ranking_fast, isotropy_analysis).
"""

from __future__ import annotations

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.spec import Array, BoolArray, FloatArray, IntArray


def contrastive_search(
    probabilities: Array,
    features: Array,
    history: Array,
    *,
    alpha: float,
    k: int,
    known: BoolArray | None = None,
) -> IntArray:
    """The action (N,) of each row: the first of the best; arguments as of `contrastive_scores`."""
    scores = contrastive_scores(probabilities, features, history, alpha=alpha, k=k, known=known)
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)


def contrastive_scores(
    probabilities: Array,
    features: Array,
    history: Array,
    *,
    alpha: float,
    k: int,
    known: BoolArray | None = None,
) -> FloatArray:
    """(1 - alpha) p(v) - alpha max_j cos(h_v, h_j) (N, A); -inf outside the k most probable, lower numbers first.

    probabilities (N, A), features (N, A, d) of each action, history (N, T, d), alpha in [0, 1], k >= 1 (A at most
    counts). known (N, T): which entries of the history are real, default all; a row without any is not penalised.
    """
    p, h, past = (np.asarray(x, dtype=np.float64) for x in (probabilities, features, history))
    mask: BoolArray = np.asarray(np.ones(past.shape[:2]) if known is None else known, dtype=np.bool_)
    _check(p, h, past, mask, alpha, k)
    (N, A), T = p.shape, past.shape[1]
    penalty = np.zeros((N, A))
    if T:
        cosines = np.where(mask[:, None], np.einsum("nad,ntd->nat", unit_rows(h), unit_rows(past)), -np.inf)
        penalty = np.where(mask.any(axis=1, keepdims=True), cosines.max(axis=2), 0.0)
    top = np.argsort(-p, axis=1, kind="stable")[:, :k]  # (N, min(k, A))
    scores = np.full((N, A), -np.inf)
    np.put_along_axis(scores, top, np.take_along_axis((1.0 - alpha) * p - alpha * penalty, top, axis=1), axis=1)
    return scores


def _check(p: FloatArray, h: FloatArray, past: FloatArray, mask: BoolArray, alpha: float, k: int) -> None:
    where = "contrastive search"
    require(0.0 <= alpha <= 1.0, f"{where}: alpha must lie in [0, 1], got {alpha}.")
    require(k >= 1, f"{where}: k must be >= 1, got {k}.")
    require(p.ndim == 2 and p.shape[1] >= 1, f"{where}: probabilities must be (N, A), got {p.shape}.")
    require(
        h.ndim == 3 and h.shape[:2] == p.shape, f"{where}: features must be (N, A, d), got {h.shape} for {p.shape}."
    )
    fits = past.ndim == 3 and past.shape[0] == len(p) and past.shape[2] == h.shape[2]
    require(fits, f"{where}: history must be (N, T, d) with N = {len(p)} and d = {h.shape[2]}, got {past.shape}.")
    require(mask.shape == past.shape[:2], f"{where}: known must be {past.shape[:2]}, got {mask.shape}.")
    require(bool((p >= 0).all() and np.isfinite(p).all()), f"{where}: probabilities must be >= 0 and finite.")
    finite = bool(np.isfinite(h).all() and np.isfinite(past[mask]).all())
    require(finite, f"{where}: features and history must be finite.")


def unit_rows(x: FloatArray) -> FloatArray:
    """x / |x| along the last axis, 0 for the zero vector; entries of any size."""
    largest = np.abs(x).max(axis=-1, keepdims=True, initial=0.0)
    scaled = x / np.where(largest > 0, largest, 1.0)  # squares neither overflow nor vanish
    length = np.linalg.norm(scaled, axis=-1, keepdims=True)
    return np.asarray(scaled / np.where(length > 0, length, 1.0))


def isotropy(features: Array) -> float:
    """1 - mean cosine of distinct positions of one sequence, averaged: (T, d) or sequences (N, T, d), T >= 2."""
    x = np.asarray(features, dtype=np.float64)
    require(x.ndim in (2, 3) and x.shape[-2] >= 2, f"isotropy: features must be (N, T, d) with T >= 2, got {x.shape}.")
    require(x.size > 0 and bool(np.isfinite(x).all()), "isotropy: features must be finite, one sequence at least.")
    u, T = unit_rows(x), x.shape[-2]
    # sum_{i != j} u_i'u_j = |sum u|^2 - sum |u|^2
    off = np.square(u.sum(axis=-2)).sum(axis=-1) - np.square(u).sum(axis=(-2, -1))
    return float(1.0 - (off / (T * (T - 1))).mean())
