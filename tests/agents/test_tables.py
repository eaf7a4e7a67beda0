"""Tables against counting by hand: states with masks and terminals, decoded latents across refits, saved states."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from agents_common import same

from rl_contrastive.errors import RlcError
from rl_contrastive.features.decoder import DecoderConfig
from rl_contrastive.features.tables import LatentTable, StateTable, make_table
from rl_contrastive.runs.rollout import play
from rl_contrastive.seeding import SeedTree
from rl_contrastive.spec import EnvSpec, Transition

H, S, A = 3, 4, 2
STATES = EnvSpec("states", A, H, (), "int64", num_states=S)


def random_step(rng, n: int = 30) -> tuple[Transition, np.ndarray]:
    """(transition of some step, mask): some rows are dead, some masked out, some end at a true terminal."""
    h = int(rng.integers(H))
    s, s_next, a = rng.integers(S, size=n), rng.integers(S, size=n), rng.integers(A, size=n)
    discount = (rng.random(n) < 0.7).astype(float)
    step = Transition(h, s, a, rng.normal(size=n), s_next, discount, discount == 0, rng.random(n) < 0.8)
    return step, rng.random(n) < 0.6


def by_hand(steps) -> dict[str, np.ndarray]:
    """N, r-hat, alive and rows by one loop over rows."""
    N, total, ended, rows = np.zeros((H, S, A, S)), np.zeros((H, S, A)), np.zeros((H, S)), np.zeros(H)
    for t, mask in steps:
        for i in range(len(mask)):
            if mask[i] and t.alive[i]:
                N[t.h, t.obs[i], t.action[i], t.next_obs[i]] += 1
                total[t.h, t.obs[i], t.action[i]] += t.reward[i]
                ended[t.h, t.next_obs[i]] += t.discount[i] == 0
                rows[t.h] += 1
    visits, arrivals = N.sum(axis=3), N.sum(axis=(1, 2))
    reward = np.divide(total, visits, out=np.zeros_like(total), where=visits > 0)
    alive = np.where(arrivals > 0, 1 - ended / np.maximum(arrivals, 1), 1.0)
    return {"counts": N, "reward": reward, "alive": alive, "rows": rows}


def same_table(table, expected) -> None:
    np.testing.assert_array_equal(table.counts.dense(), expected["counts"])
    np.testing.assert_allclose(table.reward, expected["reward"], atol=1e-12)
    np.testing.assert_allclose(table.alive, expected["alive"], atol=1e-12)
    np.testing.assert_array_equal(table.rows(), expected["rows"])


# States.


@pytest.mark.parametrize("refresh_every", [1, 4, 20])
def test_state_table_equals_counting_by_hand(refresh_every):
    rng, table = np.random.default_rng(0), StateTable(STATES)
    steps = [random_step(rng) for _ in range(20)]
    for i, (step, mask) in enumerate(steps, start=1):
        table.add(step, mask)
        if i % refresh_every == 0:
            table.refresh()
            same_table(table, by_hand(steps[:i]))
    expected = by_hand(steps)
    assert 0 < expected["alive"].min() < 0.9  # terminals were among the rows


def test_alive_of_three_arrivals_by_hand():
    table = StateTable(replace(STATES, horizon=1))
    yes = np.ones(4, dtype=bool)
    s, s_next, discount = np.array([0, 0, 1, 2]), np.array([3, 3, 3, 1]), np.array([1.0, 0.0, 0.0, 1.0])
    table.add(Transition(0, s, s % 2, np.array([2.0, 4, 5, 7]), s_next, discount, ~yes, yes), yes)
    table.refresh()
    np.testing.assert_allclose(table.alive, [[1, 1, 1, 1 / 3]])  # never reached: nothing is known to end there
    np.testing.assert_allclose(table.reward[0, :3], [[3, 0], [0, 5], [7, 0]])


def test_a_terminal_of_an_environment_is_seen_and_a_truncation_is_not(make_env):
    for name, alive in (("probe-terminal", 0.0), ("probe-truncation", 1.0)):
        env, rng = make_env(name, 50), np.random.default_rng(1)
        table = StateTable(env.env_spec)
        for step in play(env, SeedTree(1).env_seeds("env", 0, 50), lambda obs, h, r=rng: r.integers(2, size=len(obs))):
            table.add(step, np.ones(50, dtype=bool))
        table.refresh()
        assert (table.alive[:, 1] == alive).all()


def test_labels_of_states_are_the_states():
    np.testing.assert_array_equal(StateTable(STATES).label(1, np.array([3, 0], dtype=np.int32)), [3, 0])


def test_unread_rows_may_hold_anything_and_read_ones_no_nan():
    table, yes = StateTable(STATES), np.array([True, False])
    two = np.zeros(2, dtype=np.int64)
    step = Transition(0, two, two, np.array([1.0, np.nan]), two, np.ones(2), ~yes | yes, np.ones(2, dtype=bool))
    table.add(step, yes)
    assert table.rows()[0] == 1
    with pytest.raises(RlcError, match="h=0 is NaN"):
        table.add(step, ~yes)


# Latents.


def lock_table(make_env, *, growth: float = 0.5, capacity: int | None = None, seed: int = 10):
    """(table, play(k)): each call of play adds one batch of the lock's good actions, one in four replaced."""
    env = make_env("combination-lock", 40, horizon=4, num_actions=3)
    table = LatentTable(env.env_spec, DecoderConfig(), capacity=capacity, growth=growth)
    rng = np.random.default_rng(seed)

    def act(obs, h):
        good = env.good_actions[h][env.latent_states()]
        return np.where((rng.random(40) < 0.75) & (good >= 0), good, rng.integers(3, size=40))

    def batch(k: int) -> None:
        for step in play(env, SeedTree(seed).env_seeds("env", k, 40), act):
            # Steps grow at different rates, so that their decoders are refitted at different times.
            table.add(step, rng.random(40) < 0.3 + 0.2 * step.h)

    return table, batch


def recount(table: LatentTable) -> dict[str, np.ndarray]:
    """Everything from the stored rows and the decoder as it is now, row by row."""
    data, levels = table.store.data(), table.M.shape[0]
    N, total, ended = np.zeros_like(table.M), np.zeros_like(table.reward), np.zeros_like(table.alive)
    for h in range(levels):
        n = data.count[h]
        z = table.decoder.labels(data.obs[h : h + 1, :n], np.array([h]))[0]
        z_next = table.decoder.labels(data.next_obs[h : h + 1, :n], np.array([min(h + 1, levels - 1)]))[0]
        for i in range(n):
            N[h, z[i], data.action[h, i], z_next[i]] += 1
            total[h, z[i], data.action[h, i]] += data.reward[h, i]
            ended[h, z_next[i]] += data.discount[h, i] == 0
    visits, arrivals = N.sum(axis=3), N.sum(axis=(1, 2))
    return {
        "counts": N,
        "reward": total / np.maximum(visits, 1),
        "alive": np.where(arrivals > 0, 1 - ended / np.maximum(arrivals, 1), 1.0),
        "rows": table.store.total,
    }


@pytest.mark.parametrize("capacity", [None, 60])
def test_latent_counts_equal_a_recount_from_scratch_after_every_refresh(make_env, capacity):
    """Also of the steps whose decoder was not refitted, and of those before one that was."""
    table, batch = lock_table(make_env, capacity=capacity)
    fits, W = [], table.decoder.W.copy()
    for k in range(10):
        batch(k)
        table.refresh()
        same_table(table, recount(table))
        fits.append((table.decoder.W != W).any(axis=(1, 2)).tolist())
        W = table.decoder.W.copy()
    # The test would be void if all steps were refitted together each time, or only once.
    assert sum(0 < sum(fit) < 4 for fit in fits) >= 2
    assert all(sum(step) >= 2 for step in zip(*fits, strict=True))
    if capacity is not None:
        assert table.counts.total().max() == 60 < table.rows().max()


def test_a_refit_relabels_the_step_before_it_too(make_env):
    """New rows of step 2 alone: its decoder and that of step 3 change, hence the counts of steps 1, 2 and 3."""
    table, batch = lock_table(make_env)
    for k in range(4):
        batch(k)
    table.refresh()
    before = table.M.copy()
    data = table.store.data()
    n = int(data.count[2])
    pick = np.random.default_rng(0).integers(n, size=2 * n)
    columns = (data.obs, data.action, data.reward, data.next_obs, data.discount)
    obs, action, reward, next_obs, discount = (x[2, pick] for x in columns)
    yes = np.ones(2 * n, dtype=bool)
    # Every latent of the new rows is moved far away: whoever decodes step 2 by the new rows decodes it differently.
    table.add(Transition(2, obs * 3 + 50, action, reward, next_obs, discount, ~yes, yes), yes)
    table.refresh()
    same_table(table, recount(table))
    np.testing.assert_array_equal(table.M[0], before[0])
    assert (table.M[1] != before[1]).any()


def test_no_refit_before_the_data_grew_enough(make_env):
    table, batch = lock_table(make_env, growth=100.0)
    batch(0)
    table.refresh()
    W, N = table.decoder.W.copy(), table.counts.total()
    batch(1)
    table.refresh()
    np.testing.assert_array_equal(table.decoder.W, W)
    assert (table.counts.total() > N).all()  # the new rows are counted all the same


def test_a_refresh_without_news_changes_nothing(make_env):
    table, batch = lock_table(make_env)
    batch(0)
    table.refresh()
    before = table.state_dict()
    table.refresh()
    assert same(before, table.state_dict())


# Both.


def test_states_where_there_are_states_latents_elsewhere():
    vectors = EnvSpec("vectors", A, H, (3,), "float64")
    assert isinstance(make_table(STATES, DecoderConfig(), capacity=10, growth=0.1), StateTable)
    table = make_table(vectors, DecoderConfig(most_latents=2), capacity=10, growth=0.1)
    assert isinstance(table, LatentTable)
    assert table.num_states == 2
    with pytest.raises(RlcError, match="needs tabular observations"):
        StateTable(vectors)
    with pytest.raises(RlcError, match="growth"):
        make_table(vectors, DecoderConfig(), capacity=10, growth=0.0)


def test_state_table_round_trip():
    rng = np.random.default_rng(3)
    steps = [random_step(rng) for _ in range(12)]
    whole, first, second = (StateTable(STATES) for _ in range(3))
    for table, part in ((whole, steps), (first, steps[:7])):
        for step, mask in part:
            table.add(step, mask)
    state = first.state_dict()  # rows that still waited are in it
    json.dumps(state, default=lambda leaf: leaf.tolist())
    second.load_state_dict(state)
    same_table(second, by_hand(steps[:7]))
    for table in (first, second):
        for step, mask in steps[7:]:
            table.add(step, mask)
        assert same(table.state_dict(), whole.state_dict())
    third = StateTable(STATES)
    third.load_state_dict(state)  # the snapshot did not move with the table it was taken of
    same_table(third, by_hand(steps[:7]))


def test_loading_forgets_rows_that_waited():
    rng = np.random.default_rng(4)
    step, mask = random_step(rng)
    empty, table = StateTable(STATES).state_dict(), StateTable(STATES)
    table.add(step, mask)
    table.load_state_dict(empty)
    assert same(table.state_dict(), empty)


def test_latent_table_round_trip(make_env):
    (whole, play_whole), (first, play_first) = lock_table(make_env), lock_table(make_env)
    second, _ = lock_table(make_env)
    for k in range(4):
        play_whole(k)
        whole.refresh()
        play_first(k)
        first.refresh()
    state = first.state_dict()
    json.dumps(state, default=lambda leaf: leaf.tolist())
    second.load_state_dict(state)
    assert same(second.state_dict(), whole.state_dict())
    frozen = json.dumps(state, default=lambda leaf: leaf.tolist())
    play_first(4)
    first.refresh()
    assert json.dumps(state, default=lambda leaf: leaf.tolist()) == frozen
    assert not same(first.state_dict(), whole.state_dict())


@pytest.mark.parametrize("key", ["counts", "reward_sum", "ended", "rows"])
def test_a_state_tables_state_with_a_hole_is_refused(key):
    state = StateTable(STATES).state_dict()
    with pytest.raises(RlcError, match=f"lacks '{key}'"):
        StateTable(STATES).load_state_dict({k: v for k, v in state.items() if k != key})
    if key not in ("counts", "ended"):
        with pytest.raises(RlcError, match="shape"):
            StateTable(STATES).load_state_dict({**state, key: np.zeros(7)})


@pytest.mark.parametrize("key", ["M", "reward", "alive", "fitted", "counted", "store", "decoder"])
def test_a_latent_tables_state_with_a_hole_is_refused(key, make_env):
    table, _ = lock_table(make_env)
    state = table.state_dict()
    with pytest.raises(RlcError, match=f"lacks '{key}'"):
        table.load_state_dict({k: v for k, v in state.items() if k != key})
    if key not in ("store", "decoder"):
        with pytest.raises(RlcError, match="shape"):
            table.load_state_dict({**state, key: np.zeros(7)})
