"""Counts are visits: gradient steps change nothing, rebuilds agree with sums by hand, 10^5 updates stay positive."""

from __future__ import annotations

import numpy as np
import pytest

from rl_contrastive.deep.bonus import EllipticalVisits, TileVisits, VisitBonus
from rl_contrastive.deep.bonus_config import BonusConfig
from rl_contrastive.deep.build_bonus import make_bonus
from rl_contrastive.deep.cells import Tiles
from rl_contrastive.errors import RlcError


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = np.abs(rng.normal(size=shape))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def elliptical(capacity: int, dim: int, *, lam: float = 1.0, beta: float = 1.0) -> EllipticalVisits:
    """Of one action, so that features are (n, d)."""
    return EllipticalVisits(capacity, 1, dim, lam=lam, beta=beta)


def tiled(capacity: int, dim: int, *, lam: float = 1.0, beta: float = 1.0, **options) -> TileVisits:
    fields = {"tilings": 2, "directions": 3, "width": 0.5, "rng": np.random.default_rng(9), **options}
    return TileVisits(capacity, 1, Tiles(dim, **fields), lam=lam, beta=beta)


def visit(bonus: VisitBonus, index: np.ndarray, phi: np.ndarray) -> None:
    bonus.store(index, phi[:, None])
    bonus.visit(index, np.zeros(len(index), dtype=np.int64))


def chunks(phi: np.ndarray, size: int):
    for i in range(0, len(phi), size):
        part = phi[i : i + size]
        yield np.arange(i, i + len(part)), np.zeros(len(part), dtype=np.int64), part[:, None]


def test_elliptical_bonus_by_hand() -> None:
    bonus = elliptical(4, 2, beta=3.0)
    e = np.array([[1.0, 0.0]])
    assert bonus.value(e)[0] == pytest.approx(3.0)
    visit(bonus, np.array([0]), e)
    visit(bonus, np.array([1]), e)
    assert bonus.value(e)[0] == pytest.approx(3.0 / np.sqrt(3.0))  # two visits and lambda = 1
    assert bonus.value(np.array([[0.0, 1.0]]))[0] == pytest.approx(3.0)
    assert bonus.visits == 2
    np.testing.assert_allclose(bonus.taken(np.array([[0, 1], [1, 0]]), np.zeros((2, 2), dtype=int)), 3.0 / np.sqrt(3.0))
    np.testing.assert_allclose(bonus.at(np.array([1, 0])), np.full((2, 1), 3.0 / np.sqrt(3.0)))


def test_tile_bonus_by_hand() -> None:
    """Cells recounted in plain Python: the mean over tilings of 1 / (lambda + visits of the cell)."""
    rng = np.random.default_rng(0)
    bonus, phi = tiled(64, 2, lam=0.5, beta=2.0, width=1.0), rng.normal(size=(40, 2))
    visit(bonus, np.arange(40), phi)
    tiles = bonus.tiles
    probe = np.concatenate([phi[:5], rng.normal(size=(10, 2)), 50 + phi[:1]])
    for x, b in zip(probe, bonus.value(probe), strict=True):
        each = []
        for j in range(2):
            cell = [np.floor(x @ tiles.W[:, j, k] / 1.0 + tiles.shift[j, k]) for k in range(3)]
            same = [[np.floor(y @ tiles.W[:, j, k] / 1.0 + tiles.shift[j, k]) for k in range(3)] == cell for y in phi]
            each.append(1 / (0.5 + sum(same)))
        assert b == pytest.approx(2.0 * np.sqrt(np.mean(each)))
    assert bonus.value(50 + phi[:1])[0] == pytest.approx(2.0 / np.sqrt(0.5))  # beyond all seen ones: a cell of its own


def test_more_pairs_than_coordinates_are_told_apart_by_tiles_and_not_by_sigma() -> None:
    """80 of 160 random directions of R^16 are visited 25 times: the reason for tiles."""
    pairs = unit(np.random.default_rng(1), 160, 16)
    seen, ratios = np.repeat(pairs[:80], 25, axis=0), []
    for bonus in (elliptical(2000, 16, lam=0.1), tiled(2000, 16, lam=0.1, tilings=4, directions=8)):
        visit(bonus, np.arange(2000), seen)
        bonus.rebuild(seen, chunks(seen, 500))
        b = bonus.value(pairs)
        ratios.append(b[80:].mean() / b[:80].mean())
    assert ratios[0] < 2.0
    assert ratios[1] > 10.0


def test_tiles_are_the_norm_with_a_diagonal_sigma_for_one_tiling_only() -> None:
    """b over the norm of the cells' joint vector e / sqrt(T) under Sigma = lambda I + sum ee' / T."""
    rng, ratio = np.random.default_rng(0), {}
    phi, probe = rng.normal(size=(400, 2)), 1.5 * rng.normal(size=(100, 2))
    for T in (1, 4):
        bonus = tiled(400, 2, lam=0.1, tilings=T, width=1.0)
        visit(bonus, np.arange(400), phi)
        number = np.unique(bonus.tiles.cells_of(np.concatenate([phi, probe])), return_inverse=True)[1].reshape(-1, T)
        e = np.zeros((500, number.max() + 1))
        np.put_along_axis(e, number, 1.0 / np.sqrt(T), axis=1)
        sigma = 0.1 * np.eye(e.shape[1]) + e[:400].T @ e[:400]
        ratio[T] = bonus.value(probe) / np.sqrt(np.einsum("ij,ji->i", e[400:], np.linalg.solve(sigma, e[400:].T)))
    np.testing.assert_allclose(ratio[1], 1.0)
    assert ratio[4].max() <= 1.0 + 1e-9
    assert ratio[4].min() < 0.8


def test_large_replays_have_room_for_a_cell_for_each_entry() -> None:
    """A million entries, each of its own: hashed to the 2^18 numbers of a small replay, most share a cell."""
    alone = {}
    for capacity in (1000, 1_000_000):
        bonus = make_bonus(BonusConfig(tilings=1, width=1e-3), capacity, 1, 4, beta=1.0, rng=np.random.default_rng(0))
        assert isinstance(bonus, TileVisits)
        cells = bonus.tiles.cells_of(np.random.default_rng(1).normal(size=(400_000, 4)))
        alone[capacity] = np.count_nonzero(np.bincount(cells.ravel()) == 1) / len(cells)
    assert alone[1000] < 0.3 < 0.6 < alone[1_000_000]  # e^{-n / N} of n cells among N numbers: .22 and .68


def test_cells_move_with_scale_and_origin() -> None:
    """Features that are shifted and stretched as a whole share cells as before, once adapted to."""
    rng = np.random.default_rng(2)
    phi = rng.normal(size=(200, 3))
    groups = []
    for x in (phi, 7.0 + 0.01 * phi):
        tiles = Tiles(3, tilings=1, directions=3, width=0.7, rng=np.random.default_rng(5))
        tiles.adapt(x)
        groups.append(np.unique(tiles.cells_of(x), return_inverse=True)[1].ravel())
    pairs = [g[:, None] == g for g in groups]
    assert (pairs[0] == pairs[1]).mean() > 0.999  # rounding at a border
    assert 20 < groups[0].max() < 199
    with pytest.raises(RlcError, match="NaN or infinite"):
        tiles.cells_of(np.full((1, 3), np.nan))
    with pytest.raises(RlcError, match="NaN or infinite"):
        tiles.adapt(np.full((1, 3), np.inf))


def test_a_rebuild_from_the_same_features_changes_nothing_and_is_the_sum_of_the_visits() -> None:
    rng = np.random.default_rng(0)
    bonus, phi = elliptical(64, 8, lam=0.5), unit(rng, 50, 8).astype(np.float32)
    for i in range(0, 50, 5):
        visit(bonus, np.arange(i, i + 5), phi[i : i + 5])
    before = bonus.confidence.Sigma.copy()
    expected = 0.5 * np.eye(8) + phi.astype(np.float64).T @ phi.astype(np.float64)
    np.testing.assert_allclose(before[0], expected, rtol=1e-12)
    bonus.rebuild(phi, chunks(phi, 10))
    np.testing.assert_allclose(bonus.confidence.Sigma, before, rtol=1e-12)
    # Other features: the counts are kept, the directions are the new ones.
    other = unit(rng, 50, 8)
    bonus.rebuild(other, chunks(other, 50))
    kept = other.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(bonus.confidence.Sigma[0], 0.5 * np.eye(8) + kept.T @ kept, rtol=1e-12)


@pytest.mark.parametrize("make", [elliptical, tiled])
def test_visits_that_left_the_replay_count_where_they_were(make) -> None:
    """A 2000 times, then B 200 times in a ring of 200: b(A) is the same before and after any rebuild."""
    bonus, A, B = make(200, 2, lam=0.1), np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    for e, visits in ((A, 2000), (B, 200)):
        for _ in range(visits // 200):
            visit(bonus, np.arange(200), np.repeat(e, 200, axis=0))
    before, none = bonus.value(A)[0], np.zeros(1, dtype=np.int64)
    assert before == pytest.approx(1 / np.sqrt(2000.1))
    for _ in range(3):
        stored = np.repeat(B, 200, axis=0)
        bonus.rebuild(np.concatenate([A, B]), chunks(stored, 50), [(A[:, None], none, np.array([2000.0]))])
        assert bonus.value(A)[0] == pytest.approx(before, rel=1e-6)
        assert bonus.value(B)[0] == pytest.approx(1 / np.sqrt(200.1))
    with pytest.raises(RlcError, match="200 stored visits and 0 that left, but 2200 were counted"):
        bonus.rebuild(B, chunks(np.repeat(B, 200, axis=0), 50))
    with pytest.raises(RlcError, match="3 stored visits and 0 that left, but 0"):
        make(4, 2).rebuild(B, chunks(np.repeat(B, 3, axis=0), 3))


def test_entries_without_an_action_are_kept_but_not_counted() -> None:
    bonus, phi = tiled(4, 2), np.array([[1.0, 0.0], [0.0, 9.0]])
    visit(bonus, np.array([0]), phi[:1])
    bonus.rebuild(phi, iter([(np.array([0, 1]), np.array([0, -1]), phi[:, None])]))
    np.testing.assert_allclose(bonus.at(np.array([0, 1]))[:, 0], [1 / np.sqrt(2.0), 1.0])


@pytest.mark.slow
def test_a_hundred_thousand_updates_stay_finite_and_positive() -> None:
    """The official recipe has negative forms after 100 updates: see test_official_defects."""
    rng = np.random.default_rng(1)
    bonus = elliptical(1024, 51)
    probe = unit(rng, 64, 51)
    last = bonus.value(probe)
    for i in range(100_000):
        phi = np.exp(1.5 * rng.normal(size=(1, 51)))
        visit(bonus, np.array([i % 1024]), phi / phi.sum())
        if i % 10_000 == 0:
            now = bonus.value(probe)
            assert np.isfinite(now).all()
            assert (now > 0).all()
            assert (now <= last + 1e-9).all()
            last = now
    drift = bonus.confidence.Sigma[0] @ bonus.confidence.inverse[0] - np.eye(51)
    assert np.abs(drift).max() < 1e-6


@pytest.mark.parametrize("make", [elliptical, tiled])
def test_state_survives(make) -> None:
    rng = np.random.default_rng(2)
    bonus = make(8, 3, beta=2.0)
    visit(bonus, np.arange(4), unit(rng, 4, 3))
    bonus.rebuild(unit(rng, 9, 3), chunks(unit(rng, 4, 3), 3))
    other = make(8, 3, beta=2.0, **({"rng": np.random.default_rng(77)} if make is tiled else {}))
    probe = unit(rng, 50, 3)
    other.load_state_dict(bonus.state_dict())
    np.testing.assert_array_equal(other.value(probe), bonus.value(probe))
    assert other.visits == 4
    np.testing.assert_array_equal(other.keys, bonus.keys)
    with pytest.raises(RlcError, match="lacks 'visits'"):
        other.load_state_dict({})
