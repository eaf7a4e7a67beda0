"""Losses of pairs of views: each embedding picks its partner among the other embeddings of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from rl_contrastive.config import In, Options, config_or
from rl_contrastive.objectives.base import ObjectiveResult, State
from rl_contrastive.objectives.views import ViewObjective, Views, unit, weighted_rows
from rl_contrastive.registry import register


@dataclass(frozen=True)
class NTXentConfig(Options, where="nt-xent"):
    """Cosine similarities, their temperature, and which negatives count."""

    temperature: Annotated[float, In(1e-4, 1e4)] = 0.1
    """tau: similarities are divided by it."""
    hard: Annotated[float, In(0, 1, above=True)] = 1.0
    """alpha: a row keeps the negatives above its upper alpha-quantile, the share alpha most similar; 1 keeps all."""


@register("view-objective", "nt-xent", NTXentConfig)
class NTXent(ViewObjective):
    """NT-Xent: cross-entropy of the partner among the 2B - 1 other embeddings (Chen et al. 2020, SimCLR, eq. (1)).

    For views l != m: -S_li,mi + log sum_{(k,j) != (l,i)} exp S_li,kj over k in {l, m}, S = cosine / tau; mean over
    ordered pairs of views. `hard` < 1 is the hard loss of Wang & Liu 2021, where only negatives with
    S_li,kj >= the row's upper alpha-quantile enter the sum.
    """

    def __init__(self, config: NTXentConfig | None = None) -> None:
        self.config = config_or(config, NTXentConfig)

    def loss(self, views: Views, state: State) -> tuple[ObjectiveResult, State]:
        log_m, alpha = views.log_count, self.config.hard
        S = cosines(views.z) / self.config.temperature  # (..., V, V, N, N)
        partner = partners(S)  # (..., V, V, N)
        candidates = _negatives(S, log_m)
        if alpha < 1:
            candidates = candidates.masked_fill(~_hardest(S, log_m, alpha), -torch.inf)
        rest = torch.logsumexp(candidates, dim=-1)  # (..., V, V, N)
        rows = torch.logaddexp(partner + log_m[..., None, None, :], rest) - partner
        return weighted_rows(_mean_of_pairs(rows, one_way=False), views.anchor_weight), state


@dataclass(frozen=True)
class DCLConfig(Options, where="dcl"):
    """Cosine similarities, their temperature, and which view is the anchor."""

    temperature: Annotated[float, In(1e-4, 1e4)] = 0.1
    """tau: similarities are divided by it."""
    one_way: bool = False
    """Only the earlier view of a pair is the anchor; else both are, in turn."""


@register("view-objective", "dcl", DCLConfig)
class DCL(ViewObjective):
    """DCL: -S_li,mi + log sum_{j != i} exp S_li,kj over k in {l, m}, no positive in the sum (Yeh et al. 2022).

    S = cosine / tau; mean over ordered pairs of views l != m. The published code adds the two directions, which is
    twice this mean.
    """

    def __init__(self, config: DCLConfig | None = None) -> None:
        self.config = config_or(config, DCLConfig)

    def loss(self, views: Views, state: State) -> tuple[ObjectiveResult, State]:
        S = cosines(views.z) / self.config.temperature  # (..., V, V, N, N)
        rest = torch.logsumexp(_negatives(S, views.log_count), dim=-1)  # (..., V, V, N)
        rows = _mean_of_pairs(rest - self._attraction(S, views), self.config.one_way)
        return weighted_rows(rows, views.anchor_weight), state

    def _attraction(self, S: Tensor, views: Views) -> Tensor:
        """(..., V, V, N): what pulls the partners together."""
        del views
        return partners(S)


@dataclass(frozen=True)
class DCLWConfig(DCLConfig, where="dclw"):
    """DCL and the sharpness of its weights."""

    sigma: Annotated[float, In(1e-4, 1e4)] = 0.5
    """Temperature of the weights, of cosines."""


@register("view-objective", "dclw", DCLWConfig)
class DCLW(DCL):
    """DCLW: DCL with the positive term times 2 - B softmax_i(cos_li,mi / sigma) (Yeh et al. 2022).

    The softmax is over the instances of the batch, so partners that already agree are pulled less; gradients flow
    through it.
    """

    config: DCLWConfig

    def __init__(self, config: DCLWConfig | None = None) -> None:
        super().__init__(config_or(config, DCLWConfig))

    def _attraction(self, S: Tensor, views: Views) -> Tensor:
        w = views.anchor_weight[..., None, None, :]
        partner = partners(S)
        share = torch.softmax(partner * self.config.temperature / self.config.sigma + w.log(), dim=-1)
        # Padding has share 0; dividing it by 1 in place of w = 0 keeps its gradient finite.
        return (2.0 - share / torch.where(w > 0, w, torch.ones_like(w))) * partner


def cosines(z: Tensor) -> Tensor:
    """Cosine of embedding i in view l with j in view m: (..., V, N, d) -> (..., V, V, N, N), axes l, m, i, j."""
    z = unit(z)
    return torch.einsum("...lid,...mjd->...lmij", z, z)


def partners(S: Tensor) -> Tensor:
    """The scores of two views of one instance: (..., V, V, N, N) -> (..., V, V, N)."""
    return torch.diagonal(S, dim1=-2, dim2=-1)


def own_view(S: Tensor) -> Tensor:
    """The scores within a view: (..., V, V, N, N) -> (..., V, N, N)."""
    return torch.diagonal(S, dim1=-4, dim2=-3).movedim(-1, -3)


def _pair_scores(S: Tensor) -> Tensor:
    """(..., V, V, N, 2N): scores of the anchor with its own view, then with its partner's."""
    return torch.cat([own_view(S).unsqueeze(-3).expand_as(S), S], dim=-1)


def _twice(log_m: Tensor) -> Tensor:
    """(..., N) -> (..., 1, 1, 1, 2N)."""
    return torch.cat([log_m, log_m], dim=-1)[..., None, None, None, :]


def _same(S: Tensor) -> Tensor:
    """(N, 2N): the anchor itself and its partner, which are no negatives."""
    return torch.eye(S.shape[-1], dtype=torch.bool, device=S.device).repeat(1, 2)


def _negatives(S: Tensor, log_m: Tensor) -> Tensor:
    """(..., V, V, N, 2N): scores of the negatives plus log m, -inf where there is none."""
    return (_pair_scores(S) + _twice(log_m)).masked_fill(_same(S), -torch.inf)


def _hardest(S: Tensor, log_m: Tensor, alpha: float) -> Tensor:
    """(..., V, V, N, 2N): scores at or above the upper alpha-quantile of the row's negatives, j counted m_j times."""
    scores = _pair_scores(S).detach()
    m = _twice(log_m).exp().expand_as(scores).masked_fill(_same(S), 0.0)
    ordered, order = scores.sort(dim=-1, descending=True)
    reached = m.gather(-1, order).cumsum(dim=-1)
    # The margin is for rounding: half of 4 negatives of weight 1 is 2 of them.
    enough = reached >= alpha * reached[..., -1:] * (1.0 - 1e-6)
    least = ordered.gather(-1, enough.to(torch.int8).argmax(dim=-1, keepdim=True))
    return scores >= least


def _mean_of_pairs(rows: Tensor, one_way: bool) -> Tensor:
    """(..., V, V, N) -> (..., N): mean over pairs of views l != m, or l < m."""
    chosen = torch.ones(rows.shape[-3], rows.shape[-2], dtype=torch.bool, device=rows.device)
    chosen = chosen.triu(1) if one_way else chosen.triu(1) | chosen.tril(-1)
    return rows[..., chosen, :].mean(-2)
