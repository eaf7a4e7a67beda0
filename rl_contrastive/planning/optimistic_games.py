"""Optimistic value iteration for both players of a zero-sum Markov game, and the equilibrium without a bonus.

    for h = H-1..0:   Q-bar_h   = min(r_h + P-hat_h V-bar_{h+1}   + b_h, cap_h)
                      Q-under_h = max(r_h + P-hat_h V-under_{h+1} - b_h, floor_h)
                      sigma_h(.,.|s) = CCE of the pair (Q-bar_h(s,.,.), Q-under_h(s,.,.))
                      V-bar_h(s) = <sigma_h(s), Q-bar_h(s)>,   V-under_h(s) = <sigma_h(s), Q-under_h(s)>

Source: Qiu et al. 2022, Algorithm 2; Xie et al. 2020 for the use of coarse correlated equilibria. Where the bonus
covers the model's error, V-bar - V-under bounds the duality gap of sigma's marginals, and of no other pair.
Actions are joint, a B + b; all arrays (H, S, AB) float64. A model of one step (G = 1) serves all steps: P_h = P.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.planning.equilibrium import cce, nash
from rl_contrastive.planning.lsvi import expect_alive
from rl_contrastive.planning.models import DenseModel, TransitionModel
from rl_contrastive.spec import FloatArray, product


@dataclass(frozen=True)
class GamePlan:
    """Q-bar, Q-under and sigma (H, S, AB), V-bar and V-under (H+1, S)."""

    upper: FloatArray
    lower: FloatArray
    sigma: FloatArray
    V_upper: FloatArray
    V_lower: FloatArray
    gap: float
    """Largest deviation gain of all equilibria: iota of the iota-CCE (about 1e-15, the solver is exact)."""
    saturated: float
    """Share of Q-bar at its cap; a share near 1 means that the bonus is too large for the horizon."""

    def width(self) -> FloatArray:
        """V-bar_0 - V-under_0 (S,): bounds the duality gap of the marginals of sigma from each first state."""
        return np.asarray(self.V_upper[0] - self.V_lower[0])


@dataclass(frozen=True)
class NashPlan:
    """Equilibrium of a model without bonus: Q (H, S, AB), V (H+1, S), mu (H, S, A), nu (H, S, B)."""

    Q: FloatArray
    V: FloatArray
    mu: FloatArray
    nu: FloatArray

    def joint(self) -> FloatArray:
        """mu_h(a|s) nu_h(b|s) (H, S, AB)."""
        return product(self.mu, self.nu)


def plan_game(
    model: TransitionModel | FloatArray,
    r: FloatArray,
    bonus: FloatArray | float,
    players: tuple[int, int],
    *,
    cap: float | FloatArray,
    floor: float | FloatArray = 0.0,
    alive: FloatArray | float = 1.0,
) -> GamePlan:
    """The backward pass above; r, bonus (H, S, AB), cap and floor numbers or (H,), alive as in `lsvi.plan_model`."""
    P_hat, H, S = _checked(model, r, players)
    AB = r.shape[2]
    b = np.broadcast_to(np.asarray(bonus, dtype=np.float64), r.shape)
    ceiling = np.broadcast_to(np.asarray(cap, dtype=np.float64), (H,))
    lowest = np.broadcast_to(np.asarray(floor, dtype=np.float64), (H,))
    upper, lower, sigma = np.empty(r.shape), np.empty(r.shape), np.empty(r.shape)
    V = np.zeros((H + 1, S, 2))  # V-bar and V-under side by side: one pass through the model serves both
    largest = -np.inf
    for h in range(H - 1, -1, -1):
        ahead = expect_alive(P_hat, h, V[h + 1], alive, H)  # (S, AB, 2)
        # Either end may leave the range of returns where the model errs; the interval stays inside it and non-empty.
        upper[h] = np.clip(r[h] + ahead[..., 0] + b[h], lowest[h], ceiling[h])
        lower[h] = np.clip(r[h] + ahead[..., 1] - b[h], lowest[h], ceiling[h])
        result = cce(upper[h].reshape(S, *players), lower[h].reshape(S, *players))
        sigma[h] = _evened(result.sigma.reshape(S, AB), upper[h], lower[h])
        V[h, :, 0] = (sigma[h] * upper[h]).sum(axis=1)
        V[h, :, 1] = (sigma[h] * lower[h]).sum(axis=1)
        largest = max(largest, float(result.gap.max(initial=-np.inf)))
    saturated = float((ceiling[:, None, None] <= upper).mean())
    return GamePlan(upper, lower, sigma, V[..., 0], V[..., 1], largest, saturated)


def plan_nash(
    model: TransitionModel | FloatArray,
    r: FloatArray,
    players: tuple[int, int],
    bonus: FloatArray | float = 0.0,
    *,
    cap: float | FloatArray = np.inf,
    floor: float | FloatArray = -np.inf,
    alive: FloatArray | float = 1.0,
) -> NashPlan:
    """Q_h = r_h + b_h + P-hat_h V_{h+1}, (mu_h, nu_h)(s) a Nash equilibrium of Q_h(s,.,.), V_h its value.

    With b = 0 this is the equilibrium of the model itself. With b > 0, clipped to [floor_h, cap_h], it is the optimism
    of a maximiser who does not control the opponent (the online setting of Xie et al. 2020).
    """
    P_hat, H, S = _checked(model, r, players)
    Q, V = np.empty(r.shape), np.zeros((H + 1, S))
    mu, nu = np.empty((H, S, players[0])), np.empty((H, S, players[1]))
    b = np.broadcast_to(np.asarray(bonus, dtype=np.float64), r.shape)
    ceiling = np.broadcast_to(np.asarray(cap, dtype=np.float64), (H,))
    lowest = np.broadcast_to(np.asarray(floor, dtype=np.float64), (H,))
    for h in range(H - 1, -1, -1):
        Q[h] = np.clip(r[h] + expect_alive(P_hat, h, V[h + 1], alive, H) + b[h], lowest[h], ceiling[h])
        result = nash(Q[h].reshape(S, *players))
        tied = (np.ptp(Q[h], axis=1) == 0)[:, None]  # see `_evened`
        mu[h], nu[h] = np.where(tied, 1.0 / players[0], result.x), np.where(tied, 1.0 / players[1], result.y)
        V[h] = result.value
    return NashPlan(Q, V, mu, nu)


def _evened(sigma: FloatArray, upper: FloatArray, lower: FloatArray) -> FloatArray:
    """sigma (S, AB), uniform where all joint actions are worth the same to both players.

    There every distribution is an equilibrium of the same value, and the solver's vertex is the same joint action
    after each plan. Where bonuses fill the whole range, no other action would ever be tried.
    """
    tied = (np.ptp(upper, axis=1) == 0) & (np.ptp(lower, axis=1) == 0)  # (S,)
    return np.where(tied[:, None], 1.0 / sigma.shape[1], sigma)


def _checked(
    model: TransitionModel | FloatArray, r: FloatArray, players: tuple[int, int]
) -> tuple[TransitionModel, int, int]:
    P_hat: TransitionModel = DenseModel(model) if isinstance(model, np.ndarray) else model
    G, S, AB = P_hat.shape
    H = r.shape[0]
    require(
        r.ndim == 3 and r.shape[1:] == (S, AB) and G in (1, H),
        f"plan: rewards have shape {r.shape}, the model {P_hat.shape}.",
    )
    A, B = players
    require(A * B == AB, f"plan: {A} x {B} joint actions, but the model has {AB}.")
    return P_hat, H, S
