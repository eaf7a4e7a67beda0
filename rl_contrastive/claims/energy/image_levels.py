"""Images from noise: an energy of every noise level, taught by altered images that it knows to be altered.

A ratio to a noise law (`image_energies`) can only be learned where that law puts images. Here the law of the images
blurred by N(0, sigma^2) is fitted at each sigma of a ladder (`energy.noise_levels`) and a sample walks down it. A
thousand images are soon known by heart: the training images are also shown turned, stretched and moved, with these
five numbers as a condition of the energy, and samples are made at 0, for images that nobody altered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from rl_contrastive.claims.energy.image_data import ImageSet, cells_of, generator, warped
from rl_contrastive.config import MOST_DRAWN, In, Options, require
from rl_contrastive.device import resolve_device
from rl_contrastive.energy.noise_levels import LevelConfig, LevelEnergy, at_level, descend_levels
from rl_contrastive.energy.samplers import langevin
from rl_contrastive.energy.score import MultiLevelScore, NoiseLadder
from rl_contrastive.energy.trainer import Augment, TrainConfig, Trainer

NUMBERS = 5
"""How an image was altered: its turn, two stretches, two moves."""


@dataclass(frozen=True)
class LevelsConfig(Options, where="image levels"):
    """The energy of all levels, its descent and its sampler."""

    steps: int = 1600
    """Steps, >= 1: more make better images and then copies. On tuning seed 0 with half of the images altered, along
    one run of 2000, distances to the training images were 1.00, .95, .92, .91 of those of unseen images after 800,
    1200, 1600, 2000 steps, the two-sample accuracy .66, .64, .63, .61."""
    batch_size: Annotated[int, In(1, MOST_DRAWN)] = 256
    """Images in a step."""
    lr: float = 4e-3
    """Learning rate of AdamW, > 0."""
    altered: Annotated[float, In(0, 1)] = 0.7
    """Share of the images of a step that are altered."""
    turn: float = 6.0
    """Largest turn in degrees, >= 0."""
    stretch: float = 0.05
    """Largest change of width and height, in [0, 1)."""
    move: float = 0.4
    """Largest move in pixels, >= 0."""
    ladder: NoiseLadder = field(default_factory=lambda: NoiseLadder(low=0.05, high=1.5, count=120))
    """From less than a grey level (.12) to twice a pixel's deviation."""
    settle: int = 60
    """Langevin steps at the highest level, >= 1: the blurred images are not quite the Gaussian that samples start from.
    With 60 and with none tuning seeds 0 and 1 gave accuracies of .63, .61 and .62, .64."""
    corrections: int = 0
    """Langevin steps of the sampler at each level, >= 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("steps", 1), ("settle", 1), ("corrections", 0)):
            value = getattr(self, name)
            require(value >= least, f"image levels: {name} must be >= {least}, got {value}.")
        require(self.lr > 0.0, f"image levels: lr must be > 0, got {self.lr}.")
        require(
            min(self.turn, self.move) >= 0.0 and 0.0 <= self.stretch < 1.0,
            "image levels: turn, move and stretch must be >= 0, stretch below 1.",
        )


def train_levels(images: ImageSet, x: Tensor, config: LevelsConfig, *, seed: int, device: str = "cpu") -> LevelEnergy:
    """Fit f to the points x (N, D); the moving average of the parameters."""
    f = LevelEnergy.for_data(x, LevelConfig(conditions=NUMBERS), rng=generator(seed, "network"))
    train = TrainConfig(
        steps=config.steps,
        batch_size=config.batch_size,
        optimiser="adamw",
        weight_decay=1e-4,
        lr=config.lr,
        clip=10.0,
        average=0.995,
        device=device,
    )
    objective = MultiLevelScore(config.ladder, conditions=NUMBERS)
    trainer = Trainer(f, objective, x, q=None, config=train, rng_seed=seed, augment=altering(images, config))
    trainer.run()
    model = trainer.model
    assert isinstance(model, LevelEnergy)
    return model


def altering(images: ImageSet, config: LevelsConfig) -> Augment:
    """Points (n, D) -> (n, D + 5): new dequantisation noise, a share of the images altered, and how."""

    def alter(x: Tensor, rng: torch.Generator) -> Tensor:
        n = len(x)
        a = 2.0 * torch.rand(n, NUMBERS, generator=rng, device=x.device) - 1.0
        a = torch.where(torch.rand(n, 1, generator=rng, device=x.device) < config.altered, a, 0.0)
        angle, scale = math.radians(config.turn) * a[:, 0], 1.0 + config.stretch * a[:, 1:3]
        values = warped(images, cells_of(images, x), angle, scale, config.move * a[:, 3:])
        return torch.cat([images.dequantised(values, rng=rng), a], 1)

    return alter


def sample_levels(f: LevelEnergy, n: int, config: LevelsConfig, *, seed: int, device: str = "cpu") -> Tensor:
    """(n, D) points on the CPU: from the Gaussian of the highest level down the ladder, then the denoised point."""
    rng = torch.Generator(resolve_device(device)).manual_seed(generator(seed, "sampling").initial_seed())
    start = f.start(n, config.ladder.high, rng=rng)
    high = config.ladder.high
    start = langevin(at_level(f, high), start, steps=config.settle, step_size=0.4 * high**2, rng=rng)
    return descend_levels(f, start, config.ladder, rng=rng, corrections=config.corrections).cpu()
