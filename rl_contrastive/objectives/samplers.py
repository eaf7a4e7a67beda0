"""Which others of the data become positives or negatives, and SimCTG, a loss that spreads the states of one sequence.

    PropensitySampler   positives sim/e of the top k, hard negatives (1 - sim) e: undoes a bias to what looks alike
    SemanticNeighbours  the N nearest by a frozen embedding, with learned attention weights
    HardTopK            the k nearest others
Each is called with instances (B,) and a generator, and gives partners (B, m) with weights (B, m).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.config import MOST_DRAWN, MOST_WIDTH, Ge, In, Options, config_or, require
from rl_contrastive.objectives.base import ObjectiveResult
from rl_contrastive.objectives.base import State as LossState
from rl_contrastive.objectives.parts import draw_linear, load_weights, require_index, weights
from rl_contrastive.objectives.views import ViewObjective, Views, unit, weighted_rows
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray, IntArray, State


@dataclass(frozen=True)
class PropensityConfig(Options, where="propensity"):
    """Inverse propensity sampling."""

    role: Literal["positive", "negative"] = "positive"
    """positive: weight sim / e; negative: weight (1 - sim) e, alike on the surface and different in meaning."""
    k: Annotated[int, Ge(1)] = 40
    """Candidates: the k most similar others for positives; negatives are drawn from all others."""
    draws: Annotated[int, In(1, MOST_DRAWN)] = 1
    """Partners of each instance, drawn with replacement."""
    power: Annotated[float, In(1e-12, 1e4)] = 3.0
    """e = ((1 + cos of surfaces) / 2)^power."""
    least: Annotated[float, In(0, 1, above=True)] = 1e-3
    """e is raised to this: 1/e of an opposite surface would take all draws."""


class PropensitySampler:
    """Draws positives with weight sim/e or hard negatives with (1 - sim) e (Miao et al. 2023, DebCSE; from memory).

    meaning (n, d): embeddings whose cosine, as (1 + cos)/2, is sim in [0, 1]; surface (n, d'): what the simple rule
    looks at, e its propensity. All draws weigh alike: 1/draws.
    """

    def __init__(self, meaning: FloatArray, surface: FloatArray, config: PropensityConfig | None = None) -> None:
        self.config = config_or(config, PropensityConfig)
        self.meaning, self.surface = _directions("propensity", meaning), _directions("propensity", surface)
        n = len(self.meaning)
        require(len(self.surface) == n, f"propensity: {n} meanings, but {len(self.surface)} surfaces.")
        require(n >= 2, f"propensity: needs at least 2 instances, got {n}.")
        allowed = self.config.role == "negative" or self.config.k <= n - 1
        require(allowed, f"propensity: k must be at most the {n - 1} others, got {self.config.k}.")

    def law(self, index: IntArray) -> FloatArray:
        """(B, n) probabilities of the partners of `index` (B,)."""
        require_index("propensity", index, len(self.meaning))
        similar = np.clip((1.0 + self.meaning[index] @ self.meaning.T) / 2.0, 0.0, 1.0)
        alike = np.clip((1.0 + self.surface[index] @ self.surface.T) / 2.0, 0.0, 1.0)
        e = np.maximum(alike**self.config.power, self.config.least)
        mass = similar / e if self.config.role == "positive" else (1.0 - similar) * e
        others = np.arange(len(self.meaning)) != index[:, None]
        if self.config.role == "positive":
            top = _top(np.where(others, similar, -1.0), self.config.k)
            others = np.zeros_like(others)
            np.put_along_axis(others, top, True, axis=1)
        mass = np.where(others, mass, 0.0)
        total = mass.sum(axis=1, keepdims=True)
        # Copies of one meaning leave no hard negative, and only opposites no positive: then all candidates are alike.
        return np.asarray(np.where(total > 0, mass, others) / np.where(total > 0, total, others.sum(1, keepdims=True)))

    def __call__(self, index: IntArray, rng: np.random.Generator) -> tuple[IntArray, FloatArray]:
        cdf = np.cumsum(self.law(index), axis=1)
        u = rng.random((len(index), self.config.draws)) * cdf[:, -1:]
        u = np.minimum(u, np.nextafter(cdf[:, -1:], 0.0))  # rounding may reach the sum itself, beyond all entries
        # The first entry whose sum exceeds u: an entry of probability 0 never is.
        drawn = [np.searchsorted(c, row, side="right") for c, row in zip(cdf, u, strict=True)]
        shape = (len(index), self.config.draws)
        return np.array(drawn, dtype=np.int64).reshape(shape), np.full(shape, 1.0 / self.config.draws)


@dataclass(frozen=True)
class HardTopKConfig(Options, where="hard top-k"):
    """Hard neighbours."""

    k: Annotated[int, Ge(1)] = 10
    """Neighbours of each instance."""


class HardTopK:
    """The k others of greatest cosine, the nearest first, with weight 1/k each: features (n, d); nothing is drawn."""

    def __init__(self, features: FloatArray, config: HardTopKConfig | None = None, *, name: str = "hard top-k") -> None:
        """name: of the sampler in sentences, where it is part of another."""
        self.name = name
        self.config, self.features = config_or(config, HardTopKConfig), _directions(name, features)
        n = len(self.features)
        require(self.config.k <= n - 1, f"{name}: k must be at most the {n - 1} others, got {self.config.k}.")

    def __call__(self, index: IntArray, rng: np.random.Generator | None = None) -> tuple[IntArray, FloatArray]:
        require_index(self.name, index, len(self.features))
        cosine = self.features[index] @ self.features.T
        cosine[np.arange(len(index)), index] = -np.inf
        top = _top(cosine, self.config.k)
        return top, np.full(top.shape, 1.0 / self.config.k)


@dataclass(frozen=True)
class SemanticConfig(Options, where="semantic"):
    """Retrieval with attention."""

    neighbours: Annotated[int, Ge(1)] = 10
    """N, semantic neighbours of an instance."""
    width: Annotated[int, In(1, MOST_WIDTH)] = 64
    """Rows of W."""
    dropout: Annotated[float, In(0, 1, below=True)] = 0.5
    """Share of the attention weights set to 0 in training; the others grow by 1/(1 - share), not to sum 1."""


class SemanticNeighbours:
    """softmax_v LeakyReLU_.2(a'[W e_u, W e_v]) over the N semantic neighbours v of u (Cui et al. 2025, SRA-CL).

    e (n, d): frozen embeddings of meaning. Weights (B, N) carry the gradient of W and a; the positive of u is the
    weighted sum of its neighbours' encodings (`mixed`).
    """

    def __init__(self, semantic: FloatArray, config: SemanticConfig | None = None, *, rng: torch.Generator) -> None:
        self.config = config_or(config, SemanticConfig)
        self.semantic = torch.as_tensor(np.array(semantic, dtype=np.float32))
        self.nearest = HardTopK(semantic, HardTopKConfig(self.config.neighbours), name="semantic")
        W = nn.Linear(self.semantic.shape[1], self.config.width, bias=False)
        a = nn.Linear(2 * self.config.width, 1, bias=False)
        self.nets = nn.ModuleList([draw_linear(W, rng=rng), draw_linear(a, rng=rng)])

    def parameters(self) -> list[nn.Parameter]:
        """W and a, which the encoder's optimiser trains."""
        return list(self.nets.parameters())

    def __call__(self, index: IntArray, rng: np.random.Generator, *, training: bool = True) -> tuple[IntArray, Tensor]:
        found, _ = self.nearest(index)
        W, a = self.nets
        own = W(self.semantic[torch.from_numpy(index)]).unsqueeze(1).expand(-1, found.shape[1], -1)
        other = W(self.semantic[torch.from_numpy(found)])  # (B, N, width)
        score = nn.functional.leaky_relu(a(torch.cat([own, other], dim=-1)).squeeze(-1), 0.2)
        weight = torch.softmax(score, dim=1)  # (B, N)
        if training and self.config.dropout > 0:
            kept = torch.from_numpy(rng.random(found.shape) >= self.config.dropout)
            weight = weight * kept / (1.0 - self.config.dropout)
        return found, weight

    def state_dict(self) -> State:
        """W and a."""
        return weights(self.nets)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; RlcError on missing keys or other shapes."""
        load_weights(self.nets, state, "semantic")


def mixed(encodings: Tensor, weight: Tensor) -> Tensor:
    """sum_v w_uv z_v: encodings (B, N, d), weight (B, N) -> positives (B, d)."""
    fits = encodings.ndim == 3 and encodings.shape[:2] == weight.shape
    require(fits, f"semantic: encodings {tuple(encodings.shape)} do not fit weights {tuple(weight.shape)}.")
    return torch.einsum("bnd,bn->bd", encodings, weight.to(encodings))


@dataclass(frozen=True)
class SimCTGConfig(Options, where="simctg"):
    """The margin."""

    margin: Annotated[float, In(0, 2)] = 0.5
    """rho: cosines above 1 - rho cost something."""


@register("view-objective", "simctg", SimCTGConfig)
class SimCTG(ViewObjective):
    """mean over i != j of relu(rho - 1 + cos(h_i,h_j)): states of one sequence apart (Su et al. 2022, SimCTG).

    z (..., V, N, d): N positions of a sequence; sequences are leading axes, of several views each is judged by itself.
    """

    least_views = 1

    def __init__(self, config: SimCTGConfig | None = None) -> None:
        self.config = config_or(config, SimCTGConfig)

    def loss(self, views: Views, state: LossState) -> tuple[ObjectiveResult, LossState]:
        z, m = unit(views.z), views.log_count.exp()[..., None, None, :]  # (..., 1, 1, N)
        terms = (self.config.margin - 1.0 + torch.einsum("...id,...jd->...ij", z, z)).relu()  # (..., V, N, N)
        m = m * ~torch.eye(z.shape[-2], dtype=torch.bool, device=z.device)
        rows = (m * terms).sum(-1) / m.sum(-1)
        return weighted_rows(rows.mean(-2), views.anchor_weight), state


def _directions(name: str, x: FloatArray) -> FloatArray:
    """Rows of length 1 (a zero row stays) of x (n, d), checked."""
    x = np.asarray(x, dtype=np.float64)
    require(x.ndim == 2, f"{name}: embeddings must have shape (n, d), got {x.shape}.")
    require(bool(np.isfinite(x).all()), f"{name}: embeddings hold NaN or infinite numbers.")
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def _top(scores: FloatArray, k: int) -> IntArray:
    """(B, k) columns of the greatest scores (B, n), the greatest first, the first of equals first."""
    return np.asarray(np.argsort(-scores, axis=1, kind="stable")[:, :k], dtype=np.int64)
