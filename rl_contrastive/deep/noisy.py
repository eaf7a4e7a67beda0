"""Noisy linear layers: exploration by learned noise on the weights of the value heads, in addition to the bonus.

    y = (W + S * E) x + b + s * e,   E = e c',   e = f(N(0, I_q)),   c = f(N(0, I_p)),   f(x) = sgn(x) sqrt|x|

for p inputs and q outputs: factorised Gaussian noise of Fortunato et al. 2018, Section 3, one draw for a whole batch.
S and s are learned and begin at sigma_0 / sqrt(p). E is never formed: (S * E) x = e * S (c * x).

A layer uses the noise that `resample` drew last from the given generator. Initially, and after `mean_noise`, its output
is the mean y = W x + b, to the bit. Noise is not part of the saved state, so draw before you use a noisy output.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rl_contrastive.config import require


class NoisyLinear(nn.Module):
    """(N, p) -> (N, q); `plain` with noise on its weights."""

    c: Tensor
    e: Tensor

    def __init__(self, plain: nn.Linear, sigma: float) -> None:
        """plain: its weights become the means W and b. sigma: sigma_0 (> 0)."""
        super().__init__()
        require(0.0 < sigma < math.inf, f"noisy: sigma must be > 0 and finite, got {sigma}.")
        start = sigma / math.sqrt(plain.in_features)
        self.weight, self.bias = plain.weight, plain.bias  # (q, p), (q,)
        self.weight_scale = nn.Parameter(torch.full_like(plain.weight, start))  # S
        self.bias_scale = nn.Parameter(torch.full_like(plain.bias, start))  # s
        device = plain.weight.device
        self.register_buffer("c", torch.zeros(plain.in_features, device=device), persistent=False)
        self.register_buffer("e", torch.zeros(plain.out_features, device=device), persistent=False)
        self.on = False

    def resample(self, *, rng: torch.Generator) -> None:
        """New c and e, drawn on the device of `rng`: the same on each device of the layer."""
        for noise in (self.c, self.e):
            x = torch.randn(noise.shape, generator=rng, device=rng.device)
            noise.copy_(x.sign() * x.abs().sqrt())
        self.on = True

    def forward(self, x: Tensor) -> Tensor:
        mean = linear(x, self.weight, self.bias)
        return mean + self.e * linear(x * self.c, self.weight_scale, self.bias_scale) if self.on else mean


def add_noise(module: nn.Module, sigma: float) -> None:
    """Every linear layer within `module` becomes a noisy one with the same weights as means."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, NoisyLinear(child, sigma))
        else:
            add_noise(child, sigma)


def resample(*modules: nn.Module, rng: torch.Generator) -> None:
    """New noise, independent of each other, for all noisy layers within."""
    for layer in _layers(modules):
        layer.resample(rng=rng)


def mean_noise(*modules: nn.Module) -> None:
    """Mean weights from now on for all noisy layers within."""
    for layer in _layers(modules):
        layer.on = False


def _layers(modules: tuple[nn.Module, ...]) -> list[NoisyLinear]:
    return [layer for module in modules for layer in module.modules() if isinstance(layer, NoisyLinear)]
