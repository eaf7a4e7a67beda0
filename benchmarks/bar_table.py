"""After how many environment steps agents reach a return, per environment, and what they return in the end.

Run `python benchmarks/bar_table.py records/bonus-rooms --bar 0.5 --against "rnd, gate tried"` after the sweep of that
name. A run reached the bar at the first of two evaluations in a row that were at it. One that never did counts at its
last step, so differences in steps are smaller than they were. `--at N` leaves out what came after N steps.

Prints a markdown table: runs that reached the bar, median (range) of their steps, mean of the last returns with
Student's 95% interval, the worst run, the median of the seconds, and with `--against` the differences in steps and last
return to that agent, paired by seed, or Welch's between all runs where the seeds differ. Exit code 1 if a run did not
finish.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys

import numpy as np
from grouped import Members, grouped
from scipy import stats

from rl_contrastive.analysis import statistics as st
from rl_contrastive.analysis.comparison import first_of_two
from rl_contrastive.analysis.figures import words
from rl_contrastive.analysis.runs import Run
from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import FloatArray

HEADER = (
    "| environment | agent | n | reached {bar:g} | env steps: median (range) | last return: mean [95% CI] | worst "
    "| s: median |"
)
PAIRED = " steps minus {against}, thousands | last return minus {against} |"


def reached(run: Run, bar: float) -> float:
    """Environment steps at the first of two evaluations in a row at the bar; inf: never."""
    first = first_of_two(run.series["return_mean"] >= bar)
    return np.inf if first is None else float(run.series["env_steps"][first])


def spread(steps: list[float]) -> str:
    """Median (range), in thousands."""
    low, middle, high = (
        f"{x / 1000:.0f}k" if np.isfinite(x) else "never" for x in (min(steps), np.median(steps), max(steps))
    )
    return f"{middle} ({low} to {high})"


def until(run: Run, at: float) -> Run:
    """The evaluations up to so many steps, one or more."""
    count = max(1, int(np.count_nonzero(run.series.get("env_steps", np.zeros(0)) <= at)))  # none: it did not begin
    return dataclasses.replace(run, series={name: column[:count] for name, column in run.series.items()})


def main(folders: list[str], bar: float, against: str, at: float = np.inf) -> int:
    groups = {
        place: {seed: until(run, at) for seed, run in members.items()} for place, members in grouped(folders).items()
    }
    agents = sorted({agent for _, agent in groups})
    require(not against or against in agents, f"--against must be one of {', '.join(agents)}; got {against}.")
    runs = [run for members in groups.values() for run in members.values() if run.finished]
    first = max((run.series["env_steps"][0] for run in runs), default=0.0)
    require(
        at >= first,
        f"--at must be a number of steps from {first:.0f} on, where every run has an evaluation; got {at:g}.",
    )
    print((HEADER + (PAIRED if against else "")).format(bar=bar, against=against))
    print("|---" * (10 if against else 8) + "|")
    for (task, agent), members in sorted(groups.items()):
        done = sum(run.finished for run in members.values())
        count = str(done) if done == len(members) else f"{done} of {len(members)}"
        cells = row(members, bar) if done == len(members) else ["-"] * 5
        if against:
            base = groups.get((task, against), {})
            comparable = all(run.finished for run in (*members.values(), *base.values())) and agent != against
            cells += differences(members, base, bar) if comparable else ["-"] * 2
        print(f"| {task} | {agent} | {count} | {' | '.join(cells)} |")
    return int(any(not run.finished for members in groups.values() for run in members.values()))


def row(members: Members, bar: float) -> list[str]:
    """The cells of one agent in one environment."""
    steps = [reached(run, bar) for run in members.values()]
    last = np.array([run.series["return_mean"][-1] for run in members.values()])
    wall = np.median([run.number("wall_s") or 0.0 for run in members.values()])
    there = f"{np.isfinite(steps).sum()}/{len(steps)}"
    return [there, spread(steps), words(st.mean_interval(last)), f"{last.min():.2f}", f"{wall:.0f}"]


def differences(members: Members, base: Members, bar: float) -> list[str]:
    """Steps to the bar, in thousands, and last returns, minus those of `base`."""
    cells = []
    steps, last = (lambda run: counted(run, bar) / 1000), (lambda run: float(run.series["return_mean"][-1]))
    for of, digits in ((steps, 0), (last, 2)):
        ours, theirs = ({seed: of(run) for seed, run in group.items()} for group in (members, base))
        shared = sorted(seed for seed in ours if seed in theirs and seed is not None)
        if len(shared) >= 2:
            cells.append(words(st.mean_interval(np.array([ours[seed] - theirs[seed] for seed in shared])), digits))
        elif min(len(ours), len(theirs)) >= 2:
            both = (np.array(list(group.values())) for group in (ours, theirs))
            cells.append(words(welch(*both), digits) + " (Welch)")
        else:
            cells.append("-")
    return cells


def welch(x: FloatArray, y: FloatArray) -> st.Interval:
    """mean x - mean y with Welch's 95% interval."""
    got = stats.ttest_ind(x, y, equal_var=False)
    low, high = got.confidence_interval(0.95)
    return st.Interval(float(x.mean() - y.mean()), float(low), float(high))


def counted(run: Run, bar: float) -> float:
    """Steps to the bar, or all steps of a run that did not reach it."""
    return min(reached(run, bar), float(run.series["env_steps"][-1]))


def finite(text: str) -> float:
    """A number that is not NaN or infinite; argparse names the option."""
    number = float(text)
    if not np.isfinite(number):
        raise ValueError
    return number


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--bar", type=finite, required=True)
    parser.add_argument("--against", default="")
    parser.add_argument("--at", type=float, default=np.inf)
    arguments = parser.parse_args()
    try:
        sys.exit(main(arguments.folders, arguments.bar, arguments.against, arguments.at))
    except RlcError as error:
        sys.exit(str(error))
