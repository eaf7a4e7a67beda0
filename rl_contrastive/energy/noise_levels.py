"""Energies of every noise level at once, and images from noise: annealed Langevin steps down a ladder of levels.

f(x, sigma) is the log of the data law blurred by N(0, sigma^2), up to a constant of its own at each sigma: what
`score.MultiLevelScore` fits. The level is one more coordinate, rows (x, log sigma), so every objective and sampler
takes such an energy; `at_level` fixes it. At large sigma the law is nearly one Gaussian, which a sampler can start
from; each smaller level begins where the one above ended, so no mode has to be found across a gap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from rl_contrastive.config import MOST_WIDTH, In, Options, require
from rl_contrastive.energy.base import Energy
from rl_contrastive.energy.energies import linear
from rl_contrastive.energy.noise import check_generator, check_points
from rl_contrastive.energy.samplers import position
from rl_contrastive.energy.score import NoiseLadder
from rl_contrastive.errors import RlcError


def at_level(f: Energy, sigma: float) -> Energy:
    """x (..., D) -> f(x, log sigma) (...,): the energy of one level, for samplers and estimates of Z."""
    require(sigma > 0.0, f"noise level: sigma must be > 0, got {sigma}.")

    def energy(x: Tensor) -> Tensor:
        level = torch.full((*x.shape[:-1], 1), math.log(sigma), dtype=x.dtype, device=x.device)
        return f(torch.cat([x, level], -1))

    return energy


@dataclass(frozen=True)
class LevelConfig(Options, where="level energy"):
    """A residual network of f(x, sigma)."""

    width: Annotated[int, In(1, MOST_WIDTH)] = 256
    """Of its layers."""
    blocks: Annotated[int, In(1, 1000)] = 3
    """Residual layers, each scaled and shifted by the level."""
    frequencies: Annotated[int, In(1, MOST_WIDTH)] = 16
    """Of the level's sines and cosines."""
    conditions: Annotated[int, In(0, MOST_WIDTH)] = 0
    """Numbers c that say how a datum was altered; 0 is for one that was not."""


class LevelEnergy(nn.Module):
    """f(x, sigma) = log N(x; m, C + sigma^2 I) + (s/sigma) u'F(u, sigma),  u = (x - m) / sqrt(sigma^2 + s^2).

    The first term, without its constant, is exact for Gaussian data with moments m, C, and at first all there is
    (F starts at 0). s^2 is the mean variance of the data; s/sigma and u give sigma grad f, which the loss sees, the
    same size at every level where F has (the scaling of Karras et al. 2022 for denoisers). A scalar u'F learned much
    faster than a scalar head. Rows (..., D + 1) hold (x, log sigma), or (..., D + c + 1) with c between: altered data
    then teach the network without their alterations' becoming part of the law at c = 0 (Jun et al. 2020).
    """

    mean: Tensor
    variances: Tensor
    axes: Tensor
    waves: Tensor

    def __init__(self, mean: Tensor, covariance: Tensor, config: LevelConfig, *, rng: torch.Generator) -> None:
        """mean (D,), covariance (D, D) of the data."""
        super().__init__()
        D, W = len(mean), config.width
        require(covariance.shape == (D, D), f"level energy: covariance must be ({D}, {D}): {tuple(covariance.shape)}.")
        variances, axes = torch.linalg.eigh(covariance.to(torch.float64))
        require(float(variances[-1]) > 0.0, "level energy: the data do not vary.")
        self.dim, self.conditions, self.scale = D, config.conditions, math.sqrt(float(variances.clamp_min(0.0).mean()))
        for name, value in (("mean", mean), ("variances", variances.clamp_min(0.0)), ("axes", axes)):
            self.register_buffer(name, value.to(rng.device, torch.float32))
        self.enter = linear(D, W, rng=rng)
        self.level = linear(2 * config.frequencies, W, rng=rng)
        self.condition = linear(config.conditions, W, rng=rng, bias=False, zero=True) if config.conditions else None
        self.modulate = nn.ModuleList(linear(W, 2 * W, rng=rng, zero=True) for _ in range(config.blocks))
        self.layers = nn.ModuleList(linear(W, W, rng=rng) for _ in range(config.blocks))
        self.head = linear(W, D, rng=rng, zero=True)
        self.register_buffer("waves", math.pi / 8.0 * torch.arange(1.0, config.frequencies + 1.0, device=rng.device))

    @classmethod
    def for_data(cls, x: Tensor, config: LevelConfig | None = None, *, rng: torch.Generator) -> LevelEnergy:
        """Moments of the points x (N, D)."""
        check_points("LevelEnergy.for_data: the data", x)
        rows = x.to(torch.float64)
        return cls(rows.mean(0), torch.cov(rows.T, correction=0).reshape(rows.shape[1], -1), config or LevelConfig(),
                   rng=rng)  # fmt: skip

    def forward(self, rows: Tensor) -> Tensor:
        D, c = self.dim, rows.shape[-1] - self.dim - 1
        require(
            c in (0, self.conditions),
            f"level energy: rows must be (..., {D + 1}) or (..., {D + 1 + self.conditions}), got {tuple(rows.shape)}.",
        )
        rows = rows.to(self.mean.dtype)
        log_sigma = rows[..., -1:]
        centred, sigma = rows[..., :D] - self.mean, log_sigma.exp()
        gauss = -0.5 * ((centred @ self.axes).square() / (self.variances + sigma**2)).sum(-1)
        u = centred / (sigma**2 + self.scale**2).sqrt()
        field = self._field(u, rows[..., D:-1], log_sigma)
        out: Tensor = gauss + self.scale / sigma[..., 0] * (u * field).sum(-1)
        return out

    def _field(self, u: Tensor, condition: Tensor, log_sigma: Tensor) -> Tensor:
        """F(u, c, sigma) (..., D)."""
        silu = nn.functional.silu
        phase = log_sigma * self.waves
        level = silu(self.level(torch.cat([phase.sin(), phase.cos()], -1)))
        if self.condition is not None and condition.shape[-1] > 0:
            level = level + self.condition(condition)
        h = self.enter(u)
        for modulate, layer in zip(self.modulate, self.layers, strict=True):
            gain, shift = modulate(level).chunk(2, -1)
            h = h + layer(silu(h * (1.0 + gain) + shift))
        field: Tensor = self.head(silu(h))
        return field

    def start(self, n: int, sigma: float, *, rng: torch.Generator) -> Tensor:
        """(n, D) draws of N(m, C + sigma^2 I): the first level, if it is wide."""
        e = torch.randn(n, self.dim, generator=rng, device=self.mean.device)
        return self.mean + (e * (self.variances + sigma**2).sqrt()) @ self.axes.T


@torch.no_grad()
def descend_levels(
    f: Energy, x: Tensor, ladder: NoiseLadder, *, rng: torch.Generator, corrections: int = 0, size: float = 0.1
) -> Tensor:
    """From x (n, D), drawn at the highest level, down to the mean of the data given the lowest level's point.

    At each level sigma: `corrections` Langevin steps of variance h = 2 size sigma^2 on f(., sigma), then the step to
    the next level t that a denoiser d = x + sigma^2 grad f (Tweedie) gives,
        x' = x + (sigma^2 - t^2) grad f + t sqrt(sigma^2 - t^2)/sigma e,
    the draw of x' given x and d = the clean point (ancestral sampling); at the last level x' = d.
    """
    require(corrections >= 0 and size > 0.0, f"levels: needs corrections >= 0, size > 0; got {corrections}, {size}.")
    check_generator(rng, x)
    sigmas = ladder.log_levels().exp().tolist()
    for sigma, below in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        level = at_level(f, sigma)
        for _ in range(corrections):
            h = 2.0 * size * sigma**2
            x = x + 0.5 * h * position(level, x).grad + math.sqrt(h) * _normal(x, rng)
        drop = sigma**2 - below**2
        x = x + drop * position(level, x).grad
        if below > 0.0:
            x = x + below * math.sqrt(drop) / sigma * _normal(x, rng)
    if not bool(torch.isfinite(x).all()):
        raise RlcError("levels: the points became NaN or infinite; take smaller Langevin steps or more levels.")
    return x


def _normal(x: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
