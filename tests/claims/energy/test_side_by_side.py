"""Many step sizes at once equal one optimiser a step size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rl_contrastive.claims.energy.side_by_side import Steps, stepper
from rl_contrastive.energy.steps import AveragedDescent
from rl_contrastive.errors import RlcError

RATES = (0.03, 0.4, 1.5)


def slope(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of 0.3 a^2 + (b - a)^2 / 2 - b, elementwise."""
    return 0.6 * a - (b - a), (b - a) - 1.0


@pytest.mark.parametrize("steps", ["gd", "ngd", "adam"])
def test_equals_separate_optimisers(steps: Steps) -> None:
    a, b = (torch.nn.Parameter(torch.full((3, 2), v, dtype=torch.float64)) for v in (2.0, -1.0))
    step = stepper(steps, [a, b], torch.tensor(RATES, dtype=torch.float64).unsqueeze(-1), leading=2)
    for _ in range(15):
        a.grad, b.grad = slope(a.detach(), b.detach())
        step()
    for row, rate in enumerate(RATES):
        x, y = (torch.nn.Parameter(torch.tensor([v], dtype=torch.float64)) for v in (2.0, -1.0))
        if steps == "adam":
            optimiser: torch.optim.Optimizer = torch.optim.Adam([x, y], lr=rate)
        else:
            optimiser = AveragedDescent([x, y], rate, normalise=steps == "ngd", leading=1)
        for _ in range(15):
            x.grad, y.grad = slope(x.detach(), y.detach())
            optimiser.step()
        assert torch.allclose(a[row], x.expand(2), rtol=0, atol=1e-11)
        assert torch.allclose(b[row], y.expand(2), rtol=0, atol=1e-11)


def test_an_unknown_kind_is_a_sentence() -> None:
    param = torch.nn.Parameter(torch.zeros(1, 1))
    with pytest.raises(RlcError, match="steps is gd, ngd or adam, not 'sgd'"):
        stepper("sgd", [param], torch.ones(1, 1), leading=1)  # type: ignore[arg-type]
