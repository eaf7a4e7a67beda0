"""Cells of feature space: features that fall into the same cell share their visits.

Each of T tilings looks along K random directions w_k ~ N(0, I) and cuts each into strips of the same width:

    cell_j(phi) = hash_j( floor(w_k'x / width + c_k), k = 1..K ),   x = (phi - mean) / spread

with mean and spread = sqrt(tr cov) of the visits at the last rebuild, and shifts c_k uniform in [0, 1). Close features
mostly share a cell, far ones rarely do, and features beyond all seen ones get cells of their own. Source: p-stable
hashing (Datar et al. 2004) as tile coding (Sutton and Barto 2018, 9.5.4) of learned features. It replaces SimHash
(Tang et al. 2017), whose cells are cones: there, anything further out in a known direction counts as known.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rl_contrastive.config import fill_arrays, require, require_keys
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import Array, FloatArray, State

MIX = np.uint64(0x9E3779B97F4A7C15)
"""Odd multiplier of 64 bits (2^64 over the golden ratio) for hashing by multiplication."""
STEP = 40503
"""Offset between the cells of two actions; it is odd, so that the cells of all actions differ."""


FINEST, WIDEST, BISECTIONS = 0.02, 2.0, 12
"""Bounds of a fitted width, and steps of its bisection."""


class Tiles:
    """T tilings of R^d by K directions each; cells of tiling j are numbered j * per_tiling and up."""

    def __init__(
        self,
        dim: int,
        *,
        tilings: int,
        directions: int,
        width: float,
        rng: np.random.Generator,
        per_tiling: int = 1 << 18,
        rho: float | None = None,
    ) -> None:
        """per_tiling: numbers to hash to; distinct cells collide with probability 1 / per_tiling. rho: `adapt` fits the
        width, such that the occupied cells of a tiling are this share of the distinct features."""
        require(min(dim, tilings, directions) >= 1, "tiles: dim, tilings and directions must be >= 1.")
        require(0.0 < width < np.inf, f"tiles: width must be finite and > 0, got {width}.")
        self.dim, self.tilings, self.width, self.per_tiling = dim, tilings, float(width), per_tiling
        self.rho, self.occupied = rho, 0.0
        """Share of occupied cells in distinct features that is wanted, and that of the last `adapt`."""
        self.W: FloatArray = rng.normal(size=(dim, tilings, directions))
        self.shift: FloatArray = rng.random((tilings, directions))
        self._odd = rng.integers(1 << 63, size=(tilings, directions), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._first = np.arange(tilings, dtype=np.uint64) * np.uint64(per_tiling)
        self.mean: FloatArray = np.zeros(dim)
        self.spread = 1.0
        self._fold()

    @property
    def cells(self) -> int:
        """Number of cells of all tilings together."""
        return self.tilings * self.per_tiling

    def adapt(self, phi: FloatArray) -> None:
        """Set origin and unit of length from features (n, d) of visits; the cells of all features change."""
        require(phi.ndim == 2 and phi.shape[1] == self.dim and len(phi) > 0, f"tiles: features of shape {phi.shape}.")
        if not np.isfinite(phi).all():
            raise RlcError("tiles: features hold NaN or infinite values; the feature fit diverged or an input is bad.")
        self.mean[:] = phi.mean(axis=0)
        spread = float(np.sqrt(np.square(phi - self.mean).sum(axis=1).mean()))
        self.spread = spread if spread > 0 else 1.0
        self._fold()
        if self.rho is not None:
            self._fit_width(phi, self.rho)

    def _fit_width(self, phi: FloatArray, rho: float) -> None:
        """Bisect log width for the widest strips whose occupied cells are rho times the distinct features (n, d).

        If even the finest have fewer, those are taken.
        """
        # The same observation has slightly different features at different places of a batch.
        distinct = len(np.unique(np.round((phi - self.mean) / self.spread, 4), axis=0))

        def share(width: float) -> float:
            self.width = width
            self._fold()
            cells = self.cells_of(phi)  # (n, T)
            return sum(len(np.unique(cells[:, j])) for j in range(self.tilings)) / (self.tilings * distinct)

        low, high = FINEST, WIDEST
        if share(high) < rho:
            for _ in range(BISECTIONS):
                middle = math.sqrt(low * high)
                low, high = (middle, high) if share(middle) >= rho else (low, middle)
            self.occupied = share(low)
        else:
            self.occupied = share(high)

    def _fold(self) -> None:
        """One matrix and one offset: floor(phi M + offset)."""
        scale = 1.0 / (self.spread * self.width)
        self._matrix = (self.W * scale).reshape(self.dim, -1)
        self._offset = self.shift.ravel() - self.mean @ self._matrix

    def cells_of(self, phi: FloatArray) -> Array:
        """Features (..., d) -> cells (..., T) int32."""
        strip = phi.reshape(-1, self.dim) @ self._matrix
        strip += self._offset
        np.floor(strip, out=strip)
        if not math.isfinite(np.add.reduce(strip, axis=None)):  # one NaN or infinity makes the sum NaN or infinite
            raise RlcError("tiles: features hold NaN or infinite values; the feature fit diverged or an input is bad.")
        strips = strip.astype(np.int64).view(np.uint64).reshape(-1, *self.shift.shape)
        strips *= self._odd
        mixed = np.add.reduce(strips, axis=-1)  # products and sums modulo 2^64
        mixed ^= mixed >> np.uint64(29)
        mixed *= MIX
        mixed >>= np.uint64(32)
        mixed %= np.uint64(self.per_tiling)
        mixed += self._first
        out: Array = mixed.astype(np.int32)
        return out.reshape(*phi.shape[:-1], self.tilings)

    def apart(self, cells: Array, num_actions: int) -> Array:
        """Cells (..., 1, T) of states -> (..., A, T) of pairs: each action has cells of its own."""
        moved = cells.astype(np.int64) + np.arange(num_actions)[:, None] * STEP
        first = self._first.astype(np.int64)
        out: Array = ((moved - first) % self.per_tiling + first).astype(np.int32)
        return out

    def state_dict(self) -> State:
        """Directions, shifts, hash, origin and unit; the width where it is fitted."""
        fitted = {} if self.rho is None else {"width": self.width, "occupied": self.occupied}
        own = {"W": self.W, "shift": self.shift, "odd": self._odd, "mean": self.mean}
        return {**{name: array.copy() for name, array in own.items()}, "spread": self.spread, **fitted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, ("spread",), "tiles")
        fill_arrays({"W": self.W, "shift": self.shift, "odd": self._odd, "mean": self.mean}, state, "tiles")
        self.spread = float(state["spread"])
        if self.rho is not None:
            require_keys(state, ("width", "occupied"), "tiles")
            self.width, self.occupied = float(state["width"]), float(state["occupied"])
        self._fold()
