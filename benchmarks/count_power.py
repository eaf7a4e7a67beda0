"""Episodes until an exact planner finds Deep Sea's reward, for bonuses that fall with different powers of the visits.

Run: `python benchmarks/count_power.py` (some four minutes on one core). The planner knows what every pair that it tried
does, and nothing of the others. Before each episode it computes, backwards from the last step,

    Q(s,a) = beta (lambda + N(s,a))^-p + [r + gamma max_a' Q(s',a') where (s,a) was tried, else 0]

with the deep agent's lambda = .1, beta = .1 and gamma = .99, and then acts greedily. Nothing is learned from samples,
so rows differ by the bonus alone. Ties are broken at random (`--seeds`).

Prints a markdown table: episodes to the first reward by seed, and the share of the reachable pairs tried by then.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.envs.deep_sea import DeepSeaConfig

BETA, LAM, GAMMA = 0.1, 0.1, 0.99


@dataclass(frozen=True)
class Found:
    """What a planner did."""

    episodes: int | None
    """To the first reward; None: not within the limit."""
    share: float
    """Of the reachable pairs, tried."""


def explore(size: int, power: float, *, episodes: int, seed: int) -> Found:
    """Plan and act until the reward is found. Action 1 moves right: which one does changes nothing for a planner."""
    cost, columns = DeepSeaConfig(size=size).move_cost / size, np.arange(size)
    counts, rng = np.zeros((size, size, 2)), np.random.default_rng(seed)
    right, left = np.minimum(columns + 1, size - 1), np.maximum(columns - 1, 0)
    reward = np.stack([np.zeros(size), np.where(columns == size - 1, 1.0, 0.0) - cost], axis=1)
    for episode in range(1, episodes + 1):
        Q = BETA * (LAM + counts) ** -power
        value = np.zeros(size)
        for h in range(size - 1, -1, -1):
            known = reward + GAMMA * np.stack([value[left], value[right]], axis=1)
            Q[h] += np.where(counts[h] > 0, known, 0.0)
            value = Q[h].max(axis=1)
        column = 0
        for h, tie in enumerate(rng.random(size) < 0.5):
            low, high = Q[h, column]
            moves_right = bool(tie) if low == high else bool(high > low)
            counts[h, column, int(moves_right)] += 1
            if moves_right and column == size - 1:
                return Found(episode, np.count_nonzero(counts) / (size * (size + 1)))
            column = right[column] if moves_right else left[column]
    return Found(None, np.count_nonzero(counts) / (size * (size + 1)))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[30, 50, 100])
    parser.add_argument("--powers", type=float, nargs="+", default=[0.5, 0.75, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=10_000, help="at most")
    options = parser.parse_args()
    require(min(options.sizes) >= 2, "count_power: --sizes must be >= 2.")
    require(min(options.powers) > 0, "count_power: --powers must be > 0.")
    print("| N | power | episodes to the reward, by seed | pairs tried |\n|---|---|---|---|")
    for size in options.sizes:
        for power in options.powers:
            found = [explore(size, power, episodes=options.episodes, seed=seed) for seed in options.seeds]
            numbers = ", ".join("never" if one.episodes is None else str(one.episodes) for one in found)
            shares = ", ".join(f"{one.share:.2f}" for one in found)
            print(f"| {size} | {power:g} | {numbers} | {shares} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
