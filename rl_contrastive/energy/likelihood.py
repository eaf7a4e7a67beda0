"""Maximum likelihood itself on a grid (the oracle of one and two dimensions), and InfoNCE, its sampled cousin."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from rl_contrastive.config import Ge, Options, require
from rl_contrastive.energy.base import (
    Energy,
    EnergyLoss,
    ObjectiveState,
    Stateless,
    effective_sample_size,
    energies,
    log_mean_exp,
    log_q_of_data,
    nll_estimate,
    noise_of,
)
from rl_contrastive.energy.contrast import among
from rl_contrastive.registry import register

if TYPE_CHECKING:
    from rl_contrastive.energy.noise import NoiseLaw


@dataclass(frozen=True)
class InfoNCEConfig(Options, where="infonce"):
    """Pick the datum out of a set of noise samples."""

    noise_per_datum: Annotated[int, Ge(1)] = 1
    """Draws of q to a datum where the objective draws the noise; every datum meets all of the step's noise."""


@register("energy-objective", "infonce", InfoNCEConfig)
class InfoNCE(Stateless[InfoNCEConfig]):
    """InfoNCE: the datum among the noise of the batch.

    mean_i [-l(x_i) + log((e^{l(x_i)} + sum_j e^{l(z_j)}) / (m + 1))], l = f - log q.

    Cross-entropy of the datum among itself and m noise samples; minimiser l = log p/q + constant for every m >= 1,
    unlike SNIS, which is this loss without the datum in its own denominator. Source: van den Oord et al. 2018.
    """

    name = "infonce"
    options = InfoNCEConfig

    def loss(
        self,
        f: Energy,
        x: Tensor,
        *,
        q: NoiseLaw | None = None,
        z: Tensor | None = None,
        state: ObjectiveState,
        rng: torch.Generator | None = None,
    ) -> EnergyLoss[ObjectiveState]:
        """x (..., n, D), z (..., m, D) -> the step's outcome; the surrogate is the loss itself."""
        name, step, per_datum = self.name, state.step, self.config.noise_per_datum
        noise = noise_of(f, x, q=q, z=z, rng=rng, objective=name, step=step, per_datum=per_datum)
        assert q is not None  # noise_of refuses None
        f_x = energies(f, x, objective=name, step=step, what="data x")
        l_x = f_x - log_q_of_data(q, x, objective=name, step=step)
        rest = torch.logsumexp(noise.log_w, dim=-1, keepdim=True)  # (..., 1)
        each = among(l_x, rest).mean(-1) - math.log(noise.f_z.shape[-1] + 1.0)
        return EnergyLoss(
            surrogate=each.sum(),
            nll=nll_estimate(f_x, log_mean_exp(noise.log_w)),
            ess=effective_sample_size(noise.log_w),
            state=replace(state, step=step + 1),
            diagnostics={"loss": each.detach()},
        )


@dataclass(frozen=True)
class GridLikelihoodConfig(Options, where="grid likelihood"):
    """The box and the resolution of the exact partition function."""

    low: float = -6.0
    """Lower end of every axis."""
    high: float = 6.0
    """Upper end of every axis, > low; data outside the box are refused."""
    points: Annotated[int, Ge(2)] = 300
    """Grid points an axis; points^D in all, at most 4 million."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.low < self.high, f"grid likelihood: low {self.low} must be < high {self.high}.")


@register("energy-objective", "grid-likelihood", GridLikelihoodConfig)
class GridLikelihood(Stateless[GridLikelihoodConfig]):
    """Exact maximum likelihood: -mean f(x) + log Z with Z by the trapezoid rule on a grid, for D = 1 or 2.

    Mass outside the box does not count, so the box must hold the model's mass, not only the data. `ess` counts the
    grid points that carry Z: a handful means that the grid is too coarse for this f.
    """

    name = "grid-likelihood"
    options = GridLikelihoodConfig

    def loss(
        self,
        f: Energy,
        x: Tensor,
        *,
        q: NoiseLaw | None = None,
        z: Tensor | None = None,
        state: ObjectiveState,
        rng: torch.Generator | None = None,
    ) -> EnergyLoss[ObjectiveState]:
        """x (..., n, D) -> the step's outcome; the surrogate is the negative log-likelihood itself."""
        del q, z, rng
        name, step, config = self.name, state.step, self.config
        f_x = energies(f, x, objective=name, step=step, what="data x")
        inside = bool(((x >= config.low) & (x <= config.high)).all())
        require(inside, f"{name}: data lie outside [{config.low}, {config.high}] at step {step}; widen the box.")
        nodes, log_cell = self.grid(x)  # (g, D), (g,)
        nodes = nodes.expand(*x.shape[:-2], *nodes.shape)  # (..., g, D)
        log_mass = energies(f, nodes, objective=name, step=step, what="grid") + log_cell  # (..., g)
        log_z = torch.logsumexp(log_mass, dim=-1)
        nll = log_z - f_x.mean(-1)
        return EnergyLoss(
            surrogate=nll.sum(),
            nll=nll.detach(),
            ess=effective_sample_size(log_mass),
            state=replace(state, step=step + 1),
            diagnostics={"log_z": log_z.detach()},
        )

    def grid(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes (points^D, D) of the type of `like` (..., D) and the logarithms of their trapezoid weights, float64."""
        D, config = like.shape[-1], self.config
        total = config.points**D
        require(total <= 4_000_000, f"{self.name}: {config.points} points an axis in {D} dimensions are {total} nodes.")
        axis = torch.linspace(config.low, config.high, config.points, dtype=torch.float64, device=like.device)
        weight = torch.full_like(axis, (config.high - config.low) / (config.points - 1))
        weight[[0, -1]] *= 0.5
        nodes = torch.cartesian_prod(*[axis] * D).reshape(total, D)
        log_cell = torch.cartesian_prod(*[weight.log()] * D).reshape(total, D).sum(-1)
        return nodes.to(like.dtype), log_cell
