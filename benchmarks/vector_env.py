"""Steps per second of the native batch against gymnasium's SyncVectorEnv of plain Python environments.

Run: `python benchmarks/vector_env.py` (half a minute on one core). All contestants simulate one random low-rank MDP
(S=100, A=5, H=5, d=3, a kernel per step) with gymnasium's next-step autoreset:
- sync: SyncVectorEnv of a lean environment, lists and one bisection a step, uniforms from `self.np_random`;
- sync, buffered: the same with uniforms drawn 1024 at a time, as fast as we could make plain Python;
- single view: SyncVectorEnv of our single-environment view, what one pays for not batching;
- DummyVecEnv: Stable-Baselines3's loop over the lean environment (it begins the next episode in the same step);
- AsyncVectorEnv: gymnasium's, one process for each lean environment, measured at up to 16 and scaled;
- numpy: this MDP alone as a vector environment in a few lines of numpy, all rows in step and seeded together;
- native: the library's batch, whose rows have a seed each and which gives the same rows at any number of them.
Contestants take turns within each repeat, and a ratio is the median over repeats of two neighbours in time. Times are
processor times, but for AsyncVectorEnv and the batch beside it, which are elapsed times.
Exit code 1 if a bar (native / sync: 15 at 64 sub-environments, 100 at 1024) is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from bisect import bisect_right
from collections.abc import Callable
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from rl_contrastive.envs.adapters.single import SingleEnv
from rl_contrastive.envs.low_rank import LowRankConfig, LowRankEnv
from rl_contrastive.spec import ExactModel

CONFIG = LowRankConfig(num_states=100, num_actions=5, horizon=5, rank=3)
BARS = {64: 15.0, 1024: 100.0}
CONTESTANTS = ("sync", "sync, buffered", "single view", "DummyVecEnv", "AsyncVectorEnv", "numpy", "native")
MOST_PROCESSES = 16


class PlainEnv(gym.Env[int, int]):
    """The MDP as one would write it in plain Python: cumulative rows in lists, one bisection a step."""

    def __init__(self, tables: tuple[Any, Any, Any]) -> None:
        self.cumulative, self.reward, self.start = tables
        self.observation_space = gym.spaces.Discrete(len(self.start))
        self.action_space = gym.spaces.Discrete(len(self.reward[0][0]))
        self.horizon = len(self.reward)

    def uniform(self) -> float:
        return self.np_random.random()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.h, self.s = 0, bisect_right(self.start, self.uniform())
        return self.s, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        reward = self.reward[self.h][self.s][action]
        self.s = bisect_right(self.cumulative[self.h][self.s][action], self.uniform())
        self.h += 1
        return self.s, reward, self.h == self.horizon, False, {}


class BufferedEnv(PlainEnv):
    """PlainEnv that draws its uniforms 1024 at a time."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        if seed is not None or not hasattr(self, "buffer"):
            self.buffer: list[float] = []
        return super().reset(seed=seed, options=options)

    def uniform(self) -> float:
        if not self.buffer:
            self.buffer = self.np_random.random(1024).tolist()
        return self.buffer.pop()


class NumpyVectorEnv:
    """The same MDP as a batch, written for speed alone: one search in all cumulative rows of a step, one after another.

    Row (s, a) of step h holds s A + a + cumsum P_h(.|s, a), so that the rows together increase. next-step autoreset.
    """

    def __init__(self, model: ExactModel, num_envs: int) -> None:
        self.horizon, S, A = model.r.shape
        self.num_envs, self.num_actions, self.num_states = num_envs, A, S
        below = np.minimum(np.cumsum(model.P, axis=-1), 1.0)
        below[..., -1] = 1.0
        self.below = (below + np.arange(S * A).reshape(S, A, 1)).reshape(self.horizon, -1)
        self.reward, self.start = model.r.reshape(self.horizon, -1), np.append(np.cumsum(model.rho)[:-1], 1.0)
        self.no, self.yes = np.zeros(num_envs, dtype=np.bool_), np.ones(num_envs, dtype=np.bool_)

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.uniforms = self.rng.random((self.horizon + 1, self.num_envs))
        self.h, self.s = 0, np.searchsorted(self.start, self.uniforms[-1], side="right")
        return self.s, {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self.h == self.horizon:
            return self.reset()[0], np.zeros(self.num_envs), self.no, self.no, {}
        pair = self.s * self.num_actions + action
        found = np.searchsorted(self.below[self.h], pair + self.uniforms[self.h], side="right")
        reward = self.reward[self.h][pair]
        self.s, self.h = found - pair * self.num_states, self.h + 1
        return self.s, reward, self.yes if self.h == self.horizon else self.no, self.no, {}


def plain_tables(model: ExactModel) -> tuple[Any, Any, Any]:
    """Cumulative kernels (H,S,A,S), rewards (H,S,A) and cumulative start as nested lists; the last entry is 2 > u."""

    def cumulative(p: Any) -> Any:
        c = np.cumsum(p, axis=-1)
        c[..., -1] = 2.0
        return c.tolist()

    return cumulative(model.P), model.r.tolist(), cumulative(model.rho)


def seconds_per_call(envs: Any, actions: Any, budget: float, clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of one `step` of the whole batch, over at least `budget` seconds."""
    calls, start = 0, clock()
    while True:
        for action in actions:
            envs.step(action)
        calls += len(actions)
        elapsed = clock() - start
        if elapsed >= budget:
            return elapsed / calls


def check_same_law(other: Any, native: LowRankEnv, actions: Any) -> None:
    """Both play the same MDP: mean rewards of the same number of steps agree within 6 standard errors."""
    rewards = []
    for envs in (other, native):
        steps = [np.array(envs.step(action)[1]) for action in np.tile(actions, (8, 1))]
        rewards.append(np.concatenate(steps))
    gap = abs(rewards[0].mean() - rewards[1].mean())
    error = rewards[0].std() * np.sqrt(2 / len(rewards[0]))
    if gap > 6 * error:
        raise SystemExit(f"the contestants simulate different MDPs: mean rewards differ by {gap:.4f}")


def compare(n: int, repeats: int, budget: float) -> dict[str, list[float]]:
    """Of each contestant at n sub-environments, how many times the native batch's time its step takes, by repeats;
    of the native batch the seconds themselves."""
    model = LowRankEnv(CONFIG, 1).exact()
    tables = plain_tables(model)
    few = min(n, MOST_PROCESSES)
    makers: dict[str, Callable[[], Any]] = {
        "sync": lambda: SyncVectorEnv([lambda: PlainEnv(tables)] * n),
        "sync, buffered": lambda: SyncVectorEnv([lambda: BufferedEnv(tables)] * n),
        "single view": lambda: SyncVectorEnv([lambda: SingleEnv(LowRankEnv(CONFIG, 1))] * min(n, 64)),
        "DummyVecEnv": lambda: DummyVecEnv([lambda: PlainEnv(tables)] * n),
        "AsyncVectorEnv": lambda: AsyncVectorEnv([lambda: PlainEnv(tables)] * few),
        "numpy": lambda: NumpyVectorEnv(model, n),
        "native": lambda: LowRankEnv(CONFIG, n),
    }
    contestants = {name: make() for name, make in makers.items()}
    rng = np.random.default_rng(0)
    actions = {name: rng.integers(CONFIG.num_actions, size=(24, envs.num_envs)) for name, envs in contestants.items()}
    for name, envs in contestants.items():
        envs.reset() if name == "DummyVecEnv" else envs.reset(seed=0)
    for name in ("sync", "numpy"):
        check_same_law(contestants[name], contestants["native"], actions["native"])
    ratios: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    native = contestants["native"]
    for _ in range(repeats):
        own = seconds_per_call(native, actions["native"], budget)
        for name in CONTESTANTS[:-1]:
            envs = contestants[name]
            scale, beside, clock = n / envs.num_envs, own, time.process_time  # some are measured at fewer rows
            if name == "AsyncVectorEnv":
                clock = time.perf_counter
                beside = seconds_per_call(native, actions["native"], budget, clock)
            ratios[name].append(scale * seconds_per_call(envs, actions[name], budget, clock) / beside)
        ratios["native"].append(own)
    contestants["AsyncVectorEnv"].close()
    return ratios


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="turns of each contestant (default 7)")
    parser.add_argument("--budget", type=float, default=0.2, help="seconds per turn (default 0.2)")
    args = parser.parse_args()
    print(f"low-rank MDP S={CONFIG.num_states} A={CONFIG.num_actions} H={CONFIG.horizon} d={CONFIG.rank}; ", end="")
    print(f"gymnasium {gym.__version__}, numpy {np.__version__}; median of {args.repeats} turns")
    print(f"{'sub-envs':>8}  {'contestant':<16}{'M steps/s':>10}{'native is':>12}")
    missed = False
    for n, bar in BARS.items():
        found = compare(n, args.repeats, args.budget)
        seconds = median(found.pop("native"))
        ratios = {name: median(values) for name, values in found.items()} | {"native": 1.0}
        for name in CONTESTANTS:
            print(f"{n:>8}  {name:<16}{n / (seconds * ratios[name]) / 1e6:>10.3f}{ratios[name]:>11.1f}x")
        met = ratios["sync"] >= bar
        missed |= not met
        print(f"{n:>8}  bar: native >= {bar:g}x sync: {'met' if met else 'MISSED'} ({ratios['sync']:.1f}x)")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
