"""Latent states from features: k-means of all steps at once, with the number of clusters chosen by a gap test.

The number k goes DOWN from its maximum and the first one that passes is taken: three equidistant clusters pass for
two as well as for three, and only the finest partition that is real keeps all states apart. The test is there because
a cluster that is only a piece of noise would be a state that nothing ever visits again, hence a false promise of
novelty for an exploring agent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_contrastive.spec import BoolArray, FloatArray, IntArray

LLOYD_ITERATIONS = 8
FAR = 1e30
"""Squared distance to a centre that does not exist."""


@dataclass(frozen=True)
class Clusters:
    """Centres (H, K, q), of which the first count[h] exist; the others are never nearest."""

    centres: FloatArray
    count: IntArray

    def labels(self, points: FloatArray) -> IntArray:
        """Index of the nearest centre of each point: (H, N, q) -> (H, N)."""
        return _nearest(points, self.centres, self.count)

    def label(self, h: int, points: FloatArray) -> IntArray:
        """The same for one step: (N, q) -> (N,)."""
        return np.asarray(self.labels_of(points[None], np.array([h]))[0])

    def labels_of(self, points: FloatArray, levels: IntArray) -> IntArray:
        """The same for some steps: points (L, N, q) of `levels` (L,) -> (L, N)."""
        return _nearest(points, self.centres[levels], self.count[levels])


def cluster(points: FloatArray, mask: BoolArray, most: int, *, gap: float, smallest: int) -> Clusters:
    """k-means of points (H, N, q), mask (H, N), with the largest k <= most whose clusters are told apart.

    k is accepted at a step if every cluster has `smallest` members and each pair of centres is at least `gap`
    within-cluster standard deviations apart, both measured along the line between them. Cutting one Gaussian in
    two gives a gap of 2.65, two of them s apart give s/sd.
    """
    H, _, q = points.shape
    centres, count = np.zeros((H, most, q)), np.ones(H, dtype=np.int64)
    centres[:, 0] = _means(points, mask[..., None].astype(np.float64))[:, 0]
    open_levels = np.arange(H)
    for k in range(most, 1, -1):
        if not len(open_levels):
            break
        found, labels = _lloyd(points[open_levels], mask[open_levels], k)
        good = _separated(points[open_levels], mask[open_levels], labels, found, gap, smallest)
        centres[open_levels[good], :k], count[open_levels[good]] = found[good], k
        open_levels = open_levels[~good]
    return Clusters(centres, count)


def _lloyd(points: FloatArray, mask: BoolArray, k: int) -> tuple[FloatArray, IntArray]:
    """Farthest-first start (deterministic; finds rare but distant clusters), then Lloyd's iterations."""
    H, _, q = points.shape
    rows, every = np.arange(H), np.full(H, k)
    centres = np.empty((H, k, q))
    nearest = np.square(points - _means(points, mask[..., None].astype(np.float64))).sum(axis=2)
    for j in range(k):
        centres[:, j] = points[rows, np.where(mask, nearest, -1.0).argmax(axis=1)]
        distance = np.square(points - centres[:, j : j + 1]).sum(axis=2)
        nearest = distance if j == 0 else np.minimum(nearest, distance)
    labels = _nearest(points, centres, every)
    for _ in range(LLOYD_ITERATIONS):
        member = (labels[..., None] == np.arange(k)) & mask[..., None]  # (H, N, k)
        filled = member.any(axis=1)[..., None]  # an empty cluster keeps its centre
        centres = np.where(filled, _means(points, member.astype(np.float64)), centres)
        following = _nearest(points, centres, every)
        if np.array_equal(following, labels):
            break
        labels = following
    return centres, labels


def _means(points: FloatArray, member: FloatArray) -> FloatArray:
    """Mean of the members: points (H, N, q), member (H, N, k) of 0/1 -> (H, k, q); 0 for an empty cluster."""
    size = np.maximum(member.sum(axis=1), 1.0)[..., None]
    return np.asarray(np.swapaxes(member, 1, 2) @ points / size)


def _nearest(points: FloatArray, centres: FloatArray, count: IntArray) -> IntArray:
    """argmin_j ||u - c_j||^2 over the first count[h] centres, by |c|^2 - 2 u'c."""
    score = np.square(centres).sum(axis=2)[:, None] - 2.0 * points @ np.swapaxes(centres, 1, 2)  # (H, N, K)
    score += np.where(np.arange(centres.shape[1]) < count[:, None], 0.0, FAR)[:, None]
    return np.asarray(score.argmin(axis=2), dtype=np.int64)


def _separated(
    points: FloatArray, mask: BoolArray, labels: IntArray, centres: FloatArray, gap: float, smallest: int
) -> BoolArray:
    """(H,): each pair of centres lies `gap` pooled standard deviations apart, and each cluster is large enough."""
    k = centres.shape[1]
    member = (labels[..., None] == np.arange(k)) & mask[..., None]
    size = member.sum(axis=1)  # (H, k)
    good = (size >= smallest).all(axis=1)
    residual = points - np.take_along_axis(centres, labels[..., None], axis=1)
    for i in range(k):
        for j in range(i):
            line = centres[:, i] - centres[:, j]  # (H, q)
            distance = np.linalg.norm(line, axis=1)
            along = np.einsum("hnq,hq->hn", residual, line / np.maximum(distance, 1e-300)[:, None])
            both = member[..., i] | member[..., j]
            variance = (both * along**2).sum(axis=1) / np.maximum(size[:, i] + size[:, j] - 2, 1)
            good &= distance > gap * np.sqrt(variance)
    return np.asarray(good)
