"""Energies of images: a noise law, a learned correction g of it, and the score log q + g; shared by ood and images.

The model is p(x) = q(x) exp(g(x))/Z. Taken relative to q as base measure, its log-density is g and the noise's is 0:
    l(x) = f(x) - log q(x) = g(x)        for f = log q + g,
so every objective of `energy.objectives` sees the same numbers without one evaluation of q in training (a mixture of
20 full Gaussians costs ten times the network). Its NLL is then relative to q as well: below 0 where g helps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rl_contrastive.claims.energy.image_data import ImageSet, generator
from rl_contrastive.config import require
from rl_contrastive.device import resolve_device
from rl_contrastive.energy.base import log_mean_exp
from rl_contrastive.energy.energies import ConvConfig, ConvEnergy, MLPConfig, MLPEnergy
from rl_contrastive.energy.gaussian_mixture import MixtureFitConfig, fitted_noise
from rl_contrastive.energy.kernel_density import KernelDensity
from rl_contrastive.energy.noise import Gaussian, NoiseLaw, UserLaw, moved
from rl_contrastive.energy.objectives import make
from rl_contrastive.energy.trainer import Augment, TrainConfig, Trainer

Law = Literal["gauss", "gmm", "kde"]


@dataclass(frozen=True)
class EnergyConfig:
    """A correction g of a noise law and its descent."""

    law: Law = "gmm"
    """gauss: one Gaussian. gmm: a fitted mixture with a share of a wide Gaussian. kde: the images, blurred by h."""
    network: Literal["mlp", "conv"] = "mlp"
    """Two layers of 256, or two strided convolutions."""
    steps: int = 800
    """Steps, >= 1."""
    batch_size: int = 128
    """Images in a step, and as many draws of q (>= 1)."""
    lr: float = 1e-3
    """Learning rate of AdamW, > 0."""
    components: int = 20
    """Of the gmm, >= 1."""
    ridge: float = 0.02
    """Of the gmm's covariances, in mean variances of the data (>= 0; `MixtureFitConfig.ridge`)."""
    inflate: float = 1.1
    """Factor on the covariances of gauss and gmm, > 0."""
    bandwidth: float = 0.25
    """h of the kde, > 0."""
    jitter: float = 0.03
    """Standard deviation (>= 0) of noise added to data in training, against learning them by heart."""

    def __post_init__(self) -> None:
        require(self.law in ("gauss", "gmm", "kde"), f"image energy: law must be gauss, gmm or kde, not {self.law}.")
        require(self.network in ("mlp", "conv"), f"image energy: network must be mlp or conv, not {self.network}.")
        for name in ("steps", "batch_size", "components"):
            require(getattr(self, name) >= 1, f"image energy: {name} must be >= 1, got {getattr(self, name)}.")
        for name in ("lr", "inflate", "bandwidth"):
            require(getattr(self, name) > 0.0, f"image energy: {name} must be > 0, got {getattr(self, name)}.")
        for name in ("ridge", "jitter"):
            require(getattr(self, name) >= 0.0, f"image energy: {name} must be >= 0, got {getattr(self, name)}.")


def noise_law(x: Tensor, config: EnergyConfig, *, seed: int) -> NoiseLaw:
    """q fitted to the points x (N, D)."""
    if config.law == "kde":
        return KernelDensity(x, config.bandwidth)
    if config.law == "gauss":
        return Gaussian.fit(x, inflate=config.inflate, ridge=1e-3)
    mixture = MixtureFitConfig(components=config.components, ridge=config.ridge, iterations=12)
    return fitted_noise(x, mixture, inflate=config.inflate, share=0.05, rng=generator(seed, "noise law"))


def relative(q: NoiseLaw) -> UserLaw:
    """q with density 1: the noise law when q itself is the base measure."""
    return UserLaw(
        q.dim,
        lambda n, rng: q.sample(n, rng=rng),
        lambda x: torch.zeros(x.shape[:-1], dtype=torch.float64, device=x.device),
    )


@dataclass(frozen=True)
class ImageEnergy:
    """p = q exp(g) / Z, on one device."""

    q: NoiseLaw
    g: nn.Module
    device: torch.device

    def __call__(self, x: Tensor) -> Tensor:
        """f(x) = log q(x) + g(x): (..., D) on the energy's device -> (...,) float64."""
        value: Tensor = self.q.log_prob(x) + self.g(x).to(torch.float64)
        return value

    @torch.no_grad()
    def score(self, x: Tensor) -> Tensor:
        """f of points that lie anywhere, on the CPU."""
        return self(x.to(self.device)).cpu()


def train_energy(
    images: ImageSet,
    x: Tensor,
    objective: str,
    options: dict[str, Any],
    config: EnergyConfig,
    *,
    seed: int,
    device: str = "cpu",
    validation: Tensor | None = None,
    augment: Augment | None = None,
) -> ImageEnergy:
    """Fit q and g to the points x (N, D); with validation points the g of the lowest NCE loss on them is kept.

    The NCE loss is the one criterion all objectives share whose value is bounded: a likelihood would need log Z, which
    a handful of heavy weights decides in these dimensions. The constant that MECO leaves free in g is set by log Z.
    """
    where = resolve_device(device)
    q = moved(noise_law(x, config, seed=seed), where)  # fitted here: the same law on every device
    rng = generator(seed, "network")
    if config.network == "mlp":
        layers = MLPConfig(hidden=(256, 256), first="default", zero_output=True)
        g: nn.Module = MLPEnergy.for_data(x, layers, rng=rng)
    else:
        g = ConvEnergy((1, *images.shape), ConvConfig(zero_output=True), rng=rng)
    train = TrainConfig(
        steps=config.steps,
        batch_size=config.batch_size,
        optimiser="adamw",
        weight_decay=1e-4,
        lr=config.lr,
        clip=10.0,
        average=0.998,
        device=device,
        validate_every=max(1, config.steps // 10),
    )
    trainer = Trainer(
        g, make(objective, options), x, q=relative(q), config=train, rng_seed=seed,
        validation=None if validation is None else _nce_on(validation.to(where), q, seed),
        augment=augment or jitter(config.jitter),
    )  # fmt: skip
    trainer.run()
    if validation is not None:
        trainer.load_best()
    return ImageEnergy(q, trainer.model, where)


def jitter(scale: float) -> Augment:
    """x + scale e."""
    return lambda x, rng: x + scale * torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)


def _nce_on(x: Tensor, q: NoiseLaw, seed: int) -> Callable[[nn.Module], float]:
    """g -> the logistic loss of telling x from as many draws of q, at the c that fits best on a grid."""
    rng = torch.Generator(x.device).manual_seed(generator(seed, "validation noise").initial_seed())
    z = q.sample(4 * len(x), rng=rng).to(x)

    def loss(g: nn.Module) -> float:
        g_x, g_z = g(x).to(torch.float64), g(z).to(torch.float64)
        # c = log Z from the noise, and shifts of it: an objective without c must not be judged by its constant.
        c = float(log_mean_exp(g_z)) + torch.linspace(-8.0, 8.0, 65, dtype=torch.float64, device=x.device)
        soft = torch.nn.functional.softplus
        per_shift = soft(c[:, None] - g_x).mean(1) + soft(g_z - c[:, None]).mean(1)
        return float(per_shift.min()) if math.isfinite(float(per_shift.min())) else math.inf

    return loss
