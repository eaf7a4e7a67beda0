"""What claims of rewards linear in features share: low-rank worlds with exact values, labelled pairs, logistic fits.

    P(s'|s,a) = psi(s')'phi(s,a),   P(tau is preferred to tau') = sigma((R(tau) - R(tau'))/temperature)
    r-hat(s,a) = theta'x(s,a),   theta minimises  sum_n log(1 + exp(-theta'D_n)) + lam/2 |theta|^2

D_n is the sum of x along the preferred trajectory minus that along the other one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.special import expit

from rl_contrastive.acting import invert
from rl_contrastive.envs.low_rank import LowRankConfig, draw_mdp
from rl_contrastive.errors import RlcError
from rl_contrastive.planning.lsvi import plan_model, policy_values
from rl_contrastive.preferences.data import LabelConfig, wins
from rl_contrastive.spec import FloatArray, IntArray

NULL = 1e-8
"""Relative spread below which a direction of the features counts as constant; comparisons say nothing of it."""
NEWTON_STEPS, DECREMENT = 100, 1e-14
"""Most steps, and the squared Newton decrement relative to the loss at which a fit ends."""


@dataclass(frozen=True)
class World:
    """A stationary low-rank MDP: phi (S,A,d), psi (d,S), r (S,A), first state's law rho (S,), H steps."""

    phi: FloatArray
    psi: FloatArray
    r: FloatArray
    rho: FloatArray
    horizon: int

    @cached_property
    def P(self) -> FloatArray:
        """(S, A, S)."""
        return self.phi @ self.psi

    def plan(self, reward: FloatArray) -> FloatArray:
        """pi (H, S, A), greedy for a reward (S, A) under the true P."""
        return plan_model(self.P[None], self.steps(reward)).greedy()

    def steps(self, table: FloatArray) -> FloatArray:
        """One table for all steps, (H, ...)."""
        return np.broadcast_to(table, (self.horizon, *table.shape))

    def value(self, pi: FloatArray) -> float:
        """E_pi[sum_h r], exact."""
        return float(self.rho @ policy_values(self.steps(self.P), self.steps(self.r), pi)[0][0])

    @cached_property
    def uniform(self) -> FloatArray:
        """The uniform policy (H, S, A)."""
        return np.full((self.horizon, *self.r.shape), 1.0 / self.r.shape[1])

    @cached_property
    def ends(self) -> tuple[float, float]:
        """Value of the best and of the uniform policy."""
        return self.value(self.plan(self.r)), self.value(self.uniform)

    def regret(self, reward: FloatArray) -> float:
        """(V* - V) / (V* - V_uniform) of the policy that is best for another reward (S, A)."""
        best, base = self.ends
        return (best - self.value(self.plan(reward))) / (best - base)

    def walk(self, pi: FloatArray, count: int, *, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """`count` trajectories: indices s A + a of the pairs and successors, (count, H) each."""
        S, A = self.r.shape
        s = rng.choice(S, size=count, p=self.rho)
        pairs, after = [], []
        for h in range(self.horizon):
            a = invert(pi[h, s], rng.random(count))
            pairs.append(s * A + a)
            s = invert(self.P[s, a], rng.random(count))
            after.append(s)
        return np.stack(pairs, 1), np.stack(after, 1)


def random_world(states: int, actions: int, horizon: int, rank: int, seed: int) -> World:
    """The random low-rank MDP of a seed, with r = phi'theta."""
    mdp = draw_mdp(LowRankConfig(num_states=states, num_actions=actions, horizon=horizon, rank=rank, mdp_seed=seed,
                                 reward="linear", stationary=True))  # fmt: skip
    return World(mdp.phi[0], mdp.psi[0], mdp.r[0], mdp.rho, horizon)


def fit_reward(D: FloatArray, lam: float) -> FloatArray:
    """theta (d,): the minimiser of `logistic` for differences D (n, d), by Newton's method with halved steps.

    It lies in the span of the rows, so that the search has min(n, d) dimensions. RlcError if it does not converge.
    """
    Q, R = np.linalg.qr(D.T)  # theta = Q z, D theta = R'z
    z, rows = np.zeros(len(R)), R.T
    for _ in range(NEWTON_STEPS):
        loss, gradient = logistic(z, rows, lam)
        p = expit(rows @ z)
        step = np.linalg.solve(lam * np.eye(len(z)) + (rows.T * (p * (1 - p))) @ rows, gradient)
        if gradient @ step <= DECREMENT * (1 + loss):
            return np.asarray(Q @ z)
        size = 1.0
        while logistic(z - size * step, rows, lam)[0] > loss and size > DECREMENT:
            size /= 2
        z = z - size * step
    raise RlcError(f"fit_reward: Newton's method did not converge in {NEWTON_STEPS} steps; a larger lam helps.")


def logistic(theta: FloatArray, D: FloatArray, lam: float) -> tuple[float, FloatArray]:
    """sum_n log(1 + exp(-theta'D_n)) + lam/2 |theta|^2 and its gradient lam theta - sum_n sigma(-theta'D_n) D_n."""
    margin = D @ theta
    loss = np.logaddexp(0.0, -margin).sum() + 0.5 * lam * theta @ theta
    return float(loss), lam * theta - expit(-margin) @ D


def preferred(world: World, first: IntArray, second: IntArray, temperature: float, *,
              rng: np.random.Generator) -> tuple[IntArray, IntArray]:  # fmt: skip
    """Trajectories (n, H) of pairs, put in the order of their Bradley-Terry labels: chosen, rejected."""
    R, other = (torch.from_numpy(world.r.ravel()[y].sum(1)) for y in (first, second))
    torch_rng = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
    won = wins(R, other, LabelConfig(temperature=temperature), rng=torch_rng).numpy()[:, None]
    return np.where(won, first, second), np.where(won, second, first)


def whitened(x: FloatArray, weight: FloatArray) -> FloatArray:
    """Features (N, d) with mean 0 and covariance I under weights (N,); constant directions are left out."""
    weight = weight / weight.sum()
    centred = x - weight @ x
    _, spread, V = np.linalg.svd(np.sqrt(weight)[:, None] * centred, full_matrices=False)
    kept = spread > NULL * max(float(spread[0]), NULL)
    return np.asarray(centred @ V[kept].T / spread[kept])
