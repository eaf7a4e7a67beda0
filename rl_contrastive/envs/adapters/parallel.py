"""A PettingZoo view of any native two-player game: a `ParallelEnv` with the agents "max" and "min".

    env = make_parallel("duel-lock", horizon=4)
    observations, infos = env.reset(seed=3)
    observations, rewards, terminations, truncations, infos = env.step({"max": 1, "min": 0})

Both players see the same observation and rewards["min"] = -rewards["max"]. The view is row 0 of a batch of one, so a
seed gives the episode that a batch's row gives with the same seed.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from pettingzoo import ParallelEnv

from rl_contrastive.config import from_dict, require
from rl_contrastive.envs.base import BatchEnv, Frame
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import entries, get
from rl_contrastive.spec import EnvSpec, ExactModel, IntArray, joint_action

PLAYERS = ("max", "min")
"""The maximiser, who receives the reward, and the minimiser, who pays it."""

Outcome = tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]
"""observations, rewards, terminations, truncations, infos by player."""


class ParallelGame(ParallelEnv[str, Any, Any]):  # type: ignore[misc] # pettingzoo has no types
    """The two players of a batch of one game; `agents` is empty from the end of an episode to the next `reset`."""

    def __init__(self, batch: BatchEnv, render_mode: str | None = None) -> None:
        spec = batch.env_spec
        require(spec.players is not None, f"{spec.name}: one agent plays here; make_parallel needs a two-player game.")
        assert batch.num_envs == 1, "the parallel view needs a batch of one game"
        modes = batch.metadata["render_modes"]
        known = render_mode is None or render_mode in modes
        require(known, f"{spec.name}: unknown render_mode {render_mode!r}; allowed: {', '.join(modes) or 'None only'}.")
        self.batch = batch
        self.env_spec: EnvSpec = spec
        self.metadata = {"name": spec.name, "render_modes": modes, "is_parallelizable": True}
        self.render_mode = render_mode
        self.possible_agents = list(PLAYERS)
        self.agents: list[str] = []
        # One object per player: a user seeds each player's action space apart.
        self.observation_spaces = {p: deepcopy(batch.single_observation_space) for p in PLAYERS}
        self.action_spaces = {p: gym.spaces.Discrete(n) for p, n in zip(PLAYERS, spec.game, strict=True)}

    def observation_space(self, agent: str) -> gym.Space[Any]:
        """What `agent` sees; the same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space[Any]:
        """What `agent` can do, 0..A-1 or 0..B-1; the same object at every call."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Begin an episode; with a seed, the one that row i of a batch begins with the same seed. No options exist."""
        obs, _ = self.batch.reset(seed=None if seed is None else [seed])
        self.agents = list(PLAYERS)
        return self._shared(obs), self._infos()

    def step(self, actions: dict[str, Any]) -> Outcome:
        """Both players act at once: {"max": a, "min": b}."""
        if not self.agents:
            raise RlcError(f"{self.env_spec.name}: the episode is over; call reset() before step().")
        joint = joint_action(self._action(actions, "max"), self._action(actions, "min"), self.env_spec.game)
        obs, reward, terminated, truncated, _ = self.batch.step(joint)
        r, over, cut = float(reward[0]), bool(terminated[0]), bool(truncated[0])
        if over or cut:
            self.agents = []
        # 0.0 - r, because -0.0 would read oddly.
        rewards = {"max": r, "min": 0.0 - r}
        return self._shared(obs), rewards, dict.fromkeys(PLAYERS, over), dict.fromkeys(PLAYERS, cut), self._infos()

    def render(self) -> Frame | None:
        """The picture (height, width, 3) uint8 in render mode "rgb_array", None without one."""
        return self.batch.render() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Nothing to release but the batch."""
        self.batch.close()

    def exact(self) -> ExactModel | None:
        """The batch's exact model, its actions joint."""
        return self.batch.exact()

    def _action(self, actions: dict[str, Any], player: str) -> IntArray:
        """The player's action (1,), checked on its own: b = B would pass for a legal joint action of another a."""
        if set(actions) != set(PLAYERS):
            raise RlcError(
                f"{self.env_spec.name}: step needs the actions of 'max' and 'min', got {sorted(map(str, actions))}."
            )
        action, count = np.asarray(actions[player]), int(self.action_spaces[player].n)
        if action.shape != () or action.dtype.kind not in "iu" or not 0 <= action < count:
            raise RlcError(
                f"{self.env_spec.name}: the action of {player!r} must be an integer in 0..{count - 1}, "
                f"got {actions[player]!r}."
            )
        return action.astype(np.int64).reshape(1)

    def _shared(self, obs: Any) -> dict[str, Any]:
        tabular = self.env_spec.num_states is not None
        return {p: np.int64(obs[0]) if tabular else obs[0].copy() for p in PLAYERS}

    def _infos(self) -> dict[str, dict[str, Any]]:
        return {p: {} for p in PLAYERS}


def make_parallel(name: str, *, render_mode: str | None = None, **fields: Any) -> ParallelGame:
    """The native game `name` as a PettingZoo `ParallelEnv`; `fields` are those of its config."""
    entry, fixed = get("env", name)
    batch = entry.factory(from_dict(entry.config, {**fixed, **fields}), 1)
    if not isinstance(batch, BatchEnv):
        natives = ", ".join(e.name for e in entries("env") if not e.name.endswith(":"))
        raise RlcError(f"make_parallel: {name} is not a native environment; native are {natives}.")
    return ParallelGame(batch, render_mode)
