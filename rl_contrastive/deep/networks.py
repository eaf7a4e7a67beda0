"""The networks of the deep agent: encoders of every kind of observation, a value head, both drawn from a generator.

An encoder takes raw observations (N, *obs_shape) as the replay stores them and gives vectors (N, width):

    mlp       floats (standardised), bytes / 255, state indices as one-hot vectors; then linear layers
    minatar   10 x 10 planes: one 3 x 3 convolution, as MinAtar's own DQN (Young and Tian 2019)
    minigrid  7 x 7 codes that the environment declares, one-hot here, or planes: 3 x 3 convolutions without padding, so
              that places stay apart
    nature    84 x 84 frames: the convolutions 8/4, 4/2, 3/1 of Mnih et al. 2015
    impala    frames: the residual towers of Espeholt et al. 2018 (Figure 3, right)

Layers are made empty and filled from the given generator on its device. torch's global generator is never used.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.config import require
from rl_contrastive.deep.config import EncoderConfig, Init, check_channels
from rl_contrastive.device import require_memory
from rl_contrastive.errors import RlcError

RELU_GAIN = math.sqrt(2.0)

HIDDEN = {"mlp": (256, 256), "minatar": (128,), "minigrid": (256,), "nature": (512,), "impala": (256,)}
CHANNELS = {"minatar": (16,), "minigrid": (32, 64), "nature": (32, 64, 64), "impala": (16, 32, 32)}


def encoder(
    config: EncoderConfig,
    obs_shape: tuple[int, ...],
    obs_dtype: str,
    *,
    rng: torch.Generator,
    num_states: int | None = None,
    codes: tuple[int, ...] = (),
) -> Encoder:
    """The encoder of observations of this shape (after stacking) and dtype; `num_states` for tabular indices, `codes`
    as in `EnvSpec`."""
    kind = choose_kind(obs_shape, obs_dtype, codes) if config.kind == "auto" else config.kind
    inputs = Inputs(kind, obs_shape, obs_dtype, num_states, codes, device=rng.device)
    body: list[nn.Module] = []
    shape = inputs.out_shape
    if kind != "mlp":
        require(len(shape) == 3, f"encoder {kind}: observations must have 2 or 3 axes, got shape {obs_shape}.")
        channels = CHANNELS[kind] if config.channels is None else config.channels
        check_channels(kind, channels)  # of `auto` too
        layers, shape = _convolutions(kind, shape, channels, config.init, rng)
        body += layers
    body.append(nn.Flatten())
    widths = (math.prod(shape), *(HIDDEN[kind] if config.hidden is None else config.hidden))
    require(len(widths) > 1 or kind != "mlp", "encoder: an mlp needs at least one hidden layer.")
    # Network and target, gradient and Adam's two means of each, in float32.
    weights = sum(a * b for a, b in itertools.pairwise(widths))
    require_memory(
        20 * weights, f"encoder: {widths[0]} inputs for layers of {widths[1:]}", "show less, or shrink hidden"
    )
    for a, b in itertools.pairwise(widths):
        body.append(linear(a, b, gain=RELU_GAIN, init=config.init, rng=rng))
        if config.layer_norm:
            body.append(nn.LayerNorm(b, device=rng.device))
        body.append(nn.ReLU())
    return Encoder(kind, inputs, Layers(*body), widths[-1])


def choose_kind(obs_shape: tuple[int, ...], obs_dtype: str, codes: tuple[int, ...] = ()) -> str:
    """What `kind = "auto"` means, see `EncoderConfig`."""
    if codes:
        return "minigrid"
    if len(obs_shape) not in (2, 3) or obs_dtype not in ("bool", "uint8"):
        return "mlp"
    rows, columns = obs_shape[-2:]
    if min(rows, columns) >= 36:
        return "nature"
    if obs_dtype == "bool" and len(obs_shape) == 3 and min(rows, columns) >= 5:
        return "minatar" if (rows, columns) == (10, 10) else "minigrid"
    return "mlp"


class Layers(nn.Sequential):
    """Runs one layer after another without the hooks of a module call, which take longer than the layers themselves for
    rows of a few environments."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self._modules.values():
            assert layer is not None
            x = layer.forward(x)
        return x


class Inputs(nn.Module):
    """Raw observations (N, *obs_shape) -> numbers (N, *out_shape) in the precision of the buffers.

    Bytes are divided by 255, declared codes and state indices become one-hot. Floats become sign(x) log(1 + |x|) of x
    standardised by the centre and spread that `standardise` was last given: 0 and 1 before.
    """

    centre: Tensor
    factor: Tensor
    value: Tensor

    def __init__(
        self,
        kind: str,
        obs_shape: tuple[int, ...],
        obs_dtype: str,
        num_states: int | None,
        codes: tuple[int, ...],
        *,
        device: torch.device,
    ) -> None:
        super().__init__()
        dtype = np.dtype(obs_dtype)
        self.obs_shape = tuple(obs_shape)
        if num_states is not None:
            require(kind == "mlp", f"encoder: state indices need the kind mlp, not {kind}.")
            require(dtype.kind in "iu", f"encoder: {num_states} states, but observations of dtype {obs_dtype}.")
            self.rule, self.out_shape = "states", (*self.obs_shape, num_states)
        elif codes:
            planes = len(obs_shape) == 3 and obs_shape[0] % len(codes) == 0 and dtype == np.uint8
            have = f"{obs_dtype} of shape {obs_shape}"
            require(
                planes, f"encoder: {len(codes)} planes of codes a frame need bytes (k {len(codes)}, H, W), not {have}."
            )
            frames = obs_shape[0] // len(codes)
            self.rule, self.out_shape = "codes", (frames * sum(codes), *obs_shape[1:])
            codes = codes * frames
        else:
            self.rule = {"bool": "flags", "uint8": "bytes"}.get(dtype.name, "floats")
            require(dtype != np.int64 or obs_shape != (), "encoder: state indices need num_states.")
            image = kind != "mlp" and len(obs_shape) == 2  # one frame is one plane
            self.out_shape = (1, *self.obs_shape) if image else self.obs_shape
        floats = self.rule == "floats"
        shape = self.obs_shape if floats else ()
        self.register_buffer("centre", torch.zeros(shape, device=device))
        self.register_buffer("factor", torch.full(shape, 1 / 255 if self.rule == "bytes" else 1.0, device=device))
        self.codes = codes if self.rule == "codes" else ()
        """Numbers of values of all planes."""
        count = max(codes) if self.rule == "codes" else num_states or 0
        kind_of = torch.uint8 if self.rule == "codes" else torch.int64
        # Not saved: it follows from the shape.
        self.register_buffer("value", torch.arange(count, dtype=kind_of, device=device), persistent=False)

    def standardise(self, obs: np.ndarray | Tensor) -> None:
        """Centre and spread from observations (N, *obs_shape).

        A coordinate that did not vary gets the median factor of those that did (1 if none did). It may vary later, as
        in one-hot grids, and must not be tiny then.

        It affects floats only. It changes the function at once, so call it before training (after the first random
        steps, say), and do not use targets and features computed before.
        """
        if self.rule != "floats":
            return
        x = torch.as_tensor(obs, device=self.centre.device).to(torch.float64)
        require(x.shape[1:] == self.obs_shape and len(x) > 0, f"encoder: cannot standardise shape {tuple(x.shape)}.")
        if not bool(torch.isfinite(x).all()):
            raise RlcError("encoder: an observation to standardise by is NaN or infinite.")
        spread = x.std(0, correction=0)
        self.centre.copy_(x.mean(0))
        varied = spread > 0
        usual = float((1 / spread[varied]).median()) if bool(varied.any()) else 1.0
        self.factor.copy_(torch.where(varied, 1 / spread, usual))

    def forward(self, obs: Tensor) -> Tensor:
        """(N, *obs_shape) -> (N, *out_shape)."""
        dtype = self.centre.dtype
        if self.rule == "states":
            return (obs[..., None] == self.value).to(dtype)
        if self.rule == "codes":  # (N, sum of codes, H, W); a comparison a plane takes half the time of a gather
            values = [self.value[:count, None, None] for count in self.codes]
            return torch.cat([obs[:, p, None] == value for p, value in enumerate(values)], dim=1).to(dtype)
        x = obs.to(dtype)
        if self.rule == "floats":
            x = (x - self.centre) * self.factor
            # Skilled play reaches far beyond random play. Ten spreads out, a linear scale would swamp the other inputs.
            x = x.sign() * x.abs().log1p()
        elif self.rule == "bytes":
            x = x * self.factor
        return x if self.out_shape == self.obs_shape else x.reshape(x.shape[0], *self.out_shape)


class Encoder(nn.Module):
    """Observations (N, *obs_shape) -> (N, width), each coordinate >= 0 (the last layer is a ReLU)."""

    def __init__(self, kind: str, inputs: Inputs, body: Layers, width: int) -> None:
        super().__init__()
        self.kind, self.inputs, self.body, self.width = kind, inputs, body, width

    def forward(self, obs: Tensor) -> Tensor:
        return self.body.forward(self.inputs.forward(obs))


class QHead(nn.Module):
    """V value functions of all actions: (N, width) -> (N, V, A), or logits (N, V, A, atoms) of return distributions.

    dueling: Q = V + Adv - mean_a Adv (Wang et al. 2016, eq. (9)), for logits atom by atom. The output layer starts
    small: all values start near 0, so that differences come from rewards and bonuses alone. All streams of all value
    functions are one matrix, behind one shared ReLU layer if `hidden` > 0.
    """

    mix: Tensor

    def __init__(
        self,
        width: int,
        num_actions: int,
        *,
        rng: torch.Generator,
        values: int = 1,
        dueling: bool = False,
        atoms: int = 1,
        hidden: int = 0,
        init: Init = "orthogonal",
        gain: float = 0.01,
    ) -> None:
        """hidden: width of the ReLU layer, 0 for none. gain: scale of the output layer (>= 0)."""
        super().__init__()
        require(min(width, num_actions, atoms, values) >= 1, "q head: width, actions, atoms and values must be >= 1.")
        require(hidden >= 0 and gain >= 0, f"q head: hidden and gain must be >= 0, got {hidden} and {gain}.")
        self.num_actions, self.atoms, self.dueling = num_actions, atoms, dueling
        self.shape = (values, num_actions + dueling, atoms)
        first = [linear(width, hidden, gain=RELU_GAIN, init=init, rng=rng), nn.ReLU()] if hidden else []
        out = linear(hidden or width, math.prod(self.shape), gain=gain, init=init, rng=rng)
        self.streams = Layers(*first, out)
        # V + Adv - mean_a Adv of the outputs (V, Adv) as one product, from the left: (1 + A, A).
        mix = torch.cat([torch.ones(1, num_actions), torch.eye(num_actions) - 1.0 / num_actions])
        self.register_buffer("mix", mix.to(rng.device), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """z (N, width) -> (N, V, A) or (N, V, A, atoms)."""
        out = self.streams.forward(z)
        if self.atoms == 1:
            out = out.reshape(-1, *self.shape[:2])
            return out @ self.mix if self.dueling else out
        out = out.reshape(-1, *self.shape)
        if self.dueling:
            advantage = out[:, :, 1:]
            out = advantage - advantage.mean(2, keepdim=True) + out[:, :, :1]
        return out


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))): (N, C, H, W) of the same shape."""

    def __init__(self, channels: int, init: Init, rng: torch.Generator) -> None:
        super().__init__()
        self.first, self.second = (conv(channels, channels, 3, 1, 1, init=init, rng=rng) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(torch.relu(self.first(torch.relu(x))))
        return out


def linear(inputs: int, outputs: int, *, gain: float, init: Init, rng: torch.Generator) -> nn.Linear:
    """A linear layer: orthogonal times `gain`, or N(0, gain^2 / inputs); bias 0."""
    # Made without values, because a constructor that fills a layer draws from the global generator.
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device=rng.device)
    _fill(layer, inputs, gain, init, rng)
    return layer


def conv(
    inputs: int, outputs: int, kernel: int, stride: int, padding: int = 0, *, init: Init, rng: torch.Generator
) -> nn.Conv2d:
    """A convolution before a ReLU, filled like `linear` with gain sqrt 2."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, device="meta").to_empty(device=rng.device)
    _fill(layer, inputs * kernel * kernel, RELU_GAIN, init, rng)
    return layer


def _fill(layer: nn.Linear | nn.Conv2d, fan_in: int, gain: float, init: Init, rng: torch.Generator) -> None:
    with torch.no_grad():
        if init == "orthogonal":
            nn.init.orthogonal_(layer.weight, gain, generator=rng)
        else:
            layer.weight.normal_(0.0, gain / math.sqrt(fan_in), generator=rng)
        assert layer.bias is not None
        layer.bias.zero_()


def _convolutions(
    kind: str, shape: tuple[int, ...], channels: tuple[int, ...], init: Init, rng: torch.Generator
) -> tuple[list[nn.Module], tuple[int, ...]]:
    """The convolutional part of this kind for images (C, H, W), and the shape of its output."""
    planes, rows, columns = shape
    layers: list[nn.Module] = []
    if kind == "impala":
        for width in channels:
            layers += [conv(planes, width, 3, 1, 1, init=init, rng=rng), nn.MaxPool2d(3, stride=2, padding=1)]
            layers += [Residual(width, init, rng), Residual(width, init, rng)]
            planes, rows, columns = width, (rows + 1) // 2, (columns + 1) // 2
        return [*layers, nn.ReLU()], (planes, rows, columns)
    geometry = ((8, 4), (4, 2), (3, 1)) if kind == "nature" else ((3, 1),) * len(channels)
    for width, (kernel, stride) in zip(channels, geometry, strict=True):
        layers += [conv(planes, width, kernel, stride, init=init, rng=rng), nn.ReLU()]
        planes, rows, columns = width, (rows - kernel) // stride + 1, (columns - kernel) // stride + 1
        require(min(rows, columns) >= 1, f"encoder {kind}: observations of shape {shape} are too small for it.")
    return layers, (planes, rows, columns)
