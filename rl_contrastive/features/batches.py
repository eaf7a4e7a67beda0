"""The data of one iteration of a fit: anchors, successors and their weights, as plain index arrays.

The same four arrays describe exact expectations over a table (all pairs, all states, weights = counts) and sampled
minibatches (stored rows), so objectives and networks need not distinguish the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.objectives.laws import sample_states
from rl_contrastive.spec import FloatArray, IntArray


@dataclass(frozen=True)
class Batch:
    """Indices into a network's tables of anchors and successors; None means all of them, in order.

    anchors (H, N). positives (H, N) has one for each anchor; None means that every successor is a positive, with
    weight `pos_weight` (H, N, S). negatives (H, M) are shared by the anchors. pos_weight (H, N, K) sums to 1 over
    (N, K), or to 0 on a step without data; neg_weight (H, M) sums to 1.
    """

    anchors: IntArray | None
    positives: IntArray | None
    negatives: IntArray | None
    pos_weight: FloatArray
    neg_weight: FloatArray


class Sampler(Protocol):
    """A source of batches."""

    def draw(self, *, rng: np.random.Generator) -> Batch:
        """The next batch; exact samplers return the same one without using rng."""


class ExactTable:
    """All (s,a) x s' with counts as weights: expectations over the data and over P^- are exact."""

    def __init__(self, counts: TransitionCounts, law: FloatArray) -> None:
        H, S, A = counts.horizon, counts.num_states, counts.num_actions
        weight = counts.dense().reshape(H, S * A, S) / np.maximum(counts.total(), 1.0)[:, None, None]
        self._batch = Batch(None, None, None, weight, law)

    def draw(self, *, rng: np.random.Generator) -> Batch:
        return self._batch


class SampledTable:
    """`size` transitions a step drawn from the counts, `negatives` states drawn from P^-: for large tables."""

    def __init__(self, counts: TransitionCounts, law: FloatArray, size: int, negatives: int) -> None:
        self._counts, self._law, self._size, self._negatives = counts, law, size, negatives
        self._edges = np.searchsorted(counts.level, np.arange(counts.horizon + 1))
        self._cumulative = np.cumsum(counts.count)

    def draw(self, *, rng: np.random.Generator) -> Batch:
        H = len(self._law)
        before = np.concatenate([[0.0], self._cumulative])
        low, high = before[self._edges[:-1]], before[self._edges[1:]]  # mass before and up to each step (H,)
        u = low[:, None] + rng.random((H, self._size)) * (high - low)[:, None]
        last = np.maximum(self._edges[1:] - 1, 0)[:, None]
        rows = np.minimum(np.searchsorted(self._cumulative, u, side="right"), last)
        weight = np.where((high > low)[:, None], 1.0 / self._size, 0.0)
        negatives = sample_states(self._law, self._negatives, rng=rng)
        return Batch(
            self._counts.pair[rows],
            self._counts.succ[rows],
            negatives,
            np.broadcast_to(weight, rows.shape)[..., None],
            np.full(negatives.shape, 1.0 / self._negatives),
        )


class SampledRows:
    """`size` of the listed rows a step, and as many negatives from the same rows with probabilities `law`."""

    def __init__(self, rows: IntArray, count: IntArray, law: FloatArray, size: int, negatives: int) -> None:
        """rows (H, N): the first count[h] entries are usable row numbers; law (H, N') over all stored rows."""
        self._rows, self._count, self._size, self._negatives = rows, count, size, negatives
        mask = np.arange(rows.shape[1]) < count[:, None]
        mass = np.take_along_axis(law, rows, axis=1) * mask
        total = mass.sum(axis=1, keepdims=True)
        require(bool((total > 0).all()), "learner: the law of negatives has no mass on a step's training rows.")
        self._law = mass / total

    def draw(self, *, rng: np.random.Generator) -> Batch:
        pick = (rng.random((len(self._count), self._size)) * self._count[:, None]).astype(np.int64)
        anchors = np.take_along_axis(self._rows, pick, axis=1)
        negatives = np.take_along_axis(self._rows, sample_states(self._law, self._negatives, rng=rng), axis=1)
        pos_weight = np.full((*anchors.shape, 1), 1.0 / self._size)
        return Batch(anchors, anchors, negatives, pos_weight, np.full(negatives.shape, 1.0 / self._negatives))


def held_out_table(
    counts: TransitionCounts, law: FloatArray, limit: int, negatives: int | None, *, rng: np.random.Generator
) -> Batch:
    """A fixed batch for judging: up to `limit` held-out transitions a step, one a row; P^- is exact or sampled."""
    H = counts.horizon
    limit = min(limit, max(int(counts.total().max(initial=0)), 1))
    anchors, positives = np.zeros((H, limit), dtype=np.int64), np.zeros((H, limit), dtype=np.int64)
    weight = np.zeros((H, limit, 1))
    edges = np.searchsorted(counts.level, np.arange(H + 1))
    for h in range(H):
        repeated = np.repeat(np.arange(edges[h], edges[h + 1]), counts.count[edges[h] : edges[h + 1]].astype(np.int64))
        rows = rng.permutation(repeated)[:limit]
        anchors[h, : len(rows)], positives[h, : len(rows)] = counts.pair[rows], counts.succ[rows]
        weight[h, : len(rows)] = 1.0 / max(len(rows), 1)
    if negatives is None:
        return Batch(anchors, positives, None, weight, law)
    drawn = sample_states(law, negatives, rng=rng)
    return Batch(anchors, positives, drawn, weight, np.full(drawn.shape, 1.0 / negatives))


def held_out_rows(
    rows: IntArray, count: IntArray, law: FloatArray, limit: int, negatives: int, *, rng: np.random.Generator
) -> Batch:
    """The same for stored rows: the first count[h] of rows (H, n), negatives from all stored rows with law (H, N)."""
    size = min(limit, max(int(count.max()), 1))
    anchors = rows[:, :size]
    kept = np.minimum(count, size)
    weight = (np.arange(size) < kept[:, None]) / np.maximum(kept, 1)[:, None]
    drawn = sample_states(law, negatives, rng=rng)
    return Batch(anchors, anchors, drawn, weight[..., None], np.full(drawn.shape, 1.0 / negatives))


def split_rows(
    count: IntArray, width: int, shares: tuple[float, float], *, rng: np.random.Generator
) -> list[tuple[IntArray, IntArray]]:
    """Random disjoint parts of the rows 0..count[h]-1: two of the given shares, then the rest; [(rows, counts)] * 3."""
    key = np.where(np.arange(width) < count[:, None], rng.random((len(count), width)), 2.0)
    order = np.argsort(key, axis=1, kind="stable")  # stored rows in random order, padding last
    sizes = [np.floor(share * count).astype(np.int64) for share in shares]
    starts = [np.zeros_like(count), sizes[0], sizes[0] + sizes[1]]
    sizes.append(count - starts[2])
    parts = []
    for start, size in zip(starts, sizes, strict=True):
        index = np.minimum(start[:, None] + np.arange(max(int(size.max()), 1)), width - 1)
        parts.append((np.take_along_axis(order, index, axis=1), size))
    return parts
