"""A game in which a frozen policy plays one side, as an ordinary environment for a learner of the other side.

    responder max:  actions a,  b ~ nu(.|x, h) of the frozen agent,  reward  r(s, a, b)
    responder min:  actions b,  a ~ mu(.|x, h) of the frozen agent,  reward -r(s, a, b)

Against a fixed opponent a Markov game is an MDP of the latent states (with rich observations still a block MDP), so a
learner for one agent finds the best response.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rl_contrastive.acting import invert
from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.load import side_policies
from rl_contrastive.runs.rollout import autoreset_mode
from rl_contrastive.spec import Agent, Array, BoolArray, Env, ExactModel, FloatArray, IntArray, joint_action

Side = Literal["max", "min"]
STREAM = zlib.crc32(b"frozen opponent")
"""Separates the opponent's random numbers from others that the environment derives from the same seed."""


class OnePlayer(VectorEnv[Array, IntArray, Array]):
    """`game` seen by the responder who plays `side` against the other marginal of `opponent`.

    Row i is a function of its seed and of its own actions, because the opponent draws from generators of the seeds.
    The autoreset mode is the game's. `exact()` is None, because the responder must learn.
    """

    def __init__(self, game: Env, opponent: Agent, side: Side) -> None:
        spec = game.env_spec
        require(spec.players is not None, f"{spec.name} is no two-player game.")
        self.game, self.opponent, self.side = game, opponent, side
        self.num_envs = game.num_envs
        rewards, returns = (
            bounds if side == "max" else (-bounds[1], -bounds[0]) for bounds in (spec.reward_range, spec.return_range)
        )
        self.env_spec = replace(
            spec,
            name=f"{spec.name}, {side} against a fixed opponent",
            num_actions=spec.game[0 if side == "max" else 1],
            players=None,
            optimal_return=None,
            stationary=False,  # the opponent's policy may depend on h
            reward_range=rewards,
            return_range=returns,
        )
        self.metadata = {"autoreset_mode": autoreset_mode(game), "render_modes": []}
        self.render_mode = None
        inner: Any = game
        self.single_observation_space, self.observation_space = inner.single_observation_space, inner.observation_space
        self.single_action_space = gym.spaces.Discrete(self.env_spec.num_actions)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._draws: list[np.random.Generator] = []
        self._uniform = np.zeros((0, self.num_envs))  # the opponent's next numbers, one line a step
        self._obs: Array = np.zeros(0)
        self._h = np.zeros(self.num_envs, dtype=np.int64)
        self._over: BoolArray = np.zeros(self.num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every row, or (DISABLED autoreset) in the rows of options["reset_mask"]."""
        mask = None if options is None else options.get("reset_mask")
        if mask is not None:
            obs, info = self.game.reset(options=options)
            self._h[mask] = 0
        else:
            if seed is not None or not self._draws:
                self._draws = [np.random.Generator(np.random.PCG64(s)) for s in self._sequences(seed)]
                self._uniform = np.zeros((0, self.num_envs))
            obs, info = self.game.reset(seed=seed, options=options)
            self._h[:] = 0
        self._over[:] = False
        self._obs = np.asarray(obs)
        return self._obs, info

    def _sequences(self, seed: int | Sequence[int | None] | None) -> list[np.random.SeedSequence]:
        if seed is None or isinstance(seed, int | np.integer):
            seeds: list[int | None] = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        return [np.random.SeedSequence(s, spawn_key=(STREAM,)) for s in seeds]

    def step(self, actions: Any) -> tuple[Array, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """One step of every row; the opponent sees the same observation and does not know the responder's action."""
        own = np.asarray(actions)
        good = own.shape == (self.num_envs,) and own.dtype.kind in "iu"
        if not good or not ((own >= 0) & (own < self.env_spec.num_actions)).all():
            raise RlcError(
                f"{self.env_spec.name}: step needs {self.num_envs} integers in 0..{self.env_spec.num_actions - 1}."
            )
        other = self._opponent_actions()
        a, b = (own, other) if self.side == "max" else (other, own)
        obs, reward, terminated, truncated, info = self.game.step(joint_action(a, b, self.game.env_spec.game))
        self._advance_clock(terminated | truncated)
        self._obs = np.asarray(obs)
        sign = 1.0 if self.side == "max" else -1.0
        return self._obs, sign * np.asarray(reward, dtype=np.float64), terminated, truncated, info

    def _opponent_actions(self) -> IntArray:
        """The frozen player's actions (n,); rows may be at different steps after early ends."""
        if not len(self._uniform):
            block = self.env_spec.horizon
            self._uniform = np.stack([rng.random(block) for rng in self._draws], axis=1)
        threshold, self._uniform = self._uniform[0], self._uniform[1:]
        players = self.game.env_spec.game
        out = np.zeros(self.num_envs, dtype=np.int64)
        clock = np.minimum(self._h, self.env_spec.horizon - 1)  # rows past their end wait for the others
        for h in np.unique(clock):
            rows = clock == h
            mu, nu = side_policies(self.opponent, self._obs[rows], int(h), players)
            out[rows] = invert(nu if self.side == "max" else mu, threshold[rows])
        return out

    def _advance_clock(self, ended: BoolArray) -> None:
        """NEXT_STEP: the step after an end only resets that row; SAME_STEP: it has been reset already."""
        self._h += 1
        if autoreset_mode(self.game) == AutoresetMode.NEXT_STEP:
            self._h[self._over] = 0
            self._over = ended & ~self._over
        elif autoreset_mode(self.game) == AutoresetMode.SAME_STEP:
            self._h[ended] = 0

    def exact(self) -> ExactModel | None:
        """None: the responder learns from episodes."""
        return None

    def close_extras(self, **kwargs: Any) -> None:
        """Close the game."""
        self.game.close()
