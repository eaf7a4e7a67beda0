"""Clusters: the gap test by hand, how many are found, masks, and steps that do not disturb each other.

Rates over 100 seeds at n = 200, measured before the bounds were set (gap 3, most 3):
one Gaussian stays one cluster in 64 (q = 1), 96 (q = 2), 84 (q = 4); at gap 2.5 in 0.
Three vertices 8 sd apart are three in 100; two Gaussians 8 sd apart are two in 89 and three in 11.
"""

from __future__ import annotations

import numpy as np
import pytest

from rl_contrastive.features.latents import Clusters, cluster

SEEDS = range(100)


def found(points, most: int = 3, *, gap: float = 3.0, smallest: int = 3) -> np.ndarray:
    """Number of clusters of each of the sets (H, N, q)."""
    points = np.asarray(points, dtype=float)
    return cluster(points, np.ones(points.shape[:2], dtype=bool), most, gap=gap, smallest=smallest).count


def gaussians(centres, n: int = 200, seeds=SEEDS) -> np.ndarray:
    """(len(seeds), n, q): unit Gaussians about centres drawn uniformly."""
    sets = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        at = np.asarray(centres, dtype=float)[rng.integers(len(centres), size=n)]
        sets.append(at + rng.normal(size=at.shape))
    return np.stack(sets)


# The gap test.


def test_the_gap_is_measured_in_pooled_standard_deviations():
    """9, 10, 11 and 19, 20, 21: distance 10, squares 4, degrees of freedom 6 - 2, so sd 1 and a gap of 10."""
    points = np.array([9.0, 10, 11, 19, 20, 21])[None, :, None]
    assert found(points, 2, gap=9.99)[0] == 2
    assert found(points, 2, gap=10.01)[0] == 1


def test_spread_across_the_line_between_centres_does_not_count():
    """Ten apart with sd .58 along x; the spread of 3 sd along y would leave a gap of 3 if it were pooled in."""
    x = np.array([-0.5, 0.0, 0.5, -0.5, 0.0, 0.5])
    y = np.array([3.0, -3, 3, -3, 3, -3])
    points = np.concatenate([np.column_stack([x, y]), np.column_stack([x + 10, y])])[None]
    assert found(points, 2, gap=10.0)[0] == 2


def test_centres_and_labels_of_two_groups_by_hand():
    points = np.array([[[0.0], [1], [2], [10], [11], [12]]])
    clusters = cluster(points, np.ones((1, 6), dtype=bool), 3, gap=3.0, smallest=3)
    assert clusters.count[0] == 2
    np.testing.assert_allclose(np.sort(clusters.centres[0, :2, 0]), [1, 11])
    labels = clusters.labels(points)[0]
    assert len(set(labels[:3])) == len(set(labels[3:])) == 1
    assert labels[0] != labels[3]


def test_coinciding_points_are_one_cluster():
    assert found(np.zeros((1, 20, 2)))[0] == 1


def test_exact_copies_of_three_points_are_three_clusters():
    """Zero variance within: any distance is infinitely many standard deviations."""
    assert found(np.repeat(np.eye(3), 5, axis=0)[None])[0] == 3


# How many.


def test_one_gaussian_mostly_stays_one_cluster():
    rates = {q: int((found(gaussians(np.zeros((1, q)))) == 1).sum()) for q in (1, 2, 4)}
    assert rates[1] >= 55
    assert rates[2] >= 90
    assert rates[4] >= 75


def test_a_gap_below_a_halved_gaussians_own_finds_states_in_noise():
    """Negative control: at 2.5 < 2.65 the test lets pieces of one Gaussian pass."""
    assert (found(gaussians(np.zeros((1, 2))), gap=2.5) > 1).all()


def test_three_equidistant_vertices_are_three_though_two_would_pass_as_well():
    """k goes down from the top: going up and stopping at the first that passes would merge two states."""
    points = gaussians(8.0 / np.sqrt(2) * np.eye(3))
    assert (found(points) == 3).sum() >= 98
    assert (found(points, most=2) == 2).sum() >= 98


def test_two_clusters_are_not_merged():
    count = found(gaussians([[0.0, 0], [8, 0]]))
    assert (count >= 2).all()
    assert (count == 2).sum() >= 80  # sometimes a handful of one's outliers makes a third


@pytest.mark.parametrize(("rare", "least", "most"), [(2, 0, 5), (3, 95, 100), (5, 95, 100)])
def test_a_rare_distant_cluster_counts_from_three_rows_on(rare, least, most):
    points = gaussians([[0.0, 0]])
    points[:, :rare] += [12.0, 0]
    assert least <= (found(points) >= 2).sum() <= most


def test_smallest_is_the_least_number_of_members():
    points = np.concatenate([np.random.default_rng(1).normal(size=(200, 2)), np.full((4, 2), 30.0)])[None]
    assert found(points, 2, smallest=4)[0] == 2
    assert found(points, 2, smallest=5)[0] == 1


# Masks, steps, labels.


def test_masked_rows_have_no_influence():
    points = gaussians([[0.0, 0], [9, 0]], seeds=range(4))
    mask = np.random.default_rng(2).random(points.shape[:2]) < 0.6
    spoiled = np.where(mask[..., None], points, 1e6)
    clean, other = (cluster(x, mask, 3, gap=3.0, smallest=3) for x in (points, spoiled))
    np.testing.assert_array_equal(clean.count, other.count)
    np.testing.assert_allclose(clean.centres, other.centres)
    # Only the masked-in rows make the centre of a single cluster.
    single = cluster(points[:1], mask[:1], 1, gap=3.0, smallest=3)
    np.testing.assert_allclose(single.centres[0, 0], points[0, mask[0]].mean(axis=0))
    assert cluster(points, ~mask & False, 3, gap=3.0, smallest=3).count.tolist() == [1, 1, 1, 1]


def test_a_batch_of_steps_equals_each_step_alone():
    sets = [gaussians(c, seeds=[5]) for c in ([[0.0, 0]], [[0.0, 0], [9, 0]], [[0.0, 0], [9, 0], [4, 8]], [[3.0, 3]])]
    points = np.concatenate(sets)
    mask = np.arange(200) < np.array([200, 150, 120, 5])[:, None]
    together = cluster(points, mask, 3, gap=3.0, smallest=3)
    assert together.count.tolist()[1:] == [2, 3, 1]
    for h in range(4):
        alone = cluster(points[h : h + 1], mask[h : h + 1], 3, gap=3.0, smallest=3)
        assert alone.count[0] == together.count[h]
        np.testing.assert_allclose(alone.centres[0], together.centres[h], atol=1e-12)
        np.testing.assert_array_equal(together.label(h, points[h]), alone.labels(points[h : h + 1])[0])
    levels = np.array([2, 0])
    np.testing.assert_array_equal(together.labels_of(points[levels], levels), together.labels(points)[levels])


def test_labels_are_nearest_existing_centres():
    clusters = Clusters(np.array([[[5.0], [7.0], [0.0]]]), np.array([2]))  # the third, at 0, does not exist
    points = np.array([[[-100.0], [0.0], [5.9], [6.1], [1e6]]])
    np.testing.assert_array_equal(clusters.labels(points), [[0, 0, 0, 1, 1]])
