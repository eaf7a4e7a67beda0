"""Contrastive divergence: the gradient of log Z from samples of the model itself, short chains in place of noise.

grad log Z = E_model grad f, so the likelihood's gradient is -E_data grad f + E_model grad f. CD starts the model's
chains at the data and runs them briefly; PCD keeps them from step to step in a buffer, so they may wander far from
the data and find mass that CD never sees. Neither estimates log Z: `nll` and `ess` come from noise z with its law q
where the caller hands both in for logging, and are NaN otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from rl_contrastive.config import Ge, In, Options, require
from rl_contrastive.energy.base import Configured, Energy, EnergyLoss, ObjectiveState, Stateless, energies, monitor
from rl_contrastive.energy.samplers import ChainConfig, Chains, run_chains
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import register

if TYPE_CHECKING:
    from rl_contrastive.energy.noise import NoiseLaw


@dataclass(frozen=True)
class CDConfig(Options, where="cd"):
    """Contrastive divergence from the data."""

    chain: ChainConfig = field(default_factory=lambda: ChainConfig(steps=10))
    """Kernel, steps and step size of the model's chains; their number of steps is the k of CD-k."""
    penalty: Annotated[float, Ge(0)] = 0.0
    """Weight of mean f(x)^2 + mean f(z)^2, which keeps energies from drifting; it moves the minimiser."""


@register("energy-objective", "cd", CDConfig)
class CD(Stateless[CDConfig]):
    """Contrastive divergence: -mean f(x) + mean f(x'), x' the end of chains that start at the data.

    The truth is stationary for every k when the kernel leaves the model invariant (MALA, not plain Langevin). Source:
    Hinton 2002.
    """

    name = "cd"
    options = CDConfig

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
        """x (..., n, D), rng for the chains -> the step's outcome; the surrogate's value means nothing."""
        name, step, config = self.name, state.step, self.config
        f_x = energies(f, x, objective=name, step=step, what="data x")
        chains = _advance(name, f, x, config.chain, step, rng)
        surrogate, diagnostics = _gap(name, f, f_x, chains, config.penalty, step)
        nll, ess = monitor(f, x, q=q, z=z, objective=name, step=step)
        return EnergyLoss(surrogate, nll, ess, replace(state, step=step + 1), diagnostics)


@dataclass(frozen=True)
class PCDConfig(Options, where="pcd"):
    """Persistent contrastive divergence."""

    chain: ChainConfig = field(default_factory=lambda: ChainConfig(steps=10))
    """Kernel, steps and step size that a chain moves by each time it is taken."""
    buffer: Annotated[int, Ge(1)] = 1000
    """Chains kept, at least as many as a batch has rows."""
    refresh: Annotated[float, In(0, 1)] = 0.05
    """Probability that a chain taken from the buffer starts anew from q."""
    penalty: Annotated[float, Ge(0)] = 0.0
    """Weight of mean f(x)^2 + mean f(z)^2."""


@dataclass
class PCDState(ObjectiveState):
    """The persistent chains."""

    buffer: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    """(buffer, D) of the data's type; empty before the first step, which fills it from q."""


@register("energy-objective", "pcd", PCDConfig)
class PCD(Configured[PCDConfig]):
    """Persistent contrastive divergence: the chains go on from where earlier steps left them.

    -mean f(x) + mean f(x'), x' the end of the chains.

    A step takes n chains of the buffer without replacement, starts a share of them anew from q, moves them and puts
    them back; the others stay as they are. Source: Tieleman 2008; the refreshed buffer: Du & Mordatch 2019.
    """

    name = "pcd"
    options = PCDConfig

    def initial_state(self, *, shape: tuple[int, ...] = (), device: torch.device | None = None) -> PCDState:
        """No chains yet."""
        require(shape == (), f"{self.name}: has one buffer, so one problem at a time; got the leading axes {shape}.")
        return PCDState(buffer=torch.zeros(0, 0, device=device))

    def loss(
        self,
        f: Energy,
        x: Tensor,
        *,
        q: NoiseLaw | None = None,
        z: Tensor | None = None,
        state: PCDState,
        rng: torch.Generator | None = None,
    ) -> EnergyLoss[PCDState]:
        """x (n, D), q for new chains, rng -> the step's outcome; the surrogate's value means nothing."""
        name, config = self.name, self.config
        if q is None or rng is None:
            raise RlcError(f"{name}: needs a noise law q, from which chains start, and rng.")
        require(x.ndim == 2, f"{name}: x must be (n, D), got the shape {tuple(x.shape)}.")
        n, D = x.shape
        require(q.dim == D, f"{name}: the noise law has dimension {q.dim}, the data {D}.")
        require(n <= config.buffer, f"{name}: a batch of {n} rows needs a buffer of at least {n}, not {config.buffer}.")
        buffer = q.sample(config.buffer, rng=rng).to(x) if state.buffer.numel() == 0 else state.buffer
        require(buffer.shape == (config.buffer, D), f"{name}: the buffer is {tuple(buffer.shape)}, the data have {D}.")
        f_x = energies(f, x, objective=name, step=state.step, what="data x")
        # 1. Take n chains; each starts anew with probability `refresh`.
        taken = torch.randperm(config.buffer, generator=rng, device=x.device)[:n]
        anew = torch.rand(n, 1, generator=rng, device=x.device) < config.refresh
        start = torch.where(anew, q.sample(n, rng=rng).to(x), buffer[taken])
        # 2. Move them under the model as it is, and put them back.
        chains = _advance(name, f, start, config.chain, state.step, rng)
        after = replace(state, step=state.step + 1, buffer=buffer.index_copy(0, taken, chains.x))
        surrogate, diagnostics = _gap(name, f, f_x, chains, config.penalty, state.step)
        nll, ess = monitor(f, x, q=q, z=z, objective=name, step=state.step)
        return EnergyLoss(surrogate, nll, ess, after, diagnostics)


def _advance(
    name: str, f: Energy, start: Tensor, config: ChainConfig, step: int, rng: torch.Generator | None
) -> Chains:
    if rng is None:
        raise RlcError(f"{name}: needs rng for its chains.")
    try:
        return run_chains(f, start, config, rng=rng)
    except RlcError as error:
        raise RlcError(f"{name}, step {step}: {error}") from error


def _gap(
    name: str, f: Energy, f_x: Tensor, chains: Chains, penalty: float, step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The surrogate mean f(x') - mean f(x) + penalty (mean f(x)^2 + mean f(x')^2), and what to log."""
    f_chains = energies(f, chains.x, objective=name, step=step, what="chains")
    gap = f_chains.mean(-1) - f_x.mean(-1)  # (...,)
    each = gap + penalty * (f_x.square().mean(-1) + f_chains.square().mean(-1))
    diagnostics = {"gap": gap.detach(), "acceptance": chains.acceptance, "step_size": chains.step_size}
    return each.sum(), diagnostics
