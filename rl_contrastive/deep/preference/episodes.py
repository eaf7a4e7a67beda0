"""Episodes without rewards, and a replay of pairs of them: the first of a pair is the preferred one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_contrastive.config import require, require_keys
from rl_contrastive.device import require_memory
from rl_contrastive.spec import Array, BoolArray, EnvSpec, FloatArray, IntArray, State


@dataclass(frozen=True)
class Episodes:
    """What was seen and done; leading axes N are episodes, or pairs (P, 2) of them. Behind an end there are zeros."""

    obs: Array
    """(..., T, *obs_shape)."""
    action: IntArray
    """(..., T)."""
    length: IntArray
    """(...): steps of each episode, 1..T."""
    base: FloatArray
    """(..., T, W) log-probabilities of the initial policy, W = A; W = 1 and zeros where it is uniform."""

    @property
    def mask(self) -> BoolArray:
        """(..., T): the real steps."""
        return np.asarray(np.arange(self.action.shape[-1]) < self.length[..., None])

    def take(self, index: IntArray) -> Episodes:
        """Those of `index` along the first axis, cut at their longest."""
        T = int(self.length[index].max()) if len(index) else 0
        axis = np.ndim(index) + self.length.ndim - 1
        cut = (slice(None),) * axis + (slice(T),)
        return Episodes(self.obs[index][cut], self.action[index][cut], self.length[index], self.base[index][cut])


class Recorder:
    """Collects the batch of episodes that is being played."""

    def __init__(self) -> None:
        self._steps: list[tuple[Array, IntArray, FloatArray, BoolArray]] = []

    def begin(self) -> None:
        """A new batch."""
        self._steps = []

    def add(self, obs: Array, action: IntArray, base: FloatArray, alive: BoolArray) -> None:
        """One step of B rows, copied: an environment may use its arrays again."""
        self._steps.append((np.array(obs), np.array(action, dtype=np.int64), np.array(base), np.array(alive)))

    def episodes(self) -> Episodes:
        """The batch (B, T, ...)."""
        obs, action, base, alive = (np.stack(column, axis=1) for column in zip(*self._steps, strict=True))
        for array in (obs, action, base):
            array[~alive] = 0
        return Episodes(obs, action, alive.sum(axis=1), base)


class PairReplay:
    """The newest `capacity` labelled pairs."""

    def __init__(self, capacity: int, spec: EnvSpec, base_width: int) -> None:
        shape, dtype = (capacity, 2, spec.horizon), np.dtype(spec.obs_dtype)
        size = int(np.prod(spec.obs_shape)) * dtype.itemsize + 8 + 8 * base_width
        what = f"preference-policy: a replay of {capacity} pairs of {spec.horizon} steps"
        require_memory(int(np.prod(shape)) * size, what, "lower --agent.capacity")
        self.capacity, self.count, self.next = capacity, 0, 0
        self._all = Episodes(
            np.zeros((*shape, *spec.obs_shape), dtype),
            np.zeros(shape, np.int64),
            np.zeros(shape[:2], np.int64),
            np.zeros((*shape, base_width)),
        )

    def __len__(self) -> int:
        return self.count

    def add(self, pairs: Episodes) -> None:
        """Pairs (P, 2, T, ...), the preferred ones first; the oldest are overwritten."""
        T = pairs.action.shape[-1]
        for p in range(len(pairs.length)):
            slot = self.next
            for mine, new in zip(self._long(), (pairs.obs, pairs.action, pairs.base), strict=True):
                mine[slot] = 0
                mine[slot, :, :T] = new[p]
            self._all.length[slot] = pairs.length[p]
            self.next = (slot + 1) % self.capacity
            self.count = min(self.count + 1, self.capacity)

    def _long(self) -> tuple[Array, IntArray, FloatArray]:
        return self._all.obs, self._all.action, self._all.base

    def draw(self, rows: int, *, rng: np.random.Generator) -> Episodes:
        """`rows` stored pairs by chance, with replacement."""
        require(self.count > 0, "preference-policy: there are no labelled pairs to draw.")
        return self._all.take(rng.integers(self.count, size=rows))

    def state_dict(self) -> State:
        """What is stored, cut at the longest episode."""
        held = self._all.take(np.arange(self.count))
        stored = {"obs": held.obs, "action": held.action, "length": held.length, "base": held.base}
        return {**stored, "next": self.next}

    def load_state_dict(self, state: State) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, ("obs", "action", "length", "base", "next"), "pair replay")
        length = np.asarray(state["length"], dtype=np.int64)
        n, T = len(length), np.asarray(state["action"]).shape[-1]
        good = n <= self.capacity and self._all.action.shape[-1] >= T and length.shape[1:] == (2,)
        require(good, f"pair replay: {n} saved pairs of {T} steps do not fit.")
        for name, mine in zip(("obs", "action", "base"), self._long(), strict=True):
            saved, shape = np.asarray(state[name]), (n, 2, T, *mine.shape[3:])
            require(saved.shape == shape, f"pair replay: the saved {name} has shape {saved.shape}, not {shape}.")
            mine[...] = 0
            mine[:n, :, :T] = saved
        self._all.length[...] = 0
        self._all.length[:n] = length
        self.count, self.next = n, int(state["next"])
