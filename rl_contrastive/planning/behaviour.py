"""The exact distribution of what an agent plays while it learns, so that regret is an expectation and not a sample.

An episode draws a mode m ~ start and acts by the Markov policy pi[m]. At a state marked in `leave` it changes to the
last mode before it acts, and stays there. A Markov policy is one mode. Algorithm 1 has one mode for each step t around
which its episodes act uniformly. An agent that walks to a frontier and acts uniformly from there has two modes.
"""

from __future__ import annotations

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.spec import Behaviour, ExactModel, FloatArray


def uniform_around(pi: FloatArray, share: float = 1.0) -> Behaviour:
    """Algorithm 1's roll-in: t uniform in 0..H, actions uniform at steps t - 1 and t, pi (H, S, A) elsewhere.

    share: the probability that an episode is of this kind; the others follow pi to the end.
    """
    H, _, A = pi.shape
    modes = np.repeat(pi[None], H + 2, axis=0)  # the last one is pi itself
    for t in range(H + 1):
        modes[t, max(t - 1, 0) : t + 1] = 1.0 / A
    start = np.full(H + 2, share / (H + 1))
    start[-1] = 1.0 - share
    return Behaviour(start, modes) if share < 1.0 else Behaviour(start[:-1], modes[:-1])


def behaviour_value(model: ExactModel, behaviour: Behaviour) -> float:
    """Expected return rho . V_0 of an episode, by one backward pass over all modes; observations must be states."""
    start, pi = behaviour.start, behaviour.pi
    M, H, S, A = pi.shape
    require(start.shape == (M,), f"behaviour: start has shape {start.shape}, not ({M},).")
    require(model.r.shape == (H, S, A), f"behaviour: pi has sizes {(H, S, A)}, the model {model.r.shape}.")
    V = np.zeros((S, M))
    for h in range(H - 1, -1, -1):
        Q = model.r[h][..., None] + _expected(model, h, V)  # (S, A, M)
        V = np.einsum("msa,sam->sm", pi[:, h], Q)
        if behaviour.leave is not None:
            V[:, 0] = np.where(behaviour.leave[h], V[:, -1], V[:, 0])
    return float(model.rho @ (V @ start))


def policy_value(model: ExactModel, pi: FloatArray) -> float:
    """Expected return rho . V^pi_0 of one Markov policy pi (H, S, A); observations must be states."""
    V = np.zeros(len(model.rho))
    for h in range(len(pi) - 1, -1, -1):
        V = (pi[h] * (model.r[h] + _expected(model, h, V))).sum(axis=-1)
    return float(model.rho @ V)


def _expected(model: ExactModel, h: int, V: FloatArray) -> FloatArray:
    """P_h V (S, A, M) of V (S, M), or (S, A) of V (S,).

    Through the factors where they are given, which costs O(S A d M) and not O(S^2 A M).
    """
    if model.phi is not None and model.psi is not None and model.phi.shape[-1] < V.shape[0]:
        return np.asarray(model.phi[h] @ (model.psi[h].T @ V))
    return np.asarray(model.P[h] @ V)
