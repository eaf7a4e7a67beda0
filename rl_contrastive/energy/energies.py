"""Energies f(x): networks whose first layer suits low-dimensional densities, ways to combine energies, low-rank f.

No network here has an output bias: a constant in f changes nothing but Z, and an objective that fits Z (NCE) keeps it
as its own parameter. Initial weights are drawn from the generator that is handed in, on its device; `.to` moves on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from rl_contrastive.config import MOST_WIDTH, Ge, Gt, In, Options, require
from rl_contrastive.energy.base import Energy
from rl_contrastive.energy.noise import NoiseLaw, check_points

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "softplus": nn.functional.softplus,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class MLPConfig(Options, where="mlp"):
    """A multilayer perceptron for standardised inputs."""

    hidden: Annotated[tuple[int, ...], In(1, MOST_WIDTH)] = (128, 128)
    """Widths of the hidden layers, at least one."""
    activation: Literal["silu", "softplus", "tanh"] = "silu"
    """Smooth ones only: score matching differentiates twice, samplers once."""
    first: Literal["features", "default"] = "features"
    """Initial first layer. features: weights N(0, first_scale^2), biases U(-first_bias, first_bias), ridges of all
    positions and some sharpness as in random features; default: U(-1/sqrt(D), 1/sqrt(D)), nearly linear at first."""
    first_scale: Annotated[float, Gt(0)] = 2.0
    """Measured on 8 Gaussians: 1.5 to 3 with two layers leaves the ring-shaped plateau on which default sits for
    hundreds of steps whatever the objective (its features lack the 8th harmonic). Not universal: a checkerboard did
    better with three default layers."""
    first_bias: Annotated[float, Ge(0)] = 3.0
    """The ridges lie within about this many standard deviations / first_scale."""
    zero_output: bool = False
    """Start at f = 0, so that log q + f starts at the noise law itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.hidden), "mlp: hidden must hold at least one width.")


class MLP(nn.Module):
    """x (..., inputs) -> (..., outputs), linear at the end and without an output bias."""

    def __init__(self, inputs: int, outputs: int, config: MLPConfig | None = None, *, rng: torch.Generator) -> None:
        super().__init__()
        require(inputs >= 1 and outputs >= 1, f"mlp: inputs and outputs must be >= 1, got {inputs} and {outputs}.")
        config = config or MLPConfig()
        self.inputs, self.outputs, self.config = inputs, outputs, config
        sizes = (inputs, *config.hidden)
        self.layers = nn.ModuleList(linear(a, b, rng=rng) for a, b in itertools.pairwise(sizes))
        self.head = linear(config.hidden[-1], outputs, bias=False, zero=config.zero_output, rng=rng)
        if config.first == "features":
            first = self.layers[0]
            assert isinstance(first, nn.Linear)
            with torch.no_grad():
                first.weight.normal_(0.0, config.first_scale, generator=rng)
                first.bias.uniform_(-config.first_bias, config.first_bias, generator=rng)

    def forward(self, x: Tensor) -> Tensor:
        require(x.shape[-1] == self.inputs, f"mlp: x must be (..., {self.inputs}), got {tuple(x.shape)}.")
        activation = ACTIVATIONS[self.config.activation]
        x = x.to(self.head.weight.dtype)  # noise and chains may be float64
        for layer in self.layers:
            x = activation(layer(x))
        out: Tensor = self.head(x)
        return out


def linear(inputs: int, outputs: int, *, rng: torch.Generator, bias: bool = True, zero: bool = False) -> nn.Linear:
    """A linear layer with entries U(-1/sqrt(inputs), 1/sqrt(inputs)) of `rng`, or 0."""
    # Made without values: a constructor that fills a layer draws from the global generator.
    layer = nn.Linear(inputs, outputs, bias=bias, device="meta").to_empty(device=rng.device)
    bound = 0.0 if zero else 1.0 / math.sqrt(inputs)
    _fill(layer, bound, rng)
    return layer


def _fill(layer: nn.Module, bound: float, rng: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=rng)


class MLPEnergy(nn.Module):
    """f(x) = MLP((x - centre) / scale): x (..., n, D) -> (..., n)."""

    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        dim: int,
        config: MLPConfig | None = None,
        *,
        rng: torch.Generator,
        centre: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> None:
        """centre, scale (D,): of the data, see `for_data`; 0 and 1 when left out."""
        super().__init__()
        self.net = MLP(dim, 1, config, rng=rng)
        for name, value, default in (("centre", centre, 0.0), ("scale", scale, 1.0)):
            buffer = torch.full((dim,), default, device=rng.device) if value is None else value.to(rng.device)
            require(buffer.shape == (dim,), f"mlp energy: {name} must be ({dim},), got {tuple(buffer.shape)}.")
            self.register_buffer(name, buffer.to(torch.float32))
        require(bool((self.scale > 0).all()), "mlp energy: scale must be > 0.")

    @classmethod
    def for_data(cls, x: Tensor, config: MLPConfig | None = None, *, rng: torch.Generator) -> MLPEnergy:
        """Centre and scale from the columns of x (N, D); a constant column keeps the scale 1."""
        dim = check_points("MLPEnergy.for_data: the data", x)
        spread = x.to(torch.float64).std(0, correction=0)
        scale = torch.where(spread > 0, spread, 1.0)
        return cls(dim, config, rng=rng, centre=x.to(torch.float64).mean(0), scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        dim = self.net.inputs
        require(x.shape[-1] == dim, f"mlp energy: x must be (..., {dim}), got {tuple(x.shape)}.")
        out: Tensor = self.net((x - self.centre) / self.scale)
        return out.squeeze(-1)


@dataclass(frozen=True)
class ConvConfig(Options, where="conv"):
    """Strided convolutions, then two linear layers."""

    channels: Annotated[tuple[int, ...], In(1, MOST_WIDTH)] = (32, 64)
    """Output channels of each 3x3 convolution of stride 2, at least one."""
    hidden: Annotated[int, In(1, MOST_WIDTH)] = 128
    """Width of the linear layer after them."""
    zero_output: bool = False
    """Start at f = 0, so that log q + f starts at the noise law itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.channels), "conv: channels must hold at least one number.")


class ConvEnergy(nn.Module):
    """f of images that come as rows, as every energy: x (..., n, C*H*W) -> (..., n)."""

    def __init__(self, shape: tuple[int, int, int], config: ConvConfig | None = None, *, rng: torch.Generator) -> None:
        """shape (C, H, W)."""
        super().__init__()
        config = config or ConvConfig()
        require(len(shape) == 3 and min(shape) >= 1, f"conv: shape must be (C, H, W), got {shape}.")
        self.shape = shape
        height, width = shape[1:]
        self.layers = nn.ModuleList()
        for inputs, outputs in zip((shape[0], *config.channels), config.channels, strict=False):
            layer = nn.Conv2d(inputs, outputs, kernel_size=3, stride=2, padding=1, device="meta")
            layer = layer.to_empty(device=rng.device)
            _fill(layer, 1.0 / math.sqrt(9 * inputs), rng)
            self.layers.append(layer)
            height, width = (height + 1) // 2, (width + 1) // 2
        self.inner = linear(config.channels[-1] * height * width, config.hidden, rng=rng)
        self.head = linear(config.hidden, 1, bias=False, zero=config.zero_output, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        D = math.prod(self.shape)
        require(x.shape[-1] == D, f"conv: x must be (..., {D}) for images {self.shape}, got {tuple(x.shape)}.")
        h = x.reshape(-1, *self.shape).to(self.head.weight.dtype)
        for layer in self.layers:
            h = nn.functional.silu(layer(h))
        h = nn.functional.silu(self.inner(h.flatten(1)))
        out: Tensor = self.head(h)
        return out.reshape(x.shape[:-1])


class Product(nn.Module):
    """exp(f) = prod_i exp(f_i)^{w_i}: f = sum_i w_i f_i, a consensus of energies (w_i < 0 takes one out)."""

    def __init__(self, energies: Sequence[Energy], weights: Sequence[float] | None = None) -> None:
        """Weights 1 when left out. Modules among the energies are trained with the product."""
        super().__init__()
        weights = [1.0] * len(energies) if weights is None else weights
        require(len(energies) == len(weights) >= 1, "product: give one weight for each energy, at least one.")
        self.energies, self.weights = tuple(energies), tuple(weights)
        self.modules_of = nn.ModuleList(e for e in energies if isinstance(e, nn.Module))

    def forward(self, x: Tensor) -> Tensor:
        # Term by term, so that an energy of -inf (density 0) gives -inf.
        total = self.weights[0] * self.energies[0](x)
        for weight, energy in zip(self.weights[1:], self.energies[1:], strict=True):
            total = total + weight * energy(x)
        return total


class MixtureEnergy(nn.Module):
    """exp(f) = sum_i w_i exp(f_i): the mixture of exp(f_i)/Z_i with shares proportional to w_i Z_i."""

    def __init__(self, energies: Sequence[Energy], weights: Sequence[float]) -> None:
        """Weights > 0; they need not sum to 1."""
        super().__init__()
        require(len(energies) == len(weights) >= 1, "mixture energy: give one weight for each energy, at least one.")
        require(min(weights) > 0.0, f"mixture energy: weights must be > 0, got {list(weights)}.")
        self.energies, self.weights = tuple(energies), tuple(weights)
        self.modules_of = nn.ModuleList(e for e in energies if isinstance(e, nn.Module))

    def forward(self, x: Tensor) -> Tensor:
        terms = [math.log(w) + energy(x) for w, energy in zip(self.weights, self.energies, strict=True)]
        return torch.logsumexp(torch.stack(terms), dim=0)


def tilted(q: NoiseLaw, g: Energy) -> Product:
    """f = log q + g: the noise law corrected by a learned ratio; with g = 0 at first, log Z starts at exactly 0.

    The law is no module: its own `.to` moves it, and no optimiser trains it.
    """
    return Product([q.log_prob, g])
