"""iSogCLR: robust contrastive learning with a temperature and a moving average of its own for each anchor.

    F = mean_i min_{tau_i in [tau_min, tau_max]} tau_i log E_{P^-} e^{h_ij / tau_i} + tau_i rho,    h_ij = s_ij - s_i+

is the worst case over laws p of the negatives with KL(p || P^-) <= rho: anchors with many near negatives get a high
temperature, others a low one. One step on anchor i, with vhat the batch's mean over its negatives:

    u_i <- (1 - gamma) u_i + gamma vhat e^{h/tau_i}     at the first visit vhat itself; kept as log u_i, in float64
    p_ij = e^{h_ij/tau_i} / u_i, a constant             loss_i = vhat[p_ij h_ij]
    g_i = log u_i + rho - vhat[p_ij h_ij] / tau_i       dF/dtau_i
    m_i <- (1 - beta) m_i + beta g_i                    tau_i <- clip(tau_i - eta m_i, tau_min, tau_max)

Source: Qiu et al. 2023 (iSogCLR); code read: Optimization-AI/LibAUC, libauc/losses/contrastive.py. There the test for
a first visit is made for the batch as a whole; here it is one for each anchor. Fixed point: KL(p || P^-) = rho.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from rl_contrastive.config import Ge, In, Options, config_or, require
from rl_contrastive.energy.compositional import average_log
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

HALVINGS = 40
"""Of [log tau_min, log tau_max] in the search for the best temperature."""


@dataclass(frozen=True)
class ISogCLRConfig(Options, where="isogclr"):
    """Temperatures of their own for all anchors. Published for two modalities: rho 6, tau in [.005, .05]."""

    tau_0: Annotated[float, In(1e-4, 1e4)] = 0.1
    """Temperature before the first visit; tau_min <= tau_0 <= tau_max."""
    gamma: Annotated[float, In(0, 1, above=True)] = 0.9
    """Weight of the newest negatives in u."""
    rho: Annotated[float, Ge(0)] = 0.3
    """KL (nats) that the worst case may be away from P^-: larger ones lower the temperatures."""
    eta: Annotated[float, Ge(0)] = 0.01
    """Step size of the temperatures; 0: they stay at tau_0, and tau_min and tau_max do not count."""
    beta: Annotated[float, In(0, 1, above=True)] = 0.9
    """Weight of the newest gradient of a temperature in its moving average."""
    tau_min: Annotated[float, In(1e-4, 1e4)] = 0.05
    """Smallest temperature."""
    tau_max: Annotated[float, In(1e-4, 1e4)] = 0.7
    """Largest temperature."""
    form: Literal["h", "s"] = "h"
    """What u averages the exponential of: h = s - s+, or s alone, as published for one modality (LibAUC's v1). One
    step from a fresh state is the same. Where an anchor is drawn with different successors (a sampled table), h weighs
    them by e^{-s+/tau}, and s does not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, mid, high = self.tau_min, self.tau_0, self.tau_max
        require(low <= mid <= high, f"isogclr: need tau_min <= tau_0 <= tau_max, got {low}, {mid} and {high}.")

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and largest temperature that an anchor can have."""
        return (self.tau_min, self.tau_max) if self.eta > 0 else (self.tau_0, self.tau_0)


@register("objective", "isogclr", ISogCLRConfig)
class ISogCLR(Objective):
    """iSogCLR (Qiu et al. 2023): tau log E_{P^-} e^{(s - s+)/tau} + tau rho with a learned tau of each anchor.

    scores (H, N, K), (H, N, M); state log_u, tau, m (H, anchors) float64, for pairs of a table or stored rows. Each fit
    begins with a fresh state. Minimiser s* = tau(s,a) log P/P^- + c(s,a): tempered, and differently in each row, but
    with all temperatures held at 1.
    Without its state it is F itself, at the best temperatures.
    """

    keyed = True

    def __init__(self, config: ISogCLRConfig | None = None) -> None:
        self.config = config_or(config, ISogCLRConfig)
        self.recovers = "ratio-up-to-row" if self.config.bounds == (1.0, 1.0) else "tempered"

    def initial(self, sizes: Sizes) -> State:
        empty = torch.full((sizes.levels, sizes.anchors), math.nan, dtype=torch.float64)
        return {"log_u": empty, "tau": torch.full_like(empty, self.config.tau_0), "m": torch.zeros_like(empty)}

    def loss(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        """F; by the envelope theorem the best temperatures are constants of its gradient."""
        tau, rho = self.best_temperature(neg, neg_weight), self.config.rho
        rest = tau * (log_expectation(neg.double() / tau[..., None], neg_weight) + rho)  # (..., N)
        result = ObjectiveResult(*reduce_rows(-pos.double(), rest, pos_weight))
        return ObjectiveResult(result.loss.to(pos.dtype), result.rows.to(pos.dtype))

    @torch.no_grad()
    def best_temperature(self, neg: Tensor, neg_weight: Tensor) -> Tensor:
        """argmin over the bounds of tau log E e^{s/tau} + tau rho (..., N), by halving: KL falls with tau."""
        s = neg.double()
        low, high = (torch.full_like(s[..., 0], math.log(tau)) for tau in self.config.bounds)
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            scaled = s / middle.exp()[..., None]
            log_z = log_expectation(scaled, neg_weight)
            p = neg_weight * torch.exp(scaled - log_z[..., None])
            falls = log_z + self.config.rho - (p * scaled).sum(-1) < 0  # KL > rho: a higher tau is better
            low, high = torch.where(falls, middle, low), torch.where(falls, high, middle)
        return high.exp()

    def step(self, batch: Contrast, state: State) -> tuple[ObjectiveResult, State]:
        """loss_i = sum_j v_j p_ij h_ij with constants p; then u, m and tau of the anchors in the batch."""
        require_ids("isogclr", batch, state["tau"])
        pos, neg, v = batch.scores("log")
        tau, log_u, m = (_taken(state[name], batch.ids) for name in ("tau", "log_u", "m"))  # (H, N)
        with torch.no_grad():
            exponent = neg.double()
            if self.config.form == "h":
                exponent = exponent - _mean_positive(pos, batch.pos_weight)[..., None]
            scaled = exponent / tau[..., None]
            log_u = average_log(log_u, log_expectation(scaled, v), self.config.gamma)
            p = v * torch.exp(scaled - log_u[..., None])  # (H, N, M), sum <= 1/gamma
            m = (1.0 - self.config.beta) * m + self.config.beta * (log_u + self.config.rho - (p * scaled).sum(-1))
            new = self._kept(batch, state, log_u, m)
            # The gradient of h: the positive counts as much as all negatives together; as published, in full.
            mass = p.sum(-1, keepdim=True) if self.config.form == "h" else torch.ones_like(tau)[..., None]
        loss, rows = reduce_rows(-mass * pos, (p * neg).sum(-1), batch.pos_weight)
        return ObjectiveResult(loss, rows, {"mean_temperature": (batch.row_weight * tau).sum(-1)}), new

    def _kept(self, batch: Contrast, state: State, log_u: Tensor, m: Tensor) -> State:
        """The new state: rows of one anchor enter as their mean; anchors without a row of weight > 0 keep theirs."""
        w = batch.row_weight.double()
        if batch.ids is not None:
            keys, size = batch.ids, state["m"].shape[1]
            peak = _by_key(torch.where(w > 0, log_u, -torch.inf), keys, size, "amax")
            shift = torch.where(peak > -torch.inf, peak, 0.0)
            above = torch.where(w > 0, log_u - shift.gather(1, keys), -torch.inf).exp()
            total = _by_key(w, keys, size, "sum")
            safe = torch.where(total > 0, total, 1.0)
            log_u = shift + (_by_key(w * above, keys, size, "sum") / safe).log()
            m, w = _by_key(w * m, keys, size, "sum") / safe, total
        m = torch.where(w > 0, m, state["m"])
        tau = (state["tau"] - self.config.eta * m).clamp(self.config.tau_min, self.config.tau_max)
        seen = {"log_u": log_u, "tau": tau, "m": m}
        return {name: torch.where(w > 0, seen[name], state[name]) for name in state}


def _taken(table: Tensor, ids: Tensor | None) -> Tensor:
    """(H, anchors) -> (H, N) of the anchors in the batch."""
    return table if ids is None else table.gather(1, ids)


def _mean_positive(pos: Tensor, weight: Tensor) -> Tensor:
    """s+ (H, N) float64, the mean over an anchor's positives by their weights; 0 for rows without weight."""
    w = weight.double()
    return (w * pos.double()).sum(-1) / torch.where(w.sum(-1) > 0, w.sum(-1), 1.0)


def _by_key(values: Tensor, keys: Tensor, size: int, how: str) -> Tensor:
    """Sum or largest of the values (H, N) of each key 0..size-1 -> (H, size): 0 or -inf for keys without any.

    On CUDA the sums have no fixed order: resuming to the bit needs torch.use_deterministic_algorithms there.
    """
    start = torch.full((len(values), size), -torch.inf if how == "amax" else 0.0, dtype=values.dtype)
    return start.to(values.device).scatter_reduce(1, keys, values, how)
