"""MECO: maximum likelihood by compositional optimisation, with a moving average of what normalises P-hat.

-E+ s + E log Z(s,a), Z = E_{P^-} e^s, has a logarithm outside an expectation: its minibatch gradient (`mle` with M
draws) is biased by O(1/M). Here u follows the partition function over the descent and the gradient divides by it,
    surrogate_i = -s_i + Zhat_i / sg[Zu_i],   log u <- log((1 - gamma) u + gamma uhat),   Zhat / Zu <= 1 / gamma,
so a few shared negatives suffice (Jiang et al. 2023). With f = psi'phi one d-vector u ~ E_{P^-} psi serves every
(s,a), because Z(s,a) = <u, phi(s,a)>. Minimiser f* = c(s,a) P/P^-, as for `mle`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from rl_contrastive.config import In, Options, config_or
from rl_contrastive.energy.compositional import average_log
from rl_contrastive.energy.low_rank import log_mean_psi
from rl_contrastive.objectives.base import (
    Contrast,
    Objective,
    ObjectiveResult,
    Sizes,
    State,
    log_expectation,
    reduce_rows,
    require_ids,
)
from rl_contrastive.registry import register


@dataclass(frozen=True)
class MECOConfig(Options, where="meco"):
    """The moving average."""

    gamma: Annotated[float, In(0, 1, above=True)] = 0.1
    """Weight of the newest negatives in u; 1 is `mle` with the partition of the batch."""


@register("objective", "meco", MECOConfig)
class MECO(Objective):
    """-s+ + Zhat/Z of a moving average, Z(s,a) = <u, phi(s,a)> with ONE d-vector u ~ E_{P^-} psi for all (s,a).

    log u is float64, whatever the precision of the scores. Without its state it is the likelihood of the batch.
    """

    recovers = "ratio-up-to-row"
    shared = True

    def __init__(self, config: MECOConfig | None = None) -> None:
        self.config = config_or(config, MECOConfig)

    def initial(self, sizes: Sizes) -> State:
        return {"log_u": torch.full((sizes.levels, sizes.dim), math.nan, dtype=torch.float64)}

    def loss(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        """-s+ + log E_{P^-} e^s."""
        return ObjectiveResult(*reduce_rows(-pos, log_expectation(neg, neg_weight), pos_weight))

    def step(self, batch: Contrast, state: State) -> tuple[ObjectiveResult, State]:
        ratio, log_u = self._ratio(batch, state["log_u"])
        return ObjectiveResult(*reduce_rows(-batch.pos("log"), ratio, batch.pos_weight)), {"log_u": log_u}

    def _ratio(self, batch: Contrast, log_u: Tensor) -> tuple[Tensor, Tensor]:
        """Zhat / sg[Zu] (H, N) and the new log u."""
        return vector_partition(batch.log_phi(), batch.log_psi(), batch.law, log_u, self.config.gamma)


@register("objective", "meco-keyed", MECOConfig)
class KeyedMECO(MECO):
    """The same with a moving average of its own for each (s,a): entries of a table, or stored rows of vectors.

    With stored rows this keeps one number a sample, as SogCLR does (Yuan et al. 2022), and a row that is drawn a few
    times in a descent has an old u; a table's pairs are seen all the time.
    """

    keyed = True
    shared = False

    def initial(self, sizes: Sizes) -> State:
        return {"log_u": torch.full((sizes.levels, sizes.anchors), math.nan, dtype=torch.float64)}

    def _ratio(self, batch: Contrast, log_u: Tensor) -> tuple[Tensor, Tensor]:
        require_ids("meco-keyed", batch, log_u)
        if batch.law.ndim == 2:  # shared negatives: Zhat is linear in the mean of psi
            lp = log_mean_psi(batch.log_psi(), batch.law).unsqueeze(-2)  # (H, 1, d)
            log_zhat = torch.logsumexp(batch.log_phi().to(torch.float64) + lp, dim=-1)  # (H, N)
        else:
            log_zhat = log_expectation(batch.neg("log").to(torch.float64), batch.law)
        if batch.ids is None:
            log_u = log_z = average_log(log_u, log_zhat.detach(), self.config.gamma)
        else:
            log_u = self._average(log_zhat.detach(), batch.row_weight, batch.ids, log_u)
            log_z = log_u.gather(1, batch.ids)
        return torch.exp(log_zhat - log_z), log_u

    def _average(self, log_zhat: Tensor, row_weight: Tensor, ids: Tensor, log_u: Tensor) -> Tensor:
        """Rows of one anchor enter its average once, as their mean; anchors that are not in the batch keep theirs."""
        H, K = log_u.shape
        keys = (ids + K * torch.arange(H, device=ids.device)[:, None]).reshape(-1)
        # A level without data has rows of weight 0: they count as one each there, and nothing is trained by them.
        weight = torch.where(row_weight > 0, row_weight, torch.ones_like(row_weight)).to(torch.float64)
        lm = log_mean_by_key(log_zhat.reshape(-1), weight.reshape(-1), keys, H * K).reshape(H, K)
        return torch.where(torch.isnan(lm), log_u, average_log(log_u, lm, self.config.gamma))


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
) -> tuple[Tensor, Tensor]:
    """Zhat_i / sg[Zu_i] (..., N) and the new log u (..., d); leading axes are separate problems.

    log_phi (..., N, d), noise log_psi (..., M, d) with weights law (..., M), log_u (..., d) float64 (NaN: not set):
    lp_k = log sum_j v_j psi_k(z_j);  log u_k <- average_log(log u_k, lp_k);  Zhat = <phi, e^lp>,  Zu = <phi, u>.
    """
    log_phi = log_phi.to(torch.float64)
    lp = log_mean_psi(log_psi, law)  # (..., d)
    log_u = average_log(log_u, lp.detach(), gamma)
    log_zu = torch.logsumexp(log_phi.detach() + log_u.unsqueeze(-2), dim=-1)  # (..., N)
    # u_k >= gamma e^{lp_k} bounds the ratio by 1/gamma.
    return torch.exp(torch.logsumexp(log_phi + lp.unsqueeze(-2), dim=-1) - log_zu), log_u
