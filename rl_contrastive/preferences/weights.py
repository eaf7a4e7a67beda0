"""Weights of pairs, which a loss of pairs takes as `weight`: fixed numbers, computed once from frozen features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from rl_contrastive.config import Ge, Options, require
from rl_contrastive.device import require_tensor
from rl_contrastive.preferences.base import PairWeight, own_config


@dataclass(frozen=True)
class SemDPOConfig(Options, where="sem-dpo"):
    """How fast the weight falls with the distance."""

    alpha: Annotated[float, Ge(0)] = 4.0
    """alpha; 0 gives all pairs the weight 1. The paper's own value was not found; below 4 little changes."""


class SemDPO(PairWeight):
    """Sem-DPO: W = exp(-alpha (1 - cos(e(x), e(y_w)))), so chosen completions far from their prompt count less.

    e is a frozen embedding of prompt and completion; W has no gradient. Source: a note that quotes the weight.
    """

    def __init__(self, config: SemDPOConfig | None = None) -> None:
        self.config = own_config(self, config, SemDPOConfig)

    def __call__(self, start: Tensor, chosen: Tensor) -> Tensor:
        """Weights (..., P) in (0, 1] of features (..., P, d); RlcError for shapes that differ, NaN or zero vectors."""
        for name, x in (("start", start), ("chosen", chosen)):
            require_tensor("SemDPO", f"features of {name}", x)
            require(x.dtype.is_floating_point, f"SemDPO: features of {name} must be floats, got {x.dtype}.")
        same = tuple(start.shape) == tuple(chosen.shape) and start.ndim >= 2
        require(same, f"SemDPO: both features must have one shape (..., P, d), got {tuple(start.shape)} and "
                f"{tuple(chosen.shape)}.")  # fmt: skip
        for name, x in (("start", start), ("chosen", chosen)):
            require(bool(torch.isfinite(x).all()), f"SemDPO: features of {name} hold NaN or infinite numbers.")
            nonzero = bool((x != 0).any(-1).all())
            require(nonzero, f"SemDPO: a feature vector of {name} is zero and has no direction.")
        # By the largest entry first: squares of very small or large ones leave the range of floats.
        u, v = (x.detach() / x.detach().abs().amax(-1, keepdim=True) for x in (start, chosen))
        cosine = nn.functional.cosine_similarity(u, v, dim=-1)
        return (-self.config.alpha * (1 - cosine)).exp()
