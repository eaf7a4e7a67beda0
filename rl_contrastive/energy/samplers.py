"""Samplers of an unnormalised density exp(f): Langevin, its Metropolis-corrected form (MALA), resampling, annealing.

Langevin     x' = x + h/2 grad f(x) + sqrt(h) e,  e ~ N(0, I)
MALA         x' as above, kept with probability min(1, e^{f(x') - f(x)} N(x; mu(x'), h) / N(x'; mu(x), h))
annealed     the same steps while f_b = (1 - b) log q + b f goes from q (b = 0) to the target (b = 1)
SIR          draws of q, resampled with weights exp(f)/q
Unadjusted Langevin has a stationary law of its own, O(h) away from exp(f); MALA leaves exp(f) invariant at every h
and tells by its acceptance whether it moves. Chains are rows: x (..., n, D), each with its own accept decision.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from rl_contrastive.config import Ge, Gt, In, Options, require
from rl_contrastive.energy.base import Energy, effective_sample_size
from rl_contrastive.energy.noise import NoiseLaw, check_generator
from rl_contrastive.errors import RlcError

OPTIMAL_ACCEPTANCE = 0.574
"""Of MALA in many dimensions (Roberts and Rosenthal 1998)."""


@dataclass(frozen=True)
class ChainConfig(Options, where="chain"):
    """Langevin or MALA steps with one step size."""

    kernel: Literal["langevin", "mala"] = "mala"
    """langevin: unadjusted, each step moves; mala: with the Metropolis decision."""
    steps: Annotated[int, Ge(1)] = 100
    """Steps of each chain; those of the adaptation are among them."""
    step_size: Annotated[float, Gt(0)] = 0.1
    """h, in squared units of x: the noise of a step has variance h."""
    adapt: int = 0
    """First steps of MALA in which log h follows the acceptance; h is fixed afterwards, so the law stays exact."""
    target: Annotated[float, In(0, 1, above=True, below=True)] = OPTIMAL_ACCEPTANCE
    """Acceptance that the adaptation aims at."""
    max_grad: Annotated[float, Ge(0)] = 0.0
    """Longest gradient of a step (0: no limit). MALA stays exact with it; unadjusted steps sample another law then."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.adapt <= self.steps, f"chain: adapt must lie in [0, steps], got {self.adapt}.")
        require(
            self.adapt == 0 or self.kernel == "mala",
            "chain: only mala can adapt: langevin has no acceptance to follow.",
        )


@dataclass(frozen=True)
class Position:
    """A point of each chain with what the next step needs: x (..., n, D), f and its gradient there."""

    x: Tensor
    f: Tensor
    grad: Tensor


@dataclass(frozen=True)
class Chains:
    """Where the chains ended, detached: x (..., n, D)."""

    x: Tensor
    acceptance: Tensor
    """() float64: share of proposals accepted after the adaptation; 1 for unadjusted Langevin; NaN without steps."""
    step_size: Tensor
    """() float64: h of the last step."""


def position(f: Energy, x: Tensor, *, max_grad: float = 0.0) -> Position:
    """f(x) and grad f(x); the parameters of f get no gradient, and the point no history."""
    require(x.ndim >= 2, f"sampler: x must be (..., n, D), got the shape {tuple(x.shape)}.")
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = f(leaf)
        require(
            value.shape == x.shape[:-1],
            f"sampler: f must map {tuple(x.shape)} to {tuple(x.shape[:-1])}, got {tuple(value.shape)}.",
        )
        require(value.requires_grad, "sampler: f must be differentiable in x, by torch operations from x to f(x).")
        (grad,) = torch.autograd.grad(value.sum(), leaf, materialize_grads=True)
    if max_grad > 0.0:
        length = torch.linalg.vector_norm(grad, dim=-1, keepdim=True)
        grad = grad * (max_grad / length.clamp_min(max_grad))
    return Position(leaf.detach(), value.detach().to(torch.float64), grad)


def langevin_step(
    f: Energy, at: Position, step_size: Tensor, *, rng: torch.Generator, max_grad: float = 0.0
) -> Position:
    """x + h/2 grad f(x) + sqrt(h) e: every chain moves."""
    return position(f, _propose(at, step_size, rng), max_grad=max_grad)


def mala_step(
    f: Energy, at: Position, step_size: Tensor, *, rng: torch.Generator, max_grad: float = 0.0
) -> tuple[Position, Tensor]:
    """A Langevin proposal and the Metropolis decision of each chain: the new position, and accepted (..., n) bool.

    log ratio = f(x') - f(x) + (|x' - x - h/2 g|^2 - |x - x' - h/2 g'|^2) / 2h. A proposal of density 0 is refused.
    """
    there = langevin_step(f, at, step_size, rng=rng, max_grad=max_grad)
    forward = _squared(there.x, at, step_size)
    backward = _squared(at.x, there, step_size)
    log_ratio = there.f - at.f + (forward - backward) / (2.0 * step_size)
    u = torch.rand(at.f.shape, generator=rng, dtype=torch.float64, device=at.x.device)
    accepted = u.log() < log_ratio  # of -inf or NaN: refused
    keep = accepted.unsqueeze(-1)
    moved = Position(
        torch.where(keep, there.x, at.x),
        torch.where(accepted, there.f, at.f),
        torch.where(keep, there.grad, at.grad),
    )
    # A broken energy would be refused in silence: it is carried on as NaN, which `run_chains` finds at the end.
    broken = ~torch.isneginf(there.f) & ~(torch.isfinite(there.f) & torch.isfinite(there.grad).all(-1))
    return Position(moved.x, torch.where(broken, math.nan, moved.f), moved.grad), accepted


def run_chains(f: Energy, x: Tensor, config: ChainConfig | None = None, *, rng: torch.Generator) -> Chains:
    """Run `config.steps` steps of chains that start at x (..., n, D)."""
    return _run(f, x, config or ChainConfig(), rng=rng, dead=False)


def _run(f: Energy, x: Tensor, config: ChainConfig, *, rng: torch.Generator, dead: bool) -> Chains:
    """dead: chains that start where the density is 0 may stay there."""
    check_generator(rng, x)
    at = position(f, x, max_grad=config.max_grad)
    log_h = torch.tensor(math.log(config.step_size), dtype=torch.float64, device=x.device)
    fine = torch.isneginf(at.f) | torch.isfinite(at.f)
    shares = []
    for step in range(config.steps):
        if config.kernel == "langevin":
            at = langevin_step(f, at, log_h.exp(), rng=rng, max_grad=config.max_grad)
            fine = fine & torch.isfinite(at.f)
            continue
        at, accepted = mala_step(f, at, log_h.exp(), rng=rng, max_grad=config.max_grad)
        share = accepted.to(torch.float64).mean()
        if step < config.adapt:
            # Robbins-Monro: the gain falls, so h settles.
            log_h = log_h + 2.0 * (step + 1.0) ** -0.6 * (share - config.target)
        else:
            shares.append(share)
    _require_fine(at, fine, dead=dead)
    return Chains(at.x, _acceptance(config, shares, x), log_h.exp())


def _acceptance(config: ChainConfig, shares: list[Tensor], x: Tensor) -> Tensor:
    if config.kernel == "langevin":
        return torch.ones((), dtype=torch.float64, device=x.device)
    if not shares:
        return torch.full((), math.nan, dtype=torch.float64, device=x.device)
    return torch.stack(shares).mean()


def langevin(
    f: Energy, x: Tensor, *, steps: int, step_size: float, rng: torch.Generator, max_grad: float = 0.0
) -> Tensor:
    """Unadjusted Langevin from x (..., n, D) for `steps` steps -> where it ends."""
    return run_chains(f, x, ChainConfig("langevin", steps, step_size, max_grad=max_grad), rng=rng).x


def mala(f: Energy, x: Tensor, *, steps: int, step_size: float, rng: torch.Generator) -> Chains:
    """MALA from x (..., n, D) for `steps` steps of a fixed size."""
    return run_chains(f, x, ChainConfig("mala", steps, step_size), rng=rng)


@dataclass(frozen=True)
class Resampled:
    """Outcome of sampling-importance-resampling."""

    x: Tensor
    """(n, D) rows of the proposals; likely ones more than once."""
    index: Tensor
    """(n,) which proposal each is, ascending."""
    ess: Tensor
    """() float64: effective number of proposals; far more rows than this are copies."""


@torch.no_grad()
def resample(f: Energy, q: NoiseLaw, n: int, *, proposals: int, rng: torch.Generator) -> Resampled:
    """SIR: n of `proposals` draws of q with weights w = exp(f)/q; tends to exp(f) as the proposals grow.

    Systematic: one uniform number serves all rows, so proposal j is taken floor or ceil of n w_j / sum w times, which
    is unbiased and has less variance than n independent draws.
    """
    require(n >= 1 and proposals >= n, f"resample: needs 1 <= n <= proposals, got n {n} and proposals {proposals}.")
    z = q.sample(proposals, rng=rng)
    log_w = f(z).to(torch.float64) - q.log_prob(z)
    index = systematic(log_w, n, rng=rng)
    return Resampled(z[index], index, effective_sample_size(log_w))


def systematic(log_w: Tensor, n: int, *, rng: torch.Generator) -> Tensor:
    """n indices (n,), ascending, into log weights (m,): index j comes floor or ceil of n w_j / sum w times."""
    require(
        log_w.ndim == 1 and not bool(torch.isnan(log_w).any()) and math.isfinite(float(log_w.max())),
        "resample: the log weights must be one row (m,), without NaN or +inf, and not all -inf.",
    )
    cdf = torch.softmax(log_w.to(torch.float64), dim=0).cumsum(0)
    u = torch.rand((), generator=rng, dtype=torch.float64, device=log_w.device)
    at = (torch.arange(n, dtype=torch.float64, device=log_w.device) + u) / n * cdf[-1]
    last = int((log_w > -math.inf).nonzero().max())  # should a point round up to the total
    return torch.searchsorted(cdf, at, right=True).clamp_max(last)


@dataclass(frozen=True)
class Annealed:
    """Outcome of an annealed run of n chains."""

    x: Tensor
    """(n, D) where the chains ended."""
    log_w: Tensor
    """(n,) float64: log weights of annealed importance sampling (E exp(log_w) = Z if the kernel is MALA)."""
    acceptance: Tensor
    """(rungs-1,) float64: mean acceptance at each temperature; low ones tell where the ladder is too steep."""


def anneal(
    f: Energy, q: NoiseLaw, n: int, config: ChainConfig, *, ladder: Sequence[float], rng: torch.Generator
) -> Annealed:
    """n chains from q to exp(f) along f_b = (1 - b) log q + b f, b in `ladder`: 0 = b_0 < ... < b_T = 1.

    For t = 1..T: log_w += f_{b_t}(x) - f_{b_{t-1}}(x) = (b_t - b_{t-1}) (f(x) - log q(x)), then `config.steps` steps
    at b_t. (Neal 2001.) The step size is config's at each temperature; adaptation would break the weights.
    """
    require(config.adapt == 0, "anneal: the step size must be fixed (adapt=0), or the weights are not exact.")
    check_ladder(ladder)
    x = q.sample(n, rng=rng)
    log_w = torch.zeros(n, dtype=torch.float64, device=x.device)
    acceptance = []
    for before, b in itertools.pairwise(ladder):
        with torch.no_grad():
            log_w = log_w + (b - before) * (f(x).to(torch.float64) - q.log_prob(x))
        # At b = 1 the law drops out: 0 * log q is NaN outside its support.
        target: Energy = f if b == 1.0 else _Path(f, q, b)
        chains = _run(target, x, config, rng=rng, dead=True)  # of weight 0, and rightly so
        x = chains.x
        acceptance.append(chains.acceptance)
    return Annealed(x, log_w, torch.stack(acceptance))


@dataclass(frozen=True)
class _Path:
    f: Energy
    q: NoiseLaw
    b: float

    def __call__(self, x: Tensor) -> Tensor:
        return (1.0 - self.b) * self.q.log_prob(x) + self.b * self.f(x).to(torch.float64)


def check_ladder(ladder: Sequence[float]) -> None:
    """Temperatures must rise from 0 to 1."""
    rising = all(a < b for a, b in itertools.pairwise(ladder))
    require(
        len(ladder) >= 2 and ladder[0] == 0.0 and ladder[-1] == 1.0 and rising,
        "anneal: the ladder must rise strictly from 0 to 1.",
    )


def _require_fine(at: Position, fine: Tensor, *, dead: bool) -> None:
    """One look at the end of a run, which costs one wait for the device instead of one a step."""
    there = torch.isfinite(at.f) | (torch.isneginf(at.f) if dead else torch.zeros_like(fine))
    bad = ~(fine & there & torch.isfinite(at.x).all(-1))
    if bool(bad.any()):
        raise RlcError(
            f"sampler: {int(bad.sum())} of {bad.numel()} chains met a NaN or infinite energy, gradient or point; "
            "take a smaller step size, start where the density is positive, or bound the energy."
        )


def _propose(at: Position, step_size: Tensor, rng: torch.Generator) -> Tensor:
    h = step_size.to(at.x.dtype)
    e = torch.randn(at.x.shape, generator=rng, dtype=at.x.dtype, device=at.x.device)
    return at.x + 0.5 * h * at.grad + h.sqrt() * e


def _squared(x: Tensor, start: Position, step_size: Tensor) -> Tensor:
    """|x - start - h/2 grad|^2 (..., n) in float64."""
    drift = start.x.to(torch.float64) + 0.5 * step_size * start.grad.to(torch.float64)
    return (x.to(torch.float64) - drift).square().sum(-1)
