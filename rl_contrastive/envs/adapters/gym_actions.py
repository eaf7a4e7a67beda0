"""Actions of a gymnasium environment as numbers 0..A-1: Discrete as it is, MultiDiscrete flattened, a Box in bins.

Discrete(n, start)   a -> start + a
MultiDiscrete(n_1, ..., n_k)   a -> its mixed-radix digits; A = n_1 ... n_k
Box of k coordinates   each coordinate takes `bins` values evenly from low to high, A = bins^k; 2 bins are bang-bang

gymnasium's DiscretizeAction takes the middles of its bins instead, so none of its actions is at a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from rl_contrastive.errors import RlcError
from rl_contrastive.spec import Array, IntArray

MOST_ACTIONS = 1024
"""Beyond that a value for each action is no sensible table or output layer."""


@dataclass(frozen=True)
class ActionMap:
    """A: number of actions. decode: (B,) whole numbers -> what the vector environment takes."""

    num_actions: int
    decode: Callable[[IntArray], Array]
    note: str = ""
    """One line on what was made of the space; empty where nothing was changed."""


def action_map(name: str, space: gym.Space[Any], bins: int) -> ActionMap:
    """The map of an action space; RlcError names what is allowed and the wrapper that helps."""
    if isinstance(space, gym.spaces.Discrete):
        start = int(space.start)
        return ActionMap(int(space.n), lambda action: action + start)
    if isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        sizes, starts = [int(n) for n in space.nvec], space.start
        count = _few(name, space, sizes)
        note = f"{name}: {space} is flattened to {count} actions."
        return ActionMap(count, lambda action: starts + np.stack(np.unravel_index(action, sizes), axis=-1), note)
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return _bins(name, space, bins)
    raise RlcError(
        f"{name}: actions must be Discrete, MultiDiscrete or a bounded Box, got {space}; a gymnasium.ActionWrapper can "
        "turn others into one of these."
    )


def _bins(name: str, space: gym.spaces.Box, bins: int) -> ActionMap:
    if not space.is_bounded("both"):
        raise RlcError(
            f"{name}: the Box of actions must be bounded, got {space}; gymnasium.wrappers.RescaleAction bounds it."
        )
    low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    sizes = [bins] * len(low)
    count = _few(name, space, sizes)
    grid = np.linspace(low, high, bins)  # (bins, k)
    columns = np.arange(len(low))

    def decode(action: IntArray) -> Array:
        digits = np.stack(np.unravel_index(action, sizes), axis=-1)  # (B, k)
        return grid[digits, columns].reshape(len(action), *space.shape).astype(space.dtype)

    each = f"{len(low)} coordinate{'s' if len(low) > 1 else ''} in {bins} values each, from low to high"
    return ActionMap(count, decode, f"{name}: {space} is discretised, {each}: {count} actions (--env.bins).")


def _few(name: str, space: gym.Space[Any], sizes: list[int]) -> int:
    count = int(np.prod([float(size) for size in sizes]))
    if count > MOST_ACTIONS:
        hint = "take fewer --env.bins, or a wrapper with fewer coordinates"
        raise RlcError(f"{name}: {space} makes {count} joint actions, at most {MOST_ACTIONS} are allowed; {hint}.")
    return count
