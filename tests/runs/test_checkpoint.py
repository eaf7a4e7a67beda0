"""Checkpoints: exact round trips, equal bytes, and the last good one intact whatever happens to the newest."""

from __future__ import annotations

import errno
import io
import os
import pickle  # noqa: TID251 - to build the foreign file that must be refused
import zipfile

import numpy as np
import pytest

from rl_contrastive.errors import RlcError
from rl_contrastive.runs import checkpoint
from rl_contrastive.runs.checkpoint import NEWEST, PREVIOUS, has_state, load_state, save_state, write_state
from rl_contrastive.seeding import SeedTree, generator_state

STATE = {
    "arrays": {
        "f": np.linspace(0, 1, 7).reshape(1, 7),
        "empty": np.zeros((0, 3), dtype=np.int64),
        "scalar": np.array(2.5),
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "flags": np.array([True, False]),
        "f32": np.array([np.nan, np.inf, -0.0], dtype=np.float32),
    },
    "rng": generator_state(SeedTree(1).generator("act")),
    "list": [1, None, True, "ü", {"deep": np.arange(3)}],
    "float": 0.1 + 0.2,
    "huge": 2**127 + 1,
}


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    else:
        assert a == b


def test_a_state_comes_back_as_it_was(tmp_path):
    save_state(tmp_path / "new" / "folder", STATE)
    assert_same(load_state(tmp_path / "new" / "folder"), STATE)


def test_equal_states_give_equal_bytes_whatever_their_memory_layout():
    def data(state):
        file = io.BytesIO()
        write_state(file, state)
        return file.getvalue()

    x = np.arange(12.0).reshape(3, 4)
    assert data({"x": x}) == data({"x": np.asfortranarray(x)}) == data({"x": np.repeat(x, 2, axis=1)[:, ::2]})
    assert data({"x": x}) != data({"x": x + 1})


def test_the_one_before_is_kept_and_no_temporary_file_stays(tmp_path):
    for number in range(3):
        save_state(tmp_path, {"n": number})
    assert load_state(tmp_path) == {"n": 2}
    assert checkpoint.read_state(tmp_path / PREVIOUS) == {"n": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == [PREVIOUS, NEWEST]


@pytest.mark.parametrize("where", ["write_array", "fsync", "replace"])
def test_a_full_disk_leaves_the_last_good_one(tmp_path, monkeypatch, where):
    save_state(tmp_path, STATE)
    before = (tmp_path / NEWEST).read_bytes()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format if where == "write_array" else os, where, full)
        with pytest.raises(RlcError, match="No space left on device; the last good one is kept"):
            save_state(tmp_path, {**STATE, "float": 1.0})
    assert (tmp_path / NEWEST).read_bytes() == before
    assert not list(tmp_path.glob(NEWEST + ".part"))
    save_state(tmp_path, {"n": 1})  # the disk has room again
    assert load_state(tmp_path) == {"n": 1}


def test_every_truncation_is_noticed_and_falls_back(tmp_path):
    save_state(tmp_path, {"n": 1})
    save_state(tmp_path, STATE)
    whole = (tmp_path / NEWEST).read_bytes()
    for length in [*range(0, len(whole) - 1, 37), len(whole) - 1]:
        (tmp_path / NEWEST).write_bytes(whole[:length])
        assert load_state(tmp_path) == {"n": 1}, length


def test_a_flipped_byte_is_noticed_or_harmless(tmp_path):
    save_state(tmp_path, STATE)
    whole = (tmp_path / NEWEST).read_bytes()
    noticed = 0
    for place in range(0, len(whole), 11):
        (tmp_path / NEWEST).write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            state = load_state(tmp_path)
        except RlcError:
            noticed += 1
        else:
            assert_same(state, STATE)  # a date or a version field of the zip, which nothing reads
    assert noticed > len(range(0, len(whole), 11)) / 2


class Bomb:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pickles_are_refused_and_not_run(tmp_path):
    target = tmp_path / "exploded"
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    foreign = pickle.dumps({"state": Bomb(target)})
    (folder / NEWEST).write_bytes(foreign)
    with pytest.raises(RlcError, match="not a checkpoint of this library"):
        load_state(folder)
    with zipfile.ZipFile(folder / NEWEST, "w") as archive:  # what torch.save writes
        archive.writestr("archive/data.pkl", foreign)
    with pytest.raises(RlcError, match="not a checkpoint of this library"):
        load_state(folder)
    with zipfile.ZipFile(folder / NEWEST, "w") as archive:  # ours on the outside, an object array inside
        objects = io.BytesIO()
        np.save(objects, np.array([Bomb(target)], dtype=object), allow_pickle=True)
        archive.writestr("0.npy", objects.getvalue())
        archive.writestr("tree.json", '{"format": 1, "state": {"x": {"__array__": 0}}}')
    with pytest.raises(RlcError, match="corrupt or not a checkpoint"):
        load_state(folder)
    assert not target.exists()


def test_another_format_number_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / NEWEST, "w") as archive:
        archive.writestr("tree.json", '{"format": 2, "state": {}}')
    with pytest.raises(RlcError, match="no checkpoint of format 1"):
        load_state(tmp_path)


def test_what_is_neither_array_nor_json_is_refused_by_its_path(tmp_path):
    for bad, words in [({1, 2}, r"state\.a\[0\] is a set"), (np.array([None]), "array of Python objects")]:
        with pytest.raises(RlcError, match=words):
            save_state(tmp_path, {"a": [bad]})
    with pytest.raises(RlcError, match="cannot be a key"):
        save_state(tmp_path, {"a": {3: 1}})
    assert not has_state(tmp_path)


def test_an_empty_folder_has_no_state(tmp_path):
    with pytest.raises(RlcError, match="there is no checkpoint"):
        load_state(tmp_path)
