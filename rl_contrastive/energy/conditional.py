"""MECO for conditional models p(s'|s,a) = q(s') e^{f(s,a,s')} / Z(s,a): a partition function for every context.

Two ways to keep so many moving averages. `KeyedMECO` has a table of log u, one entry a context: exact for finite
(s, a). `LowRankMECO` uses that f = log <psi(s'), phi(s,a)> makes Z(s,a) = <E_q psi, phi(s,a)> linear in ONE
d-vector: u in R^d tracks E_q psi, serves every context, seen or not, and needs a handful of noise samples a step.

Both work on scores, as the objectives of the features do: row i is a context (s_i, a_i),
    pos (N, K)    f of row i with its K positives       pos_weight (N, K), sums to 1 over both (default uniform)
    noise         scores with M draws of q              noise_weight, sums to 1 over M (default 1/M)
so sampled batches, importance weights and exact sums over a finite law are the same call. Rows of weight 0 are
ignored. Scores are relative to q (l = f - log q of the full model), hence so is `nll`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rl_contrastive.config import require
from rl_contrastive.energy.base import EnergyLoss, ObjectiveState, check_finite, effective_sample_size
from rl_contrastive.energy.compositional import average_log, require_gamma
from rl_contrastive.energy.low_rank import log_mean_psi, log_products


@dataclass(frozen=True)
class ConditionalMECOConfig:
    """A table or a vector of moving averages."""

    gamma: float = 0.1
    """Weight in (0, 1] of the newest batch in u; 1 is SNIS, which few noise samples a row make useless."""

    def __post_init__(self) -> None:
        require_gamma("conditional meco", self.gamma)


@dataclass
class LogUState(ObjectiveState):
    """The logarithms of all moving averages."""

    log_u: Tensor = field(default_factory=lambda: torch.full((0,), math.nan, dtype=torch.float64))
    """(keys,) or (d,) float64; NaN for what has not been seen: its first visit copies the batch's estimate."""


def log_mean_by_key(values: Tensor, weight: Tensor, keys: Tensor, num_keys: int) -> Tensor:
    """log (sum_i w_i e^{v_i} / sum_i w_i) over the rows i of each key: (N,) -> (num_keys,); every key must occur.

    Weights > 0. The maximum of each key is taken out first, so scores of any size are fine. On CUDA index_add sums
    in no fixed order: resuming to the bit needs torch.use_deterministic_algorithms there.
    """
    terms = values + weight.log()
    empty = torch.full((num_keys,), -math.inf, dtype=values.dtype, device=values.device)
    peak = empty.scatter_reduce(0, keys, terms, "amax")  # (num_keys,)
    total = torch.zeros_like(empty).index_add(0, keys, torch.exp(terms - peak[keys]))
    mass = torch.zeros_like(empty).index_add(0, keys, weight)
    return peak + total.log() - mass.log()


def vector_partition(
    log_phi: Tensor, log_psi: Tensor, law: Tensor, log_u: Tensor, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Zhat_i / sg[Zu_i] (..., N), log Zu (..., N) and the new log u (..., d); leading axes are separate problems.

    log_phi (..., N, d), noise log_psi (..., M, d) with weights law (..., M), log_u (..., d) float64 (NaN: not set):
    lp_k = log sum_j v_j psi_k(z_j);  log u_k <- average_log(log u_k, lp_k);  Zhat = <phi, e^lp>,  Zu = <phi, u>.
    """
    log_phi = log_phi.to(torch.float64)
    lp = log_mean_psi(log_psi, law)  # (..., d)
    log_u = average_log(log_u, lp.detach(), gamma)
    log_zu = torch.logsumexp(log_phi.detach() + log_u.unsqueeze(-2), dim=-1)  # (..., N)
    # u_k >= gamma e^{lp_k} bounds the ratio by 1/gamma.
    return torch.exp(torch.logsumexp(log_phi + lp.unsqueeze(-2), dim=-1) - log_zu), log_zu, log_u


class KeyedMECO:
    """One moving average log u[key] for each context; keys are the integers 0 .. num_keys - 1.

    Rows of a batch with the same key are averaged first and enter the moving average once, whatever their number
    and order: the table moves once a step, and the batch's weights sum to at most 1/gamma.
    """

    name = "meco-keyed"

    def __init__(self, num_keys: int, config: ConditionalMECOConfig | None = None) -> None:
        require(num_keys >= 1, f"{self.name}: num_keys must be >= 1, got {num_keys}.")
        self.num_keys, self.config = num_keys, config or ConditionalMECOConfig()

    def initial_state(self, *, device: torch.device | None = None) -> LogUState:
        """A table of contexts that have not been seen."""
        return LogUState(log_u=torch.full((self.num_keys,), math.nan, dtype=torch.float64, device=device))

    def loss(
        self,
        pos: Tensor,
        neg: Tensor,
        *,
        keys: Tensor,
        state: LogUState,
        pos_weight: Tensor | None = None,
        noise_weight: Tensor | None = None,
    ) -> EnergyLoss[LogUState]:
        """pos (N, K), neg (N, M) scores, keys (N,) int64, noise_weight (N, M) -> the step's outcome."""
        pos, weight = _positives(self.name, pos, pos_weight, state.step)
        law = _law(self.name, noise_weight, neg)
        require(
            keys.shape == pos.shape[:1] == neg.shape[:1] and neg.ndim == 2,
            f"{self.name}: pos (N, K), neg (N, M) and keys (N,) must agree in N, got {tuple(pos.shape)}, "
            f"{tuple(neg.shape)} and {tuple(keys.shape)}.",
        )
        self._check_keys(keys)
        row_weight = weight.sum(-1)  # (N,)
        seen = row_weight > 0
        pos, weight, neg, law = pos[seen], weight[seen], neg[seen], law[seen]
        check_finite(neg, objective=self.name, step=state.step, what="scores of the noise")
        row_weight, neg = row_weight[seen], neg.to(torch.float64)
        # 1. Each context's estimate from this batch, then its moving average.
        log_w = neg.detach() + law.log()  # (N, M)
        visited, index = torch.unique(keys[seen], return_inverse=True)  # (V,), (N,)
        lm = log_mean_by_key(torch.logsumexp(log_w, -1), row_weight, index, len(visited))  # (V,)
        log_u = average_log(state.log_u[visited], lm, self.config.gamma)  # (V,)
        # 2. Every row divides by its context's new u.
        weights = torch.exp(log_w - log_u[index].unsqueeze(-1))  # (N, M)
        surrogate = -(weight * pos).sum() + (row_weight * (weights * neg).sum(-1)).sum()
        return EnergyLoss(
            surrogate=surrogate,
            nll=(row_weight * log_u[index]).sum() - (weight * pos.detach()).sum(),
            ess=(row_weight * effective_sample_size(log_w)).sum(),
            state=replace(state, step=state.step + 1, log_u=state.log_u.index_copy(0, visited, log_u)),
            diagnostics={"weight": (row_weight * weights.sum(-1)).sum()},
        )

    def _check_keys(self, keys: Tensor) -> None:
        inside = bool(((keys >= 0) & (keys < self.num_keys)).all())
        require(
            inside,
            f"{self.name}: keys must lie in 0 .. {self.num_keys - 1}, got {int(keys.min())} .. {int(keys.max())}.",
        )


class LowRankMECO:
    """One moving average log u_k, u ~ E_q psi in R^d, for all contexts of f = log <psi(s'), phi(s,a)>, psi, phi > 0.

    lp_k = log sum_j v_j psi_k(z_j);  Zhat_i = sum_k phi_ik e^{lp_k};  Zu_i = sum_k phi_ik u_k;
    surrogate = sum_i w_i (-f_i + Zhat_i / sg[Zu_i]),  with Zhat_i / Zu_i <= 1/gamma because u_k >= gamma e^{lp_k}.
    When the noise is the whole (finite) law with its weights v = q and gamma = 1 the gradient is that of exact
    maximum likelihood. Afterwards phi(s,a) / Z(s,a), Z from `log_partition`, gives the linear model q psi'phi.
    """

    name = "meco-low-rank"

    def __init__(self, dim: int, config: ConditionalMECOConfig | None = None) -> None:
        require(dim >= 1, f"{self.name}: dim must be >= 1, got {dim}.")
        self.dim, self.config = dim, config or ConditionalMECOConfig()

    def initial_state(self, *, device: torch.device | None = None) -> LogUState:
        """A vector that has not been set: the first step takes its own batch's mean of psi."""
        return LogUState(log_u=torch.full((self.dim,), math.nan, dtype=torch.float64, device=device))

    def loss(
        self,
        pos: Tensor,
        log_phi: Tensor,
        log_psi: Tensor,
        *,
        state: LogUState,
        pos_weight: Tensor | None = None,
        noise_weight: Tensor | None = None,
    ) -> EnergyLoss[LogUState]:
        """pos (N, K) scores, log_phi (N, d) of the rows, log_psi (M, d) of noise all rows share, noise_weight (M,)."""
        pos, weight = _positives(self.name, pos, pos_weight, state.step)
        require(
            log_phi.shape == (pos.shape[0], self.dim) and log_psi.ndim == 2 and log_psi.shape[1] == self.dim,
            f"{self.name}: log_phi must be {(pos.shape[0], self.dim)} and log_psi (M, {self.dim}), "
            f"got {tuple(log_phi.shape)} and {tuple(log_psi.shape)}.",
        )
        law = _law(self.name, noise_weight, log_psi[:, 0])  # (M,)
        row_weight = weight.sum(-1)
        seen = row_weight > 0
        pos, weight, row_weight, log_phi = pos[seen], weight[seen], row_weight[seen], log_phi[seen]
        check_finite(log_phi, objective=self.name, step=state.step, what="entries of log phi")
        check_finite(log_psi, objective=self.name, step=state.step, what="entries of log psi")
        log_phi, log_psi = log_phi.to(torch.float64), log_psi.to(torch.float64)
        ratio, log_zu, log_u = vector_partition(log_phi, log_psi, law, state.log_u, self.config.gamma)
        log_w = log_products(log_phi.detach(), log_psi.detach(), floor=0.0) + law.log()  # (N, M)
        return EnergyLoss(
            surrogate=(row_weight * ratio).sum() - (weight * pos).sum(),
            nll=(row_weight * log_zu).sum() - (weight * pos.detach()).sum(),
            ess=(row_weight * effective_sample_size(log_w)).sum(),
            state=replace(state, step=state.step + 1, log_u=log_u),
            diagnostics={"weight": (row_weight * ratio.detach()).sum()},
        )

    def log_partition(self, log_phi: Tensor, state: LogUState) -> Tensor:
        """log Z(s,a) = log <u, phi(s,a)>: log_phi (..., d) -> (...,)."""
        require(log_phi.shape[-1] == self.dim, f"{self.name}: log_phi must be (..., {self.dim}).")
        require(state.step > 0, f"{self.name}: log Z is not known before the first step.")
        return torch.logsumexp(log_phi.to(torch.float64) + state.log_u, dim=-1)


def _positives(name: str, pos: Tensor, weight: Tensor | None, step: int) -> tuple[Tensor, Tensor]:
    """Scores (N, K) float64 and their weights, uniform unless given."""
    require(pos.ndim == 2 and pos.numel() > 0, f"{name}: pos must be (N, K) and not empty, got {tuple(pos.shape)}.")
    if weight is None:
        weight = torch.full_like(pos, 1.0 / pos.numel(), dtype=torch.float64)
    require(weight.shape == pos.shape, f"{name}: pos_weight must be {tuple(pos.shape)}, got {tuple(weight.shape)}.")
    weight = weight.detach().to(torch.float64)
    require(
        bool((weight >= 0).all()) and abs(float(weight.sum()) - 1.0) < 1e-4,
        f"{name}: pos_weight must be >= 0 and sum to 1, got the sum {float(weight.sum()):.6g}.",
    )
    check_finite(pos[weight > 0], objective=name, step=step, what="scores of the data")
    return torch.where(weight > 0, pos.to(torch.float64), torch.zeros_like(weight)), weight


def _law(name: str, weight: Tensor | None, like: Tensor) -> Tensor:
    """Noise weights of the shape of `like`, 1/M unless given; over the last axis they sum to 1."""
    if weight is None:
        return torch.full_like(like, 1.0 / like.shape[-1], dtype=torch.float64)
    require(weight.shape == like.shape, f"{name}: noise_weight must be {tuple(like.shape)}, got {tuple(weight.shape)}.")
    weight = weight.detach().to(torch.float64)
    off = float((weight.sum(-1) - 1.0).abs().max())
    require(
        bool((weight >= 0).all()) and off < 1e-4, f"{name}: noise_weight must be >= 0 and sum to 1 (off by {off:.2g})."
    )
    return weight
