"""Visits that left the replay: they are stored as places, each with its number of visits.

Counts belong to one frozen network and cannot be carried over to the next one. So the observation and the action of
each visit that the replay is about to drop are kept here, and every rebuild encodes them again:

    exact     the same observation (its bytes) and action is one place, whose weight is the number of its visits
    bounded   when all rows are taken, half of them are freed: the lightest places are merged into the heaviest one that
              the current bonus cannot tell from them; if too many are left, a sample represents all

The sample is that of Duffield et al. 2007 (Section 2), drawn systematically in the order of the cells: with the least t
for which sum_i min(1, w_i / t) is the number of rows to keep, a place of weight w_i >= t stays as it is, and another
stays with probability w_i / t and has weight t from then on. The sum of all weights stays the same, and the expected
weight of any set of places too, under any network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

import numpy as np

from rl_contrastive.config import require, require_keys
from rl_contrastive.deep.replay.changed_rows import Patches
from rl_contrastive.errors import RlcError
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import Array, FloatArray, IntArray, State

Keys = Callable[[Array, IntArray], Array]
"""Observations (n, ...) and actions (n,) -> their current keys in the bonus, (n, w)."""
Rows = Iterator[tuple[Array, IntArray, FloatArray]]
"""Observations (n, ...), actions (n,), weights (n,)."""
CHUNK = 1024


class Past:
    """At most `room` places (observation, action) with weights > 0; a row without a weight is free."""

    def __init__(self, room: int, obs_shape: tuple[int, ...], obs_dtype: str, *, rng: np.random.Generator) -> None:
        """room >= 2; obs_shape: of a stacked observation; rng chooses which light places stay when full."""
        require(room >= 2, f"past: room must be >= 2 places, got {room}.")
        try:
            self.obs: Array = np.zeros((room, *obs_shape), dtype=obs_dtype)  # unused pages take no memory
        except MemoryError as error:
            size = room * int(np.prod(obs_shape)) * np.dtype(obs_dtype).itemsize / 2**30
            raise RlcError(f"past: {room} observations take {size:.1f} GiB; lower bonus.past.") from error
        self.action: IntArray = np.zeros(room, dtype=np.int64)
        self.weight: FloatArray = np.zeros(room)
        self.rng, self.patches = rng, {"past": Patches(self.obs)}
        self._row: dict[bytes, int] = {}
        self._free = list(range(room))[::-1]

    def __len__(self) -> int:
        """Places."""
        return len(self._row)

    @property
    def visits(self) -> float:
        """The sum of all weights: how many visits were added."""
        return float(self.weight.sum())

    def add(self, obs: Array, action: IntArray, keys: Keys) -> None:
        """Add one visit each of observations (k, ...) with actions (k,); keys: needed if there is no room left."""
        for one, a in zip(obs, action.tolist(), strict=True):
            name = _name(one, a)
            row = self._row.get(name)
            if row is None:
                if not self._free:
                    self._thin(keys)
                row = self._free.pop()
                self.obs[row], self.action[row], self._row[name] = one, a, row
                self.patches["past"].touch(np.array([row]))
            self.weight[row] += 1.0

    def chunks(self, size: int = CHUNK) -> Rows:
        """All places."""
        rows = np.flatnonzero(self.weight)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            yield self.obs[part], self.action[part], self.weight[part]

    def some(self, count: int) -> tuple[Array, IntArray]:
        """Observations and actions of `count` visits, evenly spread over all."""
        rows = np.flatnonzero(self.weight)
        total = np.cumsum(self.weight[rows])
        at = rows[np.searchsorted(total, (np.arange(count) + 0.5) / count * total[-1])]
        return self.obs[at], self.action[at]

    def _thin(self, keys: Keys) -> None:
        """Free half of the rows, all of which are taken."""
        most, w = len(self.weight) // 2, self.weight
        each = np.concatenate([keys(obs, action) for obs, action, _ in self.chunks()])  # (room, w)
        cell = np.unique(each, axis=0, return_inverse=True)[1].reshape(-1)
        # 1. Merge light places into the heaviest of their cell. Heavy ones stay: another network may tell them apart.
        rows = np.lexsort((-w, cell))
        heaviest = rows[np.flatnonzero(np.diff(cell[rows], prepend=-1))][cell]
        light = np.flatnonzero((w < threshold(w, most)) & (heaviest != np.arange(len(w))))
        light = light[np.argsort(w[light], kind="stable")][: len(w) - most]  # the lightest, as many as must go
        np.add.at(w, heaviest[light], w[light])
        w[light] = 0.0
        # 2. Sample from the remaining places.
        rows = np.flatnonzero(w)
        if len(rows) > most:
            rows = rows[np.lexsort((rows, cell[rows]))]
            w[rows] = sampled(w[rows], most, rng=self.rng)
        gone = w == 0
        self._row = {name: row for name, row in self._row.items() if not gone[row]}
        self._free = np.flatnonzero(gone)[::-1].tolist()

    def _index(self) -> None:
        """Names of the rows in use; free ones are taken from the first on."""
        used = np.flatnonzero(self.weight)
        self._row = {_name(self.obs[row], int(self.action[row])): int(row) for row in used}
        self._free = np.flatnonzero(self.weight == 0)[::-1].tolist()

    def state_dict(self, *, whole: bool = True) -> State:
        """The places; their observations where `whole`, else `patches` saves those."""
        rows = np.flatnonzero(self.weight)
        own = {"row": rows, "action": self.action[rows], "weight": self.weight[rows], "rng": generator_state(self.rng)}
        return {**own, **({"obs": self.obs[rows]} if whole else {})}

    def load_state_dict(self, state: dict[str, Any], *, whole: bool = True) -> None:
        """Inverse of `state_dict`, after `patches` if not `whole`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, ("row", "action", "weight", "rng", *(("obs",) if whole else ())), "past")
        rows = np.asarray(state["row"], dtype=np.int64)
        fits = len(rows) == len(state["action"]) == len(state["weight"]) and bool((rows < len(self.weight)).all())
        require(fits, f"past: {len(rows)} saved places do not fit the room for {len(self.weight)}.")
        self.weight[:], self.action[:] = 0.0, 0
        self.weight[rows], self.action[rows] = state["weight"], state["action"]
        if whole:
            saved = np.asarray(state["obs"])
            shape = (len(rows), *self.obs.shape[1:])
            require(saved.shape == shape, f"past: the saved observations have shape {saved.shape}, not {shape}.")
            self.patches["past"].clear()
            self.obs[rows] = saved
            self.patches["past"].touch(rows)
        restore_generator(self.rng, state["rng"])
        self._index()


def threshold(weight: FloatArray, most: int) -> float:
    """The least t with sum_i min(1, w_i / t) <= most, of more than `most` weights (n,) > 0; 0 of fewer."""
    if len(weight) <= most:
        return 0.0
    w = np.sort(weight)[::-1]
    rest = np.cumsum(w[::-1])[::-1]  # of all from here on
    t = rest[:most] / (most - np.arange(most))  # if the h heaviest are kept unchanged
    return float(t[np.argmax(w[:most] <= t)])


def sampled(weight: FloatArray, most: int, *, rng: np.random.Generator) -> FloatArray:
    """Weights (n,) of which `most` are > 0, unbiased and with the same sum; neighbours represent each other."""
    t = threshold(weight, most)
    light = weight < t
    places = np.cumsum(weight[light]) / t
    places[-1:] = most - np.count_nonzero(~light)  # a whole number up to rounding
    kept = np.diff(np.floor(places + rng.random()), prepend=0.0) > 0
    out = weight.copy()
    out[light] = np.where(kept, t, 0.0)
    return out


def _name(obs: Array, action: int) -> bytes:
    """Short for the bytes of an observation and the action."""
    return blake2b(np.ascontiguousarray(obs).tobytes(), digest_size=16, salt=action.to_bytes(8, "little")).digest()
