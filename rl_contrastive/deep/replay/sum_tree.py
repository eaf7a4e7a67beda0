"""Draws in proportion to priorities: a sum tree whose updates and draws are a few numpy calls for a whole batch.

A numpy call costs a microsecond, and adding 64 neighbours hardly more. So a node has FAN children instead of two. The
tree ends at TOP nodes, whose cumulative sum is searched: 100 000 leaves need two rounds and not seventeen. A parent is
always recomputed as the sum of its children and never corrected by a difference. So sums do not drift, and they are a
function of the leaves.
"""

from __future__ import annotations

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.spec import FloatArray, IntArray

FAN = 64
TOP = 2048
"""Most nodes of the uppermost level."""


class SumTree:
    """`size` leaves p_i >= 0, zero at first; leaf i is drawn with probability p_i / sum_j p_j."""

    def __init__(self, size: int) -> None:
        require(size >= 1, f"sum tree: size must be >= 1, got {size}.")
        self.size = size
        self._levels: list[FloatArray] = []  # (rows, FAN) each, leaves first
        rows = size
        while not self._levels or rows > TOP:
            rows = -(-rows // FAN)
            self._levels.append(np.zeros((rows, FAN)))
        self._top: FloatArray = np.zeros(rows)  # sums of the last level's rows

    @property
    def total(self) -> float:
        """sum_i p_i."""
        return float(np.add.reduce(self._top))

    def leaves(self) -> FloatArray:
        """All p_i (size,): a view, not to be written to."""
        return self._levels[0].reshape(-1)[: self.size]

    def get(self, index: IntArray) -> FloatArray:
        """p_i of index (N,)."""
        return np.asarray(self._levels[0].reshape(-1)[index])

    def set(self, index: IntArray, value: FloatArray | float) -> None:
        """p_i <- value for index (N,); if an index is given twice, the last value stays."""
        self._levels[0].reshape(-1)[index] = value
        for lower, upper in zip(self._levels, [*self._levels[1:], self._top], strict=True):
            index = index // FAN
            upper.reshape(-1)[index] = np.add.reduce(lower.take(index, axis=0), axis=1)

    def fill(self, value: FloatArray) -> None:
        """All p_i (size,) at once."""
        require(value.shape == (self.size,), f"sum tree: expected {self.size} leaves, got shape {value.shape}.")
        self.leaves()[:] = value
        for lower, upper in zip(self._levels, [*self._levels[1:], self._top], strict=True):
            upper.reshape(-1)[: lower.shape[0]] = np.add.reduce(lower, axis=1)

    def find(self, u: FloatArray) -> IntArray:
        """The leaf i with p_0 + ... + p_{i-1} <= u < p_0 + ... + p_i, for u (N,) in [0, total) -> (N,).

        A leaf of priority zero is never found, whatever rounding does to u.
        """
        # A parent's pairwise sum can exceed the running sum of its children in the last bit. Kept strictly below the
        # end, u lies under some cum_j, and the first such j has cum_j > u >= cum_{j-1}: positive mass.
        cum = np.add.accumulate(self._top)
        u = np.minimum(u, np.nextafter(cum[-1], 0.0))
        node = np.searchsorted(cum, u, side="right")
        u = u - np.where(node > 0, cum[node - 1], 0.0)
        row = np.arange(len(u))
        for level in reversed(self._levels):
            cum = np.add.accumulate(level.take(node, axis=0), axis=1)  # (N, FAN)
            u = np.minimum(u, np.nextafter(cum[:, -1], 0.0))
            child = np.argmax(cum > u[:, None], axis=1)
            u = u - np.where(child > 0, cum[row, child - 1], 0.0)
            node = node * FAN + child
        return node

    def sample(self, count: int, *, rng: np.random.Generator) -> IntArray:
        """`count` stratified draws: one from each of `count` equal parts of [0, total)."""
        total = self.total
        require(0.0 < total < np.inf, f"sum tree: priorities must have a positive finite sum, got {total}.")
        return self.find((np.arange(count) + rng.random(count)) * (total / count))
