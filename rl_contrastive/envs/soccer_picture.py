"""The picture of a soccer pitch as a numpy array: cells, goals, two players and the ball, drawn by distance masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Cell = tuple[int, int]

CELL = 40
"""Pixels of a cell's side."""
MARGIN_X, MARGIN_Y = 32, 20
GRASS, STRIPE, LINE = (92, 158, 92), (100, 168, 100), (236, 240, 232)
SURROUND, NET, BALL, EDGE = (46, 54, 60), (120, 128, 132), (250, 250, 245), (30, 30, 30)
COLOURS = ((214, 96, 20), (32, 96, 190))
"""Maximiser (orange) and minimiser (blue): they differ in brightness and hue for every kind of sight."""


def draw_pitch(
    shape: Cell, goal_rows: tuple[int, ...], maximiser: Cell, minimiser: Cell, ball: int, over: bool, goal: float
) -> Frame:
    """(200, 264, 3) uint8 for 4 x 5 cells. `ball`: who has it; `over` greys the pitch; `goal` +-1: who just scored.

    Each goal has a post in the colour of the player that scores there, the maximiser left and the minimiser right.
    """
    height, width = shape
    frame = np.empty((height * CELL + 2 * MARGIN_Y, width * CELL + 2 * MARGIN_X, 3), dtype=np.uint8)
    frame[:] = SURROUND
    for row in range(height):
        for column in range(width):
            frame[_box(row, column)] = GRASS if (row + column) % 2 else STRIPE
    for row in range(height + 1):
        y = MARGIN_Y + row * CELL
        frame[y - 1 : y + 1, MARGIN_X : MARGIN_X + width * CELL] = LINE
    for column in range(width + 1):
        x = MARGIN_X + column * CELL
        frame[MARGIN_Y : MARGIN_Y + height * CELL, x - 1 : x + 1] = LINE
    _draw_goals(frame, width, goal_rows, goal if over else 0.0)
    if over:  # players and pitch fade, the goal keeps its light
        inner = frame[MARGIN_Y : MARGIN_Y + height * CELL, MARGIN_X : MARGIN_X + width * CELL]
        inner[:] = (inner // 2 + 60).astype(np.uint8)
    for player, cell in enumerate((maximiser, minimiser)):
        y, x = _centre(cell)
        _disc(frame, y, x, 15, EDGE)
        _disc(frame, y, x, 13, COLOURS[player])
        if ball == player:
            _disc(frame, y + 4, x + 5, 7, EDGE)
            _disc(frame, y + 4, x + 5, 5, BALL)
    return frame


def _draw_goals(frame: Frame, width: int, goal_rows: tuple[int, ...], goal: float) -> None:
    top, bottom = MARGIN_Y + goal_rows[0] * CELL, MARGIN_Y + (goal_rows[-1] + 1) * CELL
    right = MARGIN_X + width * CELL
    for player, (near, far) in enumerate(((MARGIN_X - 20, MARGIN_X - 1), (right + 1, right + 20))):
        lit = goal == (1.0, -1.0)[player]
        frame[top:bottom, near:far] = COLOURS[player] if lit else NET
        if not lit:
            frame[top:bottom:8, near:far] = LINE
        post = slice(near, near + 5) if player == 0 else slice(far - 5, far)
        frame[top:bottom, post] = COLOURS[player]


def _box(row: int, column: int) -> tuple[slice, slice]:
    y, x = MARGIN_Y + row * CELL, MARGIN_X + column * CELL
    return slice(y, y + CELL), slice(x, x + CELL)


def _centre(cell: Cell) -> Cell:
    return MARGIN_Y + cell[0] * CELL + CELL // 2, MARGIN_X + cell[1] * CELL + CELL // 2


def _disc(frame: Frame, y: int, x: int, radius: int, colour: tuple[int, int, int]) -> None:
    rows, columns = np.ogrid[: frame.shape[0], : frame.shape[1]]
    frame[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = colour
