"""The parts of a bonus by hand: gates, lifelong novelty, difference, fitted width, unit, and their sums."""

from __future__ import annotations

import numpy as np
import pytest
from deep_common import Walk

from rl_contrastive.config import from_dict
from rl_contrastive.deep.agent_config import ContrastiveUCBDeepConfig
from rl_contrastive.deep.arrival import ArrivalBonus, Both, UnitScale
from rl_contrastive.deep.bonus import EllipticalVisits, TileVisits
from rl_contrastive.deep.bonus_config import KINDS, BonusConfig, with_features
from rl_contrastive.deep.build_bonus import make_bonus, make_counts
from rl_contrastive.deep.cells import Tiles
from rl_contrastive.deep.config import DeepLearnerConfig
from rl_contrastive.deep.gates import CellVisits, Ellipse, FirstVisit, Nearest
from rl_contrastive.deep.lifelong import CountedBytes, CountedFeatures, Flat
from rl_contrastive.errors import RlcError

ROW = np.array([0])


def arrival(lifelong, gate, *, beta: float = 1.0, alpha: float = 0.0):
    return lambda replay, of: ArrivalBonus(lifelong, gate, replay, 2, of, beta=beta, alpha=alpha)


def tiles(dim: int = 1, **options) -> Tiles:
    return Tiles(dim, **{"tilings": 2, "directions": 3, "width": 1e-3, "rng": np.random.default_rng(0), **options})


LINE = np.arange(6.0)[:, None]
"""Features of the states 0..5, each in cells of its own."""


def test_counts_of_arrivals_and_the_first_visit_gate_by_hand() -> None:
    walk = Walk(arrival(CountedBytes(40, lam=0.5), FirstVisit(), beta=2.0), LINE)
    here = walk.episode([0, 1, 0, 2, 1])
    # N: 0 twice, 1 twice, 2 once. Back to 0 and 1 is not new in the episode.
    expected = 2.0 * np.array([2.5**-0.5, 0.0, 1.5**-0.5, 0.0])
    np.testing.assert_allclose(walk.bonus.taken(here, np.zeros(4, dtype=int)), expected)
    # The next episode knows nothing of it; the old steps get the counts of today: 1 was seen three times.
    again = walk.episode([0, 1])
    np.testing.assert_allclose(walk.bonus.taken(again, np.zeros(1, dtype=int)), [2.0 * 3.5**-0.5])
    np.testing.assert_allclose(walk.bonus.taken(here[:1], np.zeros(1, dtype=int)), [2.0 * 3.5**-0.5])
    assert not walk.bonus.at(here).any()  # nothing is known before the step
    assert walk.bonus.visits == 5


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["tiles", "elliptical", "ours-arrival", "counts"])
def test_the_power_of_counts_by_hand(kind: str, power: float) -> None:
    """(lambda + N)^-p of every part that counts, as the options ask for it: N = 3, and 0 of the other states."""
    options = BonusConfig(kind=kind, lam=0.5, power=power, width=1e-3)
    rng, of = np.random.default_rng(0), np.eye(6)
    if kind in ("tiles", "elliptical"):
        pairs = make_bonus(options, 40, 1, 6, beta=2.0, rng=rng)
        pairs.count(pairs.key(of[[1, 1, 1]]))
        found = pairs.value(of[[1, 0]])
    else:
        life, obs = make_counts(options, 40, 40, 6, rng=rng), np.arange(6)
        life.count(obs[[1, 1, 1]], of[[1, 1, 1]])
        found = 2.0 * life.now(obs[[1, 0]], of[[1, 0]])
    np.testing.assert_allclose(found, 2.0 * np.array([3.5, 0.5]) ** -power, rtol=1e-6)


@pytest.mark.parametrize("kind", ["cells", "ellipse"])
def test_counted_features_of_arrivals_by_hand(kind: str) -> None:
    """(lam + N)^-1/2 where each state has cells or a direction of its own; final observations count, too."""
    counts = TileVisits(40, 1, tiles(), lam=0.1, beta=1.0) if kind == "cells" else None
    of = LINE if kind == "cells" else np.eye(6)
    life = CountedFeatures(counts or EllipticalVisits(40, 1, 6, lam=0.1, beta=1.0))
    walk = Walk(arrival(life, None), of)
    here = walk.episode([0, 1, 2, 1])
    zeros = np.zeros(3, dtype=int)
    expected = np.array([2.1, 1.1, 2.1]) ** -0.5
    np.testing.assert_allclose(walk.bonus.taken(here, zeros), expected, rtol=1e-6)
    walk.rebuild(of[:4])
    np.testing.assert_allclose(walk.bonus.taken(here, zeros), expected, rtol=1e-6)
    # 2 more visits of state 1 left the replay.
    life.counts.visits += 2
    gone = [(of[[1]][:, None], np.zeros(1, dtype=int), np.array([2.0]))]
    walk.rebuild(of[:4], gone)
    np.testing.assert_allclose(walk.bonus.taken(here, zeros), np.array([4.1, 1.1, 4.1]) ** -0.5, rtol=1e-6)
    with pytest.raises(RlcError, match="4 stored visits and 0 that left, but 6"):
        walk.rebuild(of[:4])


def test_the_difference_by_hand() -> None:
    walk = Walk(arrival(CountedBytes(40, lam=1.0), None, alpha=0.5), LINE)
    here = walk.episode([0, 1, 0, 0])  # N(0) = 3, N(1) = 1: l = 1/2 and 1/sqrt 2
    l0, l1 = 0.5, 2.0**-0.5
    np.testing.assert_allclose(walk.bonus.taken(here, np.zeros(3, dtype=int)), [l1 - l0 / 2, l0 - l1 / 2, l0 - l0 / 2])
    walk.bonus.alpha = 2.0
    assert walk.bonus.taken(here, np.zeros(3, dtype=int)).tolist() == [0.0, 0.0, 0.0]  # never below 0


def test_the_cell_gate_by_hand() -> None:
    gate = CellVisits(tiles())
    walk = Walk(arrival(Flat(), gate), LINE)
    here = walk.episode([0, 1, 1, 1, 0])
    found = walk.bonus.taken(here, np.zeros(4, dtype=int))
    np.testing.assert_allclose(found, [1.0, 1 / 4, 1 / 9, 1 / 4], rtol=1e-6)
    # Two tilings of which one tells 0 and 1 apart: the mean of 1 and 1/4.
    gate.begin(1)
    gate.tiles.cells_of = lambda x: np.stack([np.zeros(len(x)), 10 + x[:, 0]], axis=1).astype(int)
    gate.add(ROW, LINE[[0]])
    np.testing.assert_allclose(gate.meet(ROW, LINE[[1]]), [(1 / 4 + 1) / 2])


@pytest.mark.parametrize("bounded", [False, True])
def test_rank_one_updates_are_a_dense_inverse(bounded: bool) -> None:
    rng, d = np.random.default_rng(0), 5
    gate = Ellipse(d, lam=0.1, bounded=bounded)
    mixed = rng.normal(size=(d, d))
    gate.adapt(3.0 + rng.normal(size=(500, d)) @ mixed)
    for _ in range(2):  # the second episode starts anew
        gate.begin(2)
        past: list[list[np.ndarray]] = [[], []]
        for _ in range(60):
            seen = 3.0 + rng.normal(size=(2, d)) @ mixed
            x = (seen - gate.mean) @ gate.whitening
            q = [x[r] @ np.linalg.solve(0.1 * np.eye(d) + sum(np.outer(y, y) for y in past[r]), x[r]) for r in (0, 1)]
            expected = [value / (1 + value) if bounded else value for value in q]
            np.testing.assert_allclose(gate.meet(np.arange(2), seen), expected, rtol=1e-9)
            for r in (0, 1):
                past[r].append(x[r])


def test_whitened_features_have_a_unit_covariance_and_e3b_takes_them_as_they_are() -> None:
    rng = np.random.default_rng(1)
    sample = 7.0 + rng.normal(size=(4000, 3)) * np.array([1.0, 10.0, 0.2])
    gate, plain = Ellipse(3, lam=0.1, bounded=True), Ellipse(3, lam=0.1, bounded=False)
    for one in (gate, plain):
        one.adapt(sample)
        one.begin(1)
    np.testing.assert_allclose(np.cov(((sample - gate.mean) @ gate.whitening).T, bias=True), np.eye(3), atol=0.25)
    np.testing.assert_allclose(plain.meet(ROW, np.array([[1.0, 2.0, 2.0]])), [9 / 0.1])
    # A second visit of the same x: q / (1 + q) of q = 90.
    np.testing.assert_allclose(plain.meet(ROW, np.array([[1.0, 2.0, 2.0]])), [90 / 91])


def test_the_nearest_gate_by_hand() -> None:
    walk = Walk(arrival(Flat(), Nearest()), LINE)
    here = walk.episode([0, 2, 3, 0])
    # Least squared distances 4, 1, 0; running means 4, 5/2, 5/3.
    np.testing.assert_allclose(walk.bonus.taken(here, np.zeros(3, dtype=int)), [1.0, 0.4, 0.0], rtol=1e-6)


def test_a_rebuild_within_an_episode_computes_its_past_again() -> None:
    """Rows of a going episode see new features: the gate then is that of an episode with these from its start."""
    gate = Ellipse(2, lam=1.0, bounded=False)
    walk = Walk(arrival(Flat(), gate), np.eye(2)[[0, 1, 0, 1, 0, 1]])
    walk.episode([0, 1, 2])
    walk.of = np.ones((6, 2))
    walk.rebuild(walk.of)
    np.testing.assert_allclose(gate.inverse[0], np.linalg.inv(np.eye(2) + 3 * np.ones((2, 2))))


def test_both_is_the_sum_and_its_parts_count_each_place_once() -> None:
    def make(replay, of):
        pair = TileVisits(40, 2, tiles(), lam=1.0, beta=1.0, of_states=True)
        life = CountedFeatures(TileVisits(40, 1, tiles(), lam=1.0, beta=1.0))
        return Both(pair, ArrivalBonus(life, None, replay, 2, of, beta=1.0))

    walk = Walk(make, LINE)
    here = walk.episode([0, 1, 0, 1], action=1)
    expected = np.array([3.0**-0.5 + 3.0**-0.5, 2.0**-0.5 + 3.0**-0.5, 3.0**-0.5 + 3.0**-0.5])
    for _ in range(2):
        np.testing.assert_allclose(walk.bonus.taken(here, np.ones(3, dtype=int)), expected)
        np.testing.assert_allclose(walk.bonus.at(here[:1]), [[1.0, 3.0**-0.5]])  # action 0 was never tried in 0
        walk.rebuild(LINE)
    # What left: 5 visits of 0 by action 0, and one final observation 4 (action A = 2), which is no pair.
    walk.bonus.pair.visits, walk.bonus.arrival.lifelong.counts.visits = 3 + 5, 4 + 6
    gone = [(LINE[[0, 4]][:, None], np.array([0, 2]), np.array([5.0, 1.0]))]
    walk.rebuild(LINE, gone)
    np.testing.assert_allclose(walk.bonus.at(here[:1]), [[6.0**-0.5, 3.0**-0.5]])
    np.testing.assert_allclose(walk.bonus.taken(here[1:2], np.ones(1, dtype=int)), [2.0**-0.5 + 8.0**-0.5])
    keys = walk.bonus.key_taken(LINE[[0, 0, 0]][:, None], np.array([0, 1, 2]))
    assert len(np.unique(keys, axis=0)) == 3


def test_the_unit_is_the_deviation_over_visits_by_hand() -> None:
    walk = Walk(lambda replay, of: UnitScale(arrival(CountedBytes(40, lam=1.0), None)(replay, of), beta=0.3), LINE)
    here = walk.episode([0, 1, 1, 1])
    b = np.array([2.0**-0.5, 3.0**-0.5, 4.0**-0.5])  # when they were visited
    assert walk.bonus.spread.value == pytest.approx(b.std())
    np.testing.assert_allclose(walk.bonus.taken(here, np.zeros(3, dtype=int)), np.full(3, 0.3 * 0.5 / b.std()))
    assert walk.bonus.report()["bonus_spread"] == pytest.approx(b.std())


def test_the_width_is_fitted_to_a_share_of_the_distinct_features() -> None:
    rng = np.random.default_rng(0)
    distinct = rng.normal(size=(300, 4))
    phi = distinct[rng.integers(300, size=2000)]
    for rho in (0.1, 0.5, 0.9):
        fitted = tiles(4, rho=rho, width=1.0, tilings=4, directions=8)
        fitted.adapt(phi)
        cells = fitted.cells_of(np.unique(phi, axis=0))
        share = np.mean([len(np.unique(cells[:, j])) for j in range(4)]) / len(cells)
        assert share == pytest.approx(fitted.occupied, abs=1e-12)
        assert fitted.width == 2.0 if rho == 0.1 else rho <= share < rho + 0.05  # the widest has a third
        other = tiles(4, rho=rho, width=1.0, tilings=4, directions=8)
        other.load_state_dict(fitted.state_dict())
        np.testing.assert_array_equal(other.cells_of(phi), fitted.cells_of(phi))
    # Control: strips of a constant width see two clusters where there are 300 places.
    clusters = np.concatenate([0.2 * distinct[:150], 5.0 + 0.2 * distinct[150:]])
    fitted, constant = (tiles(4, rho=rho, width=1.0) for rho in (0.5, None))
    for one in (fitted, constant):
        one.adapt(clusters)
    assert len(np.unique(fitted.cells_of(clusters)[:, 0])) > 100
    assert len(np.unique(constant.cells_of(clusters)[:, 0])) < 20
    # All equal: the bound, not an endless search.
    one = tiles(4, rho=0.5)
    one.adapt(np.ones((50, 4)))
    assert 0.02 <= one.width <= 2.0


def test_exact_counts_survive_and_bad_states_are_refused() -> None:
    walk, other = (Walk(arrival(CountedBytes(40, lam=1.0), FirstVisit()), LINE) for _ in range(2))
    here = walk.episode([0, 3, 1])
    other.episode([0, 1, 2])
    other.bonus.load_state_dict(walk.bonus.state_dict())
    zeros = np.zeros(2, dtype=int)
    np.testing.assert_array_equal(other.bonus.taken(here, zeros), walk.bonus.taken(here, zeros))
    for change, words in (({"names": np.zeros((1, 16))}, "saved counts"), ({"weight": np.zeros(3)}, "saved weight")):
        with pytest.raises(RlcError, match=words):
            other.bonus.load_state_dict({**walk.bonus.state_dict(), **change})
    with pytest.raises(RlcError, match="lacks 'gate'"):
        other.bonus.load_state_dict({"visits": 1})


def test_kinds_and_their_parts() -> None:
    assert BonusConfig().parts == KINDS["tiles"]
    assert BonusConfig(kind="none").parts is None
    found = BonusConfig(kind="ours-arrival", width=0.5, gate="cells").parts
    assert found == ("arrival", "cells", "cells", 0.0, "psi", 0.5, "bytes")
    assert BonusConfig(kind="rnd", gate="tried", same="features").parts.features == "psi"  # to compare states by
    assert BonusConfig(pays="arrival").parts.features == "psi"  # an arrival needs features of states
    learner = DeepLearnerConfig()
    assert with_features(learner, BonusConfig()) == learner
    assert with_features(learner, BonusConfig(kind="e3b")).representation.loss == "inverse"
    assert with_features(learner, BonusConfig(kind="ours-pair")).representation.features == "psi"
    assert not with_features(learner, BonusConfig(kind="ours-arrival", features="drawn")).learn_features


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "ours-arrival", "features": "phi"}, "needs features of states"),
        ({"lifelong": "counts"}, "cannot count pairs"),
        ({"kind": "ours-both", "lifelong": "ellipse"}, "must be cells"),
        ({"gate": "first"}, "weighs arrivals"),
        ({"difference": 0.5}, "a difference needs pays arrival"),
        ({"kind": "ours-arrival", "gate": "temporal"}, "needs features temporal"),
        ({"rho": 0.0}, "rho must lie in"),
        ({"kind": "rnb"}, "must be one of"),
    ],
)
def test_parts_that_do_not_fit_are_a_sentence(options, words: str) -> None:
    with pytest.raises(RlcError, match=words):
        from_dict(ContrastiveUCBDeepConfig, {"bonus": options})
