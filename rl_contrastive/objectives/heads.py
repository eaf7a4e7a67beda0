"""Heads between encoder and loss, in training only: whitening that stops collapse, a gate that depends on two classes.

Shuffled group whitening: permute the d channels, cut them into G groups, whiten each by C^-1/2 of the batch (ZCA), undo
the permutation. Differently shuffled copies are views of one another. With a gradient through C^-1/2 an alignment loss
alone does not collapse; the published code has none there (it wraps the covariance as a new tensor) and does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from rl_contrastive.config import MOST_WIDTH, Ge, In, Options, config_or, require
from rl_contrastive.device import copied
from rl_contrastive.objectives.parts import draw_linear, load_weights, require_batch, saved, weights
from rl_contrastive.spec import State


@dataclass(frozen=True)
class WhiteningConfig(Options, where="whitening"):
    """Groups and statistics."""

    groups: Annotated[int, Ge(1)] = 8
    """G, a divisor of d."""
    eps: Annotated[float, In(1e-12, 1e4)] = 1e-5
    """Added to the covariance: fewer rows than channels in a group, or equal ones, leave it singular."""
    through: bool = True
    """Let the gradient pass through C^-1/2; False is the published form."""
    shuffle: bool = True
    """Permute the channels in training."""
    momentum: Annotated[float, In(0, 1, above=True)] = 0.1
    """Share of the newest batch in the statistics used in evaluation."""


class ShuffledWhitening:
    """z (N, d) -> C^-1/2 (z - mean) in each of G groups of shuffled channels (Zhuo et al. 2023, WhitenedCSE).

    Training: statistics of the batch. Evaluation: moving averages, channels in their own order, one row at a time if
    need be. The averages hold the whole covariance (d, d), so that every shuffle's groups are blocks of it.
    """

    def __init__(self, dim: int, config: WhiteningConfig | None = None, *, dtype: torch.dtype = torch.float32) -> None:
        self.config, self.dim = config_or(config, WhiteningConfig), dim
        G = self.config.groups
        require(dim >= 1 and dim % G == 0, f"whitening: d must be a multiple of groups = {G}, got {dim}.")
        self.mean, self.covariance = torch.zeros(dim, dtype=dtype), torch.eye(dim, dtype=dtype)
        self.batches = 0

    def __call__(self, z: Tensor, training: bool, *, rng: torch.Generator | None = None) -> Tensor:
        """One whitened copy. rng: draws the shuffle."""
        require_batch("whitening", z, self.dim, least=2 if training else 1)
        if not training:
            order = torch.arange(self.dim, device=z.device)
            return self._apply(z, self.mean.to(z), self.covariance.to(z), order)
        mean, covariance = moments(z)
        self._follow(mean.detach(), covariance.detach())
        return self._apply(z, mean, covariance, self._order(z, rng))

    def copies(self, z: Tensor, count: int = 3, *, rng: torch.Generator) -> Tensor:
        """(count, N, d): differently shuffled copies in training, views of one another."""
        require(count >= 1, f"whitening: count must be >= 1, got {count}.")
        require_batch("whitening", z, self.dim, least=2)
        mean, covariance = moments(z)
        self._follow(mean.detach(), covariance.detach())
        return torch.stack([self._apply(z, mean, covariance, self._order(z, rng)) for _ in range(count)])

    def _order(self, z: Tensor, rng: torch.Generator | None) -> Tensor:
        if not self.config.shuffle:
            return torch.arange(self.dim, device=z.device)
        require(rng is not None, "whitening: a shuffle needs a generator, rng.")
        return torch.randperm(self.dim, generator=rng, device=z.device)

    def _apply(self, z: Tensor, mean: Tensor, covariance: Tensor, order: Tensor) -> Tensor:
        groups = order.reshape(self.config.groups, -1)  # (G, d/G) channels
        blocks = covariance[groups.unsqueeze(-1), groups.unsqueeze(-2)]  # (G, d/G, d/G)
        eye = torch.eye(groups.shape[1], dtype=z.dtype, device=z.device)
        root = inverse_root(blocks + self.config.eps * eye)
        root = root if self.config.through else root.detach()
        white = torch.einsum("ngj,gij->ngi", (z - mean)[:, groups], root)  # (N, G, d/G)
        return white.reshape(len(z), -1)[:, torch.argsort(order)]

    @torch.no_grad()
    def _follow(self, mean: Tensor, covariance: Tensor) -> None:
        share = 1.0 if self.batches == 0 else self.config.momentum
        self.mean = torch.lerp(self.mean, mean.to(self.mean), share)
        self.covariance = torch.lerp(self.covariance, covariance.to(self.covariance), share)
        self.batches += 1

    def state_dict(self) -> State:
        """The moving averages."""
        return {"mean": copied(self.mean), "covariance": copied(self.covariance), "batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; RlcError on missing keys or other shapes."""
        for key in ("mean", "covariance"):
            own = getattr(self, key)
            setattr(self, key, torch.as_tensor(saved(state, key, "whitening", tuple(own.shape))).to(own, copy=True))
        self.batches = int(saved(state, "batches", "whitening"))


def moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance over N (not N - 1) of z (N, d)."""
    mean = z.mean(0)
    centred = z - mean
    return mean, centred.T @ centred / len(z)


class _InverseRoot(torch.autograd.Function):
    """C^-1/2 of (..., n, n); torch's own gradient of eigh divides by lam_i - lam_j, which is 0 for equal channels.

    d f(C) = U (K * U' dC U) U',   K_ij = (f(lam_i) - f(lam_j)) / (lam_i - lam_j) = -1 / (r_i r_j (r_i + r_j)),
    r = sqrt lam.
    """

    @staticmethod
    def forward(ctx: Any, covariance: Tensor) -> Tensor:
        lam, U = torch.linalg.eigh(covariance)
        root = lam.clamp_min(torch.finfo(lam.dtype).tiny).sqrt()
        ctx.save_for_backward(root, U)
        value: Tensor = (U / root.unsqueeze(-2)) @ U.mT
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        root: Tensor = ctx.saved_tensors[0]
        U: Tensor = ctx.saved_tensors[1]
        a, b = root.unsqueeze(-1), root.unsqueeze(-2)
        K = -1.0 / (a * b * (a + b))
        inner = U.mT @ (0.5 * (gradient + gradient.mT)) @ U
        return U @ (K * inner) @ U.mT


def inverse_root(covariance: Tensor) -> Tensor:
    """C^-1/2 (..., n, n) of symmetric positive matrices, with a finite gradient for repeated eigenvalues."""
    root: Tensor = _InverseRoot.apply(covariance)  # type: ignore[no-untyped-call]
    return root


@dataclass(frozen=True)
class GateConfig(Options, where="gate"):
    """The gate's network."""

    embedding: Annotated[int, In(1, MOST_WIDTH)] = 32
    """Width of a label's embedding."""
    hidden: Annotated[int, In(1, MOST_WIDTH)] = 64
    """Width of the two hidden layers."""
    fuse: bool = True
    """Gate of the mean embedding of both labels; False: the product of two gates."""


class Gate:
    """g(y1,y2) = sigmoid(MLP((e_y1 + e_y2)/2)) in (0, 1)^d: what two classes share (Wu et al. 2024, SimLAP).

    y1, y2 (N,) classes -> (N, d). As a head, z -> g(y1,y2) * z. Two hidden ReLU layers with batch norm.
    """

    def __init__(self, classes: int, dim: int, config: GateConfig | None = None, *, rng: torch.Generator) -> None:
        require(classes >= 1 and dim >= 1, f"gate: classes and d must be >= 1, got {classes} and {dim}.")
        self.config, self.classes, self.dim = config_or(config, GateConfig), classes, dim
        E, W = self.config.embedding, self.config.hidden
        self.embedding = nn.Embedding(classes, E, _weight=torch.randn(classes, E, generator=rng))
        self.mlp = nn.Sequential(
            draw_linear(nn.Linear(E, W), rng=rng), nn.BatchNorm1d(W), nn.ReLU(),
            draw_linear(nn.Linear(W, W), rng=rng), nn.BatchNorm1d(W), nn.ReLU(),
            draw_linear(nn.Linear(W, dim), rng=rng),
        )  # fmt: skip

        self.nets = nn.ModuleList([self.embedding, self.mlp])

    def parameters(self) -> list[nn.Parameter]:
        """What an optimiser trains beside the encoder."""
        return list(self.nets.parameters())

    def __call__(self, y1: Tensor, y2: Tensor, training: bool = True) -> Tensor:
        """The gates (N, d) of pairs of classes (N,)."""
        for y in (y1, y2):
            require(y is not None, "gate: needs a label for each instance.")
            whole = not y.dtype.is_floating_point and y.ndim == 1 and y.shape == y1.shape
            require(whole, "gate: labels must be two lists (N,) of whole numbers.")
            inside = not len(y) or bool(y.min() >= 0 and y.max() < self.classes)
            require(inside, f"gate: labels must lie in 0..{self.classes - 1}.")
        least = 2 if training else 1
        require(len(y1) >= least, f"gate: needs a batch of at least {least}, got {len(y1)}.")
        self.nets.train(training)
        first, second = self.embedding(y1), self.embedding(y2)
        if self.config.fuse:
            return self._one((first + second) / 2.0)
        return self._one(first) * self._one(second)

    def _one(self, embedded: Tensor) -> Tensor:
        gate: Tensor = self.mlp(embedded).sigmoid()
        return gate

    def head(self, z: Tensor, training: bool, y1: Tensor, y2: Tensor) -> Tensor:
        """g(y1,y2) * z of z (N, d)."""
        require_batch("gate", z, self.dim)
        require(len(z) == len(y1), f"gate: {len(z)} embeddings, but {len(y1)} labels.")
        return self(y1, y2, training) * z

    def state_dict(self) -> State:
        """Weights and batch-norm statistics as arrays."""
        return weights(self.nets)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; RlcError on missing keys or other shapes."""
        load_weights(self.nets, state, "gate")
