"""Stored transitions by step: ring buffers of (o, a, r, o', discount), returned as padded arrays (H, N, ...)."""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_contrastive.config import require, require_keys
from rl_contrastive.device import require_memory
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import Array, BoolArray, EnvSpec, FloatArray, IntArray, State, StepData, Transition

FIRST_CAPACITY = 256
"""Rows allocated at first; the buffers double up to `capacity`, so short runs stay small."""
ARRAYS = ("obs", "action", "reward", "next_obs", "discount")


class StepStore:
    """One ring per step h: the newest `capacity` transitions (all of them without a capacity).

    `count` (H,) rows held, `total` (H,) rows ever added. Row order is that of arrival until a ring wraps.
    """

    def __init__(self, spec: EnvSpec, capacity: int | None = None) -> None:
        require(capacity is None or capacity >= 1, f"store: capacity must be >= 1, got {capacity}.")
        self.horizon, self.capacity = spec.horizon, capacity
        self.count: IntArray = np.zeros(spec.horizon, dtype=np.int64)
        self.total: IntArray = np.zeros(spec.horizon, dtype=np.int64)
        rows = FIRST_CAPACITY if capacity is None else min(FIRST_CAPACITY, capacity)
        self._obs: Array = np.zeros((spec.horizon, rows, *spec.obs_shape), dtype=spec.obs_dtype)
        self._next_obs: Array = np.zeros_like(self._obs)
        self._action: IntArray = np.zeros((spec.horizon, rows), dtype=np.int64)
        self._reward: FloatArray = np.zeros((spec.horizon, rows))
        self._discount: FloatArray = np.zeros((spec.horizon, rows))

    def add(self, transition: Transition, rows: BoolArray | None = None) -> None:
        """Append the alive rows of a transition, or only the masked ones among them; raises RlcError on NaN rewards."""
        kept = transition.alive if rows is None else transition.alive & rows
        index = np.flatnonzero(kept)
        if not len(index):
            return
        reward = transition.reward[index]
        if not np.isfinite(reward).all():
            raise RlcError(f"store: a reward of step h={transition.h} is NaN or infinite.")
        h = transition.h
        self._reserve(int(self.count[h]) + len(index))
        size = self._action.shape[1]
        self.total[h] += len(index)
        index = index[-size:]  # keep only the newest rows of a batch larger than the ring
        slots = (self.total[h] - len(index) + np.arange(len(index))) % size
        self._obs[h, slots] = transition.obs[index]
        self._action[h, slots] = transition.action[index]
        self._reward[h, slots] = transition.reward[index]
        self._next_obs[h, slots] = transition.next_obs[index]
        self._discount[h, slots] = transition.discount[index]
        self.count[h] = min(int(self.count[h]) + len(index), size)

    def data(self) -> StepData:
        """The held rows as views (H, N, ...) with N = max count; valid until the next `add`."""
        n = max(int(self.count.max()), 1)
        return StepData(
            self._obs[:, :n],
            self._action[:, :n],
            self._reward[:, :n],
            self._next_obs[:, :n],
            self._discount[:, :n],
            self.count.copy(),
        )

    def _reserve(self, needed: int) -> None:
        rows = self._action.shape[1]
        if needed <= rows or rows == self.capacity:
            return
        # Below the capacity no ring has wrapped yet (total == count), so growing keeps the order.
        size = max(needed, 2 * rows)
        size = size if self.capacity is None else min(size, self.capacity)
        bytes_each = sum(getattr(self, "_" + name)[0, :1].nbytes for name in ARRAYS)
        what = f"store: room for {size} transitions of each of {self.horizon} steps"
        require_memory(self.horizon * size * bytes_each, what, "lower the agent's capacity, or give fewer episodes")
        for name in ARRAYS:
            old: Array = getattr(self, "_" + name)
            new = np.zeros((self.horizon, size, *old.shape[2:]), dtype=old.dtype)
            new[:, :rows] = old
            setattr(self, "_" + name, new)

    def state_dict(self) -> State:
        """Held rows, allocated size and counters."""
        data = self.data()
        state: State = {name: np.ascontiguousarray(getattr(data, name)) for name in ARRAYS}
        return {**state, "count": self.count.copy(), "total": self.total.copy(), "rows": self._action.shape[1]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, (*ARRAYS, "count", "total", "rows"), "store")
        rows = int(state["rows"])
        for name in ARRAYS:
            old: Array = getattr(self, "_" + name)
            saved = np.asarray(state[name])
            shape = (self.horizon, rows, *old.shape[2:])
            fits = saved.ndim == len(shape) and saved.shape[0] == shape[0] and saved.shape[2:] == shape[2:]
            require(fits and saved.shape[1] <= rows, f"store: the saved {name} has shape {saved.shape}, not {shape}.")
            new = np.zeros(shape, dtype=old.dtype)
            new[:, : saved.shape[1]] = saved
            setattr(self, "_" + name, new)
        self.count = np.array(state["count"], dtype=np.int64)
        self.total = np.array(state["total"], dtype=np.int64)
