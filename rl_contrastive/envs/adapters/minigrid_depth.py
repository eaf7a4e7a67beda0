"""How deep an agent came into a MiniGrid world: the doors behind it, on the way with the fewest from where it began.

    depth(cell) = least number of doors that lead from the start to the cell; the first room and its doors have 0

A door counts once it is passed, open, closed or locked alike. In MultiRoom this is the number of the room, from 0 on.
Whatever stands in the way and is no wall, such as a ball or a box, is taken to be passable.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from rl_contrastive.spec import IntArray

STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def door_depths(world: Any) -> IntArray:
    """(width, height) depths of the cells of a `MiniGridEnv` that was just reset; -1 where no way leads."""
    grid = world.grid
    kinds = [None if cell is None else cell.type for cell in grid.grid]  # cell (x, y) at y * width + x
    depth = np.full((grid.width, grid.height), -1, dtype=np.int64)
    start = (int(world.agent_pos[0]), int(world.agent_pos[1]))
    depth[start] = 0
    near = deque([start])  # nearest first: a step through a door goes to the end, any other to the front
    while near:
        x, y = near.popleft()
        beyond = kinds[y * grid.width + x] == "door"
        for dx, dy in STEPS:
            i, j = x + dx, y + dy
            inside = 0 <= i < grid.width and 0 <= j < grid.height
            if not inside or kinds[j * grid.width + i] == "wall":
                continue
            through = int(depth[x, y]) + beyond
            if depth[i, j] < 0 or through < depth[i, j]:
                depth[i, j] = through
                (near.append if beyond else near.appendleft)((i, j))
    return depth
