"""Steps per second of MinAtar, MiniGrid and Atari here against gymnasium's SyncVectorEnv of the packages' own classes.

Run: `python benchmarks/game_envs.py` (about a minute on one core; extras bench and atari). Both contestants play the
same game at random with gymnasium's next-step autoreset and return single observations:
- package: SyncVectorEnv of MinAtar's `-v1` class, of MiniGrid's world with its ImgObsWrapper, or of ale-py's
  environment with gymnasium's AtariPreprocessing (grey 84 x 84, frame skip 4; Pillow resizes where opencv is missing);
- here: `minatar:`, `minigrid:`, `atari:` of the registry, one thread.
Contestants take turns within each repeat, and a ratio is the median over repeats of two neighbours in time.
Exit code 1 if a bar is missed: 2 for MiniGrid, 1 (not slower) for the others, at 1 and at 8 rows.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv
from PIL import Image

from rl_contrastive.config import from_dict
from rl_contrastive.registry import get

BARS = {"minatar": 1.0, "minigrid": 2.0, "atari": 1.0}
GAMES = (
    "minatar:Breakout",
    "minatar:Asterix",
    "minatar:SpaceInvaders",
    "minigrid:MiniGrid-DoorKey-8x8-v0",
    "minigrid:MiniGrid-KeyCorridorS3R2-v0",
    "minigrid:MiniGrid-MultiRoom-N4-S5-v1",
    "atari:Pong",
    "atari:Breakout",
)


class PillowInPlaceOfOpencv:
    """The two names of cv2 that AtariPreprocessing uses: means over areas, by Pillow."""

    INTER_AREA = Image.Resampling.BOX

    @staticmethod
    def resize(obs: Any, size: tuple[int, int], interpolation: Any) -> Any:
        return np.asarray(Image.fromarray(obs).resize(size, interpolation))


def package(name: str) -> Any:
    """The package's environment of a name of ours, as its users make it."""
    family, _, game = name.partition(":")
    if family == "minatar":
        from minatar.gym import BaseEnv

        from rl_contrastive.envs.adapters.minatar_games import GAMES as MODULES

        return BaseEnv(MODULES[game], use_minimal_action_set=True)
    if family == "minigrid":
        from minigrid.wrappers import ImgObsWrapper

        return ImgObsWrapper(gym.make(game))
    import ale_py

    gym.register_envs(ale_py)
    if "cv2" not in sys.modules and find_spec("cv2") is None:
        sys.modules["cv2"] = PillowInPlaceOfOpencv  # type: ignore[assignment]
    plain = gym.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0)
    return gym.wrappers.AtariPreprocessing(plain, frame_skip=4)


def here(name: str, rows: int) -> Any:
    """The library's environment."""
    entry, fixed = get("env", name)
    return entry.factory(from_dict(entry.config, fixed), rows)


def seconds_per_call(envs: Any, actions: Any, budget: float) -> float:
    """Processor seconds of one `step` of the whole batch, over at least `budget` seconds."""
    calls, start = 0, time.process_time()
    while True:
        for action in actions:
            envs.step(action)
        calls += len(actions)
        elapsed = time.process_time() - start
        if elapsed >= budget:
            return elapsed / calls


def compare(name: str, rows: int, repeats: int, budget: float) -> tuple[float, float, float]:
    """Steps per second of the package and of ours, and the median ratio."""
    makers: tuple[Callable[[], Any], ...] = (
        lambda: SyncVectorEnv([lambda: package(name)] * rows),
        lambda: here(name, rows),
    )
    both = [make() for make in makers]
    actions = np.random.default_rng(0).integers(both[1].env_spec.num_actions, size=(50, rows))
    for envs in both:
        envs.reset(seed=0)
        seconds_per_call(envs, actions, budget / 4)  # warm up
    turns = [[seconds_per_call(envs, actions, budget) for envs in both] for _ in range(repeats)]
    for envs in both:
        envs.close()
    theirs, ours = (rows / median(turn[i] for turn in turns) for i in (0, 1))
    return theirs, ours, median(turn[0] / turn[1] for turn in turns)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--budget", type=float, default=0.4, help="seconds of each turn")
    parser.add_argument("--games", nargs="*", default=GAMES)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # the packages' notices of deprecation
    print("| game | rows | package, steps/s | here, steps/s | ratio |\n|---|---|---|---|---|")
    missed = []
    for name in arguments.games:
        for rows in (1, 8):
            theirs, ours, ratio = compare(name, rows, arguments.repeats, arguments.budget)
            print(f"| {name} | {rows} | {theirs:,.0f} | {ours:,.0f} | {ratio:.1f} |", flush=True)
            if ratio < BARS[name.partition(":")[0]]:
                missed.append(f"{name} at {rows} rows: {ratio:.2f}")
    print("; ".join(missed) or "all bars are met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
