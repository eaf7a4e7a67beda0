"""Counts of visits as a bonus: features are those of one frozen network at a time.

    elliptical  b(s,a) = beta u^p,   u = phi(s,a)'Sigma^-1 phi(s,a),   Sigma = lambda I + sum over visits phi phi'
    tiles       b(s,a) = beta u^p,   u = mean over tilings of 1 / (lambda + visits of the cell): hash counts of the
                cells that phi falls into (`cells.py`)

The power p is 1/2 unless `BonusConfig.power` says otherwise. With it and one tiling, `tiles` is the elliptical norm of
the cells' one-hot vectors, whose Sigma is diagonal. With T > 1 it is no such norm: the joint vector e / sqrt(T) of all
tilings has a Sigma that is not diagonal, and its norm is at least b.

phi comes from a copy of the feature network that is frozen between two rebuilds, so a count never mixes features of two
networks. A rebuild copies the current network and counts every visit again. Visits that left the replay are counted by
their representatives (`past.py`). Gradient steps change nothing here. The key of a pair is the data from which its
bonus is computed. Keys are stored beside the replay for each entry and action, so that the bonuses of sampled entries
use the current counts and need no forward pass.

Why tiles: once more distinct pairs were visited than phi has coordinates, they span R^d. Then the norm no longer tells
a pair never seen from one seen often. Cells have no such limit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rl_contrastive.config import require, require_keys
from rl_contrastive.deep.bonus_config import Pays
from rl_contrastive.deep.bonus_contract import Chunk, Gone, Step
from rl_contrastive.deep.cells import Tiles
from rl_contrastive.deep.replay.changed_rows import Patches
from rl_contrastive.planning.bonus import EllipticalBonus
from rl_contrastive.spec import Array, FloatArray, IntArray, State

Counted = tuple[Array, FloatArray]
"""Keys (n, w) and their numbers of visits (n,)."""


class VisitBonus(ABC):
    """Counts of all visits, and the keys (capacity, A, ...) of the entries that the replay still holds."""

    pays: Pays = "pair"
    uses_features = True

    def __init__(self, keys: Array, *, beta: float) -> None:
        """keys: zeros; beta >= 0."""
        require(0.0 <= beta < np.inf, f"bonus: beta must be >= 0 and finite, got {beta}.")
        self.beta = float(beta)
        self.keys, self.patches = keys, {"keys": Patches(keys)}
        self.visits = 0
        """Visits so far, those that left the replay included."""

    @abstractmethod
    def key(self, phi: FloatArray) -> Array:
        """The keys of features (..., d)."""

    @abstractmethod
    def of_keys(self, keys: Array) -> FloatArray:
        """b >= 0 of keys (..., w) under the current counts -> (...,)."""

    @abstractmethod
    def _count(self, keys: Array) -> None:
        """Add visits with the keys (k, w)."""

    @abstractmethod
    def _adapt(self, phi: FloatArray) -> None:
        """Before a rebuild, adapt the keys to features of stored visits (n, d)."""

    @abstractmethod
    def _recount(self, counted: list[Counted]) -> None:
        """Count all visits again."""

    def value(self, phi: FloatArray) -> FloatArray:
        """b of features (..., d) -> (...,)."""
        return self.of_keys(self.key(phi))

    def at(self, index: IntArray) -> FloatArray:
        """b of all actions at entries index (N,) -> (N, A)."""
        return self.of_keys(self.keys[index])

    def taken(self, index: IntArray, action: IntArray) -> FloatArray:
        """b of stored visits: entries and actions (...,) -> (...,)."""
        return self.of_keys(self.keys[index, action])

    def store(self, index: IntArray, phi: FloatArray) -> None:
        """Store the keys of new entries index (k,) with features (k, A, d), before they are sampled or visited."""
        self.keys[index] = self.key(phi)
        self.patches["keys"].touch(index)

    def watch(self, step: Step) -> None:
        """Store the keys of what was seen, and count what was done."""
        if step.transition.h == 0:
            self.store(step.index, step.first)
        self.store(step.newest, step.phi)
        self.visit(step.index, step.action)

    def start(self, obs: Array) -> None:
        """It does nothing, because features have their own scale."""
        del obs

    def visit(self, index: IntArray, action: IntArray) -> None:
        """Count the actions (k,) taken at entries index (k,) that were stored."""
        # Count the stored keys, so that a rebuild from the same network gives the same counts.
        self.count(self.keys[index, action])

    def count(self, keys: Array) -> None:
        """Count visits with the keys (k, w)."""
        self.visits += len(keys)
        self._count(keys)

    def key_taken(self, phi: FloatArray, action: IntArray) -> Array:
        """The keys to count for the actions (n,) under features (n, A, d), or (n, 1, d) of states: (n, w)."""
        return self.key(phi)[np.arange(len(action)), action]

    def rebuild(self, sample: FloatArray, chunks: Iterator[Chunk], gone: Iterable[Gone] = ()) -> None:
        """Count again, from all entries of the replay and all visits that left it.

        sample (n, d): features of some visits, to adapt to.
        """
        self._adapt(sample)
        counted: list[Counted] = []
        for index, action, phi in chunks:
            self.store(index, phi)
            acted = action >= 0
            keys = self.keys[index[acted], action[acted]]
            counted.append((keys, np.ones(len(keys))))
        stored = sum(len(keys) for keys, _ in counted)
        counted += [(self.key_taken(phi, action), weight) for phi, action, weight in gone]
        total = float(sum(weight.sum() for _, weight in counted))
        # The weights of a sample are fractions.
        fits = abs(total - self.visits) <= 1e-6 * self.visits
        require(
            fits, f"bonus: {stored} stored visits and {total - stored:g} that left, but {self.visits} were counted."
        )
        self._recount(counted)

    def report(self) -> dict[str, float]:
        """Nothing, unless a subclass has something to say."""
        return {}

    @abstractmethod
    def state_dict(self, *, whole: bool = True) -> State:
        """Counts and, where `whole`, the keys of the entries used so far; else those are saved by `patches`.

        Features could be computed again from the frozen network, but in batches of another size they differ in the last
        bits.
        """

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any], *, whole: bool = True) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""

    def _own_state(self, whole: bool) -> State:
        if not whole:
            return {"visits": self.visits}
        used = np.flatnonzero(self.keys.any(axis=tuple(range(1, self.keys.ndim))))
        last = int(used[-1]) + 1 if len(used) else 0
        return {"visits": self.visits, "keys": self.keys[:last].copy()}

    def _load_own(self, state: dict[str, Any], whole: bool, names: tuple[str, ...]) -> None:
        require_keys(state, ("visits", *names, *(("keys",) if whole else ())), "bonus")
        self.visits = int(state["visits"])
        if not whole:
            return
        keys = np.asarray(state["keys"])
        fits = keys.ndim == self.keys.ndim and len(keys) <= len(self.keys) and keys.shape[1:] == self.keys.shape[1:]
        require(fits, f"bonus: the saved keys have shape {keys.shape}, there is room for {self.keys.shape}.")
        self.keys[:] = 0
        self.keys[: len(keys)] = keys
        self.patches["keys"].forget()


class EllipticalVisits(VisitBonus):
    """beta (phi'Sigma^-1 phi)^power; keys are the features themselves, in single precision."""

    def __init__(
        self, capacity: int, num_actions: int, dim: int, *, lam: float, beta: float, power: float = 0.5
    ) -> None:
        """capacity: entries of the replay, whose indices are used here too; lam > 0; beta >= 0; power > 0."""
        super().__init__(np.zeros((capacity, num_actions, dim), dtype=np.float32), beta=beta)
        self.confidence, self.power = EllipticalBonus(1, dim, lam), power

    def key(self, phi: FloatArray) -> Array:
        return np.asarray(phi, dtype=np.float32)

    def of_keys(self, keys: Array) -> FloatArray:
        return self.beta * self.confidence.norm(0, keys) ** (2.0 * self.power)

    def _count(self, keys: Array) -> None:
        self.confidence.update(0, keys.astype(np.float64))

    def _adapt(self, phi: FloatArray) -> None:
        """It does nothing, because Sigma has no origin and no unit of its own."""

    def _recount(self, counted: list[Counted]) -> None:
        total = np.zeros((self.confidence.dim, self.confidence.dim))
        for keys, weight in counted:
            rows = keys.astype(np.float64)
            total += rows.T @ (rows * weight[:, None])
        self.confidence.reset(total)

    def state_dict(self, *, whole: bool = True) -> State:
        return {**self._own_state(whole), "confidence": self.confidence.state_dict()}

    def load_state_dict(self, state: dict[str, Any], *, whole: bool = True) -> None:
        self._load_own(state, whole, ("confidence",))
        self.confidence.load_state_dict(state["confidence"])


class TileVisits(VisitBonus):
    """beta (mean_j 1 / (lambda + n_j))^power; keys are the cells' numbers."""

    def __init__(
        self,
        capacity: int,
        num_actions: int,
        tiles: Tiles,
        *,
        lam: float,
        beta: float,
        power: float = 0.5,
        of_states: bool = False,
    ) -> None:
        """capacity: entries of the replay, whose indices are used here too; lam > 0; beta >= 0; power > 0. of_states:
        features are (..., 1, d), for states, and each action has its own cells."""
        super().__init__(np.zeros((capacity, num_actions, tiles.tilings), dtype=np.int32), beta=beta)
        self.of_states = of_states
        require(0.0 < lam < np.inf, f"bonus: lambda must be finite and > 0, got {lam}.")
        self.tiles, self.lam, self.power = tiles, float(lam), power
        self.counts: FloatArray = np.zeros(tiles.cells)

    def key(self, phi: FloatArray) -> Array:
        cells = self.tiles.cells_of(phi)
        return self.tiles.apart(cells, self.keys.shape[1]) if self.of_states else cells

    def of_keys(self, keys: Array) -> FloatArray:
        each = self.counts.take(keys)
        each += self.lam
        np.reciprocal(each, out=each)
        u = np.add.reduce(each, axis=-1) / self.tiles.tilings
        return np.asarray(self.beta * (np.sqrt(u) if self.power == 0.5 else u**self.power))

    def _count(self, keys: Array) -> None:
        np.add.at(self.counts, keys, 1.0)

    def _adapt(self, phi: FloatArray) -> None:
        self.tiles.adapt(phi)

    def _recount(self, counted: list[Counted]) -> None:
        self.counts[:] = 0.0
        for keys, weight in counted:
            np.add.at(self.counts, keys, weight[:, None])

    def report(self) -> dict[str, float]:
        """Width of the strips and share of occupied cells, where they are fitted."""
        return {} if self.tiles.rho is None else {"width": self.tiles.width, "occupied": self.tiles.occupied}

    def state_dict(self, *, whole: bool = True) -> State:
        cells = np.flatnonzero(self.counts)
        return {
            **self._own_state(whole),
            "cells": cells,
            "counts": self.counts[cells],
            "lam": self.lam,
            "tiles": self.tiles.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], *, whole: bool = True) -> None:
        self._load_own(state, whole, ("cells", "counts", "lam", "tiles"))
        self.lam = float(state["lam"])
        self.tiles.load_state_dict(state["tiles"])
        cells, counts = np.asarray(state["cells"]), np.asarray(state["counts"])
        fits = cells.shape == counts.shape and bool((cells < len(self.counts)).all())
        require(fits, "bonus: the saved counts do not fit the cells.")
        self.counts[:] = 0.0
        self.counts[cells] = counts
