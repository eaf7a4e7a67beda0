"""A ring buffer of episodes: single observations, linked within their episode; the oldest are overwritten first.

The entry with serial number t (0, 1, 2, ... in order of arrival) lies in slot t mod capacity. It holds an observation
and, once the agent acted there, action, reward and discount. B episodes arrive interleaved: entry t's predecessor is
`back[t]` entries before it (0 at an episode's start), its successor is in slot `next[t]` (itself where there is none).
So a walk past either end of an episode stays there: stacks repeat the first frame, and n-step sums meet no action.

An episode of T steps takes T + 1 entries. Its final observation, even at a true terminal, is an entry without action.

    whole   the `stack` frames that end here are all still in the ring
    ready   whole, with an action, and n steps follow or the episode ended before: the entry may be sampled

Successors are newer than their predecessors, so overwriting can damage an entry's stack, but never its future.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.device import require_memory
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import Array, BoolArray, FloatArray, IntArray, State

NO_ACTION = -1
FIELDS = ("obs", "action", "reward", "discount", "back")
"""The stored fields of an entry; `next`, `whole` and `ready` follow from them."""


class Ring:
    """The newest `capacity` entries. Other classes call a slot an index; it is valid until the next `add`.

    Memory for the observations is allocated when the first episodes begin or entries are put, so a ring that is never
    used, as by an agent that only plays, costs nothing. Until then `storage` may still be set.
    """

    def __init__(
        self,
        capacity: int,
        obs_shape: tuple[int, ...],
        obs_dtype: str,
        *,
        n_step: int = 1,
        stack: int = 1,
        storage: Path | None = None,
    ) -> None:
        require(capacity >= 2, f"replay: capacity must be >= 2, got {capacity}.")
        require(n_step >= 1 and stack >= 1, f"replay: n_step and stack must be >= 1, got {n_step} and {stack}.")
        self.capacity, self.n_step, self.stack = capacity, n_step, stack
        self.obs_shape = tuple(int(size) for size in obs_shape)
        self.total = 0  # entries ever written
        self.count_ready = 0
        self.storage = storage
        self.obs: Array = np.empty((0, *self.obs_shape), dtype=np.dtype(obs_dtype))
        self.action = np.full(capacity, NO_ACTION, dtype=np.int32)
        self.reward: FloatArray = np.zeros(capacity)
        self.discount: BoolArray = np.ones(capacity, dtype=np.bool_)  # False: a true terminal
        self.back = np.zeros(capacity, dtype=np.int32)
        self.next: IntArray = np.arange(capacity)
        self.whole: BoolArray = np.zeros(capacity, dtype=np.bool_)
        self.ready: BoolArray = np.zeros(capacity, dtype=np.bool_)
        self.begin(0)

    @property
    def held_count(self) -> int:
        """Entries still there."""
        return min(self.total, self.capacity)

    @property
    def oldest(self) -> int:
        """Serial number of the oldest entry still there."""
        return max(self.total - self.capacity, 0)

    def serial(self, slots: IntArray | int) -> IntArray:
        """Serial numbers of the entries in these slots (...,)."""
        return serials(slots, self.total, self.capacity)

    def check_rows(self, num_envs: int) -> None:
        """RlcError unless this many rows side by side leave each entry its n steps and its stack."""
        # A row's next entry is at most B later.
        needed = num_envs * (self.n_step + self.stack)
        what = f"batch * (n_step + stack) = {num_envs} * ({self.n_step} + {self.stack}) = {needed}"
        require(self.capacity > needed, f"replay: capacity must be > {what}, got {self.capacity}.")

    def begin(self, num_envs: int) -> IntArray:
        """Start `num_envs` new episodes; episodes still open end like truncated ones. Returns slots now ready."""
        self.check_rows(num_envs)
        cut = self._close(np.flatnonzero(self.open >= 0)) if self.total else np.zeros(0, dtype=np.int64)
        if num_envs:
            self._make_room()
        self.step = 0
        self.open: IntArray = np.full(num_envs, -1)  # (B,) slot of each row's newest observation, -1: over
        self.recent: IntArray = np.full((num_envs, self.n_step), -1)  # (B, n) slots acted in, step t in column t mod n
        self.started = False
        self.acted: IntArray = np.zeros(0, dtype=np.int64)
        return cut

    def add(
        self,
        obs: Array,
        action: IntArray,
        reward: FloatArray,
        next_obs: Array,
        discount: FloatArray,
        boundary: BoolArray,
        alive: BoolArray,
    ) -> tuple[IntArray, IntArray]:
        """One step of all rows; returns (slots now ready, slots no longer ready). Only rows `alive` are stored.

        `obs` is read at the first step only: afterwards it is the `next_obs` of the step before.
        """
        obs, next_obs = np.asarray(obs), np.asarray(next_obs)
        self._check_observations(obs, next_obs)
        # A slice is no copy: most steps have all rows alive.
        rows: Any = slice(None) if np.count_nonzero(alive) == len(alive) else np.flatnonzero(alive)
        action, reward, discount, boundary = action[rows], reward[rows], discount[rows], boundary[rows]
        goes_on = discount == 1
        _check_values(action, reward, discount, goes_on)
        lost: list[IntArray] = []
        if not self.started:
            self.started = True
            self.open[rows] = self._write(obs[rows], None, lost)
        current = self.acted = self.open[rows].copy()
        if len(current) and np.minimum.reduce(current) < 0:
            row = np.flatnonzero(alive & (self.open < 0))[0]
            raise RlcError(f"replay: row {row} is alive, but its episode is over: call begin() first.")
        self.action[current] = action
        self.reward[current] = reward
        self.discount[current] = goes_on
        self.open[rows] = self._write(next_obs[rows], current, lost)
        self.recent[rows, self.step % self.n_step] = current
        due = self.recent[rows, (self.step + 1) % self.n_step] if self.step >= self.n_step - 1 else current[:0]
        ready = self._mark(due)
        if np.count_nonzero(boundary):
            ready = np.concatenate([ready, self._close(np.flatnonzero(alive)[boundary])])
        self.step += 1
        return ready, np.concatenate(lost) if lost else current[:0]

    def walk(self, slots: IntArray, length: int) -> tuple[IntArray, BoolArray]:
        """Successors (N, length + 1), itself first, and which steps (N, length) are real.

        Step k is real if the agent acted there and no earlier step of the walk was a true terminal.
        """
        steps = np.empty((len(slots), length + 1), dtype=np.int64)
        steps[:, 0] = slots
        for k in range(length):
            self.next.take(steps[:, k], out=steps[:, k + 1], mode="clip")  # "clip": numpy then needs no buffer
        real: BoolArray = self.action[steps[:, :-1]] >= 0
        if length > 1:
            real[:, 1:] &= np.logical_and.accumulate(self.discount[steps[:, :-2]], axis=1)
        return steps, real

    def frames(self, slots: IntArray) -> IntArray:
        """Slots of the `stack` frames that end at each of `slots` (...) -> (..., stack), oldest first."""
        out = np.empty((*slots.shape, self.stack), dtype=np.int64)
        out[..., -1] = slots
        for k in range(self.stack - 2, -1, -1):
            out[..., k] = (out[..., k + 1] - self.back[out[..., k + 1]]) % self.capacity
        return out

    def started_after(self, slots: IntArray) -> IntArray:
        """Slots (N,) of the first observations that were stored next after the entries in `slots` (N,).

        Where none was, the newest one; -1 where the ring holds none at all.
        """
        serial = np.arange(self.oldest, self.total)
        starts = serial[self.back[serial % self.capacity] == 0]
        if not len(starts):
            return np.full(len(slots), -1)
        mine = self.serial(slots)
        place = np.minimum(np.searchsorted(starts, mine, side="right"), len(starts) - 1)
        return np.asarray(starts[place] % self.capacity)

    def held(self) -> IntArray:
        """All occupied slots, oldest first."""
        return np.arange(self.oldest, self.total) % self.capacity

    def leaving(self, count: int, *, final: bool = False) -> IntArray:
        """Slots of the visits that the next `count` entries overwrite or leave without their stack; oldest first.

        final: also of observations in which no action was taken.
        """
        slots = np.arange(self.oldest, self.total + count - self.capacity) % self.capacity
        if self.stack > 1:
            reach = [slots]
            for _ in range(self.stack - 1):
                reach.append(self.next[reach[-1]])
            met, first = np.unique(np.concatenate(reach), return_index=True)
            slots = met[np.argsort(first)]
        return slots[self.whole[slots] & (final | (self.action[slots] >= 0))]

    # -- writing -------------------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Memory that the system fills on first use, or a mapped file."""
        if not len(self.obs):
            shape, dtype = (self.capacity, *self.obs_shape), self.obs.dtype
            if self.storage is not None:
                self.obs = _mapped(shape, dtype, self.storage)
                return
            what = f"replay: a capacity of {self.capacity} observations of shape {self.obs_shape} and {dtype}"
            require_memory(math.prod(shape) * dtype.itemsize, what, "lower agent.capacity, or use agent.storage mapped")
            self.obs = np.zeros(shape, dtype=dtype)

    def _write(self, obs: Array, before: IntArray | None, lost: list[IntArray]) -> IntArray:
        """New entries behind the slots `before` (None: first of their episodes); returns their slots.

        Appends to `lost` the slots of entries that may no longer be sampled.
        """
        k, start = len(obs), self.total % self.capacity
        slots = np.arange(start, start + k)
        here: Any = slice(start, start + k)
        if start + k > self.capacity:
            here = slots = slots % self.capacity
        if self.total + k > self.capacity:
            self._evict(slots, lost)
        self.obs[here] = obs
        self.action[here] = NO_ACTION
        self.reward[here] = 0.0
        self.discount[here] = True
        self.next[here] = slots
        self.whole[here] = True
        if before is None:
            self.back[here] = 0
        else:
            self.back[here] = (slots - before) % self.capacity
            self.next[before] = slots
        self.total += k
        return slots

    def _evict(self, slots: IntArray, lost: list[IntArray]) -> None:
        """Remove the entries in `slots`, and mark those that needed them for their stack."""
        for depth in range(self.stack):
            if depth:
                slots = self.next[slots]
                self.whole[slots] = False
            # A slot is met twice only if it is the final observation of an episode, which is never ready.
            gone = slots[self.ready[slots]]
            self.ready[gone] = False
            self.count_ready -= len(gone)
            lost.append(gone)

    def _close(self, rows: IntArray) -> IntArray:
        """The episodes of `rows` are over: their last entries need no further steps."""
        last = self.recent[rows].ravel()
        last = last[last >= 0]
        self.open[rows] = -1
        return self._mark(last[~self.ready[last]])

    def _mark(self, slots: IntArray) -> IntArray:
        self.ready[slots] = True
        self.count_ready += len(slots)
        return slots

    def _check_observations(self, *arrays: Array) -> None:
        """RlcError on wrong shapes and on dtypes whose values might not fit."""
        for array in arrays:
            # Floats only lose digits.
            mine, its = self.obs.dtype, array.dtype
            kept = mine == its or mine.kind == its.kind == "f" or np.can_cast(its, mine)
            if not kept or array.shape != (len(self.open), *self.obs_shape):
                raise RlcError(
                    f"replay: observations must be {self.obs.dtype} of shape {(len(self.open), *self.obs_shape)}, "
                    f"got {array.dtype} of shape {array.shape}."
                )

    # -- state ---------------------------------------------------------------------------------------------------

    def layout(self) -> State:
        """The layout that a saved state must share to be loaded here."""
        return {
            "capacity": self.capacity,
            "obs_shape": list(self.obs_shape),
            "obs_dtype": self.obs.dtype.name,
            "n_step": self.n_step,
            "stack": self.stack,
        }

    def live(self) -> State:
        """The positions of the open episodes."""
        return {"step": self.step, "started": self.started, "open": self.open.copy(), "recent": self.recent.copy()}

    def entries(self, start: int, stop: int) -> dict[str, Array]:
        """Copies of the FIELDS of the entries with serial numbers start..stop-1."""
        slots = np.arange(start, stop) % self.capacity
        return {name: getattr(self, name)[slots] for name in FIELDS}

    def put(self, start: int, fields: dict[str, Array]) -> None:
        """Inverse of `entries`; `link` must follow when all are put."""
        self._make_room()
        slots = np.arange(start, start + len(fields["action"])) % self.capacity
        for name in FIELDS:
            mine: Array = getattr(self, name)
            saved = np.asarray(fields[name])
            require(
                saved.shape == (len(slots), *mine.shape[1:]) and saved.dtype == mine.dtype,
                f"replay: the saved {name} is {saved.dtype} {saved.shape}, not {mine.dtype} of {len(slots)} entries.",
            )
            mine[slots] = saved

    def link(self, total: int, live: dict[str, Any]) -> None:
        """Derive `next`, `whole` and `ready` of the entries that were put, up to serial number `total`."""
        self.total = int(total)
        self.step, self.started = int(live["step"]), bool(live["started"])
        self.open = np.array(live["open"], dtype=np.int64)
        self.recent = np.array(live["recent"], dtype=np.int64).reshape(len(self.open), self.n_step)
        serial = np.arange(self.oldest, self.total)
        slots = serial % self.capacity
        self.next = np.arange(self.capacity)
        linked = (self.back[slots] > 0) & (serial - self.back[slots] >= self.oldest)
        self.next[(slots - self.back[slots])[linked] % self.capacity] = slots[linked]
        whole, at = np.ones(len(serial), dtype=np.bool_), serial
        for _ in range(self.stack - 1):
            at = at - self.back[at % self.capacity]
            whole &= at >= self.oldest
        going = np.zeros(self.capacity, dtype=np.bool_)
        going[self.open[self.open >= 0]] = True
        acted, end = self.action >= 0, slots
        full = acted[slots]
        for _ in range(self.n_step - 1):
            end = self.next[end]
            full &= acted[end]
        self.whole[:] = self.ready[:] = False
        self.whole[slots] = whole
        self.ready[slots] = whole & acted[slots] & (full | ~(acted[end] | going[end]))
        self.count_ready = int(np.count_nonzero(self.ready))


def written(before: int, total: int, capacity: int) -> IntArray:
    """Slots, each once, that a ring has written since it had taken in `before` entries; `total` are there now."""
    return np.arange(max(before, total - capacity), total) % capacity


def _mapped(shape: tuple[int, ...], dtype: np.dtype[Any], folder: Path) -> Array:
    """Zeros in a nameless file of `folder`, which the system frees when the process ends, even if it is killed.

    So the file never outlives its process and never collides with another one. Its blocks are reserved here, where a
    full disk gives a clear error; later it would be a bus error.
    """
    path, size = folder / "observations.scratch", max(int(np.prod(shape)) * dtype.itemsize, 1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(path, "w+b") as file:
            path.unlink()
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(file.fileno(), 0, size)
            return np.asarray(np.memmap(file, dtype=dtype, mode="w+", shape=shape))
    except OSError as error:
        raise RlcError(f"replay: cannot map {size} bytes to a file in {folder}: {error.strerror}.") from error


def _check_values(action: IntArray, reward: FloatArray, discount: FloatArray, goes_on: BoolArray) -> None:
    """RlcError on values of living rows that are not allowed."""
    n = len(action)
    if np.count_nonzero(np.isfinite(reward)) != n:
        raise RlcError(f"replay: the rewards {reward} must be finite.")
    if n and np.minimum.reduce(action) < 0:
        raise RlcError(f"replay: the actions {action} must be >= 0.")
    if np.count_nonzero(goes_on) + np.count_nonzero(discount == 0) != n:
        raise RlcError(f"replay: the discounts {discount} must be 0 (true terminal) or 1.")


def serials(slots: IntArray | int, total: int, capacity: int) -> IntArray:
    """Serial numbers of what lies in these slots (...,), where `total` were written in turn into `capacity` slots."""
    last = total - 1
    return np.asarray(last - (last - slots) % capacity)
