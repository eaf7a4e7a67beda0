"""Exact models of gymnasium's toy-text environments, read from the transition table `P` that they publish."""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_contrastive.spec import ExactModel, optimal_values


def exact_table(env: Any, horizon: int) -> ExactModel | None:
    """ExactModel of an env with `P[s][a] = [(probability, s', reward, terminated), ...]`, or None without one.

    States that are entered with `terminated` become absorbing at reward 0. None as well if such a state is entered
    without it too (then the state alone does not tell whether the episode is over), and without a published start
    distribution `initial_state_distrib`.
    """
    table, rho = getattr(env, "P", None), getattr(env, "initial_state_distrib", None)
    if not isinstance(table, dict) or rho is None:
        return None
    S, A = len(table), len(table[0])
    rows = [(s, a, *outcome) for s in table for a in table[s] for outcome in table[s][a]]
    ending = {successor for _, _, _, successor, _, terminated in rows if terminated}
    start = np.asarray(rho, dtype=np.float64)
    if any(start[s] > 0.0 for s in ending):
        return None
    P, r = np.zeros((S, A, S)), np.zeros((S, A))
    for s, a, probability, successor, reward, terminated in rows:
        if s in ending:
            continue  # nobody acts there
        if successor in ending and not terminated and probability > 0.0:
            return None
        P[s, a, successor] += probability
        r[s, a] += probability * reward
    for s in ending:
        P[s, :, s] = 1.0
    P, r = np.broadcast_to(P, (horizon, S, A, S)), np.broadcast_to(r, (horizon, S, A))
    V, Q = optimal_values(P, r)
    psi = np.broadcast_to(np.eye(S), (horizon, S, S))
    return ExactModel(P, r, start, P, psi, V, Q, observations_are_states=True)
