"""Target networks, one vector of all parameters with Adam on it, and networks as plain arrays for checkpoints.

A target follows its online network, theta' <- (1 - tau) theta' + tau theta; tau = 1 is a copy, to the last bit.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.config import require
from rl_contrastive.device import copied
from rl_contrastive.objectives.parts import load_weights, weights
from rl_contrastive.spec import State

__all__ = [
    "FlatAdam", "FlatParameters", "clip", "compile_gradient", "follow", "frozen_copy", "load_weights", "weights",
]  # fmt: skip

Net = TypeVar("Net", bound=nn.Module)


class FlatParameters:
    """Parameters as views of one vector, and their gradients as another one.

    An optimiser step, a clipped norm and an update of the target are then one call each, whatever the number of
    layers. Small networks spend most of a step on calls.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        sizes = [p.numel() for p in self.parameters]
        self.vector = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        for p, end, size in zip(self.parameters, itertools.accumulate(sizes), sizes, strict=True):
            p.data = self.vector[end - size : end].view_as(p)

    def gradient(self, loss: Tensor) -> Tensor:
        """d loss / d vector, 0 for parameters that need no gradient. May be part of what `torch.compile` compiles."""
        learned = [p for p in self.parameters if p.requires_grad]
        found = iter(torch.autograd.grad(loss, learned, materialize_grads=True))
        return torch.cat(
            [(next(found) if p.requires_grad else torch.zeros_like(p)).reshape(-1) for p in self.parameters]
        )

    def follow(self, online: FlatParameters, tau: float) -> None:
        """theta' <- theta' + tau (theta - theta') for the first len(theta') numbers of `online`; buffers stay."""
        self.vector.lerp_(online.vector[: self.vector.numel()], tau)


def clip(gradient: Tensor, limit: float) -> Tensor | float:
    """Scale a gradient in place to a norm of at most `limit`; returns the norm before. No wait for the device."""
    if gradient.device.type == "cpu":
        g = gradient.numpy()
        size = math.sqrt(np.dot(g, g))
        if size > limit:
            g *= limit / (size + 1e-6)
        return size
    norm: Tensor = torch.linalg.vector_norm(gradient)
    gradient.mul_((limit / (norm + 1e-6)).clamp_(max=1.0))
    return norm


def compile_gradient(function: Any, device: torch.device) -> Any:
    """`torch.compile` of a function that calls `FlatParameters.gradient`: forward and backward pass as one graph."""
    torch._dynamo.config.trace_autograd_ops = True
    # CUDA graphs where there is CUDA. Sizes are constants: otherwise a second agent with others in this process would
    # get a slower graph for all sizes.
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    return torch.compile(function, mode=mode, dynamic=False)


class FlatAdam:
    """Adam (Kingma and Ba 2015) on one vector, by torch's fused kernel without the bookkeeping of `torch.optim.Adam`.

    That bookkeeping takes longer than the arithmetic of a small network.
    """

    def __init__(self, flat: FlatParameters, *, lr: float, eps: float = 1e-8) -> None:
        self.flat, self.lr, self.eps = flat, lr, eps
        self.moments = [torch.zeros_like(flat.vector) for _ in range(2)]
        self.steps = torch.zeros((), dtype=torch.float32, device=flat.vector.device)

    def step(self, gradient: Tensor) -> None:
        """m <- .9 m + .1 g, v <- .999 v + .001 g^2, theta <- theta - lr mhat / (sqrt vhat + eps)."""
        mean, square = self.moments
        with torch.no_grad():
            self.steps += 1
            torch._fused_adam_(
                [self.flat.vector],
                [gradient],
                [mean],
                [square],
                [],
                [self.steps],
                lr=self.lr,
                beta1=0.9,
                beta2=0.999,
                weight_decay=0.0,
                eps=self.eps,
                amsgrad=False,
                maximize=False,
            )

    def state_dict(self) -> State:
        """Moments and step count."""
        return {"mean": copied(self.moments[0]), "square": copied(self.moments[1]), "steps": float(self.steps)}

    def load_state_dict(self, state: dict[str, Any], where: str) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        for key in ("mean", "square", "steps"):
            require(key in state, f"{where}: the saved optimiser lacks '{key}'.")
        for key, tensor in zip(("mean", "square"), self.moments, strict=True):
            saved, shape = np.asarray(state[key]), tuple(tensor.shape)
            require(saved.shape == shape, f"{where}: the optimiser's {key} has shape {saved.shape}, not {shape}.")
            tensor.copy_(torch.as_tensor(saved))
        self.steps.fill_(float(state["steps"]))


def frozen_copy(online: Net) -> Net:
    """A copy without gradients: the target network of `online`."""
    return copy.deepcopy(online).requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, online: nn.Module, tau: float) -> None:
    """theta' <- theta' + tau (theta - theta'), 0 <= tau <= 1; buffers are copied."""
    require(0.0 <= tau <= 1.0, f"target network: tau must lie in [0, 1], got {tau}.")
    # One fused call for all parameters, and lerp at weight 1 is exact: end - (end - start) * 0.
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)
    for mine, its in zip(target.buffers(), online.buffers(), strict=True):
        mine.copy_(its)
