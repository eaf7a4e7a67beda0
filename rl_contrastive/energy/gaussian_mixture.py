"""A Gaussian mixture as noise law, fitted by an exact EM in float64 whose objective rises at every iteration.

EM alternates responsibilities r_nk = p(k | x_n) with, for N_k = sum_n r_nk,
    w_k = N_k / N,   mu_k = sum_n r_nk x_n / N_k,   Sigma_k = sum_n r_nk (x_n - mu_k)(x_n - mu_k)' / N_k + lambda/N_k I.
The last term maximises log-likelihood - lambda/2 sum_k tr Sigma_k^{-1}: a fixed penalty, so the ascent stays exact
(adding a constant to the diagonal, as is common, is no ascent of anything), and a component that is left with few
points gets a wide covariance instead of a spike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from rl_contrastive.config import Ge, Options, require
from rl_contrastive.energy.noise import (
    LOG_2PI,
    Gaussian,
    Mixture,
    categorical,
    check_generator,
    check_points,
    cholesky,
    defended,
    flat_rows,
    normal,
)

ROOM = 2**22
"""Numbers in the largest temporary array of a density: rows are done in pieces of this size."""


class GaussianMixture:
    """sum_k w_k N(mu_k, Sigma_k)."""

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        """weights (K,) > 0 that sum to 1, means (K, D) (draws have their dtype), covariances (K, D, D)."""
        D = check_points("GaussianMixture means", means)
        K = len(means)
        require(
            weights.shape == (K,) and covariances.shape == (K, D, D),
            f"GaussianMixture: weights must be ({K},) and covariances ({K}, {D}, {D}) as means are ({K}, {D}), "
            f"got {tuple(weights.shape)} and {tuple(covariances.shape)}.",
        )
        require(
            bool((weights > 0).all()) and abs(float(weights.sum()) - 1.0) < 1e-5,
            "GaussianMixture: the weights must be > 0 and sum to 1.",
        )
        self.weights, self.means, self.covariances = weights, means, covariances
        self.tril = cholesky(covariances, "GaussianMixture: each covariance")  # (K, D, D) float64

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        """A component by its weight, then mu_k + L_k e."""
        check_generator(rng, self.means)
        label = categorical(self.weights, n, rng=rng)
        e = normal(n, self.dim, like=self.means, rng=rng)
        z = torch.empty_like(e)
        for k in range(len(self.means)):  # one product a component: an (n, D, D) array of factors would not fit
            own = label == k
            z[own] = self.means[k].to(torch.float64) + e[own] @ self.tril[k].T
        return z.to(self.means.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        rows, shape = flat_rows(x, self.dim, "GaussianMixture")
        pieces = torch.split(rows, max(1, ROOM // (len(self.means) * self.dim)))
        return torch.cat([torch.logsumexp(self.log_joint(piece), dim=0) for piece in pieces]).reshape(shape)

    def log_joint(self, rows: Tensor) -> Tensor:
        """log w_k + log N(x_n; mu_k, Sigma_k): rows (N, D) float64 -> (K, N)."""
        weights = self.weights.to(torch.float64)
        return (weights / weights.sum()).log()[:, None] + log_normals(rows, self.means.to(torch.float64), self.tril)

    def inflated(self, factor: float) -> GaussianMixture:
        """The same means and weights, covariances times `factor` > 0: noise a little wider than the data."""
        require(factor > 0.0, f"GaussianMixture: the inflation must be > 0, got {factor}.")
        return GaussianMixture(self.weights, self.means, factor * self.covariances)

    def to(self, device: torch.device | str) -> GaussianMixture:
        return GaussianMixture(self.weights.to(device), self.means.to(device), self.covariances.to(device))


def log_normals(rows: Tensor, means: Tensor, tril: Tensor) -> Tensor:
    """log N(x_n; mu_k, L_k L_k'): rows (N, D), means (K, D), tril (K, D, D) float64 -> (K, N)."""
    centred = rows[None] - means[:, None]  # (K, N, D)
    e: Tensor = torch.linalg.solve_triangular(tril, centred.mT, upper=False)  # (K, D, N)
    log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)  # (K, 1)
    return -0.5 * e.square().sum(1) - log_det - 0.5 * rows.shape[1] * LOG_2PI


@dataclass(frozen=True)
class MixtureFitConfig(Options, where="mixture fit"):
    """Expectation-maximisation of a Gaussian mixture."""

    components: Annotated[int, Ge(1)] = 10
    """K; 10 to 20 make a good noise law."""
    covariance: Literal["full", "diagonal"] = "full"
    """diagonal: D numbers a component in place of D(D+1)/2, for high dimensions or few points."""
    iterations: Annotated[int, Ge(1)] = 200
    """Most iterations of a start."""
    tolerance: Annotated[float, Ge(0)] = 1e-6
    """A start ends when the objective per point rises by less than this."""
    ridge: Annotated[float, Ge(0)] = 1e-3
    """An average component (N/K points) gets this times the data's mean variance added to its variances."""
    restarts: Annotated[int, Ge(1)] = 1
    """Starts (k-means++ seeds); the one with the highest objective is taken."""


@dataclass(frozen=True)
class MixtureFit:
    """What EM found."""

    law: GaussianMixture
    """The mixture; components that lost all their points are left out."""
    log_likelihood: Tensor
    """(iterations,) float64: mean log-density of the data before each M-step."""
    objective: Tensor
    """(iterations,) float64: the same with the penalty, per point: what rises at every iteration."""
    converged: bool
    """The tolerance was met before the iterations ran out."""


@torch.no_grad()
def fit_mixture(x: Tensor, config: MixtureFitConfig | None = None, *, rng: torch.Generator) -> MixtureFit:
    """Fit a Gaussian mixture to the rows of x (N, D) by penalised maximum likelihood."""
    config = config or MixtureFitConfig()
    check_points("fit_mixture: the data", x)
    check_generator(rng, x)
    require(
        len(x) >= config.components,
        f"fit_mixture: {config.components} components need as many points, got {len(x)}.",
    )
    rows = x.to(torch.float64)
    fits = [_one_start(rows, config, rng) for _ in range(config.restarts)]
    best = max(fits, key=lambda fit: float(fit.objective[-1]))
    # Draws get the data's precision from the means; covariances keep theirs, or rounding may undo their definiteness.
    law = GaussianMixture(best.law.weights, best.law.means.to(x.dtype), best.law.covariances)
    return MixtureFit(law, best.log_likelihood, best.objective, best.converged)


def fitted_noise(
    x: Tensor,
    config: MixtureFitConfig | None = None,
    *,
    inflate: float = 1.2,
    share: float = 0.1,
    wide: float = 4.0,
    rng: torch.Generator,
) -> Mixture:
    """The default noise law for data x (N, D): a fitted mixture, inflated, and a share of a wide Gaussian.

    (1 - share) GMM with covariances times `inflate` + share N(mean, wide * covariance of all data), a small ridge in
    both. Noise close to the data makes the weights f - log q small; the wide share bounds them where it is wrong.
    """
    law = fit_mixture(x, config, rng=rng).law.inflated(inflate)
    ridge = 1e-3 * float(x.to(torch.float64).var(0, correction=0).mean())
    return defended(law, Gaussian.fit(x, inflate=wide, ridge=ridge), share=share)


def _one_start(rows: Tensor, config: MixtureFitConfig, rng: torch.Generator) -> MixtureFit:
    variance = rows.var(0, correction=0).mean()
    require(bool(variance > 0), "fit_mixture: all points are the same.")
    penalty = config.ridge * variance * len(rows) / config.components  # lambda
    law = _maximise(rows, _hard_start(rows, config.components, rng), penalty, config.covariance)
    likelihoods, objectives = [], []
    converged = False
    for _ in range(config.iterations):
        likelihood, responsibility = expect(rows, law)
        inverse_trace = torch.linalg.solve_triangular(law.tril, _eye_like(law.tril), upper=False).square().sum()
        objectives.append(likelihood - 0.5 * penalty * inverse_trace / len(rows))
        likelihoods.append(likelihood)
        if len(objectives) > 1 and bool(objectives[-1] - objectives[-2] < config.tolerance):
            converged = True
            break
        law = _maximise(rows, responsibility, penalty, config.covariance)
    return MixtureFit(law, torch.stack(likelihoods), torch.stack(objectives), converged)


def expect(rows: Tensor, law: GaussianMixture) -> tuple[Tensor, Tensor]:
    """The E-step: mean log-density () and responsibilities p(k | x_n) (K, N) of rows (N, D) float64."""
    pieces = torch.split(rows, max(1, ROOM // (len(law.means) * law.dim)))
    joint = torch.cat([law.log_joint(piece) for piece in pieces], dim=1)  # (K, N)
    log_p = torch.logsumexp(joint, dim=0)
    return log_p.mean(), torch.exp(joint - log_p)


def _maximise(rows: Tensor, responsibility: Tensor, penalty: Tensor, covariance: str) -> GaussianMixture:
    """The M-step: rows (N, D), responsibilities (K, N) -> the mixture of the module's first lines."""
    size = responsibility.sum(1)  # (K,)
    # A component without points has nothing to say, and 0/0 for a mean.
    alive = size > 1e-8
    responsibility, size = responsibility[alive], size[alive]
    means = responsibility @ rows / size[:, None]  # (K, D)
    D = rows.shape[1]
    covariances = torch.empty(len(size), D, D, dtype=rows.dtype, device=rows.device)
    eye = torch.eye(D, dtype=rows.dtype, device=rows.device)
    for k in range(len(size)):
        centred = rows - means[k]
        full = (centred * responsibility[k, :, None]).T @ centred / size[k]
        full = 0.5 * (full + full.T) if covariance == "full" else torch.diag(full.diagonal())
        covariances[k] = full + penalty / size[k] * eye
    return GaussianMixture(size / size.sum(), means, covariances)


def _hard_start(rows: Tensor, K: int, rng: torch.Generator) -> Tensor:
    """Responsibilities (K, N) in {0, 1}: each point to the nearest of K seeds.

    k-means++ (Arthur and Vassilvitskii 2007): each further seed is a point drawn with probability proportional to its
    squared distance to the seeds so far.
    """
    first = torch.randint(len(rows), (1,), generator=rng, device=rows.device)
    seeds = [rows[first[0]]]
    distance = (rows - seeds[0]).square().sum(1)
    for _ in range(1, K):
        # All points sit on seeds (fewer distinct points than K): any of them will do.
        weight = distance if bool(distance.max() > 0) else torch.ones_like(distance)
        seeds.append(rows[categorical(weight, 1, rng=rng)[0]])
        distance = torch.minimum(distance, (rows - seeds[-1]).square().sum(1))
    nearest = torch.cdist(rows, torch.stack(seeds)).argmin(1)  # (N,)
    return torch.nn.functional.one_hot(nearest, K).T.to(torch.float64)


def _eye_like(tril: Tensor) -> Tensor:
    return torch.eye(tril.shape[-1], dtype=tril.dtype, device=tril.device).expand_as(tril)
