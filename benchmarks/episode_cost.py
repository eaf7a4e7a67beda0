"""What an episode costs as a run grows: seconds an episode and memory from 1000 to 100 000 episodes on the lock.

Run `python benchmarks/episode_cost.py`. Evaluations are left out of the time. The exponent is the log-log slope of the
seconds an episode between 1000 and 100 000; exit code 1 if it is above .15 for one of the agents.
"""

from __future__ import annotations

import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from rl_contrastive.config import from_dict
from rl_contrastive.registry import get
from rl_contrastive.runs.rollout import play

POINTS = (1_000, 3_000, 10_000, 30_000, 100_000)
WINDOW = 0.3
"""Each figure is the mean over the episodes from this share below a point up to it."""
BAR = 0.15


def measure(name: str, seed: int = 600) -> list[tuple[int, float, float]]:
    """(episodes, seconds an episode, peak memory in MiB) at each point."""
    entry, _ = get("agent", name)
    env_entry, _ = get("env", "combination-lock")
    config: Any = from_dict(entry.config, {})
    env = env_entry.factory(env_entry.config(horizon=10, lock_seed=seed), config.batch)
    agent = entry.factory(env, config, seed=seed)
    points, episodes, k, spent = [], 0, 0, dict.fromkeys(POINTS, 0.0)
    played = dict.fromkeys(POINTS, 0)
    while episodes < POINTS[-1]:
        start = time.perf_counter()
        agent.begin(agent.batch)
        for step in play(env, agent.seeds.env_seeds("env", k, agent.batch), agent.act):
            agent.observe(step)
        agent.update()
        seconds = time.perf_counter() - start
        episodes, k = episodes + agent.batch, k + 1
        for p in POINTS:
            if (1.0 - WINDOW) * p < episodes <= p:
                spent[p] += seconds
                played[p] += agent.batch
        if episodes in POINTS:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            points.append((episodes, spent[episodes] / played[episodes], peak))
    return points


def main() -> int:
    missed = False
    print("| agent | episodes | ms an episode | peak MiB |\n|---|---|---|---|")
    for name in ("contrastive-ucb", "contrastive-frontier"):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:  # its peak of memory is its own
            points = alone.submit(measure, name).result()
        for episodes, seconds, peak in points:
            print(f"| {name} | {episodes} | {1000 * seconds:.3f} | {peak:.0f} |", flush=True)
        x, y = np.log([p[0] for p in points]), np.log([p[1] for p in points])
        exponent = float(np.polyfit(x, y, 1)[0])
        print(f"{name}: exponent {exponent:.2f} (bar: {BAR})", flush=True)
        missed |= exponent > BAR
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
