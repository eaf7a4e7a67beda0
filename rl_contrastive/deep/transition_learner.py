"""A memory of single transitions and the contrastive features that learn from it, for code that has its own agent.

Stable-Baselines3's agents use it (`rl_contrastive/bridges/sb3_bonus.py`). `EpisodeLearner` also knows which transitions
follow each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from rl_contrastive.config import require, require_keys
from rl_contrastive.deep.bonus_contract import Chunk, evenly
from rl_contrastive.deep.feature_net import FeatureConfig, FeatureNet, ObsLayout, torch_generator
from rl_contrastive.deep.representation import identical
from rl_contrastive.device import put, require_memory
from rl_contrastive.spec import Array, FloatArray, IntArray, State


class TransitionLearner:
    """Stores the newest transitions and a network that learns from them."""

    knows_episodes = False
    """Whether it can tell which transitions follow each other."""

    def __init__(self, layout: ObsLayout, num_actions: int, config: FeatureConfig, *, rng: np.random.Generator) -> None:
        """rng: initial weights and batches are drawn from it."""
        single = "features: representation.ahead needs episodes, but this memory keeps single transitions"
        fits = self.knows_episodes or config.representation.ahead == 0
        require(fits, f"{single}: it must be 0, got {config.representation.ahead}.")
        self.config, self.layout, self.rng = config, layout, rng
        self.net = FeatureNet(layout, num_actions, config, rng=torch_generator(rng), slots=config.capacity)
        self.stored = self.steps = 0
        """Transitions ever stored, gradient steps ever taken."""
        size = 2 * config.capacity * math.prod(layout.shape) * np.dtype(layout.dtype).itemsize
        require_memory(size, f"features: a memory of {config.capacity} transitions", "lower its capacity")
        self._obs, self._next = (np.zeros((config.capacity, *layout.shape), dtype=layout.dtype) for _ in range(2))
        self._action: IntArray = np.zeros(config.capacity, dtype=np.int64)

    def __len__(self) -> int:
        """Transitions that are kept."""
        return min(self.stored, self.config.capacity)

    def store(self, obs: Array, action: IntArray, next_obs: Array) -> IntArray:
        """Store B transitions over the oldest ones and return their places (B,)."""
        obs, next_obs = np.asarray(obs), np.asarray(next_obs)
        shape = (len(action), *self.layout.shape)
        require(obs.shape == shape == next_obs.shape, f"features: expected {shape}, got {obs.shape}, {next_obs.shape}.")
        require(len(action) <= self.config.capacity, "features: more rows at once than the capacity.")
        place = (self.stored + np.arange(len(action))) % self.config.capacity
        self._obs[place], self._action[place], self._next[place] = obs, action, next_obs
        self.stored += len(action)
        return place

    def leaving(self, count: int) -> tuple[Array, IntArray]:
        """Observations and actions of the transitions that the next `count` ones will replace."""
        place = np.arange(max(self.stored, self.config.capacity), self.stored + count) % self.config.capacity
        return self._obs[place], self._action[place]

    def step(self) -> Tensor:
        """One gradient step on a uniform batch; its loss, on the device."""
        require(len(self) >= 2, "features: a gradient step needs two stored transitions or more.")
        rows = self.rng.integers(len(self), size=self.config.batch_size)
        successors, device = self._positives(rows), self.net.device
        same = put(identical(successors), device) if self.config.representation.mask_identical else None
        batch = (put(array, device) for array in (self._obs[rows], self._action[rows], successors))
        self.steps += 1
        return self.net.descend(*batch, same=same, ids=self.net.slots(rows, self.stored))

    def _positives(self, rows: IntArray) -> Array:
        """What the features of these transitions (N,) shall match: what came next."""
        return self._next[rows]

    def standardise(self) -> None:
        """Centre and scale vector observations by those stored: once, before the first step."""
        require(self.steps == 0, "features: standardise before the first gradient step; later it would undo it.")
        self.net.standardise(self._obs[: len(self)])

    def visits(self, chunk: int = 1024) -> Iterator[Chunk]:
        """(places, actions, frozen phi (n, A, d)) of all that is kept: for `VisitBonus.rebuild`."""
        for start in range(0, len(self), chunk):
            place = np.arange(start, min(start + chunk, len(self)))
            yield place, self._action[place], self.net.phi(self._obs[place])

    def sample(self, rows: int = 4096) -> FloatArray:
        """Frozen phi (n, d) of at most `rows` kept transitions, evenly spread."""
        place = evenly(len(self), rows)
        return self.net.phi(self._obs[place], self._action[place])

    def diagnose(self, rows: int = 512) -> dict[str, float]:
        """`Representation.diagnose` of the online network on the first `rows` kept transitions."""
        n = min(rows, len(self))
        return self.net.diagnose(self._obs[:n], self._action[:n], self._next[:n])

    def state_dict(self) -> State:
        """Networks, optimiser and transitions; the caller saves the generator."""
        n = len(self)
        return {
            "net": self.net.state_dict(),
            "stored": self.stored,
            "steps": self.steps,
            "obs": self._obs[:n].copy(),
            "action": self._action[:n].copy(),
            "next_obs": self._next[:n].copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, ("net", "stored", "steps", "obs", "action", "next_obs"), "features")
        stored = int(state["stored"])
        n = min(stored, self.config.capacity)
        for key, own in (("obs", self._obs), ("action", self._action), ("next_obs", self._next)):
            shape = np.shape(state[key])
            require(shape == (n, *own.shape[1:]), f"features: the saved {key} has shape {shape}, not {n} rows of ours.")
            own[:n] = state[key]
        self.net.load_state_dict(state["net"])
        self.stored, self.steps = stored, int(state["steps"])
