"""A `TransitionLearner` that knows episodes: B rows side by side, whose episodes end one by one.

    the transition in place p is followed by the one in place p + B, unless its episode ended

So it draws positives K steps ahead (`RepresentationConfig.ahead`), and it tells final observations from others: each
observation is the first half of one transition, except that of an episode's end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rl_contrastive.config import require, require_keys
from rl_contrastive.deep.feature_net import FeatureConfig, ObsLayout
from rl_contrastive.deep.replay.replay import furthest, steps_ahead
from rl_contrastive.deep.replay.ring import serials
from rl_contrastive.deep.transition_learner import TransitionLearner
from rl_contrastive.spec import Array, BoolArray, IntArray, State


class EpisodeLearner(TransitionLearner):
    """Each `store` takes one step of all rows, after `begin` of those that start an episode."""

    knows_episodes = True

    def __init__(
        self, layout: ObsLayout, num_actions: int, config: FeatureConfig, *, num_rows: int, rng: np.random.Generator
    ) -> None:
        """num_rows: B. rng: initial weights and batches are drawn from it."""
        super().__init__(layout, num_actions, config, rng=rng)
        fits = num_rows <= config.capacity
        require(fits, f"features: capacity must be >= the number of rows, {num_rows}, got {config.capacity}.")
        self.num_rows, self.num_actions = num_rows, num_actions
        self.ended: BoolArray = np.zeros(config.capacity, dtype=np.bool_)
        """(capacity,) whether no transition follows in this episode."""
        self.episodes = 0
        """Episodes begun."""

    @property
    def observed(self) -> int:
        """Observations so far, final ones too."""
        return self.stored + self.episodes

    def begin(self, rows: IntArray) -> None:
        """These rows (k,) begin an episode with the transition that is stored next."""
        if self.stored:
            self.ended[(self.stored - self.num_rows + rows) % self.config.capacity] = True
        self.episodes += len(rows)

    def store(self, obs: Array, action: IntArray, next_obs: Array) -> IntArray:
        """As `TransitionLearner.store`, of all B rows."""
        require(len(action) == self.num_rows, f"features: expected {self.num_rows} rows, got {len(action)}.")
        place = super().store(obs, action, next_obs)
        self.ended[place] = False
        return place

    def leaving(self, count: int) -> tuple[Array, IntArray]:
        """The observations that the next `count` transitions will replace, and their actions: A for final ones."""
        obs, action = super().leaving(count)
        place = np.arange(max(self.stored, self.config.capacity), self.stored + count) % self.config.capacity
        final = self._next[place[self.ended[place]]]
        return np.concatenate([obs, final]), np.concatenate([action, np.full(len(final), self.num_actions)])

    def observations(self, chunk: int = 1024) -> Iterator[Array]:
        """All observations that are kept, each one once: (n, ...) at a time."""
        n, newest = len(self), np.zeros(self.config.capacity, dtype=np.bool_)
        newest[(self.stored - 1 - np.arange(self.num_rows)) % self.config.capacity] = True  # nothing follows them yet
        final = np.flatnonzero((self.ended | newest)[:n])
        for source, places in ((self._obs, np.arange(n)), (self._next, final)):
            for start in range(0, len(places), chunk):
                yield source[places[start : start + chunk]]

    def _positives(self, rows: IntArray) -> Array:
        """What came K steps later in the episode, K ~ Geometric(1 - gamma_c) as in `Replay.ahead`."""
        gamma, capacity, B = self.config.representation.ahead, self.config.capacity, self.num_rows
        if gamma == 0:
            return super()._positives(rows)
        serial = serials(rows, self.stored, capacity)
        steps = serial[:, None] + B * np.arange(furthest(gamma))  # (N, K)
        goes_on = (steps[:, 1:] < self.stored) & ~self.ended[steps[:, :-1] % capacity]
        left = 1 + np.logical_and.accumulate(goes_on, axis=1).sum(axis=1)
        k = steps_ahead(left, gamma, rng=self.rng)
        return np.asarray(self._next[steps[np.arange(len(rows)), k - 1] % capacity])

    def state_dict(self) -> State:
        """Where episodes end, too."""
        own = {"num_rows": self.num_rows, "ended": self.ended[: len(self)].copy(), "episodes": self.episodes}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys, wrong shapes or another number of rows."""
        require_keys(state, ("num_rows", "ended", "episodes"), "features")
        rows, mine = int(state["num_rows"]), self.num_rows
        require(rows == mine, f"features: the state is of {rows} rows side by side, here are {mine}.")
        super().load_state_dict(state)
        ended = np.asarray(state["ended"], dtype=np.bool_)
        require(ended.shape == (len(self),), f"features: the saved ends have shape {ended.shape}, not {(len(self),)}.")
        self.ended[: len(self)], self.episodes = ended, int(state["episodes"])
