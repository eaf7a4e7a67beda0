"""Handwritten digits for claims: one split a seed, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rl_contrastive.claims.energy.image_data import generator, load


@dataclass(frozen=True)
class Digits:
    """Images with pixels in [0, 1] and their classes, of S splits."""

    x: Tensor
    """(S, n, D)."""
    y: Tensor
    """(S, n)."""
    x_test: Tensor
    """(S, m, D)."""
    y_test: Tensor
    """(S, m)."""


def split_digits(seeds: Sequence[int], name: str = "digits", share: float = 2 / 3) -> Digits:
    """A random `share` for training, the rest for the test; name: digits (1797, 8x8) or mnist (5000, 14x14)."""
    images = load(name)
    x, n = images.values / (images.levels - 1), round(share * len(images.values))
    order = torch.stack([torch.randperm(len(x), generator=generator(seed, "split")) for seed in seeds])
    return Digits(x[order[:, :n]], images.labels[order[:, :n]], x[order[:, n:]], images.labels[order[:, n:]])


def rows_of(x: Tensor, index: Tensor) -> Tensor:
    """x (S, n, ...) at index (S, B) -> (S, B, ...)."""
    return x[torch.arange(len(x)).unsqueeze(1), index]


def draw_rows(n: int, batch: int, *, rngs: Sequence[torch.Generator]) -> Tensor:
    """(S, batch) different numbers below n, from one generator a problem."""
    return torch.stack([torch.randperm(n, generator=rng)[:batch] for rng in rngs])


def normal(like: Tensor, *, rngs: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise of a shape (S, ...), from one generator a problem."""
    return torch.stack([torch.randn(like.shape[1:], generator=rng) for rng in rngs])
