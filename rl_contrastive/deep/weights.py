"""Target networks, and networks and optimisers as plain arrays: what a checkpoint of the deep agent holds.

A target follows its online network, theta' <- (1 - tau) theta' + tau theta; tau = 1 is a copy, to the last bit.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import State

Net = TypeVar("Net", bound=nn.Module)


class FlatParameters:
    """Parameters as views of one vector and their gradients as views of another.

    An optimiser step, a clipped norm and a target that follows are then one call each, whatever the number of layers:
    small networks spend most of a step on calls. `vector.grad` must be zeroed in place, never set to None.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        sizes = [p.numel() for p in self.parameters]
        with torch.no_grad():
            self.vector = nn.Parameter(torch.cat([p.reshape(-1) for p in self.parameters]))
        self.vector.grad = torch.zeros_like(self.vector)
        for p, end, size in zip(self.parameters, itertools.accumulate(sizes), sizes, strict=True):
            p.data = self.vector.data[end - size : end].view_as(p)
            if p.requires_grad:
                p.grad = self.vector.grad[end - size : end].view_as(p)

    def clip_gradient(self, limit: float) -> Tensor:
        """Scale the gradient to a norm of at most `limit`; returns the norm before. Nothing waits for the device."""
        assert self.vector.grad is not None
        norm: Tensor = torch.linalg.vector_norm(self.vector.grad)
        self.vector.grad.mul_((limit / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def zero_gradient(self) -> None:
        """In place: the parameters' gradients stay views."""
        assert self.vector.grad is not None
        self.vector.grad.zero_()

    @torch.no_grad()
    def follow(self, online: FlatParameters, tau: float) -> None:
        """theta' <- theta' + tau (theta - theta') for the first len(theta') numbers of `online`; buffers stay."""
        self.vector.lerp_(online.vector[: len(self.vector)], tau)


class FlatAdam:
    """Adam (Kingma and Ba 2015) on one vector, by torch's fused kernel without the bookkeeping of `torch.optim.Adam`.

    That bookkeeping takes longer than the arithmetic of a small network.
    """

    def __init__(self, flat: FlatParameters, *, lr: float, eps: float) -> None:
        self.flat, self.lr, self.eps = flat, lr, eps
        self.moments = [torch.zeros_like(flat.vector, requires_grad=False) for _ in range(2)]
        self.steps = torch.zeros((), dtype=torch.float32, device=flat.vector.device)

    @torch.no_grad()
    def step(self) -> None:
        """m <- .9 m + .1 g, v <- .999 v + .001 g^2, theta <- theta - lr mhat / (sqrt vhat + eps)."""
        vector = self.flat.vector
        assert vector.grad is not None
        mean, square = self.moments
        adam(
            [vector],
            [vector.grad],
            [mean],
            [square],
            [],
            [self.steps],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.lr,
            weight_decay=0.0,
            eps=self.eps,
            maximize=False,
        )

    def state_dict(self) -> State:
        """Moments and step count."""
        return {"mean": _array(self.moments[0]), "square": _array(self.moments[1]), "steps": float(self.steps)}

    def load_state_dict(self, state: dict[str, Any], where: str) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        for key, tensor in zip(("mean", "square"), self.moments, strict=True):
            require(key in state, f"{where}: the saved optimiser lacks '{key}'.")
            saved = np.asarray(state[key])
            shape = tuple(tensor.shape)
            require(saved.shape == shape, f"{where}: the optimiser's {key} has shape {saved.shape}, not {shape}.")
            tensor.copy_(torch.as_tensor(saved))
        require("steps" in state, f"{where}: the saved optimiser lacks 'steps'.")
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


def weights(module: nn.Module) -> State:
    """Parameters and buffers by name, copied to arrays."""
    return {name: _array(tensor) for name, tensor in module.state_dict().items()}


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


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """Moments and step counts of every parameter by its number; {} for those that have none yet."""
    saved = optimizer.state_dict()["state"]
    return {
        str(number): {name: _array(x) if isinstance(x, Tensor) else x for name, x in entry.items()}
        for number, entry in saved.items()
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any], where: str) -> None:
    """Inverse of `optimizer_state`, for an optimiser of the same parameters and options."""
    template = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    loaded: dict[int, dict[str, Any]] = {}
    for key, entry in state.items():
        number = int(key)
        require(0 <= number < len(parameters), f"{where}: the saved optimiser has more parameters than this one.")
        loaded[number] = {}
        for name, value in entry.items():
            array = np.asarray(value)
            if array.ndim and array.shape != tuple(parameters[number].shape):
                raise RlcError(f"{where}: '{name}' of parameter {number} has shape {array.shape}, which does not fit.")
            loaded[number][name] = torch.as_tensor(array.copy()) if isinstance(value, np.ndarray) else value
    optimizer.load_state_dict({"state": loaded, "param_groups": template["param_groups"]})


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", copy=True).numpy()
