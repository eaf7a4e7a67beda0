"""How deep agents come in worlds of rooms: the last `env/depth` of each run, by agent, with a paired difference.

Run `python benchmarks/depth_table.py runs/bonus-depth` after the sweep of that name. All runs must be of one world.
Prints a markdown table: mean over runs with Student's 95% interval, the worst run, the difference to the agent that
`--against` names (default: "no bonus" if it is there), paired by seed, and the median of the seconds. Exit code 1 if a
run did not finish.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from grouped import grouped

from rl_contrastive.analysis import statistics as st
from rl_contrastive.analysis.figures import words
from rl_contrastive.config import require
from rl_contrastive.errors import RlcError

METRIC = "env/depth"


def main(folders: list[str], against: str) -> int:
    found = grouped(folders)
    worlds = sorted({task for task, _ in found})
    require(len(worlds) == 1, f"depth_table: give runs of one environment; these are of {'; '.join(worlds) or 'none'}.")
    groups = {agent: members for (_, agent), members in found.items()}
    for run in (run for members in groups.values() for run in members.values()):
        without = f"depth_table: {run.folder} records no {METRIC}: only worlds of rooms have it."
        require(METRIC in run.series or not run.finished, without)
    broken = {agent for agent, members in groups.items() if not all(run.finished for run in members.values())}
    depth = {
        agent: {seed: float(run.series[METRIC][-1]) for seed, run in members.items()}
        for agent, members in groups.items()
        if agent not in broken
    }
    known = ", ".join(sorted(depth)) or "none, as no agent finished all its runs"
    require(not against or against in depth, f"--against must be one of {known}; got {against}.")
    base = depth.get(against or "no bonus", {})
    print(f"| agent | n | depth: mean [95% CI] | worst | minus {against or 'no bonus'} | seconds: median |")
    print("|---|---|---|---|---|---|")
    for agent in sorted(depth, key=lambda name: -np.mean(list(depth[name].values()))):
        values = depth[agent]
        shared = sorted(set(values) & set(base)) if base is not values else []
        difference = np.array([values[seed] - base[seed] for seed in shared])
        paired = words(st.mean_interval(difference)) if len(shared) >= 2 else "-"
        wall = np.median([run.number("wall_s") or 0.0 for run in groups[agent].values()])
        column = np.array(list(values.values()))
        cells = (str(len(values)), words(st.mean_interval(column)), f"{column.min():.2f}", paired, f"{wall:.0f}")
        print(f"| {agent} | {' | '.join(cells)} |")
    for agent in sorted(broken):  # means of those that finished would flatter
        finished = [run.finished for run in groups[agent].values()]
        print(f"| {agent} | {sum(finished)} of {len(finished)} |" + " - |" * 4)
    return int(bool(broken))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--against", default="")
    arguments = parser.parse_args()
    try:
        sys.exit(main(arguments.folders, arguments.against))
    except RlcError as error:
        sys.exit(str(error))
