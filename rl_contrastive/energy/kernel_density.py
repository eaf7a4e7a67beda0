"""Kernel density estimate as noise law and baseline: exact in log space, in pieces that change no bit of the result.

log q(x) = logsumexp_i(-|x - x_i|^2 / 2h^2) - log N - D log h - D/2 log 2 pi. Tree codes with relative tolerances are
wrong by many nats in high dimensions (measured for a common one at D = 64), so every pair is computed here, from
differences: |x|^2 + |y|^2 - 2 x'y would lose the small distances that dominate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rl_contrastive.config import require
from rl_contrastive.energy.noise import LOG_2PI, check_generator, check_points, flat_rows, normal

ROOM = 2**22
"""Pairs of points that are held at once (32 MB of distances)."""


class KernelDensity:
    """(1/N) sum_i N(x_i, h^2 I)."""

    def __init__(self, points: Tensor, bandwidth: float, *, room: int = ROOM) -> None:
        """points (N, D); bandwidth h > 0; room: pairs held at once, which changes memory and nothing else."""
        check_points("KernelDensity: the points", points)
        require(math.isfinite(bandwidth) and bandwidth > 0.0, f"KernelDensity: bandwidth must be > 0, got {bandwidth}.")
        require(room >= 1, f"KernelDensity: room must be >= 1, got {room}.")
        self.points, self.bandwidth, self.room = points, bandwidth, room

    @classmethod
    def fit(cls, points: Tensor, bandwidths: Sequence[float]) -> KernelDensity:
        """The bandwidth whose leave-one-out log-density of the points themselves is highest."""
        require(len(bandwidths) > 0, "KernelDensity.fit: give at least one bandwidth.")
        laws = [cls(points, h) for h in bandwidths]
        return max(laws, key=lambda law: float(law.leave_one_out().mean()))

    @property
    def dim(self) -> int:
        return self.points.shape[1]

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        """A point at random, plus h e."""
        check_generator(rng, self.points)
        index = torch.randint(len(self.points), (n,), generator=rng, device=self.points.device)
        e = normal(n, self.dim, like=self.points, rng=rng)
        return (self.points[index].to(torch.float64) + self.bandwidth * e).to(self.points.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        rows, shape = flat_rows(x, self.dim, "KernelDensity")
        pieces = torch.split(rows, max(1, self.room // len(self.points)))
        sums = torch.cat([torch.logsumexp(self._exponents(piece), dim=-1) for piece in pieces])
        return (sums - self._log_constant(len(self.points))).reshape(shape)

    @torch.no_grad()
    def leave_one_out(self) -> Tensor:
        """(N,) log-density of each point under all that differ from it: an honest score of the bandwidth.

        Copies of a point, as rounded data have, are left out with it: they would ask for the narrowest bandwidth.
        """
        N = len(self.points)
        require(N >= 2, "KernelDensity: leaving one out needs at least two points.")
        rows = self.points.to(torch.float64)
        sums, others = [], []
        for piece in torch.split(rows, max(1, self.room // N)):
            exponents = self._exponents(piece)
            copies = exponents == 0.0
            sums.append(torch.logsumexp(exponents.masked_fill_(copies, -math.inf), dim=-1))
            others.append(N - copies.sum(-1))
        count = torch.cat(others)
        require(bool((count > 0).all()), f"KernelDensity: the {N} points are all the same; no bandwidth fits them.")
        return torch.cat(sums) - count.to(torch.float64).log() - self._log_constant(1)

    def to(self, device: torch.device | str) -> KernelDensity:
        return KernelDensity(self.points.to(device), self.bandwidth, room=self.room)

    def _exponents(self, rows: Tensor) -> Tensor:
        """-|x_j - x_i|^2 / 2h^2 (M, N) of rows (M, D) float64."""
        distance = torch.cdist(
            rows, self.points.to(torch.float64), compute_mode="donot_use_mm_for_euclid_dist"
        )  # (M, N)
        return -0.5 * (distance / self.bandwidth).square()

    def _log_constant(self, count: int) -> float:
        return math.log(count) + self.dim * (math.log(self.bandwidth) + 0.5 * LOG_2PI)
