"""The low-rank conditional energy f(x, y) = log <psi(y), phi(x)>, whose partition function is linear in one d-vector.

With p(y | x) = q(y) <psi(y), phi(x)> / Z(x) and psi, phi > 0,
    Z(x) = E_q <psi(y), phi(x)> = <u, phi(x)>,   u = E_q psi in R^d,
so d numbers normalise every context x = (s, a), seen or not, and phi / Z makes the model q psi'phi exactly linear.
Both factors are given by their logarithms, outputs of any module; nothing over- or underflows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rl_contrastive.config import require
from rl_contrastive.energy.base import Energy


def log_products(a: Tensor, b: Tensor, *, floor: float = 1e-30) -> Tensor:
    """log <phi_i, psi_j> of all pairs from a = log phi (..., N, d), b = log psi (..., M, d) -> (..., N, M).

    With the largest factor of each row taken out this is a matrix product in place of an (N, M, d) array, which cannot
    overflow. It underflows where two supports are disjoint, and is at least `floor` there (0: the logarithm is -inf).
    """
    m, n = a.amax(-1, keepdim=True).detach(), b.amax(-1, keepdim=True).detach()
    product = ((a - m).exp() @ (b - n).exp().transpose(-1, -2)).to(a.dtype)
    return product.clamp_min(floor).log() + m + n.transpose(-1, -2)


def log_mean_psi(log_psi: Tensor, law: Tensor) -> Tensor:
    """log sum_j v_j psi_k(z_j): (..., M, d), weights (..., M) -> (..., d) float64; Zhat_i = <phi_i, its exp>."""
    return torch.logsumexp(log_psi.to(torch.float64) + law.to(torch.float64).log().unsqueeze(-1), dim=-2)


class TableFactor(nn.Module):
    """log phi of finitely many contexts, or log psi of outcomes: index (...,) int64 -> (..., d)."""

    def __init__(self, rows: int, dim: int, *, rng: torch.Generator, spread: float = 0.1) -> None:
        """Entries N(0, spread^2) in the logarithm: not all equal, or the d columns would stay the same for ever."""
        super().__init__()
        require(rows >= 1 and dim >= 1, f"table factor: rows and dim must be >= 1, got {rows} and {dim}.")
        require(spread > 0.0, f"table factor: spread must be > 0, got {spread}.")
        self.table = nn.Parameter(spread * torch.randn(rows, dim, generator=rng, device=rng.device))

    def forward(self, index: Tensor) -> Tensor:
        rows = len(self.table)
        require(
            not index.is_floating_point() and bool(((index >= 0) & (index < rows)).all()),
            f"table factor: indices must be integers in 0 .. {rows - 1}.",
        )
        return self.table[index]


class LowRankConditional(nn.Module):
    """f(x, y) = logsumexp_k(log phi_k(x) + log psi_k(y)).

    phi, psi: modules that give log factors (..., d), such as `TableFactor` (x, y indices) or `MLP` (x, y vectors).
    """

    def __init__(self, phi: nn.Module, psi: nn.Module) -> None:
        super().__init__()
        self.phi, self.psi = phi, psi

    def rows(self, x: Tensor, y: Tensor) -> Tensor:
        """f(x_i, y_i): n contexts and n outcomes -> (n,) float64."""
        a, b = self._log_factors(x, y)
        require(len(a) == len(b), f"low rank: rows need as many contexts as outcomes, got {len(a)} and {len(b)}.")
        return torch.logsumexp(a + b, dim=-1)

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        """f(x_i, y_j): n contexts and m outcomes -> (n, m) float64, by way of an (n, m, d) array."""
        a, b = self._log_factors(x, y)
        return torch.logsumexp(a[:, None] + b[None], dim=-1)

    def given(self, x: Tensor) -> Energy:
        """The energy of outcomes (..., n, D) -> (..., n) in ONE context x (1, ...), for samplers and partitions."""
        a = self._checked(self.phi(x), "phi")
        require(len(a) == 1, f"low rank: give one context, got {len(a)}.")
        return lambda y: torch.logsumexp(a[0] + self.psi(y).to(torch.float64), dim=-1)

    def log_mean_psi(self, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """log u_k = log sum_j v_j psi_k(y_j): m outcomes -> (d,) float64.

        weight (m,), sums to 1: a finite law q itself, or importance weights; 1/m for draws of q when left out.
        """
        b = self._checked(self.psi(y), "psi")  # (m, d)
        if weight is None:
            weight = torch.full((len(b),), 1.0 / len(b), dtype=torch.float64, device=b.device)
        require(weight.shape == b.shape[:1], f"low rank: weight must be ({len(b)},), got {tuple(weight.shape)}.")
        weight = weight.to(torch.float64)
        require(
            bool((weight >= 0).all()) and abs(float(weight.sum()) - 1.0) < 1e-4,
            f"low rank: weights must be >= 0 and sum to 1, got the sum {float(weight.sum()):.6g}.",
        )
        return log_mean_psi(b, weight)

    def log_partition(self, x: Tensor, log_u: Tensor) -> Tensor:
        """log Z(x_i) = log <u, phi(x_i)>: n contexts, log_u (d,) -> (n,) float64."""
        return torch.logsumexp(self._checked(self.phi(x), "phi") + log_u, dim=-1)

    def log_linear_phi(self, x: Tensor, log_u: Tensor) -> Tensor:
        """log(phi(x_i) / Z(x_i)) (n, d): with it q(y) <psi(y), phi~(x)> is the conditional law, and linear in phi~."""
        return self._checked(self.phi(x), "phi") - self.log_partition(x, log_u)[:, None]

    def _log_factors(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self._checked(self.phi(x), "phi"), self._checked(self.psi(y), "psi")
        require(
            a.shape[-1] == b.shape[-1],
            f"low rank: phi and psi must have one dimension d, got {a.shape[-1]}, {b.shape[-1]}.",
        )
        return a, b

    @staticmethod
    def _checked(factor: Tensor, name: str) -> Tensor:
        require(
            factor.ndim == 2,
            f"low rank: log {name} must be (n, d), got {tuple(factor.shape)}; give contexts and outcomes as rows.",
        )
        return factor.to(torch.float64)
