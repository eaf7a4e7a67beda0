"""Saves a large replay as numbered segment files, which are written once and removed when they have left the ring.

A segment holds the entries [start, stop) as they were at the save. It also holds the changes of earlier entries since
the previous save: the actions of observations that were the newest then (`late`). So a save writes only new data, and
a state is the surviving segments applied in order.

    segment-<number>.npz            entries and changes
    <name>-<number>.npz             a patch of an array beside the entries, as the priorities (`changed_rows.py`)
    cursor-<total>-<check>.json     the files of one save, with a checksum each

A checkpoint keeps the two numbers of its cursor. They depend on the stored data and not on the times of the saves:
runs interrupted at other moments have other segments, but the same checkpoints. A cursor's checksums tell its own files
from those of another branch of the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.deep.replay.changed_rows import Patches
from rl_contrastive.deep.replay.log_files import read_arrays, write_arrays
from rl_contrastive.deep.replay.ring import FIELDS, NO_ACTION, Ring
from rl_contrastive.errors import RlcError
from rl_contrastive.files import durably
from rl_contrastive.spec import Array

SEGMENT_BYTES = 1 << 26
"""Size of a segment of a large save; it limits the memory of the save and how much is dropped at once."""
LATE = ("action", "reward", "discount")
"""Fields that the newest observation of an open episode gets one step later."""
ARRAYS = (*FIELDS, "late_serial", *(f"late_{name}" for name in LATE))
Beside = Mapping[str, Patches]
"""Arrays beside the entries by name (letters only, not "segment" or "cursor")."""
Mark = tuple[int, int]
"""(total, check): entries written so far, and a checksum of what is stored. Names a save."""
Listed = tuple[tuple[int, int], ...]
"""(number, checksum) of patches, in order."""
Row = tuple[int, int, int, int]
"""(number, start, stop, checksum) of a segment."""


@dataclass(frozen=True)
class Position:
    """The contents of a log, and where the next save continues."""

    mark: Mark = (0, -1)
    """Of this save; -1: none was made."""
    next_number: int = 0
    """Number of the next file."""
    segments: tuple[Row, ...] = ()
    """Segments kept, in order: those of this state and of the two saves before."""
    open: tuple[int, ...] = ()
    """Serial numbers of entries that had no action yet but may get one."""
    earlier: tuple[Mark, ...] = ()
    """The two saves before: their checkpoints may still be the ones on disk."""
    patches: dict[str, tuple[Listed, ...]] = field(default_factory=dict)
    """For each array beside the entries, the patches of this state and of the two saves before."""

    def names(self) -> set[str]:
        """The files kept."""
        patches = {_name(name, n) for name, lists in self.patches.items() for listed in lists for n, _ in listed}
        cursors = {_cursor(mark) for mark in (self.mark, *self.earlier)}
        return patches | cursors | {_name("segment", row[0]) for row in self.segments}


def append(folder: Path, ring: Ring, last: Position, check: int, beside: Beside) -> Position:
    """Save everything since `last`, durably."""
    earlier = (*last.earlier[-1:], last.mark)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        added = _write_segments(folder, ring, last)
        segments = [row for row in (*last.segments, *added) if row[2] > min(earlier)[0] - ring.capacity]
        number, patches = last.next_number + len(added), {}
        for name, one in beside.items():
            before = last.patches.get(name, ((),))
            written = _write_patches(folder, name, one, number)
            number, alive = number + len(written), one.alive()
            patches[name] = (tuple(row for row in (*before[0], *written) if row[0] in alive), *before[:2])
        now = Position((ring.total, check), number, tuple(segments), _waiting(ring), earlier, patches)
        text = json.dumps({f.name: getattr(now, f.name) for f in fields(now)})
        durably(folder / _cursor(now.mark), lambda file: file.write(text.encode()))
        # Only now, so that a save that was killed earlier has removed nothing.
        _drop_others(folder, now.names(), ("segment", "cursor", *beside))
    except OSError as error:
        raise RlcError(f"cannot write the replay log in {folder}: {error.strerror or error}.") from error
    return now


def find(folder: Path, mark: Mark) -> Position:
    """The files of the save `mark` in the folder; RlcError if its cursor is missing or damaged."""
    path = folder / _cursor(mark)
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        found = Position(
            _pair(saved["mark"]),
            int(saved["next_number"]),
            tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in saved["segments"]),
            tuple(int(n) for n in saved["open"]),
            tuple(_pair(mark) for mark in saved["earlier"]),
            {
                name: tuple(tuple(_pair(row) for row in listed) for listed in lists)
                for name, lists in saved["patches"].items()
            },
        )
    except OSError as error:
        raise RlcError(f"replay log: cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RlcError(f"replay log: {path} is corrupt or no cursor.") from error
    require(found.mark == mark, f"replay log: {path} is the cursor of another save.")
    return found


def read(folder: Path, ring: Ring, at: Position, beside: Beside) -> None:
    """Put the entries of the state `at` into the ring, to be linked there, and restore the arrays beside them."""
    total = at.mark[0]
    oldest = max(total - ring.capacity, 0)
    needed = [row for row in at.segments if row[2] > oldest]
    starts, stops = [row[1] for row in needed], [row[2] for row in needed]
    whole = (starts[0] <= oldest and stops[-1] == total and starts[1:] == stops[:-1]) if needed else total == 0
    require(whole, f"replay log: the cursor's segments do not hold the entries {oldest} to {total}.")
    for number, start, stop, checksum in needed:
        path = folder / _name("segment", number)
        arrays = read_arrays(path, ARRAYS, checksum)
        require(len(arrays["action"]) == stop - start, f"replay log: {path} does not hold {stop - start} entries.")
        # Later segments overwrite what this one says about entries that have left the ring.
        ring.put(start, {name: arrays[name] for name in FIELDS})
        for name in LATE:
            mine: Array = getattr(ring, name)
            mine[arrays["late_serial"] % ring.capacity] = arrays[f"late_{name}"]
    for name, one in beside.items():
        require(name in at.patches, f"replay log: the save in {folder} has no '{name}'.")
        one.clear()
        for number, checksum in at.patches[name][0]:
            patch = read_arrays(folder / _name(name, number), ("row", "value"), checksum)
            one.apply(number, patch["row"], patch["value"])


def _write_segments(folder: Path, ring: Ring, last: Position) -> list[Row]:
    """The new entries and changes as files; their rows."""
    late = np.array([n for n in last.open if n >= ring.oldest], dtype=np.int64)
    late = late[ring.action[late % ring.capacity] != NO_ACTION]
    rows: list[Row] = []
    for start, stop in _cuts(ring, max(last.mark[0], ring.oldest)):
        final = stop == ring.total
        if start == stop and not len(late):
            break
        # Changes go into the last segment, so that no segment outside the ring is needed.
        changes = late if final else late[:0]
        arrays = ring.entries(start, stop)
        arrays["late_serial"] = changes
        arrays.update({f"late_{name}": getattr(ring, name)[changes % ring.capacity] for name in LATE})
        number = last.next_number + len(rows)
        rows.append((number, start, stop, write_arrays(folder / _name("segment", number), arrays)))
    return rows


def _write_patches(folder: Path, name: str, one: Patches, number: int) -> Listed:
    """Write the changed rows as files, numbered from `number` on."""
    written = []
    for rows in one.parts(SEGMENT_BYTES):
        checksum = write_arrays(folder / _name(name, number), {"row": rows, "value": one.array[rows]})
        one.owner[rows] = number
        written.append((number, checksum))
        number += 1
    return tuple(written)


def _waiting(ring: Ring) -> tuple[int, ...]:
    """Serial numbers of the newest observations of open episodes."""
    newest = ring.total - 1
    serial = newest - (newest - ring.open[ring.open >= 0]) % ring.capacity
    return tuple(int(n) for n in serial)


def _cuts(ring: Ring, begin: int) -> list[tuple[int, int]]:
    """[begin, total) in parts of at most SEGMENT_BYTES of observations; one empty part if nothing is new."""
    one = int(np.prod(ring.obs_shape)) * ring.obs.dtype.itemsize
    size = max(1, SEGMENT_BYTES // max(one, 1))
    parts = [(start, min(start + size, ring.total)) for start in range(begin, ring.total, size)]
    return parts or [(ring.total, ring.total)]


def _drop_others(folder: Path, kept: set[str], kinds: tuple[str, ...]) -> None:
    """Remove files that no checkpoint on disk needs, and leftovers of a killed later save."""
    for kind in kinds:
        for path in folder.glob(f"{kind}-*"):
            if path.name not in kept:
                path.unlink(missing_ok=True)


def _name(kind: str, number: int) -> str:
    return f"{kind}-{number:08d}.npz"


def _cursor(mark: Mark) -> str:
    return f"cursor-{mark[0]:012d}-{mark[1] & 0xFFFFFFFF:08x}.json"


def _pair(values: Any) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)
