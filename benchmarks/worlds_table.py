"""Episodes to solve, pooled over the worlds of a family: sweeps that vary the world with the seed, one run a world.

Run `python benchmarks/worlds_table.py runs/NAME` after the sweep docs/results/NAME.toml. Prints a markdown table: one
row for each agent and setting of the environment, all of the settings but the world's own seed. Unsolved runs count at
their cap, and >= marks a figure that they make a lower bound. What ends a row is the mean of the last returns, of games
that of the last duality gaps, with its 95% t interval.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from rl_contrastive.experiment import statistics as st
from rl_contrastive.experiment.report.runs import Run, find_runs, read_run


def main(folders: list[str]) -> int:
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    runs = [read_run(folder) for folder in find_runs([Path(folder) for folder in folders])]
    for run in runs:
        env = run.env.split(",")[0]
        shown = {n: v for n, v in run.env_config.items() if not n.endswith("_seed") and _varies(runs, n)}
        groups[f"{env} {', '.join(f'{n} {v}' for n, v in shown.items())}".strip(), run.agent].append(run)
    print("| world | agent | solved | episodes: median (range) | last return or gap: mean [95% CI] | seconds: median |")
    print("|---|---|---|---|---|---|")
    for (world, agent), members in sorted(groups.items()):
        print(f"| {world} | {agent} | {_row(members)} |")
    return int(any(not run.finished for run in runs))


def _varies(runs: list[Run], name: str) -> bool:
    return len({str(run.env_config.get(name)) for run in runs}) > 1


def _row(members: list[Run]) -> str:
    counts = np.array([run.cap if run.solved_at is None or not run.solved else run.solved_at for run in members])
    unsolved = np.array([not run.solved for run in members])
    order = np.argsort(counts + 0.5 * unsolved)
    counts, unsolved = counts[order], unsolved[order]
    middle = len(counts) // 2

    def text(i: int) -> str:
        return f"{'>= ' if unsolved[i] else ''}{counts[i]:.0f}"

    last = st.mean_interval(np.array([_last(run) for run in members]))
    wall = np.median([run.number("wall_s") or 0.0 for run in members])
    spread = f"{text(middle)} ({text(0)}-{text(-1)})"
    shown = f"{last.estimate:.3f} [{last.low:.3f}, {last.high:.3f}]"
    return f"{int((~unsolved).sum())}/{len(members)} | {spread} | {shown} | {wall:.1f}"


def _last(run: Run) -> float:
    """The last duality gap of a game whose model is known, else the last mean return."""
    return float(run.series["gap"][-1]) if run.game and "gap" in run.series else run.number("final_return") or 0.0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
