"""A block world whose latents are known to the judge only, encoders of all seeds side by side, and a linear probe.

    x = mu_latent + detail * U u + noise * eps,   u ~ N(0, I) of the instance, eps ~ N(0, I) of each view

Two views of one instance share its latent and its detail u, so a loss may tell instances apart (u) or gather them by
latent. Frequencies of latents follow Zipf's law k^-a. Each seed is a world of its own (mu, U, draws, first weights): it
is one entry of the leading axis S of every array, and no number of it depends on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.analysis.figures import rng_of
from rl_contrastive.analysis.statistics import Interval
from rl_contrastive.claims.stacked import interval
from rl_contrastive.config import Ge, Options, require
from rl_contrastive.features.embedding import effective_rank, uniformity
from rl_contrastive.objectives.views import ViewObjective, Views
from rl_contrastive.spec import FloatArray, IntArray

RIDGE = 1e-3
"""Added to the covariance of standardised features: collapsed ones leave it singular."""
Embed = Callable[[FloatArray], FloatArray]
"""Inputs (S, N, x) -> embeddings (S, N, d) in float64."""


@dataclass(frozen=True)
class WorldConfig(Options, where="block world"):
    """The block world."""

    latents: Annotated[int, Ge(2)] = 20
    """L."""
    zipf: Annotated[float, Ge(0)] = 0.0
    """a: latent k = 1..L has a share proportional to k^-a; 0: equal shares."""
    size: Annotated[int, Ge(1)] = 32
    """Coordinates of an observation."""
    details: Annotated[int, Ge(1)] = 8
    """Coordinates of u."""
    detail: Annotated[float, Ge(0)] = 0.5
    """Scale of the instance's detail, where mu has coordinates of variance 1."""
    noise: Annotated[float, Ge(0)] = 0.5
    """Scale of each view's own noise: the augmentation."""


class BlockWorld:
    """Instances and views of S worlds."""

    def __init__(self, config: WorldConfig, seeds: Sequence[int], *stream: int) -> None:
        """stream: numbers that choose other draws of the same worlds."""
        require(len(seeds) >= 1, "block world: give a seed.")
        self.config, self.seeds = config, tuple(seeds)
        made = [rng_of(seed, 0) for seed in self.seeds]
        self.mu = np.stack([rng.standard_normal((config.latents, config.size)) for rng in made])  # (S, L, x)
        self.U = np.stack([rng.standard_normal((config.details, config.size)) for rng in made])
        self.U /= math.sqrt(config.details)  # so that U u has coordinates of variance 1
        self.share = np.arange(1, config.latents + 1) ** -config.zipf
        self.share /= self.share.sum()
        self.rngs = [rng_of(seed, 1, *stream) for seed in self.seeds]

    def latents(self, count: int, *, even: bool = False) -> IntArray:
        """(S, N) latents by their shares; even: each equally often, for a judge."""
        if even:
            return np.tile(np.arange(count) % self.config.latents, (len(self.seeds), 1))
        ends = self.share.cumsum()
        drawn = [np.searchsorted(ends, rng.random(count) * ends[-1], side="right") for rng in self.rngs]
        return np.stack(drawn)

    def instances(self, latents: IntArray) -> FloatArray:
        """Means (S, N, x) of instances of these latents (S, N), each with a detail of its own."""
        u = np.stack([rng.standard_normal((latents.shape[1], self.config.details)) for rng in self.rngs])
        centres = np.take_along_axis(self.mu, latents[..., None], axis=1)
        return np.asarray(centres + self.config.detail * (u @ self.U))

    def views(self, instances: FloatArray, count: int) -> FloatArray:
        """(S, V, N, x): noisy views of instances (S, N, x)."""
        shape = (count, *instances.shape[1:])
        eps = np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in self.rngs])
        return np.asarray(instances[:, None] + self.config.noise * eps)

    def batches(self, steps: int, size: int, views: int) -> Iterator[Tensor]:
        """`steps` batches (S, V, B, x) of new instances."""
        for _ in range(steps):
            yield tensor(self.views(self.instances(self.latents(size)), views))


class Encoders(nn.Module):
    """S networks x -> hidden -> d with one ReLU; inputs (S, ..., x) -> (S, ..., d)."""

    def __init__(self, seeds: Sequence[int], sizes: Sequence[int], *stream: int) -> None:
        """stream: numbers that choose other first weights."""
        super().__init__()
        rngs = [rng_of(seed, 2, *stream) for seed in seeds]

        def drawn(rows: int, columns: int) -> nn.Parameter:
            scale = 1.0 / math.sqrt(rows)
            return nn.Parameter(tensor(np.stack([scale * r.standard_normal((rows, columns)) for r in rngs])))

        pairs = list(pairwise(sizes))
        self.weights = nn.ParameterList([drawn(a, b) for a, b in pairs])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(len(rngs), 1, b)) for _, b in pairs])

    def forward(self, x: Tensor) -> Tensor:
        h = x.reshape(len(x), -1, x.shape[-1])  # (S, M, x)
        for i, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(b, h.relu() if i else h, W)
        return h.reshape(*x.shape[:-1], -1)

    @torch.no_grad()
    def embed(self, x: FloatArray) -> FloatArray:
        """(S, N, x) -> (S, N, d) float64, without a gradient."""
        return np.asarray(self(tensor(x)).double().numpy())


def train(
    encoders: Encoders,
    objective: ViewObjective,
    batches: Iterator[Tensor],
    *,
    lr: float,
    head: Callable[[Tensor], Tensor] | None = None,
    labels: Iterator[Tensor] | None = None,
) -> None:
    """One Adam step a batch (S, V, B, x). Losses are summed over seeds, whose weights and moments are their own.

    head: between encoder and loss, (S, V, B, d) -> (S, V', B, d). labels: (S, B) of each batch.
    """
    optimiser = torch.optim.Adam(encoders.parameters(), lr=lr)
    state = objective.initial(0, encoders.weights[-1].shape[-1])
    for x in batches:
        z = encoders(x)
        views = Views(z if head is None else head(z), label=None if labels is None else next(labels))
        result, state = objective.step(views, state)
        optimiser.zero_grad()
        result.loss.sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def probe(world: BlockWorld, embed: Embed, *, count: int = 2000) -> FloatArray:
    """(S,) accuracy of a linear classifier of the latent on new instances, each latent equally often.

    Linear discriminants of `count` labelled instances, views with noise like the training's.
    """
    latents = world.latents(2 * count, even=True)
    z = embed(world.views(world.instances(latents), 1)[:, 0])
    train_half = (np.arange(2 * count) // world.config.latents) % 2 == 0
    return np.array([discriminant(x[train_half], y[train_half], x[~train_half], y[~train_half])
                     for x, y in zip(z, latents, strict=True)])  # fmt: skip


def discriminant(x: FloatArray, y: IntArray, x_new: FloatArray, y_new: IntArray) -> float:
    """Accuracy on x_new (M, d) of the linear discriminants of x (N, d) with classes y, equal priors."""
    mean, scale = x.mean(0), x.std(0).max() + np.finfo(np.float64).tiny
    x, x_new = (x - mean) / scale, (x_new - mean) / scale
    classes, of = np.unique(y, return_inverse=True)
    centres = np.stack([x[of == k].mean(0) for k in range(len(classes))])  # (L, d)
    within = x - centres[of]
    covariance = within.T @ within / len(x)
    ridge = RIDGE * max(float(np.trace(covariance)) / x.shape[1], np.finfo(np.float64).tiny)
    directions = np.linalg.solve(covariance + ridge * np.eye(x.shape[1]), centres.T)  # (d, L)
    scores = x_new @ directions - 0.5 * (centres.T * directions).sum(0)
    return float((classes[scores.argmax(1)] == y_new).mean())


def each(measure: Callable[[FloatArray], float], z: FloatArray) -> FloatArray:
    """(S,) of a number of one embedding, for z (S, N, d)."""
    return np.array([measure(one) for one in z])


def ranks(z: FloatArray) -> FloatArray:
    """(S,) effective ranks of z (S, N, d): directions, uncentred, by the eigenvalues of their second moment."""
    return each(effective_rank, z / np.linalg.norm(z, axis=-1, keepdims=True))


def uniformities(z: FloatArray) -> FloatArray:
    """(S,)."""
    return each(uniformity, z)


def smallest_step(values: FloatArray, sign: int) -> Interval:
    """Of values (T, S) along T: the paired step, times `sign`, whose mean over the seeds is the smallest."""
    steps = np.diff(sign * values, axis=0)
    return interval(steps[steps.mean(1).argmin()])


def tensor(x: Any) -> Tensor:
    """float32."""
    return torch.as_tensor(np.asarray(x, dtype=np.float32))
