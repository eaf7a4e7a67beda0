"""What the estimation claims share: random low-rank kernels of one step, n draws a pair, and errors of fits."""

from __future__ import annotations

import numpy as np

from rl_contrastive.config import from_dict
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.maps import TabularFeatures
from rl_contrastive.registry import get
from rl_contrastive.spec import ExactModel, FloatArray


def one_step_model(num_states: int, num_actions: int, rank: int, mdp_seed: int) -> ExactModel:
    """The exact model of a random low-rank MDP with one step."""
    entry, _ = get("env", "low-rank")
    sizes = {"num_states": num_states, "num_actions": num_actions, "rank": rank, "mdp_seed": mdp_seed, "horizon": 1}
    model: ExactModel = entry.factory(from_dict(entry.config, sizes), 1).exact()
    return model


def draw_counts(P: FloatArray, per_pair: int, *, rng: np.random.Generator) -> FloatArray:
    """N (1, S, A, S): `per_pair` successors of every (s, a); P (S, A, S)."""
    # Sums of float products miss 1 by rounding, which numpy's multinomial refuses.
    P = np.clip(P, 0.0, None)
    return rng.multinomial(per_pair, P / P.sum(axis=-1, keepdims=True)).astype(np.float64)[None]


def shuffled(counts: FloatArray, *, rng: np.random.Generator) -> FloatArray:
    """The same rows of counts handed to random other pairs: successors that know nothing of (s, a)."""
    _, S, A, _ = counts.shape
    return np.asarray(counts.reshape(S * A, S)[rng.permutation(S * A)].reshape(counts.shape))


def sparse_counts(counts: FloatArray) -> TransitionCounts:
    """Triples of a table of counts."""
    return TransitionCounts.from_dense(counts)


def mean_tv(P_hat: FloatArray, P: FloatArray) -> float:
    """Mean over (s, a) of TV(P-hat, P) = 1/2 sum_s' |P-hat - P|."""
    return float(0.5 * np.abs(P_hat - P).sum(axis=-1).mean())


def model_tv(features: TabularFeatures, P: FloatArray) -> float:
    """Mean TV of the features' own model P-hat = P^- psi'phi, made proper."""
    return mean_tv(features.model().rows(0), P)


def largest_angle(phi_hat: FloatArray, phi: FloatArray) -> float:
    """sin of the largest principal angle between the column spaces of phi-hat and phi (N, d)."""
    A, B = np.linalg.qr(phi_hat)[0], np.linalg.qr(phi)[0]
    # ||(I - A A')B||_2 is the sine itself: 1 - cos^2 would lose half the digits of a small angle.
    return min(float(np.linalg.norm(B - A @ (A.T @ B), ord=2)), 1.0)
