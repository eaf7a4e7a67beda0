"""How three losses look when every expectation is exact: p* = N(R, 1) against noise q = N(0, 1), by quadrature.

The model is p(x) = exp(theta x - x^2/2 - c) / sqrt(2 pi) with tau = (theta, c): theta is the mean, c the log-partition,
which the likelihood computes (c = theta^2/2) and NCE and eNCE learn. So with T(x) = (x, -1),
    l(x) = log p/q = theta x - c = tau' T(x);    start: (0, 0), the noise law itself;    truth: (R, R^2/2).
loss          value                                      gradient                           Hessian
likelihood    -E_* l + log E_q e^l (free of c)           E_p T - E_* T in theta             Var_p x in theta
NCE           E_* log(1+e^-l) + E_q log(1+e^l)           E_q s(l) T - E_* s(-l) T           (E_* + E_q) s(l) s(-l) T T'
log eNCE      log (E_* e^{-l/2} + E_q e^{l/2})/2         E_w y T / 2                        E_w T T' / 4 - grad grad'
with s the logistic function and, for eNCE, w the exponentials normalised over both laws, y = -1 on data, +1 on noise
(the formulas of Liu et al. 2022 up to constant factors, which only scale step sizes). log eNCE is used because
normalised descent needs a direction only and exp(R^2/8) overflows; the Hessian of eNCE itself follows by
H(L) = L (H(log L) + grad grad').
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from rl_contrastive.claims.energy.side_by_side import Steps, stepper
from rl_contrastive.config import require
from rl_contrastive.energy.noise import LOG_2PI
from rl_contrastive.spec import BoolArray, FloatArray

Loss = Literal["likelihood", "nce", "ence"]
LOSSES: tuple[Loss, ...] = ("likelihood", "nce", "ence")


@dataclass(frozen=True)
class Line:
    """Nodes of the trapezoid rule with the logarithms of their masses under both laws."""

    x: Tensor
    """(n,) float64."""
    log_p: Tensor
    """(n,) log (p*(x) dx)."""
    log_q: Tensor
    """(n,) log (q(x) dx)."""
    distance: float
    """R."""

    @property
    def T(self) -> Tensor:
        """(n, 2): (x, -1)."""
        return torch.stack([self.x, -torch.ones_like(self.x)], dim=-1)


@dataclass(frozen=True)
class Shape:
    """A loss at the points tau (..., 2)."""

    value: Tensor
    """(...)."""
    gradient: Tensor
    """(..., 2)."""
    hessian: Tensor
    """(..., 2, 2)."""


def line(distance: float, *, spacing: float = 0.05, reach: float = 9.0) -> Line:
    """Nodes from -reach to R + reach.

    Beyond 9 standard deviations lies 1e-19 of either mass; the logistic function's poles lie pi/theta off the axis, so
    the trapezoid rule's error is about exp(-2 pi^2 / (theta spacing)): 2e-11 of an integrand's size at theta = 16.
    """
    require(distance >= 0.0, f"population: the distance R must be >= 0, got {distance}.")
    require(0.0 < spacing <= 0.1, f"population: spacing must lie in (0, 0.1], got {spacing}.")
    n = math.ceil((distance + 2.0 * reach) / spacing) + 1
    x = torch.linspace(-reach, distance + reach, n, dtype=torch.float64)
    log_cell = math.log(float(x[1] - x[0]))
    log_q = -0.5 * x.square() - 0.5 * LOG_2PI + log_cell
    log_p = -0.5 * (x - distance).square() - 0.5 * LOG_2PI + log_cell
    return Line(x, log_p, log_q, distance)


def truth(distance: float) -> Tensor:
    """(2,) the minimiser (R, R^2/2)."""
    return torch.tensor([distance, 0.5 * distance**2], dtype=torch.float64)


def on_path(theta: Tensor) -> Tensor:
    """(..., 2) the normalised models theta -> (theta, theta^2/2), the path from q to p*."""
    return torch.stack([theta, 0.5 * theta.square()], dim=-1)


def gradient(loss: Loss, tau: Tensor, at: Line) -> Tensor:
    """(..., 2) the gradient alone, which a descent needs; see the module's table."""
    return _GRADIENTS[loss](tau, at)


def shape(loss: Loss, tau: Tensor, at: Line) -> Shape:
    """Value, gradient and Hessian at tau (..., 2); "ence" is log L."""
    log_r = _scores(tau, at)
    g = gradient(loss, tau, at)
    if loss == "likelihood":
        log_e = at.log_q + log_r
        p = torch.softmax(log_e, dim=-1)
        value = torch.logsumexp(log_e, dim=-1) - (at.log_p.exp() * log_r).sum(-1)
        variance = (p * at.x.square()).sum(-1) - (p * at.x).sum(-1).square()
        hessian = torch.zeros(*tau.shape, 2, dtype=torch.float64)
        hessian[..., 0, 0] = variance
        return Shape(value, g, hessian)
    if loss == "nce":
        value = (at.log_p.exp() * softplus(-log_r) + at.log_q.exp() * softplus(log_r)).sum(-1)
        weight = (at.log_p.exp() + at.log_q.exp()) * torch.sigmoid(log_r) * torch.sigmoid(-log_r)
        return Shape(value, g, _outer(weight, at))
    a, b = at.log_p - 0.5 * log_r, at.log_q + 0.5 * log_r
    both = torch.logaddexp(a, b)  # (..., n): y^2 = 1, so data and noise add up in the Hessian
    value = torch.logsumexp(both, dim=-1) - math.log(2.0)
    second = 0.25 * _outer(torch.softmax(both, dim=-1), at)
    return Shape(value, g, second - g.unsqueeze(-1) * g.unsqueeze(-2))


def _scores(tau: Tensor, at: Line) -> Tensor:
    """l (..., n)."""
    return tau[..., :1] * at.x - tau[..., 1:]


def _outer(weight: Tensor, at: Line) -> Tensor:
    """sum_i w_i T_i T_i': weight (..., n) -> (..., 2, 2)."""
    x = at.x
    w0, w1, w2 = weight.sum(-1), (weight * x).sum(-1), (weight * x.square()).sum(-1)
    return torch.stack([torch.stack([w2, -w1], -1), torch.stack([-w1, w0], -1)], -2)


def _likelihood_gradient(tau: Tensor, at: Line) -> Tensor:
    p = torch.softmax(at.log_q + _scores(tau, at), dim=-1)  # free of c
    mean = p @ at.x - at.log_p.exp() @ at.x
    return torch.stack([mean, torch.zeros_like(mean)], dim=-1)


def _nce_gradient(tau: Tensor, at: Line) -> Tensor:
    log_r = _scores(tau, at)
    return (at.log_q.exp() * torch.sigmoid(log_r) - at.log_p.exp() * torch.sigmoid(-log_r)) @ at.T


def _ence_gradient(tau: Tensor, at: Line) -> Tensor:
    half = 0.5 * _scores(tau, at)
    a, b = at.log_p - half, at.log_q + half
    peak = torch.maximum(a.amax(-1), b.amax(-1)).unsqueeze(-1)  # the largest exponential becomes 1
    a, b = (a - peak).exp(), (b - peak).exp()
    total = (a.sum(-1) + b.sum(-1)).unsqueeze(-1)
    return 0.5 * ((b - a) @ at.T) / total


_GRADIENTS: dict[Loss, Callable[[Tensor, Line], Tensor]] = {
    "likelihood": _likelihood_gradient,
    "nce": _nce_gradient,
    "ence": _ence_gradient,
}


@dataclass(frozen=True)
class Descent:
    """A loss and the way down."""

    loss: Loss
    steps: Steps
    """See `side_by_side`."""


DESCENTS: dict[str, Descent] = {
    "likelihood-GD": Descent("likelihood", "gd"),
    "NCE-GD": Descent("nce", "gd"),
    "NCE-NGD": Descent("nce", "ngd"),
    "NCE-Adam": Descent("nce", "adam"),
    "eNCE-NGD": Descent("ence", "ngd"),
}


def descend(
    descent: Descent, at: Line, rates: FloatArray, *, budget: int, done: Callable[[FloatArray], bool], every: int = 500
) -> FloatArray:
    """tau after 0, 1, ... iterations, (t+1, L, 2): one run a step size of rates (L,), side by side.

    Stops at `budget`, or when `done` says so of the history so far (asked every `every` iterations).
    """
    history = torch.zeros(budget + 1, len(rates), 2, dtype=torch.float64)  # starts at tau = 0, the noise law
    tau = torch.nn.Parameter(history[0].clone())
    # eps: the usual 1e-8 exceeds NCE's gradient e^{-R^2/8} between q and p* and would freeze what is to be measured.
    step = stepper(descent.steps, [tau], torch.from_numpy(rates).unsqueeze(-1), leading=1, eps=1e-30)
    for t in range(1, budget + 1):
        tau.grad = gradient(descent.loss, tau.detach(), at)
        step()
        history[t] = tau.detach()
        if t % every == 0 and done(history[: t + 1].numpy()):
            return np.asarray(history[: t + 1].numpy())
    return np.asarray(history.numpy())


def inside(history: FloatArray, distance: float, *, tolerance: float, with_log_z: bool) -> BoolArray:
    """(t, L): |theta - R| < tolerance and, where c is learned, |c - R^2/2| < max(R/10, 1/2)."""
    good: BoolArray = np.abs(history[..., 0] - distance) < tolerance
    if with_log_z:
        good &= np.abs(history[..., 1] - 0.5 * distance**2) < max(0.1 * distance, 0.5)
    return good


def arrival(good: BoolArray, hold: int) -> FloatArray:
    """(L,) first iteration from which good (t, L) stays true for `hold` iterations; inf where there is none."""
    if len(good) < hold:
        return np.full(good.shape[1], np.inf)
    runs = np.cumsum(np.concatenate([np.zeros((1, good.shape[1]), dtype=np.int64), good]), axis=0)
    held = runs[hold:] - runs[:-hold] == hold  # (t - hold + 1, L)
    return np.where(held.any(0), held.argmax(0).astype(np.float64), np.inf)
