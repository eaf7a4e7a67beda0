"""MinAtar's five games side by side: `minatar:Breakout`, boolean planes, sticky actions and ramps as the package plays.

An observation is (C, 10, 10) bool: the package's (10, 10, C) with its channels first, as torch's convolutions take
them. The games themselves are the package's own (Young and Tian 2019); here they are only seeded and batched. `reset`
gives the game of row i a seed from the stream of row i, and all that follows is a function of it and of that row's
actions. One thing differs: a sticky first action repeats the last one of the episode before there, and "stay" here.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium as gym
import numpy as np

from rl_contrastive.config import MOST_COPIES, Ge, In, Options, require_rows
from rl_contrastive.envs.base import BatchEnv, Frame, Outcome
from rl_contrastive.envs.streams import Words, integers
from rl_contrastive.errors import RlcError, unknown_name
from rl_contrastive.registry import register
from rl_contrastive.spec import Array, BoolArray, EnvSpec, IntArray

GAMES = {
    "Asterix": "asterix",
    "Breakout": "breakout",
    "Freeway": "freeway",
    "Seaquest": "seaquest",
    "SpaceInvaders": "space_invaders",
}
"""Name after the colon -> the package's module."""
ACTION_WORDS = {"n": "stay", "l": "left", "u": "up", "r": "right", "d": "down", "f": "fire"}


@dataclass(frozen=True)
class MinAtarConfig(Options, where="minatar"):
    """One of MinAtar's games."""

    id: str = "Breakout"
    """Asterix | Breakout | Freeway | Seaquest | SpaceInvaders; given after the colon of `minatar:ID`."""
    horizon: Annotated[int, Ge(1)] = 5000
    """H, steps after which a game is cut. The package knows no limit, but for Freeway's own 2501 steps."""
    sticky: Annotated[float, In(0, 1, below=True)] = 0.1
    """Probability that the last action is played once more instead; the package's default."""
    ramping: bool = True
    """Difficulty rises during a game (Asterix, Seaquest, SpaceInvaders); the package's default."""
    minimal_actions: bool = True
    """Only actions that do something in this game (the package's `-v1`), instead of all six (`-v0`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.id not in GAMES:
            raise unknown_name("MinAtar game", self.id, GAMES)


@register("env", "minatar:", MinAtarConfig)
def make_minatar(config: MinAtarConfig, num_envs: int) -> MinAtarEnv:
    """MinAtar's 10 x 10 games: minatar:Breakout, Asterix, Freeway, Seaquest, SpaceInvaders (extra: bench)."""
    try:
        from minatar import Environment  # here, because it brings matplotlib and seaborn with it
    except ImportError as error:
        raise RlcError(f"minatar:{config.id} needs MinAtar: pip install -e '.[bench]'.") from error
    require_rows(f"minatar:{config.id}: num_envs", num_envs, MOST_COPIES)
    games = [Environment(GAMES[config.id], config.sticky, config.ramping) for _ in range(num_envs)]
    return MinAtarEnv(config, games)


class MinAtarEnv(BatchEnv):
    """The package's games as rows of a batch."""

    def __init__(self, config: MinAtarConfig, games: list[Any]) -> None:
        self.config, self.games = config, games
        first = games[0]
        actions = first.minimal_action_set() if config.minimal_actions else range(first.num_actions())
        self._actions = np.array(actions, dtype=np.int64)  # our numbers -> the package's
        self.action_names = tuple(ACTION_WORDS[first.env.action_map[a]] for a in self._actions)
        height, width, channels = first.state_shape()
        spec = EnvSpec(
            name=f"minatar:{config.id}",
            num_actions=len(self._actions),
            horizon=config.horizon,
            obs_shape=(channels, height, width),
            obs_dtype="bool",
            reward_range=(0.0, np.inf),
        )
        space: gym.Space[Any] = gym.spaces.Box(0, 1, spec.obs_shape, np.dtype("bool"))
        super().__init__(spec, len(games), words_per_step=1, observation_space=space)
        self._taken = np.zeros(len(games), dtype=np.int64)

    def _prepare(self, words: Words) -> None:
        self._seeds = integers(words[:, 0], 2**31)  # (K, n): what numpy's legacy generator takes

    def _start(self, slot: int, rows: BoolArray | None) -> None:
        for row in range(self.num_envs) if rows is None else np.flatnonzero(rows).tolist():
            game = self.games[row]
            if self._seeding:
                game.seed(int(self._seeds[slot, row]))
            game.last_action = 0
            game.reset()
            self._taken[row] = 0

    def _advance(self, action: IntArray, slot: int) -> Outcome:
        n, over = self.num_envs, self._over
        reward, terminated = np.zeros(n), np.zeros(n, dtype=np.bool_)
        for row, (game, a) in enumerate(zip(self.games, self._actions[action].tolist(), strict=True)):
            if over is None or not over[row]:  # an ended game draws no numbers: its next one begins like a single's
                reward[row], terminated[row] = game.act(a)
        self._taken += 1
        return reward, terminated, (self._taken >= self.config.horizon) & ~terminated

    def _observe(self, slot: int) -> Array:
        out = np.empty((self.num_envs, *self.env_spec.obs_shape), dtype=np.bool_)
        for row, game in enumerate(self.games):
            out[row] = game.state().transpose(2, 0, 1)
        return out

    def exact(self) -> None:
        """None: the games' states are too many to list."""

    def _draw(self, row: int) -> Frame:
        """(10, 10, 3): a colour a channel, the highest channel of a cell on top, black where there is none."""
        state = self.games[row].state()  # (10, 10, C)
        colours = palette(state.shape[2])
        top = (state * (np.arange(state.shape[2]) + 1)).max(axis=2)
        frame: Frame = colours[top]
        return frame


def palette(channels: int) -> Array:
    """(C + 1, 3) uint8: black, then C hues around the circle."""
    hues = [colorsys.hsv_to_rgb(c / channels, 0.65, 1.0) for c in range(channels)]
    return np.round(255 * np.array([(0.0, 0.0, 0.0), *hues])).astype(np.uint8)
