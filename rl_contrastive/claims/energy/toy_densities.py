"""Five densities of the plane that tell objectives apart, each with its exact log-density: no histogram as truth.

name          what is hard                                         log p
8gaussians    separate modes on a ring (a plain ring is the trap)  a mixture in closed form
spirals       a thin curve, whose neighbour arm is close           a mixture along the curve, by quadrature
checkerboard  jumps of the density, exact zeros between cells      uniform on 8 of 16 squares
pinwheel      curved blades that thin out                          change of variables, roots in one variable
moons         two arcs that reach into each other                  a mixture in closed form
The laws are those of the usual toy examples (FFJORD, Grathwohl et al. 2019, took them up), written down anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rl_contrastive.energy.gaussian_mixture import GaussianMixture
from rl_contrastive.energy.noise import LOG_2PI, flat_rows, normal
from rl_contrastive.errors import unknown_name

LIKE = torch.zeros(0, dtype=torch.float64)
ROOM = 2**22
"""Numbers in the largest temporary array."""


class ToyDensity(Protocol):
    """A law on R^2; it is a NoiseLaw too."""

    @property
    def dim(self) -> int:
        """2."""

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        """(n, 2) float32."""

    def log_prob(self, x: Tensor) -> Tensor:
        """(..., 2) -> (...,) float64, -inf where there is no mass."""


def eight_gaussians() -> GaussianMixture:
    """Eight equal Gaussians, standard deviation 1/sqrt(8), on a circle of the radius sqrt(8)."""
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4.0)
    means = math.sqrt(8.0) * torch.stack([angle.cos(), angle.sin()], dim=-1)  # (8, 2)
    covariances = 0.125 * torch.eye(2, dtype=torch.float64).repeat(8, 1, 1)
    return GaussianMixture(torch.full((8,), 0.125), means.float(), covariances)


def two_moons() -> GaussianMixture:
    """Twice 64 equal Gaussians, standard deviation 1/5, on two half circles of the radius 2, 1/10 apart on each."""
    angle = (torch.arange(64, dtype=torch.float64) + 0.5) * (math.pi / 64.0)
    upper = 2.0 * torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=-1)  # (64, 2)
    means = torch.cat([upper, -upper])
    covariances = 0.04 * torch.eye(2, dtype=torch.float64).repeat(128, 1, 1)
    return GaussianMixture(torch.full((128,), 1.0 / 128.0), means.float(), covariances)


@dataclass(frozen=True)
class Checkerboard:
    """Uniform on the squares of [-4, 4]^2, side 2, whose column and row number have an even sum."""

    dim: int = 2

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        u = torch.rand(n, 2, generator=rng, dtype=torch.float64)
        column = torch.randint(0, 4, (n,), generator=rng)
        row = 2 * torch.randint(0, 2, (n,), generator=rng) + column % 2
        return (2.0 * (torch.stack([column, row], dim=-1) + u) - 4.0).float()

    def log_prob(self, x: Tensor) -> Tensor:
        rows, shape = flat_rows(x, 2, "checkerboard")
        cell = torch.floor((rows + 4.0) / 2.0)
        inside = ((cell >= 0) & (cell < 4)).all(-1) & (cell.sum(-1) % 2 == 0)
        return torch.where(inside, -math.log(32.0), -math.inf).reshape(shape)


@dataclass(frozen=True)
class Spirals:
    """+-(c(s) + U)/3 + e/10 with c(s) = s (-cos s, sin s), s = 3 pi sqrt(u), u ~ U(0,1), U ~ U(0, 1/2)^2, e ~ N(0, I).

    Given s, each coordinate is a uniform blurred by a Gaussian, a difference of normal distribution functions; the
    law of x is the mean over the sign and over s, whose density is 2 s / (3 pi)^2 (midpoint rule).
    """

    dim: int = 2
    nodes: int = 600
    """Midpoints in s; at the outer end they are 1/20 apart, half the blur, and closer within."""

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        u = torch.rand(n, 3, generator=rng, dtype=torch.float64)
        sign = 2.0 * torch.randint(0, 2, (n, 1), generator=rng) - 1.0
        return (sign * (_arm(u[:, 0]) + 0.5 * u[:, 1:]) / 3.0 + 0.1 * normal(n, 2, like=LIKE, rng=rng)).float()

    def log_prob(self, x: Tensor) -> Tensor:
        rows, shape = flat_rows(x, 2, "spirals")
        share = (torch.arange(self.nodes, dtype=torch.float64, device=rows.device) + 0.5) / self.nodes  # s / (3 pi)
        low = _arm(share.square()) / 3.0  # (nodes, 2), lower corners of the boxes of U
        log_weight = torch.log(2.0 * share / self.nodes)
        pieces = [
            torch.logaddexp(_blurred(piece, low, log_weight), _blurred(-piece, low, log_weight)) - math.log(2.0)
            for piece in torch.split(rows, max(1, ROOM // self.nodes))
        ]
        return torch.cat(pieces).reshape(shape)


def _arm(u: Tensor) -> Tensor:
    s = 3.0 * math.pi * u.sqrt()
    return torch.stack([-s * s.cos(), s * s.sin()], dim=-1)


def _blurred(rows: Tensor, low: Tensor, log_weight: Tensor) -> Tensor:
    """log sum_i w_i of U(low_i, low_i + 1/6)^2 blurred by N(0, 1/100): rows (N, 2), low (M, 2), w (M,) -> (N,)."""
    total = log_weight.repeat(len(rows), 1)
    for k in range(2):
        near = (rows[:, k, None] - low[None, :, k]) / 0.1  # in standard deviations from the lower end
        far = near - 1.0 / 0.6
        # Of Phi(near) - Phi(far) take the tail that is small, or the digits of the difference are lost.
        flip = far > 0
        a, b = torch.where(flip, -far, near), torch.where(flip, -near, far)
        log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
        total += log_a + torch.log(-torch.expm1(log_b - log_a)) + math.log(6.0)
    return torch.logsumexp(total, dim=-1)


@dataclass(frozen=True)
class Pinwheel:
    """x = 2 R(a_k(r)) (r, t): r ~ N(1, .3^2), t ~ N(0, .1^2), blade k of 5, R a clockwise rotation by
    a_k(r) = 2 pi k/5 + e^r/4.

    The map has the Jacobian 4 |1 + a' t|, a' = e^r/4, so log p sums N(r) N(t) / (5 * 4 |1 + a' t|) over the pairs
    (r, t) that give x: roots in r of [R(a_k(r))' x/2]_1 = r, bracketed on a grid and bisected.
    """

    dim: int = 2
    nodes: int = 161
    """Grid of r in [1 - 8 (.3), 1 + 8 (.3)]: two roots closer than its step are missed, where p is some e^-30."""

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        e = normal(n, 2, like=LIKE, rng=rng)
        r, t = 1.0 + 0.3 * e[:, 0], 0.1 * e[:, 1]
        angle = torch.randint(0, 5, (n,), generator=rng) * (2.0 * math.pi / 5.0) + 0.25 * r.exp()
        c, s = angle.cos(), angle.sin()
        return (2.0 * torch.stack([c * r + s * t, -s * r + c * t], dim=-1)).float()

    def log_prob(self, x: Tensor) -> Tensor:
        rows, shape = flat_rows(x, 2, "pinwheel")
        pieces = torch.split(rows, max(1, ROOM // (5 * self.nodes)))
        return torch.cat([self._of_rows(piece) for piece in pieces]).reshape(shape)

    def _of_rows(self, rows: Tensor) -> Tensor:
        r = torch.linspace(1.0 - 2.4, 1.0 + 2.4, self.nodes, dtype=torch.float64, device=rows.device)
        blade = torch.arange(5, device=rows.device) * (2.0 * math.pi / 5.0)
        gap = _unturned(rows[:, None, None], r, blade[:, None])[0] - r  # (N, 5, nodes)
        i, k, j = torch.nonzero((gap[..., :-1] > 0) != (gap[..., 1:] > 0), as_tuple=True)
        low, high, sign = r[j], r[j + 1], gap[i, k, j] > 0
        for _ in range(45):  # .03 2^-45: to rounding
            middle = 0.5 * (low + high)
            same = (_unturned(rows[i], middle, blade[k])[0] > middle) == sign
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
        root = 0.5 * (low + high)
        t = _unturned(rows[i], root, blade[k])[1]
        log_normals = -0.5 * ((root - 1.0) / 0.3) ** 2 - 0.5 * (t / 0.1) ** 2 - math.log(0.03) - LOG_2PI
        log_terms = log_normals - math.log(20.0) - torch.log((1.0 + 0.25 * root.exp() * t).abs())
        peak = torch.full((len(rows),), -math.inf, dtype=torch.float64, device=rows.device)
        peak = peak.scatter_reduce(0, i, log_terms, "amax")
        total = torch.zeros_like(peak).index_add(0, i, torch.exp(log_terms - peak[i]))
        return peak + torch.log(total)  # -inf + log 0 where no blade reaches


def _unturned(rows: Tensor, r: Tensor, blade: Tensor) -> tuple[Tensor, Tensor]:
    """The two coordinates of R(blade + e^r/4)' x/2: rows (..., 2) against r and blade (broadcast)."""
    angle = blade + 0.25 * r.exp()
    c, s = angle.cos(), angle.sin()
    a, b = 0.5 * rows[..., 0], 0.5 * rows[..., 1]
    return c * a - s * b, s * a + c * b


def make_density(name: str) -> ToyDensity:
    """The density `name`, one of DENSITIES."""
    if name not in DENSITIES:
        raise unknown_name("toy density", name, DENSITIES)
    return DENSITIES[name]()


DENSITIES: dict[str, Callable[[], ToyDensity]] = {
    "8gaussians": eight_gaussians,
    "spirals": Spirals,
    "checkerboard": Checkerboard,
    "pinwheel": Pinwheel,
    "moons": two_moons,
}
