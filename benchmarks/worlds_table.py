"""Episodes to solve, pooled over the worlds of a family: sweeps that vary the world with the seed, one run a world.

Run `python benchmarks/worlds_table.py runs/NAME` after the sweep docs/results/NAME.toml. Prints a markdown table: one
row for each agent and setting of the environment, all of the settings but the world's own seed. Unsolved runs count at
their cap, and >= marks a figure that they make a lower bound. What ends a row is the mean of the last returns, of games
that of the last duality gaps, with its 95% t interval; a run that did not finish counts with the worst value that any
run of its setting recorded at any time. Exit code 1 if there is one.

`--against AGENT` adds a second table: episodes to solve minus those of AGENT, paired by world, over the settings that
any run solved; the mean with its 95% t interval and Wilcoxon's p.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.stats import wilcoxon

from rl_contrastive.analysis import statistics as st
from rl_contrastive.analysis.figures import words
from rl_contrastive.analysis.runs import Run, find_runs, read_run
from rl_contrastive.config import require
from rl_contrastive.errors import RlcError


def main(folders: list[str], against: str | None = None) -> int:
    worlds: dict[str, list[Run]] = defaultdict(list)
    runs = [read_run(folder) for folder in find_runs([Path(folder) for folder in folders])]
    for run in runs:
        env = run.env.split(",")[0]
        shown = {n: v for n, v in run.env_config.items() if not n.endswith("_seed") and _varies(runs, n)}
        worlds[f"{env} {', '.join(f'{n} {v}' for n, v in shown.items())}".strip()].append(run)
    print("| world | agent | solved | episodes: median (range) | last return or gap: mean [95% CI] | seconds: median |")
    print("|---|---|---|---|---|---|")
    for world, inside in sorted(worlds.items()):
        column, worst = _judged(inside)
        for agent in sorted({run.agent for run in inside}):
            print(f"| {world} | {agent} | {_row([run for run in inside if run.agent == agent], column, worst)} |")
    if against is not None:
        _print_differences([inside for inside in worlds.values() if any(run.solved for run in inside)], against)
    return int(any(not run.finished for run in runs))


def _print_differences(settings: list[list[Run]], against: str) -> None:
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    solved: dict[str, int] = defaultdict(int)
    for run in (run for inside in settings for run in inside):
        counts[run.agent][f"{run.env_config} {run.seed}"] = _count(run)
        solved[run.agent] += run.solved
    require(against in counts, f"--against must be one of {', '.join(sorted(counts))}, got {against}.")
    print(f"\n| agent | solved | episodes minus those of {against}: mean [95% CI] | p |")
    print("|---|---|---|---|")
    for agent in sorted(set(counts) - {against}):
        shared = sorted(set(counts[agent]) & set(counts[against]))
        difference = np.array([counts[agent][world] - counts[against][world] for world in shared])
        mean = st.mean_interval(difference)
        p = f"{wilcoxon(difference).pvalue:.3f}" if difference.any() else "-"
        cells = (agent, f"{solved[agent]}/{len(counts[agent])}", words(mean, 0), p)
        print(f"| {' | '.join(cells)} |")


def _count(run: Run) -> int:
    """Episodes to solve; the cap where it was not solved."""
    return run.solved_at if run.solved and run.solved_at is not None else run.cap


def _varies(runs: list[Run], name: str) -> bool:
    return len({str(run.env_config.get(name)) for run in runs}) > 1


def _judged(runs: list[Run]) -> tuple[str, float | None]:
    """The column that a world is judged by, duality gaps or returns, and the worst value in it; None if it has none."""
    games = any(run.game and "gap" in run.series for run in runs)
    column, worse = ("gap", np.max) if games else ("return_mean", np.min)
    recorded = np.concatenate([run.series.get(column, np.zeros(0)) for run in runs])
    recorded = recorded[np.isfinite(recorded)]
    return column, float(worse(recorded)) if len(recorded) else None


def _row(members: list[Run], column: str, worst: float | None) -> str:
    counts = np.array([_count(run) for run in members])
    episodes = st.solve_summary(counts, np.array([run.solved for run in members]))

    def text(count: float, bound: bool) -> str:
        return f"{'>= ' if bound else ''}{count:.0f}"

    middle = text(episodes.median, episodes.median_censored)
    low, high = text(episodes.low, episodes.low_censored), text(episodes.high, episodes.high_censored)
    shown = "-"
    if worst is not None:
        whole = [run.finished and column in run.series and np.isfinite(run.series[column][-1]) for run in members]
        values = [run.series[column][-1] if w else worst for run, w in zip(members, whole, strict=True)]
        shown = words(st.mean_interval(np.array(values)), 3)
    wall = np.median([run.number("wall_s") or 0.0 for run in members])
    return f"{episodes.solved}/{episodes.n} | {middle} ({low}-{high}) | {shown} | {wall:.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--against")
    arguments = parser.parse_args()
    try:
        sys.exit(main(arguments.folders, arguments.against))
    except RlcError as error:
        sys.exit(str(error))
