"""Parts around a loss of embeddings: what each kind takes and gives, and how its state becomes plain arrays.

    Sampler    (index, rng) -> (index, weight)   which others of the data are positives or negatives (`samplers.py`)
    Head       (z, training) -> z                between the encoder and the loss, in training only (`heads.py`)
    Augmenter  (z) -> z                          makes a view of an embedding, with its own optimiser (`augmenters.py`)
    Memory     push, nearest, prototypes         embeddings of earlier batches (`memory.py`)
    CountView  (counts) -> matrix                another view of a table of counts (`graph.py`)
    Inference  (support, query) -> support       moves labelled points to unlabelled ones (`transport.py`)

A part that remembers something has `state_dict` and `load_state_dict`; the two together resume to the byte.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.config import require
from rl_contrastive.device import copies, require_tensor
from rl_contrastive.spec import Array, IntArray, State


class Remembers(Protocol):
    """What all parts with a state have."""

    def state_dict(self) -> State:
        """The state as arrays and numbers."""

    def load_state_dict(self, state: State) -> Any:
        """Inverse of `state_dict`."""


class Sampler(Protocol):
    """index (B,) of instances -> partners (B, m) and their weights (B, m)."""

    def __call__(self, index: IntArray, rng: np.random.Generator) -> tuple[IntArray, Array | Tensor]: ...


class Head(Protocol):
    """z (N, d) -> (N, d'); `rng` for heads that draw something in training."""

    def __call__(self, z: Tensor, training: bool, *, rng: torch.Generator | None = None) -> Tensor: ...


class Augmenter(Protocol):
    """z (N, d) -> another view of it (N, d)."""

    def __call__(self, z: Tensor) -> Tensor: ...


class Memory(Protocol):
    """Embeddings of earlier batches, found again by similarity."""

    @property
    def prototypes(self) -> Tensor:
        """(K, d)."""

    def push(self, z: Tensor, index: IntArray, *, rng: np.random.Generator) -> None:
        """Remember z (N, d) of the instances `index` (N,)."""

    def nearest(self, z: Tensor, k: int) -> IntArray:
        """(N, k) positions in the memory."""


class CountView(Protocol):
    """counts (n, m) -> matrix (n, m)."""

    def __call__(self, counts: Tensor) -> Tensor: ...


class Inference(Protocol):
    """support (..., K, d), query (..., M, d) -> support (..., K, d)."""

    def __call__(self, support: Tensor, query: Tensor) -> Tensor: ...


def require_batch(name: str, z: Tensor, dim: int | None = None, *, least: int = 1) -> None:
    """RlcError unless z (N, d) is finite, of floats, with at least `least` rows and d = dim."""
    require_tensor(name, "z", z)
    require(z.ndim == 2, f"{name}: z must have shape (N, d), got {tuple(z.shape)}.")
    require(z.dtype.is_floating_point, f"{name}: z must hold floating-point numbers, got {z.dtype}.")
    require(dim is None or z.shape[1] == dim, f"{name}: z must have d = {dim} columns, got {z.shape[1]}.")
    require(len(z) >= least, f"{name}: needs a batch of at least {least}, got {len(z)}.")
    require(bool(torch.isfinite(z).all()), f"{name}: z holds NaN or infinite numbers.")


def require_index(name: str, index: IntArray, size: int) -> None:
    """RlcError unless index (B,) names some of `size` instances."""
    require(isinstance(index, np.ndarray), f"{name}: the index must be a numpy array, got {type(index).__name__}.")
    require(index.ndim == 1 and index.dtype.kind in "iu", f"{name}: the index must be a list of whole numbers.")
    inside = not len(index) or bool(index.min() >= 0 and index.max() < size)
    require(inside, f"{name}: the index must lie in 0..{size - 1}.")


def saved(state: State, key: str, where: str, shape: tuple[int, ...] | None = None) -> Any:
    """state[key]; RlcError where it is missing or has another shape."""
    require(key in state, f"{where}: the saved state lacks '{key}'.")
    value = state[key]
    fits = shape is None or np.shape(value) == shape
    require(fits, f"{where}: the saved {key} has shape {np.shape(value)}, not {shape}.")
    return value


def weights(module: nn.Module) -> State:
    """Parameters and buffers by name, copied to arrays."""
    return copies(module.state_dict())


def load_weights(module: nn.Module, state: dict[str, Any], where: str) -> None:
    """Inverse of `weights`; RlcError names what is missing, unknown or of another shape. In place: devices stay."""
    own = module.state_dict()
    for name in sorted(own.keys() | state.keys()):
        require(name in state, f"{where}: the saved weights lack '{name}'.")
        require(name in own, f"{where}: the saved weights hold '{name}', which this network has not.")
        shape = np.shape(state[name])
        require(shape == tuple(own[name].shape), f"{where}: '{name}' has shape {shape}, not {tuple(own[name].shape)}.")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(torch.as_tensor(np.asarray(state[name])))


def draw_linear(layer: nn.Linear, *, rng: torch.Generator) -> nn.Linear:
    """Weights and bias uniform in +-1/sqrt(inputs), torch's own start, from a generator that is handed in."""
    bound = layer.in_features**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=rng)
        if layer.bias is not None:
            layer.bias.uniform_(-bound, bound, generator=rng)
    return layer
