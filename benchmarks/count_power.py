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

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.envs.deep_sea import DeepSeaConfig, DeepSeaEnv
from rl_contrastive.errors import RlcError

BETA, LAM, GAMMA = 0.1, 0.1, 0.99


def explore(size: int, power: float, *, episodes: int, seed: int) -> tuple[int | None, float]:
    """Plan and act until the reward is found: episodes (None: not within the limit), share of reachable pairs tried."""
    model, rng = DeepSeaEnv(DeepSeaConfig(size=size), 1).exact(), np.random.default_rng(seed)
    after = model.P.argmax(axis=-1)  # (N, N, 2) columns: nothing is random
    counts, found = np.zeros(after.shape), None
    for episode in range(1, episodes + 1):
        Q, value = BETA * (LAM + counts) ** -power, np.zeros(size)
        for h in range(size - 1, -1, -1):
            Q[h] += np.where(counts[h] > 0, model.r[h] + GAMMA * value[after[h]], 0.0)
            value = Q[h].max(axis=1)
        column = 0
        for h, tie in enumerate(rng.integers(2, size=size).tolist()):
            first, second = Q[h, column]
            place = h, column, tie if first == second else int(second > first)
            counts[place] += 1
            if model.r[place] > 0:
                found = episode
            column = after[place]
        if found:
            break
    return found, np.count_nonzero(counts) / (size * (size + 1))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[30, 50, 100], help="N (30 50 100)")
    parser.add_argument("--powers", type=float, nargs="+", default=[0.5, 0.75, 1.0], help="(0.5 0.75 1)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(0 1 2)")
    parser.add_argument("--episodes", type=int, default=10_000, help="at most (%(default)s)")
    options = parser.parse_args()
    require(min(options.sizes) >= 2, "count_power: --sizes must be >= 2.")
    require(min(options.powers) > 0, "count_power: --powers must be > 0.")
    require(min(options.seeds) >= 0, "count_power: --seeds must be >= 0.")
    require(options.episodes >= 1, "count_power: --episodes must be >= 1.")
    print("| N | power | episodes to the reward, by seed | pairs tried |\n|---|---|---|---|")
    for size in options.sizes:
        for power in options.powers:
            found = [explore(size, power, episodes=options.episodes, seed=seed) for seed in options.seeds]
            numbers = ", ".join("never" if count is None else str(count) for count, _ in found)
            shares = ", ".join(f"{share:.2f}" for _, share in found)
            print(f"| {size} | {power:g} | {numbers} | {shares} |", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RlcError as error:
        sys.exit(str(error))
