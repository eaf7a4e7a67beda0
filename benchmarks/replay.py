"""Adding to and drawing from the replay, against Stable-Baselines3's buffers on the same transitions.

Run: `python benchmarks/replay.py` (about 20 s on one core). Cases: vectors (4 floats, CartPole), planes (10x10x4 bool,
MinAtar), frames (84x84 uint8, Atari: ours stores single frames and stacks 4 when drawing, SB3 stores 4 stacked ones
twice). What is timed:
- step: one `add` of one row, with an episode's end every 200 steps;
- draw: a batch of 32 until it is torch tensors on the CPU, with n = 1 and n = 10 (SB3: NStepReplayBuffer);
- prioritised: the same by priority with new priorities written back; SB3 has none, so it stands beside SB3's uniform.
Contestants take turns within each repeat, and a ratio is the median over repeats of two neighbours in time. Exit code 1
where ours is slower than SB3's at one of the uniform draws (frames excepted, see `BARRED`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

from rl_contrastive.deep.replay.replay import Replay

BATCH, GAMMA, LENGTH = 32, 0.99, 200
BARRED = ("vectors", "planes")
"""Frames are stacked while drawing (8 gathers of 7 kB an entry): that costs time and saves 8 times the memory."""


@dataclass(frozen=True)
class Case:
    """Observations of one kind."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    stack: int
    capacity: int

    def space(self) -> gym.spaces.Box:
        """SB3's observations: stacked beforehand."""
        shape = (self.stack, *self.shape) if self.stack > 1 else self.shape
        high = np.inf if self.dtype == "float32" else 255
        dtype = np.dtype("uint8" if self.dtype == "bool" else self.dtype)  # a Box of bool is not allowed
        return gym.spaces.Box(-high if self.dtype == "float32" else 0, high, shape, dtype.type)

    def observations(self, count: int, rng: np.random.Generator) -> Any:
        if self.dtype == "float32":
            return rng.standard_normal((count, 1, *self.shape)).astype(np.float32)
        return rng.integers(2 if self.dtype == "bool" else 256, size=(count, 1, *self.shape)).astype(self.dtype)


CASES = (
    Case("vectors", (4,), "float32", 1, 50_000),
    Case("planes", (4, 10, 10), "bool", 1, 50_000),
    Case("frames", (84, 84), "uint8", 4, 5_000),
)


class Ours:
    """The replay as an agent uses it."""

    def __init__(self, case: Case, n: int, alpha: float, obs: Any) -> None:
        self.replay = Replay(
            case.capacity, case.shape, case.dtype, gamma=GAMMA, n_step=n, stack=case.stack, alpha=alpha
        )
        self.obs, self.at, self.rng = obs, 0, np.random.default_rng(0)
        self.action, self.one, self.alive = np.zeros(1, np.int64), np.ones(1), np.ones(1, np.bool_)
        self.ends = (np.zeros(1, np.bool_), np.ones(1, np.bool_))

    def add(self) -> None:
        k = self.at % LENGTH
        if k == 0:
            self.replay.begin(1)
        here, there = self.obs[self.at % len(self.obs)], self.obs[(self.at + 1) % len(self.obs)]
        self.replay.add(here, self.action, self.one, there, self.one, self.ends[k == LENGTH - 1], self.alive)
        self.at += 1

    def draw(self) -> None:
        batch = self.replay.sample(BATCH, rng=self.rng, beta=0.4)
        for array in (batch.obs, batch.action, batch.next_obs):
            torch.from_numpy(array)
        for array in (batch.reward, batch.discount, batch.weight):
            torch.from_numpy(array.astype(np.float32))
        if self.replay.tree is not None:
            self.replay.update_priorities(batch.index, self.rng.random(BATCH) + 1e-3)


class Theirs:
    """SB3's buffer as its algorithms use it."""

    def __init__(self, case: Case, n: int, obs: Any) -> None:
        arguments = (case.capacity, case.space(), gym.spaces.Discrete(4), "cpu")
        self.buffer = ReplayBuffer(*arguments) if n == 1 else NStepReplayBuffer(*arguments, n_steps=n, gamma=GAMMA)
        obs = obs.astype(self.buffer.observations.dtype)
        self.obs, self.at = obs if case.stack == 1 else np.repeat(obs[:, :, None], case.stack, axis=2), 0
        self.action, self.one = np.zeros(1, np.int64), np.ones(1, np.float32)
        self.infos: list[dict[str, Any]] = [{}]

    def add(self) -> None:
        done = np.array([self.at % LENGTH == LENGTH - 1])
        here, there = self.obs[self.at % len(self.obs)], self.obs[(self.at + 1) % len(self.obs)]
        self.buffer.add(here, there, self.action, self.one, done, self.infos)
        self.at += 1

    def draw(self) -> None:
        self.buffer.sample(BATCH)


def seconds_per_call(call: Callable[[], None], budget: float) -> float:
    """Seconds of one call, over at least `budget` seconds."""
    calls, start = 0, time.process_time()
    while True:
        for _ in range(50):
            call()
        calls += 50
        elapsed = time.process_time() - start
        if elapsed >= budget:
            return elapsed / calls


def compare(
    label: str, ours: Callable[[], None], theirs: Callable[[], None], repeats: int, budget: float, barred: bool
) -> bool:
    """One line; False if a bar is missed."""
    times = [(seconds_per_call(theirs, budget), seconds_per_call(ours, budget)) for _ in range(repeats)]
    ratio = median(a / b for a, b in times)
    sb3, own = (1e6 * median(column) for column in zip(*times, strict=True))
    met = not barred or ratio >= 1.0
    print(f"{label:<34}{sb3:>10.1f}{own:>10.1f}{ratio:>9.2f}x  {'' if not barred else 'met' if met else 'MISSED'}")
    return met


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--budget", type=float, default=0.05, help="seconds a repeat and contestant")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rng, met = np.random.default_rng(0), True
    print(f"{'microseconds a call':<34}{'SB3':>10}{'ours':>10}{'ratio':>10}")
    for case in CASES:
        obs = case.observations(1000, rng)
        for n in (1, 10):
            theirs = Theirs(case, n, obs)
            uniform, prioritised = (Ours(case, n, alpha, obs) for alpha in (0.0, 0.5))
            for each in (theirs, uniform, prioritised):
                for _ in range(case.capacity + 500):  # full, and past its end
                    each.add()
            name = f"{case.name}, n = {n}"
            if n == 1:
                compare(f"{case.name}: step", uniform.add, theirs.add, args.repeats, args.budget, False)
            barred = case.name in BARRED
            met &= compare(f"{name}: draw", uniform.draw, theirs.draw, args.repeats, args.budget, barred)
            compare(f"{name}: prioritised", prioritised.draw, theirs.draw, args.repeats, args.budget, False)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
