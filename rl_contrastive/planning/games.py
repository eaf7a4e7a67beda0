"""Values of two-player zero-sum Markov games by backward induction: Nash, best responses, the exact duality gap.

    Nash:           Q_h = r_h + P_h V_{h+1},  V_h(s) = max_mu min_nu mu' Q_h(s) nu                 (Shapley 1953)
    best response:  V^{br,nu}_h(s) = E_x[max_a sum_b nu(b|x) Q_h(s,a,b)],  V^{mu,br} likewise with the minimum
    duality gap:    rho . (V^{br,nu}_0 - V^{mu,br}_0) >= 0, and 0 exactly at a Nash equilibrium

Actions are joint, a B + b: P (H, S, AB, S), r (H, S, AB). Policies have a sample axis M: mu (H, S, M, A) and nu
(H, S, M, B) are the players' action probabilities at M observations x of every state; M = 1 where observations are
states. The responder sees x and knows the state behind it. The gap of a policy over rich observations is therefore an
upper bound of its exploitability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from rl_contrastive.config import require
from rl_contrastive.planning.equilibrium import nash
from rl_contrastive.spec import Array, ExactModel, FloatArray, IntArray, LayeredGame


@dataclass(frozen=True)
class DualityGap:
    """Values rho . V_0 of a pair (mu, nu) against each other and against best responses."""

    value: float
    """V^{mu,nu}."""
    best_max: float
    """V^{br,nu} >= V*: the return of the best maximiser against nu."""
    best_min: float
    """V^{mu,br} <= V*: the return that mu is guaranteed."""

    @property
    def gap(self) -> float:
        """V^{br,nu} - V^{mu,br}."""
        return self.best_max - self.best_min


def nash_values(P: FloatArray, r: FloatArray, players: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """V (H+1, S) and Q (H, S, AB) of the Nash equilibria of every step."""
    H, S, _ = r.shape
    V, Q = np.zeros((H + 1, S)), np.zeros(r.shape)
    for h in range(H - 1, -1, -1):
        Q[h] = r[h] + P[h] @ V[h + 1]
        V[h] = nash(Q[h].reshape(S, *players)).value
    return V, Q


SPARSE = 0.05
"""Share of entries > 0 up to which a kernel is kept as a sparse matrix."""

Kernels = Sequence[Any]
"""For each step a matrix (S AB, S), dense or sparse."""


def kernels(P: FloatArray) -> Kernels:
    """P_h as matrices, sparse where nearly all is 0 (grid games), one for all steps where P is one along H."""
    H, S, AB, _ = P.shape
    different = P[:1] if P.strides[0] == 0 else P
    flat = [table.reshape(S * AB, S) for table in different]
    made = [sparse.csr_matrix(table) if np.count_nonzero(table) <= SPARSE * table.size else table for table in flat]
    return made * H if len(made) < H else made


def duality_gap(model: ExactModel, mu: FloatArray, nu: FloatArray, P: Kernels | None = None) -> DualityGap:
    """Exact values of (mu, nu) and of the best responses to each; mu (H, S, M, A), nu (H, S, M, B).

    P: `kernels(model.P)`, for callers who ask often.
    """
    require(model.players is not None, "duality gap: the model is of one agent, not of a game.")
    assert model.players is not None
    A, B = model.players
    H, S, _ = model.r.shape
    for name, policy, actions in (("mu", mu, A), ("nu", nu, B)):
        good = policy.ndim == 4 and policy.shape[:2] == (H, S) and policy.shape[3] == actions
        require(good, f"duality gap: {name} has shape {policy.shape}, not (H={H}, S={S}, M, {actions}).")
    P = kernels(model.P) if P is None else P
    played, upper, lower = np.zeros(S), np.zeros(S), np.zeros(S)
    for h in range(H - 1, -1, -1):
        values = np.stack([played, upper, lower], axis=1)  # (S, 3)
        Q = model.r[h].reshape(S, A, B, 1) + np.asarray(P[h] @ values).reshape(S, A, B, 3)
        played = np.einsum("sma,sab,smb->sm", mu[h], Q[..., 0], nu[h]).mean(axis=1)
        upper = np.einsum("sab,smb->sma", Q[..., 1], nu[h]).max(axis=2).mean(axis=1)
        lower = np.einsum("sma,sab->smb", mu[h], Q[..., 2]).min(axis=2).mean(axis=1)
    return DualityGap(*(float(model.rho @ V) for V in (played, upper, lower)))


Policies = Callable[[Array, int], tuple[FloatArray, FloatArray]]
"""Observations (S, ...) of step h -> mu (S, A) and nu (S, B)."""


def layered_gap(game: LayeredGame, policies: Policies) -> DualityGap:
    """The same of a game that is listed step by step; each policy is asked once for each state."""
    values = np.zeros((0, 3))  # of the layer below: played, against nu, against mu
    for h in range(len(game.layers) - 1, -1, -1):
        layer = game.layers[h]
        mu, nu = policies(layer.obs, h)
        below = np.concatenate([values, np.zeros((1, 3))])  # -1 is over
        Q = layer.reward[..., None] + (layer.probability[..., None] * below[layer.successor]).sum(axis=3)
        x, y = moves(mu, layer.own, Q.shape[1]), moves(nu, layer.other, Q.shape[2])
        values = np.stack(
            [
                np.einsum("sn,snm,sm->s", x, Q[..., 0], y),
                np.einsum("snm,sm->sn", Q[..., 1], y).max(axis=1),
                np.einsum("sn,snm->sm", x, Q[..., 2]).min(axis=1),
            ],
            axis=1,
        )
    return DualityGap(*(float(game.rho @ V) for V in values.T))


def moves(policy: FloatArray, which: IntArray, count: int) -> FloatArray:
    """Probabilities of moves (S, count) of those of actions (S, A); which (S, A): the move that an action is."""
    out = np.zeros((len(policy), count))
    rows = np.arange(len(policy))
    for a in range(policy.shape[1]):
        out[rows, which[:, a]] += policy[:, a]
    return out
