"""The sizes of the study gaussian-mean."""

from __future__ import annotations

from dataclasses import dataclass

from rl_contrastive.claims.energy.gaussian_sampled import Setting
from rl_contrastive.config import require

MARKS = 200
"""Iterations, evenly spaced in their logarithm, at which curves are kept for the plots."""


@dataclass(frozen=True)
class GaussianMeanConfig:
    """Distances, budgets and step sizes."""

    exact_distances: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0)
    """R of the exact part."""
    exact_rates: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0, 10.0, 100.0, 1000.0)
    """Step sizes every descent of the exact part tries; the one that arrives first counts."""
    budget: int = 20_000
    """Iterations of the exact part."""
    hold: int = 100
    """Exact part: iterations for which the estimate must stay right."""
    distances: tuple[float, ...] = (4.0, 8.0, 16.0)
    """R with covering noise."""
    small_distances: tuple[float, ...] = (8.0, 16.0)
    """R with covering noise and the small batch."""
    narrow_distances: tuple[float, ...] = (2.0, 8.0, 16.0)
    """R with noise N(0, 1)."""
    batch: int = 100
    """B data and as many noise points a step."""
    small_batch: int = 10
    """The same, small."""
    steps: int = 2_000
    """Steps of a sampled descent."""
    data: int = 2_000
    """N, size of a data set."""
    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    """Candidate step sizes of every sampled method, chosen on the tuning seeds."""
    tolerance: float = 0.1
    """Largest error of the mean that counts as right."""
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    """Reporting seeds."""
    tune_seeds: tuple[int, ...] = (0, 1)
    """Tuning seeds."""

    @classmethod
    def quick(cls) -> GaussianMeanConfig:
        """Seconds."""
        return cls(
            exact_distances=(2.0,), exact_rates=(0.1, 1.0), budget=500, distances=(2.0,), small_distances=(),
            narrow_distances=(8.0,), batch=50, steps=60, data=200, rates=(0.1, 1.0), seeds=(10, 11), tune_seeds=(0,),
        )  # fmt: skip

    def __post_init__(self) -> None:
        every = (*self.exact_distances, *self.distances, *self.small_distances, *self.narrow_distances)
        require(min(every, default=-1.0) > 0.0, f"gaussian-mean: distances must be > 0, got {every}.")
        require(bool(self.exact_distances and self.distances), "gaussian-mean: each part needs a distance.")
        rates = (*self.exact_rates, *self.rates)
        require(min(rates, default=-1.0) > 0.0, f"gaussian-mean: step sizes must be > 0, got {rates}.")
        require(
            1 <= self.hold <= self.budget,
            f"gaussian-mean: needs 1 <= hold <= budget, got {self.hold} and {self.budget}.",
        )
        require(self.steps >= 10, f"gaussian-mean: steps must be >= 10, got {self.steps}.")
        require(self.data >= 2, f"gaussian-mean: data must be >= 2, got {self.data}.")
        require(self.tolerance > 0.0, f"gaussian-mean: tolerance must be > 0, got {self.tolerance}.")

    @property
    def settings(self) -> dict[str, list[Setting]]:
        """The sampled tasks of each part."""
        large = [Setting(R, self.batch, "mix", form) for form in ("centred", "raw") for R in self.distances]
        small = [Setting(R, self.small_batch, "mix", form) for form in ("centred", "raw") for R in self.small_distances]
        return {
            "covering": large + small,
            "narrow": [Setting(R, self.batch, "narrow", "raw") for R in self.narrow_distances],
        }
