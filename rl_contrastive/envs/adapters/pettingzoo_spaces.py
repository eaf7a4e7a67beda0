"""Whether a PettingZoo environment is a two-player game of this library, and how its observations become one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from pettingzoo import AECEnv

from rl_contrastive.config import require
from rl_contrastive.envs.adapters.gym_features import FeatureKind, FeatureMap, check_space, feature_map
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import Array

ALLOWED = "allowed are parallel environments of two players with Discrete actions and rewards that sum to zero"


def two_players(name: str, env: Any) -> tuple[list[Any], list[gym.spaces.Discrete], list[gym.Space[Any]]]:
    """The two agents, their action spaces and observation spaces; RlcError where the environment is no such game."""
    if isinstance(env, AECEnv):
        raise RlcError(f"{name}: the players move in turns (an AECEnv); {ALLOWED}.")
    missing = [x for x in ("possible_agents", "reset", "step", "action_space") if not hasattr(env, x)]
    require(not missing, f"{name}: this is no PettingZoo ParallelEnv, it has no {', '.join(missing)}.")
    players = list(env.possible_agents)
    require(len(players) == 2, f"{name}: it has {len(players)} players; {ALLOWED}.")
    actions = [env.action_space(player) for player in players]
    for space in actions:
        require(isinstance(space, gym.spaces.Discrete), f"{name}: the action space is {space}; {ALLOWED}.")
    seen = [env.observation_space(player) for player in players]
    for space in seen:
        check_space(name, "observations", space)
    return players, actions, seen


def joint_features(
    name: str, spaces: list[gym.Space[Any]], kind: FeatureKind, resolution: int
) -> tuple[FeatureMap, Callable[[list[Array]], Any]]:
    """The map of the joint observation, and what turns one column per player (n, ...) into its argument."""
    spaces_text = ", ".join(map(str, spaces))
    finite = (gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)
    if all(isinstance(space, finite) for space in spaces):
        factors = gym.spaces.Tuple([factor for space in spaces for factor in _factors(space)])

        def split(columns: list[Array]) -> tuple[Array, ...]:
            return tuple(x for column in columns for x in column.reshape(len(column), -1).T)

        return _features(name, factors, kind, resolution), split
    require(
        all(isinstance(space, gym.spaces.Box) for space in spaces),
        f"{name}: observations must be finite (Discrete, MultiDiscrete, MultiBinary) or Box; got {spaces_text}.",
    )
    low, high = (
        np.concatenate([np.ravel(getattr(space, end)).astype(np.float32) for space in spaces])
        for end in ("low", "high")
    )

    def flatten(columns: list[Array]) -> Array:
        return np.concatenate([x.reshape(len(x), -1).astype(np.float32) for x in columns], axis=1)

    return _features(name, gym.spaces.Box(low, high, dtype=np.float32), kind, resolution), flatten


def _features(name: str, space: gym.Space[Any], kind: FeatureKind, resolution: int) -> FeatureMap:
    try:
        return feature_map(space, kind, resolution, tilings=4, scale=1.0)
    except RlcError as error:
        raise RlcError(f"{name}: {str(error).removeprefix('gym: ')}") from error


def _factors(space: Any) -> list[gym.spaces.Discrete]:
    """A finite space as a list of Discrete ones."""
    if isinstance(space, gym.spaces.Discrete):
        return [space]
    if isinstance(space, gym.spaces.MultiBinary):
        return [gym.spaces.Discrete(2)] * int(np.prod(space.shape))
    starts = np.ravel(space.start)
    return [gym.spaces.Discrete(int(n), start=int(s)) for n, s in zip(np.ravel(space.nvec), starts, strict=True)]


def own_limit(env: Any) -> int | None:
    """The limit on an episode's steps that the environment itself publishes."""
    for holder in (env, getattr(env, "unwrapped", env), getattr(env, "aec_env", None)):
        for field in ("max_cycles", "num_cycles"):
            limit = getattr(holder, field, None)
            if isinstance(limit, int | np.integer) and not isinstance(limit, bool) and limit >= 1:
                return int(limit)
    limit = getattr(env, "metadata", {}).get("max_cycles")
    return limit if isinstance(limit, int) and limit >= 1 else None
