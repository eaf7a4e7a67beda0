"""MiniGrid's worlds side by side: `minigrid:MiniGrid-DoorKey-8x8-v0`, the published partial view as planes.

An agent sees the V x V cells before it (V = 7) and knows which way it faces. Observations are (planes, column, row):

    image    (4, V, V) uint8: object, colour and state codes of each cell, and the direction 0..3 everywhere
    onehot   (24, V, V) bool: 11 objects, 6 colours, 3 states, 4 directions, one plane each

The mission is a sentence with gaps, "go to the {colour} door". Most worlds repeat theirs unchanged; where it is shown
(see `mission`), each of its gaps adds a plane, which holds the number of the word everywhere: (5, V, V), or one-hot 6
more.

The codes are the package's (Chevalier-Boisvert et al. 2023); reaching the goal pays 1 - .9 t / max_steps there. Every
episode of row i is a world drawn from the stream of row i.

With `noise` the same worlds look different at every step (`minigrid_noise.py`): observations never repeat.

Of worlds with doors the deepest room of each episode is recorded as `env/depth` (`minigrid_depth.py`). Names of the
form MiniGrid-MultiRoom-N7-S8-v0 that the package does not register are made: 7 rooms of at most 8 x 8 cells, walls
included.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Annotated, Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rl_contrastive.config import MOST_COPIES, Ge, In, Options, require, require_rows
from rl_contrastive.envs.adapters.gym_adapter import one_line
from rl_contrastive.envs.adapters.minigrid_depth import door_depths
from rl_contrastive.envs.adapters.minigrid_noise import Disco, Gaussian, Kind, install_television
from rl_contrastive.envs.adapters.minigrid_view import Image, PartialView
from rl_contrastive.envs.base import BatchEnv, Frame, Outcome
from rl_contrastive.envs.streams import Words, integers
from rl_contrastive.errors import RlcError, unknown_name
from rl_contrastive.registry import register
from rl_contrastive.spec import Array, BoolArray, EnvSpec, FloatArray, IntArray

PLANES = (11, 6, 3, 4)
"""Numbers of objects, colours, states and directions."""
TOLD_ANYWAY = ("BlockedUnlockPickup", "KeyCorridor", "LockedRoom", "UnlockPickup")
"""Worlds whose mission varies with what can be seen: there is but one box to pick up. In others it is the goal."""
MOST_MISSIONS = 100_000
"""Sentences that are listed at most."""
Codes = NDArray[np.uint8]
"""Numbers of words, (gaps, 1, 1)."""
MULTI_ROOM = re.compile(r"MiniGrid-MultiRoom-N(\d+)-S(\d+)-v0")
MOST_ROOMS = 10
"""The package searches until it has placed all rooms into 25 x 25 cells: for 12 of 10 x 10 that takes seconds."""
TILE = 16
"""Pixels of a cell in pictures."""


@dataclass(frozen=True)
class MiniGridConfig(Options, where="minigrid"):
    """One of MiniGrid's worlds."""

    id: str = "MiniGrid-DoorKey-8x8-v0"
    """gymnasium id; given after the colon of `minigrid:ID`."""
    horizon: Annotated[int | None, Ge(1)] = None
    """H, cap on the steps of an episode; the world's own max_steps by default. A larger one becomes the world's
    max_steps, which its rewards depend on."""
    stack: Annotated[int, In(1, 100)] = 1
    """Views shown at once: `EnvSpec.frame_stack` of them, which agents stack themselves if they can."""
    observation: Literal["image", "onehot"] = "image"
    """"image": the codes as numbers; "onehot": a plane for each value of each code."""
    rooms: Annotated[int | None, In(1, MOST_ROOMS)] = None
    """Number of rooms of a MultiRoom world, whatever its id says."""
    size: Annotated[int | None, In(4, 10)] = None
    """Largest width and height of a MultiRoom world's rooms, walls included."""
    mission: Literal["auto", "shown", "hidden"] = "auto"
    """Whether the words that vary in the mission are planes of the observation. auto: shown, but for KeyCorridor,
    LockedRoom and the UnlockPickups, where it says nothing that cannot be seen."""
    noise: Kind = "none"
    """disco: floor and walls change their colours at every step; gaussian: numbers within [0, 1] with normal noise; tv:
    a ball in the first room, whose colour the action `drop` draws anew (RIDE's NoisyTV; nothing can be dropped)."""
    noise_scale: Annotated[float, In(0, 1e6, above=True)] = 0.1
    """Standard deviation of the gaussian noise; needs noise gaussian."""

    def __post_init__(self) -> None:
        super().__post_init__()
        used = self.noise == "gaussian" or self.noise_scale == MiniGridConfig.noise_scale
        require(used, f"minigrid: noise_scale is for noise gaussian, and noise is {self.noise}.")


@register("env", "minigrid:", MiniGridConfig)
def make_minigrid(config: MiniGridConfig, num_envs: int) -> MiniGridEnv:
    """MiniGrid's worlds, partially seen: minigrid:MiniGrid-DoorKey-8x8-v0 and others (extra: bench)."""
    try:
        import_module("minigrid")  # registers its worlds with gymnasium
    except ImportError as error:
        raise RlcError(f"minigrid:{config.id} needs minigrid: pip install -e '.[bench]'.") from error
    require_rows(f"minigrid:{config.id}: num_envs", num_envs, MOST_COPIES)
    id, rooms = named_world(config)
    try:
        make: Any = partial(gym.make, id, **rooms)
        if config.horizon is not None and config.horizon > make().unwrapped.max_steps:
            make = partial(make, max_steps=config.horizon)
        worlds = [make().unwrapped for _ in range(num_envs)]
    except Exception as error:
        raise RlcError(f"minigrid:{config.id} cannot be made: {one_line(error)}.") from error
    return MiniGridEnv(config, worlds)


def named_world(config: MiniGridConfig) -> tuple[str, dict[str, Any]]:
    """A registered id and the arguments of its world; RlcError for an unknown one."""
    known = [name for name in gym.registry if name.startswith("MiniGrid-")]
    id, rooms, size = config.id, config.rooms, config.size
    named = MULTI_ROOM.fullmatch(id)
    if named is not None and id not in known:
        numbers = MiniGridConfig(rooms=int(named[1]), size=int(named[2]))  # of an allowed size
        id, rooms, size = "MiniGrid-MultiRoom-N6-v0", rooms or numbers.rooms, size or numbers.size
    if id not in known:
        raise unknown_name("MiniGrid world", config.id, known)
    given = rooms is not None or size is not None
    require(not given or "MultiRoom" in id, f"minigrid:{id}: rooms and size are options of MultiRoom worlds alone.")
    chosen = {"minNumRooms": rooms, "maxNumRooms": rooms, "maxRoomSize": size}
    return id, {name: number for name, number in chosen.items() if number is not None}


class MiniGridEnv(BatchEnv):
    """The package's worlds as rows of a batch."""

    def __init__(self, config: MiniGridConfig, worlds: list[Any]) -> None:
        first = worlds[0]
        self.config, self.worlds = config, worlds
        self._view = PartialView(first.agent_view_size)
        for world in worlds:
            # `step` and `reset` of the package ask for a view; this one is the same and faster.
            world.gen_obs = _Observer(world, self._view)
            if config.noise == "tv":
                install_television(world, f"minigrid:{config.id}")
        told = config.id.removeprefix("MiniGrid-").startswith(TOLD_ANYWAY)
        hidden = config.mission == "hidden" or (config.mission == "auto" and told)
        self._mission = Mission("" if hidden else config.id, first.observation_space["mission"])
        self._length = min(config.horizon or first.max_steps, first.max_steps)
        size = first.agent_view_size
        onehot, noisy = config.observation == "onehot", config.noise == "gaussian"
        self._counts = PLANES + self._mission.counts
        self.action_names = tuple(action.name for action in first.actions)
        shape = (sum(self._counts) if onehot else len(self._counts), size, size)
        self._disco = Disco(size) if config.noise == "disco" else None
        self._gaussian = Gaussian(shape, config.noise_scale) if noisy else None
        dtype = "float32" if noisy else "bool" if onehot else "uint8"
        spec = EnvSpec(
            name=f"minigrid:{config.id}",
            num_actions=int(first.action_space.n),
            horizon=self._length,
            obs_shape=shape,
            obs_dtype=dtype,
            codes=() if onehot or noisy else self._counts,
            frame_stack=config.stack,
            reward_range=(-1.0, 1.0),  # Dynamic-Obstacles fines a collision by 1; all others pay within [0, 1]
        )
        space = None if noisy else gym.spaces.Box(0, 1 if onehot else 255, shape, np.dtype(dtype).type)
        self._noises = [noise for noise in (self._disco, self._gaussian) if noise is not None]
        words = 1 + sum(noise.words for noise in self._noises)
        super().__init__(spec, len(worlds), words_per_step=words, observation_space=space)
        # (n, planes, V, V) codes of what each row sees now.
        self._codes = np.zeros((len(worlds), len(self._counts), size, size), dtype=np.uint8)
        self._taken = np.zeros(len(worlds), dtype=np.int64)
        self._depths: list[IntArray] = [np.zeros((0, 0), dtype=np.int64)] * len(worlds)
        self._deepest = np.zeros(len(worlds))
        self._measured = np.zeros(len(worlds), dtype=np.bool_)  # rows in the episode of the last `reset`

    def _prepare(self, words: Words) -> None:
        self._seeds = integers(words[:, 0], 2**31)  # (K, n)
        for noise in self._noises:
            noise.prepare(words[:, 1:])

    def _start(self, slot: int, rows: BoolArray | None) -> None:
        self._measured[:] = self._measured & ~rows if rows is not None else True
        for row in range(self.num_envs) if rows is None else np.flatnonzero(rows).tolist():
            seen, _ = self.worlds[row].reset(seed=int(self._seeds[slot, row]))
            if rows is None:
                self._depths[row], self._deepest[row] = door_depths(self.worlds[row]), 0.0
            self._note(row, seen)
            self._taken[row] = 0

    def _advance(self, action: IntArray, slot: int) -> Outcome:
        n = self.num_envs
        reward, terminated, truncated = np.zeros(n), np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
        self._taken += 1
        for row, (world, a) in enumerate(zip(self.worlds, action.tolist(), strict=True)):
            if self._over is not None and self._over[row]:
                continue  # a new world begins at once, in `_start`
            seen, reward[row], terminated[row], truncated[row], _ = world.step(a)
            self._note(row, seen)
        return reward, terminated, (truncated | (self._taken >= self._length)) & ~terminated

    def episode_metrics(self) -> dict[str, FloatArray]:
        """`depth` (n,): the deepest room of each row's episode since `reset`, the first is 0; nothing without doors."""
        doors = any((depths > 0).any() for depths in self._depths)
        return {"depth": self._deepest.copy()} if doors else {}

    def _note(self, row: int, seen: dict[str, Any]) -> None:
        if self._measured[row]:
            here = self._depths[row][tuple(self.worlds[row].agent_pos)]
            self._deepest[row] = max(self._deepest[row], here)
        self._codes[row, :3] = seen["image"].transpose(2, 0, 1)
        self._codes[row, 3] = seen["direction"]
        if self._mission.counts:
            self._codes[row, 4:] = self._mission.words(seen["mission"])

    def _observe(self, slot: int) -> Array:
        codes = self._codes.copy() if self._disco is None else self._disco.recolour(self._codes, slot)
        if self.config.observation == "onehot":
            planes = [codes[:, c, None] == np.arange(k)[:, None, None] for c, k in enumerate(self._counts)]
            codes = np.concatenate(planes, axis=1)
        elif self._gaussian is not None:
            codes = codes / (np.array(self._counts, dtype=np.float32) - 1.0)[:, None, None]
        return codes if self._gaussian is None else self._gaussian.add(codes, slot)

    @property
    def codes(self) -> Codes:
        """(n, planes, V, V) codes of what each row sees now, without noise; read-only for measurements."""
        return self._codes

    def exact(self) -> None:
        """None: worlds are drawn anew in every episode."""

    def _draw(self, row: int) -> Frame:
        """The whole world from above, what the agent sees of it lit up."""
        frame: Frame = np.asarray(self.worlds[row].get_frame(highlight=True, tile_size=TILE), dtype=np.uint8)
        return frame


class Mission:
    """The words in the gaps of a world's mission as numbers."""

    def __init__(self, id: str, space: Any) -> None:
        """No gaps without an id."""
        gaps = [list(words) for words in (space.ordered_placeholders or [])] if id else []
        open_gaps = [g for g, words in enumerate(gaps) if len(words) > 1]
        self.id = id
        self.counts = tuple(len(gaps[g]) for g in open_gaps)
        """Number of words that each gap may hold; gaps for one word are left out."""
        few = max(self.counts, default=0) <= 256 and math.prod(self.counts) <= MOST_MISSIONS
        require(few, f"minigrid:{id}: its missions are too many to be shown; env.mission hidden leaves them out.")
        self._words: dict[str, Codes] = {}
        if self.counts:
            for choice in itertools.product(*(range(len(words)) for words in gaps)):
                text = space.mission_func(*(words[w] for words, w in zip(gaps, choice, strict=True)))
                self._words[text] = np.array([choice[g] for g in open_gaps], dtype=np.uint8)[:, None, None]

    def words(self, text: str) -> Codes:
        """Those of a mission."""
        if text not in self._words:
            raise RlcError(f"minigrid:{self.id}: its mission {text!r} is none of those it declares.")
        return self._words[text]


class _Observer:
    """What stands in for a world's `gen_obs`."""

    def __init__(self, world: Any, view: PartialView) -> None:
        self.world, self.view = world, view

    def __call__(self) -> dict[str, Any]:
        world = self.world
        image: Image = self.view.image(world)
        return {"image": image, "direction": world.agent_dir, "mission": world.mission}
