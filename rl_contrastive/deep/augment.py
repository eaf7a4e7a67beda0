"""Image augmentation of gradient steps: each observation is shifted a little and made a little brighter or darker.

    x'(i, j) = (1 + scale * clip(e, -2, 2)) x(clip(i + u), clip(j + v)),   u, v uniform on {-shift..shift}, e ~ N(0, 1)

One (u, v, e) serves all planes of an observation, so its stacked frames stay aligned. Beyond the edge, pixels repeat.
Sources: the shift of Kostrikov et al. 2021 (DrQ), the intensity of Schwarzer et al. 2021 (SPR), whose agent has shift 4
and scale .05. The random numbers are drawn on the CPU and applied separately, so that each device gets the same.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rl_contrastive.config import require
from rl_contrastive.deep.config import AugmentConfig

KINDS = ("nature", "impala")
"""Encoders of frames. For all other encoders a shift by a pixel is another state."""
INTENSITY_CLIP = 2.0
"""Largest |e|."""


class Distortion(NamedTuple):
    """The distortions of N observations."""

    offset: Tensor
    """(N, 2) int64, u and v: rows and columns, in [-shift, shift]."""
    factor: Tensor
    """(N,) float32, of the intensity."""


def check_augment(config: AugmentConfig, kind: str) -> None:
    """RlcError if this kind of encoder takes no frames, whose pixels could be shifted."""
    off = config.shift == 0 and config.intensity == 0
    require(off or kind in KINDS, f"augment: only for the encoders {' and '.join(KINDS)}, not for {kind}.")


def draw(config: AugmentConfig, count: int, *, rng: torch.Generator) -> Distortion:
    """Independent distortions of `count` observations, on the CPU like `rng`."""
    s = config.shift
    offset = torch.randint(-s, s + 1, (count, 2), generator=rng)
    noise = torch.randn(count, generator=rng).clamp_(-INTENSITY_CLIP, INTENSITY_CLIP)
    return Distortion(offset, 1.0 + config.intensity * noise)


def distort(frames: Tensor, offset: Tensor, factor: Tensor) -> Tensor:
    """x' of frames (N, C, H, W) or (N, H, W), floats, with the fields of a `Distortion` on their device: one gather."""
    N, *planes, H, W = frames.shape
    C = math.prod(planes)
    row = (torch.arange(H, device=frames.device) + offset[:, :1]).clamp_(0, H - 1)  # (N, H)
    column = (torch.arange(W, device=frames.device) + offset[:, 1:]).clamp_(0, W - 1)  # (N, W)
    place = (row[:, :, None] * W + column[:, None, :]).reshape(N, 1, H * W)
    moved = frames.reshape(N, C, H * W).gather(2, place.expand(N, C, H * W))
    return (moved * factor.to(frames.dtype)[:, None, None]).reshape(frames.shape)
