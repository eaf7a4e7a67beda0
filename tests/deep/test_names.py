"""Which observations of an episode are the same: leaders and radius by hand, renewed features, play under noise."""

from __future__ import annotations

import numpy as np
import pytest
from agents_common import batches
from deep_common import Walk, sea

from rl_contrastive.config import from_dict
from rl_contrastive.deep.bonus import TileVisits
from rl_contrastive.deep.bonus_config import BonusConfig
from rl_contrastive.deep.cells import Tiles
from rl_contrastive.deep.episodic import EpisodeLog, EpisodicBonus, LeastTried
from rl_contrastive.deep.gates import FirstLook
from rl_contrastive.deep.names import ByteNames, Closeness, FeatureNames, Leaders
from rl_contrastive.errors import RlcError


def close(radius: float) -> Closeness:
    found = Closeness(3.0)
    found.radius = radius
    return found


def test_the_radius_is_that_of_the_noise_by_hand() -> None:
    """Places 0, 10, 20 seen twice, .1, .2 and .4 apart: nearest distances .1 .1 .2 .2 .4 .4, median .2."""
    closeness = Closeness(3.0)
    closeness.adapt(np.array([[0.0], [0.1], [10.0], [10.2], [20.0], [20.4]]))
    assert closeness.radius == pytest.approx(0.6)
    closeness.adapt(np.array([[5.0]]))  # no neighbour: it stays
    assert closeness.radius == pytest.approx(0.6)
    closeness.adapt(np.repeat([[0.0], [10.0]], 8, axis=0))  # no noise: a thousandth of the spread, 5
    assert closeness.radius == pytest.approx(0.005)


def test_leaders_are_the_first_of_their_kind_by_hand() -> None:
    leaders = Leaders(close(1.0))
    leaders.begin(2)
    seen = [leaders.assign(0, np.array([x])) for x in (0.0, 0.9, 1.8, 1.0, 2.9, -1.1)]
    # 1.8 is far from 0, though near to .9, which is no leader; 1.0 is nearer to 1.8.
    assert seen == [(0, True), (0, False), (1, True), (1, False), (2, True), (3, True)]
    assert leaders.assign(1, np.array([0.0])) == (0, True)  # rows are apart
    leaders.begin(2)
    assert leaders.assign(0, np.array([0.9])) == (0, True)  # and episodes


def test_the_gate_pays_for_the_first_look_alone() -> None:
    gate = FirstLook(close(0.5))
    gate.begin(2)
    gate.add(np.array([0, 1]), np.array([[0.0], [5.0]]))
    rows = np.array([0, 1])
    assert gate.meet(rows, np.array([[0.3], [0.0]])).tolist() == [0, 1]
    assert gate.meet(rows, np.array([[0.9], [5.4]])).tolist() == [1, 0]


def noisy(noise: float, names: str) -> tuple[Walk, EpisodicBonus]:
    """Two looks each at two places: states 0, 1 and 2, 3, with features that differ by `noise`."""
    of = np.array([[0.0], [noise], [9.0], [9.0 + noise]])

    def make(replay, features_of):
        tiles = Tiles(1, tilings=1, directions=1, width=100.0, rng=np.random.default_rng(0))
        inner = TileVisits(40, 1, tiles, lam=1.0, beta=1.0)
        found = FeatureNames(close(1.0), replay.ring, features_of) if names == "features" else ByteNames()
        return EpisodicBonus(inner, 40, 1, EpisodeLog(found))

    walk = Walk(make, of)
    return walk, walk.bonus


@pytest.mark.parametrize(("names", "weights"), [("features", [0, 0, 0]), ("bytes", [1, 1, 1])])
def test_memory_knows_a_place_by_its_features_where_bytes_do_not_come_again(names, weights) -> None:
    walk, bonus = noisy(0.1, names)
    entries = walk.episode([0, 2, 1, 3])
    # What is reached at 2 is new; then the places of 0 and 2 come again under other bytes.
    after = walk.replay.ring.next[entries]
    np.testing.assert_array_equal(1 - bonus.lost[after, 0], [1, *weights[1:]])


def test_new_features_move_the_leaders_of_a_going_episode() -> None:
    walk, bonus = noisy(0.1, "features")
    walk.episode([0, 2, 1])
    names = bonus._log.names
    walk.of[:] = [[50.0], [50.1], [70.0], [70.1]]
    names.renew()
    ring = walk.replay.ring
    entry = np.array([ring.held()[-1]])
    assert names.of(np.array([0]), np.array([3]), np.array([[70.1]]), entry) == [1]
    assert names.of(np.array([0]), np.array([3]), np.array([[9.1]]), entry) == [2]  # the old place is a new one


def test_greedy_play_ends_circles_that_only_features_show() -> None:
    q = np.array([[3.0, 2.0, 1.0]])
    psi = [np.array([[x]]) for x in (0.0, 0.2, 5.0, 0.1)]
    bytes_alone, features = LeastTried(), LeastTried(close(0.5))
    chosen = {
        name: [int(play(np.array([h]), h, q, x).argmax()) for h, x in enumerate(psi)]
        for name, play in (("bytes", bytes_alone), ("features", features))
    }
    assert chosen == {"bytes": [0, 0, 0, 0], "features": [0, 1, 0, 2]}
    with pytest.raises(RlcError, match="psi has a row for each"):
        features(np.array([0]), 0, q)


@pytest.mark.parametrize("kind", ["ours-arrival", "rnd"])
def test_the_agent_compares_features_and_takes_its_radius_from_its_visits(kind) -> None:
    agent = sea({"kind": kind, "gate": "tried", "same": "features"}, episodic=True)
    assert agent.bonus.uses_features
    batches(agent, 0, 12)
    assert agent.update()["radius"] == agent.closeness.radius > 0
    plain = sea({"kind": kind, "gate": "tried"}, episodic=True)
    batches(plain, 0, 12)
    assert plain.closeness is None
    assert "radius" not in plain.update()


def test_what_cannot_be_compared_is_a_sentence() -> None:
    with pytest.raises(RlcError, match="features of states"):
        from_dict(BonusConfig, {"kind": "tiles", "same": "features", "features": "phi"})
    with pytest.raises(RlcError, match="reach"):
        from_dict(BonusConfig, {"reach": 0})
    with pytest.raises(RlcError, match="radius of -1"):
        Closeness(3.0).load_state_dict({"radius": -1})
    with pytest.raises(RlcError, match="lacks 'radius'"):
        Closeness(3.0).load_state_dict({})
