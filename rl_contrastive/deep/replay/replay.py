"""The replay of the deep agent: n-step returns that end with their episode, frame stacks and priorities.

For an entry (o_t, a_t) with the steps t..t+m-1 ahead of it, m <= n:

    R = sum_{k<m} gamma^k r_{t+k},    target = R + discount * V(o_{t+m}),    discount = gamma^m, or 0 at a true terminal

m < n only where the episode ended. At a truncation the target bootstraps from the final observation; at a true terminal
it does not. No sum reaches into the next episode, neither of rewards nor of bonuses (`discounted` over the same
`steps`). Entries are drawn uniformly, or by priority with the importance weights of Schaul et al. 2016 (Section 3.4):

    P(i) = p_i^alpha / sum_j p_j^alpha,    w_i = (N P(i))^-beta / max_j w_j   (the maximum over the batch)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.deep.replay import state as replay_state
from rl_contrastive.deep.replay.changed_rows import Patches
from rl_contrastive.deep.replay.frames import stacked_shape
from rl_contrastive.deep.replay.log import Beside, Position
from rl_contrastive.deep.replay.ring import Ring
from rl_contrastive.deep.replay.sum_tree import SumTree
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import Array, BoolArray, FloatArray, IntArray, State, Transition

NOTHING: Beside = {}
TAIL = 1e-3
"""Probability of the steps ahead that `Replay.ahead` leaves out: 66 steps are looked at for gamma = .9."""


def furthest(gamma: float) -> int:
    """The largest K that is drawn, 0 < gamma < 1."""
    return max(1, math.ceil(math.log(TAIL) / math.log(gamma)))


def steps_ahead(left: IntArray, gamma: float, *, rng: np.random.Generator) -> IntArray:
    """K (N,) of `Replay.ahead`, given L = left (N,) >= 1."""
    draw = np.log1p(-(1.0 - gamma**left) * rng.random(len(left))) / math.log(gamma)
    return np.asarray(np.clip(np.ceil(draw).astype(np.int64), 1, left))  # U = 0 gives 0


@dataclass(frozen=True)
class ReplayBatch:
    """N drawn entries; observations are stacked, (N, *Replay.stacked_shape) of the stored dtype."""

    index: IntArray
    """(N,) their indices, for `update_priorities`, `observations`, `sequences`; valid until the next `add`."""
    ends: Array
    """(2N, ...) all o_t, then all o_{t+m}: one gather, and one copy to a device."""
    end: IntArray
    """(N,) the index of o_{t+m}."""
    action: IntArray
    """(N,) a_t."""
    reward: FloatArray
    """(N,) the m-step return R."""
    discount: FloatArray
    """(N,) gamma^m, 0 after a true terminal: the factor of V(o_{t+m})."""
    steps: IntArray
    """(N, n) indices of the entries t, t+1, ...; the m real ones first; ignore the others."""
    mask: BoolArray
    """(N, n) which steps are real."""
    weight: FloatArray
    """(N,) importance weights w_i, 1 without priorities."""

    @property
    def obs(self) -> Array:
        """o_t."""
        return self.ends[: len(self.index)]

    @property
    def next_obs(self) -> Array:
        """o_{t+m}."""
        return self.ends[len(self.index) :]


class Replay:
    """The newest `capacity` observations of interleaved episodes, with their actions, rewards and ends.

    `alpha` > 0 switches prioritised sampling on: new entries get the largest priority seen so far (1 at first).
    Memory: an observation, 27 bytes and, with priorities, 17 more per entry.
    """

    def __init__(
        self,
        capacity: int,
        obs_shape: tuple[int, ...],
        obs_dtype: str,
        *,
        gamma: float,
        n_step: int = 1,
        stack: int = 1,
        alpha: float = 0.0,
    ) -> None:
        require(0.0 <= gamma <= 1.0, f"replay: gamma must lie in [0, 1], got {gamma}.")
        require(0.0 <= alpha < np.inf, f"replay: alpha must be >= 0 and finite, got {alpha}.")
        self.ring = Ring(capacity, obs_shape, obs_dtype, n_step=n_step, stack=stack)
        self.gamma, self.alpha = float(gamma), float(alpha)
        self.tree = SumTree(capacity) if alpha > 0 else None
        self.max_priority = 1.0  # to the power of alpha already
        self._powers = self.gamma ** np.arange(n_step + 1)
        self.patches = {} if self.tree is None else {"priority": Patches(self.tree.leaves())}
        self.log = Position()  # of the last `save_log`, to
        self.folder: Path | None = None

    def __len__(self) -> int:
        """Entries that may be sampled."""
        return self.ring.count_ready

    @property
    def stacked_shape(self) -> tuple[int, ...]:
        """Shape of one stacked observation: planes (C, H, W) give (stack * C, H, W), others (stack, *obs_shape)."""
        return stacked_shape(self.ring.obs_shape, self.ring.stack)

    def map_to(self, folder: Path) -> None:
        """Keep the observations in a memory-mapped file on this folder's disk, scratch that ends with the process.

        Only before the first episode.
        """
        require(not len(self.ring.obs), "replay: observations can be mapped only before there are any.")
        self.ring.storage = folder

    # -- writing -------------------------------------------------------------------------------------------------

    def begin(self, num_envs: int) -> None:
        """Start `num_envs` new episodes; episodes still open end like truncated ones."""
        self._prioritise(self.ring.begin(num_envs), np.zeros(0, dtype=np.int64))

    def add(
        self,
        obs: Array,
        action: IntArray,
        reward: FloatArray,
        next_obs: Array,
        discount: FloatArray,
        boundary: BoolArray,
        alive: BoolArray,
    ) -> None:
        """Store the rows `alive` of one step (B rows, the fields of a Transition)."""
        self._prioritise(*self.ring.add(obs, action, reward, next_obs, discount, boundary, alive))

    def observe(self, step: Transition) -> None:
        """`add` of a transition of the loop."""
        self.add(step.obs, step.action, step.reward, step.next_obs, step.discount, step.boundary, step.alive)

    def full(self, step: Transition) -> bool:
        """Whether `observe` of this step may drop something."""
        return self.ring.total + 2 * len(step.alive) > self.ring.capacity

    def leaving(self, step: Transition, *, final: bool = False) -> IntArray:
        """Indices of the visits that `observe` of this step will drop or leave without their stack.

        final: of the observations in which no action was taken too.
        """
        rows = int(np.count_nonzero(step.alive))
        # An episode's first step has two observations.
        return self.ring.leaving(rows if self.ring.started else 2 * rows, final=final)

    def update_priorities(self, index: IntArray, priority: FloatArray) -> None:
        """p_i <- priority (N,), > 0 and finite, for the entries of a batch drawn since the last `add`."""
        if self.tree is None:
            raise RlcError("replay: there are no priorities with alpha = 0.")
        priority = np.asarray(priority, dtype=np.float64)
        if not (np.isfinite(priority) & (priority > 0)).all():
            raise RlcError("replay: priorities must be finite and > 0; the loss diverged, or add a small constant.")
        if not self.ring.ready[index].all():
            raise RlcError("replay: an index is out of date; update priorities before the next add().")
        value = priority**self.alpha
        self.max_priority = max(self.max_priority, float(value.max(initial=0.0)))
        self.tree.set(index, value)
        self.patches["priority"].touch(index)

    def _prioritise(self, ready: IntArray, lost: IntArray) -> None:
        """Make lost entries undrawable and ready ones drawable; a slot may be both if it holds a new entry."""
        if self.tree is not None and (len(ready) or len(lost)):
            index = np.concatenate([lost, ready])
            self.tree.set(index, np.repeat([0.0, self.max_priority], [len(lost), len(ready)]))
            self.patches["priority"].touch(index)

    # -- reading -------------------------------------------------------------------------------------------------

    def sample(self, batch_size: int, *, rng: np.random.Generator, beta: float = 1.0) -> ReplayBatch:
        """`batch_size` entries with replacement; `beta` is the exponent of the importance weights."""
        require(batch_size >= 1, f"replay: batch_size must be >= 1, got {batch_size}.")
        require(len(self) > 0, "replay: no entry can be sampled yet: no episode ended and none has n steps.")
        if self.tree is None:
            return self.batch(self._uniform(batch_size, rng))
        index = self.tree.sample(batch_size, rng=rng)
        weight = (len(self) * self.tree.get(index) / self.tree.total) ** -beta
        return self.batch(index, weight / weight.max())

    def batch(self, index: IntArray, weight: FloatArray | None = None) -> ReplayBatch:
        """The batch of given entries, which must be ready."""
        ring, N = self.ring, len(index)
        steps, mask = ring.walk(index, ring.n_step)  # (N, n+1), (N, n)
        m = np.add.reduce(mask, axis=1, dtype=np.int64)
        row = np.arange(N)
        end, last = steps[row, m], steps[row, m - 1]
        return ReplayBatch(
            index=index,
            ends=self.observations(np.concatenate([index, end])),
            end=end,
            action=ring.action[index].astype(np.int64),
            reward=self.discounted(ring.reward[steps[:, :-1]], mask),
            discount=self._powers[m] * ring.discount[last],
            steps=steps[:, :-1],
            mask=mask,
            weight=np.ones(N) if weight is None else weight,
        )

    def discounted(self, values: FloatArray, mask: BoolArray, *, gamma: float | None = None) -> FloatArray:
        """sum_{k<m} gamma^k values_k over the real steps: (N, n), (N, n) -> (N,); gamma: by default the replay's."""
        n = values.shape[1]
        powers = self._powers[:n] if gamma is None else gamma ** np.arange(n)
        # A masked value may be anything, even an infinite bonus, so it is replaced and not multiplied.
        return np.asarray(np.where(mask, values, 0.0) @ powers)

    def beyond(self, batch: ReplayBatch, gamma: float, *, endless: bool) -> tuple[IntArray, FloatArray]:
        """Where and by what factor a value with a discount of its own bootstraps: entries (N,), gamma^m or 0 (N,).

        endless: it goes on after a true terminal, with the first observation of the next episode that was stored. All
        episodes begin alike, so this is a sample of what an episode is worth; and with the next observation where only
        a life was lost.
        """
        ring, m = self.ring, np.add.reduce(batch.mask, axis=1, dtype=np.int64)
        goes_on = ring.discount[batch.steps[np.arange(len(m)), m - 1]]
        end = batch.end
        if endless:
            over = ~goes_on & (ring.action[end] < 0) & ~np.isin(end, ring.open)
            goes_on = np.ones(len(m), dtype=np.bool_)
            if over.any():
                end = end.copy()
                first = ring.started_after(end[over])
                goes_on[over] = first >= 0
                end[over] = np.where(first >= 0, first, end[over])
        return end, np.where(goes_on, gamma**m, 0.0)

    def observations(self, index: IntArray) -> Array:
        """Stacked observations of entries index (...) -> (..., *stacked_shape); the first frame repeats to the left."""
        if self.ring.stack == 1:
            return self.ring.obs.take(index, axis=0)
        frames = self.ring.obs.take(self.ring.frames(index), axis=0)
        return frames.reshape(*index.shape, *self.stacked_shape)

    def actions(self, index: IntArray) -> IntArray:
        """Actions of entries (...), 0 where there is none (final observations)."""
        return np.maximum(self.ring.action[index], 0).astype(np.int64)

    def ahead(self, index: IntArray, gamma: float, *, rng: np.random.Generator) -> IntArray:
        """Entries (N,) K steps on, K ~ Geometric(1 - gamma) given that K <= L, where L steps are stored ahead.

        K = ceil(log(1 - (1 - gamma^L) U) / log gamma), U uniform in [0, 1). Steps end where those of `sequences` do, or
        where less than `TAIL` of the distribution is left. 0 < gamma < 1, and each of the entries (N,) has an action.
        """
        steps, mask = self.ring.walk(index, furthest(gamma))
        left = np.add.reduce(mask, axis=1, dtype=np.int64)  # L
        return np.asarray(steps[np.arange(len(index)), steps_ahead(left, gamma, rng=rng)])

    def sequences(self, index: IntArray, length: int) -> tuple[Array, IntArray, BoolArray]:
        """The next K = `length` steps: observations (N, K+1, ...), actions (N, K), and which steps (N, K) are real.

        Steps after the episode's end, a lost life or the newest observation are not real: their mask is False, and
        their contents are arbitrary.
        """
        require(length >= 1, f"replay: sequences need a length >= 1, got {length}.")
        steps, mask = self.ring.walk(index, length)
        return self.observations(steps), self.actions(steps[:, :-1]), mask

    def chunks(self, size: int) -> Iterator[IntArray]:
        """Indices of all observations still here with their whole stack, final ones included, oldest first."""
        held = self.ring.held()
        whole = held[self.ring.whole[held]]
        return (whole[start : start + size] for start in range(0, len(whole), size))

    def visits(self) -> IntArray:
        """Indices of all visits still here with their whole stack, oldest first."""
        return self._visits(self.ring.held())

    def last(self, count: int) -> IntArray:
        """Indices of the newest `count` visits (fewer if there are not so many), oldest first.

        After an `add` with k living rows, `last(k)` are the entries they acted in, in the order of the rows.
        """
        window, found = count + len(self.ring.open), np.zeros(0, dtype=np.int64)
        while len(found) < count:
            start = max(self.ring.total - window, self.ring.oldest)
            found = self._visits(np.arange(start, self.ring.total) % self.ring.capacity)
            if start == self.ring.oldest:
                break
            window *= 2
        return found[max(len(found) - count, 0) :]

    def _visits(self, slots: IntArray) -> IntArray:
        return slots[self.ring.whole[slots] & (self.ring.action[slots] >= 0)]

    def _uniform(self, count: int, rng: np.random.Generator) -> IntArray:
        """Uniform draws over the ready entries, by rejection from all held ones."""
        held = min(self.ring.total, self.ring.capacity)
        index = rng.integers(held, size=count)
        bad = (~self.ring.ready[index]).nonzero()[0]
        while len(bad):
            index[bad] = rng.integers(held, size=len(bad))
            bad = bad[~self.ring.ready[index[bad]]]
        return index

    # -- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """The whole state, for replays small enough to be copied at each checkpoint."""
        return replay_state.whole(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys, wrong shapes or another layout."""
        replay_state.load_whole(self, state)

    def save_log(self, folder: Path, beside: Beside = NOTHING) -> State:
        """Write what is new since the last call as files, of arrays `beside` too; returns the checkpoint's cursor.

        When it returns, the files are durable. A kill between this call and the writing of the checkpoint is harmless,
        because the cursors of the last two calls stay loadable too. So call it once a checkpoint. The cursor is small
        and depends only on the stored data. The folder records how the data are cut into files.
        """
        return replay_state.save_log(self, folder, beside)

    def load_log(self, folder: Path, cursor: dict[str, Any], beside: Beside = NOTHING) -> None:
        """Load exactly the state at `cursor`, whatever was written to the folder after it; nothing is written.

        Raises RlcError if a file is missing, damaged, or of another save.
        """
        replay_state.load_log(self, folder, cursor, beside)
