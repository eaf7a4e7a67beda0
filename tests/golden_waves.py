"""The inputs of the golden values, which published code gave: waves of whole numbers as embeddings."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def wave(n: int, d: int, k: float) -> Tensor:
    """X(n, d, k): sin(0 + k), sin(1 + k), ... as n rows; float32 of the sine, held in float64."""
    return torch.tensor(np.sin(np.arange(n * d) + k).astype(np.float32).reshape(n, d), dtype=torch.float64)


def unit_wave(n: int, d: int, k: float) -> Tensor:
    """X(n, d, k) with rows of length 1."""
    return torch.nn.functional.normalize(wave(n, d, k), dim=-1)
