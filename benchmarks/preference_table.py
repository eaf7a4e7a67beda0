"""Return against the number of labelled pairs: mean over seeds with a 95% t interval, and each objective's KL.

Run `python benchmarks/preference_table.py runs/preferences-lock --pairs 100 200 400` after the sweep of that name. It
prints a markdown table: the newest evaluation by each count of pairs asked for, of runs of `preference-policy`. Where a
run did not finish the row has no figures, and the exit code is 1.
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
    heads = [f"{count} pairs" for count in arguments.pairs]
    print("| " + " | ".join(["environment", "agent", "n", *heads, "KL", "accuracy"]) + " |")
    print("|" + "---|" * (len(heads) + 5))
    for (env, agent), members in sorted(groups.items()):
        done = sum(run.finished for run in members)
        cells = [f"{done}" + (f" of {len(members)}" if done < len(members) else "")]
        if done == len(members):
            cells += [interval([at(run, "return_mean", count) for run in members]) for count in arguments.pairs]
            for name in ("agent/kl_estimate", "agent/accuracy"):
                cells.append(f"{np.mean([run.series[name][-1] for run in members]):.3g}")
        print("| " + " | ".join([env, agent, *cells, *["-"] * (len(heads) + 3 - len(cells))]) + " |")
    return int(any(not run.finished for members in groups.values() for run in members))


def at(run: Run, name: str, pairs: int) -> float:
    """The newest value by so many pairs; NaN before the first evaluation and beyond the last."""
    seen = np.asarray(run.series["agent/pairs"])
    index = np.flatnonzero(seen <= pairs)
    return float(run.series[name][index[-1]]) if len(index) and pairs <= seen[-1] else float("nan")


def interval(values: list[float]) -> str:
    """Mean [95% t interval]."""
    if not np.isfinite(values).all():
        return "-"
    got = st.mean_interval(np.array(values))
    return f"{got.estimate:.3g} [{got.low:.3g}, {got.high:.3g}]" if len(values) > 1 else f"{got.estimate:.3g}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--pairs", nargs="+", type=int, required=True)
    try:
        sys.exit(main(parser.parse_args()))
    except RlcError as error:
        sys.exit(str(error))
