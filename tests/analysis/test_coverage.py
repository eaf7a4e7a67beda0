"""How often the 95% intervals of five and ten runs cover the truth: what the docstrings of `statistics` say."""

from __future__ import annotations

import numpy as np
import pytest

from rl_contrastive.analysis import statistics as st
from rl_contrastive.analysis.slopes import power_fit, slope_interval

LAWS = {
    "normal": lambda rng, *size: rng.normal(size=size),
    "exponential": lambda rng, *size: rng.exponential(size=size),
    "two values 1:1": lambda rng, *size: (rng.random(size) < 0.5) + 0.1 * rng.normal(size=size),
    "two values 4:1": lambda rng, *size: (rng.random(size) < 0.2) + 0.1 * rng.normal(size=size),
}
NORMAL = 0.93
"""What every interval must reach on the normal law, up to sampling noise of the simulation."""


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def truth(law: str) -> tuple[float, float]:
    """Mean and interquartile mean of a law."""
    many = np.sort(LAWS[law](rng(99), 1_000_000))
    return float(many.mean()), float(many[250_000:750_000].mean())


@pytest.mark.parametrize(
    ("law", "said"),
    [
        ("normal", (0.95, 0.95)),
        ("exponential", (0.88, 0.90)),
        ("two values 1:1", (0.94, 0.94)),
        ("two values 4:1", (0.70, 0.89)),
    ],
)
def test_intervals_of_means(law, said):
    mean, _ = truth(law)
    for n, expected in zip((5, 10), said, strict=True):
        runs = LAWS[law](rng(n), 4000, n)
        intervals = [st.mean_interval(row) for row in runs]
        covered = np.mean([i.low <= mean <= i.high for i in intervals])
        assert covered == pytest.approx(expected, abs=0.02), n
        if law == "normal":
            assert covered >= NORMAL


@pytest.mark.parametrize(
    ("law", "said"),
    [
        ("normal", (0.94, 0.97)),
        ("exponential", (0.94, 0.97)),
        ("two values 1:1", (0.94, 0.97)),
        ("two values 4:1", (0.94, 0.97)),
    ],
)
def test_intervals_of_interquartile_means(law, said):
    """By `bootstrap_curve`, whose points are bootstraps (test_statistics): many samples share each set of resamples."""
    _, middle = truth(law)
    for n, expected in zip((5, 10), said, strict=True):
        covered = []
        for block in range(10):  # of resamples
            runs = LAWS[law](rng(100 * n + block), n, 200)
            _, low, high = st.bootstrap_curve(runs, rng=rng(block), reps=1000)
            covered.append(np.mean((low <= middle) & (middle <= high)))
        assert np.mean(covered) == pytest.approx(expected, abs=0.025), n
        if law == "normal":
            assert np.mean(covered) >= NORMAL - 0.01  # 2000 samples: a standard error of .005


def test_plain_percentiles_do_not_cover(monkeypatch):
    """Control: 2.5% and 97.5% of the resamples, as most papers have it."""
    monkeypatch.setattr(st, "expanded_tail", lambda level, n: (1.0 - level) / 2)
    runs = LAWS["normal"](rng(3), 5, 1000)
    _, low, high = st.bootstrap_curve(runs, rng=rng(), reps=1000)
    assert np.mean((low <= 0) & (high >= 0)) < 0.92
    _, low, high = st.bootstrap_curve(runs, st.mean, rng=rng(), reps=1000)
    assert np.mean((low <= 0) & (high >= 0)) < 0.87


@pytest.mark.parametrize(("shift", "p"), [(0.0, 0.5), (1.0, 0.7602), (2.0, 0.9214)])
def test_intervals_of_the_probability_of_improvement(shift, p):
    for n in (5, 10):
        draws = rng(n)
        covered = []
        for _ in range(1000):
            found = st.probability_of_improvement(draws.normal(shift, 1, n), draws.normal(0, 1, n))
            covered.append(found.low <= p <= found.high)
        assert np.mean(covered) >= NORMAL - 0.015, n  # 1000 samples: a standard error of .007


def test_slopes_and_power_fits():
    x = np.geomspace(100, 10_000, 8)
    draws, slopes, powers = rng(5), [], []
    for _ in range(400):
        noise = draws.normal(0, 0.3, (5, 1)) * np.log(x) / 5 + draws.normal(0, 0.1, (5, 8))
        found = slope_interval(x, x**-0.5 * np.exp(noise))
        slopes.append(found.low <= -0.5 <= found.high)
        groups = [v * np.exp(draws.normal(0, 0.3, 5)) for v in x[::2] ** 2]
        power = power_fit(x[::2], groups, rng=draws, reps=300)
        powers.append(power.low <= 2.0 <= power.high)
    assert np.mean(slopes) >= NORMAL - 0.02  # 400 samples: a standard error of .011
    assert np.mean(powers) >= NORMAL - 0.02
