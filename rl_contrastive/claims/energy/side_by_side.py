"""Many step sizes at once: separate problems along leading axes, each with its own step size.

torch's optimisers take one step size a group; here a batch of problems that differ in nothing else shares every tensor
operation. Plain and normalised descent broadcast the step sizes; Adam's step is the step size times a direction that
does not depend on it, so Adam takes a step of size 1 that is then stretched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from rl_contrastive.config import require
from rl_contrastive.energy.steps import AveragedDescent

Steps = Literal["gd", "ngd", "adam"]
"""Plain descent, normalised descent (every step as long as the step size), Adam."""


def stepper(
    steps: Steps, params: Sequence[torch.nn.Parameter], rates: Tensor, *, leading: int, eps: float = 1e-8
) -> Callable[[], None]:
    """A function that moves params by one step from their gradients.

    rates: broadcasts against every parameter; leading: number of axes that index problems (one norm each in "ngd");
    eps: Adam's, in units of the gradient.
    """
    require(steps in ("gd", "ngd", "adam"), f"descent: steps is gd, ngd or adam, not {steps!r}.")
    if steps == "adam":
        return _stretched(torch.optim.Adam(params, lr=1.0, eps=eps), params, rates)
    descent = AveragedDescent(params, 1.0, normalise=steps == "ngd", leading=leading)
    descent.param_groups[0]["lr"] = rates
    return lambda: descent.step()


def _stretched(
    optimiser: torch.optim.Optimizer, params: Sequence[torch.nn.Parameter], rates: Tensor
) -> Callable[[], None]:
    @torch.no_grad()
    def step() -> None:
        before = [param.clone() for param in params]
        optimiser.step()
        for param, old in zip(params, before, strict=True):
            param.copy_(old + rates * (param - old))

    return step
