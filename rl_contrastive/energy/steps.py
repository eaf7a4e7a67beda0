"""Descent steps the energy objectives ask for: averaged gradients (MECO) and gradients of unit length (eNCE)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError


class AveragedDescent(torch.optim.Optimizer):
    """v <- (1 - beta) v + beta g;   theta <- theta - lr v, or theta - lr v / ||v|| when `normalise`.

    beta = 1 is plain gradient descent, smaller beta the moving-average gradient of compositional optimisation
    (v = g in the first step). Normalised descent moves by exactly lr whatever the scale of the loss, which is what
    carries eNCE over its flat regions (Liu et al. 2022). The norm is over all parameters together; with `leading` =
    k > 0 the first k axes of every parameter index separate problems and each has its own norm. A gradient of
    exactly 0 moves nothing. When `normalise` and `checked`, NaN and infinite gradients are refused, for which a GPU has
    to be waited for.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        beta: float = 1.0,
        normalise: bool = False,
        leading: int = 0,
        checked: bool = True,
    ) -> None:
        require(lr > 0, f"averaged descent: lr must be > 0, got {lr}.")
        require(0.0 < beta <= 1.0, f"averaged descent: beta must lie in (0, 1], got {beta}.")
        require(leading >= 0, f"averaged descent: leading must be >= 0, got {leading}.")
        self.leading, self.normalise, self.checked = leading, normalise, checked
        super().__init__(params, {"lr": lr, "beta": beta})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step from the gradients at hand; returns what the closure returns (None without one)."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        moved = [(group, p, self._average(group, p)) for group in self.param_groups for p in self._trained(group)]
        scale = self._inverse_norm([v for _, _, v in moved]) if self.normalise and moved else None
        for group, p, v in moved:
            p.sub_(group["lr"] * (v if scale is None else v * _onto(scale, v)))
        return value

    @staticmethod
    def _trained(group: dict[str, Any]) -> list[Tensor]:
        return [p for p in group["params"] if p.grad is not None]

    def _average(self, group: dict[str, Any], p: Tensor) -> Tensor:
        memory, beta = self.state[p], group["beta"]
        assert p.grad is not None
        if not memory or beta == 1.0:
            memory["average"] = p.grad.detach().clone()
        else:
            # Not in place: state dicts hand these tensors out.
            memory["average"] = memory["average"].lerp(p.grad, beta)
        average: Tensor = memory["average"]
        return average

    def _inverse_norm(self, averages: list[Tensor]) -> Tensor:
        """1 / ||v|| for each problem, float64 (a float32 sum of squares overflows at 1e19); 0 where v = 0."""
        peak = torch.stack([_per_problem(v.abs().to(torch.float64), self.leading, "max") for v in averages]).amax(0)
        safe = torch.where(peak > 0, peak, torch.ones_like(peak))
        squares = [_per_problem((v.to(torch.float64) / _onto(safe, v)).square(), self.leading, "sum") for v in averages]
        norm = safe * torch.stack(squares).sum(0).sqrt()
        if self.checked and not bool(torch.isfinite(norm).all()):
            raise RlcError("averaged descent: the gradient is NaN or infinite; lower lr or look at the energies.")
        return torch.where(norm > 0, 1.0 / torch.where(norm > 0, norm, torch.ones_like(norm)), torch.zeros_like(norm))


def _per_problem(values: Tensor, leading: int, how: str) -> Tensor:
    flat = values.reshape(*values.shape[:leading], -1)
    return flat.amax(-1) if how == "max" else flat.sum(-1)


def _onto(scale: Tensor, values: Tensor) -> Tensor:
    """scale (leading) with trailing axes of length 1, to be broadcast against `values`; kept in float64."""
    return scale.reshape((*scale.shape, *(1,) * (values.ndim - scale.ndim)))
