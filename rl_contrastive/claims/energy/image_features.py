"""Features for detectors: an encoder from InfoNCE on altered images, and class energies learned from labels.

Contrastive (no labels): e(x) unit vectors, two altered versions v, v' of each image of a batch,
    loss = mean_i -log exp(e(v_i)'e(v'_i)/tau) / sum_j exp(e(v_i)'e(v'_j)/tau)          (Chen et al. 2020)
so directions in which nothing but a harmless change moves an image are folded away, which pixel distances cannot do.
Class energies (labels of the known classes): f(x, y) from cross-entropy, which is InfoNCE with the classes as
candidates; f(x) = logsumexp_y f(x, y) is low where no class claims x (Liu et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from rl_contrastive.claims.energy.image_data import ImageSet, augmented, generator
from rl_contrastive.config import MOST_DRAWN, MOST_WIDTH, Ge, Gt, In, Options
from rl_contrastive.energy.energies import MLP, MLPConfig


@dataclass(frozen=True)
class EncoderConfig(Options, where="encoder"):
    """An encoder and its descent."""

    hidden: Annotated[tuple[int, ...], In(1, MOST_WIDTH)] = (256, 256)
    """Widths of the hidden layers."""
    outputs: Annotated[int, In(2, MOST_WIDTH)] = 64
    """Dimension of e(x)."""
    temperature: Annotated[float, Gt(0)] = 0.2
    """tau."""
    steps: Annotated[int, Ge(1)] = 500
    """Adam steps."""
    batch_size: Annotated[int, In(2, MOST_DRAWN)] = 128
    """Images in a step. Each has the others' altered versions as negatives."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Learning rate."""


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The loss above for unit vectors (n, d) and (n, d), row i of one belonging to row i of the other -> ()."""
    return cross_entropy(first @ second.T / temperature, torch.arange(len(first), device=first.device))


def contrastive_encoder(
    images: ImageSet, values: Tensor, config: EncoderConfig, *, seed: int
) -> Callable[[Tensor], Tensor]:
    """Train e on grey values (n, D); returns points x (m, D) -> unit vectors (m, outputs) without gradients."""
    net = _network(values.shape[1], config.outputs, config, seed)
    rng = generator(seed, "encoder")

    def loss(rows: Tensor) -> Tensor:
        # Both sides altered: with the image itself on one side its untouched sharpness would be a clue.
        one, other = (augmented(images, rows, 1, rng=rng, move=1.0)[len(rows) :] for _ in range(2))
        views = [normalize(net(images.dequantised(view, rng=rng)), dim=-1) for view in (one, other)]
        return info_nce(views[0], views[1], config.temperature)

    _descend(net, loss, values, config, rng)

    @torch.no_grad()
    def encode(x: Tensor) -> Tensor:
        return normalize(net(x), dim=-1)

    return encode


def class_energies(
    images: ImageSet, values: Tensor, labels: Tensor, config: EncoderConfig, *, seed: int
) -> Callable[[Tensor], Tensor]:
    """Train f(x, y) on grey values (n, D) and labels (n,); returns points x (m, D) -> (m, known classes)."""
    known, target = torch.unique(labels, return_inverse=True)
    net = _network(values.shape[1], len(known), config, seed)
    rng = generator(seed, "classes")

    def loss(rows: Tensor) -> Tensor:
        index = rows.long()
        view = augmented(images, values[index], 1, rng=rng, move=1.0)[len(index) :]
        return cross_entropy(net(images.dequantised(view, rng=rng)), target[index])

    _descend(net, loss, torch.arange(len(values)), config, rng)

    @torch.no_grad()
    def energies(x: Tensor) -> Tensor:
        out: Tensor = net(x)
        return out

    return energies


def _network(inputs: int, outputs: int, config: EncoderConfig, seed: int) -> MLP:
    layers = MLPConfig(hidden=config.hidden, first="default")
    return MLP(inputs, outputs, layers, rng=generator(seed, "encoder weights"))


def _descend(
    net: nn.Module, loss: Callable[[Tensor], Tensor], rows: Tensor, config: EncoderConfig, rng: torch.Generator
) -> None:
    optimiser = torch.optim.Adam(net.parameters(), config.lr)
    for _ in range(config.steps):
        batch = rows[torch.randint(len(rows), (config.batch_size,), generator=rng)]
        optimiser.zero_grad(set_to_none=True)
        loss(batch).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
