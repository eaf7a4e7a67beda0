"""How often the certificate of a game covers the gap it bounds, and how fast that gap falls, by the rank of the game.

Run `python benchmarks/certificates.py` for random low-rank games of rank 3, 6 and 10 with the agent's default settings
and known rewards, `--dim 3` for features of a dimension that is too small. One line for each rank: share of the plans
whose V-bar_0 - V-under_0 is at least the exact duality gap of sigma's marginals, its least ratio to that gap at an
evaluation, and log-log slopes. Exit code 1 where a share is below 99%.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from rl_contrastive.analysis.slopes import loglog_slope
from rl_contrastive.claims.theory.games_training import columns
from rl_contrastive.claims.theory.training import run

COVERED = 0.99


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[3, 6, 10])
    parser.add_argument("--dim", type=int, default=None, help="d of the features; default: the agent's, from the data")
    parser.add_argument("--gamma", type=float, default=None, help="scale of the bonus; default: the agent's")
    parser.add_argument("--games", type=int, default=5)
    parser.add_argument("--first", type=int, default=600, help="game seed of the first game; 500..504 were tuned on")
    parser.add_argument("--states", type=int, default=20)
    parser.add_argument("--episodes", type=int, default=5000)
    options = parser.parse_args(arguments)
    agent: dict[str, Any] = {"known_reward": True, "learner": {"dim": options.dim}}
    if options.gamma is not None:
        agent |= {"gamma": options.gamma}
    missed = False
    print("| rank | d | plans covered, by game | least ratio | last certificate | last gap | of the pair handed out "
          "| slope |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for rank in options.ranks:
        results = [
            run(
                "contrastive-ucb-game", "low-rank-game", agent_config=agent,
                env_config={"num_states": options.states, "rank": rank, "game_seed": options.first + g}, seed=g,
                episodes=options.episodes, eval_every=max(50, options.episodes // 50), eval_episodes=1, exact="always",
            )
            for g in range(options.games)
        ]  # fmt: skip
        covered = columns(results, "covered")[:, -1]
        episodes = columns(results, "episodes")[0, 1:]
        width, explored = (columns(results, name)[:, -len(episodes) :] for name in ("certificate", "gap_explore"))
        late = episodes >= 0.03 * options.episodes
        slope = loglog_slope(episodes[late], explored[:, late]).mean()
        dims = columns(results, "agent/dim")[:, -1]
        missed |= bool(covered.min() < COVERED)
        print(
            f"| {rank} | {dims.min():.0f} to {dims.max():.0f} | {' '.join(f'{c:.1%}' for c in covered)} "
            f"| {(width / explored).min():.2f} | {width[:, -1].mean():.3f} | {explored[:, -1].mean():.3f} "
            f"| {columns(results, 'gap')[:, -1].mean():.4f} | {slope:.2f} |",
            flush=True,
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
