"""Estimates of log Z = log int exp(f): by a grid, by importance sampling, by annealing; each with its own warning sign.

method      sum                                          what tells that it is wrong
Quadrature  trapezoid rule on a box, D <= 3               error: change on the grid of half as many points an axis;
                                                         edge: share of Z on the boundary (mass lies beyond)
Importance  mean exp(f - log q) of draws of q             ess: few draws carry the sum
Annealed    mean of annealed weights (Neal 2001)          ess; acceptance of the transitions
The logarithm of a mean of weights is low on average (Jensen), the more the fewer draws carry it, and no estimate sees
a mode that no draw visits: at an ESS below about a hundred it ranks nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from rl_contrastive.config import Ge, Gt, Options, require
from rl_contrastive.energy.base import Energy, effective_sample_size, log_mean_exp
from rl_contrastive.energy.noise import NoiseLaw
from rl_contrastive.energy.samplers import ChainConfig, anneal
from rl_contrastive.errors import RlcError

MOST_NODES = 4_000_000


@dataclass(frozen=True)
class Quadrature:
    """The trapezoid rule on a box."""

    low: tuple[float, ...]
    """Lower corner, one number an axis (D = 1, 2 or 3)."""
    high: tuple[float, ...]
    """Upper corner, above the lower one on each axis; the box must hold the mass of exp(f), see `edge`."""
    points: int = 301
    """Nodes an axis, odd and >= 3: every second one makes the coarser grid behind `error`."""

    def __post_init__(self) -> None:
        require(1 <= len(self.low) == len(self.high) <= 3, "quadrature: low and high must have 1 to 3 numbers each.")
        require(
            all(a < b for a, b in zip(self.low, self.high, strict=True)),
            f"quadrature: low {self.low} must be below high {self.high} on each axis.",
        )
        require(
            self.points >= 3 and self.points % 2 == 1, f"quadrature: points must be odd and >= 3, got {self.points}."
        )
        total = self.points ** len(self.low)
        require(total <= MOST_NODES, f"quadrature: {total} nodes are more than {MOST_NODES}; take fewer points.")


@dataclass(frozen=True)
class Importance(Options, where="importance"):
    """Importance sampling from a noise law."""

    draws: Annotated[int, Ge(2)] = 10_000
    """Draws of q."""


@dataclass(frozen=True)
class AnnealedImportance(Options, where="annealed"):
    """Annealed importance sampling from a noise law to the target."""

    chains: Annotated[int, Ge(2)] = 500
    """Independent chains."""
    temperatures: Annotated[int, Ge(1)] = 100
    """Rungs b_t = (t/T)^power of the ladder from q to exp(f)."""
    power: Annotated[float, Gt(0)] = 1.0
    """Above 1 the rungs are denser near q, which suits a law far wider than the target."""
    kernel: Literal["mala", "langevin"] = "mala"
    """mala is exact; unadjusted langevin may be off by more than a nat (step_size 1, D = 10) at a high ESS."""
    steps: Annotated[int, Ge(1)] = 1
    """Transitions at each rung."""
    step_size: Annotated[float, Gt(0)] = 0.1
    """h of a transition, see `ChainConfig`."""

    @property
    def ladder(self) -> tuple[float, ...]:
        """0 = b_0 < ... < b_T = 1."""
        return tuple((t / self.temperatures) ** self.power for t in range(self.temperatures + 1))


Method = Quadrature | Importance | AnnealedImportance


@dataclass(frozen=True)
class PartitionEstimate:
    """log Z and what is known of its error; all () float64, NaN where the method has no such number."""

    log_z: Tensor
    """The estimate."""
    error: Tensor
    """One standard error of log_z (sampling; itself a guess at a low ESS), or the change on the coarser grid."""
    ess: Tensor
    """How many draws, chains or grid nodes carry the sum."""
    edge: Tensor
    """Quadrature: share of Z at the nodes on the boundary of the box; not negligible means that mass lies beyond."""
    acceptance: Tensor
    """Annealed: mean acceptance at the worst rung (1 for unadjusted Langevin)."""


@torch.no_grad()
def log_partition(
    f: Energy,
    method: Method,
    *,
    q: NoiseLaw | None = None,
    rng: torch.Generator | None = None,
    like: Tensor | None = None,
    chunk: int = 65_536,
) -> PartitionEstimate:
    """Estimate log Z of the energy f: (n, D) -> (n,).

    q and rng: for the two sampling methods. like: a tensor whose dtype and device the nodes of a grid shall have
    (default float32 on the CPU). chunk: rows of one call of f, which changes memory and nothing else.
    """
    require(chunk >= 1, f"log_partition: chunk must be >= 1, got {chunk}.")
    if isinstance(method, Quadrature):
        return _quadrature(f, method, torch.empty(0) if like is None else like, chunk)
    if q is None or rng is None:
        raise RlcError(f"log_partition: {type(method).__name__} needs a noise law q and a generator rng.")
    if isinstance(method, Importance):
        z = q.sample(method.draws, rng=rng)
        log_w = evaluate(f, z, chunk=chunk, what="draws of q") - q.log_prob(z)
        return _from_weights(log_w, math.nan)
    config = ChainConfig(kernel=method.kernel, steps=method.steps, step_size=method.step_size)
    run = anneal(f, q, method.chains, config, ladder=method.ladder, rng=rng)
    return _from_weights(run.log_w, float(run.acceptance.min()))


def evaluate(f: Energy, x: Tensor, *, chunk: int, what: str) -> Tensor:
    """f of rows (N, D) in float64 (N,), piece by piece; -inf is density 0, NaN and +inf are errors."""
    pieces = []
    for piece in torch.split(x, chunk):
        value = f(piece)
        require(
            value.shape == piece.shape[:1],
            f"log_partition: f must map {tuple(piece.shape)} to ({len(piece)},), got {tuple(value.shape)}.",
        )
        pieces.append(value.to(torch.float64))
    values = torch.cat(pieces)
    bad = int((torch.isnan(values) | torch.isposinf(values)).sum())
    require(bad == 0, f"log_partition: f is NaN or +inf at {bad} of {len(values)} {what}; bound the energy.")
    require(bool((values > -math.inf).any()), f"log_partition: f gives every one of {len(values)} {what} density 0.")
    return values


def _from_weights(log_w: Tensor, acceptance: float) -> PartitionEstimate:
    """Delta method: Var log Zhat = Var(w) / (n (E w)^2), estimated by 1/ESS - 1/n."""
    n = len(log_w)
    require(
        bool((log_w > -math.inf).any()) and not bool(torch.isnan(log_w).any()),
        f"log_partition: all of {n} weights are 0 or one is NaN; does q cover exp(f)?",
    )
    ess = effective_sample_size(log_w)
    nothing = torch.full_like(ess, math.nan)
    error = (1.0 / ess - 1.0 / n).clamp_min(0.0).sqrt()  # rounding alone can make it negative
    return PartitionEstimate(log_mean_exp(log_w), error, ess, nothing, torch.full_like(ess, acceptance))


def _quadrature(f: Energy, method: Quadrature, like: Tensor, chunk: int) -> PartitionEstimate:
    D, n = len(method.low), method.points
    values = evaluate(f, grid(method, like).reshape(-1, D), chunk=chunk, what="grid nodes").reshape([n] * D)
    log_mass = values + _log_cells(method, n, like.device)
    log_z = torch.logsumexp(log_mass.flatten(), dim=0)
    every_second = values[(slice(None, None, 2),) * D]
    coarse = torch.logsumexp((every_second + _log_cells(method, (n + 1) // 2, like.device)).flatten(), dim=0)
    inner = log_mass[(slice(1, -1),) * D].flatten()
    nothing = torch.full_like(log_z, math.nan)
    return PartitionEstimate(
        log_z=log_z,
        error=(log_z - coarse).abs(),
        ess=effective_sample_size(log_mass.flatten()),
        edge=-torch.expm1(torch.logsumexp(inner, dim=0) - log_z).clamp_max(0.0),
        acceptance=nothing,
    )


def grid(method: Quadrature, like: Tensor) -> Tensor:
    """The nodes (points, ..., points, D), in the dtype and on the device of `like`."""
    axes = [
        torch.linspace(a, b, method.points, dtype=torch.float64, device=like.device)
        for a, b in zip(method.low, method.high, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).to(like.dtype)


def _log_cells(method: Quadrature, points: int, device: torch.device) -> Tensor:
    """Log weights of the trapezoid rule, (points, ..., points): the product of (h/2, h, ..., h, h/2) of each axis."""
    D = len(method.low)
    total = torch.zeros([points] * D, dtype=torch.float64, device=device)
    for k, (a, b) in enumerate(zip(method.low, method.high, strict=True)):
        weight = torch.full((points,), (b - a) / (points - 1), dtype=torch.float64, device=device)
        weight[[0, -1]] *= 0.5
        total = total + weight.log().reshape([points if i == k else 1 for i in range(D)])
    return total
