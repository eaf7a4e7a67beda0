"""How much time the deep agent saves since its networks leave out rows whose episodes are over.

    python benchmarks/ended_rows.py
    python benchmarks/ended_rows.py --only "minatar, B = 32" --repeats 30

B episodes are played side by side, and rows that ended wait for the longest one. `before` is the same agent with all B
rows in each pass through its networks. Both take turns in blocks of some hundred steps of rows that go on, timed in CPU
seconds, with the options of `deep_speed.py`; ratios are of medians and of 10th percentiles over the blocks. `alive`:
their share of all rows, before and now. `acting`: the ratio of `act` alone, from a pass with clocks around it, and its
share of all time before. `evaluation`: the ratio of the medians of an evaluation of 100 episodes in 100 rows.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import torch
from deep_speed import OURS, WARM, Case, Ours, seconds_per_step, shares

import rl_contrastive.runs.evaluate as evaluation
from rl_contrastive import make_env
from rl_contrastive.seeding import SeedTree

CASES = tuple(Case(env, batch, every) for env in ("cartpole", "minatar") for batch in (8, 32, 128) for every in (4, 1))
EPISODES = 100


class Counted(Ours):
    """Ours, with all rows or without those that ended; counts the rows of each step."""

    def __init__(self, case: Case, *, every_row: bool) -> None:
        super().__init__(case)
        self.living = self.steps = 0
        if every_row:
            self.agent._going = lambda h: slice(None)

    def advance(self, steps: int) -> int:
        done = 0
        while done < steps:
            now = next(self._steps)
            done, self.steps, self.living = done + now, self.steps + 1, self.living + now
        return done


def evaluation_ratio(ours: Ours, case: Case, repeats: int) -> float:
    """CPU seconds of evaluations that ask about all rows, divided by those that ask about rows that go on."""
    env, known = make_env(OURS[case.env], EPISODES), evaluation.is_memoryless
    spent: dict[bool, list[float]] = {False: [], True: []}
    for k in range(2 * repeats):
        evaluation.is_memoryless = known if k % 2 else lambda agent: False
        start = time.process_time()
        evaluation.evaluate(ours.agent, env, EPISODES, tree=SeedTree(0), index=k // 2)
        spent[bool(k % 2)].append(time.process_time() - start)
    return median(spent[False]) / median(spent[True])


def compare(case: Case, args: argparse.Namespace) -> None:
    """The line of one case."""
    pair = {name: Counted(case, every_row=name == "before") for name in ("before", "now")}
    for contestant in pair.values():
        contestant.advance(WARM + 20 * case.every + 500)
        contestant.living = contestant.steps = 0
    times: dict[str, list[float]] = {name: [] for name in pair}
    for k in range(args.repeats):
        for name in sorted(pair, reverse=bool(k % 2)):
            times[name].append(seconds_per_step(pair[name], args.steps))
    usual = {name: (median(column), float(np.quantile(column, 0.1))) for name, column in times.items()}
    ratios = "".join(f"{usual['before'][k] / usual['now'][k]:>7.2f}x" for k in (0, 1))
    alive = " ".join(f"{one.living / (one.steps * case.batch):.2f}" for one in pair.values())
    parts = {name: shares(one, 2 * args.steps) for name, one in pair.items()}
    acting = parts["before"]["acting"] / parts["now"]["acting"]
    share = parts["before"]["acting"] / sum(parts["before"].values())
    judged = evaluation_ratio(pair["now"], case, 3)
    line = f"{case.name:<28}{ratios}   alive {alive}   acting {acting:.2f}x of {share:.2f}   evaluation {judged:.2f}x"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=15, help="blocks of each contestant")
    parser.add_argument("--steps", type=int, default=800, help="environment steps of a block")
    parser.add_argument("--only", default="", help="rows whose name contains this, e.g. 'cartpole, B = 8'")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for case in CASES:
        if args.only in case.name:
            compare(case, args)


if __name__ == "__main__":
    main()
