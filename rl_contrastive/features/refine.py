"""The gradient stage for any model: split, descend, compare with the spectral fit, fit again on all data."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from rl_contrastive.device import resolve_device
from rl_contrastive.features.batches import Batch, Sampler
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.descent import DescentConfig, descend
from rl_contrastive.features.networks import Factors, Named, export
from rl_contrastive.objectives import make
from rl_contrastive.objectives.base import Objective
from rl_contrastive.spec import BoolArray, FloatArray

RATIO_FLOOR = 1e-2
"""Ratios are clipped to at least this when judged, because a 0 at an observed successor would cost infinitely much."""
AVERAGING = 0.95
"""Decay of the running mean of parameters over minibatches (about 20 iterations), as constant steps leave noise."""
LEAST_JUDGES = 10
"""With fewer held-out transitions there is no verdict, and the spectral solution stays."""


class Problem(Protocol):
    """A fit of tables or rows: how factors start, which batches they get, and how they become a feature map again."""

    exact: bool
    """Whether batches are exact expectations, without sampling noise."""
    stop: Batch
    judge: Batch
    spectral_all: Any
    spectral_train: Any

    def start(self, *, train: bool) -> Any: ...

    def factors(self, start: Any, *, dtype: torch.dtype, device: str) -> Factors: ...

    def sampler(self, *, train: bool) -> Sampler: ...

    def finish(self, start: Any, weights: Named) -> Any: ...

    def gather(self, features: Any, batch: Batch) -> tuple[FloatArray, FloatArray, FloatArray]: ...

    def merge(self, accepted: BoolArray, refined: Any, spectral: Any) -> Any: ...


def refine(problem: Problem, config: LearnerConfig, *, rng: np.random.Generator) -> tuple[Any, dict[str, FloatArray]]:
    """Features of all steps and the report described at `learner.Fit`."""
    objective, device = make(config.objective, config.objective_options), str(resolve_device(config.device))
    dtype = torch.float64 if config.precision == "float64" else torch.float32
    settings = DescentConfig(
        config.steps,
        config.lr,
        config.weight_decay,
        config.check_every,
        config.patience,
        config.compile,
        config.precision == "bf16",
        0.0 if problem.exact else AVERAGING,
    )
    held_out = config.held_out > 0
    # 1. Descend on the training part; the stopping part decides for how long.
    start = problem.start(train=held_out)
    factors = problem.factors(start, dtype=dtype, device=device)
    stop_on = problem.stop if held_out else None
    run = descend(factors, problem.sampler(train=held_out), objective, settings, rng=rng, stop_on=stop_on)
    refined = problem.finish(start, export(factors, run.values))
    H = len(run.steps)
    if not held_out:
        return refined, {"accepted": np.ones(H), "steps": run.steps.astype(np.float64)}
    # 2. Judge on transitions that neither fit has seen.
    losses = held_out_rows_loss(problem, refined, objective)
    report = {"steps": run.steps.astype(np.float64), "loss_refined": _mean(problem.judge, losses)}
    accepted: BoolArray = np.ones(H, dtype=np.bool_)
    if problem.spectral_train is not None:
        # The lifted start must be beaten too: clipping alone can raise the spectral fit's loss and not its error.
        lifted = problem.finish(start, export(problem.factors(start, dtype=torch.float64, device="cpu")))
        before = held_out_rows_loss(problem, problem.spectral_train, objective)
        undescended = held_out_rows_loss(problem, lifted, objective)
        gain = np.minimum(
            standard_errors(before - losses, problem.judge), standard_errors(undescended - losses, problem.judge)
        )
        accepted = gain > config.margin
        report |= {
            "loss_spectral": _mean(problem.judge, before),
            "loss_start": _mean(problem.judge, undescended),
            "gain_se": gain,
        }
    report["accepted"] = accepted.astype(np.float64)
    # 3. After the verdict, fit on all data for the number of iterations found.
    if not accepted.any():
        return problem.spectral_all, report
    start = problem.start(train=False)
    factors = problem.factors(start, dtype=dtype, device=device)
    blind = problem.stop.pos_weight.sum((1, 2)) == 0  # too few rows to stop by: only reached by method nce
    stop_at = np.where(accepted, np.where(blind, config.steps, run.steps), 0)
    run = descend(factors, problem.sampler(train=False), objective, settings, rng=rng, stop_at=stop_at)
    refined = problem.finish(start, export(factors, run.values))
    return problem.merge(accepted, refined, problem.spectral_all), report


def held_out_rows_loss(problem: Problem, features: Any, objective: Objective) -> FloatArray:
    """(H, N) losses of the judging rows under P-hat as it would be planned with: clipped at 0 and normalised."""
    batch = problem.judge
    phi, psi_pos, psi_neg = problem.gather(features, batch)  # (H, N, d), (H, N, d), (H, M, d)
    neg = np.maximum(phi @ np.swapaxes(psi_neg, 1, 2), 0.0)  # (H, N, M)
    pos = np.maximum(np.einsum("hnd,hnd->hn", phi, psi_pos), 0.0)
    mass = np.einsum("hnm,hm->hn", neg, batch.neg_weight)  # the normaliser of P-hat, P^- taken from the batch
    proper, safe = mass > 0, np.where(mass > 0, mass, 1.0)
    pos = np.maximum(np.where(proper, pos / safe, 1.0), RATIO_FLOOR)
    neg = np.maximum(np.where(proper[..., None], neg / safe[..., None], 1.0), RATIO_FLOOR)
    if objective.space == "log":
        pos, neg = np.log(pos), np.log(neg)
    weight = np.broadcast_to(batch.neg_weight[:, None], neg.shape)
    arrays = (pos[..., None], neg, batch.pos_weight, weight)
    result = objective(*(torch.tensor(x) for x in arrays))
    return np.asarray(result.rows.numpy())


def standard_errors(gain: FloatArray, batch: Batch) -> FloatArray:
    """Mean gain of each step in standard errors, paired by row; -inf with fewer than LEAST_JUDGES rows."""
    w = batch.pos_weight.sum(-1)  # (H, N), equal weights of the real rows
    n = (w > 0).sum(axis=1)
    mean = (w * gain).sum(axis=1)
    variance = (w * np.square(gain - mean[:, None])).sum(axis=1)
    error = np.sqrt(variance / np.maximum(n - 1, 1))
    ratio = mean / np.where(error > 0, error, 1.0)
    return np.where(n >= LEAST_JUDGES, np.where(error > 0, ratio, np.where(mean > 0, np.inf, -np.inf)), -np.inf)


def _mean(batch: Batch, rows: FloatArray) -> FloatArray:
    w = batch.pos_weight.sum(-1)
    return np.where(w.sum(axis=1) > 0, (w * rows).sum(axis=1), np.nan)
