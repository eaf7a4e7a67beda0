"""Sparse cart-pole swing-up (bsuite's rule): moving costs, and only an upright, slow, centred pole pays.

A pole hangs from a cart. Each step pushes the cart left, not at all, or right; a push costs `move_cost`, and 1 is paid
where cos(theta) > height_threshold, |theta'| < theta_dot_threshold and |x| < x_reward_threshold. A policy that dithers
never sees the 1 and learns to stand still. The clock is part of the observation, so running out of time is a true end.

Dynamics (Barto, Sutton and Anderson 1983; M = cart, m = pole, l = half its length, F the push), by explicit Euler:

    (M + m) x'' + m l (theta'' cos theta - theta'^2 sin theta) = F
    4/3 l theta'' + x'' cos theta = g sin theta

Source of the rule and of the constants: bsuite, experiments/cartpole_swingup (sweep: height n/20, centre 1 - n/20).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import gymnasium as gym
import numpy as np

from rl_contrastive.config import Ge, Gt, In, Options
from rl_contrastive.envs.base import BatchEnv, Frame, Outcome
from rl_contrastive.envs.streams import Words, high_half, low_half
from rl_contrastive.registry import register
from rl_contrastive.spec import Array, BoolArray, EnvSpec, FloatArray

CART, POLE, HALF_LENGTH, FORCE, GRAVITY = 1.0, 0.1, 0.5, 10.0, 9.8
"""M and m in kg, l in m, the push in N, g in m/s^2."""
FAST = 1e3
"""Far beyond any speed that is reached: gymnasium wants a finite box."""
HEIGHT, WIDTH = 120, 240
"""Pixels of the picture."""


@dataclass(frozen=True)
class SwingupConfig(Options, where="swingup"):
    """Cart-pole swing-up by bsuite's rules."""

    horizon: Annotated[int, In(1, 1_000_000)] = 1000
    """H, steps of an episode. bsuite's clock of 10 s, summed in floating point, allows one more."""
    height_threshold: Annotated[float, In(-1, 1, below=True)] = 0.5
    """cos(theta) must be above this to be paid."""
    theta_dot_threshold: Annotated[float, Gt(0)] = 1.0
    """|theta'| in rad/s must be below this to be paid."""
    x_reward_threshold: Annotated[float, Gt(0)] = 1.0
    """|x| in m must be below this to be paid."""
    move_cost: Annotated[float, Ge(0)] = 0.1
    """Cost of a step with a push."""
    x_threshold: Annotated[float, Gt(0)] = 3.0
    """|x| in m beyond which the episode ends."""
    timescale: Annotated[float, Gt(0)] = 0.01
    """Seconds of a step."""
    init_range: Annotated[float, Ge(0)] = 0.05
    """Each of x, x', theta - pi, theta' starts uniform in [-init_range, init_range]."""


def accelerations(theta: FloatArray, theta_dot: FloatArray, force: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(x'', theta'') of the two equations above; theta = 0 is upright."""
    cos, sin, total = np.cos(theta), np.sin(theta), CART + POLE
    push = (force + POLE * HALF_LENGTH * theta_dot**2 * sin) / total
    theta_acc = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4.0 / 3.0 - POLE * cos**2 / total))
    return push - POLE * HALF_LENGTH * theta_acc * cos / total, theta_acc


@register("env", "swingup", SwingupConfig)
class SwingupEnv(BatchEnv):
    """Sparse cart-pole swing-up by bsuite's rules: moving costs .1, upright and centred pays 1."""

    action_names = ("left", "stay", "right")

    def __init__(self, config: SwingupConfig, num_envs: int) -> None:
        self.config = config
        spec = EnvSpec(
            name="swingup",
            num_actions=3,
            horizon=config.horizon,
            obs_shape=(8,),
            obs_dtype="float32",
            reward_range=(-config.move_cost, 1.0),
        )
        bound = np.array([FAST, FAST, 1, 1, FAST, 1, 1, 1], dtype=np.float32)
        space = gym.spaces.Box(-bound, bound, dtype=np.float32)
        super().__init__(spec, num_envs, words_per_step=2, observation_space=space)
        # x, x', theta, theta': (4, n). The number of steps taken is a row's own, because a cart may leave early.
        self._state: FloatArray = np.zeros((4, num_envs))
        self._taken = np.zeros(num_envs, dtype=np.int64)

    def _prepare(self, words: Words) -> None:
        halves = np.concatenate([high_half(words), low_half(words)], axis=1)  # (K, 4, n)
        self._initial = self.config.init_range * ((halves + 0.5) * 2.0**-31 - 1.0)
        self._initial[:, 2] += np.pi

    def _start(self, slot: int, rows: BoolArray | None) -> None:
        if rows is None:
            self._state, self._taken = self._initial[slot].copy(), np.zeros(self.num_envs, dtype=np.int64)
        else:
            self._state[:, rows] = self._initial[slot][:, rows]
            self._taken[rows] = 0

    def _advance(self, action: Array, slot: int) -> Outcome:
        config, dt = self.config, self.config.timescale
        x, x_dot, theta, theta_dot = self._state
        x_acc, theta_acc = accelerations(theta, theta_dot, (action - 1) * FORCE)
        # Positions move by the old velocities: explicit Euler, as in bsuite.
        angle = np.remainder(theta + dt * theta_dot, 2.0 * np.pi)
        self._state = np.stack([x + dt * x_dot, x_dot + dt * x_acc, angle, theta_dot + dt * theta_acc])
        self._taken = self._taken + 1
        reward = np.where(self.upright(), 1.0, 0.0) - config.move_cost * (action != 1)
        ended = (np.abs(self._state[0]) > config.x_threshold) | (self._taken >= config.horizon)
        return reward, ended, np.zeros(self.num_envs, dtype=np.bool_)

    def upright(self) -> BoolArray:
        """(n,) rows whose pole is high, slow and centred."""
        config = self.config
        x, _, theta, theta_dot = self._state
        high = np.cos(theta) > config.height_threshold
        slow = np.abs(theta_dot) < config.theta_dot_threshold
        return np.asarray(high & slow & (np.abs(x) < config.x_reward_threshold))

    def _observe(self, slot: int) -> Array:
        """x/X, x'/X, sin, cos, theta', h/H, and +-1 for "centred" and "slow", with X = x_threshold."""
        config = self.config
        x, x_dot, theta, theta_dot = self._state
        columns = [
            x / config.x_threshold,
            x_dot / config.x_threshold,
            np.sin(theta),
            np.cos(theta),
            theta_dot,
            self._taken / config.horizon,
            np.where(np.abs(x) < config.x_reward_threshold, 1.0, -1.0),
            np.where(np.abs(theta_dot) < config.theta_dot_threshold, 1.0, -1.0),
        ]
        return np.stack(columns, axis=1).astype(np.float32)

    def exact(self) -> None:
        """None: the states are a continuum."""

    def _draw(self, row: int) -> Frame:
        """Track, paid zone, cart and pole; the pole turns green where it pays."""
        x, _, theta, _ = (float(value) for value in self._state[:, row])
        picture = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
        scale = WIDTH / (2.4 * self.config.x_threshold)  # pixels of a metre; a fifth of the width lies off the track
        track, zone = HEIGHT * 3 // 5, self.config.x_reward_threshold
        picture[track : track + 2] = 200
        picture[track : track + 2, _pixels(-zone, scale) : _pixels(zone, scale)] = (0, 158, 115)
        centre = _pixels(x, scale)
        picture[track - 6 : track, max(centre - 10, 0) : max(centre + 10, 0)] = 60
        along = np.linspace(0.0, 2.0 * HALF_LENGTH * scale, 80)  # 1 m
        columns = (centre + np.sin(theta) * along).astype(np.int64)
        heights = (track - 6 - np.cos(theta) * along).astype(np.int64)
        colour = (0, 158, 115) if self.upright()[row] else (0, 114, 178)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                r, c = heights + dy, columns + dx
                inside = (r >= 0) & (r < HEIGHT) & (c >= 0) & (c < WIDTH)
                picture[r[inside], c[inside]] = colour
        return picture


def _pixels(x: float, scale: float) -> int:
    """Column of position x."""
    return int(np.clip(WIDTH / 2 + x * scale, 0, WIDTH))
