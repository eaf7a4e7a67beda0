"""Atari 2600 games side by side: `atari:Pong`, on ale-py's own vector environment, with the 100k protocol's settings.

Frames are grey, 84 x 84, the maximum of the last two of `frame_skip` emulated ones. An agent sees one frame at a time
and stacks `EnvSpec.frame_stack` of them itself, so that a replay keeps each frame once; `stacked` gives whole stacks.

The protocol of SPR and its family (mila-iqia/spr, rlpyt_atari_env.py): no sticky actions, up to 30 idle frames at the
start, no fire action, at most 27000 steps (108000 frames). In training only, rewards are reduced to their signs and a
lost life is an end for learning: its discount is 0, and play goes on (`info["life_lost"]`).

`reset` gives the emulator of row i a seed from the stream of row i, and all that follows is a function of it and of the
row's actions. Later games go on with the emulator's own generator, because seeding one takes as long as 150 steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import gymnasium as gym
import numpy as np

from rl_contrastive.config import Ge, In, Options, require, require_rows
from rl_contrastive.envs.base import BatchEnv, Frame, Outcome
from rl_contrastive.envs.streams import Words, integers
from rl_contrastive.errors import RlcError, unknown_name
from rl_contrastive.registry import register
from rl_contrastive.spec import Array, BoolArray, EnvSpec, FloatArray, IntArray

SCREEN = (210, 160)
"""Height and width of the console's picture."""
MOST_EMULATORS = 1 << 10
"""Rows at most: an emulator each, of a few MiB."""
NO_LIMIT = 1 << 30
"""Frames after which ale-py cuts a game; the horizon does it here."""


@dataclass(frozen=True)
class AtariConfig(Options, where="atari"):
    """One Atari game under the Atari-100k protocol."""

    id: str = "Pong"
    """The game as in gymnasium's ids, e.g. Breakout or MsPacman; given after the colon of `atari:ID`."""
    horizon: Annotated[int, Ge(1)] = 27_000
    """H, steps after which a game is cut."""
    frame_skip: Annotated[int, In(1, 1000)] = 4
    """Emulated frames of a step."""
    stack: Annotated[int, In(1, 100)] = 4
    """Frames that make up a state."""
    stacked: bool = False
    """True: an observation is the stack (stack, size, size), oldest first, zeros before a game's first frame."""
    size: Annotated[int, In(1, 1024)] = 84
    """Height and width of a frame in pixels."""
    sticky: Annotated[float, In(0, 1, below=True)] = 0.0
    """Probability of repeating the last action in a frame."""
    idle_frames: Annotated[int, In(0, 10_000)] = 30
    """Most frames without an action at a game's start; their number is drawn."""
    fire_reset: bool = False
    """Press fire at a game's start where that begins it."""
    full_actions: bool = False
    """All 18 actions instead of those that the game uses."""
    clip_rewards: bool = True
    """Training only: rewards are their signs."""
    life_loss: bool = True
    """Training only: the discount of a step that loses a life is 0."""
    threads: Annotated[int, In(1, 1024)] = 1
    """Threads of the emulators; results do not depend on them."""
    render: bool = False
    """Keep a second, coloured emulator in step for pictures; `rlc replay` sets it."""
    most_evaluation_rows: ClassVar[int] = 10
    """Emulators of an evaluation: each takes over .1 s to make, and 200 delayed the first step of a run by 33 s."""

    def for_evaluation(self) -> AtariConfig:
        """The score of whole games: no clipped rewards, and no life counts as an end."""
        return replace(self, clip_rewards=False, life_loss=False)


@register("env", "atari:", AtariConfig)
def make_atari(config: AtariConfig, num_envs: int) -> AtariEnv:
    """Atari games under the 100k protocol: atari:Pong, atari:Breakout, atari:MsPacman, ... (extra: atari)."""
    try:
        from ale_py import ALEInterface, LoggerMode, roms
        from ale_py.vector_env import AtariVectorEnv
    except ImportError as error:
        raise RlcError(f"atari:{config.id} needs ale-py 0.12 or newer: pip install -e '.[atari]'.") from error
    require_rows(f"atari:{config.id}: num_envs", num_envs, MOST_EMULATORS)
    games = {rom.title().replace("_", ""): rom for rom in roms.get_all_rom_ids()}  # MsPacman -> ms_pacman
    if config.id not in games:
        raise unknown_name("Atari game", config.id, games)
    ALEInterface.setLoggerMode(LoggerMode.Error)  # a banner for each emulator otherwise

    def emulators(**picture: Any) -> Any:
        return AtariVectorEnv(
            games[config.id],
            num_envs,
            num_threads=config.threads,
            max_num_frames_per_episode=NO_LIMIT,
            repeat_action_probability=config.sticky,
            full_action_space=config.full_actions,
            frameskip=config.frame_skip,
            noop_max=config.idle_frames,
            use_fire_reset=config.fire_reset,
            # Both are done here: the score stays known, and a lost life does not begin a new game.
            reward_clipping=False,
            episodic_life=False,
            **picture,
        )

    stack = config.stack if config.stacked else 1
    grey = emulators(img_height=config.size, img_width=config.size, stack_num=stack)
    if not config.render:
        return AtariEnv(config, grey, None)
    return AtariEnv(config, grey, emulators(img_height=SCREEN[0], img_width=SCREEN[1], stack_num=1, grayscale=False))


class AtariEnv(BatchEnv):
    """ale-py's emulators as rows of a batch."""

    def __init__(self, config: AtariConfig, emulators: Any, screens: Any | None) -> None:
        self.config, self._ale, self._screens = config, emulators, screens
        n, size = emulators.num_envs, config.size
        self.action_names = tuple(action.name.lower() for action in emulators.ale.get_action_set())
        spec = EnvSpec(
            name=f"atari:{config.id}",
            num_actions=int(emulators.single_action_space.n),
            horizon=config.horizon,
            obs_shape=(config.stack, size, size) if config.stacked else (size, size),
            obs_dtype="uint8",
            reward_range=(-1.0, 1.0) if config.clip_rewards else (-np.inf, np.inf),
            life_loss=config.life_loss,
            frame_stack=1 if config.stacked else config.stack,
        )
        space = gym.spaces.Box(0, 255, spec.obs_shape, np.uint8)
        super().__init__(spec, n, words_per_step=1, observation_space=space)
        self._obs: Array = np.zeros((n, *spec.obs_shape), dtype=np.uint8)
        self._picture: Array = np.zeros((n, *SCREEN, 3), dtype=np.uint8)
        self._taken = np.zeros(n, dtype=np.int64)
        self._lives = np.zeros(n, dtype=np.int64)
        self._life_lost = np.zeros(n, dtype=np.bool_)
        self._cut = np.zeros(n, dtype=np.bool_)  # rows whose last game was ended by the horizon

    def step(self, actions: Any) -> tuple[Array, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """One step of every row; in training `info["life_lost"]` (n,) marks the lives just lost."""
        obs, reward, terminated, truncated, info = super().step(actions)
        if self.config.life_loss:
            info = {"life_lost": self._life_lost}
        return obs, reward, terminated, truncated, info

    def _prepare(self, words: Words) -> None:
        self._seeds = integers(words[:, 0], 2**31 - 1)  # (K, n): ale-py takes 31 bits

    def _start(self, slot: int, rows: BoolArray | None) -> None:
        mask = np.ones(self.num_envs, dtype=np.bool_) if rows is None else rows
        if self._seeding:
            self._begin(mask, self._seeds[slot])
        else:
            if rows is None:  # in a batch with rows that go on, `_advance` has done this
                self._play(np.zeros(self.num_envs, dtype=np.int64))
            # That step began new games where the old ones were over; of the horizon the emulators know nothing.
            if (cut := mask & self._cut).any():
                self._begin(cut, None)
        self._life_lost = self._life_lost & ~mask
        self._taken[mask] = 0

    def _advance(self, action: IntArray, slot: int) -> Outcome:
        over, before = self._over, self._lives
        if over is not None:
            action = np.where(over, 0, action)
        reward, terminated = self._play(action)
        self._taken += 1
        self._life_lost = (self._lives < before) & ~terminated
        truncated = (self._taken >= self.config.horizon) & ~terminated
        self._cut = truncated if over is None else np.where(over, self._cut, truncated)
        if self.config.clip_rewards:
            reward = np.sign(reward)
        return reward, terminated, truncated

    def _play(self, action: IntArray) -> tuple[FloatArray, BoolArray]:
        """One step of the emulators; scores and ends."""
        obs, reward, terminated, _, info = self._ale.step(action)
        self._see(obs, info)
        if self._screens is not None:
            self._picture = self._screens.step(action)[0][:, 0]
        return np.array(reward, dtype=np.float64), np.array(terminated, dtype=np.bool_)

    def _begin(self, mask: BoolArray, seeds: IntArray | None) -> None:
        """New games in the masked rows; without seeds the generators go on."""
        arguments = {"seed": None if seeds is None else seeds[mask], "options": {"reset_mask": mask}}
        self._see(*self._ale.reset(**arguments))
        if self._screens is not None:
            self._picture = self._screens.reset(**arguments)[0][:, 0]

    def _see(self, obs: Array, info: dict[str, Any]) -> None:
        self._obs = obs if self.config.stacked else obs[:, 0]
        self._lives = np.array(info["lives"], dtype=np.int64)

    def _observe(self, slot: int) -> Array:
        return self._obs.copy()

    def exact(self) -> None:
        """None: nobody has listed the states of a console."""

    def _draw(self, row: int) -> Frame:
        """The console's picture, (210, 160, 3)."""
        require(self._screens is not None, f"{self.env_spec.name}: pictures need render = true in its config.")
        frame: Frame = self._picture[row].copy()
        return frame

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the emulators' threads."""
        for emulators in (self._ale, self._screens):
            if emulators is not None:
                emulators.close(**kwargs)
