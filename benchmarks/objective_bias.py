"""How wrong P-hat becomes with each score objective, biased ones included: exact expectations, so no sampling noise.

Run `python benchmarks/objective_bias.py` (about four minutes on one core): random low-rank MDPs (S 25, A 3, H 2,
rank 3), every pair (s, a) weighs the same and its successors weigh P itself; 500 gradient steps of the table's factors
with d = 3. Prints a markdown table: mean and range over the seeds of the total variation of P-hat, mean over (s, a) and
steps. Of an objective that recovers the ratio what is left is the descent's own error; of the others also its bias.
`--seeds 2` and `--steps 50` shorten it. A registered objective that has no row here gets one with its defaults.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

from rl_contrastive.envs.low_rank import LowRankConfig, draw_mdp
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.diagnostics import model_error
from rl_contrastive.features.learner import FeatureLearner
from rl_contrastive.features.maps import TabularFeatures
from rl_contrastive.objectives import make
from rl_contrastive.registry import entries

S, A, H, RANK = 25, 3, 2, 3
OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("infonce", {"temperature": 2.0}),
    ("infonce", {"temperature": 0.5}),
    ("logistic", {"smoothing": 0.1}),
    ("dcl", {"temperature": 0.1}),
    ("hard", {"alpha": 0.25}),
    ("reweighted", {"weight": "cl"}),
    ("isogclr", {"rho": 0.0}),
    ("isogclr", {"form": "s"}),
    ("isogclr", {"tau_0": 1.0, "tau_min": 1.0, "tau_max": 1.0}),
)
"""Beside the defaults of each."""


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Registered objectives with their defaults, each followed by its other options."""
    names = [entry.name for entry in entries("objective")]
    names.sort(key=lambda name: not make(name).recovers.startswith("ratio"))  # biased ones last
    return [(name, options) for name in names for options in ({}, *(o for n, o in OPTIONS if n == name))]


def kernel(seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """P (H, S, A, S) of a random low-rank MDP."""
    mdp = draw_mdp(LowRankConfig(num_states=S, num_actions=A, horizon=H, rank=RANK, mdp_seed=seed))
    return np.einsum("hsad,hdt->hsat", mdp.phi, mdp.psi)


def total_variation(name: str, options: dict[str, Any], seed: int, steps: int) -> float:
    """Mean over (s, a) and steps h."""
    P = kernel(seed)
    config = LearnerConfig(
        method="nce", objective=name, objective_options=options, allow_biased=True, dim=RANK, steps=steps, device="cpu"
    )
    learner = FeatureLearner(config, horizon=H, num_actions=A, num_states=S)
    features = learner.fit_table(TransitionCounts.from_dense(P), rng=np.random.default_rng(seed)).features
    assert isinstance(features, TabularFeatures)
    return float(model_error(features.model(), P, np.ones((H, S, A))).mean.mean())


def main(seeds: int, steps: int) -> int:
    print("| objective | options | recovers | TV of P-hat, mean | range |")
    print("|---|---|---|---|---|")
    for name, options in cases():
        found = [total_variation(name, options, seed, steps) for seed in range(seeds)]
        told = ", ".join(f"{key} {value}" for key, value in options.items()) or "-"
        recovers = make(name, options).recovers
        print(
            f"| `{name}` | {told} | {recovers} | {np.mean(found):.4f} | {min(found):.4f} to {max(found):.4f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500)
    arguments = parser.parse_args()
    sys.exit(main(arguments.seeds, arguments.steps))
