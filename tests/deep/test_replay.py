"""The replay against plain lists of episodes, by hand, under the three autoreset modes, and its draws."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_reference import Reference, scripts

from rl_contrastive.deep.replay.frames import Frames
from rl_contrastive.deep.replay.replay import Replay
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.rollout import play
from rl_contrastive.spec import EnvSpec


def serials(replay, slots):
    """Slots -> serial numbers."""
    newest = replay.ring.total - 1
    return newest - (newest - np.asarray(slots)) % replay.ring.capacity


def stacks(batch_obs, stack):
    return np.asarray(batch_obs).reshape(-1, stack).tolist()


def episode(replay, rewards, *, terminal, first=0, gone=()):
    """One episode of one row: observations first, first + 1, ..., actions k % 3, discount 0 at the steps `gone` too."""
    replay.begin(1)
    last = len(rewards) - 1
    for k, r in enumerate(rewards):
        over = (terminal and k == last) or k in gone
        replay.add(
            np.array([first + k]), np.array([k % 3]), np.array([r]), np.array([first + k + 1]),
            np.array([0.0 if over else 1.0]), np.array([k == last]), np.array([True]),
        )  # fmt: skip


def small(capacity=100, n_step=3, **kwargs):
    return Replay(capacity, (), "int64", gamma=0.5, n_step=n_step, **kwargs)


@settings(max_examples=150, deadline=None)
@given(scripts(), st.integers(1, 4), st.integers(1, 3), st.integers(0, 30), st.booleans(), st.integers(0, 99))
def test_it_equals_plain_lists_of_episodes(batches, n, stack, extra, prioritised, seed):
    """After every single step: the same entries may be drawn, with the same values; walks and visits agree."""
    capacity = 3 * (n + stack) + 1 + extra
    replay = Replay(capacity, (), "int64", gamma=0.9, n_step=n, stack=stack, alpha=0.5 if prioritised else 0.0)
    reference = Reference(capacity, 0.9, n, stack)
    counter, rng = [0], np.random.default_rng(seed)
    for script in batches:
        for each in (replay, reference):
            each.begin(len(script.lengths))
        compare(replay, reference, n, stack)
        for step in script.transitions(counter, rng):
            for each in (replay, reference):
                each.observe(step)
            compare(replay, reference, n, stack)


def rows_of(replay, chunk):
    """(index, obs, action, next_obs) of every visit still here with its whole stack, oldest first."""
    visits = replay.visits()
    for index in (visits[start : start + chunk] for start in range(0, len(visits), chunk)):
        yield index, replay.observations(index), replay.actions(index), replay.observations(replay.ring.next[index])


def compare(replay, reference, n, stack):
    ready = reference.ready()
    slots = np.array(ready, dtype=np.int64) % replay.ring.capacity
    assert np.flatnonzero(replay.ring.ready).tolist() == sorted(slots.tolist())
    assert len(replay) == len(ready)
    visits = [t for t in range(reference.oldest, len(reference.entries)) if reference.visit(t)]
    rows = list(rows_of(replay, 4))
    assert [t for index, *_ in rows for t in serials(replay, index).tolist()] == visits
    assert serials(replay, replay.last(3)).tolist() == visits[-3:]
    if replay.tree is not None:
        assert (replay.tree.leaves() > 0).tolist() == replay.ring.ready.tolist()
    if not ready:
        return
    batch = replay.batch(slots)
    want = [reference.expected(t) for t in ready]
    for name in ("obs", "next_obs"):
        assert stacks(getattr(batch, name), stack) == [w[name] for w in want]
    for name in ("action", "reward", "discount"):
        np.testing.assert_allclose(getattr(batch, name), [w[name] for w in want], rtol=0, atol=1e-12)
    steps = [serials(replay, row[real]).tolist() for row, real in zip(batch.steps, batch.mask, strict=True)]
    assert steps == [w["steps"] for w in want]
    for index, obs, action, next_obs in rows:
        entries = [reference.entries[t] for t in serials(replay, index)]
        assert stacks(obs, stack) == [reference.stacked(e.episode, e.pos) for e in entries]
        assert stacks(next_obs, stack) == [reference.stacked(e.episode, e.pos + 1) for e in entries]
        assert action.tolist() == [e.action for e in entries]


def test_n_step_returns_by_hand():
    """gamma = 1/2, n = 3, rewards 8, 4, 2, 1: a terminal stops the bootstrap, a truncation keeps gamma^m."""
    for terminal in (True, False):
        replay = small()
        episode(replay, [8.0, 4.0, 2.0, 1.0], terminal=terminal)
        batch = replay.batch(np.arange(4))
        np.testing.assert_array_equal(batch.reward, [8 + 2 + 0.5, 4 + 1 + 0.25, 2 + 0.5, 1])
        end = 0.0 if terminal else 1.0
        np.testing.assert_array_equal(batch.discount, [0.125, 0.125 * end, 0.25 * end, 0.5 * end])
        np.testing.assert_array_equal(batch.next_obs, [3, 4, 4, 4])
        np.testing.assert_array_equal(batch.mask.sum(axis=1), [3, 3, 2, 1])
        np.testing.assert_array_equal(batch.steps[1], [1, 2, 3])


def test_a_lost_life_within_an_episode_stops_sums_but_not_sequences_of_frames():
    """Discount 0 at step 1 without a boundary: no return, bonus or rollout passes it, stacks do."""
    replay = small(stack=2)
    episode(replay, [8.0, 4.0, 2.0, 1.0], terminal=True, gone=(1,))
    batch = replay.batch(np.array([0, 1, 2]))
    np.testing.assert_array_equal(batch.reward, [10.0, 4.0, 2.5])
    np.testing.assert_array_equal(batch.discount, [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(batch.next_obs, [[1, 2], [1, 2], [3, 4]])
    np.testing.assert_array_equal(replay.sequences(np.array([0]), 3)[2], [[True, True, False]])


def test_entries_wait_for_their_n_steps():
    replay = small()
    replay.begin(1)
    for k in range(4):
        replay.add(
            np.array([k]), np.array([0]), np.ones(1), np.array([k + 1]), np.ones(1), np.array([False]), np.array([True])
        )
        assert len(replay) == max(k - 1, 0)
    replay.begin(1)  # a cut episode counts as truncated
    np.testing.assert_array_equal(replay.batch(np.array([3])).discount, [0.5])
    assert len(replay) == 4


def test_stacks_repeat_the_first_frame_and_never_show_what_was_overwritten():
    replay = small(capacity=8, n_step=1, stack=3)
    episode(replay, [0.0] * 4, terminal=False, first=10)  # slots 0..4
    np.testing.assert_array_equal(replay.batch(np.array([0, 1, 3])).obs, [[10, 10, 10], [10, 10, 11], [11, 12, 13]])
    episode(replay, [0.0] * 3, terminal=False, first=20)  # slots 5, 6, 7, 0: frame 10 is gone
    assert np.flatnonzero(replay.ring.ready).tolist() == [3, 5, 6, 7]
    episode(replay, [0.0], terminal=False, first=30)  # slots 1 and 2: frames 11 and 12 are gone, 13's stack too
    assert np.flatnonzero(replay.ring.ready).tolist() == [1, 5, 6, 7]
    assert (replay.sample(500, rng=np.random.default_rng(0)).obs >= 20).all()


def test_sequences_by_hand():
    replay = small(capacity=20, n_step=1)
    episode(replay, [1.0, 2.0, 3.0], terminal=True, first=5)
    obs, actions, mask = replay.sequences(np.array([0, 2]), 4)
    np.testing.assert_array_equal(obs, [[5, 6, 7, 8, 8], [7, 8, 8, 8, 8]])
    np.testing.assert_array_equal(actions, [[0, 1, 2, 0], [2, 0, 0, 0]])
    np.testing.assert_array_equal(mask, [[True, True, True, False], [True, False, False, False]])


LENGTHS, HORIZON = np.array([2, 3, 9]), 4


class Scripted:
    """Row 0 terminates after 2 steps, row 1 is truncated after 3, row 2 goes past the horizon of 4."""

    def __init__(self, mode):
        self.metadata, self.mode, self.num_envs = {"autoreset_mode": mode}, mode, 3
        self.env_spec = EnvSpec("scripted", 2, HORIZON, (), "int64")

    def _obs(self):
        return 100 * np.arange(3) + self.t

    def reset(self, *, seed=None, options=None):
        if options is None:
            self.t = np.zeros(3, dtype=np.int64)
        return np.where(self.t >= LENGTHS, -1, self._obs()), {}

    def step(self, actions):
        reward = 10.0 * np.arange(3) + self.t
        self.t = self.t + 1
        ends = self.t == LENGTHS
        obs, info = np.where(self.t > LENGTHS, -1, self._obs()), {}
        if self.mode == AutoresetMode.SAME_STEP and ends.any():
            info["final_obs"] = self._obs()
            obs = np.where(ends, -1, obs)
        return obs, reward, ends & (np.arange(3) == 0), ends & (np.arange(3) == 1), info


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_each_autoreset_mode_fills_it_alike(mode):
    replay = Replay(40, (), "int64", gamma=0.5, n_step=2)
    for _ in range(2):
        replay.begin(3)
        for step in play(Scripted(mode), [0, 0, 0], lambda obs, h: np.array([0, 1, 0])):
            replay.observe(step)
    got = {}
    for index, *_ in rows_of(replay, 100):
        batch = replay.batch(index)
        for k in range(len(index)):
            row = (batch.reward[k], int(batch.next_obs[k]), batch.discount[k])
            assert got.setdefault(int(batch.obs[k]), row) == row  # both batches are the same
    assert got == {
        0: (0 + 0.5, 2, 0.0), 1: (1, 2, 0.0),
        100: (10 + 5.5, 102, 0.25), 101: (11 + 6, 103, 0.25), 102: (12, 103, 0.5),
        200: (20 + 10.5, 202, 0.25), 201: (21 + 11, 203, 0.25), 202: (22 + 11.5, 204, 0.25), 203: (23, 204, 0.5),
    }  # fmt: skip
    assert -1 not in replay.ring.obs[: replay.ring.total]  # first observations of later episodes never enter


def test_the_last_visits_are_those_of_the_newest_step():
    """Row by row, also where other rows ended and the ring wrapped: a bonus per row can be kept with them."""
    replay, rng = small(capacity=30), np.random.default_rng(0)
    for _ in range(5):
        replay.begin(3)
        obs = rng.integers(1000, size=3)
        for h in range(6):
            alive = h < np.array([2, 6, 4])
            following = rng.integers(1000, size=3)
            boundary = alive & (h + 1 >= np.array([2, 6, 4]))
            replay.add(obs, np.array([0, 1, 2]), np.zeros(3), following, np.ones(3), boundary, alive)
            newest = replay.last(np.count_nonzero(alive))
            np.testing.assert_array_equal(replay.ring.acted, newest)
            np.testing.assert_array_equal(replay.actions(newest), np.flatnonzero(alive))
            np.testing.assert_array_equal(replay.observations(newest), obs[alive])
            obs = following


def test_frames_of_other_rows_are_refused():
    frames = Frames(2)
    frames.push(np.zeros((3, 2)), 0)
    with pytest.raises(RlcError, match=r"shape \(2, 2\) at step 1, \(3, 2\) before"):
        frames.push(np.zeros((2, 2)), 1)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3, 3)])
def test_frames_for_acting_equal_those_of_the_replay(shape):
    rng = np.random.default_rng(0)
    replay = Replay(60, shape, "uint8", gamma=0.9, n_step=1, stack=4)
    frames, acted = Frames(4), []
    for _ in range(2):
        replay.begin(2)
        obs = rng.integers(256, size=(2, *shape), dtype=np.uint8)
        for h in range(6):
            acted.append(frames.push(obs, h))
            following = rng.integers(256, size=(2, *shape), dtype=np.uint8)
            replay.add(obs, np.zeros(2, int), np.zeros(2), following, np.ones(2), np.full(2, h == 5), np.ones(2, bool))
            obs = following
    drawn = np.concatenate([obs for _, obs, _, _ in rows_of(replay, 5)])
    np.testing.assert_array_equal(drawn, np.concatenate(acted))
    assert drawn.shape == (24, *replay.stacked_shape)
    assert drawn.dtype == np.uint8
    assert replay.stacked_shape == ((8, 3, 3) if len(shape) == 3 else (4, *shape))


def test_uniform_draws_are_uniform_over_what_may_be_drawn():
    replay = small(capacity=60)
    for length in (1, 2, 7, 3, 1, 12):
        episode(replay, [0.0] * length, terminal=False)
    N = len(replay)
    counts = np.bincount(replay.sample(20_000, rng=np.random.default_rng(1)).index, minlength=60)
    assert counts[~replay.ring.ready].sum() == 0
    chi2 = ((counts[replay.ring.ready] - 20_000 / N) ** 2 / (20_000 / N)).sum()
    assert chi2 < N - 1 + 5 * np.sqrt(2 * (N - 1))  # five standard deviations


def test_priorities_and_weights_by_hand():
    """alpha = 1/2, priorities 1, 4, 9: P = 1/6, 2/6, 3/6; N P = 1/2, 1, 3/2; beta = 1 weights 1, 1/2, 1/3."""
    replay = small(n_step=1, alpha=0.5)
    episode(replay, [0.0] * 3, terminal=True)
    replay.update_priorities(np.arange(3), np.array([1.0, 4.0, 9.0]))
    batch = replay.sample(6000, rng=np.random.default_rng(0), beta=1.0)
    np.testing.assert_allclose(np.bincount(batch.index) / 6000, [1 / 6, 2 / 6, 3 / 6], atol=2 / 6000)  # stratified
    np.testing.assert_allclose(batch.weight, (1.0 / np.array([1, 2, 3]))[batch.index], rtol=1e-12)
    np.testing.assert_array_equal(replay.sample(9, rng=np.random.default_rng(0), beta=0.0).weight, np.ones(9))
    episode(replay, [0.0], terminal=True)  # new entries get the largest priority so far
    assert replay.tree.get(np.array([4])) == [3.0]


def test_the_same_generator_gives_the_same_draws():
    replay = small(n_step=1, alpha=0.5)
    episode(replay, [0.0] * 20, terminal=True)
    first, second = (replay.sample(16, rng=np.random.default_rng(5)).index for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (replay.sample(16, rng=np.random.default_rng(6)).index != first).any()


def test_observations_are_stored_as_they_are():
    """uint8 and bool stay what they are, and a float is refused rather than cut down."""
    replay = Replay(20, (3,), "bool", gamma=0.9)
    replay.begin(1)
    one, yes = np.ones(1), np.array([True])
    replay.add(np.eye(3, dtype=bool)[:1], np.array([1]), one, np.eye(3, dtype=bool)[1:2], one, yes, yes)
    batch = replay.sample(2, rng=np.random.default_rng(0))
    assert batch.obs.dtype == batch.next_obs.dtype == np.bool_
    replay.begin(1)
    with pytest.raises(RlcError, match=r"observations must be bool of shape \(1, 3\), got float64"):
        replay.add(np.eye(3)[:1], np.array([1]), one, np.eye(3)[1:2], one, yes, yes)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("reward", np.nan, "rewards .* must be finite"),
        ("action", -1, "actions .* must be >= 0"),
        ("discount", 0.99, r"must be 0 \(true terminal\) or 1"),
    ],
)
def test_bad_values_are_refused_in_living_rows_only(field, value, sentence):
    def step(bad_row):
        fields = {"action": np.zeros(2, dtype=np.int64), "reward": np.zeros(2), "discount": np.ones(2)}
        fields[field][bad_row] = value
        replay = small()
        replay.begin(2)
        replay.add(np.array([0, 1]), next_obs=np.array([2, 3]), boundary=np.array([False, False]),
                   alive=np.array([True, False]), **fields)  # fmt: skip
        return replay

    with pytest.raises(RlcError, match=sentence):
        step(0)
    assert step(1).ring.total == 2


def test_misuse_is_one_sentence():
    with pytest.raises(RlcError, match="gamma must lie in"):
        Replay(10, (), "int64", gamma=1.5)
    replay = small(capacity=8)
    with pytest.raises(RlcError, match="capacity must be > batch"):
        replay.begin(2)
    with pytest.raises(RlcError, match="no entry can be sampled yet"):
        replay.sample(1, rng=np.random.default_rng(0))
    episode(replay, [1.0], terminal=True)
    one, yes = np.ones(1), np.array([True])
    with pytest.raises(RlcError, match="row 0 is alive, but its episode is over"):
        replay.add(np.array([0]), np.array([0]), one, np.array([1]), one, yes, yes)
    with pytest.raises(RlcError, match="no priorities with alpha = 0"):
        replay.update_priorities(np.array([0]), one)
    prioritised = small(alpha=0.5)
    episode(prioritised, [1.0], terminal=True)
    for bad in (0.0, np.nan, np.inf, -1.0):
        with pytest.raises(RlcError, match="finite and > 0"):
            prioritised.update_priorities(np.array([0]), np.array([bad]))
    with pytest.raises(RlcError, match="out of date"):
        prioritised.update_priorities(np.array([1]), one)
