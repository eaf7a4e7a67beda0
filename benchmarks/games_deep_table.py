"""Exact duality gaps of games with networks at equal steps, and the bar against self-play PPO.

Run `python benchmarks/games_deep_table.py runs/games-deep` after its sweep. Prints a table in markdown: the last gap of
each agent, mean [95% t interval] over seeds, and its paired difference to `sb3-ppo-selfplay` on the same seeds. Exit
code 1 if the bar is missed (contrastive-ucb-game-deep's interval of it lies below 0) or a run is unfinished.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from rl_contrastive.analysis import statistics as st
from rl_contrastive.analysis.figures import words
from rl_contrastive.analysis.runs import find_runs, read_run
from rl_contrastive.errors import RlcError

OURS, RIVAL = "contrastive-ucb-game-deep", "sb3-ppo-selfplay"


def main(folders: list[str]) -> int:
    runs = [read_run(folder) for folder in find_runs([Path(f) for f in folders])]
    gaps: dict[str, dict[int, float]] = defaultdict(dict)
    for run in runs:
        if run.finished:  # the others are counted below
            gaps[run.agent][run.seed] = float(run.series["gap"][-1])
    wanted = {label: sum(run.agent == label for run in runs) for label in gaps}
    print("| agent | seeds | last gap: mean [95% t interval], range | minus self-play PPO, paired |\n|---|---|---|---|")
    met = all(run.finished for run in runs)
    for label, found in sorted(gaps.items()):
        values = np.array(list(found.values()))
        ends = f"{values.min():.3f}-{values.max():.3f}"
        shared = sorted(found.keys() & gaps[RIVAL].keys())
        paired = ""
        if label != RIVAL and len(shared) > 1:
            difference = st.mean_interval(np.array([found[seed] - gaps[RIVAL][seed] for seed in shared]))
            paired = words(difference, 3)
            met &= label != OURS or difference.high < 0
        mean = words(st.mean_interval(values), 3) if len(values) > 1 else f"{values[0]:.3f}"
        print(f"| `{label}` | {len(values)} of {wanted[label]} | {mean}, {ends} | {paired} |")
    return 0 if met and OURS in gaps and RIVAL in gaps else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RlcError as error:
        sys.exit(str(error))
