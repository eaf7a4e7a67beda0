"""What one gradient step costs with each objective, beside infonce (scores) or nt-xent (embeddings) at equal sizes.

Run `python benchmarks/objective_cost.py` (a minute or two on one core). Scores: factors phi, psi of 4 problems of 256
anchors with one positive and 256 shared negatives each, d = 16, as in a minibatch of stored rows; embeddings: two views
(or as many as a loss needs) of 256 instances, d = 32, with labels, groups and replay slots, so that every registered
view objective finds what it needs. A step is the loss, the new state, the gradient. The reference is timed anew beside
each objective, round by round, and the ratio is the median over rounds of neighbours in time; the reference's own line
says how far from 1 noise leads. Prints a markdown table; an objective that needs more than these batches have says so.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch import Tensor

from rl_contrastive.errors import RlcError
from rl_contrastive.features.batches import Batch
from rl_contrastive.features.networks import TableFactors, TensorBatch, contrast
from rl_contrastive.objectives import make
from rl_contrastive.objectives.base import Sizes
from rl_contrastive.objectives.views import ViewObjective, Views
from rl_contrastive.registry import build, entries

H, N, M, D = 4, 256, 256, 16
VIEWS, WIDTH, CLASSES = 2, 32, 8
REFERENCE = {"objective": "infonce", "view-objective": "nt-xent"}
Step = Callable[[], None]


def score_step(name: str) -> Step:
    """One step of a score objective on the same batch of table entries; its state goes on."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((H, N, D)), rng.standard_normal((H, M, D))
    factors = TableFactors(*start, beta=1.0, dtype=torch.float32, device="cpu")
    index = np.broadcast_to(np.arange(N), (H, N))
    pos_weight, neg_weight = np.full((H, N, 1), 1.0 / N), np.full((H, M), 1.0 / M)
    batch = TensorBatch.of(Batch(index, rng.permuted(index, axis=1), index, pos_weight, neg_weight), torch.zeros(1))
    objective = make(name)
    state = objective.initial(Sizes(levels=H, anchors=N, dim=D))

    def step() -> None:
        nonlocal state
        result, state = objective.step(contrast(factors, batch), state)
        torch.autograd.grad(result.loss.sum(), factors.parameters)

    return step


def view_step(name: str) -> Step:
    """One step of a view objective on the same embeddings."""
    rng = torch.Generator().manual_seed(0)
    objective: ViewObjective = build("view-objective", name)
    z = torch.randn((max(VIEWS, objective.least_views), N, WIDTH), generator=rng, requires_grad=True)
    label, group = torch.arange(N) % CLASSES, torch.arange(N) % 2
    views = Views(z, label=label, group=group, index=torch.arange(N))
    state = objective.initial(N, WIDTH)

    def step() -> None:
        nonlocal state
        result, state = objective.step(views, state)
        wanted: list[Tensor] = [z, *objective.parameters(state)]
        torch.autograd.grad(result.loss.sum(), wanted, allow_unused=True)

    return step


def seconds(step: Step, repeats: int) -> float:
    """Of one step, mean of `repeats`."""
    began = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - began) / repeats


def main(rounds: int, repeats: int) -> int:
    torch.set_num_threads(1)
    print("| kind | name | step, ms | beside the reference |")
    print("|---|---|---|---|")
    for kind, make_step in (("objective", score_step), ("view-objective", view_step)):
        reference = make_step(REFERENCE[kind])
        for entry in entries(kind):  # type: ignore[arg-type]
            try:
                step = make_step(entry.name)
                step()
            except RlcError as error:
                print(f"| {kind} | `{entry.name}` | - | {error} |", flush=True)
                continue
            pairs = [(seconds(step, repeats), seconds(reference, repeats)) for _ in range(rounds)]
            own, ratio = median(a for a, _ in pairs), median(a / b for a, b in pairs)
            print(f"| {kind} | `{entry.name}` | {1e3 * own:.2f} | {ratio:.2f} x {REFERENCE[kind]} |", flush=True)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    sys.exit(main(arguments.rounds, arguments.repeats))
