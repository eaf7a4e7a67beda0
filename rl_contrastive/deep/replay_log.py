"""How a large replay reaches the disk: numbered segment files, written once, dropped when they left the ring.

A segment holds the entries [start, stop) as they were at the save, and what changed in earlier ones since the save
before: the actions of then newest observations (`late`), and priorities. So a save costs what is new, and a state is
the surviving segments applied in order.

    segment-<number>.npz            entries and changes
    cursor-<total>-<check>.json     the segments of one save, with a checksum each

A checkpoint keeps the two numbers of its cursor. They say what is stored, not when it was saved: runs that were
interrupted at other moments have other segments, and the same checkpoints. Files are written beside, synced and
renamed; a cursor's checksums tell its own segments from those of another branch of the run.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

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


Mark = tuple[int, int]
"""(total, check): entries written so far, and a checksum of what is stored. Names a save."""


@dataclass(frozen=True)
class Position:
    """What a log holds: where the next save goes on."""

    mark: Mark = (0, -1)
    """Of this save; -1: none was made."""
    next_number: int = 0
    """Number of the next segment."""
    segments: tuple[tuple[int, int, int, int], ...] = ()
    """(number, start, stop, checksum) of the files kept, in order: of this state and of the two saves before."""
    open: tuple[int, ...] = ()
    """Serial numbers of entries that had no action yet but may get one."""
    earlier: tuple[Mark, ...] = ()
    """The two saves before: their checkpoints may still be the ones on disk."""


def append(folder: Path, ring: Ring, last: Position, check: int, leaf_serial: IntArray, leaf: FloatArray) -> Position:
    """Save what came since `last`, durably; (leaf_serial, leaf) are the priorities that changed."""
    late = np.array([n for n in last.open if n >= ring.oldest], dtype=np.int64)
    late = late[ring.action[late % ring.capacity] != NO_ACTION]
    segments, number = list(last.segments), last.next_number
    earlier = (*last.earlier[-1:], last.mark)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for start, stop in _cuts(ring, max(last.mark[0], ring.oldest)):
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
        segments = [row for row in segments if row[2] > min(earlier)[0] - ring.capacity]
        newest = ring.total - 1
        waiting = newest - (newest - ring.open[ring.open >= 0]) % ring.capacity  # slots -> serial numbers
        now = Position((ring.total, check), number, tuple(segments), tuple(int(n) for n in waiting), tuple(earlier))
        _write_cursor(folder, now)
        # Only now: a save that was killed before has taken nothing away.
        _drop_others(folder, {_name(row[0]) for row in segments} | {_cursor(mark) for mark in (*earlier, now.mark)})
    except OSError as error:
        raise RlcError(f"cannot write the replay log in {folder}: {error.strerror or error}.") from error
    return now


def find(folder: Path, mark: Mark) -> Position:
    """What the save `mark` left in the folder; RlcError if its cursor is missing or damaged."""
    path = folder / _cursor(mark)
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        found = Position(
            _mark(saved["mark"]),
            int(saved["next_number"]),
            tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in saved["segments"]),
            tuple(int(n) for n in saved["open"]),
            tuple(_mark(pair) for pair in saved["earlier"]),
        )
    except OSError as error:
        raise RlcError(f"replay log: cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RlcError(f"replay log: {path} is corrupt or no cursor.") from error
    require(found.mark == mark, f"replay log: {path} is the cursor of another save.")
    return found


def read(folder: Path, ring: Ring, at: Position) -> Iterator[tuple[IntArray, FloatArray]]:
    """Put the entries of the state `at` into the ring; yields the (serial numbers, priorities) of each segment."""
    total = at.mark[0]
    oldest = max(total - ring.capacity, 0)
    needed = [row for row in at.segments if row[2] > oldest]
    starts, stops = [row[1] for row in needed], [row[2] for row in needed]
    whole = (starts[0] <= oldest and stops[-1] == total and starts[1:] == stops[:-1]) if needed else total == 0
    require(whole, f"replay log: the cursor's segments do not hold the entries {oldest} to {total}.")
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
    one = int(np.prod(ring.obs_shape)) * ring.obs.dtype.itemsize
    size = max(1, SEGMENT_BYTES // max(one, 1))
    parts = [(start, min(start + size, ring.total)) for start in range(begin, ring.total, size)]
    return parts or [(ring.total, ring.total)]


def _drop_others(folder: Path, kept: set[str]) -> None:
    """Remove files that no checkpoint on disk needs, and what a killed later save left behind."""
    for pattern in ("segment-*", "cursor-*"):
        for path in folder.glob(pattern):
            if path.name not in kept:
                path.unlink(missing_ok=True)


def _name(number: int) -> str:
    return f"segment-{number:08d}.npz"


def _cursor(mark: Mark) -> str:
    return f"cursor-{mark[0]:012d}-{mark[1] & 0xFFFFFFFF:08x}.json"


def _mark(pair: Any) -> Mark:
    total, check = pair
    return int(total), int(check)


def _write_cursor(folder: Path, position: Position) -> None:
    text = json.dumps({f.name: getattr(position, f.name) for f in fields(position)})
    _durably(folder / _cursor(position.mark), lambda file: file.write(text.encode()))


def _write(path: Path, arrays: dict[str, Array]) -> int:
    """One uncompressed zip of .npy arrays with a fixed date; returns the checksum of its contents."""

    def write(file: IO[bytes]) -> int:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name in ARRAYS:
                with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asarray(arrays[name], order="C"), (1, 0), allow_pickle=False)
            return _checksum(archive)

    return _durably(path, write)


def _durably(path: Path, write: Callable[[IO[bytes]], int]) -> int:
    """`write` a file beside, sync it, and give it its name; returns what `write` does."""
    temporary = path.with_suffix(".part")
    with open(temporary, "wb") as file:
        answer = write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return answer


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
