"""The elliptical bonus of the deep agent: counts are visits, features are those of one frozen network at a time.

    b(s,a) = beta ||phi(s,a)||_{Sigma^-1},    Sigma = lambda I + sum over visits phi phi'

phi comes from a copy of the feature network that does not move between two rebuilds, so Sigma never mixes features of
two networks; a rebuild takes the network of the moment and recomputes the features of every stored visit. Gradient
steps change nothing here, and float64 with lambda > 0 keeps Sigma positive definite for ever. The features of stored
visits are kept beside the replay, so that the bonuses along a sampled n-step path are those of today's counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.planning.bonus import EllipticalBonus
from rl_contrastive.spec import Array, FloatArray, IntArray, State


class VisitBonus:
    """Sigma of all visits, and phi of the visits that the replay still holds."""

    def __init__(self, capacity: int, dim: int, *, lam: float, beta: float) -> None:
        """capacity: entries of the replay, whose indices are used here too; lam > 0; beta >= 0."""
        require(0.0 <= beta < np.inf, f"bonus: beta must be >= 0 and finite, got {beta}.")
        self.beta = float(beta)
        self.confidence = EllipticalBonus(1, dim, lam)
        self.phi: Array = np.zeros((capacity, dim), dtype=np.float32)
        self.visits = 0
        """Visits so far, those that left the replay included."""

    def of(self, phi: FloatArray) -> FloatArray:
        """b of features (..., d) -> (...,)."""
        return self.beta * self.confidence.norm(0, phi)

    def of_entries(self, index: IntArray) -> FloatArray:
        """b of stored visits (...,) under today's Sigma."""
        return self.of(self.phi[index])

    def visit(self, index: IntArray, phi: FloatArray) -> None:
        """Count the visits phi (k, d), stored as the entries index (k,)."""
        self.phi[index] = phi
        self.visits += len(index)
        # What is stored is what is counted: a rebuild from the same network gives the same Sigma.
        self.confidence.update(0, self.phi[index].astype(np.float64))

    def rebuild(self, chunks: Iterable[tuple[IntArray, FloatArray]]) -> None:
        """Sigma afresh from (indices, new features) of all stored visits.

        Visits that the ring has dropped are not forgotten: those that are left stand for them, each with the weight
        visits / stored.
        """
        stored = 0
        total = np.zeros((self.confidence.dim, self.confidence.dim))
        for index, phi in chunks:
            self.phi[index] = phi
            rows = self.phi[index].astype(np.float64)
            total += rows.T @ rows
            stored += len(index)
        require(stored <= self.visits, f"bonus: {stored} stored visits, but only {self.visits} were counted.")
        self.confidence.reset(total * (self.visits / stored) if stored else total)

    def state_dict(self) -> State:
        """Sigma, the count, and the features of the entries used so far.

        Features could be computed again from the frozen network, but in batches of another size, and so not to the bit.
        """
        used = np.flatnonzero(self.phi.any(axis=1))
        last = int(used[-1]) + 1 if len(used) else 0
        return {"visits": self.visits, "confidence": self.confidence.state_dict(), "phi": self.phi[:last].copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        for key in ("visits", "confidence", "phi"):
            require(key in state, f"bonus: the saved state lacks '{key}'.")
        phi = np.asarray(state["phi"])
        fits = phi.ndim == 2 and len(phi) <= len(self.phi) and phi.shape[1] == self.phi.shape[1]
        require(fits, f"bonus: the saved features have shape {phi.shape}, there is room for {self.phi.shape}.")
        self.phi[:] = 0.0
        self.phi[: len(phi)] = phi
        self.visits = int(state["visits"])
        self.confidence.load_state_dict(state["confidence"])
