"""Noise laws q: what an energy is contrasted with; sampling, exact log-densities, and a check that q covers the data.

Every law gives draws and log q in closed form (float64 whatever the data's precision: log weights f - log q cancel
large numbers). Noise decides more than the objective does: where q has no mass nothing is learned, so the default of
this library is a fitted law, somewhat inflated, with a share of a wide one (`gaussian_mixture.fitted_noise`).

Draws have the dtype and device of the points that the law was made of; the generator must live on that device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rl_contrastive.config import require

LOG_2PI = math.log(2.0 * math.pi)


class NoiseLaw(Protocol):
    """A normalised density on R^D that can be drawn from."""

    @property
    def dim(self) -> int:
        """D."""

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        """n independent draws (n, D)."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log q(x), x (..., D) -> (...,) float64; -inf outside the support. Differentiable in x."""


class Gaussian:
    """N(mean, covariance): log q(x) = -|L^{-1}(x - mean)|^2 / 2 - log det L - D/2 log 2 pi with L L' = covariance."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        """mean (D,) (draws have its dtype), covariance (D, D) symmetric and positive definite."""
        D = check_points("Gaussian mean", mean[None])
        require(
            covariance.shape == (D, D),
            f"Gaussian: the covariance must be ({D}, {D}) as the mean is ({D},), got {tuple(covariance.shape)}.",
        )
        self.mean, self.covariance = mean, covariance
        self.tril = cholesky(covariance, "Gaussian: the covariance")  # (D, D) float64

    @classmethod
    def fit(cls, x: Tensor, *, inflate: float = 1.0, ridge: float = 0.0) -> Gaussian:
        """Mean and covariance of the rows of x (N, D), the latter times `inflate` plus `ridge` on the diagonal."""
        D = check_points("Gaussian.fit: the data", x)
        require(len(x) > D or ridge > 0.0, f"Gaussian.fit: {len(x)} points do not span {D} dimensions; give a ridge.")
        wide = x.to(torch.float64)
        mean = wide.mean(0)
        centred = wide - mean
        covariance = inflate * (centred.T @ centred) / len(x)
        covariance = covariance + ridge * torch.eye(D, dtype=torch.float64, device=x.device)
        return cls(mean.to(x.dtype), covariance)

    @property
    def dim(self) -> int:
        return self.mean.shape[0]

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        """mean + L e, e ~ N(0, I)."""
        e = normal(n, self.dim, like=self.mean, rng=rng)
        return (self.mean.to(torch.float64) + e @ self.tril.T).to(self.mean.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        rows, shape = flat_rows(x, self.dim, "Gaussian")
        centred = rows - self.mean.to(torch.float64)
        e: Tensor = torch.linalg.solve_triangular(self.tril, centred.T, upper=False)  # (D, N)
        log_det = self.tril.diagonal().log().sum()
        return (-0.5 * e.square().sum(0) - log_det - 0.5 * self.dim * LOG_2PI).reshape(shape)

    def inflated(self, factor: float) -> Gaussian:
        """The same mean, the covariance times `factor` > 0."""
        require(factor > 0.0, f"Gaussian: the inflation must be > 0, got {factor}.")
        return Gaussian(self.mean, factor * self.covariance)

    def to(self, device: torch.device | str) -> Gaussian:
        return Gaussian(self.mean.to(device), self.covariance.to(device))


class Uniform:
    """The uniform law of a box: log q(x) = -sum_k log(high_k - low_k) inside (its boundary included), else -inf."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        """low, high (D,)."""
        check_points("Uniform low", low[None])
        require(
            low.shape == high.shape and low.dtype == high.dtype and bool((low < high).all()),
            "Uniform: low and high must have the same shape and dtype and low < high everywhere.",
        )
        self.low, self.high = low, high

    @property
    def dim(self) -> int:
        return self.low.shape[0]

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        check_generator(rng, self.low)
        u = torch.rand(n, self.dim, generator=rng, dtype=torch.float64, device=self.low.device)
        low, high = self.low.to(torch.float64), self.high.to(torch.float64)
        # Rounding may step over the bounds by one unit, where the density is 0.
        return torch.minimum(torch.maximum((low + (high - low) * u).to(self.low.dtype), self.low), self.high)

    def log_prob(self, x: Tensor) -> Tensor:
        rows, shape = flat_rows(x, self.dim, "Uniform")
        low, high = self.low.to(torch.float64), self.high.to(torch.float64)
        inside = ((rows >= low) & (rows <= high)).all(-1)
        # 0 * x keeps the (zero) gradient defined, so that a sampler can follow this law too.
        value = 0.0 * rows.sum(-1) - (high - low).log().sum()
        return torch.where(inside, value, -math.inf).reshape(shape)

    def to(self, device: torch.device | str) -> Uniform:
        return Uniform(self.low.to(device), self.high.to(device))


class Mixture:
    """sum_i w_i q_i: a draw picks a law by its weight; log q = logsumexp_i(log w_i + log q_i)."""

    def __init__(self, laws: Sequence[NoiseLaw], weights: Sequence[float]) -> None:
        """Laws of the same dimension; weights > 0 that sum to 1."""
        require(len(laws) > 0 and len(laws) == len(weights), "Mixture: give as many weights as laws, at least one.")
        require(
            all(w > 0.0 for w in weights) and abs(math.fsum(weights) - 1.0) < 1e-9,
            f"Mixture: the weights must be > 0 and sum to 1, got {list(weights)}.",
        )
        dims = [law.dim for law in laws]
        require(len(set(dims)) == 1, f"Mixture: the laws must have one dimension, got {dims}.")
        self.laws, self.weights = tuple(laws), tuple(weights)

    @property
    def dim(self) -> int:
        return self.laws[0].dim

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        weights = torch.tensor(self.weights, dtype=torch.float64, device=rng.device)
        label = categorical(weights, n, rng=rng)  # (n,)
        parts = [law.sample(int((label == i).sum()), rng=rng) for i, law in enumerate(self.laws)]
        # Row j of the result is the next unused draw of its law: the stable order of labels, inverted.
        return torch.cat(parts)[torch.argsort(torch.argsort(label, stable=True))]

    def log_prob(self, x: Tensor) -> Tensor:
        each = [law.log_prob(x) + math.log(w) for law, w in zip(self.laws, self.weights, strict=True)]
        return torch.logsumexp(torch.stack(each), dim=0)

    def to(self, device: torch.device | str) -> Mixture:
        return Mixture([moved(law, device) for law in self.laws], self.weights)


def moved(q: NoiseLaw, device: torch.device | str) -> NoiseLaw:
    """The law on a device; one without a `to` of its own (a user's functions) stays as it is."""
    to: Callable[[torch.device | str], NoiseLaw] | None = getattr(q, "to", None)
    return q if to is None else to(device)


def defended(law: NoiseLaw, wide: NoiseLaw, *, share: float = 0.1) -> Mixture:
    """(1 - share) law + share wide: weights f - log q are bounded wherever the wide law has mass."""
    return Mixture([law, wide], [1.0 - share, share])


@dataclass(frozen=True)
class UserLaw:
    """A law from two functions of the user; their shapes are checked at each call."""

    dim: int
    """D."""
    draw: Callable[[int, torch.Generator], Tensor]
    """(n, generator) -> n draws (n, D)."""
    log_density: Callable[[Tensor], Tensor]
    """(..., D) -> (...,): must be normalised."""

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        z = self.draw(n, rng)
        require(z.shape == (n, self.dim), f"UserLaw: draw({n}) must be ({n}, {self.dim}), got {tuple(z.shape)}.")
        return z

    def log_prob(self, x: Tensor) -> Tensor:
        value = self.log_density(x)
        require(
            value.shape == x.shape[:-1],
            f"UserLaw: log_density must map {tuple(x.shape)} to {tuple(x.shape[:-1])}, got {tuple(value.shape)}.",
        )
        return value.to(torch.float64)


@dataclass(frozen=True)
class Coverage:
    """How the data lie under a noise law, in its own terms (free of units)."""

    impossible: float
    """Share of the data with density 0."""
    outside: float
    """Share of the data less likely under q than all of q's own draws: a region of about 1/(draws+1) of its mass."""
    draws: int
    """Draws of q that were compared with."""


@torch.no_grad()
def coverage(q: NoiseLaw, x: Tensor, *, draws: int = 999, rng: torch.Generator | None = None) -> Coverage:
    """Compare log q of the data x (N, D) with log q of draws; without rng a fixed stream, so the answer is a constant.

    The lowest log q among m draws bounds a highest-density region that holds all but 1/(m+1) of q's mass on average.
    """
    D = check_points("coverage: the data", x)
    require(q.dim == D, f"coverage: the noise law has dimension {q.dim}, the data {D}.")
    require(draws >= 1, f"coverage: draws must be >= 1, got {draws}.")
    generator = torch.Generator(x.device).manual_seed(0) if rng is None else rng
    log_q = q.log_prob(x)
    lowest = q.log_prob(q.sample(draws, rng=generator)).min()
    return Coverage(
        impossible=float(torch.isneginf(log_q).to(torch.float64).mean()),
        outside=float((log_q < lowest).to(torch.float64).mean()),
        draws=draws,
    )


def require_coverage(
    q: NoiseLaw, x: Tensor, *, allowed: float = 0.01, draws: int = 999, rng: torch.Generator | None = None
) -> Coverage:
    """Refuse a noise law under which data (N, D) are impossible, or more than the share `allowed` is outside."""
    found = coverage(q, x, draws=draws, rng=rng)
    require(
        found.impossible == 0.0,
        f"noise: the law has density 0 at {found.impossible:.1%} of {len(x)} data points; "
        "widen it or mix in a wide law (it must cover the data).",
    )
    require(
        found.outside <= allowed,
        f"noise: {found.outside:.1%} of {len(x)} data points lie where the law puts less than about "
        f"{1.0 / (draws + 1):.1%} of its mass (allowed: {allowed:.1%}); widen it or mix in a wide law.",
    )
    return found


def check_points(what: str, x: Tensor) -> int:
    """D of finite floating points (N, D)."""
    tensor = isinstance(x, torch.Tensor)
    require(
        tensor, f"{what} must be a torch.Tensor, got {type(x).__name__}; torch.as_tensor(...) makes one of an array."
    )
    require(
        x.ndim == 2 and x.shape[0] > 0 and x.shape[1] > 0 and x.is_floating_point(),
        f"{what} must be floating point rows (N, D), got {x.dtype} of the shape {tuple(x.shape)}.",
    )
    require(bool(torch.isfinite(x).all()), f"{what} must be finite.")
    return x.shape[1]


def flat_rows(x: Tensor, dim: int, law: str) -> tuple[Tensor, tuple[int, ...]]:
    """x (..., D) as float64 rows (N, D), and the shape (...,) to give the values."""
    require(x.ndim >= 1 and x.shape[-1] == dim, f"{law}: x must be (..., {dim}) as the law is, got {tuple(x.shape)}.")
    return x.to(torch.float64).reshape(-1, dim), tuple(x.shape[:-1])


def check_generator(rng: torch.Generator, like: Tensor) -> None:
    """The generator must live where the law or the chains do: torch draws on its device only."""
    require(
        rng.device.type == like.device.type,
        f"the generator lives on {rng.device.type}, the tensors on {like.device.type}; use one device.",
    )


def normal(n: int, dim: int, *, like: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal draws (n, D), float64 on the device of `like`."""
    check_generator(rng, like)
    return torch.randn(n, dim, generator=rng, dtype=torch.float64, device=like.device)


def categorical(weights: Tensor, n: int, *, rng: torch.Generator) -> Tensor:
    """n labels with probabilities proportional to weights (K,), by inverse CDF in float64: any K, -> (n,) int64."""
    cdf = weights.to(torch.float64).cumsum(0)
    u = torch.rand(n, generator=rng, dtype=torch.float64, device=weights.device) * cdf[-1]
    # Not above the last positive weight, should u round up to the total.
    last = int((weights > 0).nonzero().max())
    return torch.searchsorted(cdf, u, right=True).clamp_max(last)


def cholesky(covariance: Tensor, what: str) -> Tensor:
    """Lower factors (..., D, D) in float64; a covariance that is not positive definite is an error."""
    wide = covariance.to(torch.float64)
    require(bool(torch.isfinite(wide).all()), f"{what} must be finite.")
    require(
        bool(torch.allclose(wide, wide.mT, rtol=1e-5, atol=1e-12)),
        f"{what} must be symmetric.",
    )
    factor, info = torch.linalg.cholesky_ex(wide)
    require(bool((info == 0).all()), f"{what} must be positive definite; add a ridge or use fewer components.")
    return torch.as_tensor(factor)
