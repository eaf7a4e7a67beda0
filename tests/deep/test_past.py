"""Visits that left the replay: exact for what comes again, unbiased in a bounded room, the same bytes after a load."""

from __future__ import annotations

import numpy as np
import pytest

from rl_contrastive.deep.past import Past, sampled, threshold
from rl_contrastive.deep.replay.ring import Ring
from rl_contrastive.errors import RlcError


def past(room: int, *, seed: int = 0) -> Past:
    return Past(room, (1,), "float32", rng=np.random.default_rng(seed))


def by_floor(obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Keys of a bonus whose cells are the whole numbers."""
    return np.stack([np.floor(obs[:, 0]), action], axis=1)


def visit(memory: Past, *places: float, times: int = 1, action: int = 0) -> None:
    obs = np.repeat(np.array(places, dtype=np.float32), times)[:, None]
    memory.add(obs, np.full(len(obs), action), by_floor)


def weight_of(memory: Past, low: float, high: float) -> float:
    return sum(float(w[(x[:, 0] >= low) & (x[:, 0] < high)].sum()) for x, _, w in memory.chunks())


def test_the_same_observation_and_action_is_one_place() -> None:
    memory = past(8)
    visit(memory, 0.5, times=2000)
    visit(memory, 0.5, times=3, action=1)
    visit(memory, 0.25)
    (obs, action, weight), *others = memory.chunks()
    assert not others
    assert sorted(zip(obs[:, 0], action, weight, strict=True)) == [(0.25, 0, 1.0), (0.5, 0, 2000.0), (0.5, 1, 3.0)]
    assert memory.visits == 2004


def test_a_place_seen_often_stays_exact_and_alike_ones_become_one() -> None:
    """Room for 20 places: 2000 visits of one, then a thousand other places in 5 cells, none of which loses any."""
    memory, places = past(20), np.random.default_rng(1).uniform(0.0, 5.0, 1000)
    visit(memory, 7.5, times=2000)
    visit(memory, *places)
    assert len(memory) <= 20
    assert weight_of(memory, 7.0, 8.0) == 2000.0
    for cell in range(5):
        assert weight_of(memory, cell, cell + 1) == np.count_nonzero(np.floor(places) == cell)


def test_more_cells_than_room_are_sampled_without_bias() -> None:
    """400 places in 400 cells and room for 100: the weight of any part is right on average."""
    total, runs = np.zeros(4), 60
    for seed in range(runs):
        memory = past(100, seed=seed)
        visit(memory, *np.random.default_rng(9).permutation(400))
        assert memory.visits == pytest.approx(400.0)
        assert len(memory) <= 100
        total += [weight_of(memory, 100.0 * k, 100.0 * (k + 1)) for k in range(4)]
    np.testing.assert_allclose(total / runs, 100.0, atol=5.0)


def test_the_sample_by_hand() -> None:
    weight = np.array([1.0, 1.0, 10.0, 2.0, 2.0])
    t = threshold(weight, 3)  # the 10 stays, two of the others have 6 together
    assert t == 3.0
    found = sampled(weight, 3, rng=np.random.default_rng(0))
    assert found[2] == 10.0
    assert sorted(found) == [0.0, 0.0, 3.0, 3.0, 10.0]
    assert threshold(weight, 5) == 0.0
    mean = np.mean([sampled(weight, 3, rng=np.random.default_rng(k)) for k in range(4000)], axis=0)
    np.testing.assert_allclose(mean, weight, atol=0.08)


def test_a_loaded_one_goes_on_to_the_same_bytes() -> None:
    places = np.random.default_rng(2).uniform(0.0, 30.0, 300)
    straight, first, loaded = past(24), past(24), past(24, seed=5)
    visit(straight, *places)
    visit(first, *places[:170])
    loaded.load_state_dict(first.state_dict())
    visit(loaded, *places[170:])
    for name, value in straight.state_dict().items():
        np.testing.assert_equal(loaded.state_dict()[name], value)
    with pytest.raises(RlcError, match="past: the saved state lacks 'row'"):
        loaded.load_state_dict({})
    with pytest.raises(RlcError, match="do not fit the room for 8"):
        past(8).load_state_dict(first.state_dict())
    with pytest.raises(RlcError, match="room must be >= 2"):
        past(1)


def test_evenly_spread_visits_follow_the_weights() -> None:
    memory = past(4)
    visit(memory, 1.0, times=30)
    visit(memory, 2.0, times=10)
    obs, action = memory.some(8)
    assert obs[:, 0].tolist() == [1.0] * 6 + [2.0] * 2
    assert not action.any()


@pytest.mark.parametrize("stack", [1, 3])
def test_the_ring_says_beforehand_which_visits_leave(stack: int) -> None:
    """Two rows whose episodes end at different steps: what is announced is what is no longer whole afterwards."""
    ring, rng = Ring(40, (1,), "float32", n_step=2, stack=stack), np.random.default_rng(0)
    announced = visits = 0
    for _ in range(12):
        ring.begin(2)
        ends = rng.integers(2, 9, size=2)
        for step in range(max(ends)):
            alive = step < ends
            before = np.flatnonzero(ring.whole & (ring.action >= 0))
            serial = {s: ring.total - (ring.total - s) % ring.capacity for s in before.tolist()}
            leaving = ring.leaving(int(alive.sum()) * (1 if ring.started else 2))
            obs, one = rng.normal(size=(2, 1)).astype(np.float32), np.ones(2)
            ring.add(obs, np.ones(2, int), one, obs, one, step + 1 == ends, alive)
            announced, visits = announced + len(leaving), visits + int(alive.sum())
            assert set(leaving.tolist()) <= set(serial)
            assert announced + np.count_nonzero(ring.whole & (ring.action >= 0)) == visits
    assert announced > 40
