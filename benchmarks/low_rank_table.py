"""Last gap, played regret and average sub-optimality on random low-rank MDPs, pooled over the MDPs of each size.

Run `python benchmarks/low_rank_table.py runs/low-rank` after the sweep docs/results/low-rank.toml into runs/low-rank.
Prints a markdown table; one MDP is one sample, intervals are Student's t. Regret is that of the episodes played; slopes
are of its logarithm on log episodes over the last 90% of a run, and of the mean sub-optimality of pi_k likewise.
Exit code 1 if a bar is missed: contrastive-ucb's mean last gap <= 1/3 of ucbvi's, and its mean regret slope <= .55.
"""

from __future__ import annotations

import sys

import numpy as np
from grouped import by_size

from rl_contrastive.analysis import slopes
from rl_contrastive.analysis import statistics as st
from rl_contrastive.analysis.runs import Run
from rl_contrastive.errors import RlcError


def main(folders: list[str]) -> int:
    groups = by_size(folders)
    gaps: dict[tuple[int, str], float] = {}
    missed = any(not run.finished for members in groups.values() for run in members)
    print(
        "| S | agent | MDPs | last gap | played regret | its slope | sub-optimality of pi_k: its slope | optimism < 0 |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for (S, agent), members in sorted(groups.items()):
        done = sum(run.finished for run in members)
        if done < len(members):  # means of those that finished would flatter
            print(f"| {S} | {agent} | {done} of {len(members)} |" + " - |" * 5)
            continue
        gap = st.mean_interval(np.array([run.series["gap"][-1] for run in members]))
        regret = st.mean_interval(np.array([run.series["regret"][-1] for run in members]))
        slope, average = (_slope(members, column) for column in ("regret", "suboptimality"))
        below = [np.mean(run.series["optimism"] < -1e-9) for run in members if "optimism" in run.series]
        gaps[S, agent] = gap.estimate
        print(
            f"| {S} | {agent} | {len(members)} | {_cell(gap, 5)} | {_cell(regret, 0)} | {_cell(slope, 2)} | "
            f"{_cell(average, 2)} | {f'{np.mean(below):.0%}' if below else '-'} |"
        )
        missed |= agent == "contrastive-ucb" and slope.estimate > 0.55
    for S in sorted({S for S, _ in gaps}):
        if {(S, "contrastive-ucb"), (S, "ucbvi")} <= set(gaps):
            ratio = gaps[S, "ucbvi"] / gaps[S, "contrastive-ucb"]
            print(f"S={S}: ucbvi's last gap is {ratio:.1f} times contrastive-ucb's (bar: 3)")
            missed |= ratio < 3.0
    return int(missed)


def _slope(members: list[Run], column: str) -> st.Interval:
    """Log-log slope of a column over the last 90% of the episodes."""
    episodes = members[0].series["episodes"]
    late = episodes >= 0.1 * episodes[-1]
    return slopes.slope_interval(episodes[late], np.stack([run.series[column][late] for run in members]))


def _cell(value: st.Interval, digits: int) -> str:
    return f"{value.estimate:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RlcError as error:
        sys.exit(str(error))
