"""Layers in numpy, on the memory of torch's parameters: forward, and the gradient by hand.

A batch is the last axis everywhere: a vector of N rows is (width, N), an image (C, H, W, N). Then no matrix of weights
is ever transposed in a forward pass, which few rows make expensive, and an image in columns is flat as torch has it.

    layer.forward(x)          -> y, saved      saved: arrays with the batch last, as `backward` needs them
    layer.backward(dy, saved) -> dx            writes the gradients of its parameters; it may overwrite dy

Weights that torch changes in place (Adam, targets, a loaded checkpoint) are changed here as well.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from rl_contrastive.deep.weights import FlatParameters
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import Array, IntArray

Saved = tuple[Any, ...]
Slot = Callable[[Tensor], Array]
"""A parameter -> where its gradient is written."""


class Few:
    """Columns (p, N) of which all rows but some are zero: those rows alone, `x` (k, N), and their places (k,).

    A one-hot picture of 100 x 100 has 10 000 inputs, and a batch of 64 has at most 64 that are not zero: a product
    with those is 100 times smaller, and the same (exactly so if each column has one number).
    """

    def __init__(self, places: IntArray, x: Array) -> None:
        self.places, self.x = places, x

    def __getitem__(self, index: Any) -> Few:
        """Some of the columns: few[..., n:]."""
        return Few(self.places, self.x[index])


Batch = Array | Few
"""What goes into a network."""


class Layer(Protocol):
    """What the classes below have in common."""

    def forward(self, x: Any) -> tuple[Any, Saved]: ...

    def backward(self, dy: Array, saved: Saved, *, inner: bool) -> Array: ...


class Dense:
    """y = W x + b."""

    def __init__(self, layer: nn.Linear, slot: Slot) -> None:
        self.w, self.b = shared(layer.weight), shared(layer.bias)[:, None]
        self.dw, self.db = slot(layer.weight), slot(layer.bias)
        self._written: IntArray | slice = slice(None)
        """The columns of dw that may be other than 0."""

    def forward(self, x: Batch) -> tuple[Array, Saved]:
        """x (p, N) -> (q, N)."""
        y = self.w[:, x.places] @ x.x if isinstance(x, Few) else self.w @ x
        y += self.b
        return y, (x,)

    def backward(self, dy: Array, saved: Saved, *, inner: bool) -> Array:
        """dW = dy x', db = sum dy, dx = W' dy; without `inner` dx is not needed, and dy is returned."""
        x = saved[0]
        if isinstance(x, Few):
            self.dw[:, self._written] = 0.0
            self.dw[:, x.places] = dy @ x.x.T
            self._written = x.places
        else:
            np.matmul(dy, x.T, out=self.dw)
            self._written = slice(None)
        np.matmul(dy, ones(dy.shape[1], dy.dtype), out=self.db)  # faster than a sum
        return self.w.T @ dy if inner else dy


class Rectify:
    """y = max(x, 0), in place."""

    def forward(self, x: Array) -> tuple[Array, Saved]:
        """x of any shape; it is overwritten."""
        np.maximum(x, 0.0, out=x)
        return x, (x,)

    def backward(self, dy: Array, saved: Saved, *, inner: bool) -> Array:
        """dx = dy where y > 0."""
        dy *= saved[0] > 0
        return dy


class Normalise:
    """y = w z + b, z = (x - mean x) / sqrt(var x + eps) over the width (Ba et al. 2016)."""

    def __init__(self, layer: nn.LayerNorm, slot: Slot) -> None:
        self.w, self.b, self.eps = shared(layer.weight)[:, None], shared(layer.bias)[:, None], layer.eps
        self.dw, self.db = slot(layer.weight), slot(layer.bias)
        width = len(self.w)
        self.mean = np.full((1, width), 1.0 / width, dtype=self.w.dtype)  # a product is faster than a sum over columns

    def forward(self, x: Array) -> tuple[Array, Saved]:
        """x (p, N) -> (p, N)."""
        z = x - self.mean @ x
        scale = self.mean @ (z * z)
        scale += self.eps
        np.sqrt(scale, out=scale)
        np.reciprocal(scale, out=scale)
        z *= scale
        y = z * self.w
        y += self.b
        return y, (z, scale)

    def backward(self, dy: Array, saved: Saved, *, inner: bool) -> Array:
        """dx = (g - mean g - z mean(g z)) / sqrt(var + eps), g = w dy."""
        z, scale = saved
        dyz, each = dy * z, ones(dy.shape[1], dy.dtype)
        np.matmul(dyz, each, out=self.dw)
        np.matmul(dy, each, out=self.db)
        dyz *= self.w
        dy *= self.w
        dy -= self.mean @ dy + z * (self.mean @ dyz)
        dy *= scale
        return dy


class Convolve:
    """A convolution without padding, as one product of its kernels with the patches of the image."""

    def __init__(self, layer: nn.Conv2d, slot: Slot) -> None:
        assert layer.bias is not None
        w = shared(layer.weight)  # (D, C, k, k)
        self.kernel, self.stride = w.shape[2], layer.stride[0]
        self.w, self.b = w.reshape(len(w), -1), shared(layer.bias)[:, None]
        self.dw, self.db = slot(layer.weight).reshape(self.w.shape), slot(layer.bias)

    def forward(self, x: Array) -> tuple[Array, Saved]:
        """x (C, H, W, N) -> (D, H', W', N)."""
        (C, H, W, N), k, s = x.shape, self.kernel, self.stride
        rows, columns = (H - k) // s + 1, (W - k) // s + 1
        x = np.ascontiguousarray(x)
        plane, row, column, one = x.strides
        strides = (plane, row, column, s * row, s * column, one)
        shape, D = (C, k, k, rows, columns, N), len(self.w)
        patches = np.empty((C * k * k + 1, rows * columns * N), x.dtype)
        # as_strided takes longer than the copy of a few rows.
        patches[:-1].reshape(shape)[...] = np.ndarray(shape, x.dtype, x.data, strides=strides)
        patches[-1] = 1.0  # the bias as a column of the kernels: adding it would take half of the product's time
        kernels = np.concatenate([self.w, self.b], axis=1)
        y = kernels @ patches
        return y.reshape(D, *shape[3:]), (patches.reshape(-1, *shape[3:]), x)

    def backward(self, dy: Array, saved: Saved, *, inner: bool) -> Array:
        """dy (D, H', W', N); dx by adding each kernel place's share."""
        patches, x = saved
        rows, columns = dy.shape[1:3]
        flat = dy.reshape(len(dy), -1)
        both = patches.reshape(len(patches), -1) @ flat.T  # (C k k + 1, D)
        self.dw[...], self.db[...] = both[:-1].T, both[-1]
        if not inner:
            return dy
        k, s = self.kernel, self.stride
        shares = (self.w.T @ flat).reshape(len(x), k, k, *dy.shape[1:])
        dx = np.zeros(x.shape, dtype=dy.dtype)
        for i in range(k):
            for j in range(k):
                dx[:, i : i + s * rows : s, j : j + s * columns : s] += shares[:, i, j]
        return dx


class Flatten:
    """(C, H, W, N) -> (C H W, N)."""

    def forward(self, x: Batch) -> tuple[Batch, Saved]:
        return (x, ()) if isinstance(x, Few) else (x.reshape(-1, x.shape[-1]), (x,))

    def backward(self, dy: Array, saved: Saved, *, inner: bool) -> Array:
        return dy.reshape(saved[0].shape)


class Network:
    """Layers one after another."""

    def __init__(self, layers: Iterable[nn.Module], slot: Slot | None = None) -> None:
        """slot: where gradients are written; None for a network that does not learn."""
        self.layers = [layer for module in layers if (layer := _layer(module, slot or _nowhere)) is not None]
        learns = (place for place, layer in enumerate(self.layers) if not isinstance(layer, (Flatten, Rectify)))
        self.first = next(learns, 0)
        """The first layer with weights: no gradient goes further, unless `backward` is asked for dx."""

    def __call__(self, x: Batch) -> Array:
        """Forward, x (..., N)."""
        given: Any = x
        for layer in self.layers:
            given, _ = layer.forward(given)
        out: Array = given
        return out

    def saving(self, x: Any) -> tuple[Array, list[Saved]]:
        """Forward, and what `backward` needs."""
        kept = []
        for layer in self.layers:
            x, saved = layer.forward(x)
            kept.append(saved)
        return x, kept

    def backward(self, dy: Array, kept: list[Saved], *, inner: bool) -> Array:
        """Gradients for dy (..., n) of the first n columns; dx if `inner`."""
        n = dy.shape[-1]
        last = 0 if inner else self.first
        for place in range(len(self.layers) - 1, last - 1, -1):
            saved = tuple(array[..., :n] for array in kept[place])
            dy = self.layers[place].backward(dy, saved, inner=inner or place > last)
        return dy


def some(x: Batch, columns: slice) -> Batch:
    """Some of the columns, in memory of their own."""
    x = x[..., columns]
    return Few(x.places, np.ascontiguousarray(x.x)) if isinstance(x, Few) else np.ascontiguousarray(x)


@functools.cache
def ones(count: int, dtype: Any) -> Array:
    """(count,)."""
    return np.ones(count, dtype=dtype)


def known(layers: Iterable[nn.Module]) -> bool:
    """Whether all of these layers can be run here."""
    return all(type(layer) in (nn.Linear, nn.ReLU, nn.LayerNorm, nn.Conv2d, nn.Flatten) for layer in layers)


def slots(flat: FlatParameters, gradient: Array) -> Slot:
    """Where in `gradient`, a vector as long as all parameters, each of them has its own."""
    ends = np.cumsum([p.numel() for p in flat.parameters])
    views = {
        id(p): gradient[end - p.numel() : end].reshape(tuple(p.shape))
        for p, end in zip(flat.parameters, ends.tolist(), strict=True)
    }
    return lambda parameter: views[id(parameter)]


def shared(tensor: Tensor) -> Array:
    """The same memory as an array."""
    array: Array = tensor.detach().numpy()
    return array


def _nowhere(parameter: Tensor) -> Array:
    return np.empty(tuple(parameter.shape), dtype=np.float32)  # pages that nothing writes take no memory


def _layer(module: nn.Module, slot: Slot) -> Layer | None:
    match module:
        case nn.Linear():
            return Dense(module, slot)
        case nn.LayerNorm():
            return Normalise(module, slot)
        case nn.Conv2d():
            return Convolve(module, slot)
        case nn.ReLU():
            return Rectify()
        case nn.Flatten():
            return Flatten()
    raise RlcError(f"deep: there is no {type(module).__name__} in numpy.")
