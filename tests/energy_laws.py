"""Laws with exact populations: finite laws whose samples have exact multiplicities, Gaussians on quantile grids."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class FiniteLaw:
    """A law on 0 .. S-1, points (..., 1) float64; `population` is a sample in which every atom has its exact share."""

    dim = 1

    def __init__(self, counts: list[int]) -> None:
        self.counts = torch.tensor(counts)
        self.log_p = (self.counts.double() / self.counts.sum()).log()

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        return torch.multinomial(self.log_p.exp(), n, replacement=True, generator=rng).double().unsqueeze(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.log_p[x[..., 0].long()]

    @property
    def population(self) -> Tensor:
        return torch.arange(len(self.counts)).repeat_interleave(self.counts).double().unsqueeze(-1)  # (sum, 1)


class TableEnergy(nn.Module):
    """f(x) = table[x]: every function on a finite set."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table.clone().double())

    def forward(self, x: Tensor) -> Tensor:
        return self.table[x[..., 0].long()]


class GaussianLaw:
    """N(mean, std^2) on the line; `slope` makes its log_prob wrong (negative controls)."""

    dim = 1

    def __init__(self, mean: float, std: float, slope: float = 0.0) -> None:
        self.mean, self.std, self.slope = mean, std, slope

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        return self.mean + self.std * torch.randn(n, 1, generator=rng, dtype=torch.float64)

    def log_prob(self, x: Tensor) -> Tensor:
        standard = (x[..., 0] - self.mean) / self.std
        return -0.5 * standard**2 - math.log(self.std) - 0.5 * math.log(2 * math.pi) + self.slope * x[..., 0]

    def quantiles(self, n: int) -> Tensor:
        """(n, 1): the midpoint rule in probability, whose mean is E up to O(log n / n) for quadratics."""
        u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        return (self.mean + self.std * torch.special.ndtri(u)).unsqueeze(-1)


class QuadraticEnergy(nn.Module):
    """f(x) = theta_0 x - theta_1 x^2 / 2: N(m, s^2) is theta = (m/s^2, 1/s^2)."""

    def __init__(self, theta: tuple[float, float]) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.theta[0] * x[..., 0] - 0.5 * self.theta[1] * x[..., 0] ** 2

    @property
    def mean_std(self) -> tuple[float, float]:
        theta_0, theta_1 = self.theta.tolist()
        return theta_0 / theta_1, theta_1**-0.5


def finite_difference(value: Callable[[], float], parameter: Tensor, step: float = 1e-6) -> Tensor:
    """Central differences of `value` in every entry of `parameter`."""
    slopes = torch.zeros_like(parameter, dtype=torch.float64)
    flat, out = parameter.detach().reshape(-1), slopes.reshape(-1)
    with torch.no_grad():
        for i in range(len(flat)):
            centre = float(flat[i])
            flat[i] = centre + step
            up = value()
            flat[i] = centre - step
            out[i] = (up - value()) / (2 * step)
            flat[i] = centre
    return slopes


def minimise(loss: Callable[[], Tensor], parameters: list[nn.Parameter], rounds: int = 20) -> None:
    """L-BFGS to the bottom of a smooth deterministic loss."""
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=50, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    for _ in range(rounds):
        optimiser.step(closure)
