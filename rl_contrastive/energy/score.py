"""Score matching: fit grad_x f to the score of the data, which knows nothing of Z and needs no noise law.

All objectives take the model's score s(x) = grad_x f(x) by differentiating f, so f must be twice differentiable
(SiLU, not ReLU) and a step costs a backward pass through a backward pass. They give no estimate of log Z: `nll` and
`ess` come from noise z with its law q where the caller hands them in for logging, and are NaN otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from rl_contrastive.config import Ge, Gt, Options, require
from rl_contrastive.energy.base import Energy, EnergyLoss, ObjectiveState, Stateless, check_finite, energies, monitor
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import register

if TYPE_CHECKING:
    from rl_contrastive.energy.noise import NoiseLaw


def score_of(f: Energy, x: Tensor, *, objective: str, step: int, what: str) -> tuple[Tensor, Tensor]:
    """grad_x f (..., n, D) with its graph, and the leaf x it was taken at (to be differentiated again)."""
    point = x.detach().requires_grad_(True)
    with torch.enable_grad():
        f_x = energies(f, point, objective=objective, step=step, what=what)
        if not f_x.requires_grad:
            raise RlcError(f"{objective}: f does not depend on x through differentiable operations.")
        (score,) = torch.autograd.grad(f_x.sum(), point, create_graph=True)
    check_finite(score, objective=objective, step=step, what=f"gradients of f({what})")
    return score, point


@dataclass(frozen=True)
class DenoisingConfig(Options, where="denoising score matching"):
    """Denoising score matching at one noise level."""

    sigma: Annotated[float, Gt(0)] = 0.1
    """Standard deviation of the noise added to the data; the model fitted is the data law blurred by it."""


@register("energy-objective", "denoising-score", DenoisingConfig)
class DenoisingScore(Stateless[DenoisingConfig]):
    """Denoising score matching.

    1/2 mean ||sigma s(x + sigma e) + e||^2, e ~ N(0, I); minimiser f = log(p * N(0, sigma^2)) + constant.

    Source: Vincent 2011, multiplied by sigma^2 so that losses of different sigma have one scale.
    """

    name = "denoising-score"
    options = DenoisingConfig

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
        """x (..., n, D), rng for e -> the step's outcome; the surrogate is the loss itself."""
        if rng is None:
            raise RlcError(f"{self.name}: needs rng for the noise it adds to the data.")
        e = torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
        sigma = self.config.sigma
        score, _ = score_of(f, x + sigma * e, objective=self.name, step=state.step, what="noisy data x")
        each = 0.5 * (sigma * score + e).to(torch.float64).square().sum(-1).mean(-1)  # (...,)
        return _outcome(self.name, f, x, each, q, z, state)


@dataclass(frozen=True)
class NoiseLadder:
    """Noise levels in geometric steps."""

    low: float = 0.05
    """Smallest standard deviation, > 0: the finest detail a sampler can make."""
    high: float = 1.5
    """Largest one, > low: as wide as the data, so that the blurred law has one mode."""
    count: int = 60
    """Levels, >= 2."""

    def __post_init__(self) -> None:
        require(0.0 < self.low < self.high, f"noise ladder: needs 0 < low < high, got {self.low} and {self.high}.")
        require(self.count >= 2, f"noise ladder: count must be >= 2, got {self.count}.")

    def log_levels(self, *, device: torch.device | None = None) -> Tensor:
        """(count,) float64, log sigma from high to low."""
        high, low = math.log(self.high), math.log(self.low)
        return torch.linspace(high, low, self.count, dtype=torch.float64, device=device)


class MultiLevelScore(Stateless[NoiseLadder]):
    """Denoising score matching on a ladder: f sees rows (x, log sigma), the level as one more coordinate.

        1/2 mean ||sigma s(x + sigma e, sigma) + e||^2,  s the gradient in x alone, sigma a level drawn for each row
    is the mean over levels of `DenoisingScore`, weights sigma^2 included: the minimiser is, for every level, the log of
    the data law blurred by it, up to a function of sigma (no level knows the partition of another). With conditions c
    data are rows (x, c), c gets no noise, and f sees (x, c, log sigma): the conditional law of x, up to more constants.
    Source: Song and Ermon 2019 (there a network for s without an f).
    """

    name = "multi-level-score"

    def __init__(self, ladder: NoiseLadder | None = None, *, conditions: int = 0) -> None:
        """conditions: last columns of the data that are c."""
        require(conditions >= 0, f"{self.name}: conditions must be >= 0, got {conditions}.")
        self.ladder, self.conditions = ladder or NoiseLadder(), conditions

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
        """x (..., n, D + c), rng for levels and e; f maps (..., n, D + c + 1) to (..., n). q and z have no use here."""
        del q, z
        if rng is None:
            raise RlcError(f"{self.name}: needs rng for the noise it adds to the data.")
        D = x.shape[-1] - self.conditions
        require(D >= 1, f"{self.name}: {self.conditions} of {x.shape[-1]} columns are conditions, no datum is left.")
        index = torch.randint(self.ladder.count, x.shape[:-1], generator=rng, device=x.device)
        e = torch.randn((*x.shape[:-1], D), generator=rng, dtype=x.dtype, device=x.device)
        log_sigma = self.ladder.log_levels(device=x.device)[index].unsqueeze(-1).to(x.dtype)  # (..., n, 1)
        sigma = log_sigma.exp()
        rows = torch.cat([x[..., :D] + sigma * e, x[..., D:], log_sigma], -1)
        score, _ = score_of(f, rows, objective=self.name, step=state.step, what="noisy data (x, log sigma)")
        each = 0.5 * (sigma * score[..., :D] + e).to(torch.float64).square().sum(-1).mean(-1)  # (...,)
        return _outcome(self.name, f, x, each, None, None, state)


@dataclass(frozen=True)
class SlicedConfig(Options, where="sliced score matching"):
    """Sliced score matching."""

    slices: Annotated[int, Ge(1)] = 1
    """Random directions v to a datum."""


@register("energy-objective", "sliced-score", SlicedConfig)
class SlicedScore(Stateless[SlicedConfig]):
    """Sliced score matching.

    mean [v' H v + 1/2 ||s||^2], H the Hessian of f, v random signs; E v'Hv = tr H, so this is score matching.

    Its minimiser is f = log p + constant. Source: Song et al. 2019, the form with the exact ||s||^2 (less variance
    than (v's)^2). v'Hv is the derivative of v's along v: one more backward pass, no Hessian.
    """

    name = "sliced-score"
    options = SlicedConfig

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
        """x (..., n, D), rng for v -> the step's outcome; the surrogate is the loss itself."""
        if rng is None:
            raise RlcError(f"{self.name}: needs rng for its random directions.")
        score, point = score_of(f, x, objective=self.name, step=state.step, what="data x")
        curvature = torch.zeros(x.shape[:-1], dtype=torch.float64, device=x.device)  # (..., n)
        for _ in range(self.config.slices):
            signs = torch.randint(0, 2, x.shape, generator=rng, device=x.device).to(x.dtype) * 2.0 - 1.0
            curvature = curvature + _along(score, point, signs) / self.config.slices
        each = (curvature + 0.5 * score.to(torch.float64).square().sum(-1)).mean(-1)  # (...,)
        return _outcome(self.name, f, x, each, q, z, state)


def _along(score: Tensor, point: Tensor, v: Tensor) -> Tensor:
    """v' H v (..., n) float64: the derivative of v's along v; 0 where s does not depend on x (f linear there)."""
    if not score.requires_grad:
        return torch.zeros_like(v).sum(-1, dtype=torch.float64)
    with torch.enable_grad():  # losses are also looked at under no_grad
        (hv,) = torch.autograd.grad((score * v).sum(), point, create_graph=True, allow_unused=True)
    return torch.zeros_like(v).sum(-1, dtype=torch.float64) if hv is None else (v * hv).to(torch.float64).sum(-1)


def _outcome(
    name: str, f: Energy, x: Tensor, each: Tensor, q: NoiseLaw | None, z: Tensor | None, state: ObjectiveState
) -> EnergyLoss[ObjectiveState]:
    check_finite(each, objective=name, step=state.step, what="losses")
    nll, ess = monitor(f, x, q=q, z=z, objective=name, step=state.step)
    return EnergyLoss(each.sum(), nll, ess, replace(state, step=state.step + 1), {"loss": each.detach()})
