"""Backward passes h = H-1..0: optimistic planning through a model, through features, by ridge regression; exact DP.

All are pure functions of arrays. Q_h = clip(r_h + b_h + P-hat_h V_{h+1}, 0, cap_h), V_h = max_a Q_h, V_H = 0, where
b_h is the elliptical bonus and cap_h bounds the return to go (the paper's H, or H - h for rewards in [0, 1]).
With b = 0 and cap = inf, `plan_model` on the true model is the exact dynamic programme `spec.optimal_values`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.planning.bonus import spd_inverse
from rl_contrastive.planning.models import DenseModel, TransitionModel
from rl_contrastive.spec import FloatArray, IntArray


@dataclass(frozen=True)
class Plan:
    """Q (H, S, A) and V (H+1, S) of a backward pass; `saturated` is the fraction of Q at its cap (0 if uncapped).

    Saturated values carry no preference between actions. A share near 1 means a bonus too large for the horizon.
    """

    Q: FloatArray
    V: FloatArray
    saturated: float

    def greedy(self) -> FloatArray:
        """The greedy policy pi (H, S, A), uniform over exact ties."""
        best = (self.Q.max(axis=-1, keepdims=True) == self.Q).astype(np.float64)
        return np.asarray(best / best.sum(axis=-1, keepdims=True))


def plan_model(
    model: TransitionModel | FloatArray,
    r: FloatArray,
    bonus: FloatArray | float = 0.0,
    *,
    cap: float | FloatArray = np.inf,
    floor: float | FloatArray = 0.0,
    alive: FloatArray | float = 1.0,
) -> Plan:
    """(i) Q_h = clip(r_h + b_h + P-hat_h V_{h+1}, floor_h, cap_h): r and bonus (H,S,A), floor and cap numbers or (H,).

    `alive` (H, S): probability that the episode continues after arriving in s' at step h; it multiplies V_{h+1}(s').

    `model` is a TransitionModel or a table P (H,S,A,S); a model of one step (G = 1) serves all steps. The lower clip
    acts only where a finite cap is given (returns are then in [floor, cap] by assumption), so negative rewards keep
    their values in exact planning.
    """
    P_hat: TransitionModel = DenseModel(model) if isinstance(model, np.ndarray) else model
    H, S, A = r.shape
    fits = P_hat.shape in ((H, S, A), (1, S, A))
    require(fits, f"plan: rewards have shape {r.shape}, the model {P_hat.shape}.")
    ceiling = np.broadcast_to(np.asarray(cap, dtype=np.float64), (H,))
    lowest = np.broadcast_to(np.asarray(floor, dtype=np.float64), (H,))
    reward = np.broadcast_to(r + bonus, r.shape)
    Q, V = np.empty(r.shape), np.zeros((H + 1, S))
    for h in range(H - 1, -1, -1):
        Q[h] = _clip(reward[h] + expect_alive(P_hat, h, V[h + 1], alive, H), ceiling[h], lowest[h])
        V[h] = Q[h].max(axis=-1)
    return Plan(Q, V, float((ceiling[:, None, None] <= Q).mean()))


def expect_alive(
    P_hat: TransitionModel, h: int, values: FloatArray, alive: FloatArray | float, horizon: int
) -> FloatArray:
    """E[alive_h(s') V(s')] of values (S,) or (S, k), by the model of step h or its only one."""
    S = values.shape[0]
    level = h if P_hat.shape[0] == horizon else 0
    goes_on = np.broadcast_to(np.asarray(alive, dtype=np.float64), (P_hat.shape[0], S))[level]
    return P_hat.expect(level, goes_on.reshape(-1, *[1] * (values.ndim - 1)) * values)


def plan_features(
    psi: FloatArray,
    law: FloatArray,
    phi_next: FloatArray,
    reward_next: FloatArray,
    bonus_next: FloatArray,
    discount: FloatArray,
    *,
    cap: float | FloatArray = np.inf,
    floor: float | FloatArray = 0.0,
) -> FloatArray:
    """(ii) w_h = E_{s' ~ P^-_h}[psi_h(s') V_{h+1}(s')], so that (P-hat_h V_{h+1})(s,a) = phi_h(s,a)'w_h; -> w (H, d).

    P^-_h is a sample of M successors: psi (H, M, d) at them, `law` (H, M) their probabilities (rows sum to 1; 0 for
    padding), `discount` (H, M) 0 at true terminals. phi_next, reward_next, bonus_next (H, M, A, ...) are
    phi_{h+1}, r_{h+1} and b_{h+1} at them; the entries of the last step are not read.
    """
    H, _, d = psi.shape
    ceiling = np.broadcast_to(np.asarray(cap, dtype=np.float64), (H,))
    lowest = np.broadcast_to(np.asarray(floor, dtype=np.float64), (H,))
    w = np.zeros((H, d))
    for h in range(H - 2, -1, -1):  # w_{H-1} = 0 because V_H = 0
        Q = reward_next[h] + bonus_next[h] + phi_next[h] @ w[h + 1]  # (M, A)
        Q = _clip(Q, ceiling[h + 1], lowest[h + 1])
        w[h] = (law[h] * discount[h] * Q.max(axis=-1)) @ psi[h]
    return w


def plan_ridge(
    phi: FloatArray,
    reward: FloatArray,
    phi_next: FloatArray,
    bonus_next: FloatArray,
    discount: FloatArray,
    count: IntArray,
    *,
    lam: float = 1.0,
    cap: float | FloatArray = np.inf,
    floor: float | FloatArray = 0.0,
) -> FloatArray:
    """(iii) LSVI: w_h = Sigma_h^-1 sum_n phi_n (r_n + V_{h+1}(s'_n)), Q_h = clip(phi'w_h + b_h, floor_h, cap_h).

    Returns w (H, d).
    phi (H, N, d) features of the stored pairs, phi_next (H, N, A, d) = phi_{h+1}(s'_n, .), bonus_next (H, N, A) =
    b_{h+1} there; reward, discount (H, N); rows n >= count[h] are padding. Source: Jin et al. 2020, Algorithm 1.
    """
    H, N, d = phi.shape
    require(lam > 0, f"plan: lambda must be > 0, got {lam}.")
    ceiling = np.broadcast_to(np.asarray(cap, dtype=np.float64), (H,))
    lowest = np.broadcast_to(np.asarray(floor, dtype=np.float64), (H,))
    masked = phi * (np.arange(N) < count[:, None])[..., None]  # (H, N, d)
    inverse = spd_inverse(lam * np.eye(d) + np.swapaxes(masked, 1, 2) @ masked)  # (H, d, d)
    w = np.zeros((H, d))
    V = np.zeros(N)
    for h in range(H - 1, -1, -1):
        if h < H - 1:
            Q = _clip(phi_next[h] @ w[h + 1] + bonus_next[h], ceiling[h + 1], lowest[h + 1])  # (N, A)
            V = discount[h] * Q.max(axis=-1)
        w[h] = inverse[h] @ ((reward[h] + V) @ masked[h])
    return w


def policy_values(P: FloatArray, r: FloatArray, pi: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Exact values of pi (H,S,A): Q_h = r_h + P_h V_{h+1}, V_h = pi_h . Q_h; P (H,S,A,S) -> V (H+1,S), Q (H,S,A)."""
    H, S, _ = r.shape
    V, Q = np.zeros((H + 1, S)), np.zeros(r.shape)
    for h in range(H - 1, -1, -1):
        Q[h] = r[h] + P[h] @ V[h + 1]
        V[h] = (pi[h] * Q[h]).sum(axis=-1)
    return V, Q


def occupancy(P: FloatArray, rho: FloatArray, pi: FloatArray) -> FloatArray:
    """Exact visit probabilities mu_h(s,a) of pi from s_0 ~ rho: mu_{h+1}(s') = sum mu_h(s,a) P_h(s'|s,a); (H,S,A)."""
    mu = np.zeros(pi.shape)
    state = np.asarray(rho, dtype=np.float64)
    for h in range(pi.shape[0]):
        mu[h] = state[:, None] * pi[h]
        state = np.einsum("sa,sat->t", mu[h], P[h])
    return mu


def _clip(Q: FloatArray, ceiling: np.float64, floor: np.float64 | float = 0.0) -> FloatArray:
    """[floor, ceiling], or nothing when the ceiling is infinite (exact planning)."""
    return np.clip(Q, floor, ceiling) if np.isfinite(ceiling) else Q
