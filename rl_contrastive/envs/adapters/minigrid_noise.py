"""Noise for MiniGrid's worlds: what an agent sees never repeats, while the world itself stays as it is.

    disco     at every step each cell of the view that is empty, floor or wall gets a colour code drawn uniformly from
              the six: a place with k such cells has 6^k equally likely pictures
    gaussian  x + scale N(0, 1) for each number x of the view, where the codes 0..n-1 of a plane become code / (n - 1)
              in [0, 1], and flags stay 0 or 1; DEIR (Wan et al. 2023) adds it with scale .1
    tv        a ball in the first room, whose colour the action `drop` draws anew, wherever the agent is (RIDE,
              Raileanu and Rocktaeschel 2020); nothing can be dropped then

The noise of a step is a function of the row's words alone, so a batch equals its singles. What cannot be seen stays 0
under disco. Neither positions nor doors, keys and goals change their look, except by Gaussian noise.
"""

from __future__ import annotations

from types import MethodType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rl_contrastive.config import require
from rl_contrastive.envs.streams import Words, integers, normals
from rl_contrastive.spec import Array

Kind = Literal["none", "disco", "gaussian", "tv"]
COLOURS = 6
SURFACES = (1, 2, 3)
"""Object codes of empty cells, walls and floor."""
Codes = NDArray[np.uint8]


class Disco:
    """Colours of surfaces, drawn anew at every step."""

    def __init__(self, size: int) -> None:
        self.size, self.words = size, size * size
        """Random words a step and row: one for each cell."""

    def prepare(self, words: Words) -> None:
        """The colours of the next K steps, from words (K, V V, n)."""
        self._colours = integers(words, COLOURS).astype(np.uint8)

    def recolour(self, codes: Codes, slot: int) -> Codes:
        """Codes (n, planes, V, V) with other colours."""
        out = codes.copy()
        drawn = self._colours[slot].T.reshape(len(codes), self.size, self.size)
        out[:, 1] = np.where(np.isin(codes[:, 0], SURFACES), drawn, codes[:, 1])
        return out


class Gaussian:
    """Normal noise on every number of an observation."""

    def __init__(self, shape: tuple[int, ...], scale: float) -> None:
        self.numbers, self.scale = int(np.prod(shape)), np.float32(scale)
        self.words = (self.numbers + 1) // 2
        """Random words a step and row: one for two numbers."""

    def prepare(self, words: Words) -> None:
        """The noise of the next K steps, from words (K, W, n)."""
        self._noise = normals(words) * self.scale  # (2, K, W, n)

    def add(self, x: Array, slot: int) -> Array:
        """Numbers (n, *shape) with noise, float32."""
        noise = self._noise[:, slot].reshape(-1, len(x))[: self.numbers]
        out: Array = x.astype(np.float32) + noise.T.reshape(x.shape)
        return out


def install_television(world: Any, name: str) -> None:
    """Put a ball into the first room at each reset, whose colour `drop` draws; RlcError for worlds without rooms."""
    from minigrid.core import world_object
    from minigrid.core.constants import COLOR_NAMES

    require(
        hasattr(world, "rooms"), f"{name}: noise tv stands in the first of several rooms: it needs a MultiRoom world."
    )
    Ball: Any = world_object.Ball
    step, draw, drop = world.step, world._gen_grid, int(world.actions.drop)

    def drawn(self: Any, width: int, height: int) -> None:
        draw(width, height)
        self.television = Ball(self._rand_elem(COLOR_NAMES))
        self.place_obj(self.television, self.rooms[0].top, self.rooms[0].size)

    def moved(self: Any, action: int) -> Any:
        if action != drop:
            return step(action)
        self.television.color = self._rand_elem(COLOR_NAMES)
        return step(self.actions.done)  # which changes nothing, and takes a step

    world._gen_grid, world.step = MethodType(drawn, world), MethodType(moved, world)
