"""What makes a far mean hard to learn: the loss's landscape, the parametrisation, or noise that misses the data.

Three parts on data N(R, 1), the start being N(0, 1) (`population.py`, `gaussian_sampled.py` hold the mathematics):
exact     every expectation by quadrature, noise N(0, 1): nothing but the landscape of the loss.
covering  minibatches, noise that covers the data, centred and raw parametrisation, large and small batches.
narrow    minibatches, noise N(0, 1): no noise point ever lies among the data, so no objective can tell anything.
Iterations are counted until the estimate is right and stays right: a first hit counts runs that diverge through R.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from rl_contrastive.claims.base import Context, Report
from rl_contrastive.claims.energy import gaussian_report, gaussian_sampled, population
from rl_contrastive.claims.energy.gaussian_config import MARKS, GaussianMeanConfig
from rl_contrastive.claims.energy.gaussian_sampled import Setting
from rl_contrastive.claims.grid import Grid, run_grid
from rl_contrastive.claims.ledger import Task
from rl_contrastive.device import resolve_device
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray


@register("claim", "energy/gaussian-mean", GaussianMeanConfig)
def gaussian_mean(config: GaussianMeanConfig, context: Context) -> Report:
    """Mean of N(R, 1): likelihood, NCE and eNCE with exact expectations, and seven methods with samples."""
    exact = run_grid(exact_fit, config, _exact_grid(config), context.part("exact"))
    sampled = {
        part: run_grid(sampled_fit, config, _sampled_grid(config, settings), context.part(part))
        for part, settings in config.settings.items()
        if settings
    }
    return gaussian_report.report(config, context.out, exact, sampled)


def _exact_grid(config: GaussianMeanConfig) -> Grid:
    names = [f"R={R:g}" for R in config.exact_distances]
    nothing: dict[str, list[dict[str, Any]]] = {name: [{}] for name in population.DESCENTS}
    return Grid(names, nothing, select="iterations", tune_seeds=(), seeds=(0,))  # the seed is not used: no chance here


def _sampled_grid(config: GaussianMeanConfig, settings: list[Setting]) -> Grid:
    candidates = {name: [{"rate": rate} for rate in config.rates] for name in gaussian_sampled.METHODS}
    names = [setting.name for setting in settings]
    return Grid(names, candidates, "score", config.tune_seeds, config.seeds, together=True)


def exact_fit(config: GaussianMeanConfig, task: Task) -> dict[str, Sequence[float]]:
    """Iterations of one descent at its best step size, with the curve of that step size in the task's folder.

    The runs of all step sizes go on until the first of them has arrived: those that arrive later are slower.
    """
    distance, descent = float(task.setting.removeprefix("R=")), population.DESCENTS[task.method]

    def arrivals(history: FloatArray) -> FloatArray:
        good = population.inside(history, distance, tolerance=config.tolerance, with_log_z=descent.loss != "likelihood")
        return population.arrival(good, config.hold)

    history = population.descend(
        descent, population.line(distance), np.array(config.exact_rates), budget=config.budget,
        done=lambda so_far: bool(np.isfinite(arrivals(so_far)).any()),
    )  # fmt: skip
    found = arrivals(history)
    error = np.abs(history - population.truth(distance).numpy())  # (t+1, L, 2) of the mean and of log Z
    if descent.loss == "likelihood":
        error[..., 1] = 0.0  # log Z is computed
    # Where no step size arrives the closest one is shown.
    best = int(found.argmin()) if np.isfinite(found).any() else int(np.hypot(*error[-1].T).argmin())
    marks = _marks(len(history))
    _keep(task, iteration=marks, error=error[marks, best, 0])
    left, left_log_z = error[-1, best]
    outcome = {"iterations": found[best], "rate": config.exact_rates[best], "error": left, "log_z_error": left_log_z}
    later = {f"rate {rate:g}": value for rate, value in zip(config.exact_rates, found, strict=True)}
    return {name: [float(value)] for name, value in {**outcome, **later}.items()}


def sampled_fit(config: GaussianMeanConfig, task: Task) -> dict[str, Sequence[float]]:
    """Sustained iterations of one method at one step size on all seeds of the task.

    score: the iterations, or, where the mean is never right for good, the budget times one plus the final error.
    """
    # Candidates of a tuning seed are fitted side by side, at the cost of one.
    tuning = task.seeds == config.tune_seeds
    rates = config.rates if tuning else (task.options["rate"],)
    averages, ess = _averages(config, task.setting, task.method, rates, task.seeds, task.device)
    at = rates.index(task.options["rate"])
    average, distance = averages[:, at], Setting.parse(task.setting).distance
    iterations = gaussian_sampled.sustained(average, distance, tolerance=config.tolerance)
    error = np.abs(average - distance)  # (T, S)
    if not tuning:
        marks = _marks(len(average))
        _keep(task, iteration=marks, error=error[marks])
    score = np.where(np.isfinite(iterations), iterations, config.steps * (1.0 + error[-1]))
    outcome = {"iterations": iterations, "error": error[-1], "ess": ess[at], "score": score}
    return {name: values.tolist() for name, values in outcome.items()}


@functools.lru_cache(maxsize=2)
def _averages(
    config: GaussianMeanConfig, setting: str, method: str, rates: tuple[float, ...], seeds: tuple[int, ...], device: str
) -> tuple[FloatArray, FloatArray]:
    """Suffix averages (T, L, S) and the median ESS over the last quarter (L, S)."""
    trace = gaussian_sampled.estimate(
        Setting.parse(setting), gaussian_sampled.METHODS[method], rates=rates, seeds=seeds, steps=config.steps,
        data=config.data, device=resolve_device(device),
    )  # fmt: skip
    return gaussian_sampled.suffix_average(trace.theta), np.median(trace.ess[-(config.steps // 4) :], axis=0)


def _marks(length: int) -> Any:
    """Iterations 1 .. length-1 (int64), each once, evenly spaced in their logarithm."""
    return np.unique(np.geomspace(1, length - 1, MARKS).round().astype(np.int64))


def _keep(task: Task, **arrays: Any) -> None:
    task.folder.mkdir(parents=True, exist_ok=True)
    np.savez(task.folder / "curve.npz", **arrays)
