"""How close generated images are to real ones: two-sample accuracy, Frechet distance, and distances that show copies.

No single number judges a generator: the nearest-neighbour two-sample test sees single odd images, the Frechet distance
only means and covariances, and both are perfect for a generator that hands out its training images again. The
distances to training images, beside those of unseen real images, see that one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rl_contrastive.config import require


def two_sample_halves(a: Tensor, b: Tensor) -> tuple[float, float]:
    """How often the nearest neighbour, among all others, of a point of a (n, D) is of a; and the same of b (n, D).

    Both are about 1/2 where a and b are of one law. A wide a fools their mean: its points lie nearer to b's than to
    each other, so the first share falls as the second rises. Ties, which grey values can have, count by shares.
    """
    require(len(a) == len(b) >= 2 and a.shape == b.shape, f"two samples: got {tuple(a.shape)} and {tuple(b.shape)}.")
    both = torch.cat([a, b]).to(torch.float64)
    own = torch.arange(2 * len(a), device=a.device) < len(a)
    distance = torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist")
    distance.fill_diagonal_(float("inf"))
    nearest = distance == distance.amin(1, keepdim=True)  # (2n, 2n)
    same = (nearest & (own[:, None] == own[None])).sum(1) / nearest.sum(1)
    return float(same[: len(a)].mean()), float(same[len(a) :].mean())


def two_sample_accuracy(a: Tensor, b: Tensor) -> float:
    """Mean of `two_sample_halves`: accuracy of the 1-NN classifier of the two samples (Lopez-Paz & Oquab 2017).

    1/2 where both are of one law, 1 where they lie apart; below 1/2 where points of one are copies of the other's.
    """
    return sum(two_sample_halves(a, b)) / 2.0


def principal_axes(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and the `count` directions (D, count) of largest variance of x (N, D), float64."""
    require(1 <= count <= x.shape[1], f"principal axes: count must lie in 1..{x.shape[1]}, got {count}.")
    rows = x.to(torch.float64)
    mean = rows.mean(0)
    _, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean))  # ascending
    return mean, vectors[:, -count:]


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^{1/2} C_b C_a^{1/2})^{1/2}) of points (n, k): W2^2 of fitted Gaussians.

    Above 0 for two finite samples of one law too: compare with the row of real images.
    """
    (m_a, C_a), (m_b, C_b) = (_moments(points) for points in (a, b))
    root = _root(C_a)
    cross = torch.linalg.eigvalsh(root @ C_b @ root).clamp_min(0.0).sqrt().sum()
    return float((m_a - m_b).square().sum() + C_a.trace() + C_b.trace() - 2.0 * cross)


def nearest_distances(x: Tensor, points: Tensor) -> Tensor:
    """(m,) float64: distance of each row of x (m, D) to the nearest of `points` (N, D)."""
    rows, others = x.to(torch.float64), points.to(torch.float64)
    exact = "donot_use_mm_for_euclid_dist"  # |x|^2 + |y|^2 - 2 x'y would not give a copy the distance 0
    return torch.cat([torch.cdist(part, others, compute_mode=exact).amin(1) for part in torch.split(rows, 500)])


def copies(generated: Tensor, train: Tensor, unseen: Tensor) -> tuple[float, float]:
    """How much nearer to the training images the generated ones lie than unseen real images do.

    (mean distance of generated / mean distance of unseen, share of generated nearer than 95% of the unseen): about
    (1, .05) for new images, (0, 1) for copies.
    """
    made, real = nearest_distances(generated, train), nearest_distances(unseen, train)
    return float(made.mean() / real.mean()), float((made < real.quantile(0.05)).to(torch.float64).mean())


def _moments(points: Tensor) -> tuple[Tensor, Tensor]:
    rows = points.to(torch.float64)
    require(rows.ndim == 2 and len(rows) >= 2, f"frechet: points must be (n >= 2, k), got {tuple(rows.shape)}.")
    mean = rows.mean(0)
    return mean, (rows - mean).T @ (rows - mean) / (len(rows) - 1)


def _root(C: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(C)
    root: Tensor = (vectors * values.clamp_min(0.0).sqrt()) @ vectors.T  # rounding may put a 0 below 0
    return root
