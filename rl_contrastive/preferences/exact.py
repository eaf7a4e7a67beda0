"""Exact optima of the regularised problem max_pi E_pi[R] - beta KL(pi || pi_ref), so that a loss can be judged.

On a bandit, and on completions that are listed one by one, the optimum is pi*(y) = pi_ref(y) exp(R(y)/beta) / Z. In an
MDP it follows by dynamic programming. Where transitions are random the two differ: exp(R/beta) over trajectories would
also tilt the transitions, which no policy can do. `soft_optimal` is the optimum among policies.

Everything here is numpy in float64; log-probabilities may be -inf where the reference has no mass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from rl_contrastive.config import require, require_number
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import FloatArray


def optimum(reward: FloatArray, log_ref: FloatArray, beta: float) -> FloatArray:
    """log pi* (..., A) = log pi_ref + R/beta - log Z of rewards (..., A); RlcError on wrong use, as of all here."""
    _require_beta("optimum", beta)
    reward, log_ref = _arrays("optimum", reward=reward, log_ref=log_ref)
    scores = log_ref + reward / beta
    out: FloatArray = scores - logsumexp(scores, axis=-1, keepdims=True)
    return out


def divergence(log_pi: FloatArray, log_ref: FloatArray) -> FloatArray:
    """KL(pi || pi_ref) (...) over the last axis; inf where pi has mass and the reference none."""
    log_pi, log_ref = _arrays("divergence", log_pi=log_pi, log_ref=log_ref)
    return _divergence(log_pi, log_ref)


def _divergence(log_pi: FloatArray, log_ref: FloatArray) -> FloatArray:
    inside = log_pi > -np.inf
    terms = np.exp(log_pi) * np.where(inside, log_pi - np.where(inside, log_ref, 0.0), 0.0)
    out: FloatArray = terms.sum(-1)
    return out


def regularised_value(log_pi: FloatArray, reward: FloatArray, log_ref: FloatArray, beta: float) -> FloatArray:
    """E_pi[R] - beta KL(pi || pi_ref) (...) of log pi (..., A)."""
    log_pi, reward, log_ref = _arrays("regularised_value", log_pi=log_pi, reward=reward, log_ref=log_ref)
    value: FloatArray = (np.exp(log_pi) * reward).sum(-1) - beta * _divergence(log_pi, log_ref)
    return value


def regret(log_pi: FloatArray, reward: FloatArray, log_ref: FloatArray, beta: float) -> FloatArray:
    """How much regularised value pi lacks, (...); it equals beta KL(pi || pi*)."""
    _require_beta("regret", beta)
    log_pi, reward, log_ref = _arrays("regret", log_pi=log_pi, reward=reward, log_ref=log_ref)
    best = beta * logsumexp(log_ref + reward / beta, axis=-1)
    out: FloatArray = best - regularised_value(log_pi, reward, log_ref, beta)
    return out


@dataclass(frozen=True)
class SoftOptimum:
    """The best policy of an MDP for E[sum r] - beta sum KL(pi_h || pi_ref,h)."""

    log_pi: FloatArray
    """(H, S, A)."""
    V: FloatArray
    """(H + 1, S): the regularised value from step h on; V_H = 0."""
    Q: FloatArray
    """(H, S, A): r + P V_{h+1}."""


def soft_optimal(P: FloatArray, r: FloatArray, log_ref: FloatArray, beta: float) -> SoftOptimum:
    """Backward recursion with P (H, S, A, S), r (H, S, A), log pi_ref (H, S, A):

    Q_h = r_h + P_h V_{h+1},   V_h(s) = beta log sum_a pi_ref(a|s) exp(Q_h(s,a)/beta),
    pi*_h(a|s) = pi_ref(a|s) exp((Q_h(s,a) - V_h(s))/beta).
    """
    _require_beta("soft_optimal", beta)
    H, S, A = r.shape
    require(P.shape == (H, S, A, S), f"soft_optimal: P must have shape {(H, S, A, S)}, got {P.shape}.")
    require(log_ref.shape == (H, S, A), f"soft_optimal: log_ref must have shape {(H, S, A)}, got {log_ref.shape}.")
    V, Q = np.zeros((H + 1, S)), np.zeros((H, S, A))
    log_pi = np.zeros((H, S, A))
    for h in reversed(range(H)):
        Q[h] = r[h] + P[h] @ V[h + 1]
        V[h] = beta * logsumexp(log_ref[h] + Q[h] / beta, axis=-1)
        log_pi[h] = log_ref[h] + (Q[h] - V[h][:, None]) / beta
    return SoftOptimum(log_pi, V, Q)


@dataclass(frozen=True)
class PolicyValue:
    """What a policy earns and how far it is from the reference, both in expectation over its own trajectories."""

    value: float
    """E[sum_h r_h]."""
    kl: float
    """KL of the two laws of trajectories, sum_h E[KL(pi_h || pi_ref,h)]."""


def policy_value(
    P: FloatArray, r: FloatArray, start: FloatArray, log_pi: FloatArray, log_ref: FloatArray
) -> PolicyValue:
    """Exact value and divergence of log pi (H, S, A), from the first state's law `start` (S,)."""
    value, kl, occupancy = 0.0, 0.0, np.asarray(start, dtype=np.float64)
    for h in range(len(r)):
        joint = occupancy[:, None] * np.exp(log_pi[h])  # (S, A)
        value += float((joint * r[h]).sum())
        kl += float((occupancy * np.where(occupancy > 0, _divergence(log_pi[h], log_ref[h]), 0.0))[occupancy > 0].sum())
        occupancy = np.einsum("sa,sat->t", joint, P[h])
    return PolicyValue(value, kl)


def _require_beta(who: str, beta: float) -> None:
    """RlcError unless beta is a positive number."""
    require_number(f"{who}: beta", beta)
    require(beta > 0 and np.isfinite(beta), f"{who}: beta must be > 0 and finite, got {beta}.")


def _arrays(who: str, **given: Any) -> tuple[FloatArray, ...]:
    """The arguments as float64; RlcError unless they are rewards and log-probabilities of the same A actions."""
    out = []
    for name, value in given.items():
        require(not getattr(value, "requires_grad", False), f"{who}: {name} requires a gradient; pass {name}.detach().")
        try:
            x = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise RlcError(f"{who}: {name} must be an array of numbers, got {type(value).__name__}.") from error
        require(x.ndim > 0 and x.shape[-1] > 0, f"{who}: {name} must have shape (..., A), A >= 1, got {x.shape}.")
        if name == "reward":
            require(bool(np.isfinite(x).all()), f"{who}: reward holds NaN or infinite numbers.")
        else:
            require(bool((x < np.inf).all()), f"{who}: {name} holds NaN or infinite numbers; only -inf is allowed.")
            some = bool((x > -np.inf).any(-1).all())
            require(some, f"{who}: {name} is -inf for every action, so it is no law.")
        out.append(x)
    shapes = {name: x.shape for name, x in zip(given, out, strict=True)}
    words = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    good = len({shape[-1] for shape in shapes.values()}) == 1
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError:
        good = False
    require(good, f"{who}: shapes (..., A) must agree, got {words}.")
    return tuple(out)
