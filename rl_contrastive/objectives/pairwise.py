"""Losses of pairs of views: each embedding picks its partner among the other embeddings of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from rl_contrastive.config import Gt, check_ranges
from rl_contrastive.objectives.base import ObjectiveResult, State
from rl_contrastive.objectives.views import ViewObjective, Views, unit, weighted_rows
from rl_contrastive.registry import register


@dataclass(frozen=True)
class NTXentConfig:
    """Cosine similarities and their temperature."""

    temperature: Annotated[float, Gt(0)] = 0.1
    """tau: similarities are divided by it."""

    def __post_init__(self) -> None:
        check_ranges(self, "nt-xent")


@register("view-objective", "nt-xent", NTXentConfig)
class NTXent(ViewObjective):
    """NT-Xent: cross-entropy of the partner among the 2B - 1 other embeddings (Chen et al. 2020, SimCLR, eq. (1)).

    For views l != m: -S_li,mi + log sum_{(k,j) != (l,i)} exp S_li,kj over k in {l, m}, S = cosine / tau; mean over
    ordered pairs of views.
    """

    def __init__(self, config: NTXentConfig | None = None) -> None:
        self.config = config or NTXentConfig()

    def loss(self, views: Views, state: State) -> tuple[ObjectiveResult, State]:
        z, log_m = unit(views.z), views.log_count
        V, N, _ = views.size
        S = torch.einsum("...lid,...mjd->...lmij", z, z) / self.config.temperature  # (..., V, V, N, N)
        eye = torch.eye(N, dtype=torch.bool, device=z.device)
        S_same = torch.diagonal(S, dim1=-4, dim2=-3).movedim(-1, -3)  # (..., V, N, N)
        log_m = log_m[..., None, None, :]
        within = torch.logsumexp((S_same + log_m).masked_fill(eye, -torch.inf), dim=-1)  # (..., V, N)
        across = torch.logsumexp(S + log_m.unsqueeze(-3), dim=-1)  # (..., V, V, N)
        rows = torch.logaddexp(across, within.unsqueeze(-2)) - torch.diagonal(S, dim1=-2, dim2=-1)
        other = ~torch.eye(V, dtype=torch.bool, device=z.device)
        return weighted_rows(rows[..., other, :].mean(-2), views.anchor_weight), state
