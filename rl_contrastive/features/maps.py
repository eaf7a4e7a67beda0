"""Feature maps: what a planner may ask of learned features, whatever they were learned with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.planning.models import LowRankModel
from rl_contrastive.spec import Array, FloatArray, State


@runtime_checkable
class FeatureMap(Protocol):
    """phi_h(o, a) and psi_h(o') with P-hat_h(o'|o,a) = P^-_h(o') psi_h(o')'phi_h(o,a)."""

    dim: int
    """d."""
    version: int
    """Counts refits: what is stored under another version (Sigma, plans) must be rebuilt."""

    def phi(self, h: int, obs: Array) -> FloatArray:
        """(N, A, d) features of all actions at observations (N, ...)."""

    def psi(self, h: int, next_obs: Array) -> FloatArray:
        """(N, d) features of successors (N, ...)."""

    def state_dict(self) -> State:
        """Arrays and numbers that determine the map."""


@dataclass(frozen=True)
class TabularFeatures:
    """Tables phi (H, S, A, d), psi (H, S, d) and the law of negatives P^- (H, S); observations are state indices."""

    phi_table: FloatArray
    psi_table: FloatArray
    law: FloatArray
    version: int = 0

    @property
    def dim(self) -> int:
        return int(self.phi_table.shape[-1])

    def phi(self, h: int, obs: Array) -> FloatArray:
        return np.asarray(self.phi_table[h, obs])

    def psi(self, h: int, next_obs: Array) -> FloatArray:
        return np.asarray(self.psi_table[h, next_obs])

    def model(self) -> LowRankModel:
        """P-hat = P^- psi'phi as a proper distribution."""
        return LowRankModel(self.phi_table, self.psi_table, self.law)

    def rotated(self, A: FloatArray) -> TabularFeatures:
        """phi -> A_h phi, psi -> A_h^-T psi for invertible A (H, d, d): the same model in other coordinates."""
        phi = np.einsum("hij,hsaj->hsai", A, self.phi_table)
        psi = np.einsum("hji,hsj->hsi", np.linalg.inv(A), self.psi_table)
        return TabularFeatures(phi, psi, self.law, self.version)

    def state_dict(self) -> State:
        return {"phi": self.phi_table, "psi": self.psi_table, "law": self.law, "version": self.version}

    @classmethod
    def from_state(cls, state: State) -> TabularFeatures:
        """Inverse of `state_dict`."""
        for key in ("phi", "psi", "law", "version"):
            require(key in state, f"features: the saved state lacks '{key}'.")
        phi, psi, law = (np.asarray(state[key], dtype=np.float64) for key in ("phi", "psi", "law"))
        require(phi.ndim == 4, f"features: the saved phi has shape {phi.shape}, not (H, S, A, d).")
        return cls(phi, psi, law, int(state["version"]))
