"""Saves a state as one deterministic zip of .npy arrays and a JSON tree: replaced atomically, without pickle.

`state.npz` is the newest checkpoint and `previous.npz` the one before it. A new one is written beside them, synced and
renamed, so a kill, a full disk or a power cut at any moment leaves at least one whole file. The same state gives the
same bytes: entries are stored uncompressed, in the order of the tree, with a fixed date.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.files import check_stored, read_array, sync_folder
from rl_contrastive.spec import Array, State

T = TypeVar("T")
NEWEST, PREVIOUS = "state.npz", "previous.npz"
TREE = "tree.json"
FORMAT = 1
"""Number of the file layout; a file with another one is refused."""
ARRAY_KEY = "__array__"
"""A dict of this one key stands for an array in the JSON tree; its value is the entry's number."""
RENAMED = {"handed_out": "final_policy"}
"""Keys of older checkpoints -> their names today."""


def save_state(folder: Path, state: State) -> None:
    """Make `state` the newest checkpoint of `folder`; an RlcError leaves the last good one untouched."""
    temporary = folder / (NEWEST + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write_state(file, state)
            file.flush()
            os.fsync(file.fileno())
        if (folder / NEWEST).exists():
            _keep_previous(folder)
        os.replace(temporary, folder / NEWEST)
        sync_folder(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RlcError(
            f"cannot write the checkpoint in {folder}: {error.strerror}; the last good one is kept."
        ) from error


def _keep_previous(folder: Path) -> None:
    """Name the newest file `previous.npz` too, by a hard link: `state.npz` never ceases to exist."""
    link = folder / (PREVIOUS + ".part")
    link.unlink(missing_ok=True)
    os.link(folder / NEWEST, link)
    os.replace(link, folder / PREVIOUS)


def has_state(folder: Path) -> bool:
    """Whether `folder` holds any checkpoint."""
    return (folder / NEWEST).exists() or (folder / PREVIOUS).exists()


def load_state(folder: Path) -> State:
    """The newest checkpoint that can be read whole; RlcError with the first reason if none can."""
    return load_first(folder, lambda state: state)


def load_first(folder: Path, use: Callable[[State], T], say: Callable[[str], None] = lambda sentence: None) -> T:
    """`use` the newest checkpoint, or the previous one if it cannot be read or `use` refuses it; `say` reports that.

    RlcError with the first reason if neither works.
    """
    problems: list[str] = []
    for name in (NEWEST, PREVIOUS):
        if not os.path.lexists(folder / name):
            continue
        try:
            found = use(read_state(folder / name))
        except RlcError as error:
            problems.append(str(error))
            continue
        if name == PREVIOUS:
            reason = problems[0] if problems else f"{folder / NEWEST} is missing."
            say(f"{reason} Going on from the last good checkpoint, {folder / PREVIOUS}.")
        return found
    raise RlcError(problems[0] if problems else f"there is no checkpoint in {folder}.")


def write_state(file: IO[bytes], state: State) -> None:
    """Write one zip: the arrays as 0.npy, 1.npy, ... in the tree's order, then `tree.json`."""
    arrays: list[Array] = []
    tree = {"format": FORMAT, "state": _encode(state, arrays, "state")}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for number, array in enumerate(arrays):
            with archive.open(zipfile.ZipInfo(f"{number}.npy"), "w", force_zip64=True) as entry:
                # C order always: two equal states must not differ by their memory layout.
                np.lib.format.write_array(entry, np.asarray(array, order="C"), version=(1, 0), allow_pickle=False)
        archive.writestr(zipfile.ZipInfo(TREE), json.dumps(tree).encode())


def read_state(path: Path) -> State:
    """Read one file; any fault (another format, truncated, a flipped bit, a pickle) is an RlcError."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_stored(archive, path.stat().st_size)
            tree = json.loads(archive.read(TREE))
            ours = isinstance(tree, dict) and tree.get("format") == FORMAT and isinstance(tree.get("state"), dict)
            require(ours, f"it is no checkpoint of format {FORMAT}")
            return dict(_decode(tree["state"], archive, set()))
    except OSError as error:
        raise RlcError(f"cannot read the checkpoint {path}: {error.strerror or error}.") from error
    except Exception as error:
        # CRC mismatches, missing entries, truncated tails, object arrays (which would need pickle), bad JSON; and what
        # else Python's readers raise on damaged bytes: TypeError, RecursionError, MemoryError.
        raise RlcError(f"{path} is corrupt or not a checkpoint of this library: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _encode(value: Any, arrays: list[Array], where: str) -> Any:
    """Replace arrays by their numbers; RlcError on anything that is neither an array nor a JSON value."""
    if isinstance(value, np.ndarray):
        require(not value.dtype.hasobject, f"{where} is an array of Python objects: a checkpoint holds none.")
        arrays.append(value)
        return {ARRAY_KEY: len(arrays) - 1}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        for key in value:
            require(isinstance(key, str) and key != ARRAY_KEY, f"{where}: {key!r} cannot be a key of a checkpoint.")
        return {key: _encode(item, arrays, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item, arrays, f"{where}[{i}]") for i, item in enumerate(value)]
    ok = value is None or isinstance(value, bool | int | float | str)
    require(ok, f"{where} is a {type(value).__name__}: a checkpoint holds numpy arrays and JSON values only.")
    return value


def _decode(value: Any, archive: zipfile.ZipFile, seen: set[int]) -> Any:
    """Inverse of `_encode`; reading an entry to its end checks its CRC. Each array may be referenced only once,
    because a million references to one would fill the memory."""
    if isinstance(value, dict):
        if value.keys() == {ARRAY_KEY}:
            number = int(value[ARRAY_KEY])
            require(number not in seen, f"it names the array {number} twice")
            seen.add(number)
            return read_array(archive, f"{number}.npy")
        return {RENAMED.get(key, key): _decode(item, archive, seen) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item, archive, seen) for item in value]
    return value
