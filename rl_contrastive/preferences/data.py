"""Pairs of completions: drawn from data or from a policy, labelled by their returns, mixed; generators are passed in.

    P(i is preferred to j) = sigma((R_i - R_j)/temperature)                  Bradley-Terry

Pairs are rows of a pool of completions, so a policy evaluates each completion once, however many pairs it is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from rl_contrastive.config import Ge, In, Options, require
from rl_contrastive.preferences.base import Completions, Pairs
from rl_contrastive.preferences.labels import bradley_terry

TRIES = 64
"""Drawings of partners before equal completions are taken to be all there is."""


@dataclass(frozen=True)
class LabelConfig(Options, where="pairs"):
    """Who labels pairs. The defaults draw labels by Bradley-Terry."""

    temperature: Annotated[float, Ge(0)] = 1.0
    """Of the returns' difference; 0: the greater return always wins and equal ones toss a coin."""
    noise: Annotated[float, Ge(0)] = 0.0
    """Standard deviation of Gaussian noise on each return, before they are compared."""
    flips: Annotated[float, In(0, 0.5)] = 0.0
    """The share of labels that are turned round at random afterwards."""


@dataclass(frozen=True)
class Pool:
    """N completions to draw pairs from."""

    actions: Tensor
    """(N, T) whole numbers."""
    returns: Tensor
    """(N,) R of each."""
    start: Tensor | None = None
    """(N,) whole numbers: pairs are drawn within one start (prompt, first state); None: all have the same."""
    mask: Tensor | None = None
    """(N, T) 1 on real steps; None: all steps are real."""
    obs: Tensor | None = None
    """(N, T, ...) observations; where given, completions are equal only if these are equal, too."""

    def __post_init__(self) -> None:
        require(self.actions.ndim == 2, f"pool: actions must have shape (N, T), got {tuple(self.actions.shape)}.")
        N, T = self.actions.shape
        require(N > 0 and T > 0, "pool: there are no completions; give at least one with a step.")
        for name, want in (("returns", (N,)), ("start", (N,)), ("mask", (N, T))):
            value = getattr(self, name)
            good = value is None or tuple(value.shape) == want
            require(good, f"pool: {name} must have shape {want}, got {None if value is None else tuple(value.shape)}.")
        require(bool(torch.isfinite(self.returns).all()), "pool: returns hold NaN or infinite numbers.")
        require(bool((self.real.sum(-1) > 0).all()), "pool: a completion has no real step; its mask is all 0.")
        if self.obs is not None:
            good = tuple(self.obs.shape[:2]) == (N, T)
            require(good, f"pool: obs must have shape {(N, T)} and more, got {tuple(self.obs.shape)}.")

    @property
    def real(self) -> Tensor:
        """(N, T) bool."""
        return torch.ones_like(self.actions, dtype=torch.bool) if self.mask is None else self.mask.bool()

    def equal(self, i: Tensor, j: Tensor) -> Tensor:
        """(P,) bool: completions i and j (P,) have the same length and take the same actions (see the same)."""
        real = self.real
        same = (real[i] == real[j]).all(-1)
        same &= ((self.actions[i] == self.actions[j]) | ~real[i]).all(-1)
        if self.obs is not None:
            seen = (self.obs[i] == self.obs[j]).flatten(2).all(-1) if self.obs.ndim > 2 else self.obs[i] == self.obs[j]
            same &= (seen | ~real[i]).all(-1)
        return same


@dataclass(frozen=True)
class PairIndex:
    """P labelled pairs as rows of a pool."""

    chosen: Tensor
    """(P,)."""
    rejected: Tensor
    """(P,)."""

    def of(self, y: Completions, weight: Tensor | None = None) -> Pairs:
        """The pairs of completions (..., N, T) that hold one row for each of the pool."""
        return Pairs(take(y, self.chosen), take(y, self.rejected), weight)

    def __len__(self) -> int:
        return len(self.chosen)


def pool(completions: Sequence[Sequence[int]] | Tensor, returns: Tensor, **more: Tensor | None) -> Pool:
    """A pool of lists of actions, or of a tensor (N, T); `more` goes to Pool. RlcError on unequal lengths without mask.

    With a mask (N, T) shorter lists are padded by 0 up to T.
    """
    if isinstance(completions, Tensor):
        return Pool(completions, returns, **more)
    require(len(completions) > 0, "pool: there are no completions; give at least one with a step.")
    lengths = sorted({len(y) for y in completions})
    mask = more.get("mask")
    words = f"{lengths[0]} to {lengths[-1]} steps; unequal lengths need a mask (N, T)."
    require(len(lengths) == 1 or mask is not None, f"pool: completions have {words}")
    T = lengths[-1] if mask is None else mask.shape[-1]
    require(lengths[-1] <= T, f"pool: a completion has {lengths[-1]} steps and the mask only {T}.")
    rows = [[*y, *[0] * (T - len(y))] for y in completions]
    return Pool(torch.tensor(rows, dtype=torch.long), returns, **more)


def take(y: Completions, rows: Tensor) -> Completions:
    """Completions `rows` (P,) of y (..., N, T): (..., P, T)."""
    axis = y.logp.ndim - 2
    picked = {name: None if x is None else x.index_select(axis, rows)
              for name, x in (("mask", y.mask), ("kl", y.kl), ("hidden", y.hidden))}  # fmt: skip
    return Completions(y.logp.index_select(axis, rows), y.ref.index_select(axis, rows), **picked)


def wins(first: Tensor, second: Tensor, config: LabelConfig, *, rng: torch.Generator) -> Tensor:
    """bool, shape of the returns: whether the first completion of each pair is labelled as the better one."""
    gap = (first - second).detach().double()
    if config.noise > 0:
        gap = gap + config.noise * 2**0.5 * torch.randn(gap.shape, dtype=gap.dtype, generator=rng)
    coin = torch.rand(gap.shape, dtype=gap.dtype, generator=rng)
    won = coin < torch.as_tensor(bradley_terry(gap.numpy(), config.temperature))
    if config.flips > 0:
        won = won ^ (torch.rand(gap.shape, dtype=gap.dtype, generator=rng) < config.flips)
    return won


def label(pool: Pool, first: Tensor, second: Tensor, config: LabelConfig, *, rng: torch.Generator) -> PairIndex:
    """Pairs of rows first and second (P,), put in the order of their labels. RlcError where two are the same."""
    require_pair_rows(pool, first, second)
    won = wins(pool.returns[first], pool.returns[second], config, rng=rng)
    return PairIndex(torch.where(won, first, second), torch.where(won, second, first))


def require_pair_rows(pool: Pool, first: Tensor, second: Tensor) -> None:
    """RlcError unless rows (P,) name pairs of different completions of one start."""
    good = first.ndim == 1 and first.shape == second.shape
    require(good, f"pairs: both sides must have the same shape (P,), got {tuple(first.shape)} and "
            f"{tuple(second.shape)}.")  # fmt: skip
    require(len(first) > 0, "pairs: there are no pairs; give at least one.")
    N = len(pool.actions)
    both = torch.cat([first, second])
    require(bool(((both >= 0) & (both < N)).all()), f"pairs: rows must be in [0, {N}), the completions of the pool.")
    same = pool.equal(first, second)
    if bool(same.any()):
        require(False, f"pairs: the two completions of pair {int(same.int().argmax())} are equal (the same actions), "
                "so none is preferred.")  # fmt: skip
    if pool.start is not None:
        good = bool((pool.start[first] == pool.start[second]).all())
        require(good, "pairs: both completions of a pair must have the same start.")


def draw_pairs(pool: Pool, count: int, config: LabelConfig | None = None, *, rng: torch.Generator) -> PairIndex:
    """`count` labelled pairs of a pool, the first row uniform, the second uniform among those of its start that differ.

    Offline data and the policy's own samples are both pools. RlcError where no two completions differ.
    """
    require(count >= 1, f"draw_pairs: count must be >= 1, got {count}.")
    N = len(pool.actions)
    first, second = (torch.randint(N, (count,), generator=rng) for _ in range(2))
    for _ in range(TRIES):
        bad = pool.equal(first, second)
        if pool.start is not None:
            bad |= pool.start[first] != pool.start[second]
        if not bool(bad.any()):
            return label(pool, first, second, config or LabelConfig(), rng=rng)
        again = int(bad.sum())
        first[bad], second[bad] = (torch.randint(N, (again,), generator=rng) for _ in range(2))
    return label(pool, *_listed(pool, count, rng), config or LabelConfig(), rng=rng)


def _listed(pool: Pool, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pairs drawn from the list of all that differ: for pools where chance finds few. O(N^2)."""
    N = len(pool.actions)
    i, j = torch.triu_indices(N, N, 1)
    good = ~pool.equal(i, j)
    if pool.start is not None:
        good &= pool.start[i] == pool.start[j]
    i, j = i[good], j[good]
    require(len(i) > 0, "draw_pairs: no two completions of one start differ, so there is nothing to compare.")
    row = torch.randint(len(i), (count,), generator=rng)
    return i[row], j[row]


def mixture(parts: Sequence[PairIndex], shares: Sequence[float], count: int, *, rng: torch.Generator) -> PairIndex:
    """`count` pairs, each from part k with probability shares[k] and uniform within it: offline beside on-policy.

    The parts index one pool. RlcError unless there is one share >= 0 for each part, and their sum is 1.
    """
    require(len(parts) == len(shares) > 0, f"mixture: got {len(parts)} parts and {len(shares)} shares.")
    good = all(share >= 0 for share in shares) and abs(sum(shares) - 1) < 1e-6
    require(good, f"mixture: shares must be >= 0 and sum to 1, got {list(shares)}.")
    require(all(len(part) > 0 for part in parts), "mixture: a part has no pairs.")
    of = torch.multinomial(torch.tensor(shares, dtype=torch.float64), count, replacement=True, generator=rng)
    sizes = torch.tensor([len(part) for part in parts])
    row = (torch.rand(count, dtype=torch.float64, generator=rng) * sizes[of]).long()
    offset = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)[:-1]])
    at = offset[of] + row
    return PairIndex(torch.cat([p.chosen for p in parts])[at], torch.cat([p.rejected for p in parts])[at])


def joined(pools: Sequence[Pool]) -> Pool:
    """One pool of several with the same T and the same fields; rows of the later ones come after those of the first."""
    require(len(pools) > 0, "joined: there are no pools.")
    T = {pool.actions.shape[1] for pool in pools}
    require(len(T) == 1, f"joined: pools must have the same number of steps T, got {sorted(T)}.")
    fields = {}
    for name in ("start", "mask", "obs"):
        values = [getattr(pool, name) for pool in pools]
        given = [value for value in values if value is not None]
        require(len(given) in (0, len(pools)), f"joined: some pools have {name} and others have not.")
        fields[name] = torch.cat(given) if given else None
    return Pool(torch.cat([p.actions for p in pools]), torch.cat([p.returns for p in pools]), **fields)
