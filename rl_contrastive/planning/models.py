"""Transition models as planners see them: E_{s' ~ P-hat_h(.|s,a)}[V(s')] for all (s,a), always a proper distribution.

`DenseModel` is a table; `LowRankModel` is P-hat = P^- psi'phi, clipped at 0 and renormalised, never stored whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.spec import BoolArray, FloatArray

BLOCK = 1 << 17
"""Entries of P-hat held at a time (1 MiB of float64): the clip then runs in cache, not in memory."""


class TransitionModel(Protocol):
    """The methods of a learned or true model that `lsvi.plan_model` uses."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, S, A)."""

    def expect(self, h: int, values: FloatArray) -> FloatArray:
        """E_{s' ~ P-hat_h(.|s,a)} of values (S,) or (S, k) -> (S, A) or (S, A, k)."""

    def rows(self, h: int) -> FloatArray:
        """P-hat_h as a table (S, A, S); rows are >= 0 and sum to 1."""


@dataclass(frozen=True)
class DenseModel:
    """A table P (H, S, A, S) whose rows are distributions: the truth, or empirical frequencies."""

    P: FloatArray

    def __post_init__(self) -> None:
        shape = self.P.shape
        require(len(shape) == 4 and shape[1] == shape[3], f"model: P must have shape (H, S, A, S), got {shape}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.P.shape[0], self.P.shape[1], self.P.shape[2]

    def expect(self, h: int, values: FloatArray) -> FloatArray:
        return np.asarray(self.P[h] @ values)

    def rows(self, h: int) -> FloatArray:
        return np.asarray(self.P[h])


@dataclass(frozen=True)
class LowRankModel:
    """P-hat_h(s'|s,a) = [P^-_h(s') psi_h(s')'phi_h(s,a)]_+ / normaliser: phi (H,S,A,d), psi (H,S,d), law (H,S).

    A least-squares fit can leave small negative ratios and rows that do not sum to 1. On such rows a planner can
    return values that no policy has. Clipping and renormalising turns them into distributions. A row whose
    ratios are all <= 0 falls back to P^- (ratio 1). Where phi, psi >= 0 nothing is clipped and the expectation
    costs O(S A d) instead of O(S^2 A d).
    """

    phi: FloatArray
    psi: FloatArray
    law: FloatArray
    nonnegative: BoolArray = field(init=False)
    """(H,): steps whose factors are all >= 0."""

    def __post_init__(self) -> None:
        H, S, _, d = self.phi.shape
        require(
            self.psi.shape == (H, S, d) and self.law.shape == (H, S),
            f"model: phi {self.phi.shape}, psi {self.psi.shape} and law {self.law.shape} do not fit together.",
        )
        object.__setattr__(self, "nonnegative", (self.phi >= 0).all(axis=(1, 2, 3)) & (self.psi >= 0).all(axis=(1, 2)))

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.phi.shape[0], self.phi.shape[1], self.phi.shape[2]

    def expect(self, h: int, values: FloatArray) -> FloatArray:
        _, S, A = self.shape
        V = values.reshape(S, -1)  # (S, k)
        total = np.column_stack([np.ones(S), V])  # (S, 1+k): the normaliser is the expectation of 1
        phi = self.phi[h].reshape(S * A, -1)  # (SA, d)
        w = self.law[h][:, None] * self.psi[h]  # (S, d) measure mu_h of P-hat_h = mu_h(s')'phi
        if self.nonnegative[h]:
            sums = phi @ (w.T @ total)  # (SA, 1+k)
        else:
            step = max(1, BLOCK // S)
            sums = np.concatenate(
                [np.maximum(phi[i : i + step] @ w.T, 0.0) @ total for i in range(0, S * A, step)]
            )  # (SA, 1+k)
        mass = sums[:, :1]
        fallback = self.law[h] @ V / self.law[h].sum()  # (k,)
        expected = np.where(mass > 0, sums[:, 1:] / np.where(mass > 0, mass, 1.0), fallback)
        return np.asarray(expected.reshape(S, A, *values.shape[1:]))

    def rows(self, h: int) -> FloatArray:
        _, S, A = self.shape
        phi = self.phi[h].reshape(S * A, -1)  # (SA, d)
        return proper_rows(phi, self.law[h][:, None] * self.psi[h], self.law[h]).reshape(S, A, S)


def proper_rows(phi: FloatArray, w: FloatArray, law: FloatArray) -> FloatArray:
    """[phi w']_+ with rows renormalised to 1, and `law` where a row has no mass; phi (N, d), w (M, d) -> (N, M)."""
    P = np.maximum(phi @ w.T, 0.0)
    mass = P.sum(axis=1, keepdims=True)
    return np.asarray(np.where(mass > 0, P / np.where(mass > 0, mass, 1.0), law / law.sum()))
