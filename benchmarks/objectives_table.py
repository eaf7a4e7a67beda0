"""The feature objectives side by side, pooled over MDPs or games: TV, angle, last gap, regret, each with its interval.

Run `python benchmarks/objectives_table.py runs/objectives-low-rank` (or runs/objectives-games) after the sweep of that
name. Prints a markdown table of the last evaluations; one run is one sample, and the last column is the paired
difference of TV to the first label given by `--against` (default: the label that ends in "mle, exact", or "mle").
Exit code 1 if a run did not finish.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from rl_contrastive.analysis import statistics as st
from rl_contrastive.analysis.runs import Run, find_runs, read_run
from rl_contrastive.config import require
from rl_contrastive.errors import RlcError

COLUMNS = {"tv": 3, "sin_angle": 3, "gap": 4, "regret": 0}
"""Metric -> decimals."""


def main(folders: list[str], against: str | None) -> int:
    runs = [read_run(folder) for folder in find_runs([Path(f) for f in folders])]
    groups: dict[str, dict[str, Run]] = defaultdict(dict)
    whole = {run.agent for run in runs} - {run.agent for run in runs if not run.finished}
    for run in runs:
        if run.agent in whole:
            key = f"seed {run.seed} of {run.env_config}"
            require(key not in groups[run.agent], f"two runs of {run.agent} are of {key}: give each run once.")
            groups[run.agent][key] = run
    base = against or next((label for label in ("mle, exact", "mle") if label in groups), "none")
    require(base in groups, f"--against must be one of {', '.join(sorted(groups))}, got {base}.")
    print("| objective | n | TV | largest angle (sin) | last gap | regret | TV minus that of " + base + " |")
    print("|---|---|---|---|---|---|---|")
    for label, members in groups.items():
        cells = [cell(np.array([run.series[name][-1] for run in members.values()]), d) for name, d in COLUMNS.items()]
        shared = sorted(set(members) & set(groups[base]))
        difference = np.array([members[t].series["tv"][-1] - groups[base][t].series["tv"][-1] for t in shared])
        cells.append("-" if label == base or not shared else cell(difference, 3))
        print(f"| {label} | {len(members)} | " + " | ".join(cells) + " |")
    for label in sorted({run.agent for run in runs} - whole):  # means of those that finished would flatter
        of = [run.finished for run in runs if run.agent == label]
        print(f"| {label} | {sum(of)} of {len(of)} |" + " - |" * (len(COLUMNS) + 1))
    return int(any(not run.finished for run in runs))


def cell(values: np.ndarray, decimals: int) -> str:
    """Mean and Student's 95% interval."""
    got = st.mean_interval(values)
    return f"{got.estimate:.{decimals}f} [{got.low:.{decimals}f}, {got.high:.{decimals}f}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--against")
    arguments = parser.parse_args()
    try:
        sys.exit(main(arguments.folders, arguments.against))
    except RlcError as error:
        sys.exit(str(error))
