"""Transition counts of every step as sparse triples (h, (s,a), s'): memory grows with the visits, not with S^2 A."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from rl_contrastive.config import require, require_keys
from rl_contrastive.spec import Array, FloatArray, IntArray, State


@dataclass(frozen=True)
class TransitionCounts:
    """Where N_h(s,a,s') > 0: level h, pair = s A + a, succ = s' (int64) and count (float64), each (nnz,), sorted."""

    horizon: int
    num_states: int
    num_actions: int
    level: IntArray
    pair: IntArray
    succ: IntArray
    count: FloatArray

    @classmethod
    def empty(cls, horizon: int, num_states: int, num_actions: int) -> TransitionCounts:
        """No transitions."""
        none = np.zeros(0, dtype=np.int64)
        return cls(horizon, num_states, num_actions, none, none, none, np.zeros(0))

    @classmethod
    def from_dense(cls, table: Array) -> TransitionCounts:
        """From a table of counts (or weights) N (H, S, A, S)."""
        require(
            table.ndim == 4 and table.shape[1] == table.shape[3],
            f"counts: a table must have shape (H, S, A, S), got {table.shape}.",
        )
        require(bool((table >= 0).all() and np.isfinite(table).all()), "counts: entries must be finite and >= 0.")
        H, S, A, _ = table.shape
        flat = np.flatnonzero(table)
        return _from_keys(H, S, A, flat.astype(np.int64), table.reshape(-1)[flat].astype(np.float64))

    def plus(self, level: Array | int, s: Array, a: Array, s_next: Array) -> TransitionCounts:
        """These counts and the transitions (s, a, s_next), each (n,), seen at step(s) `level`."""
        H, S, A = self.horizon, self.num_states, self.num_actions
        for name, value, bound in (("level", level, H), ("state", s, S), ("action", a, A), ("next state", s_next, S)):
            inside = np.all((np.asarray(value) >= 0) & (np.asarray(value) < bound))
            require(bool(inside), f"counts: a {name} is outside 0..{bound - 1}.")
        pair = np.asarray(s, dtype=np.int64) * A + a
        new = (np.asarray(level, dtype=np.int64) * (S * A) + pair) * S + s_next
        keys, inverse = np.unique(np.concatenate([self._keys(), new]), return_inverse=True)
        weights = np.concatenate([self.count, np.ones(len(new))])
        return _from_keys(H, S, A, keys, _sums(inverse, weights, len(keys)))

    def minus(self, other: TransitionCounts) -> TransitionCounts:
        """These counts minus those of `other`, which must be a part of them."""
        left = self.count.copy()
        left[np.searchsorted(self._keys(), other._keys())] -= other.count
        return self._only(left)

    def pair_total(self) -> FloatArray:
        """N_h(s,a) (H, S, A)."""
        H, S, A = self.horizon, self.num_states, self.num_actions
        return _sums(self.level * (S * A) + self.pair, self.count, H * S * A).reshape(H, S, A)

    def succ_total(self) -> FloatArray:
        """N_h(., ., s') (H, S)."""
        H, S = self.horizon, self.num_states
        return _sums(self.level * S + self.succ, self.count, H * S).reshape(H, S)

    def total(self) -> FloatArray:
        """Number of transitions of each step (H,)."""
        return _sums(self.level, self.count, self.horizon)

    def matrix(self, h: int, values: FloatArray | None = None) -> sparse.csr_matrix:
        """(SA, S) sparse matrix of step h with entries `values` (nnz,) in the triples' order (default: counts)."""
        low, high = np.searchsorted(self.level, [h, h + 1])
        data = (self.count if values is None else values)[low:high]
        shape = (self.num_states * self.num_actions, self.num_states)
        return sparse.csr_matrix((data, (self.pair[low:high], self.succ[low:high])), shape=shape)

    def dense(self) -> FloatArray:
        """The table (H, S, A, S); for small S."""
        H, S, A = self.horizon, self.num_states, self.num_actions
        table = np.zeros(H * S * A * S)
        table[self._keys()] = self.count
        return table.reshape(H, S, A, S)

    def split(self, fraction: float, *, rng: np.random.Generator) -> tuple[TransitionCounts, TransitionCounts]:
        """(train, held-out): each transition is held out with probability `fraction`, independently. Counts must be
        integers, unless nothing is held out."""
        if fraction == 0.0:
            return self, self._only(np.zeros_like(self.count))
        integer = np.rint(self.count).astype(np.int64)
        require(bool(np.all(integer == self.count)), "counts: only whole counts can be split into train and held-out.")
        held = rng.binomial(integer, fraction).astype(np.float64)
        return self._only(self.count - held), self._only(held)

    def state_dict(self) -> State:
        """The triples."""
        return {"level": self.level, "pair": self.pair, "succ": self.succ, "count": self.count}

    def with_state(self, state: dict[str, Any]) -> TransitionCounts:
        """Counts of the same sizes with the triples of a `state_dict`."""
        require_keys(state, ("level", "pair", "succ", "count"), "counts")
        level, pair, succ = (np.asarray(state[key], dtype=np.int64) for key in ("level", "pair", "succ"))
        count = np.asarray(state["count"], dtype=np.float64)
        same = level.shape == pair.shape == succ.shape == count.shape
        require(same, "counts: the saved triples have different lengths.")
        return TransitionCounts(self.horizon, self.num_states, self.num_actions, level, pair, succ, count)

    def _keys(self) -> IntArray:
        keys: IntArray = (self.level * (self.num_states * self.num_actions) + self.pair) * self.num_states + self.succ
        return keys

    def _only(self, count: FloatArray) -> TransitionCounts:
        keep = count > 0
        index = (self.level[keep], self.pair[keep], self.succ[keep])
        return TransitionCounts(self.horizon, self.num_states, self.num_actions, *index, count[keep])


def _from_keys(H: int, S: int, A: int, keys: IntArray, count: FloatArray) -> TransitionCounts:
    rest, succ = np.divmod(keys, S)
    level, pair = np.divmod(rest, S * A)
    return TransitionCounts(H, S, A, level, pair, succ, count)


def _sums(index: IntArray, weights: FloatArray, size: int) -> FloatArray:
    """Sum of the weights of each index 0..size-1."""
    return np.asarray(np.bincount(index, weights, minlength=size), dtype=np.float64)
