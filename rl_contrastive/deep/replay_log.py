"""How a large replay reaches the disk: numbered segment files, written once, dropped when they left the ring.

A segment holds the entries [start, stop) as they were at the save, and what changed in earlier ones since the save
before: the actions of then newest observations (`late`), and priorities. So a save costs what is new, and a state is
the surviving segments applied in order. Files are written beside, synced and renamed; a cursor names its segments with
a checksum each, so files of a later save, or of another branch of the run, are never taken for its own.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.deep.ring import FIELDS, NO_ACTION, Ring
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import Array, FloatArray, IntArray

SEGMENT_BYTES = 1 << 26
"""A save with more observations than this is cut into several segments: memory at the save, and grain of dropping."""
LATE = ("action", "reward", "discount")
"""Fields that the newest observation of a going episode gets one step later."""
ARRAYS = (*FIELDS, "late_serial", *(f"late_{name}" for name in LATE), "leaf_serial", "leaf")


@dataclass(frozen=True)
class Position:
    """What a log holds: where the next save goes on."""

    total: int = 0
    """Entries written so far."""
    next_number: int = 0
    """Number of the next segment."""
    segments: tuple[tuple[int, int, int, int], ...] = ()
    """(number, start, stop, checksum) of the files kept, in order: of this state and of the two saves before."""
    open: tuple[int, ...] = ()
    """Serial numbers of entries that had no action yet but may get one."""
    earlier: tuple[int, ...] = ()
    """`total` of the two saves before: their checkpoints may still be the ones on disk."""

    def to_state(self) -> dict[str, Any]:
        """As a JSON-ready dict with one array."""
        return {
            "total": self.total,
            "next_number": self.next_number,
            "segments": np.array(self.segments, dtype=np.int64).reshape(-1, 4),
            "open": list(self.open),
            "earlier": list(self.earlier),
        }

    @staticmethod
    def from_state(state: dict[str, Any]) -> Position:
        """Inverse of `to_state`."""
        for key in ("total", "next_number", "segments", "open", "earlier"):
            require(key in state, f"replay log: the cursor lacks '{key}'.")
        rows = np.asarray(state["segments"], dtype=np.int64).reshape(-1, 4)
        segments = tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in rows)
        open_, earlier = (tuple(int(n) for n in state[key]) for key in ("open", "earlier"))
        return Position(int(state["total"]), int(state["next_number"]), segments, open_, earlier)


def append(folder: Path, ring: Ring, last: Position, leaf_serial: IntArray, leaf: FloatArray) -> Position:
    """Save what came since `last`; (leaf_serial, leaf) are the priorities that changed."""
    late = np.array([n for n in last.open if n >= ring.oldest], dtype=np.int64)
    late = late[ring.action[late % ring.capacity] != NO_ACTION]
    segments, number = list(last.segments), last.next_number
    earlier = (*last.earlier[-1:], last.total)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for start, stop in _cuts(ring, max(last.total, ring.oldest)):
            final = stop == ring.total
            if start == stop and not len(late) and not len(leaf):
                break
            # Changes go into the last segment, so that a segment which left the ring holds nothing that is needed.
            changes = late if final else late[:0]
            arrays = ring.entries(start, stop)
            arrays["late_serial"] = changes
            arrays.update({f"late_{name}": getattr(ring, name)[changes % ring.capacity] for name in LATE})
            arrays["leaf_serial"], arrays["leaf"] = (leaf_serial, leaf) if final else (leaf_serial[:0], leaf[:0])
            segments.append((number, start, stop, _write(folder / _name(number), arrays)))
            number += 1
        segments = [row for row in segments if row[2] > min(earlier) - ring.capacity]
        _drop_others(folder, {_name(row[0]) for row in segments})
    except OSError as error:
        raise RlcError(f"cannot write the replay log in {folder}: {error.strerror or error}.") from error
    newest = ring.total - 1
    waiting = newest - (newest - ring.open[ring.open >= 0]) % ring.capacity  # slots -> serial numbers
    return Position(ring.total, number, tuple(segments), tuple(int(n) for n in waiting), earlier)


def read(folder: Path, ring: Ring, at: Position) -> Iterator[tuple[IntArray, FloatArray]]:
    """Put the entries of the state `at` into the ring; yields the (serial numbers, priorities) of each segment."""
    oldest = max(at.total - ring.capacity, 0)
    needed = [row for row in at.segments if row[2] > oldest]
    starts, stops = [row[1] for row in needed], [row[2] for row in needed]
    whole = (starts[0] <= oldest and stops[-1] == at.total and starts[1:] == stops[:-1]) if needed else at.total == 0
    require(whole, f"replay log: the cursor's segments do not hold the entries {oldest} to {at.total}.")
    for number, start, stop, checksum in needed:
        path = folder / _name(number)
        arrays = _read(path, checksum)
        require(len(arrays["action"]) == stop - start, f"replay log: {path} does not hold {stop - start} entries.")
        # What this says of entries that left the ring by now is overwritten by the segments that follow.
        ring.put(start, {name: arrays[name] for name in FIELDS})
        for name in LATE:
            mine: Array = getattr(ring, name)
            mine[arrays["late_serial"] % ring.capacity] = arrays[f"late_{name}"]
        yield arrays["leaf_serial"], arrays["leaf"]


def _cuts(ring: Ring, begin: int) -> list[tuple[int, int]]:
    """[begin, total) in parts of at most SEGMENT_BYTES of observations; one empty part if nothing is new."""
    size = max(1, SEGMENT_BYTES // max(ring.obs[0].nbytes, 1))
    parts = [(start, min(start + size, ring.total)) for start in range(begin, ring.total, size)]
    return parts or [(ring.total, ring.total)]


def _drop_others(folder: Path, kept: set[str]) -> None:
    """Remove segments that no checkpoint on disk needs, and what a killed later save left behind."""
    for path in folder.glob("segment-*"):
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _name(number: int) -> str:
    return f"segment-{number:08d}.npz"


def _write(path: Path, arrays: dict[str, Array]) -> int:
    """One uncompressed zip of .npy arrays with a fixed date; returns the checksum of its contents."""
    temporary = path.with_suffix(".part")
    with open(temporary, "wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name in ARRAYS:
                with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asarray(arrays[name], order="C"), (1, 0), allow_pickle=False)
            checksum = _checksum(archive)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return checksum


def _read(path: Path, checksum: int) -> dict[str, Array]:
    """The arrays of a segment; whatever is wrong with the file (another save's, truncated, a pickle) is an RlcError."""
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            if _checksum(archive) != checksum:
                raise RlcError(f"replay log: {path} is not the segment that the checkpoint was saved with.")
            for name in ARRAYS:
                with archive.open(name + ".npy") as entry:
                    arrays[name] = np.lib.format.read_array(entry, allow_pickle=False)
                    require(not entry.read(), f"replay log: {path} has bytes behind the end of {name}.")
    except OSError as error:
        raise RlcError(f"replay log: cannot read {path}: {error.strerror or error}.") from error
    except RlcError:
        raise
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, NotImplementedError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise RlcError(f"replay log: {path} is corrupt or no segment: {reason}.") from error
    return arrays


def _checksum(archive: zipfile.ZipFile) -> int:
    """CRC-32 of the entries' own CRC-32 (which zipfile verifies when an entry is read to its end)."""
    return zlib.crc32(b"".join(info.CRC.to_bytes(4, "little") for info in archive.infolist()))
