"""Saves arrays beside the replay, which have one row for each entry, as patches of their changed rows.

A patch is a file of rows and their values at one save. Patches applied in order to zeros give the array. A patch whose
rows were all written again by later ones is dead. An array that is recomputed from time to time, such as features under
a new network, then costs its whole size at each recomputation, and its new rows in between.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.spec import Array, BoolArray, IntArray


class Patches:
    """Which rows of an array (n, ...) changed since the last save, and which patch holds the others."""

    def __init__(self, array: Array) -> None:
        """`array` of zeros; it is changed in place, and `touch` must be called for each change."""
        self.array = array
        self.changed: BoolArray = np.zeros(len(array), dtype=np.bool_)
        self.owner: IntArray = np.full(len(array), -1)
        """(n,) number of the newest patch with this row, -1: the row was never written."""

    def touch(self, index: IntArray) -> None:
        """Mark the rows of index (...) as written."""
        self.changed[index] = True

    def forget(self) -> None:
        """Forget all patches: the next save writes every row that is not zero."""
        self.owner[:] = -1
        self.changed[:] = self.array.any(axis=tuple(range(1, self.array.ndim)))

    def clear(self) -> None:
        """Zeros, before patches are applied."""
        self.array[:] = 0
        self.owner[:] = -1
        self.changed[:] = False

    def parts(self, most: int) -> Iterator[IntArray]:
        """The changed rows, in parts of at most `most` bytes."""
        rows = np.flatnonzero(self.changed)
        size = max(1, most // max(self.array[:1].nbytes, 1))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def apply(self, number: int, rows: Array, values: Array) -> None:
        """Apply the patch `number`."""
        mine = self.array
        fits = rows.ndim == 1 and values.dtype == mine.dtype and values.shape == (len(rows), *mine.shape[1:])
        fits = fits and rows.dtype == np.int64 and bool(((rows >= 0) & (rows < len(mine))).all())
        require(fits, f"replay log: a patch of {values.dtype} {values.shape} does not fit {mine.dtype} {mine.shape}.")
        mine[rows] = values
        self.owner[rows] = number

    def alive(self) -> set[int]:
        """Numbers of the patches that hold something."""
        return {int(number) for number in np.unique(self.owner)} - {-1}
