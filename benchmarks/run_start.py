"""What a run costs beyond its work: eight short runs of the combination lock, one after another.

Run: `python benchmarks/run_start.py` (under a minute on an idle core). Work is the sum of the seconds that the runs
themselves record; everything else is starting Python, importing, forking and writing folders. Prints, in the same
process and in turns, the wall time of `rlc run` with workers forked from a server and with an interpreter each, both as
multiples of the work; medians over repeats. Exit code 1 if the forked one takes more than three times the work.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from rl_contrastive.runs import workers
from rl_contrastive.runs.budget import Budget
from rl_contrastive.runs.run import resolve
from rl_contrastive.runs.run_config import RunConfig
from rl_contrastive.runs.sweep import plan_jobs
from rl_contrastive.runs.workers import Pool

REPEATS, RUNS, BAR = 3, 8, 3.0


def ratio(forks: bool) -> float:
    """Wall time of the runs over their work."""
    workers.FORKS = forks
    budget = Budget(episodes=2000, eval_every=50, stop_when_solved=True)
    configs = [
        resolve(RunConfig("contrastive-ucb", "combination-lock", env_config={"horizon": 5}, seed=s, budget=budget))
        for s in range(RUNS)
    ]
    with tempfile.TemporaryDirectory() as folder:
        jobs, _ = plan_jobs(configs, Path(folder))
        start = time.perf_counter()
        Pool(1).run(jobs)
        wall = time.perf_counter() - start
        work = sum(json.loads((job.folder / "summary.json").read_text())["wall_s"] for job in jobs)
    return wall / work


def main() -> int:
    pairs = [(ratio(True), ratio(False)) for _ in range(REPEATS)]
    forked, alone = (median(column) for column in zip(*pairs, strict=True))
    print(f"{RUNS} short runs, wall time over work: forked {forked:.2f} (bar {BAR:g}), an interpreter each {alone:.2f}")
    return int(forked > BAR)


if __name__ == "__main__":
    sys.exit(main())
