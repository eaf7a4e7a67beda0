"""Learning the features of H = 100 steps in one batched call against a Python loop over h, equal work and results.

Run: `python benchmarks/feature_learning.py` (two minutes on one core). For each size and stage:
- closed form: `fit_tabular` of all steps, or one call per step on that step's counts;
- closed form, rows: `fit_linear` of all steps of vector observations, or one call per step;
- gradient: Adam iterations of the paper's NCE loss with exact expectations on stacked factors, or one run per step;
- gradient, rows: the same on minibatches of stored rows (B positives, M negatives a step; drawn beforehand for both),
  from the whitening of the rows to the factors.
Both sides call the same functions on the same data (the loop on slices made beforehand), and the results are compared.
A ratio is the median over repeats of two neighbours in time. What batching saves is the cost of Python calls: it is
large where a step's own arithmetic is small, and tends to 1 where that fills the core.
Every size says whether it reaches 10x. It is a bar, with exit code 1 where it is missed, for three of them only: the
closed form at S=5 and gradients with exact expectations at S=5 and S=10. Elsewhere it is no promise: a LAPACK
eigendecomposition per step (closed form) or elementwise work on the scores (gradient) is the same on both sides. The
combination lock's size at the learner's defaults, N=500 D=128 A=10 B=128 M=64, is the last line: 5 to 7x on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import cycle
from statistics import median
from typing import Any

import numpy as np
import torch

from rl_contrastive.features.batches import Batch, ExactTable, SampledRows, Sampler
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.descent import DescentConfig, descend
from rl_contrastive.features.networks import RowFactors, TableFactors, export
from rl_contrastive.features.spectral import fit_tabular
from rl_contrastive.features.spectral_linear import LinearSpectralConfig, fit_linear
from rl_contrastive.objectives import make
from rl_contrastive.objectives.laws import tabular_law
from rl_contrastive.spec import FloatArray, StepData

HORIZON = 100
ITERATIONS = 20
BAR = 10.0


@dataclass(frozen=True)
class Case:
    """One stage at one size: two ways to the same arrays."""

    stage: str
    size: str
    batched: Callable[[], list[FloatArray]]
    loop: Callable[[], list[FloatArray]]
    barred: bool


def counts_of(S: int, A: int, rank: int, n: int) -> TransitionCounts:
    """n transitions of each (s, a) of a random low-rank MDP."""
    rng = np.random.default_rng(0)
    psi = rng.dirichlet(np.full(S, 0.5), size=(HORIZON, rank))
    P = rng.dirichlet(np.full(rank, 0.3), size=(HORIZON, S, A)) @ psi[:, None]
    table = rng.multinomial(n, P.reshape(-1, S)).reshape(P.shape)
    return TransitionCounts.from_dense(table.astype(np.float64))


def single_steps(counts: TransitionCounts) -> list[TransitionCounts]:
    return [TransitionCounts.from_dense(table[None]) for table in counts.dense()]


def cut(data: StepData | Batch, steps: slice) -> dict[str, Any]:
    """All arrays of some steps only."""
    return {part.name: getattr(data, part.name)[steps] for part in fields(data)}


def closed_form(S: int, A: int, d: int, barred: bool) -> Case:
    """Compared by P-hat: singular vectors are unique up to sign only."""
    counts = counts_of(S, A, d, 20)
    parts = single_steps(counts)

    def batched() -> list[FloatArray]:
        features = fit_tabular(counts, d).features
        return [features.phi_table, features.psi_table]

    def loop() -> list[FloatArray]:
        fits = [fit_tabular(part, d).features for part in parts]
        return [np.concatenate([f.phi_table for f in fits]), np.concatenate([f.psi_table for f in fits])]

    return Case("closed form", f"S={S} A={A} d={d}", batched, loop, barred)


def closed_form_rows(N: int, D: int, A: int, barred: bool) -> Case:
    rng = np.random.default_rng(0)
    shape = (HORIZON, N)
    x, y = (rng.standard_normal((*shape, D)).astype(np.float32) for _ in range(2))
    count = np.full(HORIZON, N)
    data = StepData(x, rng.integers(A, size=shape), rng.random(shape), y, np.ones(shape), count)
    parts = [StepData(**cut(data, slice(h, h + 1))) for h in range(HORIZON)]
    config = LinearSpectralConfig(pca_dim=min(6, D))

    def batched() -> list[FloatArray]:
        return [fit_linear(data, A, 3, config).features.Phi]

    def loop() -> list[FloatArray]:
        return [np.concatenate([fit_linear(part, A, 3, config).features.Phi for part in parts])]

    return Case("closed form, rows", f"N={N} D={D} A={A}", batched, loop, barred)


def gradient(S: int, A: int, d: int, barred: bool) -> Case:
    counts = counts_of(S, A, d, 20)
    law = tabular_law(counts.succ_total(), "mixture")
    rng = np.random.default_rng(1)
    phi, psi = rng.standard_normal((HORIZON, S * A, d)), rng.standard_normal((HORIZON, S, d))
    config = DescentConfig(steps=ITERATIONS, lr=0.03, weight_decay=0.0, check_every=10, patience=4)
    objective = make("nce")
    whole = ExactTable(counts, law)
    parts = [ExactTable(part, law[h : h + 1]) for h, part in enumerate(single_steps(counts))]

    def run(sampler: ExactTable, rows: slice) -> list[FloatArray]:
        factors = TableFactors(phi[rows], psi[rows], beta=1.0, dtype=torch.float32, device="cpu")
        return list(export(factors, descend(factors, sampler, objective, config, rng=rng).values).values())

    def loop() -> list[FloatArray]:
        fits = [run(part, slice(h, h + 1)) for h, part in enumerate(parts)]
        return [np.concatenate(arrays) for arrays in zip(*fits, strict=True)]

    return Case("gradient", f"S={S} A={A} d={d}", lambda: run(whole, slice(None)), loop, barred)


class Replay:
    """A sampler of minibatches drawn beforehand, of some steps: both ways must see the same ones."""

    def __init__(self, batches: list[Batch], steps: slice) -> None:
        self._batches = cycle([Batch(**cut(batch, steps)) for batch in batches])

    def draw(self, *, rng: np.random.Generator) -> Batch:
        return next(self._batches)


def gradient_rows(N: int, D: int, A: int, size: int, negatives: int) -> Case:
    """d = 3 over 6 whitened coordinates, as in the agents; the running mean of the parameters is kept as well."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((HORIZON, N, D)).astype(np.float32) for _ in range(2))
    action, k, d = rng.integers(A, size=(HORIZON, N)), min(6, D), 3
    whitening, next_whitening = (rng.standard_normal((HORIZON, D, k)) / np.sqrt(D) for _ in range(2))
    weights = {"Phi": rng.standard_normal((HORIZON, A, k + 1, d)), "Psi": rng.standard_normal((HORIZON, k + 1, d))}
    rows, law = np.broadcast_to(np.arange(N), (HORIZON, N)), np.full((HORIZON, N), 1.0 / N)
    sampler = SampledRows(rows, np.full(HORIZON, N), law, size, negatives)
    batches = [sampler.draw(rng=rng) for _ in range(ITERATIONS)]
    whole, parts = Replay(batches, slice(None)), [Replay(batches, slice(h, h + 1)) for h in range(HORIZON)]
    config = DescentConfig(ITERATIONS, lr=0.03, weight_decay=0.0, check_every=10, patience=4, average=0.95)
    objective = make("nce")

    def run(replay: Sampler, steps: slice) -> list[FloatArray]:
        here, there = (
            np.concatenate([obs[steps] @ T[steps], np.ones((*obs[steps].shape[:2], 1))], axis=2)
            for obs, T in ((x, whitening), (y, next_whitening))
        )
        start = {name: value[steps] for name, value in weights.items()}
        factors = RowFactors(here, action[steps], there, start, beta=10.0, dtype=torch.float32, device="cpu")
        return list(export(factors, descend(factors, replay, objective, config, rng=rng).values).values())

    def loop() -> list[FloatArray]:
        fits = [run(part, slice(h, h + 1)) for h, part in enumerate(parts)]
        return [np.concatenate(arrays) for arrays in zip(*fits, strict=True)]

    label = f"N={N} D={D} A={A} B={size} M={negatives}"
    return Case("gradient, rows", label, lambda: run(whole, slice(None)), loop, False)


def largest_difference(case: Case) -> float:
    """Of the results of both ways; factors of an SVD are compared by their products."""
    a, b = case.batched(), case.loop()
    if case.stage == "closed form":
        a, b = ([np.einsum("hsad,htd->hsat", *x)] for x in (a, b))
    return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))


def seconds(call: Callable[[], list[FloatArray]]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contestant (default 5)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"H={HORIZON} steps, {ITERATIONS} iterations, one thread; ", end="")
    print(f"torch {torch.__version__}, numpy {np.__version__}; median of {args.repeats} turns")
    print(f"{'stage':<18}{'size':<29}{'loop ms':>9}{'batched ms':>12}{'ratio':>8}{'difference':>12}  {BAR:.0f}x")
    missed = False
    for case in (
        closed_form(5, 2, 2, True),
        closed_form(10, 2, 3, False),
        closed_form(20, 5, 3, False),
        closed_form(50, 5, 3, False),
        closed_form_rows(50, 8, 2, False),
        closed_form_rows(100, 16, 10, False),
        closed_form_rows(500, 128, 10, False),
        gradient(5, 2, 2, True),
        gradient(10, 2, 3, True),
        gradient(20, 5, 3, False),
        gradient(50, 5, 3, False),
        gradient_rows(100, 16, 10, 32, 16),
        gradient_rows(500, 128, 10, 32, 16),
        gradient_rows(500, 128, 10, 128, 64),
    ):
        difference = largest_difference(case)  # warms both up as well
        if not difference < 1e-3:
            raise SystemExit(f"{case.stage} {case.size}: the two ways differ by {difference:.2g}")
        times = [(seconds(case.loop), seconds(case.batched)) for _ in range(args.repeats)]
        ratio = median(loop / batched for loop, batched in times)
        loop_ms, batched_ms = (1e3 * median(column) for column in zip(*times, strict=True))
        reached = ratio >= BAR
        missed |= case.barred and not reached
        verdict = ("met" if reached else "MISSED") if case.barred else ("(yes)" if reached else "(no)")
        print(
            f"{case.stage:<18}{case.size:<29}{loop_ms:>9.1f}{batched_ms:>12.2f}{ratio:>7.1f}x{difference:>12.1e}"
            f"  {verdict}"
        )
    print("met, MISSED: a bar; (yes), (no): no bar at this size")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
