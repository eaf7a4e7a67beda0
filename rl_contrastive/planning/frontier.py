"""Exploration towards the largest uncertainty that can be reached, not the sum of the bonuses along the way.

    b_h(z,a) = 1/sqrt(1 + N_h(z,a)),   E_h(z,a) = max(b_h(z,a), sum_z' P-hat_h(z'|z,a) max_a' E_{h+1}(z',a')).

For one-hot features b is the elliptical norm ||phi||_{Sigma^-1} with lambda = 1. The maximum has no scale to tune and
lies in [0, 1] for every horizon. It does not saturate, while a clipped sum of H bonuses does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_contrastive.spec import FloatArray


@dataclass(frozen=True)
class FrontierPlan:
    """bonus b, reachable P-hat V_E and E = max of both, all (H, K, A); greedy values Q (H, K, A) of r-hat, P-hat."""

    bonus: FloatArray
    reachable: FloatArray
    E: FloatArray
    Q: FloatArray

    def frontier(self) -> FloatArray:
        """(H, K) 1 where some action here is at least as uncertain as anything ahead: max_a b >= max_a P-hat V_E."""
        return np.asarray(self.bonus.max(axis=2) >= self.reachable.max(axis=2), dtype=np.float64)


def plan_frontier(P: FloatArray, r: FloatArray, N: FloatArray) -> FrontierPlan:
    """Backward pass over counts: P (H,K,A,K) (rows may sum to less than 1: terminals), r and N (H,K,A).

    A pair that was never tried has b = 1, reaches nothing and keeps the lowest Q of its state, so that the greedy
    policy does not gamble on it.
    """
    H, K, _ = r.shape
    bonus = 1.0 / np.sqrt(1.0 + N)
    tried = N > 0
    reachable, E, Q = np.zeros(r.shape), np.empty(r.shape), np.empty(r.shape)
    explore, value = np.zeros(K), np.zeros(K)
    for h in range(H - 1, -1, -1):
        reachable[h] = P[h] @ explore
        E[h] = np.maximum(bonus[h], reachable[h])
        explore = E[h].max(axis=1)
        known = r[h] + P[h] @ value
        # All pairs of an unseen state count 0, the value of no reward.
        lowest = np.where(tried[h], known, np.inf).min(axis=1, initial=np.inf, keepdims=True)
        Q[h] = np.where(tried[h], known, np.where(np.isfinite(lowest), lowest, 0.0))
        value = Q[h].max(axis=1)
    return FrontierPlan(bonus, reachable, E, Q)
