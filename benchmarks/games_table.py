"""Duality gaps on random low-rank games, pooled over the games of each size.

Run `python benchmarks/games_table.py runs/random-games runs/random-games-large` after their sweeps. Prints a table in
markdown; one game is one sample. Slopes are of log gap on log episodes from 3% of a run on: of the bonus-free policies
that are handed out, and of the marginals of the plans that are played. "Covered" counts plans whose certificate was at
least the true gap of their marginals. Exit code 1 if a bar is missed: lsvi-game's slope of what is played <= -.45,
contrastive-ucb-game's mean last gap <= .05 H/5 at S = 20 and <= 1/2 of nash-vi's at S = 50, covered >= 99%.
"""

from __future__ import annotations

import sys

import numpy as np
from grouped import by_size

from rl_contrastive.analysis import slopes
from rl_contrastive.analysis import statistics as st
from rl_contrastive.analysis.runs import Run
from rl_contrastive.errors import RlcError

OURS = "contrastive-ucb-game"


def slope(members: list[Run], column: str) -> st.Interval | None:
    """Log-log slope of a column over the late part of the runs, or None where agents do not record it."""
    if column not in members[0].series:
        return None
    episodes = members[0].series["episodes"]
    late = episodes >= 0.03 * episodes[-1]
    values = np.stack([run.series[column][late] for run in members])
    return slopes.slope_interval(episodes[late], values) if (values > 0).all() else None


def shown(interval: st.Interval | None) -> str:
    return "" if interval is None else f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def main(folders: list[str]) -> int:
    groups = by_size(folders)
    missed = any(not run.finished for members in groups.values() for run in members)
    last: dict[tuple[int, str], float] = {}
    print(
        "| S | agent | games | last gap: mean [95% CI], range | slope, handed out | slope, played | plans covered | s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for (S, label), members in sorted(groups.items()):
        done = sum(run.finished for run in members)
        if done < len(members):  # means of those that finished would flatter
            print(f"| {S} | {label} | {done} of {len(members)} |" + " - |" * 5)
            continue
        gap = np.array([run.series["gap"][-1] for run in members])
        mean = st.mean_interval(gap)
        last[S, label] = mean.estimate
        out, played = slope(members, "gap"), slope(members, "gap_explore")
        covered = [run.series["covered"][-1] for run in members if "covered" in run.series]
        wall = np.median([run.summary["wall_s"] for run in members])
        print(
            f"| {S} | {label} | {len(members)} | {mean.estimate:.4f} [{mean.low:.4f}, {mean.high:.4f}], "
            f"{gap.min():.4f} to {gap.max():.4f} | {shown(out)} | {shown(played)} | "
            f"{f'{min(covered):.1%}' if covered else ''} | {wall:.0f} |"
        )
        missed |= label == "lsvi-game" and S == 20 and (played is None or played.estimate > -0.45)
        missed |= label == OURS and bool(covered) and min(covered) < 0.99
    missed |= last.get((20, OURS), 0.0) > 0.05
    if (50, OURS) in last and (50, "nash-vi") in last:
        ratio = last[50, "nash-vi"] / last[50, OURS]
        print(f"S=50: nash-vi's last gap is {ratio:.1f} times {OURS}'s (bar: 2)")
        missed |= ratio < 2.0
    return int(missed)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RlcError as error:
        sys.exit(str(error))
