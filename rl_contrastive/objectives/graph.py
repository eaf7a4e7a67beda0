"""LightGCL: a table of counts and its low-rank part are two views of one graph, and each node should agree with itself.

    N = R / sqrt(d_u d_i),   G = U_q S_q V_q' of N's singular values,   layers l = 1..L, E_0 trained
    main:  E_u,l = N E_i,l-1,   E_i,l = N' E_u,l-1           (no nonlinearity)
    view:  G_u,l = G E_i,l-1,   G_i,l = G' E_u,l-1           (of the main embeddings)
    L_s = mean_i [-clamp(G_i.E_i/tau, -5, 5) + log sum_j exp(G_i.E_j/tau)] on sums over the layers, for both sides

With R = counts of (s,a) x s', G is the low-rank part of the counts that the closed form `spectral` takes too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from rl_contrastive.config import Ge, In, Options, config_or, require
from rl_contrastive.objectives.base import ObjectiveResult, State
from rl_contrastive.objectives.views import ViewObjective, Views, weighted_rows
from rl_contrastive.registry import register

CLAMP = 5.0
"""A node's score with itself counts up to here: beyond, only its score with others is lowered."""


@dataclass(frozen=True)
class LightGCLConfig(Options, where="lightgcl"):
    """The loss of one side."""

    temperature: Annotated[float, In(1e-4, 1e4)] = 0.2
    """tau: products, of vectors of any length, are divided by it."""


@register("view-objective", "lightgcl", LightGCLConfig)
class LightGCL(ViewObjective):
    """-clamp(G_i.E_i/tau, -5, 5) + log sum_j exp(G_i.E_j/tau): a node and its low-rank view (Cai et al. 2023).

    z (..., 2, N, d): G, then E, not normalised; every node is a candidate for every other, itself too.
    """

    def __init__(self, config: LightGCLConfig | None = None) -> None:
        self.config = config_or(config, LightGCLConfig)

    def loss(self, views: Views, state: State) -> tuple[ObjectiveResult, State]:
        require(views.size[0] == 2, f"LightGCL: needs 2 views G and E, got {views.size[0]}.")
        G, E = views.z.unbind(-3)
        rows = agreement(G, E, E, views.log_count, temperature=self.config.temperature)
        return weighted_rows(rows, views.anchor_weight), state


def agreement(
    G: Tensor, E: Tensor, candidates: Tensor, log_count: Tensor | None = None, *, temperature: float
) -> Tensor:
    """-clamp(G_i.E_i/tau) + log sum_j m_j exp(G_i.C_j/tau) of G, E (..., N, d), C (..., M, d) -> (..., N)."""
    own = (G * E).sum(-1) / temperature
    scores = torch.einsum("...id,...jd->...ij", G, candidates) / temperature
    scores = scores if log_count is None else scores + log_count.unsqueeze(-2)
    return torch.logsumexp(scores, dim=-1) - own.clamp(-CLAMP, CLAMP)


def both_sides(graph: Layers, rows: Tensor, columns: Tensor, *, temperature: float = 0.2) -> Tensor:
    """L_s of a batch, mean over its rows plus mean over its columns (Cai et al. 2023); all nodes are candidates."""
    total = torch.zeros((), dtype=graph.E_u.dtype)
    for G, E, index in ((graph.G_u, graph.E_u, rows), (graph.G_i, graph.E_i, columns)):
        inside = index.ndim == 1 and len(index) > 0 and bool(index.min() >= 0 and index.max() < len(E))
        require(inside, f"lightgcl: a batch must list nodes in 0..{len(E) - 1}.")
        total = total + agreement(G[index], E[index], E, temperature=temperature).mean()
    return total


@dataclass(frozen=True)
class Layers:
    """Sums over the layers: main E_u (n, d), E_i (m, d) and view G_u, G_i."""

    E_u: Tensor
    E_i: Tensor
    G_u: Tensor
    G_i: Tensor


def normalised(counts: Tensor, name: str = "lightgcl") -> Tensor:
    """N = R / sqrt(d_u d_i) (n, m) of counts R >= 0; a node without edges has a row of 0."""
    require(counts.ndim == 2, f"{name}: counts must have shape (n, m), got {tuple(counts.shape)}.")
    good = counts.dtype.is_floating_point and bool(torch.isfinite(counts).all()) and bool((counts >= 0).all())
    require(good, f"{name}: counts must be finite floats >= 0.")
    scale = torch.outer(counts.sum(1), counts.sum(0)).sqrt()
    return torch.where(scale > 0, counts / scale.clamp_min(torch.finfo(scale.dtype).tiny), torch.zeros_like(counts))


@dataclass(frozen=True)
class SVDViewConfig(Options, where="svd view"):
    """The low-rank view."""

    rank: Annotated[int, Ge(1)] = 5
    """q."""


class SVDView:
    """counts (n, m) -> G = U_q S_q V_q', the rank-q part of N = R / sqrt(d_u d_i) (Cai et al. 2023, LightGCL)."""

    def __init__(self, config: SVDViewConfig | None = None) -> None:
        self.config = config_or(config, SVDViewConfig)

    def __call__(self, counts: Tensor) -> Tensor:
        left, right = self.factors(counts)
        return left @ right

    def factors(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """U_q S_q (n, q) and V_q' (q, m); exact, so that no seed is needed."""
        q, N = self.config.rank, normalised(counts, "svd view")
        require(q <= min(N.shape), f"svd view: rank must be at most {min(N.shape)}, got {q}.")
        U, S, Vt = torch.linalg.svd(N, full_matrices=False)
        return U[:, :q] * S[:q], Vt[:q]


def propagate(N: Tensor, view: tuple[Tensor, Tensor], E_u: Tensor, E_i: Tensor, *, layers: int = 2) -> Layers:
    """Sums over layers 0..L of the main embeddings and of their view (Cai et al. 2023).

    N (n, m); view = factors (n, q), (q, m) of G; E_u (n, d), E_i (m, d). Layer 0 of the view is that of the main side.
    """
    require(layers >= 0, f"lightgcl: layers must be >= 0, got {layers}.")
    n, m = N.shape
    fits = E_u.shape[0] == n and E_i.shape[0] == m and E_u.shape[1:] == E_i.shape[1:]
    require(fits, f"lightgcl: embeddings {tuple(E_u.shape)}, {tuple(E_i.shape)} do not fit counts {(n, m)}.")
    left, right = view
    sums = Layers(E_u, E_i, E_u, E_i)
    for _ in range(layers):
        G_u, G_i = left @ (right @ E_i), right.T @ (left.T @ E_u)
        E_u, E_i = N @ E_i, N.T @ E_u
        sums = Layers(sums.E_u + E_u, sums.E_i + E_i, sums.G_u + G_u, sums.G_i + G_i)
    return sums


def drop_edges(counts: Tensor, share: float, *, rng: torch.Generator) -> Tensor:
    """Counts with each entry set to 0 with probability `share`: the random view to compare the low-rank one to."""
    require(0.0 <= share < 1.0, f"lightgcl: the share of dropped edges must lie in [0, 1), got {share}.")
    return counts * (torch.rand(counts.shape, generator=rng, device=counts.device) >= share)
