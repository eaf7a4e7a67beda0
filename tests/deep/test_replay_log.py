"""Saved replays go on with the same bytes: whole states, segment files, kills between saves, damaged files."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_reference import Script, scripts

from rl_contrastive.deep import replay_log
from rl_contrastive.deep.replay import Replay
from rl_contrastive.errors import RlcError
from rl_contrastive.experiment.checkpoint import load_state, save_state


def replay_of(n=2, stack=2, alpha=0.5, capacity=None, **kwargs):
    return Replay(capacity or 3 * (n + stack) + 9, (), "int64", gamma=0.9, n_step=n, stack=stack, alpha=alpha, **kwargs)


def learn(replay, rng):
    """Something that changes priorities, and what a run would see of it."""
    if not len(replay):
        return b""
    batch = replay.sample(5, rng=rng, beta=0.5)
    if replay.tree is not None:
        replay.update_priorities(batch.index, rng.uniform(0.01, 3.0, 5))
    return b"".join(np.ascontiguousarray(a).tobytes() for a in (batch.index, batch.obs, batch.reward, batch.weight))


def fingerprint(value):
    """All bytes of a state, nested as it is."""
    if isinstance(value, dict):
        return {key: fingerprint(item) for key, item in value.items()}
    return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


def derived(replay):
    """What is not saved but follows, for the entries held."""
    ring, held = replay.ring, replay.ring.held()
    tree = [] if replay.tree is None else [level.tobytes() for level in (*replay.tree._levels, replay.tree._top)]
    return ring.next[held].tobytes(), ring.whole[held].tobytes(), ring.ready.tobytes(), ring.count_ready, tree


def same(one, other):
    assert fingerprint(one.state_dict()) == fingerprint(other.state_dict())
    assert derived(one) == derived(other)


def test_a_log_may_begin_after_a_state_was_loaded(tmp_path):
    """All priorities count as new then: nothing of them is in any file yet."""
    replay, copy, back = replay_of(), replay_of(), replay_of()
    play(replay, steps_of((3, 5), 3), np.random.default_rng(0))
    copy.load_state_dict(replay.state_dict())
    back.load_log(tmp_path, copy.save_log(tmp_path))
    same(back, replay)
    assert len(set(back.tree.leaves().tolist())) > 3  # priorities differ, so losing them would show


@settings(max_examples=60, deadline=None)
@given(scripts(), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 999), st.data())
def test_saved_at_any_step_it_goes_on_alike(tmp_path_factory, batches, n, stack, prioritised, seed, data):
    """Three replays see the same run; one is reloaded from its state, one from its log, at steps drawn at random."""
    folder = tmp_path_factory.mktemp("log")
    alpha = 0.5 if prioritised else 0.0
    plain, stated, logged = (replay_of(n, stack, alpha) for _ in range(3))
    rngs = [np.random.default_rng(seed) for _ in range(3)]
    counter, rng = [0], np.random.default_rng(seed + 1)
    for script in batches:
        for each in (plain, stated, logged):
            each.begin(len(script.lengths))
        for step in script.transitions(counter, rng):
            for each in (plain, stated, logged):
                each.observe(step)
            drawn = [learn(each, r) for each, r in zip((plain, stated, logged), rngs, strict=True)]
            assert drawn[0] == drawn[1] == drawn[2]
            choice = data.draw(st.integers(0, 5))
            if choice == 0:
                state, stated = stated.state_dict(), replay_of(n, stack, alpha)
                stated.load_state_dict(state)
            elif choice == 1:
                cursor, logged = logged.save_log(folder), replay_of(n, stack, alpha)
                logged.load_log(folder, cursor)
            elif choice == 2:
                logged.save_log(folder)
    same(plain, stated)
    same(plain, logged)


def steps_of(lengths, count):
    """`count` batches of one going shape, as (B, transitions)."""
    script = Script(lengths, (True,) * len(lengths), (-1,) * len(lengths), 99)
    counter, rng = [0], np.random.default_rng(0)
    return [(len(lengths), list(script.transitions(counter, rng))) for _ in range(count)]


def play(replay, batches, rng):
    for B, steps in batches:
        replay.begin(B)
        for step in steps:
            replay.observe(step)
            learn(replay, rng)


def test_a_kill_after_a_later_save_goes_back_to_the_cursor_and_on_with_the_same_bytes(tmp_path):
    """Saves at 2, 4 and 6 batches; the checkpoint of the last save never came, nor that of 4 in the second case."""
    batches = steps_of((3, 5), 9)
    whole = replay_of()
    play(whole, batches, np.random.default_rng(7))
    for kept in (1, 0):
        folder = tmp_path / str(kept)
        replay, rng, checkpoints = replay_of(), np.random.default_rng(7), []
        for part in (batches[:2], batches[2:4], batches[4:6]):
            play(replay, part, rng)
            checkpoints.append((replay.save_log(folder), rng.bit_generator.state))
        cursor, state = checkpoints[kept]
        resumed, rng = replay_of(), np.random.default_rng(0)
        before = sorted(path.name for path in folder.iterdir())
        resumed.load_log(folder, cursor)
        assert sorted(path.name for path in folder.iterdir()) == before  # loading writes nothing
        rng.bit_generator.state = state
        play(resumed, batches[2 * kept + 2 :], rng)
        same(resumed, whole)
        # The log goes on from there too, over the files that the killed process left.
        cursor = resumed.save_log(folder)
        again = replay_of()
        again.load_log(folder, cursor)
        same(again, whole)
        names = {f"segment-{number:08d}.npz" for number, *_ in cursor["log"]["segments"]}
        assert {path.name for path in folder.iterdir()} == names


class Killed(BaseException):
    """Nothing catches this on the way."""


@pytest.mark.parametrize("count", range(12))
def test_killed_within_a_save_it_goes_back_to_the_last_cursors(tmp_path, monkeypatch, count):
    """The process dies at the `count`-th sync, rename or removal of a save of three segments that drops others."""
    monkeypatch.setattr(replay_log, "SEGMENT_BYTES", 64)
    batches = steps_of((3, 5), 8)
    replay, rng, saves = replay_of(capacity=20), np.random.default_rng(7), []
    for part in (batches[:2], batches[2:4], batches[4:6]):
        play(replay, part, rng)
        saves.append((replay.save_log(tmp_path), replay.state_dict(), rng.bit_generator.state))
    play(replay, batches[6:], rng)
    calls = [0]

    def dying(real):
        def call(*args, **kwargs):
            calls[0] += 1
            if calls[0] > count:
                raise Killed
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((os, "fsync"), (os, "replace"), (Path, "unlink")):
            patch.setattr(owner, name, dying(getattr(owner, name)))
        with pytest.raises(Killed):
            replay.save_log(tmp_path)
    for cursor, state, _ in saves[-2:]:
        back = replay_of(capacity=20)
        back.load_log(tmp_path, cursor)
        assert fingerprint(back.state_dict()) == fingerprint(state)
    rng.bit_generator.state = saves[-1][2]
    play(back, batches[6:], rng)
    same(back, replay)
    again = replay_of(capacity=20)
    again.load_log(tmp_path, back.save_log(tmp_path))
    same(again, replay)
    assert not list(tmp_path.glob("*.part"))


def test_the_last_two_cursors_stay_loadable_and_older_files_go(tmp_path):
    """A long run: at every save the two checkpoints that may be on disk can be loaded; the folder stays bounded."""
    replay, rng, history = replay_of(capacity=40), np.random.default_rng(1), []
    files = []
    for B, steps in steps_of((4, 6, 2), 30):
        play(replay, [(B, steps)], rng)
        history.append((replay.save_log(tmp_path), replay.state_dict()))
        for cursor, state in history[-3:]:
            back = replay_of(capacity=40)
            back.load_log(tmp_path, cursor)
            assert fingerprint(back.state_dict()) == fingerprint(state)
        files.append(len(list(tmp_path.iterdir())))
    # 15 entries a save and a ring of 40: three to four segments hold it, two more the states before.
    assert max(files) <= 7
    assert files[-1] == files[-2]
    with pytest.raises(RlcError, match=r"segment-00000000\.npz"):
        replay_of(capacity=40).load_log(tmp_path, history[0][0])


def test_a_save_costs_what_is_new(tmp_path):
    """Bytes written: the new observations and a few hundred per file, not the ring; nothing new writes nothing."""
    replay = Replay(1000, (100,), "uint8", gamma=0.9)
    rng = np.random.default_rng(0)

    def fill(count):
        replay.begin(1)
        one = np.ones(1)
        for k in range(count):
            obs = rng.integers(256, size=(2, 1, 100), dtype=np.uint8)
            replay.add(obs[0], np.zeros(1, int), one, obs[1], one, np.array([k == count - 1]), np.array([True]))

    fill(600)
    replay.save_log(tmp_path)
    first = {path: path.stat() for path in tmp_path.iterdir()}
    fill(9)
    cursor = replay.save_log(tmp_path)
    new = [path for path in tmp_path.iterdir() if path not in first]
    assert [(path.stat().st_mtime_ns, path.stat().st_size) for path in first] == [
        (s.st_mtime_ns, s.st_size) for s in first.values()
    ]
    assert len(new) == 1
    assert 10 * 100 < new[0].stat().st_size < 10 * 130 + 3000
    assert len(json.dumps({k: np.asarray(v).tolist() for k, v in cursor["log"].items()})) < 300
    again = replay.save_log(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert again["log"]["next_number"] == cursor["log"]["next_number"]


def test_large_saves_are_cut_into_segments(tmp_path, monkeypatch):
    monkeypatch.setattr(replay_log, "SEGMENT_BYTES", 64)  # 8 observations of 8 bytes
    replay = replay_of(capacity=60)
    play(replay, steps_of((3, 5), 4), np.random.default_rng(2))  # 40 entries
    cursor = replay.save_log(tmp_path)
    assert [row[1:3].tolist() for row in cursor["log"]["segments"]] == [[k, k + 8] for k in range(0, 40, 8)]
    back = replay_of(capacity=60)
    back.load_log(tmp_path, cursor)
    same(back, replay)


def test_a_save_after_more_than_a_ring_writes_one_ring(tmp_path):
    replay = replay_of(capacity=20)
    play(replay, steps_of((3, 5), 5), np.random.default_rng(2))  # 50 entries
    cursor = replay.save_log(tmp_path)
    assert cursor["log"]["segments"][:, 1:3].tolist() == [[30, 50]]
    back = replay_of(capacity=20)
    back.load_log(tmp_path, cursor)
    same(back, replay)


def test_the_cursor_and_the_state_go_through_a_checkpoint(tmp_path):
    replay = replay_of()
    play(replay, steps_of((3, 5), 5), np.random.default_rng(2))
    save_state(tmp_path / "run", {"cursor": replay.save_log(tmp_path / "log"), "state": replay.state_dict()})
    loaded = load_state(tmp_path / "run")
    logged, stated = replay_of(), replay_of()
    logged.load_log(tmp_path / "log", loaded["cursor"])
    stated.load_state_dict(loaded["state"])
    same(logged, replay)
    same(stated, replay)


def test_the_same_run_writes_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        replay, rng = replay_of(), np.random.default_rng(3)
        for batch in steps_of((3, 5), 4):
            play(replay, [batch], rng)
            replay.save_log(tmp_path / name)
    files = [sorted((tmp_path / name).iterdir()) for name in ("a", "b")]
    assert len(files[0]) >= 3
    assert [(f.name, f.read_bytes()) for f in files[0]] == [(f.name, f.read_bytes()) for f in files[1]]


def test_observations_in_a_mapped_file_are_the_same_replay(tmp_path):
    batches = steps_of((3, 5), 6)
    memory, mapped = replay_of(), replay_of(storage=tmp_path / "map")
    for each in (memory, mapped):
        play(each, batches, np.random.default_rng(4))
    same(memory, mapped)
    assert (tmp_path / "map" / "observations.npy").stat().st_size >= 8 * memory.ring.capacity
    cursor = mapped.save_log(tmp_path / "log")
    back = replay_of(storage=tmp_path / "map2")
    back.load_log(tmp_path / "log", cursor)
    same(memory, back)
    (tmp_path / "file").write_text("")
    with pytest.raises(RlcError, match="cannot map"):
        replay_of(storage=tmp_path / "file")


@pytest.fixture
def saved(tmp_path):
    replay, rng = replay_of(), np.random.default_rng(5)
    for batch in steps_of((3, 5), 2):
        play(replay, [batch], rng)
        cursor = replay.save_log(tmp_path)
    return tmp_path, cursor


def load(folder, cursor):
    replay_of().load_log(folder, cursor)


def test_damaged_segments_are_one_sentence(saved):
    folder, cursor = saved
    path = max(folder.iterdir())
    good = path.read_bytes()
    load(folder, cursor)
    for bad in (good[: len(good) // 2], b"", b"hello", good[:300] + bytes([good[300] ^ 1]) + good[301:]):
        path.write_bytes(bad)
        with pytest.raises(RlcError, match=path.name):
            load(folder, cursor)
    path.write_bytes(min(folder.iterdir()).read_bytes())  # a whole segment, but not this one
    with pytest.raises(RlcError, match="not the segment that the checkpoint was saved with"):
        load(folder, cursor)
    path.unlink()
    with pytest.raises(RlcError, match="cannot read"):
        load(folder, cursor)


def test_a_pickle_is_refused(saved):
    folder, cursor = saved
    path = max(folder.iterdir())
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            with archive.open(name, "w") as entry:
                np.lib.format.write_array(entry, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        checksum = replay_log._checksum(archive)
    cursor["log"]["segments"][-1, 3] = checksum
    with pytest.raises(RlcError, match="corrupt or no segment"):
        load(folder, cursor)


def test_another_layout_is_refused(saved):
    folder, cursor = saved
    with pytest.raises(RlcError, match="stack is 3, but the saved one is 2"):
        replay_of(stack=3, capacity=21).load_log(folder, cursor)
    with pytest.raises(RlcError, match=r"alpha is 0\.0, but the saved one is 0\.5"):
        replay_of(alpha=0.0).load_log(folder, cursor)
    with pytest.raises(RlcError, match="lacks 'total'"):
        replay_of().load_log(folder, {k: v for k, v in cursor.items() if k != "total"})
    state = replay_of().state_dict()
    state["total"] = 3
    with pytest.raises(RlcError, match="0 entries saved, but there should be 3"):
        replay_of().load_state_dict(state)


def test_a_full_disk_is_one_sentence(tmp_path):
    (tmp_path / "log").write_text("a file where the folder should be")
    replay = replay_of()
    play(replay, steps_of((3,), 2), np.random.default_rng(0))
    with pytest.raises(RlcError, match="cannot write the replay log"):
        replay.save_log(tmp_path / "log")
