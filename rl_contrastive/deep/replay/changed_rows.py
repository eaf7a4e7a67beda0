"""Arrays beside the replay, a row for each of its entries: how they reach the disk as the rows that changed.

A patch is a file of rows and their values as they were at a save. Patches applied in order to zeros give the array; one
whose rows were all written again by later ones is dead. An array that is written anew from time to time, as features
under a new network, then costs its size once each time, and what is new in between.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.spec import Array, BoolArray, IntArray


class Patches:
    """Which rows of an array (n, ...) changed since the last save, and which patch holds the others."""

    def __init__(self, array: Array) -> None:
        """`array` of zeros; it is changed in place, and each change must be told to `touch`."""
        self.array = array
        self.changed: BoolArray = np.zeros(len(array), dtype=np.bool_)
        self.owner: IntArray = np.full(len(array), -1)
        """(n,) number of the newest patch with this row, -1: the row was never written."""

    def touch(self, index: IntArray) -> None:
        """The rows of index (...) are written."""
        self.changed[index] = True

    def forget(self) -> None:
        """No patch holds anything: the next save writes every row that is not zero."""
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
        """Set what patch `number` holds."""
        mine = self.array
        fits = rows.ndim == 1 and values.dtype == mine.dtype and values.shape == (len(rows), *mine.shape[1:])
        fits = fits and rows.dtype == np.int64 and bool(((rows >= 0) & (rows < len(mine))).all())
        require(fits, f"replay log: a patch of {values.dtype} {values.shape} does not fit {mine.dtype} {mine.shape}.")
        mine[rows] = values
        self.owner[rows] = number

    def alive(self) -> set[int]:
        """Numbers of the patches that hold something."""
        return {int(number) for number in np.unique(self.owner)} - {-1}
