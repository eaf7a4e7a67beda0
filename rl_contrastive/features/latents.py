"""Latent states from features: it clusters all steps at once and chooses the number of clusters by a gap test.

Clusters are found by classification EM of Gaussians with a common spherical variance and their own weights: k-means
whose boundaries move towards the smaller cluster by its log odds, 2 sigma^2 log(w_i/w_j). Without the weights a rare
state beside a common one collects outliers of the common one, and their visits distort its counts.

The number k goes DOWN from its maximum, and the first one that passes the test is taken. Three equidistant clusters
pass with k = 2 as well as with k = 3, and only the finest real partition keeps all states apart. The test is needed
because a cluster that is only a piece of noise would be a state that is never visited again. To an exploring agent it
would promise novelty falsely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_contrastive.spec import Array, BoolArray, FloatArray, IntArray

ITERATIONS = 8
FAR = 1e30
"""Squared distance to a centre that does not exist."""


@dataclass(frozen=True)
class Clusters:
    """Centres (H, K, q), of which the first count[h] exist; the others are never chosen.

    offset (H, K) = -2 sigma^2 log w: a point belongs to the least |u - c|^2 + offset.
    """

    centres: FloatArray
    count: IntArray
    offset: FloatArray

    def take(self, levels: Array) -> Clusters:
        """The clusters of some steps."""
        return Clusters(self.centres[levels], self.count[levels], self.offset[levels])

    def put(self, levels: Array, other: Clusters) -> None:
        """Replace those of some steps; `other` may have fewer slots or dimensions."""
        k, q = other.centres.shape[1:]
        self.centres[levels] = 0.0
        self.centres[levels, :k, :q] = other.centres
        self.count[levels], self.offset[levels, :k] = other.count, other.offset

    def labels(self, points: FloatArray, levels: IntArray, *, weighted: bool) -> IntArray:
        """Cluster of each point of some steps: points (L, N, q) of `levels` (L,) -> (L, N).

        weighted: use the clusters' shares in the data, which is right for points from the same data. Otherwise use the
        distance alone, which is right where the shares are unknown or different (a policy that walks to a rare state
        meets it often).
        """
        offset = self.offset[levels] * weighted
        return _nearest(points, self.centres[levels], self.count[levels], offset)


def cluster(points: FloatArray, mask: BoolArray, most: int, *, gap: float, smallest: int) -> Clusters:
    """Clusters of points (H, N, q), mask (H, N), with the largest k <= most whose clusters are told apart.

    k is accepted at a step if every cluster has `smallest` members and each pair of centres is at least `gap`
    within-cluster standard deviations apart, both measured along the line between them. One Gaussian cut in two has a
    gap of 2.65; two Gaussians at distance s have a gap of s/sd.
    """
    best = single_cluster(points, mask, most)
    left = np.arange(len(points))
    for k in range(most, 1, -1):
        if not len(left):
            break
        found, labels = propose(points[left], mask[left], k)
        good = large_enough(labels, mask[left], k, smallest)
        good &= separated(points[left], mask[left], labels, found.centres, gap)
        best.put(left[good], found.take(good))
        left = left[~good]
    return best


def single_cluster(points: FloatArray, mask: BoolArray, most: int) -> Clusters:
    """All points of a step in one cluster, with room for `most`."""
    H, _, q = points.shape
    centres = np.zeros((H, most, q))
    centres[:, 0] = _means(points, mask[..., None].astype(np.float64))[:, 0]
    return Clusters(centres, np.ones(H, dtype=np.int64), np.zeros((H, most)))


def propose(points: FloatArray, mask: BoolArray, k: int) -> tuple[Clusters, IntArray]:
    """k clusters: farthest-first start (deterministic; finds rare but distant clusters), then classification EM."""
    H, _, q = points.shape
    rows = np.arange(H)
    centres = np.empty((H, k, q))
    nearest = np.square(points - _means(points, mask[..., None].astype(np.float64))).sum(axis=2)
    for j in range(k):
        centres[:, j] = points[rows, np.where(mask, nearest, -1.0).argmax(axis=1)]
        distance = np.square(points - centres[:, j : j + 1]).sum(axis=2)
        nearest = distance if j == 0 else np.minimum(nearest, distance)
    return settle(points, mask, Clusters(centres, np.full(H, k), np.zeros((H, k))))


def settle(points: FloatArray, mask: BoolArray, start: Clusters) -> tuple[Clusters, IntArray]:
    """Classification EM from given centres; the number of clusters stays. Returns clusters and labels (H, N)."""
    centres, offset, count = start.centres, start.offset, start.count
    K, q = centres.shape[1:]
    labels = _nearest(points, centres, count, offset)
    for _ in range(ITERATIONS):
        member = ((labels[..., None] == np.arange(K)) & mask[..., None]).astype(np.float64)  # (H, N, K)
        size = member.sum(axis=1)  # (H, K)
        # An empty cluster keeps its centre.
        centres = np.where(size[..., None] > 0, _means(points, member), centres)
        residual = points - np.take_along_axis(centres, labels[..., None], axis=1)
        total = np.maximum(size.sum(axis=1), 1.0)  # (H,)
        variance = (np.square(residual).sum(axis=2) * mask).sum(axis=1) / (total * q)
        offset = -2.0 * variance[:, None] * np.log(np.maximum(size, 1.0) / total[:, None])
        following = _nearest(points, centres, count, offset)
        if np.array_equal(following, labels):
            break
        labels = following
    return Clusters(centres, count, offset), labels


def discriminant(x: FloatArray, mask: BoolArray, labels: IntArray, K: int, *, ridge: float) -> tuple[FloatArray, Any]:
    """Directions W (H, D, K-1) that tell labelled clusters apart best: Fisher's linear discriminant, in the full space.

    With S_w = L L' the pooled covariance within clusters (plus `ridge` times its mean variance), W = L^-T B and B an
    orthonormal basis of the whitened differences of means L^-1 (mu_k - mu): within a cluster, W'x has covariance I.
    x (H, N, D), mask (H, N), labels (H, N) in 0..K-1. Also returns the effective dimension (H,) of S_w,
    (tr S_w)^2 / tr S_w^2, from which the in-sample overestimate of the separation follows.
    """
    D = x.shape[2]
    member = ((labels[..., None] == np.arange(K)) & mask[..., None]).astype(np.float64)
    size = member.sum(axis=1)  # (H, K)
    total = np.maximum(size.sum(axis=1), 1.0)
    means = _means(x, member)  # (H, K, D)
    residual = (x - np.take_along_axis(means, labels[..., None], axis=1)) * mask[..., None]
    within = np.swapaxes(residual, 1, 2) @ residual / total[:, None, None]
    trace = np.trace(within, axis1=1, axis2=2)
    effective = trace**2 / np.maximum(np.square(within).sum(axis=(1, 2)), 1e-300)
    within += np.maximum(ridge * trace / D, 1e-12)[:, None, None] * np.eye(D)
    centre = (size[..., None] * means).sum(axis=1) / total[:, None]
    apart = np.where(size[..., None] > 0, means - centre[:, None], 0.0)  # (H, K, D)
    root = np.linalg.cholesky(within)
    white = np.linalg.solve(root, np.swapaxes(apart, 1, 2))  # (H, D, K)
    U, values, _ = np.linalg.svd(white, full_matrices=False)
    kept = values[:, : K - 1] > 1e-9 * np.maximum(values[:, :1], 1e-300)  # missing clusters leave no direction
    basis = U[:, :, : K - 1] * kept[:, None]
    return np.asarray(np.linalg.solve(np.swapaxes(root, 1, 2), basis)), effective


def _means(points: FloatArray, member: FloatArray) -> FloatArray:
    """Mean of the members: points (H, N, q), member (H, N, k) of 0/1 -> (H, k, q); 0 for an empty cluster."""
    size = np.maximum(member.sum(axis=1), 1.0)[..., None]
    return np.asarray(np.swapaxes(member, 1, 2) @ points / size)


def _nearest(points: FloatArray, centres: FloatArray, count: IntArray, offset: FloatArray) -> IntArray:
    """argmin_j ||u - c_j||^2 + offset_j over the first count[h] centres, by |c|^2 - 2 u'c."""
    constant = np.square(centres).sum(axis=2) + offset
    score = constant[:, None] - 2.0 * points @ np.swapaxes(centres, 1, 2)  # (H, N, K)
    score += np.where(np.arange(centres.shape[1]) < count[:, None], 0.0, FAR)[:, None]
    return np.asarray(score.argmin(axis=2), dtype=np.int64)


def large_enough(labels: IntArray, mask: BoolArray, k: int, smallest: int) -> BoolArray:
    """(H,): each of the clusters 0..k-1 has `smallest` members."""
    member = (labels[..., None] == np.arange(k)) & mask[..., None]
    return np.asarray((member.sum(axis=1) >= smallest).all(axis=1))


def separated(
    points: FloatArray,
    mask: BoolArray,
    labels: IntArray,
    centres: FloatArray,
    gap: float,
    fitted: FloatArray | float = 0.0,
) -> BoolArray:
    """(H,): each pair of centres lies `gap` pooled standard deviations apart.

    fitted (H,): number of dimensions in which the direction was fitted to these labels. The squared distance is then
    too large by fitted (1/n_i + 1/n_j) n/(n - fitted) on average (Hotelling's T^2), which is subtracted first.
    """
    k = centres.shape[1]
    member = (labels[..., None] == np.arange(k)) & mask[..., None]
    size = member.sum(axis=1)  # (H, k)
    good = np.ones(len(points), dtype=np.bool_)
    residual = points - np.take_along_axis(centres, labels[..., None], axis=1)
    for i in range(k):
        for j in range(i):
            line = centres[:, i] - centres[:, j]  # (H, q)
            distance = np.linalg.norm(line, axis=1)
            along = np.einsum("hnq,hq->hn", residual, line / np.maximum(distance, 1e-300)[:, None])
            both = member[..., i] | member[..., j]
            variance = (both * along**2).sum(axis=1) / np.maximum(size[:, i] + size[:, j] - 2, 1)
            n, pair = size.sum(axis=1), 1.0 / np.maximum(size[:, i], 1) + 1.0 / np.maximum(size[:, j], 1)
            room = np.maximum(n - fitted, 0.0) / np.maximum(n, 1)  # 0 where there are fewer rows than dimensions
            bias = np.where(room > 0, fitted * pair / np.maximum(room, 1e-300), np.inf) if np.any(fitted) else 0.0
            good &= distance**2 > (gap**2 + bias) * variance
    return np.asarray(good)
