"""Random low-rank laws p(s'|s,a) with everything known, and data of them: what `conditional` fits and judges by.

A problem is one seed: its own MDP (the registered environment `low-rank`, one step), its own data. Problems lie along
the leading axis B of every array and are fitted side by side; each has its own generators, so what a problem sees
does not depend on its neighbours, nor on the method that learns from it.
    context x = s A + a in 0 .. SA-1,   (s,a) ~ uniform, or Zipf in a random order,   s' ~ P(.|s,a)
The noise law is the marginal of s' in the data with one more count for each outcome, so it covers all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rl_contrastive.config import from_dict, require
from rl_contrastive.errors import unknown_name
from rl_contrastive.registry import get
from rl_contrastive.spec import FloatArray, IntArray

Law = Literal["uniform", "zipf"]
LAWS: tuple[Law, ...] = ("uniform", "zipf")


@dataclass(frozen=True)
class Sizes:
    """S, A and d of the MDPs."""

    num_states: int
    num_actions: int
    rank: int

    @property
    def contexts(self) -> int:
        """SA."""
        return self.num_states * self.num_actions


@dataclass(frozen=True)
class Problems:
    """B problems with N transitions each, and as many held-out ones."""

    sizes: Sizes
    P: Tensor
    """(B, SA, S) float64, the truth."""
    x: Tensor
    """(B, N) contexts of the data."""
    y: Tensor
    """(B, N) outcomes s'."""
    x_held: Tensor
    """(B, N') contexts of held-out transitions, for choosing options."""
    y_held: Tensor
    """(B, N')."""
    pool: Tensor
    """(B, N + S) outcomes whose uniform draw is a draw of the noise law."""

    @property
    def q(self) -> Tensor:
        """(B, S) float64, the noise law."""
        return torch.stack([torch.bincount(p, minlength=self.sizes.num_states) for p in self.pool]).to(
            torch.float64
        ) / float(self.pool.shape[1])

    @property
    def counts(self) -> Tensor:
        """(B, SA, S) float64, how often each transition is in the data."""
        S, SA = self.sizes.num_states, self.sizes.contexts
        flat = torch.stack([torch.bincount(x * S + y, minlength=SA * S) for x, y in zip(self.x, self.y, strict=True)])
        return flat.reshape(-1, SA, S).to(torch.float64)

    @property
    def visited(self) -> Tensor:
        """(B, SA) bool, contexts with at least one transition."""
        return self.counts.sum(-1) > 0


def draw_problems(
    seeds: tuple[int, ...], sizes: Sizes, *, transitions: int, held_out: int, law: str, device: torch.device
) -> Problems:
    """One problem a seed: the MDP of `mdp_seed = seed` and data of a generator of its own."""
    require(transitions >= 1 and held_out >= 1, "conditional: needs at least one transition and one held-out one.")
    kernels = [kernel(seed, sizes) for seed in seeds]
    data, held = [], []
    for seed, P in zip(seeds, kernels, strict=True):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(transitions,))))
        weights = context_law(law, len(P), rng=rng)
        data.append(draw_transitions(P, weights, transitions, rng=rng))
        held.append(draw_transitions(P, weights, held_out, rng=rng))

    def stacked(parts: list[IntArray]) -> Tensor:
        return torch.from_numpy(np.stack(parts)).to(device)

    y = stacked([pair[1] for pair in data])
    each_once = torch.arange(sizes.num_states, device=device).expand(len(seeds), -1)
    return Problems(
        sizes=sizes,
        P=torch.from_numpy(np.stack(kernels)).to(device),
        x=stacked([pair[0] for pair in data]),
        y=y,
        x_held=stacked([pair[0] for pair in held]),
        y_held=stacked([pair[1] for pair in held]),
        pool=torch.cat([y, each_once], dim=1),
    )


def kernel(seed: int, sizes: Sizes) -> FloatArray:
    """(SA, S): the one-step law of the random low-rank MDP `seed`."""
    entry, _ = get("env", "low-rank")
    values = {
        "num_states": sizes.num_states,
        "num_actions": sizes.num_actions,
        "rank": sizes.rank,
        "horizon": 1,
        "mdp_seed": seed,
    }
    P = entry.factory(from_dict(entry.config, values), 1).exact().P[0]
    return np.asarray(P.reshape(sizes.contexts, sizes.num_states))


def context_law(law: str, contexts: int, *, rng: np.random.Generator) -> FloatArray:
    """(SA,) probabilities: all equal, or proportional to 1, 1/2, 1/3, ... over a random order of the contexts."""
    if law not in LAWS:
        raise unknown_name("law of (s,a)", law, LAWS)
    if law == "uniform":
        return np.full(contexts, 1.0 / contexts)
    weights = 1.0 / np.arange(1.0, contexts + 1.0)
    return np.asarray(rng.permutation(weights / weights.sum()))


def draw_transitions(
    P: FloatArray, weights: FloatArray, n: int, *, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """n contexts ~ weights and their outcomes ~ P(.|x), by inversion: (n,), (n,) int64."""
    x = rng.choice(len(P), size=n, p=weights)
    cumulative = np.cumsum(P, axis=1)[x]  # (n, S)
    # The last entry may fall short of 1 by rounding.
    y = np.minimum((rng.random(n)[:, None] > cumulative).sum(axis=1), P.shape[1] - 1)
    return x.astype(np.int64), y.astype(np.int64)


def mean_tv(P_hat: Tensor, problems: Problems) -> Tensor:
    """(B,) mean over the visited contexts of 1/2 sum_s' |P-hat - P|; P-hat (B, SA, S) need not sum to 1."""
    tv = 0.5 * (P_hat - problems.P).abs().sum(-1)  # (B, SA)
    seen = problems.visited.to(tv.dtype)
    return (tv * seen).sum(-1) / seen.sum(-1)


def held_out_nll(P_hat: Tensor, problems: Problems) -> Tensor:
    """(B,) mean -log P-hat(s'|s,a) of held-out transitions, nats."""
    S = problems.sizes.num_states
    chosen = P_hat.flatten(1).gather(1, problems.x_held * S + problems.y_held)  # (B, N')
    return -chosen.log().mean(-1)
