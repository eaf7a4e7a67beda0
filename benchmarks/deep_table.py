"""What the deep agent and its rivals reach, per environment: last evaluation with its interval, and first successes.

Run `python benchmarks/deep_table.py runs/deep-classic` (any folders of runs) after the sweep of that name. Prints a
markdown table: mean of the last evaluations over seeds with a 95% t interval, the worst seed, the median
(range) of env steps until the first reward > 0 (first true terminal with `--terminal`), and the share of seeds that saw
one within `--within` steps. `--at N` takes the last evaluation up to N env steps. Where a run did not finish the row
has no figures, which would leave it out, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from grouped import grouped

from rl_contrastive.analysis import statistics as st
from rl_contrastive.analysis.runs import Run
from rl_contrastive.errors import RlcError


def main(arguments: argparse.Namespace) -> int:
    groups = {place: list(members.values()) for place, members in grouped(arguments.folders).items()}
    key = "agent/first_terminal" if arguments.terminal else "agent/first_reward"
    name = "true terminal" if arguments.terminal else "reward > 0"
    print("| environment | agent | n | last return, mean [95% CI] | worst seed | env steps to the first " + name + " |")
    print("|---|---|---|---|---|---|")
    for (env, agent), members in sorted(groups.items()):
        done = sum(run.finished for run in members)
        cells = [f"{done}" + (f" of {len(members)}" if done < len(members) else "")]
        if done == len(members):
            last = np.array([last_return(run, arguments.at) for run in members])
            got = st.mean_interval(last)
            interval = f"{got.low:.4g}, {got.high:.4g}" if len(last) > 1 else "one run: no CI"
            cells += [f"{got.estimate:.4g} [{interval}]", f"{last.min():.4g}"]
            cells.append(first(members, key, arguments.within))
        cells += ["-"] * (4 - len(cells))
        print(f"| {env} | {agent} | " + " | ".join(cells) + " |")
    return int(any(not run.finished for members in groups.values() for run in members))


def last_return(run: Run, at: float) -> float:
    """The newest evaluation up to `at` env steps."""
    steps = np.asarray(run.series["env_steps"])
    index = np.flatnonzero(steps <= max(at, float(steps[0])))[-1]
    return float(run.series["return_mean"][index])


def first(runs: list[Run], key: str, within: float) -> str:
    """Median (range) of the first success, and how many had it in time."""
    if key not in runs[0].series:
        return "-"
    counts = np.array([run.series[key][-1] for run in runs])
    seen = np.where(counts > 0, counts, np.inf)
    low, middle, high = (f"{x:.0f}" if np.isfinite(x) else "never" for x in (seen.min(), np.median(seen), seen.max()))
    return f"{middle} ({low} to {high}); {int((seen <= within).sum())}/{len(runs)} within {within:g}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--terminal", action="store_true")
    parser.add_argument("--within", type=float, default=20_000)
    parser.add_argument("--at", type=float, default=np.inf)
    try:
        sys.exit(main(parser.parse_args()))
    except RlcError as error:
        sys.exit(str(error))
