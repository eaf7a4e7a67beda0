"""What a MiniGrid agent sees, computed fast: the package's partial view, equal to the last bit.

The package builds three small grids of Python objects a step (slice, rotate, encode); here the cells in view are looked
up once, by precomputed offsets, in the world's own list. The rule of what is hidden is the package's `process_vis`:
light spreads from the agent row by row, first to the right, then to the left, through cells that can be seen through.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_contrastive.spec import IntArray

Image = NDArray[np.uint8]
"""(V, V, 3): object, colour and state of the cell in column i and row j; the agent stands at (V // 2, V - 1)."""

EMPTY, WALL = (1, 0, 0), (2, 5, 0)
"""Codes of a cell with nothing in it, and of the grey wall that stands outside the world."""


class PartialView:
    """`image(env)` for views of V x V cells: a drop-in for the image of the package's `gen_obs`."""

    def __init__(self, size: int) -> None:
        self.size = size
        forward = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])  # of the directions 0..3
        right = np.stack([-forward[:, 1], forward[:, 0]], axis=1)
        i, j = np.divmod(np.arange(size * size), size)  # cell k = i V + j
        ahead, aside = size - 1 - j, i - size // 2
        # (4, V V): where each cell of the view lies, seen from the agent.
        self._dx: IntArray = ahead * forward[:, :1] + aside * right[:, :1]
        self._dy: IntArray = ahead * forward[:, 1:] + aside * right[:, 1:]
        self._agent = (size // 2) * size + size - 1

    def image(self, env: Any) -> Image:
        """The view of a `MiniGridEnv` in its current state."""
        grid, size = env.grid, self.size
        x = self._dx[env.agent_dir] + int(env.agent_pos[0])
        y = self._dy[env.agent_dir] + int(env.agent_pos[1])
        inside = (x >= 0) & (x < grid.width) & (y >= 0) & (y < grid.height)
        places: list[int] = np.where(inside, y * grid.width + x, -1).tolist()
        world = grid.grid
        codes, opaque = [], []
        for place in places:
            cell = world[place] if place >= 0 else None
            if cell is not None:
                codes.append(cell.encode())
                opaque.append(not cell.see_behind())
            else:
                codes.append(EMPTY if place >= 0 else WALL)
                opaque.append(place < 0)
        image = np.array(codes, dtype=np.uint8)
        if not env.see_through_walls:
            # Light spreads before the agent's own cell shows what it carries: the order of the package.
            image[~lit(bytes(opaque), size)] = 0
        image[self._agent] = EMPTY if env.carrying is None else env.carrying.encode()
        return image.reshape(size, size, 3)


@lru_cache(maxsize=1 << 16)
def lit(opaque: bytes, size: int) -> NDArray[np.bool_]:
    """(V V,) cells that the agent sees, of the V V cells' flags "cannot be seen through"; read-only.

    Walls stand still, so the same few patterns come again and again: they are kept.
    """
    seen = [False] * (size * size)
    seen[(size // 2) * size + size - 1] = True
    for j in range(size - 1, -1, -1):
        for step, columns in ((size, range(size - 1)), (-size, range(size - 1, 0, -1))):
            for i in columns:
                k = i * size + j
                if seen[k] and not opaque[k]:
                    seen[k + step] = True
                    if j > 0:
                        seen[k + step - 1] = seen[k - 1] = True
    mask = np.array(seen)
    mask.flags.writeable = False
    return mask
