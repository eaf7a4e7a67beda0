"""Last gap and slope of the exact regret on random low-rank MDPs, pooled over the MDPs of each size.

Run `python benchmarks/low_rank_table.py runs/low-rank` after the sweep docs/results/low-rank.toml into runs/low-rank.
Prints a markdown table; one MDP is one sample. Slopes are of log regret on log episodes over the last 90% of a run.
Exit code 1 if a bar is missed: contrastive-ucb's mean last gap <= 1/3 of ucbvi's, and its mean slope <= .55.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from rl_contrastive.experiment import statistics as st
from rl_contrastive.experiment.report.runs import Run, find_runs, read_run


def main(folders: list[str]) -> int:
    runs = [read_run(folder) for folder in find_runs([Path(f) for f in folders])]
    groups: dict[tuple[int, str], list[Run]] = defaultdict(list)
    for run in runs:
        if run.finished:
            groups[int(run.env_config["num_states"]), run.agent].append(run)
    gaps: dict[tuple[int, str], float] = {}
    missed = any(not run.finished for run in runs)
    print(
        "| S | agent | MDPs | last gap: mean [95% CI], range | regret: mean | slope: mean [95% CI] | seconds: median |"
    )
    print("|---|---|---|---|---|---|---|")
    for (S, agent), members in sorted(groups.items()):
        gap = np.array([run.series["gap"][-1] for run in members])
        regret = np.array([run.series["regret"][-1] for run in members])
        episodes = members[0].series["episodes"]
        late = episodes >= 0.1 * episodes[-1]
        slope = st.slope_interval(episodes[late], np.stack([r.series["regret"][late] for r in members]))
        mean = st.mean_interval(gap)
        wall = np.median([run.summary["wall_s"] for run in members])
        gaps[S, agent] = mean.estimate
        print(
            f"| {S} | {agent} | {len(members)} | {mean.estimate:.5f} [{mean.low:.5f}, {mean.high:.5f}], "
            f"{gap.min():.5f} to {gap.max():.5f} | {regret.mean():.0f} | "
            f"{slope.estimate:.2f} [{slope.low:.2f}, {slope.high:.2f}] | {wall:.0f} |"
        )
        missed |= agent == "contrastive-ucb" and slope.estimate > 0.55
    for S in sorted({S for S, _ in gaps}):
        if {(S, "contrastive-ucb"), (S, "ucbvi")} <= set(gaps):
            ratio = gaps[S, "ucbvi"] / gaps[S, "contrastive-ucb"]
            print(f"S={S}: ucbvi's last gap is {ratio:.1f} times contrastive-ucb's (bar: 3)")
            missed |= ratio < 3.0
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
