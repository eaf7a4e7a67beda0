"""The batch base of every native environment: seeds, block-wise random words, next-step autoreset, action checks.

A native environment is a `gymnasium.vector.VectorEnv` whose sub-environments are columns of numpy arrays. A subclass
adds only its dynamics: how episodes start, how one step changes the state, and what is observed.

Autoreset is NEXT_STEP (gymnasium's default): the step that ends an episode returns its true final observation, and
the following `step` ignores that row's action, pays 0 and returns the first observation of a new episode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rl_contrastive.config import require, require_rows
from rl_contrastive.device import require_memory
from rl_contrastive.envs.streams import Streams, Words
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import Array, BoolArray, EnvSpec, ExactModel, FloatArray, IntArray

BLOCK_WORDS = 1 << 15
"""Largest number of random words computed ahead (256 KiB, which stay in the second-level cache)."""

_UNSIGNED = np.dtype(np.uint64)

Frame = NDArray[np.uint8]
"""A picture: (height, width, 3) uint8."""

Outcome = tuple[FloatArray, BoolArray | None, BoolArray | None]
"""reward, terminated, truncated of one step; None, None when only the horizon ends episodes."""


class BatchEnv(VectorEnv[Array, IntArray, Array]):
    """Base of the native environments (one level deep).

    A subclass calls `super().__init__(env_spec, num_envs, words_per_step)` and implements `_prepare`, `_start`,
    `_advance`, `_observe`, `latent_states` and `exact`; with `_draw` it declares render mode "rgb_array". Every `reset`
    or `step` call consumes `words_per_step` (>= 0) random words of every stream, so row i is a function of (seed_i,
    actions of row i) alone.
    """

    def __init__(
        self, env_spec: EnvSpec, num_envs: int, words_per_step: int, observation_space: gym.Space[Any] | None = None
    ) -> None:
        require_rows(f"{env_spec.name}: num_envs", num_envs)
        require(words_per_step >= 0, f"{env_spec.name}: words_per_step must be >= 0, got {words_per_step}.")
        # The observations of a step and of the one before, and the random words of a call, raw and read.
        size = 2 * math.prod(env_spec.obs_shape) * np.dtype(env_spec.obs_dtype).itemsize + 24 * words_per_step
        require_memory(num_envs * size, f"{env_spec.name}: {num_envs} rows", "make fewer")
        self.env_spec = env_spec
        self.num_envs = num_envs
        drawn = type(self)._draw is not BatchEnv._draw
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": ["rgb_array"] if drawn else []}
        self.render_mode = None
        self.single_observation_space = observation_space or default_observation_space(env_spec)
        self.single_action_space = gym.spaces.Discrete(env_spec.num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.h = 0  # step of the episode, common to all rows unless a subclass ends episodes early
        self._streams: Streams | None = None
        self._words_per_step = words_per_step
        self._slot = self._block = 0  # next unused slot of the current block, and the block's length
        self._over: BoolArray | None = None  # rows whose episode ended at the last step (None: no row)
        self._seeding = False  # `_start` is called by `reset`: generators of other libraries are seeded now

    # What a subclass implements.

    def _prepare(self, words: Words) -> None:
        """Turn the raw words (K, W, n) of the next K calls into what `_start`, `_advance`, `_observe` read."""
        raise NotImplementedError

    def _start(self, slot: int, rows: BoolArray | None) -> None:
        """Begin an episode in all rows (None) or in the masked ones, with the randomness of `slot`."""
        raise NotImplementedError

    def _advance(self, action: IntArray, slot: int) -> Outcome:
        """Move every row by one step; a fresh reward array. The flags are None when only the horizon ends."""
        raise NotImplementedError

    def _observe(self, slot: int) -> Array:
        """Fresh observations (n, ...) of the current state."""
        raise NotImplementedError

    def latent_states(self) -> IntArray:
        """(n,) current state of each row in the numbering of `exact()`; for tests and diagnostics only."""
        raise NotImplementedError

    @property
    def tells_latents(self) -> bool:
        """Whether this environment has `latent_states`."""
        return type(self).latent_states is not BatchEnv.latent_states

    def exact(self) -> ExactModel | None:
        """The true model, built on first use, or None where there is none."""
        raise NotImplementedError

    def _draw(self, row: int) -> Frame:
        """The current state of one row as a picture (height, width, 3) uint8; optional."""
        raise RlcError(f"{self.env_spec.name}: this environment has no picture; render() works where it is drawn.")

    # What the world calls.

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every row.

        seed: one seed per row; or an integer s for s, s+1, ...; or None to continue the current streams (fresh
        entropy on the first call). `options` must be empty: these environments have none.
        """
        if options:
            raise RlcError(f"{self.env_spec.name}: reset has no options, got {sorted(options)}.")
        if seed is not None or self._streams is None:
            self._streams = Streams(self._seed_list(seed))
            self._slot = self._block = 0
        slot = self._tick()
        self._seeding = True
        self._begin_all(slot)
        self._seeding = False
        return self._observe(slot), {}

    def step(self, actions: Any) -> tuple[Array, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """One step of every row: (observation, reward, terminated, truncated, {})."""
        action = self._checked(actions)
        slot = self._tick()
        over = self._over
        if over is not None and over.all():
            self._begin_all(slot)
            n = self.num_envs
            return self._observe(slot), np.zeros(n), np.zeros(n, np.bool_), np.zeros(n, np.bool_), {}
        reward, terminated, truncated = self._advance(action, slot)
        self.h += 1
        if terminated is None or truncated is None:
            # Only the horizon ends episodes: rows move in step, and no array has to be searched.
            ends = self.h == self.env_spec.horizon
            terminated = np.ones(self.num_envs, np.bool_) if ends else np.zeros(self.num_envs, np.bool_)
            truncated = np.zeros(self.num_envs, np.bool_)
            self._over = terminated.copy() if ends else None
        else:
            if over is not None:
                self._start(slot, over)
                for flags in (reward, terminated, truncated):
                    flags[over] = 0
            ended = terminated | truncated
            self._over = ended if ended.any() else None
        return self._observe(slot), reward, terminated, truncated, {}

    # A tuple of one frame per row is gymnasium's rule for batches; one row is what a replay needs.
    def render(self, row: int = 0) -> Frame:  # type: ignore[override]
        """A picture (height, width, 3) uint8 of the current state of `row`; an RlcError where there is none."""
        require(0 <= row < self.num_envs, f"{self.env_spec.name}: render has no row {row}, only {self.num_envs} rows.")
        if self._streams is None:
            raise RlcError(f"{self.env_spec.name}: call reset() before render().")
        return self._draw(row)

    def _begin_all(self, slot: int) -> None:
        self.h = 0
        self._over = None
        self._start(slot, None)

    def _seed_list(self, seed: int | Sequence[int | None] | None) -> list[int]:
        if seed is None:
            entropy = np.random.SeedSequence().generate_state(self.num_envs, np.uint64)
            return [int(word) for word in entropy]
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise RlcError(f"{self.env_spec.name}: reset needs {self.num_envs} seeds, one per row, got {len(seeds)}.")
        fresh = self._seed_list(None) if None in seeds else []
        return [fresh[i] if s is None else s for i, s in enumerate(seeds)]

    def _tick(self) -> int:
        """The slot of this call's randomness; refills the block when it is used up.

        The first block after a seeding covers one episode, later ones double up to BLOCK_WORDS: short-lived
        streams waste nothing and long ones pay numpy's call overhead rarely. The numbers do not depend on it.
        """
        if self._slot == self._block:
            if self._streams is None:
                raise RlcError(f"{self.env_spec.name}: call reset() before step().")
            length = 2 * self._block if self._block else self.env_spec.horizon + 1
            cap = max(1, BLOCK_WORDS // (max(self._words_per_step, 1) * self.num_envs))
            length = min(length, cap)
            words = self._streams.words(length * self._words_per_step)
            self._prepare(words.reshape(length, self._words_per_step, self.num_envs))
            self._slot, self._block = 0, length
        self._slot += 1
        return self._slot - 1

    def _checked(self, actions: Any) -> IntArray:
        """Actions as (n,) int64 within 0..A-1, else an RlcError."""
        action = np.asarray(actions)
        if action.shape != (self.num_envs,) or action.dtype.kind not in "iu":
            raise RlcError(
                f"{self.env_spec.name}: step needs {self.num_envs} integer actions, "
                f"got shape {action.shape} of {action.dtype}."
            )
        if action.dtype != np.int64 or not action.flags.c_contiguous:
            action = action.astype(np.int64, order="C")
        # Seen as unsigned a negative action is huge, so the largest one checks both ends (argmax is vectorised
        # better than max).
        unsigned = action.view(_UNSIGNED)
        if unsigned[unsigned.argmax()] >= self.env_spec.num_actions:
            bad = action[(action < 0) | (action >= self.env_spec.num_actions)][0]
            raise RlcError(f"{self.env_spec.name}: action {bad} is outside 0..{self.env_spec.num_actions - 1}.")
        return action


def default_observation_space(spec: EnvSpec) -> gym.Space[Any]:
    """Discrete(S) for tabular specs, an unbounded Box of the spec's shape and dtype otherwise."""
    if spec.num_states is not None:
        return gym.spaces.Discrete(spec.num_states)
    return gym.spaces.Box(-np.inf, np.inf, spec.obs_shape, np.dtype(spec.obs_dtype).type)
