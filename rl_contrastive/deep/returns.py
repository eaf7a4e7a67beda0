"""What a gradient step of the values is told of a batch: returns of rewards and of bonuses, and where they bootstrap.

For the value functions v = 0 .. V-1 (Q; G or I; in games G-bar and G-under) the columns of the numbers are

    R_v (V) | discount | importance weight | action | sign_v b(s', .) (V A) | discount of I | shown to I at s, s' (2 M)

R_0 sums rewards alone over the n steps, R_v also the bonuses on the way, with heads apart those alone. All are scaled
by `reward_scale`. The last two are there with heads apart or a memory. `DeepLearner._gradient` and `native/values.py`
read them.
"""

from __future__ import annotations

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.deep.bonus_contract import Bonus
from rl_contrastive.deep.config import DeepLearnerConfig
from rl_contrastive.deep.explore_config import ExploreConfig
from rl_contrastive.deep.memory import EpisodeMemory, inputs_of
from rl_contrastive.deep.replay.replay import Replay, ReplayBatch
from rl_contrastive.spec import Array, FloatArray, IntArray

HUGE = 1e30
"""Largest size of returns; float32 ends at 3e38."""


class Returns:
    """The targets' constants for batches of a replay."""

    def __init__(
        self, config: DeepLearnerConfig, num_actions: int, signs: tuple[float, ...], explore: ExploreConfig
    ) -> None:
        """signs: of the bonus in each value function, Q first (`choice.py`)."""
        self.config, self.num_actions, self.signs, self.explore = config, num_actions, signs, explore
        self.shown = inputs_of(num_actions) if explore.memory else 0
        """M, numbers that the second head sees beside the observation."""

    def of(
        self, batch: ReplayBatch, replay: Replay, bonus: Bonus, memory: EpisodeMemory | None = None
    ) -> tuple[Array, Array]:
        """Observations at both ends (2 N, ...), and the numbers (N, V + 3 + V A + more)."""
        N, A, signs, apart = len(batch.index), self.num_actions, self.signs, self.explore.heads == "apart"
        V = len(signs)
        known = V + 3 + V * A
        reward = batch.reward
        if self.config.clip_rewards:
            reward = replay.discounted(np.sign(replay.ring.reward[batch.steps]), batch.mask)
        # Returns beyond float32 are scaled before they are rounded to float32.
        huge = np.abs(reward).max() > HUGE
        beside = 0 if self.explore.standard else 1 + 2 * self.shown
        numbers = np.zeros((N, known + beside), dtype=np.float64 if huge else np.float32)
        numbers[:, 0], numbers[:, 1:V] = reward, 0.0 if apart else reward[:, None]
        counted = batch.mask
        if bonus.pays == "pair":  # then G leaves out the bonus at (s,a) itself
            counted = batch.mask.copy()
            counted[:, 0] = False
        if counted.any():
            on_the_way = np.zeros(counted.shape)
            some = batch.steps[counted]
            on_the_way[counted] = bonus.taken(some, replay.actions(some))
            if bonus.pays == "both":  # the same of its part that is known before the step
                on_the_way[:, 0] -= bonus.at(batch.index)[np.arange(N), batch.action]
            paid = replay.discounted(on_the_way, counted, gamma=self.explore.gamma if apart else None)
            for v in range(1, V):
                numbers[:, v] = signs[v] * paid if apart else reward + signs[v] * paid
        numbers[:, V], numbers[:, V + 1], numbers[:, V + 2] = batch.discount, batch.weight, batch.action
        end, ends = batch.end, batch.ends
        if beside:
            end, ends, numbers[:, known:] = self._beside(batch, replay, memory)
        ahead = bonus.at(end)
        for v in range(1, V):
            numbers[:, V + 3 + v * A : V + 3 + (v + 1) * A] = signs[v] * ahead
        for part in (numbers[:, :V], numbers[:, V + 3 : known]):
            part *= self.config.reward_scale
        return ends, numbers.astype(np.float32, copy=False)

    def _beside(
        self, batch: ReplayBatch, replay: Replay, memory: EpisodeMemory | None
    ) -> tuple[IntArray, Array, FloatArray]:
        """Where the second head bootstraps, `end` and `ends`, and what it needs beside G: (N, 1 + 2 M).

        These are its discount, and what it is shown at both ends. Q has discount 0 where `end` is in another episode.
        """
        end, ends, discount = batch.end, batch.ends, batch.discount
        if self.explore.heads == "apart":
            end, discount = replay.beyond(batch, self.explore.gamma, endless=self.explore.endless)
            if (end != batch.end).any():
                ends = replay.observations(np.concatenate([batch.index, end]))
        if memory is None:
            require(not self.shown, "deep: the second head needs the episode's memory.")
            return end, ends, discount[:, None]
        return end, ends, np.concatenate([discount[:, None], memory.at(batch.index), memory.at(end)], axis=1)
