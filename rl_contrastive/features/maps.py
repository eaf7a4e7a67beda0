"""Feature maps: the interface through which planners use learned features, however these were learned."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import numpy as np

from rl_contrastive.config import require, require_keys
from rl_contrastive.planning.models import LowRankModel
from rl_contrastive.spec import Array, FloatArray, State


def constant_features(H: int, D: int, k: int, A: int, d: int, version: int = 0) -> LinearFeatures:
    """phi = psi = e_1: the ratio is 1 and P-hat = P^- for every observation."""
    Phi, Psi = np.zeros((H, A, k + 1, d)), np.zeros((H, k + 1, d))
    Phi[:, :, -1, 0] = Psi[:, -1, 0] = 1.0
    mean, whitening = np.zeros((H, D)), np.zeros((H, D, k))
    return LinearFeatures(
        mean, whitening, Phi, mean, whitening, Psi, sharpness=np.zeros(H), scale=np.ones((H, d)), version=version
    )


@runtime_checkable
class FeatureMap(Protocol):
    """phi_h(o, a) and psi_h(o') with P-hat_h(o'|o,a) = P^-_h(o') psi_h(o')'phi_h(o,a)."""

    @property
    def dim(self) -> int:
        """d."""

    @property
    def version(self) -> int:
        """Number of refits. Whatever was computed under another version (Sigma, plans) must be rebuilt."""

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
        return {
            "kind": "tabular",
            "phi": self.phi_table,
            "psi": self.psi_table,
            "law": self.law,
            "version": self.version,
        }

    @classmethod
    def from_state(cls, state: State) -> TabularFeatures:
        """Inverse of `state_dict`."""
        require_keys(state, ("phi", "psi", "law", "version"), "features")
        phi, psi, law = (np.asarray(state[key], dtype=np.float64) for key in ("phi", "psi", "law"))
        require(phi.ndim == 4, f"features: the saved phi has shape {phi.shape}, not (H, S, A, d).")
        return cls(phi, psi, law, int(state["version"]))


@dataclass(frozen=True)
class LinearFeatures:
    """Vector observations: z = (T_h'(x - mu_h), 1), phi = Phi_{h,a}'z, psi = Psi_h'z' with z' likewise of successors.

    mean (H, D), whitening T (H, D, k), Phi (H, A, k+1, d); next_mean (H, D), next_whitening (H, D, k'),
    Psi (H, k'+1, d). Where sharpness[h] = beta > 0 the features are >= 0: both sides pass softplus(beta u)/beta,
    psi is divided by scale[h] (d,), its mean under P^-, and phi is put on the simplex, so that P-hat sums to 1.
    """

    mean: FloatArray
    whitening: FloatArray
    Phi: FloatArray
    next_mean: FloatArray
    next_whitening: FloatArray
    Psi: FloatArray
    sharpness: FloatArray
    scale: FloatArray
    version: int = 0

    @property
    def dim(self) -> int:
        return int(self.Phi.shape[-1])

    def phi(self, h: int, obs: Array) -> FloatArray:
        z = coordinates(obs, self.mean[h], self.whitening[h])  # (N, k+1)
        u = np.swapaxes(z @ self.Phi[h], 0, 1)  # (A, N, d) -> (N, A, d)
        return nonnegative_phi(u, self.sharpness[h], self.scale[h])

    def psi(self, h: int, next_obs: Array) -> FloatArray:
        u = coordinates(next_obs, self.next_mean[h], self.next_whitening[h]) @ self.Psi[h]  # (N, d)
        return nonnegative_psi(u, self.sharpness[h], self.scale[h])

    def state_dict(self) -> State:
        return {"kind": "linear", **{field.name: getattr(self, field.name) for field in fields(self)}}

    @classmethod
    def from_state(cls, state: State) -> LinearFeatures:
        """Inverse of `state_dict`."""
        for field in fields(cls):
            require(field.name in state, f"features: the saved state lacks '{field.name}'.")
        names = [field.name for field in fields(cls) if field.name != "version"]
        arrays = {name: np.asarray(state[name], dtype=np.float64) for name in names}
        require(
            arrays["Phi"].ndim == 4, f"features: the saved Phi has shape {arrays['Phi'].shape}, not (H, A, k+1, d)."
        )
        return cls(**arrays, version=int(state["version"]))


def coordinates(obs: Array, mean: FloatArray, whitening: FloatArray) -> FloatArray:
    """(T'(x - mu), 1): observations (..., D or more axes flattened) -> (N, k+1)."""
    x = np.asarray(obs, dtype=np.float64).reshape(len(obs), -1)
    return np.concatenate([(x - mean) @ whitening, np.ones((len(x), 1))], axis=1)


def softplus(u: FloatArray, sharpness: float) -> FloatArray:
    """log(1 + exp(beta u)) / beta, computed as a logaddexp that cannot overflow; tends to max(u, 0) as beta grows."""
    return np.asarray(np.logaddexp(0.0, sharpness * u) / sharpness)


def nonnegative_phi(u: FloatArray, sharpness: float, scale: FloatArray) -> FloatArray:
    """u itself if sharpness is 0, else scale * softplus(u) normalised to sum 1 over the last axis."""
    if sharpness == 0:
        return u
    phi = softplus(u, sharpness) * scale
    # exp(-745) = 0: far outside the data every factor can underflow, and phi is then the centre of the simplex.
    total = phi.sum(axis=-1, keepdims=True)
    return np.asarray(np.where(total > 0, phi / np.where(total > 0, total, 1.0), 1.0 / phi.shape[-1]))


def nonnegative_psi(u: FloatArray, sharpness: float, scale: FloatArray) -> FloatArray:
    """u itself if sharpness is 0, else softplus(u) / scale."""
    return u if sharpness == 0 else softplus(u, sharpness) / scale
