"""cMIM: an autoencoder that maximises mutual information, with a contrastive term that needs no second view.

    z ~ q(z|x) = N(mean, exp(log scale)^2),   P(z) = N(0, I)
    L = -log p(x|z) - (log q(z|x) + log P(z)) / 2 - log p(k=1|x,z)
    log p(k=1|x,z) = 1/tau - log( exp(1/tau) + mean_{j != i} exp(cos(z_i, z_j)/tau) )

The positive of the last term is the sample itself, at cosine 1: nothing is pulled, the codes of other x are pushed
away. A mean in place of a sum over them makes the term insensitive to how many there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from rl_contrastive.config import Ge, In, Options, config_or, require
from rl_contrastive.device import require_tensor
from rl_contrastive.objectives.base import ObjectiveResult, State
from rl_contrastive.objectives.views import ViewObjective, Views, require_weight, unit, weighted_rows
from rl_contrastive.registry import register

LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class CMIMConfig(Options, where="cmim"):
    """The contrastive term."""

    temperature: Annotated[float, In(1e-4, 1e4)] = 0.1
    """tau: cosines are divided by it."""


@register("view-objective", "cmim", CMIMConfig)
class CMIM(ViewObjective):
    """-1/tau + log(exp(1/tau) + mean_{j != i} exp(cos(z_i,z_j)/tau)): codes of other x away (Livne 2025, cMIM).

    z (..., V, N, d): the sampled codes; of several views each is judged by itself, and the rows are their mean.
    """

    least_views = 1

    def __init__(self, config: CMIMConfig | None = None) -> None:
        self.config = config_or(config, CMIMConfig)

    def loss(self, views: Views, state: State) -> tuple[ObjectiveResult, State]:
        z, tau = unit(views.z), self.config.temperature
        others = log_mean_others(torch.einsum("...id,...jd->...ij", z, z) / tau, views.log_count.unsqueeze(-2))
        rows = torch.logaddexp(others, torch.full_like(others, 1.0 / tau)) - 1.0 / tau  # (..., V, N)
        return weighted_rows(rows.mean(-2), views.anchor_weight), state


def log_mean_others(scores: Tensor, log_count: Tensor) -> Tensor:
    """log of the mean over j != i of m_j exp(s_ij): scores (..., N, N), log_count (..., N) = log m -> (..., N)."""
    eye = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    log_m = log_count.unsqueeze(-2).expand_as(scores).masked_fill(eye, -torch.inf)
    return torch.logsumexp(scores + log_m, dim=-1) - torch.logsumexp(log_m, dim=-1)


@dataclass(frozen=True)
class MIMConfig(Options, where="mim"):
    """The Gaussian code and its loss."""

    least_log_scale: Annotated[float, In(-30, 0)] = -6.0
    """Smallest log scale of the code; smaller ones are raised to it, or log q grows without bound."""
    per_dim: bool = False
    """Divide the gradients (not the values) of log q and log P by d, for a reconstruction that is averaged too."""
    contrast: Annotated[float, Ge(0)] = 1.0
    """Weight of -log p(k=1|x,z); 0 is the MIM loss."""
    temperature: Annotated[float, In(1e-4, 1e4)] = 0.1
    """tau of that term."""


def draw_code(mean: Tensor, log_scale: Tensor, *, rng: torch.Generator, least: float = -6.0) -> Tensor:
    """z = mean + exp(log scale) eps, eps ~ N(0, I) (Kingma and Welling 2014): all (..., N, d), with gradients."""
    _require_code(mean, log_scale, mean)
    eps = torch.randn(mean.shape, generator=rng, dtype=mean.dtype, device=mean.device)
    return mean + log_scale.clamp_min(least).exp() * eps


class MIM:
    """-log p(x|z) - (log q(z|x) + log P(z))/2 - log p(k=1|x,z) (Livne 2025, cMIM; weight 0: A-MIM, Livne et al. 2019).

    mean, log_scale, z (..., N, d) of q(z|x) and its draw; reconstruction (..., N) = -log p(x|z), None: 0.
    """

    def __init__(self, config: MIMConfig | None = None) -> None:
        self.config = config_or(config, MIMConfig)
        self.term = CMIM(CMIMConfig(self.config.temperature))

    def __call__(
        self,
        mean: Tensor,
        log_scale: Tensor,
        z: Tensor,
        reconstruction: Tensor | None = None,
        *,
        weight: Tensor | None = None,
    ) -> ObjectiveResult:
        _require_code(mean, log_scale, z)
        if weight is not None:
            require_weight("mim", weight)
        rows = -0.5 * (self._scaled(log_normal(z, mean, self._floored(log_scale))) + self._scaled(log_standard(z)))
        if reconstruction is not None:
            fits = reconstruction.shape == rows.shape
            require(fits, f"mim: reconstruction has shape {tuple(reconstruction.shape)}, not {tuple(rows.shape)}.")
            rows = rows + reconstruction
        if self.config.contrast > 0:
            rows = rows + self.config.contrast * self.term(Views(z.unsqueeze(-3), weight)).rows
        return weighted_rows(rows, Views(z.unsqueeze(-3), weight).anchor_weight)

    def _floored(self, log_scale: Tensor) -> Tensor:
        return log_scale.clamp_min(self.config.least_log_scale)

    def _scaled(self, terms: Tensor) -> Tensor:
        """Sum over d of terms (..., N, d); of its gradient the d-th part where so configured."""
        total = terms.sum(-1)
        if not self.config.per_dim:
            return total
        part = total / terms.shape[-1]
        return part + (total - part).detach()


def log_normal(z: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log N(z; mean, exp(log scale)^2) by coordinate (..., d)."""
    return -0.5 * ((z - mean) * (-log_scale).exp()).square() - log_scale - 0.5 * LOG_2PI


def log_standard(z: Tensor) -> Tensor:
    """log N(z; 0, 1) by coordinate (..., d)."""
    return -0.5 * z.square() - 0.5 * LOG_2PI


def _require_code(mean: Tensor, log_scale: Tensor, z: Tensor) -> None:
    for name, value in (("mean", mean), ("log scale", log_scale), ("z", z)):
        require_tensor("mim", name, value)
    same = mean.shape == log_scale.shape == z.shape and mean.ndim >= 2
    shapes = f"{tuple(mean.shape)}, {tuple(log_scale.shape)}, {tuple(z.shape)}"
    require(same, f"mim: mean, log scale and z must have one shape (..., N, d), got {shapes}.")
    for name, value in (("mean", mean), ("log scale", log_scale), ("z", z)):
        require(bool(torch.isfinite(value).all()), f"mim: {name} holds NaN or infinite numbers.")
