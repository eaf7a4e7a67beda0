"""Losses of pairs that depend on the log-ratios h_w of the chosen and h_l of the rejected completion alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor, nn

from rl_contrastive.config import Ge, In, Options, require
from rl_contrastive.preferences.base import (
    LEAST_BETA,
    MOST_BETA,
    Completions,
    PairObjective,
    Pairs,
    PreferenceResult,
    Reduce,
    State,
    mean_rows,
    own_config,
)
from rl_contrastive.registry import register


def margins(pairs: Pairs, reduce: Reduce = "sum") -> Tensor:
    """(..., P): h_w - h_l."""
    return pairs.chosen.h(reduce) - pairs.rejected.h(reduce)


def dpo_rows(margin: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """-(1 - eps) log sigma(beta m) - eps log sigma(-beta m) of margins m, eps = smoothing."""
    rows = -nn.functional.logsigmoid(beta * margin)
    return rows if smoothing == 0 else (1 - smoothing) * rows - smoothing * nn.functional.logsigmoid(-beta * margin)


def ipo_rows(margin: Tensor, beta: float) -> Tensor:
    """(m - 1/(2 beta))^2 of margins m."""
    return (margin - 0.5 / beta).square()


def diagnose(pairs: Pairs, margin: Tensor) -> dict[str, Tensor]:
    """Share of pairs ordered rightly by the implied reward, and the mean log-probability of either side."""
    return {
        "accuracy": (margin.detach() > 0).to(margin.dtype).mean(-1),
        "log_prob_chosen": pairs.chosen.log_prob().detach().mean(-1),
        "log_prob_rejected": pairs.rejected.log_prob().detach().mean(-1),
    }


@dataclass(frozen=True)
class DPOConfig(Options, where="dpo"):
    """The strength of the regulariser that the loss stands for."""

    beta: Annotated[float, In(LEAST_BETA, MOST_BETA)] = 0.1
    """beta: the optimum is pi_ref exp(R/beta), up to a constant by start."""


@register("pair-objective", "dpo", DPOConfig)
class DPO(PairObjective):
    """DPO: -log sigma(beta (h_w - h_l)) (Rafailov et al. 2023, eq. (7)).

    With full coverage and Bradley-Terry labels of reward R its minimiser is pi_ref exp(R/beta) / Z.
    """

    def __init__(self, config: DPOConfig | None = None) -> None:
        self.config = own_config(self, config, DPOConfig)

    def loss(self, pairs: Pairs, state: State) -> tuple[PreferenceResult, State]:
        m = margins(pairs)
        return mean_rows(dpo_rows(m, self.config.beta), m, pairs.weight, diagnose(pairs, m)), state


@dataclass(frozen=True)
class CDPOConfig(DPOConfig, where="cdpo"):
    """DPO and the share of labels that are taken to be wrong."""

    smoothing: Annotated[float, In(0, 0.5, below=True)] = 0.1
    """eps: the probability that a label is flipped."""


@register("pair-objective", "cdpo", CDPOConfig)
class CDPO(PairObjective):
    """Conservative DPO: -(1 - eps) log sigma(beta m) - eps log sigma(-beta m), m = h_w - h_l (Mitchell 2023).

    Labels that are always the same no longer drive m to infinity: it ends at log((1 - eps)/eps)/beta.
    """

    def __init__(self, config: CDPOConfig | None = None) -> None:
        self.config = own_config(self, config, CDPOConfig)

    def loss(self, pairs: Pairs, state: State) -> tuple[PreferenceResult, State]:
        m = margins(pairs)
        rows = dpo_rows(m, self.config.beta, self.config.smoothing)
        return mean_rows(rows, m, pairs.weight, diagnose(pairs, m)), state


@dataclass(frozen=True)
class IPOConfig(DPOConfig, where="ipo"):
    """The target of the margin, and what a margin is."""

    reduce: Literal["sum", "mean"] = "sum"
    """h is the sum over steps, as in the paper, or the mean by step, as TRL takes it."""


@register("pair-objective", "ipo", IPOConfig)
class IPO(PairObjective):
    """IPO: (h_w - h_l - 1/(2 beta))^2 (Azar et al. 2023, eq. (17)).

    Its minimiser solves max E[p(y beats mu)] - beta KL(pi || pi_ref), so certain labels do not overfit.
    """

    def __init__(self, config: IPOConfig | None = None) -> None:
        self.config = own_config(self, config, IPOConfig)

    def loss(self, pairs: Pairs, state: State) -> tuple[PreferenceResult, State]:
        m = margins(pairs, self.config.reduce)
        return mean_rows(ipo_rows(m, self.config.beta), m, pairs.weight, diagnose(pairs, m)), state


@dataclass(frozen=True)
class RPOConfig(DPOConfig, where="rpo"):
    """DPO and the weight of the likelihood. Published: eta .005 with "sum"; eta .2 and beta .5 with "mean"."""

    eta: Annotated[float, Ge(0)] = 0.005
    """eta: weight of the chosen completions' negative log-likelihood."""
    form: Literal["sum", "mean"] = "sum"
    """sum: DPO - beta eta log pi(y_w), a sum over steps; mean: DPO - eta times its mean by step."""


@register("pair-objective", "rpo", RPOConfig)
class RPO(PairObjective):
    """RPO: DPO plus the likelihood of the chosen completion (Liu et al. 2024, eq. (4.6)), in two published forms.

    sum:  -log sigma(beta m) - beta eta log pi(y_w)
    mean: -log sigma(beta m) - eta log pi(y_w) / T
    """

    def __init__(self, config: RPOConfig | None = None) -> None:
        self.config = own_config(self, config, RPOConfig)

    def loss(self, pairs: Pairs, state: State) -> tuple[PreferenceResult, State]:
        c, m = self.config, margins(pairs)
        scale = c.beta * c.eta if c.form == "sum" else c.eta
        rows = dpo_rows(m, c.beta) - scale * pairs.chosen.log_prob(c.form)
        return mean_rows(rows, m, pairs.weight, diagnose(pairs, m)), state


def online_kl(y: Completions) -> Tensor:
    """KL(pi || pi_ref) estimated from the policy's own completions (..., B, K, T) -> (...). HyPO's regulariser.

    Its value is the mean of h(y). Its gradient is that of the leave-one-out estimator
        mean_k (h_k - mean_{j != k} h_j) grad log pi(y_k),
    since grad KL(pi || pi_ref) = E_{y ~ pi}[h(y) grad log pi(y)] and a baseline leaves this mean as it is.
    """
    shape = tuple(y.logp.shape)
    good = len(shape) >= 3 and shape[-2] >= 2
    require(good, f"online_kl: needs K >= 2 completions (..., B, K, T) of each start, got {shape}.")
    h = y.h().detach()  # (..., B, K)
    K = h.shape[-1]
    others = (h.sum(-1, keepdim=True) - h) / (K - 1)
    surrogate = ((h - others) * y.log_prob()).mean((-1, -2))
    return h.mean((-1, -2)) + surrogate - surrogate.detach()


@dataclass(frozen=True)
class HyPOConfig(DPOConfig, where="hypo"):
    """DPO and the weight of the divergence on the policy's own completions."""

    kl_weight: Annotated[float, Ge(0)] = 0.05
    """lambda: weight of KL(pi || pi_ref)."""


@register("pair-objective", "hypo", HyPOConfig)
class HyPO(PairObjective):
    """HyPO: DPO on offline pairs + lambda KL(pi || pi_ref) on the policy's own completions (Song et al. 2024).

    Two other papers use the name: Hybrid-DPO (arXiv 2602.11902) and HPO (arXiv 2405.17956). They are not meant here.
    """

    needs = frozenset({"online"})

    def __init__(self, config: HyPOConfig | None = None) -> None:
        self.config = own_config(self, config, HyPOConfig)

    def loss(self, pairs: Pairs, state: State) -> tuple[PreferenceResult, State]:
        assert pairs.online is not None
        m = margins(pairs)
        offline = mean_rows(dpo_rows(m, self.config.beta), m, pairs.weight, diagnose(pairs, m))
        kl = online_kl(pairs.online)
        told = {**offline.diagnostics, "kl": kl.detach()}
        return PreferenceResult(offline.loss + self.config.kl_weight * kl, offline.rows, m, told), state
