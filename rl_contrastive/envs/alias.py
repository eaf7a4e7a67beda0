"""Alias tables: a draw from any finite distribution in O(1), whatever its size (Walker 1977, Vose 1991).

A distribution p over m values is cut into m columns of equal mass 1/m; column j holds value j up to the share q_j
and value alias_j above it. One uniform u gives both choices: x = u m, column j = floor(x), and the draw is j if
x < j + q_j, else alias_j. Here u has 32 bits and everything is an integer of 64 bits: threshold and alias of a
column are packed into one word, so that a draw is one gather, one comparison and one masked write.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_contrastive.errors import RlcError
from rl_contrastive.spec import FloatArray, IntArray

MOST_VALUES = 1 << 15
"""Values of a distribution that fit into packed entries."""


@dataclass(frozen=True)
class AliasTable:
    """R distributions over 0..m-1 laid out flat: column j of distribution `row` is entry row * m + j.

    With b bits for a value, an entry is (t_j - 1) 2^b + alias_j, where t_j = round((j + q_j) 2^32) is the absolute
    threshold. A scaled draw y = u m 2^(32+b) is above the threshold exactly if y > entry.
    """

    entries: IntArray
    """(R * m,) packed thresholds and aliases."""
    size: IntArray
    """m, the number of values. A 0-d array, as `mask` is: numpy takes longer to convert a Python integer on each
    call than to do the arithmetic of a small batch."""
    mask: IntArray
    """2^b - 1, the bits of a packed value; 0-d."""

    def columns(self, uniform: IntArray) -> tuple[IntArray, IntArray]:
        """32 random bits (int64, any shape) -> (y, j): the scaled draw and its column, for `draw`."""
        y = uniform * (self.size * (self.mask + 1))
        j: IntArray = y >> (32 + int(self.mask).bit_length())
        return y, j

    def draw(self, row: IntArray, y: IntArray, j: IntArray) -> IntArray:
        """One value (N,) from each of the distributions `row` (N,), given `columns` of fresh bits."""
        entry = row * self.size
        entry += j
        packed = self.entries[entry]
        value: IntArray = packed & self.mask
        np.putmask(value, y <= packed, j)
        return value


def alias_table(p: FloatArray) -> AliasTable:
    """Build the tables of p (..., m), rows summing to 1, for all rows at once.

    Each of the m - 1 rounds closes, in every row, the emptiest open column by topping it up from the fullest one
    ("Robin Hood"): the mean share of the open columns stays 1, so min <= 1 <= max always. Raises RlcError on
    negative entries or rows that do not sum to 1.
    """
    p = np.asarray(p, dtype=np.float64)
    m = p.shape[-1]
    bits = max(1, (m - 1).bit_length())
    if m << (32 + bits) >= 1 << 63:
        raise RlcError(f"alias_table: at most 2^15 values fit into packed entries, got {m}.")
    share = p.reshape(-1, m) * m  # (R, m)
    if not np.all(share >= 0.0) or not np.allclose(share.sum(axis=1), m, rtol=0.0, atol=1e-9 * m):
        raise RlcError("alias_table: each distribution must be non-negative and sum to 1.")
    rows = np.arange(share.shape[0])
    alias = np.broadcast_to(np.arange(m), share.shape).copy()
    final = np.ones_like(share)  # q_j; the column left open last is full
    poor, rich = share.copy(), share  # closed columns read +inf and -inf
    for _ in range(m - 1):
        low = poor.argmin(axis=1)
        q = np.minimum(poor[rows, low], 1.0)
        poor[rows, low], rich[rows, low] = np.inf, -np.inf
        high = rich.argmax(axis=1)
        final[rows, low], alias[rows, low] = q, high
        left = rich[rows, high] - (1.0 - q)
        poor[rows, high] = rich[rows, high] = left
    threshold = np.rint((np.arange(m) + final) * 2.0**32).astype(np.int64)
    return AliasTable((((threshold - 1) << bits) | alias).ravel(), np.array(m), np.array((1 << bits) - 1))
