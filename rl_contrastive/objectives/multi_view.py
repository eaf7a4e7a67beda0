"""Losses of V >= 2 views at once: MV-InfoNCE, MV-DHEL and contrastive attraction and repulsion (CACR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from rl_contrastive.config import In, Options, config_or
from rl_contrastive.objectives.base import ObjectiveResult, State
from rl_contrastive.objectives.pairwise import cosines, own_view, partners
from rl_contrastive.objectives.views import ViewObjective, Views, unit, weighted_rows
from rl_contrastive.registry import register


@dataclass(frozen=True)
class MVInfoNCEConfig(Options, where="mv-infonce"):
    """Cosine similarities and their temperature."""

    temperature: Annotated[float, In(1e-4, 1e4)] = 1.0
    """tau: similarities are divided by it."""


@register("view-objective", "mv-infonce", MVInfoNCEConfig)
class MVInfoNCE(ViewObjective):
    """MV-InfoNCE: -log 2 sum_{l<m} e^{S_li,mi} / sum_l sum_{(m,j) != (l,i)} e^{S_li,mj} (Koromilas et al. 2025).

    S = cosine / tau, one term for each instance i. With V = 2 and D_l the sum of view l's own candidates it is the
    NT-Xent row plus log (D_1 + D_2) / 2 sqrt(D_1 D_2) >= 0.
    """

    def __init__(self, config: MVInfoNCEConfig | None = None) -> None:
        self.config = config_or(config, MVInfoNCEConfig)

    def loss(self, views: Views, state: State) -> tuple[ObjectiveResult, State]:
        V, N, _ = views.size
        S = cosines(views.z) / self.config.temperature  # (..., V, V, N, N)
        same_view = torch.eye(V, dtype=torch.bool, device=S.device)
        positives = partners(S)[..., ~same_view, :]  # (..., V(V-1), N): each pair of views twice
        itself = same_view[:, :, None, None] & torch.eye(N, dtype=torch.bool, device=S.device)
        candidates = (S + views.log_count[..., None, None, None, :]).masked_fill(itself, -torch.inf)
        rows = torch.logsumexp(candidates, dim=(-4, -3, -1)) - torch.logsumexp(positives, dim=-2)
        return weighted_rows(rows, views.anchor_weight), state


@dataclass(frozen=True)
class MVDHELConfig(Options, where="mv-dhel"):
    """Cosine similarities and their temperature."""

    temperature: Annotated[float, In(1e-4, 1e4)] = 0.2
    """tau: similarities are divided by it."""


@register("view-objective", "mv-dhel", MVDHELConfig)
class MVDHEL(ViewObjective):
    """MV-DHEL: -log sum_{l<m} e^{S_li,mi} + sum_l log sum_{j != i} e^{S_li,lj} (Koromilas et al. 2025).

    S = cosine / tau. Negatives come from the anchor's own view, so uniformity is decoupled from alignment.
    """

    def __init__(self, config: MVDHELConfig | None = None) -> None:
        self.config = config_or(config, MVDHELConfig)

    def loss(self, views: Views, state: State) -> tuple[ObjectiveResult, State]:
        V, N, _ = views.size
        S = cosines(views.z) / self.config.temperature  # (..., V, V, N, N)
        pairs = torch.ones(V, V, dtype=torch.bool, device=S.device).triu(1)
        attraction = torch.logsumexp(partners(S)[..., pairs, :], dim=-2)  # (..., N)
        itself = torch.eye(N, dtype=torch.bool, device=S.device)
        negatives = (own_view(S) + views.log_count[..., None, None, :]).masked_fill(itself, -torch.inf)
        # A sum of logarithms: the product of V sums, as published, overflows for a small temperature.
        rows = torch.logsumexp(negatives, dim=-1).sum(-2) - attraction
        return weighted_rows(rows, views.anchor_weight), state


@dataclass(frozen=True)
class CACRConfig(Options, where="cacr"):
    """How far views attract and instances repel each other."""

    t_plus: Annotated[float, In(0, 1e4)] = 1.0
    """t+: the larger, the more the farthest view of an instance is pulled; 0 pulls all alike."""
    t_minus: Annotated[float, In(0, 1e4)] = 1.0
    """t-: the larger, the more the nearest other instance is pushed; 0 pushes all alike."""
    cost: Literal["euclid", "rbf"] = "euclid"
    """Of repulsion: -c, or log E e^{-rbf c} over the anchors."""
    rbf: Annotated[float, In(1e-4, 1e4)] = 2.0
    """Inverse width of the cost `rbf`."""
    uniform: bool = False
    """Equal weights in place of both softmaxes: the control without their mechanism."""


@register("view-objective", "cacr", CACRConfig)
class CACR(ViewObjective):
    """CACR: sum_m softmax_m(t+ c_li,mi) c_li,mi - sum_{j != i} softmax_j(-t- c_li,mj) c_li,mj (Zheng et al. 2023).

    c = |z_li/|z_li| - z_mj/|z_mj||^2. Attraction is the mean over views l of the sum over the others m: the K positives
    of an anchor are its K views. Repulsion is the mean over pairs l < m. Gradients flow through both softmaxes.
    """

    def __init__(self, config: CACRConfig | None = None) -> None:
        self.config = config_or(config, CACRConfig)

    def loss(self, views: Views, state: State) -> tuple[ObjectiveResult, State]:
        z = unit(views.z)
        V, N, _ = views.size
        flat = z.flatten(-3, -2)
        c = square_distances(flat, flat).reshape(*z.shape[:-3], V, N, V, N).transpose(-3, -2)
        rows = self.attraction(partners(c)) + self.repulsion(c, views)
        return weighted_rows(rows, views.anchor_weight), state

    def attraction(self, c: Tensor) -> Tensor:
        """Costs of partners (..., V, V, N) -> (..., N)."""
        same = torch.eye(c.shape[-2], dtype=torch.bool, device=c.device).unsqueeze(-1)
        w = torch.softmax((self._plus * c).masked_fill(same, -torch.inf), dim=-2)  # over m, the other views
        return (w * c).sum(-2).mean(-2)

    def repulsion(self, c: Tensor, views: Views) -> Tensor:
        """Costs (..., V, V, N, N) -> (..., N)."""
        V, N, _ = views.size
        same = torch.eye(N, dtype=torch.bool, device=c.device)
        c = c[..., torch.ones(V, V, dtype=torch.bool, device=c.device).triu(1), :, :]  # (..., V(V-1)/2, N, N)
        log_v = (views.log_count[..., None, None, :] - self._minus * c).masked_fill(same, -torch.inf)
        log_v = torch.log_softmax(log_v, dim=-1)
        if self.config.cost == "euclid":
            return -(log_v.exp() * c).sum(-1).mean(-2)
        log_w = views.anchor_weight.log()[..., None, :]
        row = torch.logsumexp(log_v - self.config.rbf * c, dim=-1)  # (..., V(V-1)/2, N)
        return torch.logsumexp(row + log_w, dim=-1).mean(-1, keepdim=True).expand_as(views.anchor_weight)

    @property
    def _plus(self) -> float:
        return 0.0 if self.config.uniform else self.config.t_plus

    @property
    def _minus(self) -> float:
        return 0.0 if self.config.uniform else self.config.t_minus


def square_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 of (..., N, d) and (..., M, d) -> (..., N, M); the common centre is taken off for precision."""
    centre = a.detach().mean(-2, keepdim=True)
    a, b = a - centre, b - centre
    return a.square().sum(-1).unsqueeze(-1) + b.square().sum(-1).unsqueeze(-2) - 2.0 * (a @ b.mT)
