"""Which observations of an episode count as the same: those of equal bytes, or those whose features are close.

    bytes      o_i = o_j
    features   |psi(o_i) - psi(o_j)| <= r, o_j the first of its kind in the episode: the nearest such o_j gives its name
               r = reach x median over visits x of min_{y != x} |psi(x) - psi(y)|

With noise no bytes come again, and memory of an episode knows nothing. Contrastive features leave out of psi(s') what
(s,a) does not tell about it, so two looks at the same place are close and other places are not. Most places are visited
more than once, so the distance to the nearest other visit is that of the noise; without noise it is 0, and r is what
rounding needs. Assigning each point to the first of its kind is leader clustering (Hartigan 1975, chapter 3).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np

from rl_contrastive.config import require, require_keys
from rl_contrastive.deep.bonus_contract import evenly
from rl_contrastive.deep.replay.ring import Ring
from rl_contrastive.spec import Array, FloatArray, IntArray, State

FeaturesOf = Callable[[IntArray], FloatArray]
"""Entries (n,) -> their current features (n, d)."""
COMPARED = 2048
"""Visits among which nearest neighbours are looked for."""
ROUNDING = 1e-3
"""Least r in units of the features' spread: the same observation in another batch has slightly other features."""


class Closeness:
    """r, below which features of the same observation are apart."""

    def __init__(self, reach: float) -> None:
        self.reach, self.radius = float(reach), 0.0

    def adapt(self, sample: FloatArray) -> None:
        """Take r from features of visits (n, d); it stays where there are fewer than two."""
        x = sample[evenly(len(sample), COMPARED)]
        if len(x) < 2:
            return
        x = x - x.mean(axis=0)
        square = np.square(x).sum(axis=1)
        distance = square[:, None] + square - 2.0 * x @ x.T
        np.fill_diagonal(distance, np.inf)
        # Rounding can leave tiny negatives where two are equal.
        nearest = np.sqrt(np.maximum(distance.min(axis=1), 0.0))
        self.radius = max(self.reach * float(np.median(nearest)), ROUNDING * float(np.sqrt(square.mean())))

    def state_dict(self) -> State:
        """r."""
        return {"radius": self.radius}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on a missing or impossible radius."""
        require_keys(state, ("radius",), "names")
        radius = float(state["radius"])
        require(0 <= radius < np.inf, f"names: a saved radius of {radius}.")
        self.radius = radius


class Leaders:
    """Leader clustering within each of B episodes."""

    def __init__(self, closeness: Closeness) -> None:
        self.closeness = closeness
        self._leaders: list[FloatArray] = []
        """(room, d) of each row; the first `_counts[row]` are leaders."""
        self._counts: list[int] = []

    def begin(self, num_rows: int) -> None:
        """New episodes of all rows."""
        self._leaders = [np.zeros((0, 0)) for _ in range(num_rows)]
        self._counts = [0] * num_rows

    def restart(self, rows: IntArray) -> None:
        """New episodes of these rows alone."""
        for row in rows.tolist():
            self._counts[row] = 0

    def assign(self, row: int, x: FloatArray) -> tuple[int, bool]:
        """Number of the leader of x (d,) in this row's episode, and whether x is that leader itself."""
        count = self._counts[row]
        if count:
            away = self._leaders[row][:count] - x
            distance = np.einsum("nd,nd->n", away, away)
            nearest = int(distance.argmin())
            if distance[nearest] <= self.closeness.radius**2:
                return nearest, False
        if count == len(self._leaders[row]):
            room = np.zeros((max(count, 16), len(x)))  # it doubles
            self._leaders[row] = np.concatenate([self._leaders[row], room]) if count else room
        self._leaders[row][count] = x
        self._counts[row] = count + 1
        return count, True

    def move(self, row: int, number: int, x: FloatArray) -> None:
        """The features of a leader changed."""
        self._leaders[row][number] = x


class Names(Protocol):
    """Names of what B episodes side by side show; equal ones within an episode mean the same observation."""

    def begin(self, num_rows: int) -> None:
        """New episodes of all rows."""

    def restart(self, rows: IntArray) -> None:
        """New episodes of these rows alone."""

    def of(self, rows: IntArray, obs: Array, psi: FloatArray, entries: IntArray) -> list[Hashable]:
        """Of what these rows (k,) show now: observations (k, ...), features (k, d), entries in the replay (k,)."""

    def renew(self) -> None:
        """The features changed, within the going episodes."""


class ByteNames:
    """Observations with the same bytes are the same."""

    def begin(self, num_rows: int) -> None:
        """Nothing: a name says it all."""

    def restart(self, rows: IntArray) -> None:
        """Nothing, either."""

    def of(self, rows: IntArray, obs: Array, psi: FloatArray, entries: IntArray) -> list[Hashable]:
        return [name_of(one) for one in obs]

    def renew(self) -> None:
        """Bytes stay."""


class LeaderNames(ABC):
    """Observations with close features are the same: each has the number of its leader.

    Of each leader a mark is kept, by which `renew` computes its features again.
    """

    def __init__(self, closeness: Closeness) -> None:
        self._leaders = Leaders(closeness)
        self._marks: list[list[Any]] = []
        """Of the leaders of each row."""

    @abstractmethod
    def _mark(self, obs: Array, entry: int) -> Any:
        """The mark of an observation, which is at this entry of the replay."""

    @abstractmethod
    def renew(self) -> None:
        """The features changed, within the going episodes."""

    def begin(self, num_rows: int) -> None:
        self._leaders.begin(num_rows)
        self._marks = [[] for _ in range(num_rows)]

    def restart(self, rows: IntArray) -> None:
        self._leaders.restart(rows)
        for row in rows.tolist():
            self._marks[row] = []

    def of(self, rows: IntArray, obs: Array, psi: FloatArray, entries: IntArray) -> list[Hashable]:
        out: list[Hashable] = []
        for row, one, x, entry in zip(rows.tolist(), obs, psi, entries, strict=True):
            number, new = self._leaders.assign(row, x)
            if new:
                self._marks[row].append(self._mark(one, entry))
            out.append(number)
        return out


class FeatureNames(LeaderNames):
    """For observations in a replay: the marks are serial numbers of entries."""

    def __init__(self, closeness: Closeness, ring: Ring, features_of: FeaturesOf) -> None:
        """ring: of the replay that holds the entries; features_of: computes their features."""
        super().__init__(closeness)
        self._ring, self._features_of = ring, features_of

    def _mark(self, obs: Array, entry: int) -> int:
        return int(self._ring.serial(entry))

    def renew(self) -> None:
        """Compute the features of all leaders again that the replay still holds."""
        ring = self._ring
        for row, serials in enumerate(self._marks):
            # An episode longer than the replay has lost its beginning.
            numbers = [k for k, serial in enumerate(serials) if serial >= ring.oldest]
            numbers = [k for k in numbers if ring.whole[serials[k] % ring.capacity]]
            entries = np.array([serials[k] % ring.capacity for k in numbers], dtype=np.int64)
            for k, x in zip(numbers, self._features_of(entries) if numbers else (), strict=True):
                self._leaders.move(row, k, x)


def name_of(obs: Array) -> bytes:
    """Short for the bytes of an observation."""
    return blake2b(np.ascontiguousarray(obs).tobytes(), digest_size=16).digest()
