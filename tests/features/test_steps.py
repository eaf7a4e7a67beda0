"""The store: rings by step, masks, growth, and a state that comes back with the same future."""

from __future__ import annotations

import numpy as np
import pytest

from rl_contrastive.errors import RlcError
from rl_contrastive.features.steps import FIRST_CAPACITY, StepStore
from rl_contrastive.spec import EnvSpec, Transition

SPEC = EnvSpec("toy", num_actions=3, horizon=2, obs_shape=(2,), obs_dtype="float32")


def step(h, first, count, *, alive=None, reward=None):
    """Rows numbered first, first + 1, ...: the number is in every field."""
    n = np.arange(first, first + count)
    return Transition(
        h=h,
        obs=np.stack([n, -n], axis=1).astype(np.float32),
        action=n % 3,
        reward=n.astype(float) if reward is None else np.asarray(reward, dtype=float),
        next_obs=np.stack([n + 0.5, n], axis=1).astype(np.float32),
        discount=(n % 2).astype(float),
        boundary=np.zeros(count, bool),
        alive=np.ones(count, bool) if alive is None else np.asarray(alive),
    )


def rows(store, h):
    data = store.data()
    return data.reward[h, : data.count[h]].tolist()


def test_rows_arrive_in_order_with_all_their_fields():
    store = StepStore(SPEC)
    store.add(step(0, 1, 3))
    store.add(step(1, 4, 2))
    data = store.data()
    assert data.count.tolist() == [3, 2]
    assert data.reward.shape == (2, 3)
    np.testing.assert_array_equal(data.reward, [[1, 2, 3], [4, 5, 0]])  # padding is zero
    np.testing.assert_array_equal(data.obs[0], [[1, -1], [2, -2], [3, -3]])
    np.testing.assert_array_equal(data.next_obs[1, :2], [[4.5, 4], [5.5, 5]])
    np.testing.assert_array_equal(data.action[0], [1, 2, 0])
    np.testing.assert_array_equal(data.discount[0], [1, 0, 1])


def test_dead_and_masked_rows_are_left_out_and_their_rewards_not_read():
    store = StepStore(SPEC)
    alive = [True, False, True, True]
    store.add(step(0, 0, 4, alive=alive, reward=[0, np.nan, 2, 3]), rows=np.array([True, True, False, True]))
    assert rows(store, 0) == [0, 3]
    store.add(step(0, 0, 4, alive=[False] * 4))
    assert store.total.tolist() == [2, 0]
    with pytest.raises(RlcError, match="reward of step h=0 is NaN"):
        store.add(step(0, 0, 2, reward=[0, np.inf]))


@pytest.mark.parametrize("batch", [1, 3, 7, 25])
def test_a_ring_keeps_the_newest(batch):
    store = StepStore(SPEC, capacity=10)
    for first in range(0, 50, batch):
        store.add(step(1, first, batch))
    total = len(range(0, 50, batch)) * batch
    assert store.total[1] == total
    assert sorted(rows(store, 1)) == list(range(total - 10, total))
    assert rows(store, 0) == []


def test_growing_keeps_the_order():
    store = StepStore(SPEC)
    n = 3 * FIRST_CAPACITY + 5
    for first in range(0, n, 100):
        store.add(step(0, first, min(100, n - first)))
    assert rows(store, 0) == list(range(n))


@pytest.mark.parametrize("capacity", [None, 10, 300])
def test_a_restored_store_has_the_same_future(capacity):
    a, b = StepStore(SPEC, capacity), StepStore(SPEC, capacity)
    for first in range(0, 330, 30):
        a.add(step(first % 2, first, 30))
    b.load_state_dict(a.state_dict())
    for store in (a, b):
        for first in range(1000, 1300, 60):
            store.add(step(0, first, 60))
    for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_state_of_another_shape_is_refused():
    store = StepStore(SPEC)
    store.add(step(0, 0, 3))
    state = store.state_dict()
    other = StepStore(EnvSpec("toy", 3, 2, (5,), "float32"))
    with pytest.raises(RlcError, match="saved obs has shape"):
        other.load_state_dict(state)
    del state["total"]
    with pytest.raises(RlcError, match="lacks 'total'"):
        store.load_state_dict(state)
