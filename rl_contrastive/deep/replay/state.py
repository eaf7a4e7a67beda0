"""A replay as a state: whole, or as a cursor into the files of a folder that hold the large arrays.

Both hold the positions of the open episodes. The whole state also has all entries and priorities. The cursor has a
checksum that ties it to its files (`log.py`).
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rl_contrastive.config import require, require_keys
from rl_contrastive.deep.replay import log as replay_log
from rl_contrastive.deep.replay.changed_rows import Patches
from rl_contrastive.deep.replay.ring import Ring
from rl_contrastive.deep.replay.sum_tree import SumTree
from rl_contrastive.spec import FloatArray, State

CHECKED = 64
"""Number of newest entries in a cursor's own checksum; its files have checksums of their own."""


class Replay(Protocol):
    """The parts of a replay that make up a state; `replay.py` has the class."""

    ring: Ring
    tree: SumTree | None
    """Priorities of the entries, or None where draws are uniform."""
    alpha: float
    max_priority: float
    patches: dict[str, Patches]
    log: replay_log.Position
    """Position of the newest files of `folder`."""
    folder: Path | None


def whole(replay: Replay) -> State:
    """Everything."""
    ring = replay.ring
    leaf = {} if replay.tree is None else {"leaf": replay.tree.get(ring.held())}
    return {**_header(replay), "entries": ring.entries(ring.oldest, ring.total), **leaf}


def load_whole(replay: Replay, state: dict[str, Any]) -> None:
    """Inverse of `whole`."""
    require_keys(state, ("entries",) if replay.tree is None else ("entries", "leaf"), "replay")
    ring, total = replay.ring, _accept(replay, state)
    start, held = max(total - ring.capacity, 0), len(state["entries"].get("action", ()))
    require(held == total - start, f"replay: {held} entries saved, but there should be {total - start}.")
    ring.put(start, state["entries"])
    leaf = np.zeros(ring.capacity)
    if replay.tree is not None:
        saved = np.asarray(state["leaf"], dtype=np.float64)
        require(saved.shape == (held,), f"replay: {len(saved)} priorities saved for {held} entries.")
        leaf[np.arange(start, total) % ring.capacity] = saved
    _restore(replay, state, leaf)
    replay.log, replay.folder = replay_log.Position(), None  # the log no longer belongs to these contents


def save_log(replay: Replay, folder: Path, beside: replay_log.Beside) -> State:
    """Write the new data and return the cursor."""
    arrays = {**replay.patches, **beside}
    if folder != replay.folder:
        replay.log = replay_log.Position()
        for one in arrays.values():
            one.forget()
    cursor = {**_header(replay), "check": _check(replay)}
    mark = (replay.ring.total, cursor["check"])
    if mark != replay.log.mark or any(one.changed.any() for one in arrays.values()):
        replay.log = replay_log.append(folder, replay.ring, replay.log, mark[1], arrays)
        replay.folder = folder
        for one in arrays.values():
            one.changed[:] = False
    return cursor


def load_log(replay: Replay, folder: Path, cursor: dict[str, Any], beside: replay_log.Beside) -> None:
    """The state at `cursor`."""
    require("check" in cursor, "replay: the cursor lacks 'check'.")
    mark = (_accept(replay, cursor), int(cursor["check"]))
    position = replay_log.find(folder, mark)
    replay_log.read(folder, replay.ring, position, {**replay.patches, **beside})
    _restore(replay, cursor, None if replay.tree is None else replay.tree.leaves().copy())
    good = _check(replay) == mark[1]
    require(good, f"replay log: {folder} does not hold what the checkpoint was saved with.")
    replay.log, replay.folder = position, folder


def _header(replay: Replay) -> State:
    """The part that a state and a cursor share."""
    return {
        "layout": {**replay.ring.layout(), "alpha": replay.alpha},
        "total": replay.ring.total,
        "live": replay.ring.live(),
        "max_priority": replay.max_priority,
    }


def _accept(replay: Replay, state: dict[str, Any]) -> int:
    """The total number of entries of a state made for this layout."""
    require_keys(state, ("layout", "total", "live", "max_priority"), "replay")
    mine, saved = _header(replay)["layout"], dict(state["layout"])
    for name, value in mine.items():
        require(saved.get(name) == value, f"replay: {name} is {value}, but the saved one is {saved.get(name)}.")
    return int(state["total"])


def _restore(replay: Replay, state: dict[str, Any], leaf: FloatArray | None) -> None:
    """Link the entries that were put; `leaf` (capacity,): the priorities."""
    replay.ring.link(int(state["total"]), state["live"])
    replay.max_priority = float(state["max_priority"])
    if replay.tree is not None and leaf is not None:
        replay.tree.fill(np.where(replay.ring.ready, leaf, 0.0))


def _check(replay: Replay) -> int:
    """CRC-32 of the newest entries, the open episodes and the sum of priorities."""
    ring = replay.ring
    newest = ring.entries(max(ring.oldest, ring.total - CHECKED), ring.total)
    sums = np.array([replay.max_priority, 0.0 if replay.tree is None else replay.tree.total])
    parts = (*newest.values(), ring.open, ring.recent, sums)
    return zlib.crc32(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))
