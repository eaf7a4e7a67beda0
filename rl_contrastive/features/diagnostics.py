"""Measures of feature quality: TV of P-hat, principal angles and purity need the truth, misfit does not.

`embedding.py` has the measures that need only the vectors of an embedding (rank, uniformity, tolerance ...).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import subspace_angles

from rl_contrastive.config import require
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.embedding import effective_rank, tolerance, uniformity
from rl_contrastive.planning.lsvi import expect_alive
from rl_contrastive.planning.models import TransitionModel
from rl_contrastive.spec import FloatArray, IntArray

__all__ = [
    "ModelError",
    "effective_rank",
    "misfit",
    "model_error",
    "phi_angles",
    "principal_angles",
    "purity",
    "tolerance",
    "uniformity",
]


@dataclass(frozen=True)
class ModelError:
    """TV(P-hat_h(.|s,a), P_h(.|s,a)) = 1/2 sum_s' |difference|, in [0, 1]: mean (H,) and worst (H,) over (s,a)."""

    mean: FloatArray
    worst: FloatArray


def model_error(model: TransitionModel, P: FloatArray, weight: FloatArray | None = None) -> ModelError:
    """P (H, S, A, S) true kernels; weight (H, S, A) distribution of (s,a) by step (need not be normalised), default
    uniform. The worst is over pairs of positive weight; a step without weight reports NaN."""
    require(
        model.shape == P.shape[:3] and P.ndim == 4 and P.shape[3] == P.shape[1],
        f"diagnostics: the model has sizes (H, S, A) = {model.shape}, the truth has shape {P.shape}.",
    )
    w = np.ones(P.shape[:3]) if weight is None else np.asarray(weight, dtype=np.float64)
    require(w.shape == P.shape[:3], f"diagnostics: weight has shape {w.shape}, expected {P.shape[:3]}.")
    require(bool((w >= 0).all() and np.isfinite(w).all()), "diagnostics: weights must be finite and >= 0.")
    mean, worst = np.full(len(P), np.nan), np.full(len(P), np.nan)
    for h in range(len(P)):
        total = w[h].sum()
        if total > 0:
            tv = 0.5 * np.abs(model.rows(h) - P[h]).sum(axis=-1)  # (S, A)
            mean[h], worst[h] = (w[h] * tv).sum() / total, tv[w[h] > 0].max()
    return ModelError(mean, worst)


def misfit(
    counts: TransitionCounts, model: TransitionModel, V: FloatArray, alive: FloatArray | float = 1.0
) -> FloatArray:
    """(H, k) root mean square over the data of (P_h - P-hat_h) V_{h+1}: the error of a model whose rank is too low.

        m_h^2 = max(sum_sa N (e^2 - v/N) / sum_sa N, 0),  e = mean of V_{h+1}(s') over the N successors - P-hat V_{h+1}

    v is the variance of V_{h+1}(s') among the successors of a pair (two or more), and v/N is the part of e^2 that
    sampling explains. V (H+1, S, k); counts and model of H levels, or of one that serves all; alive as in
    `lsvi.plan_model`. The features were fitted to the same data, which makes e a little too small: this is an estimate
    and no bound.
    """
    H, S, A = len(V) - 1, counts.num_states, counts.num_actions
    goes_on = np.broadcast_to(np.asarray(alive, dtype=np.float64), (counts.horizon, S))
    out = np.zeros((H, V.shape[2]))
    for h in range(H):
        level = h if counts.horizon == H else 0
        M, values = counts.matrix(level), goes_on[level][:, None] * V[h + 1]  # (SA, S), (S, k)
        N = np.asarray(M.sum(axis=1))  # (SA, 1)
        mean, square = M @ values / np.maximum(N, 1.0), M @ np.square(values) / np.maximum(N, 1.0)
        noise = np.maximum(square - np.square(mean), 0.0) / np.maximum(N - 1.0, 1.0)  # v / N, v without bias
        e = mean - expect_alive(model, h, V[h + 1], alive, H).reshape(S * A, -1)
        weight = np.where(N > 1, N, 0.0)
        excess = (weight * (np.square(e) - noise)).sum(axis=0) / max(float(weight.sum()), 1.0)
        out[h] = np.sqrt(np.maximum(excess, 0.0))
    return out


def principal_angles(learned: FloatArray, true: FloatArray) -> FloatArray:
    """Angles (radians, falling) between the column spaces of two feature matrices (N, d), (N, d') -> (min(d, d'),).

    They are invariant under phi -> A phi, up to which features are identified. If all are 0, one space contains the
    other.
    """
    a, b = np.asarray(learned, dtype=np.float64), np.asarray(true, dtype=np.float64)
    require(
        a.ndim == b.ndim == 2 and len(a) == len(b),
        f"diagnostics: features must have shapes (N, d) and (N, d'), got {a.shape} and {b.shape}.",
    )
    require(bool(np.isfinite(a).all() and np.isfinite(b).all()), "diagnostics: features are NaN or infinite.")
    return np.asarray(subspace_angles(a, b), dtype=np.float64)


def phi_angles(phi: FloatArray, true: FloatArray) -> FloatArray:
    """Largest principal angle (H,) between tables phi (H, S, A, d) and the true ones (H, S, A, d')."""
    pairs = zip(phi, true, strict=True)
    return np.array([principal_angles(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))[0] for a, b in pairs])


def purity(labels: IntArray, latents: IntArray) -> float:
    """Share of rows whose cluster is matched to their latent under the best one-to-one assignment (Hungarian).

    Clusters beyond the number of latents stay unmatched and count as errors, so splitting does not pay.
    """
    require(
        labels.shape == latents.shape and labels.ndim == 1 and len(labels) > 0,
        f"diagnostics: labels and latents must be equally long and not empty, got {labels.shape} and {latents.shape}.",
    )
    from scipy.optimize import linear_sum_assignment  # here: slow, and not for `rlc --help`

    _, i = np.unique(labels, return_inverse=True)
    _, j = np.unique(latents, return_inverse=True)
    table = np.zeros((i.max() + 1, j.max() + 1))
    np.add.at(table, (i, j), 1.0)
    rows, columns = linear_sum_assignment(-table)
    return float(table[rows, columns].sum() / len(labels))
