"""The running standard deviation of all numbers seen so far, by which errors and bonuses get a unit."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

from rl_contrastive.config import require, require_keys
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import FloatArray, State


class Spread:
    """Standard deviation of all numbers seen so far: mean and M2 = sum (x - mean)^2 in float64, batches merged exactly.

    n = n_a + n_b, delta = mean_b - mean_a:  mean = mean_a + delta n_b / n,  M2 = M2_a + M2_b + delta^2 n_a n_b / n
    (Welford 1962; Chan, Golub and LeVeque 1983).
    """

    def __init__(self) -> None:
        self.count, self.mean, self.m2 = 0, 0.0, 0.0

    def add(self, x: FloatArray) -> None:
        """Take in x (n,), finite."""
        if not len(x):
            return
        if not np.isfinite(x).all():
            raise RlcError("spread: an error or a bonus is NaN or infinite; lower lr.")
        mean, before = float(x.mean()), self.count
        self.count += len(x)
        delta = mean - self.mean
        self.mean += delta * len(x) / self.count
        self.m2 += float(np.square(x - mean).sum()) + delta**2 * before * len(x) / self.count

    @property
    def value(self) -> float:
        """The deviation; 1 before there is any."""
        # Errors that are almost equal differ only by rounding, so the spread is at least a tenth of their mean.
        spread = max(math.sqrt(self.m2 / self.count), 0.1 * abs(self.mean)) if self.count else 0.0
        return spread if spread > 0 else 1.0

    def state_dict(self) -> State:
        return {"count": self.count, "mean": self.mean, "m2": self.m2}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        require_keys(state, ("count", "mean", "m2"), "spread")
        given = [state[name] for name in ("count", "mean", "m2")]
        numbers = all(isinstance(x, Real) and math.isfinite(x) for x in given) and min(given[0], given[2]) >= 0
        require(numbers, f"spread: count and m2 must be >= 0 and the mean finite, got {given}.")
        self.count, self.mean, self.m2 = int(given[0]), float(given[1]), float(given[2])
