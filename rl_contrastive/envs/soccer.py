"""Grid soccer (Littman 1994): a Markov game whose good policies are random, because any fixed path can be blocked.

Two players on a 4 x 5 grid, one of them with the ball. Both choose a move at once; the two moves are then made one
after the other, in random order:
    into a free cell     the player goes there
    into the other       the player stays, and the ball belongs to the other
    off the pitch        the player stays, unless it has the ball and steps into its goal: +-1, and the game is over
The maximiser scores on the left, the minimiser on the right, through the two middle rows. After a move without a goal
the game ends in a draw with probability `draw`, which makes its value that of Littman's game of discount 1 - draw.

States: s = (19 x + y') 2 + ball for the cells x != y of maximiser and minimiser, y' = y without x's cell in the count:
20 * 19 * 2 = 760, and one more for "over", so that how a game goes on is a function of its state. `observation pixels`
shows the pitch instead, as a grey picture of 50 x 66 bytes.
Source: Littman, "Markov games as a framework for multi-agent reinforcement learning", ICML 1994.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Literal

import gymnasium as gym
import numpy as np

from rl_contrastive.config import In, Options
from rl_contrastive.envs.base import BatchEnv, Frame, Outcome
from rl_contrastive.envs.soccer_picture import draw_pitch
from rl_contrastive.envs.streams import Words, high_half, low_half
from rl_contrastive.planning.equilibrium import nash
from rl_contrastive.registry import register
from rl_contrastive.spec import Array, BoolArray, EnvSpec, ExactModel, FloatArray, IntArray, Layer, LayeredGame

HEIGHT, WIDTH = 4, 5
CELLS = HEIGHT * WIDTH
GOAL_ROWS = (1, 2)
OVER = CELLS * (CELLS - 1) * 2
"""The last state: the game is over. It is only seen as the final observation of an episode."""
NUM_STATES = OVER + 1
MOVES = ("north", "south", "east", "west", "stand")
STEPS = np.array([[-1, 0], [1, 0], [0, 1], [0, -1], [0, 0]])
"""(row, column) change of each move."""
PLAYERS = (len(MOVES), len(MOVES))
START = (1 * WIDTH + 3, 2 * WIDTH + 1)
"""Littman's start: the maximiser in row 1, column 3, the minimiser in row 2, column 1; the ball goes to either."""


@dataclass(frozen=True)
class SoccerConfig(Options, where="soccer"):
    """Littman's soccer with a horizon."""

    draw: Annotated[float, In(0, 1, below=True)] = 0.1
    """Probability that a move without a goal ends the game in a draw: 1 - draw is Littman's discount .9."""
    horizon: Annotated[int, In(1, 10_000)] = 30
    """H: the game is over after that many moves; with draw = .1 four games in a hundred last longer."""
    observation: Literal["state", "pixels"] = "state"
    """state: its number; pixels: the pitch as bytes (50, 66)."""


@dataclass(frozen=True)
class Position:
    """A position, as integer arrays of one shape."""

    cells: tuple[IntArray, IntArray]
    """Cell 5 row + column of the maximiser and of the minimiser."""
    ball: IntArray
    """0 if the maximiser has the ball, else 1."""
    scored: IntArray
    """0 or 1: that player has just scored; -1: nobody."""


def encode(position: Position) -> IntArray:
    """State of a position: 0..759, or OVER after a goal."""
    x, y = position.cells
    s = (x * (CELLS - 1) + y - (y > x)) * 2 + position.ball
    return np.where(position.scored >= 0, OVER, s)


def decode(state: IntArray) -> Position:
    """Position of states 0..759."""
    pair, ball = np.divmod(np.asarray(state, dtype=np.int64), 2)
    x, y = np.divmod(pair, CELLS - 1)
    return Position((x, y + (y >= x)), ball, np.full_like(ball, -1))


def move(position: Position, player: int, action: IntArray) -> Position:
    """One player's move; nothing moves after a goal."""
    own, other = position.cells[player], position.cells[1 - player]
    row, column = own // WIDTH + STEPS[action, 0], own % WIDTH + STEPS[action, 1]
    playing = position.scored < 0
    inside = (row >= 0) & (row < HEIGHT) & (column >= 0) & (column < WIDTH)
    at_goal = (column == (-1 if player == 0 else WIDTH)) & np.isin(row, GOAL_ROWS)
    target = np.where(playing & inside, row * WIDTH + column, own)
    bump = target == other
    own = np.where(bump, own, target)
    return Position(
        cells=(own, other) if player == 0 else (other, own),
        ball=np.where(bump, 1 - player, position.ball),
        scored=np.where(playing & at_goal & (position.ball == player), player, position.scored),
    )


@lru_cache(maxsize=1)
def tables() -> tuple[IntArray, FloatArray]:
    """Successors and rewards (S, AB, 2) of each state, joint action and order (0: the maximiser moves first)."""
    A, B = PLAYERS
    s = np.arange(OVER)[:, None]
    a, b = np.divmod(np.arange(A * B), B)
    successor = np.full((NUM_STATES, A * B, 2), OVER)
    reward = np.zeros((NUM_STATES, A * B, 2))
    for first in (0, 1):
        position = decode(np.broadcast_to(s, (OVER, A * B)))
        for player in (first, 1 - first):
            position = move(position, player, np.broadcast_to(b if player else a, (OVER, A * B)))
        successor[:OVER, :, first] = encode(position)
        reward[:OVER, :, first] = (position.scored == 0) * 1.0 - (position.scored == 1) * 1.0
    return successor, reward


@lru_cache(maxsize=4)
def values(draw: float, horizon: int) -> tuple[FloatArray, FloatArray]:
    """Nash values V (H+1, S) and Q (H, S, AB), by backward induction over the two successors of each move."""
    successor, reward = tables()
    r = reward.mean(axis=2)
    V, Q = np.zeros((horizon + 1, NUM_STATES)), np.zeros((horizon, *r.shape))
    for h in range(horizon - 1, -1, -1):
        Q[h] = r + (1.0 - draw) * V[h + 1][successor].mean(axis=2)  # V of "over" is 0
        V[h] = nash(Q[h].reshape(NUM_STATES, *PLAYERS)).value
    V.flags.writeable = Q.flags.writeable = False
    return V, Q


@lru_cache(maxsize=1)
def transitions(draw: float) -> FloatArray:
    """P (S, AB, S), 116 MB; read-only."""
    successor, _ = tables()
    P = np.zeros((*successor.shape[:2], NUM_STATES))
    s, ab = np.ogrid[: P.shape[0], : P.shape[1]]
    for order in (0, 1):
        P[s, ab, successor[..., order]] += 0.5 * (1.0 - draw)
    P[..., OVER] += draw  # a goal ends the game whatever the draw
    P.flags.writeable = False
    return P


@lru_cache(maxsize=1)
def pictures() -> Array:
    """(S, 50, 66) uint8: every fourth pixel of each state's picture, in grey; black for "over". Read-only."""
    found = np.zeros((NUM_STATES, 50, 66), dtype=np.uint8)
    for s in range(OVER):
        position = decode(np.array(s))
        x, y = (divmod(int(cell), WIDTH) for cell in position.cells)
        frame = draw_pitch((HEIGHT, WIDTH), GOAL_ROWS, x, y, int(position.ball), False, 0.0)
        found[s] = frame[::4, ::4].mean(axis=2)
    found.flags.writeable = False
    return found


@register("env", "soccer", SoccerConfig)
class SoccerEnv(BatchEnv):
    """Littman's grid soccer: a zero-sum game of 761 states where only random policies are safe."""

    action_names = MOVES
    """Names of the actions in replays."""

    def __init__(self, config: SoccerConfig, num_envs: int) -> None:
        self.config = config
        self._pictures = pictures() if config.observation == "pixels" else None
        spec = EnvSpec(
            name="soccer",
            num_actions=PLAYERS[0] * PLAYERS[1],
            horizon=config.horizon,
            obs_shape=() if self._pictures is None else self._pictures.shape[1:],
            obs_dtype="int64" if self._pictures is None else "uint8",
            num_states=NUM_STATES if self._pictures is None else None,
            optimal_return=float(start_distribution() @ values(config.draw, config.horizon)[0][0]),
            reward_range=(-1.0, 1.0),
            return_range=(-1.0, 1.0),
            players=PLAYERS,
            stationary=True,
        )
        bytes_space = None if self._pictures is None else gym.spaces.Box(0, 255, spec.obs_shape, np.uint8)
        super().__init__(spec, num_envs, words_per_step=1, observation_space=bytes_space)
        self._successor, self._reward = tables()
        self._state: IntArray = np.full(num_envs, OVER)
        self._before, self._goal = self._state, np.zeros(num_envs)  # what a picture of an ended game shows
        self._clock: IntArray = np.zeros(num_envs, dtype=np.int64)

    def _prepare(self, words: Words) -> None:
        # The high half decides about the draw, the lowest bit about the order of the moves, or who gets the ball.
        self._draws = high_half(words[:, 0]) < self.config.draw * 2.0**32  # (K, n)
        self._coin = low_half(words[:, 0]) & 1

    def _start(self, slot: int, rows: BoolArray | None) -> None:
        first = start_states()[self._coin[slot]]
        begun = np.ones(self.num_envs, np.bool_) if rows is None else rows
        self._state = np.where(begun, first, self._state)
        self._clock = np.where(begun, 0, self._clock)

    def _advance(self, action: IntArray, slot: int) -> Outcome:
        before, order = self._state, self._coin[slot]
        reward = self._reward[before, action, order]
        successor = self._successor[before, action, order]
        self._state = np.where(self._draws[slot], OVER, successor)
        self._before, self._goal = before, reward.copy()
        self._clock = self._clock + 1
        terminated = (self._state == OVER) | (self._clock == self.config.horizon)
        return reward, terminated, np.zeros(self.num_envs, np.bool_)

    def _observe(self, slot: int) -> Array:
        return self._state.copy() if self._pictures is None else self._pictures[self._state]

    def latent_states(self) -> IntArray:
        """(n,) state indices."""
        return self._state.copy()

    def _draw(self, row: int) -> Frame:
        """The pitch; of an ended game, the position before its last move, with the goal lit up where it was made."""
        state, over = self._state[row], bool(self._state[row] == OVER)
        position = decode(self._before[row] if over else state)
        x, y = (divmod(int(cell), WIDTH) for cell in position.cells)
        return draw_pitch((HEIGHT, WIDTH), GOAL_ROWS, x, y, int(position.ball), over, float(self._goal[row]))

    def exact(self) -> ExactModel | None:
        """P, r, V, Q over the 761 states, None of pixels. No factors: the kernel's rank is full (761), so none are
        shorter than P."""
        return self._exact if self._pictures is None else None

    def layered(self, most: int) -> LayeredGame | None:
        """The 760 positions at each step."""
        H, draw = self.config.horizon, self.config.draw
        if most < OVER * H:
            return None
        successor, reward = (table[:OVER].reshape(OVER, *PLAYERS, 2) for table in tables())
        following = np.concatenate(
            [np.where(successor == OVER, -1, successor), np.full((OVER, *PLAYERS, 1), -1)], axis=3
        )
        own = np.broadcast_to(np.arange(PLAYERS[0]), (OVER, PLAYERS[0]))
        obs = np.arange(OVER) if self._pictures is None else self._pictures[:OVER]
        chances = np.array([(1.0 - draw) / 2, (1.0 - draw) / 2, draw])
        layer = Layer(obs, own, own, reward.mean(axis=3), following, chances)
        last = Layer(obs, own, own, reward.mean(axis=3), np.full_like(following, -1), chances)
        return LayeredGame(start_distribution()[:OVER], (*[layer] * (H - 1), last))

    @cached_property
    def _exact(self) -> ExactModel:
        H = self.config.horizon
        P = transitions(self.config.draw)
        r = tables()[1].mean(axis=2)
        V, Q = values(self.config.draw, H)
        return ExactModel(
            P=np.broadcast_to(P, (H, *P.shape)),
            r=np.broadcast_to(r, (H, *r.shape)),
            rho=start_distribution(),
            phi=None,
            psi=None,
            V=V,
            Q=Q,
            observations_are_states=True,
            players=PLAYERS,
        )


def start_states() -> IntArray:
    """(2,) the start with the ball at the maximiser, and at the minimiser."""
    x, y = (np.full(2, cell) for cell in START)
    return encode(Position((x, y), np.arange(2), np.full(2, -1)))


def start_distribution() -> FloatArray:
    """rho (S,)."""
    rho = np.zeros(NUM_STATES)
    rho[start_states()] = 0.5
    return rho
