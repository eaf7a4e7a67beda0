"""From values to actions. Each row draws with a uniform number of its own, so rows never share chance."""

from __future__ import annotations

import numpy as np

from rl_contrastive.spec import FloatArray, IntArray


def greedy(values: FloatArray) -> FloatArray:
    """argmax_a of values (N, A) as probabilities, uniform over exact ties."""
    best = (values.max(axis=1, keepdims=True) == values).astype(np.float64)
    return np.asarray(best / best.sum(axis=1, keepdims=True))


def choose(values: FloatArray, uniform: FloatArray) -> IntArray:
    """argmax_a of values (N, A), by chance among exact ties: by each row's own u in [0, 1) (N,), as `invert`."""
    best: IntArray = values.argmax(axis=1)
    if np.count_nonzero(values == np.maximum.reduce(values, axis=1, keepdims=True)) == len(values):
        return best
    return invert(greedy(values), uniform)


def sample(probabilities: FloatArray, *, rng: np.random.Generator) -> IntArray:
    """One action per row of (N, A): `invert` of one uniform number a row."""
    return invert(probabilities, rng.random(len(probabilities)))


def invert(probabilities: FloatArray, uniform: FloatArray) -> IntArray:
    """Action of each row of (N, A) by inversion of its own u in [0, 1) (N,): a one-hot row gives its one."""
    cumulative = probabilities.cumsum(axis=1)
    index: IntArray = (uniform[:, None] * cumulative[:, -1:] >= cumulative).sum(axis=1)
    # Rounding may leave the last sum below the threshold.
    return np.asarray(np.minimum(index, probabilities.shape[1] - 1))
