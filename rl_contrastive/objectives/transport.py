"""Optimal transport with entropy: Sinkhorn in log space, and OpTA, which moves labelled points to unlabelled ones.

    pi = argmin <pi, C> - eps H(pi),   rows of pi sum to mu, columns to nu;   log pi = (f_i + g_j - C_ij) / eps
    f <- eps log mu - eps logsumexp_j((g_j - C_ij) / eps),   g likewise

Every number stays a logarithm: exp(-C/eps) underflows for C/eps > 88 in single precision, and then no scaling helps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from rl_contrastive.config import Ge, Gt, In, Options, config_or, require
from rl_contrastive.device import require_tensor

LEAST_COST = 1e-12
"""Costs are divided by their maximum, or by this where all points are one and every cost is 0."""


def log_sinkhorn(
    cost: Tensor,
    *,
    eps: float,
    mu: Tensor | None = None,
    nu: Tensor | None = None,
    rounds: int = 1000,
    tolerance: float = 1e-4,
    relax: float | None = None,
) -> Tensor:
    """log pi (..., n, m) of cost (..., n, m) by Sinkhorn's rounds in log space (Cuturi 2013; Schmitzer 2019).

    mu (..., n), nu (..., m): marginals, uniform where None; an entry of 0 takes no mass. The last half-round is that of
    the columns, so these are exact. It stops when the potentials of the rows change by less than `tolerance` in sum, of
    every problem side by side. relax: the rows' marginal is a wish, at the price relax KL(rows || mu) (Chizat et al.
    2018).
    """
    _require_cost(cost, eps, rounds)
    n, m = cost.shape[-2:]
    log_mu = _log_marginal("mu", mu, cost[..., 0], n)
    log_nu = _log_marginal("nu", nu, cost[..., 0, :], m)
    require(relax is None or (relax > 0 and math.isfinite(relax)), f"sinkhorn: relax must be > 0, got {relax}.")
    share = 1.0 if relax is None else relax / (relax + eps)
    K = -cost / eps
    f, g = torch.zeros_like(cost[..., 0]), torch.zeros_like(cost[..., 0, :])  # in units of eps
    for _ in range(rounds):
        before = f
        f = share * (log_mu - torch.logsumexp(K + g.unsqueeze(-2), dim=-1))
        # Rows without mass have f = -inf and drop out of the sums.
        g = log_nu - torch.logsumexp(K + f.unsqueeze(-1), dim=-2)
        change = torch.where(log_mu > -torch.inf, (f - before).abs(), 0.0).sum(-1) * eps
        if bool((change < tolerance).all()):
            break
    return K + f.unsqueeze(-1) + g.unsqueeze(-2)


def estimate_marginal(cost: Tensor, *, eps: float, rounds: int = 100, prior: float = 1.0) -> Tensor:
    """mu (..., n) of the rows by EM for the mixture sum_i mu_i exp(-C_ij/eps) of the columns (Dempster et al. 1977).

    r_ij ∝ mu_i exp(-C_ij/eps),   mu_i ∝ prior + sum_j r_ij: `prior` columns a row are added before looking.
    """
    _require_cost(cost, eps, rounds)
    require(prior >= 0 and math.isfinite(prior), f"sinkhorn: prior must be >= 0, got {prior}.")
    n, m = cost.shape[-2:]
    log_mu = torch.full_like(cost[..., 0], -math.log(n))
    for _ in range(rounds):
        share = torch.softmax(log_mu.unsqueeze(-1) - cost / eps, dim=-2).sum(-1)  # (..., n)
        log_mu = ((prior + share) / (n * prior + m)).log()
    return log_mu.exp()


@dataclass(frozen=True)
class OpTAConfig(Options, where="opta"):
    """How labelled prototypes move."""

    eps: Annotated[float, In(1e-4, 1e4)] = 0.05
    """Entropy of the plan, in units of the largest cost."""
    passes: Annotated[int, Ge(1)] = 1
    """Times the plan is made and followed: 5 for one labelled point a class, 1 for five."""
    keep: Annotated[float, In(0, 1)] = 0.0
    """Share of the old prototype in the new one at the end."""
    marginal: Literal["uniform", "estimated", "relaxed"] = "uniform"
    """Of the classes: uniform (published, harmful where queries are unbalanced), estimated by EM from the queries, or
    uniform as a wish (`relax`)."""
    prior: Annotated[float, Ge(0)] = 1.0
    """Queries a class that are added in the estimate."""
    relax: Annotated[float, In(1e-4, 1e4)] = 0.05
    """Price of a marginal other than uniform where it is a wish."""
    rounds: Annotated[int, Ge(1)] = 1000
    """Sinkhorn rounds at most."""
    tolerance: Annotated[float, Gt(0)] = 1e-4
    """Change of the potentials that counts as none."""


class OpTA:
    """Prototypes <- (pi / row sums) @ queries, pi the plan between both at cost |x-y|^2 / max (Poulakakis-Daktylidis
    and Jamali-Rad 2024, BECLR). support (..., K, d), query (..., M, d) -> (..., K, d)."""

    def __init__(self, config: OpTAConfig | None = None) -> None:
        self.config = config_or(config, OpTAConfig)

    def __call__(self, support: Tensor, query: Tensor) -> Tensor:
        for name, x in (("support", support), ("query", query)):
            require_tensor("opta", name, x)
            require(x.ndim >= 2 and x.shape[-2] >= 1, f"opta: {name} has shape {tuple(x.shape)}, not (..., n, d).")
            require(bool(torch.isfinite(x).all()), f"opta: {name} holds NaN or infinite numbers.")
        fits = support.shape[:-2] == query.shape[:-2] and support.shape[-1] == query.shape[-1]
        require(fits, f"opta: support {tuple(support.shape)} and query {tuple(query.shape)} do not fit together.")
        new = support
        for _ in range(self.config.passes):
            log_plan = self.log_plan(new, query)
            moved = torch.softmax(log_plan, dim=-1) @ query  # rows of pi normalised
            # A class that the estimate takes for absent has no mass to follow, and stays.
            empty = log_plan.amax(-1, keepdim=True) == -torch.inf
            new = torch.where(empty, new, moved)
        return self.config.keep * support + (1.0 - self.config.keep) * new

    def log_plan(self, support: Tensor, query: Tensor) -> Tensor:
        """log pi (..., K, M)."""
        c = self.config
        cost = (support.unsqueeze(-2) - query.unsqueeze(-3)).square().sum(-1)  # (..., K, M)
        cost = cost / cost.amax((-2, -1), keepdim=True).clamp_min(LEAST_COST)
        mu = estimate_marginal(cost, eps=c.eps, prior=c.prior) if c.marginal == "estimated" else None
        relax = c.relax if c.marginal == "relaxed" else None
        return log_sinkhorn(cost, eps=c.eps, mu=mu, rounds=c.rounds, tolerance=c.tolerance, relax=relax)


def _require_cost(cost: Tensor, eps: float, rounds: int) -> None:
    require_tensor("sinkhorn", "cost", cost)
    require(cost.ndim >= 2 and min(cost.shape[-2:]) >= 1, f"sinkhorn: cost has shape {tuple(cost.shape)}, not (n, m).")
    require(bool(torch.isfinite(cost).all()), "sinkhorn: the cost holds NaN or infinite numbers.")
    require(eps > 0 and math.isfinite(eps), f"sinkhorn: eps must be > 0, got {eps}.")
    good = bool(torch.isfinite(cost / eps).all())
    require(good, f"sinkhorn: eps is so small that cost / eps is infinite, got {eps}.")
    require(rounds >= 1, f"sinkhorn: rounds must be >= 1, got {rounds}.")


def _log_marginal(name: str, given: Tensor | None, like: Tensor, size: int) -> Tensor:
    """log of the marginal, checked: >= 0, sums to 1."""
    if given is None:
        return torch.full_like(like, -math.log(size))
    require(given.shape[-1] == size, f"sinkhorn: {name} must have {size} entries, got {tuple(given.shape)}.")
    good = bool((given >= 0).all()) and bool(((given.sum(-1) - 1.0).abs() < 1e-4).all())
    require(good, f"sinkhorn: {name} must be >= 0 and sum to 1.")
    return given.to(like.dtype).log()
