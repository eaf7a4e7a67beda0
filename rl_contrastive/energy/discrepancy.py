"""Energy discrepancy: fit f by comparing each datum with its own neighbourhood; no noise law, no chains, no score.

Blur a datum, y = x + sqrt(t) e, and pull the model back along the same blur (U = -f, Schroeder et al. 2023):
    ED_t(f) = -E f(x) + E log int N(y; x', t I) e^{f(x')} dx'
            = E log E_{e'} exp(f(x + sqrt(t) (e + e')) - f(x)),   e, e' ~ N(0, I).
Its only minimiser is f = log p + constant for every t > 0. It lies between two known objectives:
    t -> 0     ED_t = t E[Laplace f + |grad f|^2 / 2] + o(t), score matching (short sight: modes far apart go unweighed)
    t -> inf   maximum likelihood up to a constant (but then few of the draws e' meet the mass of e^f)
With M draws of e' the logarithm of their mean is biased, and unbounded where all of them miss: w > 0 counts as w more
draws at the datum itself, log((w + sum_j e^{f(x_j) - f(x)}) / M), which bounds the loss from below by log(w / M).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rl_contrastive.config import require
from rl_contrastive.energy.base import Energy, EnergyLoss, ObjectiveState, Stateless, check_finite, energies, monitor
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import register

if TYPE_CHECKING:
    from rl_contrastive.energy.noise import NoiseLaw


@dataclass(frozen=True)
class DiscrepancyConfig:
    """Energy discrepancy under a Gaussian blur."""

    variance: float = 0.25
    """t > 0, variance of the blur in units of the data: how far the model is compared with itself."""
    draws: int = 4
    """M >= 1, draws e' to a datum, each one evaluation of f."""
    stabiliser: float = 1.0
    """w >= 0, weight of the datum itself among the draws. 0: no bound from below, more variance."""

    def __post_init__(self) -> None:
        t, w = self.variance, self.stabiliser
        require(0.0 < t < math.inf, f"energy discrepancy: variance must be > 0 and finite, got {t}.")
        require(self.draws >= 1, f"energy discrepancy: draws must be >= 1, got {self.draws}.")
        require(0.0 <= w < math.inf, f"energy discrepancy: stabiliser must be >= 0 and finite, got {w}.")


@register("energy-objective", "energy-discrepancy", DiscrepancyConfig)
class EnergyDiscrepancy(Stateless[DiscrepancyConfig]):
    """Energy discrepancy: each datum against its own neighbours; no noise law, no chains.

    mean_i log((w + sum_j exp(f(x_i + sqrt(t)(e_i + e_ij)) - f(x_i))) / M); see the module's first lines.
    """

    name = "energy-discrepancy"
    options = DiscrepancyConfig

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
        """x (..., n, D), rng for the blur -> the step's outcome; q and z only estimate the logged NLL."""
        if rng is None:
            raise RlcError(f"{self.name}: needs rng for its blur.")
        t, M, w = self.config.variance, self.config.draws, self.config.stabiliser
        shape = (*x.shape[:-1], 1 + M, x.shape[-1])
        e = torch.randn(shape, generator=rng, dtype=x.dtype, device=x.device)  # (..., n, 1 + M, D)
        near = x.unsqueeze(-2) + math.sqrt(t) * (e[..., :1, :] + e[..., 1:, :])  # (..., n, M, D)
        f_x = energies(f, x, objective=self.name, step=state.step, what="data x")
        rows = near.flatten(-3, -2)  # (..., n M, D)
        f_near = energies(f, rows, objective=self.name, step=state.step, what="blurred data").reshape(near.shape[:-1])
        rise = f_near - f_x.unsqueeze(-1)  # (..., n, M)
        if w > 0:
            rise = torch.cat([rise, torch.full_like(rise[..., :1], math.log(w))], dim=-1)
        each = (torch.logsumexp(rise, dim=-1) - math.log(M)).mean(-1)  # (...,)
        check_finite(each, objective=self.name, step=state.step, what="losses")
        nll, ess = monitor(f, x, q=q, z=z, objective=self.name, step=state.step)
        return EnergyLoss(each.sum(), nll, ess, replace(state, step=state.step + 1), {"loss": each.detach()})
