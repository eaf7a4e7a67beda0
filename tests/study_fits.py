"""Fits for the tests of `studies.grid`: functions of a module, because worker processes import them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_contrastive.errors import RlcError


@dataclass(frozen=True)
class BowlConfig:
    """A parabola with its bottom at `best`."""

    best: float = 2.0
    """Where the loss is 0."""


def bowl(config: BowlConfig, task) -> dict[str, list[float]]:
    """loss = (x - best)^2 + noise of the seed; `score` is what is reported."""
    noise = [float(np.random.default_rng(seed).normal(scale=0.01)) for seed in task.seeds]
    x = float(task.options.get("x", 0.0))
    if x > 100:
        raise RlcError("bowl: diverged.")
    if task.method == "touchy" and any(seed >= 10 for seed in task.seeds):
        raise RlcError(f"bowl: failed at {task.seeds}.")
    if task.method == "writes":
        task.folder.mkdir(parents=True)
        np.savez(task.folder / "x.npz", x=np.array([x]))
    return {"loss": [(x - config.best) * (x - config.best) + e for e in noise], "score": [x + e for e in noise]}
