"""Saved replays go on with the same bytes: whole states, segment files, kills between saves, damaged files."""

from __future__ import annotations

import errno
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_reference import Script, scripts

from rl_contrastive.deep.replay import log as replay_log
from rl_contrastive.deep.replay import log_files
from rl_contrastive.deep.replay.changed_rows import Patches
from rl_contrastive.deep.replay.replay import Replay
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.checkpoint import load_state, save_state


def replay_of(n=2, stack=2, alpha=0.5, capacity=None, **kwargs):
    return Replay(capacity or 3 * (n + stack) + 9, (), "int64", gamma=0.9, n_step=n, stack=stack, alpha=alpha, **kwargs)


def mapped_replay(folder):
    replay = replay_of()
    replay.map_to(folder)
    return replay


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


def position(folder, cursor):
    """The files of a cursor."""
    return replay_log.find(folder, (cursor["total"], cursor["check"]))


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
        names = {f"segment-{number:08d}.npz" for number, *_ in position(folder, cursor).segments}
        assert {path.name for path in folder.glob("segment*")} == names
        assert len(list(folder.glob("cursor*"))) == 3 - (kept == 0)  # this save and the two before it


class Killed(BaseException):
    """Nothing catches this on the way."""


@pytest.mark.parametrize("count", range(15))
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
        names = [path.name.split("-")[0] for path in tmp_path.iterdir()]
        files.append([names.count(kind) for kind in ("segment", "priority", "cursor")])
    # 15 entries a save and a ring of 40: the last three saves need the newest 70 entries, which are in five files.
    assert np.max(files, axis=0).tolist() == [5, 5, 3]
    assert sum(files[-1]) == len(names)
    with pytest.raises(RlcError, match=r"cannot read .*cursor-000000000015"):
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
    (segment,) = (path for path in new if path.name.startswith("segment"))
    (written,) = (path for path in new if path.name.startswith("cursor"))
    assert 10 * 100 < segment.stat().st_size < 10 * 130 + 3000
    assert written.stat().st_size < 400
    save_state(tmp_path / "state", cursor)
    assert (tmp_path / "state" / "state.npz").stat().st_size < 1500
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert fingerprint(replay.save_log(tmp_path)) == fingerprint(cursor)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_large_saves_are_cut_into_segments(tmp_path, monkeypatch):
    monkeypatch.setattr(replay_log, "SEGMENT_BYTES", 64)  # 8 observations of 8 bytes
    replay = replay_of(capacity=60)
    play(replay, steps_of((3, 5), 4), np.random.default_rng(2))  # 40 entries
    cursor = replay.save_log(tmp_path)
    assert [row[1:3] for row in position(tmp_path, cursor).segments] == [(k, k + 8) for k in range(0, 40, 8)]
    back = replay_of(capacity=60)
    back.load_log(tmp_path, cursor)
    same(back, replay)


def test_a_save_after_more_than_a_ring_writes_one_ring(tmp_path):
    replay = replay_of(capacity=20)
    play(replay, steps_of((3, 5), 5), np.random.default_rng(2))  # 50 entries
    cursor = replay.save_log(tmp_path)
    assert [row[1:3] for row in position(tmp_path, cursor).segments] == [(30, 50)]
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


def test_observations_in_a_mapped_file_are_the_same_replay(tmp_path, monkeypatch):
    batches = steps_of((3, 5), 6)
    memory, mapped = replay_of(), mapped_replay(tmp_path / "map")
    for each in (memory, mapped):
        play(each, batches, np.random.default_rng(4))
    same(memory, mapped)
    assert isinstance(mapped.ring.obs.base, np.memmap)
    assert not list((tmp_path / "map").iterdir())  # nothing that a kill could leave, or another process meet
    cursor = mapped.save_log(tmp_path / "log")
    back = mapped_replay(tmp_path / "map2")
    back.load_log(tmp_path / "log", cursor)
    same(memory, back)
    (tmp_path / "file").write_text("")
    with pytest.raises(RlcError, match="cannot map"):
        mapped_replay(tmp_path / "file").begin(1)

    def full(handle, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RlcError, match=r"cannot map 168 bytes to a file in .*map3: No space left on device"):
        mapped_replay(tmp_path / "map3").begin(1)
    assert not list((tmp_path / "map3").iterdir())


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
    path = max(folder.glob("segment*"))
    good = path.read_bytes()
    load(folder, cursor)
    for bad in (good[: len(good) // 2], b"", b"hello", good[:300] + bytes([good[300] ^ 1]) + good[301:]):
        path.write_bytes(bad)
        with pytest.raises(RlcError, match=path.name):
            load(folder, cursor)
    path.write_bytes(min(folder.glob("segment*")).read_bytes())  # a whole segment, but not this one
    with pytest.raises(RlcError, match="not the file that the checkpoint was saved with"):
        load(folder, cursor)
    path.unlink()
    with pytest.raises(RlcError, match="cannot read"):
        load(folder, cursor)


def test_a_pickle_is_refused(saved):
    folder, cursor = saved
    path = max(folder.glob("segment*"))
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            with archive.open(name, "w") as entry:
                np.lib.format.write_array(entry, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        checksum = log_files.contents(archive)
    path = folder / replay_log._cursor((cursor["total"], cursor["check"]))
    log = json.loads(path.read_text())
    log["segments"][-1][3] = checksum
    path.write_text(json.dumps(log))
    with pytest.raises(RlcError, match="corrupt or no part of a log"):
        load(folder, cursor)


def test_a_damaged_cursor_is_one_sentence(saved):
    folder, cursor = saved
    path = folder / replay_log._cursor((cursor["total"], cursor["check"]))
    good = json.loads(path.read_text())
    for bad in ("", "[1]", "{}", path.read_text()[:40], json.dumps({**good, "segments": [[1, 2]]})):
        path.write_text(bad)
        with pytest.raises(RlcError, match=f"{path.name} is corrupt or no cursor"):
            load(folder, cursor)
    path.write_text(json.dumps({**good, "mark": [good["mark"][0], 5]}))
    with pytest.raises(RlcError, match="the cursor of another save"):
        load(folder, cursor)
    path.write_text(json.dumps({**good, "segments": good["segments"][:-1]}))
    with pytest.raises(RlcError, match="do not hold the entries"):
        load(folder, cursor)


def test_whole_files_of_other_entries_are_refused(saved, tmp_path):
    """Another seed's folder: as many entries, and checksums that fit its own segments."""
    cursor, other = saved[1], replay_of()
    for obs in (1, 2):
        other.begin(2)
        for _, steps in steps_of((3, 5), 1):
            for step in steps:
                other.add(step.obs + obs, step.action, step.reward, step.next_obs + obs, *goes_on(step))
    theirs = other.save_log(tmp_path / "other")
    assert theirs["total"] == cursor["total"]
    (path,) = (tmp_path / "other").glob("cursor*")
    log = json.loads(path.read_text())
    log["mark"][1] = cursor["check"]
    (tmp_path / "other" / replay_log._cursor((cursor["total"], cursor["check"]))).write_text(json.dumps(log))
    with pytest.raises(RlcError, match="does not hold what the checkpoint was saved with"):
        load(tmp_path / "other", cursor)


def goes_on(step):
    return step.discount, step.boundary, step.alive


def test_the_cursor_does_not_tell_when_it_was_saved(tmp_path):
    """A run saved after every batch and one saved at its end have the same cursor, and load the same replay."""
    often, once = replay_of(), replay_of()
    rngs = [np.random.default_rng(6) for _ in range(2)]
    for batch in steps_of((3, 5), 6):
        for each, rng in zip((often, once), rngs, strict=True):
            play(each, [batch], rng)
        cursor = often.save_log(tmp_path / "often")
    assert fingerprint(cursor) == fingerprint(once.save_log(tmp_path / "once"))
    assert len(list((tmp_path / "often").glob("segment*"))) > len(list((tmp_path / "once").glob("segment*"))) == 1
    for name in ("often", "once"):
        back = replay_of()
        back.load_log(tmp_path / name, cursor)
        same(back, once)


def test_a_log_in_another_folder_begins_anew(tmp_path):
    replay, back = replay_of(), replay_of()
    play(replay, steps_of((3, 5), 3), np.random.default_rng(0))
    first, cursor = replay.save_log(tmp_path / "a"), replay.save_log(tmp_path / "b")
    assert fingerprint(first) == fingerprint(cursor)
    back.load_log(tmp_path / "b", cursor)
    same(back, replay)


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


def test_arrays_beside_the_replay_are_patches_of_what_changed(tmp_path, monkeypatch):
    """Eight rows of two numbers: new rows, a row again, all rows, none; the last three saves are loadable, no more."""
    monkeypatch.setattr(replay_log, "SEGMENT_BYTES", 4 * 16)  # 4 rows a file
    replay, kept = replay_of(), Patches(np.zeros((8, 2)))
    steps = iter(steps_of((3,), 6))
    saved, value = [], 0.0
    for rows in ([0, 1, 2], [2, 3], [], list(range(8)), [7], [0, 0]):
        play(replay, [next(steps)], np.random.default_rng(0))
        for row in rows:
            value += 1.0
            kept.array[row] = (value, -value)
        kept.touch(np.array(rows, dtype=np.int64))
        saved.append((replay.save_log(tmp_path, {"beside": kept}), kept.array.copy()))
        for cursor, array in saved[-3:]:
            back, beside = replay_of(), Patches(np.ones((8, 2)))
            back.load_log(tmp_path, cursor, {"beside": beside})
            assert beside.array.tobytes() == array.tobytes()
            assert (beside.owner == kept.owner).all() or cursor is not saved[-1][0]
            assert not beside.changed.any()
    lists = [[n for n, _ in listed] for listed in position(tmp_path, saved[-1][0]).patches["beside"]]
    files = sorted(int(path.stem.split("-")[1]) for path in tmp_path.glob("beside-*"))
    assert [len(names) for names in lists] == [4, 3, 2]  # two files of all rows, then row 7, then row 0
    assert files == lists[0]
    kept.array[5] = 9.0
    kept.touch(np.array([5]))  # no step since
    cursor = replay.save_log(tmp_path, {"beside": kept})
    replay_of().load_log(tmp_path, cursor, {"beside": beside})
    assert beside.array.tobytes() == kept.array.tobytes()
    with pytest.raises(RlcError, match="has no 'other'"):
        replay_of().load_log(tmp_path, saved[-1][0], {"other": kept})
    with pytest.raises(RlcError, match=r"a patch of float64 \(4, 2\) does not fit float32 \(8, 2\)"):
        replay_of().load_log(tmp_path, saved[-1][0], {"beside": Patches(np.zeros((8, 2), dtype=np.float32))})
    with pytest.raises(RlcError, match="does not fit"):
        replay_of().load_log(tmp_path, saved[-1][0], {"beside": Patches(np.zeros((7, 2)))})
