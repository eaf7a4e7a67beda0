"""A small normalising flow on top of a noise law: draws and exact log-density of a law that can be trained.

z = g(e), e ~ base: coupling layers (Dinh et al. 2017), each of which moves one half of the coordinates by the other,
    z_A = e_A,   z_B = e_B exp(s(e_A)) + m(e_A),   |s| <= REACH,   halves in turns,
and last a shift and a scale of each coordinate. So log q(z) = log base(e) - sum of all s. Both directions are one pass.
The weights are one vector, zeros at first; they are added to fixed initial ones under which g is the identity, so the
flow starts as its base law. In one dimension there is no half to look at, and only the last layer is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from rl_contrastive.config import require

REACH = 2.0
"""Largest log-scale of a layer: exponentials of a network grow without bound otherwise."""


class Flow:
    """The shapes, the fixed initial weights and both directions; the trained vector is handed in."""

    def __init__(self, dim: int, *, layers: int, hidden: int, seed: int) -> None:
        """dim D >= 1; layers >= 0 of couplings, each with a network D/2 -> hidden -> hidden -> D."""
        require(dim >= 1 and layers >= 0 and hidden >= 1, "flow: dim and hidden must be >= 1, layers >= 0.")
        self.dim, self.layers = dim, layers if dim > 1 else 0
        rng, initial = torch.Generator().manual_seed(seed), list[Tensor]()
        for layer in range(self.layers):
            seen, moved = (len(half) for half in self._halves(layer))
            for inputs, outputs, gain in ((seen, hidden, 1.0), (hidden, hidden, 1.0), (hidden, 2 * moved, 0.0)):
                weight = torch.randn(outputs, inputs, generator=rng, dtype=torch.float64)
                initial += [weight * (gain / math.sqrt(inputs)), torch.zeros(outputs, dtype=torch.float64)]
        initial += [torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dtype=torch.float64)]
        self._shapes = [part.shape for part in initial]
        self._initial = torch.cat([part.flatten() for part in initial])

    @property
    def size(self) -> int:
        """Length of the trained vector."""
        return len(self._initial)

    def forward(self, weights: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """z (..., D) and log |dz/de| (...,) of e (..., D) float64."""
        *parts, shift, scale = self._parts(weights)
        z, log_det = e, torch.zeros_like(e[..., 0])
        for layer in range(self.layers):
            seen, moved = self._halves(layer)
            s, m = _moves(parts[6 * layer : 6 * layer + 6], z[..., seen])
            z = _put(z, moved, z[..., moved] * s.exp() + m)
            log_det = log_det + s.sum(-1)
        return z * scale.exp() + shift, log_det + scale.sum()

    def inverse(self, weights: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """e (..., D) and log |dz/de| (...,) at e, of z (..., D) float64."""
        *parts, shift, scale = self._parts(weights)
        e = (z - shift) * torch.exp(-scale)
        log_det = torch.zeros_like(e[..., 0]) + scale.sum()
        for layer in reversed(range(self.layers)):
            seen, moved = self._halves(layer)
            s, m = _moves(parts[6 * layer : 6 * layer + 6], e[..., seen])
            e = _put(e, moved, (e[..., moved] - m) * torch.exp(-s))
            log_det = log_det + s.sum(-1)
        return e, log_det

    def _halves(self, layer: int) -> tuple[list[int], list[int]]:
        """Coordinates that are looked at, and those that are moved."""
        odd, even = list(range(1, self.dim, 2)), list(range(0, self.dim, 2))
        return (odd, even) if layer % 2 else (even, odd)

    def _parts(self, weights: Tensor) -> Iterator[Tensor]:
        total = self._initial.to(weights.device) + weights
        flat = torch.split(total, [shape.numel() for shape in self._shapes])
        return (part.reshape(shape) for part, shape in zip(flat, self._shapes, strict=True))


def _moves(parts: list[Tensor], seen: Tensor) -> tuple[Tensor, Tensor]:
    """Log-scales and shifts (..., moved) by the coordinates seen (..., seen)."""
    h = seen
    for weight, bias in (parts[:2], parts[2:4]):
        h = torch.tanh(h @ weight.T + bias)
    s, m = (h @ parts[4].T + parts[5]).chunk(2, dim=-1)
    return REACH * torch.tanh(s / REACH), m


def _put(x: Tensor, columns: list[int], values: Tensor) -> Tensor:
    """x with other values in some of its columns."""
    out = x.clone()
    out[..., columns] = values
    return out
