"""What an agent plays while it learns, as an exact law: its regret is an expectation, not a sample.

An episode draws a mode m ~ start and acts by the Markov policy pi[m]; at a state marked in `leave` it changes to the
last mode, for good and before it acts. One mode alone is a Markov policy. Algorithm 1 has a mode for each step t at
whose uniform actions its episodes aim; an agent that walks to a frontier and acts uniformly from there has two.
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


def _expected(model: ExactModel, h: int, V: FloatArray) -> FloatArray:
    """P_h V (S, A, M), through the factors where they are given: O(S A d M) in place of O(S^2 A M)."""
    if model.phi is not None and model.psi is not None and model.phi.shape[-1] < V.shape[0]:
        return np.asarray(model.phi[h] @ (model.psi[h].T @ V))
    return np.asarray(model.P[h] @ V)
