"""The world of trajectories that `mclrec` and `sra-cl` share: hidden types, a mean-pool encoder, next-state ranking.

A trajectory has a hidden type; its states are drawn from the type's law over the states. z = mean of the embeddings of
the states seen so far; scores of the next state are z'o_j + b_j. hit@10: the true next state is among the ten best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.analysis.figures import rng_of
from rl_contrastive.config import Ge, Gt, Options, require
from rl_contrastive.features.embedding import effective_rank
from rl_contrastive.spec import BoolArray, FloatArray, IntArray

TOP = 10
"""hit@10."""


@dataclass(frozen=True)
class WorldConfig(Options, where="trajectories"):
    """The world, the encoder and its training."""

    trajectories: Annotated[int, Ge(2)] = 400
    """Trajectories to train on."""
    length: Annotated[int, Ge(4)] = 14
    """States of each; the last one is what is ranked."""
    types: Annotated[int, Ge(2)] = 8
    """Hidden types."""
    states: Annotated[int, Ge(11)] = 120
    """States."""
    spread: Annotated[float, Gt(0)] = 1.5
    """Standard deviation of the log probabilities of a type's states."""
    fresh: Annotated[int, Ge(1)] = 2000
    """Unseen trajectories that hit@10 is measured on."""
    dim: Annotated[int, Ge(2)] = 32
    """d."""
    batches: Annotated[int, Ge(1)] = 300
    """Batches."""
    batch: Annotated[int, Ge(2)] = 32
    """Trajectories of a batch."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Adam's step size."""
    start: Annotated[float, Gt(0)] = 0.1
    """Standard deviation of the first embeddings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.batch <= self.trajectories, "trajectories: batch must be at most the number of trajectories.")


@dataclass(frozen=True)
class World:
    """Trajectories to train and to judge on, with their types."""

    laws: FloatArray
    """(types, S)."""
    states: IntArray
    """(n, T)."""
    kind: IntArray
    """(n,) type."""
    fresh: IntArray
    """(m, T)."""


def draw_world(config: WorldConfig, seed: int) -> World:
    """Laws softmax(spread * normal) of each type; types and states drawn from them."""
    rng = rng_of(seed, 0)
    e = np.exp(config.spread * rng.standard_normal((config.types, config.states)))
    laws = e / e.sum(axis=1, keepdims=True)
    cdf = laws.cumsum(axis=1)

    def trajectories(n: int) -> tuple[IntArray, IntArray]:
        kind = rng.integers(config.types, size=n)
        u = rng.random((n, config.length))
        drawn = [np.searchsorted(cdf[k], row * cdf[k, -1], side="right") for k, row in zip(kind, u, strict=True)]
        return np.minimum(np.array(drawn, dtype=np.int64), config.states - 1), kind

    fresh, _ = trajectories(config.fresh)
    states, kind = trajectories(config.trajectories)
    return World(laws, states, kind, fresh)


class MeanPool(nn.Module):
    """z = mean of the embeddings of the states in a bag, for n seeds side by side: (n, N, S) of shares -> (n, N, d).

    Nothing is shared between seeds and Adam works entry by entry, so each is trained as if it were alone.
    """

    def __init__(self, config: WorldConfig, *, rngs: Sequence[torch.Generator]) -> None:
        super().__init__()
        draws = torch.stack([torch.randn(2, config.states, config.dim, generator=rng) for rng in rngs], dim=1)
        self.embed = nn.Parameter(config.start * draws[0])  # (n, S, d)
        self.out = nn.Parameter(config.start * draws[1])
        self.bias = nn.Parameter(torch.zeros(len(rngs), 1, config.states))

    def forward(self, bags: Tensor) -> Tensor:
        return bags @ self.embed

    def scores(self, z: Tensor) -> Tensor:
        """(n, N, d) -> (n, N, S)."""
        return z @ self.out.mT + self.bias


def bags_of(states: IntArray, size: int, mask: BoolArray | None = None) -> Tensor:
    """Shares (N, S) of the states (N, T) that a mask (N, T) leaves, one at least."""
    kept = np.ones(states.shape, dtype=np.bool_) if mask is None else mask
    bags = np.zeros((len(states), size), dtype=np.float32)
    np.add.at(bags, (np.arange(len(states))[:, None], states), kept)
    return torch.from_numpy(bags / kept.sum(axis=1, keepdims=True, dtype=np.float32))


@dataclass(frozen=True)
class Batch:
    """Numbers of trajectories, the bags of all their beginnings with what came next, and two random views; n seeds."""

    index: IntArray
    """(n, N)."""
    begun: Tensor
    """(n, N (T - 2), S): bags of the first 1 .. T - 2 states."""
    after: Tensor
    """(n, N (T - 2)): the state behind each."""
    first: Tensor
    """(n, N, S): bag of a crop."""
    second: Tensor
    """(n, N, S): bag of a masking."""


def batches(config: WorldConfig, worlds: Sequence[World], seeds: Sequence[int]) -> Iterator[Batch]:
    """Batches without replacement within a batch; the same for every method of a seed. The last state is held out."""
    T, S = config.length - 1, config.states
    rngs = [rng_of(seed, 1) for seed in seeds]
    known = np.stack([world.states[:, :T] for world in worlds])  # (n, trajectories, T)
    each = np.arange(len(seeds))[:, None]
    count = torch.arange(1, T, dtype=torch.float32)[:, None]
    for _ in range(config.batches):
        index = np.stack([rng.choice(config.trajectories, size=config.batch, replace=False) for rng in rngs])
        states = known[each, index]  # (n, N, T)
        views = [
            torch.stack([bags_of(of, S, view(config.batch, T, rng=rng)) for of, rng in zip(states, rngs, strict=True)])
            for view in (crop, hide)
        ]
        drawn = torch.from_numpy(states)
        begun = nn.functional.one_hot(drawn[..., :-1], S).float().cumsum(2) / count  # (n, N, T - 1, S)
        yield Batch(index, begun.flatten(1, 2), drawn[..., 1:].flatten(1), *views)


def next_loss(encoder: MeanPool, batch: Batch) -> Tensor:
    """Cross-entropy of each state given all before it, summed over the seeds."""
    scores = encoder.scores(encoder(batch.begun))
    return len(scores) * nn.functional.cross_entropy(scores.flatten(0, 1), batch.after.flatten())


def crop(n: int, T: int, share: float = 0.6, *, rng: np.random.Generator) -> BoolArray:
    """(n, T): a stretch of ceil(share T) states somewhere."""
    size = int(np.ceil(share * T))
    start, at = rng.integers(T - size + 1, size=(n, 1)), np.arange(T)
    return np.asarray((at >= start) & (at < start + size))


def hide(n: int, T: int, share: float = 0.3, *, rng: np.random.Generator) -> BoolArray:
    """(n, T): each state is left out with probability share; one stays at least."""
    kept = rng.random((n, T)) >= share
    kept[np.arange(n), rng.integers(T, size=n)] = True
    return np.asarray(kept)


@torch.no_grad()
def judged(encoder: MeanPool, worlds: Sequence[World]) -> dict[str, list[float]]:
    """By seed: hit@10 of the last state of fresh trajectories, and the rank of the encoded training trajectories."""
    S = encoder.bias.shape[-1]

    def known(name: str) -> Tensor:
        return torch.stack([bags_of(getattr(world, name)[:, :-1], S) for world in worlds])

    best = encoder.scores(encoder(known("fresh"))).topk(TOP, dim=-1).indices  # (n, m, 10)
    last = torch.from_numpy(np.stack([world.fresh[:, -1:] for world in worlds]))
    z = encoder(known("states")).double().numpy()
    hits = (best == last).any(dim=-1).float().mean(-1)
    return {"hit": hits.tolist(), "rank": [effective_rank(of, squared=False) for of in z]}


def best_hit(world: World) -> float:
    """hit@10 of who knows the type of each trajectory: mean over types of the mass of the ten most probable states."""
    return float(np.sort(world.laws, axis=1)[:, -TOP:].sum(axis=1).mean())
