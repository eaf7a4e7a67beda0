"""Novelty within an episode, e(s'), by which a bonus of arrivals is multiplied; x are features of s'.

    first     1[s' is new in this episode], by its bytes (NovelD, Zhang et al. 2021) or by its features (`names.py`)
    cells     mean_j (1 + n_j)^-2, n_j visits of the cell of x in this episode
    e3b       q = x' C^-1 x,  C = lambda I + sum_k x_k x_k' over the episode       (Henaff et al. 2022)
    ellipse   q / (1 + q) in [0, 1] of the same q, x whitened by the covariance of the visits
    nearest   min_k |x - x_k|^2 / its running mean, 1 where the episode has no x_k yet (DEIR, Wan et al. 2023)
    temporal  min_k d(x_k, x) / its running mean, d the distance in time of `temporal.py`   (ETD, Jiang et al. 2025)

C^-1 is kept by rank-one updates, C^-1 <- C^-1 - u u' / (1 + q) with u = C^-1 x (Sherman and Morrison). All of it
is forgotten when an episode begins; when the features change within one, its past is computed again under the new ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import Any

import numpy as np

from rl_contrastive.config import fill_arrays, require, require_keys
from rl_contrastive.deep.cells import Tiles
from rl_contrastive.deep.names import Closeness, Leaders, name_of
from rl_contrastive.deep.temporal import distances
from rl_contrastive.spec import Array, FloatArray, IntArray, State


class Gate(ABC):
    """e of B episodes side by side. What rows (k,) show is `seen` (k, ...): features (k, d), or else observations."""

    uses_features = True

    @abstractmethod
    def begin(self, num_rows: int) -> None:
        """New episodes of all rows."""

    @abstractmethod
    def restart(self, rows: IntArray) -> None:
        """New episodes of these rows (k,) alone."""

    @abstractmethod
    def meet(self, rows: IntArray, seen: Array) -> FloatArray:
        """e (k,) of what these rows show now, which is then added to the past of their episodes."""

    def add(self, rows: IntArray, seen: Array) -> None:
        """Add it without a weight: an episode's first observation, and a past that is computed again."""
        self.meet(rows, seen)

    def adapt(self, sample: FloatArray) -> None:
        """Take origin and scale from features of some visits (n, d), which changed."""
        del sample

    def state_dict(self) -> State:
        """What outlives an episode."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        del state


class FirstVisit(Gate):
    """1 for an observation that is new in its episode; 0 afterwards."""

    uses_features = False

    def begin(self, num_rows: int) -> None:
        self._names: list[set[bytes]] = [set() for _ in range(num_rows)]

    def restart(self, rows: IntArray) -> None:
        for row in rows.tolist():
            self._names[row] = set()

    def meet(self, rows: IntArray, seen: Array) -> FloatArray:
        out = np.zeros(len(rows))
        for k, (row, one) in enumerate(zip(rows.tolist(), seen, strict=True)):
            name, past = name_of(one), self._names[row]
            out[k] = name not in past
            past.add(name)
        return out


class FirstLook(Gate):
    """The same by features: 1 for those that are close to none of their episode (`names.py`)."""

    def __init__(self, closeness: Closeness) -> None:
        self._leaders = Leaders(closeness)

    def begin(self, num_rows: int) -> None:
        self._leaders.begin(num_rows)

    def restart(self, rows: IntArray) -> None:
        self._leaders.restart(rows)

    def meet(self, rows: IntArray, seen: Array) -> FloatArray:
        new = [self._leaders.assign(row, x)[1] for row, x in zip(rows.tolist(), seen, strict=True)]
        return np.array(new, dtype=np.float64)


class CellVisits(Gate):
    """mean_j (1 + n_j)^-2 over the tilings."""

    def __init__(self, tiles: Tiles) -> None:
        self.tiles = tiles

    def begin(self, num_rows: int) -> None:
        self._visits: list[Counter[int]] = [Counter() for _ in range(num_rows)]

    def restart(self, rows: IntArray) -> None:
        for row in rows.tolist():
            self._visits[row] = Counter()

    def meet(self, rows: IntArray, seen: Array) -> FloatArray:
        cells = self.tiles.cells_of(seen).tolist()  # of all tilings, whose numbers differ
        n = []
        for row, mine in zip(rows.tolist(), cells, strict=True):
            n.append([self._visits[row][cell] for cell in mine])
            self._visits[row].update(mine)
        return np.asarray(((1.0 + np.array(n, dtype=np.float64)) ** -2).mean(axis=1))

    def adapt(self, sample: FloatArray) -> None:
        self.tiles.adapt(sample)

    def state_dict(self) -> State:
        return {"tiles": self.tiles.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        require_keys(state, ("tiles",), "gate")
        self.tiles.load_state_dict(state["tiles"])


class Ellipse(Gate):
    """q = x'C^-1x, or with `bounded` q / (1 + q) of whitened features."""

    def __init__(self, dim: int, *, lam: float, bounded: bool) -> None:
        self.dim, self.lam, self.bounded = dim, float(lam), bounded
        self.mean: FloatArray = np.zeros(dim)
        self.whitening: FloatArray = np.eye(dim)

    def begin(self, num_rows: int) -> None:
        self.inverse: FloatArray = np.tile(np.eye(self.dim) / self.lam, (num_rows, 1, 1))  # (B, d, d)

    def restart(self, rows: IntArray) -> None:
        self.inverse[rows] = np.eye(self.dim) / self.lam

    def meet(self, rows: IntArray, seen: Array) -> FloatArray:
        x = (seen - self.mean) @ self.whitening
        u = np.einsum("kij,kj->ki", self.inverse[rows], x)  # C^-1 x (k, d)
        # Rounding can leave a tiny negative where x is nearly 0.
        q: FloatArray = np.maximum(np.einsum("kd,kd->k", x, u), 0.0)
        self.inverse[rows] -= u[:, :, None] * u[:, None, :] / (1.0 + q)[:, None, None]
        return q / (1.0 + q) if self.bounded else q

    def adapt(self, sample: FloatArray) -> None:
        """Whiten by the covariance of the sample; E3B takes features as they are."""
        if not self.bounded:
            return
        self.mean = sample.mean(axis=0)
        value, vector = np.linalg.eigh(np.cov(sample.T, bias=True).reshape(self.dim, self.dim))
        # Directions with a thousandth of the mean variance or less are rounding and noise: they are not blown up.
        least = max(1e-3 * float(value.mean()), 1e-12)
        self.whitening = vector / np.sqrt(np.maximum(value, least))

    def state_dict(self) -> State:
        return {"mean": self.mean.copy(), "whitening": self.whitening.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        fill_arrays({"mean": self.mean, "whitening": self.whitening}, state, "gate")


class Nearest(Gate):
    """min_k |x - x_k|^2 over the episode, divided by the mean of all such distances so far."""

    def __init__(self) -> None:
        self.count, self.mean = 0, 0.0

    def begin(self, num_rows: int) -> None:
        self._past: list[list[FloatArray]] = [[] for _ in range(num_rows)]

    def restart(self, rows: IntArray) -> None:
        for row in rows.tolist():
            self._past[row] = []

    def meet(self, rows: IntArray, seen: Array) -> FloatArray:
        out = np.ones(len(rows))
        for k, (row, x) in enumerate(zip(rows.tolist(), seen, strict=True)):
            if self._past[row]:
                distance = float(self._distances(np.array(self._past[row]), x).min())
                self.count += 1
                self.mean += (distance - self.mean) / self.count
                out[k] = distance / self.mean if self.mean > 0 else 0.0
        self.add(rows, seen)
        return out

    def add(self, rows: IntArray, seen: Array) -> None:
        for row, x in zip(rows.tolist(), seen, strict=True):
            self._past[row].append(np.array(x))

    def _distances(self, past: FloatArray, x: FloatArray) -> FloatArray:
        """From each of past (n, d) to x (d,): (n,)."""
        return np.asarray(np.square(past - x).sum(axis=1))

    def state_dict(self) -> State:
        return {"count": self.count, "mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        require_keys(state, ("count", "mean"), "gate")
        self.count, self.mean = int(state["count"]), float(state["mean"])
        require(self.count >= 0, f"gate: a saved count of {self.count}.")


class Temporal(Nearest):
    """min_k d(x_k, x) over the episode, divided by the mean of all such distances so far."""

    def _distances(self, past: FloatArray, x: FloatArray) -> FloatArray:
        return distances(past, x)
