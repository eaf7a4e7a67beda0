"""The elliptical bonus: it is large in directions of the feature space that were seldom visited at step h.

Sigma_h = lambda I + sum_n phi_n phi_n',   b_h(phi) = min(gamma ||phi||_{Sigma_h^-1}, cap)   (Qiu et al. 2022, Alg. 1).
Counts are visits, never gradient updates: after each refit of the features Sigma is rebuilt from all stored rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_contrastive.config import require, require_keys
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import FloatArray, IntArray, State


def elliptical_norm(inverse: FloatArray, phi: FloatArray) -> FloatArray:
    """||phi||_{Sigma^-1} = sqrt(phi' Sigma^-1 phi); inverse (..., d, d), phi (..., N, d) -> (..., N)."""
    square = np.einsum("...nd,...nd->...n", phi @ inverse, phi)
    # Rounding can leave -1e-18 where phi is (nearly) zero; a true negative is excluded by Sigma >= lambda I.
    return np.asarray(np.sqrt(np.maximum(square, 0.0)))


def potential_bound(count: int, dim: int, lam: float, norm: float = 1.0) -> float:
    """Elliptical potential lemma: sum_n min(1, ||phi_n||^2_{Sigma_{n-1}^-1}) <= 2 d log(1 + n L^2/(d lambda)).

    n = count, L = norm bounds |phi_n|. Source: Abbasi-Yadkori et al. 2011, Lemma 11.
    """
    return float(2 * dim * np.log1p(count * norm**2 / (dim * lam)))


class EllipticalBonus:
    """Covariances of H steps at once: Sigma (H, d, d) and its inverse, both float64.

    Cost: O(d^2) a norm, O(d^2) a rank-one update, O(H (N d^2 + d^3)) a rebuild.
    """

    def __init__(self, horizon: int, dim: int, lam: float = 1.0) -> None:
        require(horizon >= 1 and dim >= 1, f"bonus: horizon and dim must be >= 1, got {horizon} and {dim}.")
        require(np.isfinite(lam) and lam > 0, f"bonus: lambda must be finite and > 0, got {lam}.")
        self.horizon, self.dim, self.lam = horizon, dim, float(lam)
        self.Sigma: FloatArray = np.tile(self.lam * np.eye(dim), (horizon, 1, 1))  # (H, d, d)
        self.inverse: FloatArray = np.tile(np.eye(dim) / self.lam, (horizon, 1, 1))  # (H, d, d)

    def norm(self, h: int, phi: FloatArray) -> FloatArray:
        """||phi||_{Sigma_h^-1} of phi (..., d) -> (...,)."""
        phi = self._checked(phi)
        return elliptical_norm(self.inverse[h], phi.reshape(-1, self.dim)).reshape(phi.shape[:-1])

    def norms(self, phi: FloatArray) -> FloatArray:
        """All steps at once: phi (H, ..., d) -> (H, ...)."""
        phi = self._checked(phi)
        require(phi.shape[0] == self.horizon, f"bonus: expected {self.horizon} steps, got features of {phi.shape[0]}.")
        return elliptical_norm(self.inverse, phi.reshape(self.horizon, -1, self.dim)).reshape(phi.shape[:-1])

    def bonus(self, h: int, phi: FloatArray, gamma: float, cap: float) -> FloatArray:
        """b_h = min(gamma ||phi||_{Sigma_h^-1}, cap), phi (..., d) -> (...,). The paper's cap is H."""
        return np.minimum(gamma * self.norm(h, phi), cap)

    def bonuses(self, phi: FloatArray, gamma: float, cap: float) -> FloatArray:
        """`bonus` of all steps at once: phi (H, ..., d) -> (H, ...)."""
        return np.minimum(gamma * self.norms(phi), cap)

    def update(self, h: int, phi: FloatArray) -> None:
        """Add the visits phi (k, d) or (d,) to Sigma_h; Woodbury's identity (Sherman-Morrison for k = 1):

        Sigma^-1 <- Sigma^-1 - Sigma^-1 Phi' (I + Phi Sigma^-1 Phi')^-1 Phi Sigma^-1.
        """
        Phi = self._checked(np.atleast_2d(phi))  # (k, d)
        self.Sigma[h] += Phi.T @ Phi
        if Phi.shape[0] >= self.dim:  # for a block as large as d a fresh factorisation is cheaper and more exact
            self.inverse[h] = spd_inverse(self.Sigma[h])
            return
        G = Phi @ self.inverse[h]  # (k, d)
        inner = np.eye(Phi.shape[0]) + G @ Phi.T  # (k, k), eigenvalues >= 1
        inverse = self.inverse[h] - G.T @ np.linalg.solve(inner, G)
        self.inverse[h] = 0.5 * (inverse + inverse.T)

    def rebuild(self, phi: FloatArray, *, count: IntArray | None = None, weight: FloatArray | None = None) -> None:
        """Sigma_h = lambda I + sum_n weight_hn phi_hn phi_hn' from all stored rows, for all steps by batched Cholesky.

        phi (H, N, d): rows are visits, of which the first `count` (H,) are real; or rows are distinct pairs with
        `weight` (H, N) visits each (the cheap form of tabular data). The dimension d may differ from before.
        """
        phi = np.asarray(phi, dtype=np.float64)
        require(
            phi.ndim == 3 and phi.shape[0] == self.horizon,
            f"bonus: rebuild needs features of shape (H={self.horizon}, N, d), got {phi.shape}.",
        )
        self.dim = int(phi.shape[2])
        phi = self._checked(phi)
        if weight is not None:
            require(weight.shape == phi.shape[:2], f"bonus: weight has shape {weight.shape}, not {phi.shape[:2]}.")
            require(bool((weight >= 0).all()), "bonus: visit weights must be finite and >= 0.")
            phi = phi * np.sqrt(weight)[..., None]
        if count is not None:
            phi = phi * (np.arange(phi.shape[1]) < count[:, None])[..., None]
        self.Sigma = self.lam * np.eye(self.dim) + np.swapaxes(phi, 1, 2) @ phi  # (H, d, d)
        self.inverse = spd_inverse(self.Sigma)

    def reset(self, gram: FloatArray) -> None:
        """Sigma_h = lambda I + gram (d, d) of every step h: the caller has summed phi phi' in pieces."""
        require(
            gram.shape == (self.dim, self.dim) and bool(np.isfinite(gram).all()),
            f"bonus: expected a finite ({self.dim}, {self.dim}) sum of phi phi', got shape {gram.shape}.",
        )
        self.Sigma = np.tile(self.lam * np.eye(self.dim) + gram, (self.horizon, 1, 1))
        self.inverse = spd_inverse(self.Sigma)

    def state_dict(self) -> State:
        """Arrays and numbers from which `load_state_dict` restores the same bytes."""
        return {"lam": self.lam, "Sigma": self.Sigma.copy(), "inverse": self.inverse.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, ("lam", "Sigma", "inverse"), "bonus")
        Sigma = np.array(state["Sigma"], dtype=np.float64)
        inverse = np.array(state["inverse"], dtype=np.float64)
        square = Sigma.ndim == 3 and Sigma.shape[0] == self.horizon and Sigma.shape[1] == Sigma.shape[2]
        require(
            square and inverse.shape == Sigma.shape,
            f"bonus: the saved state has shapes {Sigma.shape} and {inverse.shape}, not (H={self.horizon}, d, d).",
        )
        self.lam, self.dim = float(state["lam"]), int(Sigma.shape[1])
        self.Sigma, self.inverse = Sigma, inverse

    def _checked(self, phi: FloatArray) -> FloatArray:
        phi = np.asarray(phi, dtype=np.float64)
        require(phi.shape[-1] == self.dim, f"bonus: features have dimension {phi.shape[-1]}, expected {self.dim}.")
        if not np.isfinite(phi).all():
            raise RlcError("bonus: features hold NaN or infinite values; the feature fit diverged or an input is bad.")
        return phi


def spd_inverse(Sigma: FloatArray) -> FloatArray:
    """Inverse of symmetric positive definite matrices (..., d, d) by Cholesky: Sigma = L L', Sigma^-1 = L^-T L^-1."""
    try:
        L = np.linalg.cholesky(Sigma)
    except np.linalg.LinAlgError as error:
        raise RlcError("bonus: Sigma is not positive definite; features are too large for this lambda.") from error
    L_inverse = np.linalg.solve(L, np.broadcast_to(np.eye(Sigma.shape[-1]), Sigma.shape))
    return np.asarray(np.swapaxes(L_inverse, -1, -2) @ L_inverse)
