"""The gradient stage: Adam on the stacked factors of all steps h, with early stopping for each step h separately.

The losses of the steps are summed, so each parameter gets only the gradient of its own step, and Adam works by
element. One batched run therefore equals H separate runs, with one Python loop instead of H.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl_contrastive.errors import RlcError
from rl_contrastive.features.batches import Batch, Sampler
from rl_contrastive.features.networks import Factors, TensorBatch, contrast
from rl_contrastive.objectives.base import Objective, Sizes, State
from rl_contrastive.spec import FloatArray, IntArray


@dataclass(frozen=True)
class DescentConfig:
    """The part of a `LearnerConfig` that `descend` uses."""

    steps: int
    lr: float
    weight_decay: float
    check_every: int
    patience: int
    compile: bool = False
    bf16: bool = False
    average: float = 0.0
    """Decay of the running mean of the parameters, which is evaluated and returned; 0 takes the last iterate."""


@dataclass(frozen=True)
class Descent:
    """Parameters at each step's own best iteration: `steps` (H,) iterations, `loss` (H,) on the stopping batch."""

    values: list[Tensor]
    steps: IntArray
    loss: FloatArray


def descend(
    factors: Factors,
    sampler: Sampler,
    objective: Objective,
    config: DescentConfig,
    *,
    rng: np.random.Generator,
    stop_on: Batch | None = None,
    stop_at: IntArray | None = None,
) -> Descent:
    """Minimise the objective over the factors.

    stop_on: batch whose loss decides the best iteration of each step h. It is evaluated every `check_every` iterations,
    and a step without improvement for `patience` evaluations is frozen. stop_at (H,): fixed iteration counts instead.
    """
    state = _initial_state(factors, objective)
    trained = [*factors.parameters, *objective.parameters(state)]
    optimiser = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    loss_of = _loss_function(factors, objective, config)
    watch = _Watch(factors, objective, stop_on, stop_at, config)
    previous: Batch | None = None
    for step in range(1, watch.last + 1):
        batch = sampler.draw(rng=rng)
        if batch is not previous:  # an exact sampler hands out the same batch each time: convert it once
            tensors, previous = TensorBatch.of(batch, factors.parameters[0]), batch
        optimiser.zero_grad(set_to_none=True)
        loss, state = loss_of(tensors, state)
        torch.autograd.backward(loss.sum())
        optimiser.step()
        watch.average()
        if watch.finished(step):
            break
    return watch.result()


def _loss_function(
    factors: Factors, objective: Objective, config: DescentConfig
) -> Callable[[TensorBatch, State], tuple[Tensor, State]]:
    """(batch, state) -> (loss (H,), new state)."""

    def loss(batch: TensorBatch, state: State) -> tuple[Tensor, State]:
        device = factors.parameters[0].device.type
        with torch.autocast(device, torch.bfloat16) if config.bf16 else nullcontext():
            result, state = objective.step(contrast(factors, batch), state)
            return result.loss, state

    compiled: Any = torch.compile(loss) if config.compile else loss
    return compiled  # type: ignore[no-any-return]


def _initial_state(factors: Factors, objective: Objective) -> State:
    like = factors.parameters[0]
    with like.device:
        return objective.initial(Sizes(like.shape[0], factors.num_anchors, like.shape[-1]))


class _Watch:
    """Keeps the best parameters of each step h and says when none can improve any more."""

    def __init__(
        self,
        factors: Factors,
        objective: Objective,
        stop_on: Batch | None,
        stop_at: IntArray | None,
        config: DescentConfig,
    ) -> None:
        self._factors, self._objective, self._config = factors, objective, config
        self._batch = None if stop_on is None else TensorBatch.of(stop_on, factors.parameters[0])
        H = factors.parameters[0].shape[0]
        self.last = config.steps if stop_at is None else int(stop_at.max(initial=0))
        self._stop_at = stop_at
        self._best = [p.detach().clone() for p in factors.parameters]
        self._mean = [p.detach().clone() for p in factors.parameters] if config.average else None
        self._steps: IntArray = np.zeros(H, dtype=np.int64)
        self._stale: IntArray = np.zeros(H, dtype=np.int64)
        self._loss: FloatArray = np.full(H, np.nan) if self._batch is None else self._evaluate()

    @torch.no_grad()
    def average(self) -> None:
        """Move the running mean towards the parameters."""
        if self._mean is None:
            return
        for mean, parameter in zip(self._mean, self._factors.parameters, strict=True):
            mean.lerp_(parameter, 1.0 - self._config.average)

    def _looked_at(self) -> list[Tensor]:
        return [p.detach() for p in self._factors.parameters] if self._mean is None else self._mean

    def finished(self, step: int) -> bool:
        """Evaluate the parameters after iteration `step`."""
        if self._stop_at is not None:
            self._keep(self._stop_at == step, step)
            return step >= self.last
        if self._batch is None:
            if step == self.last:
                self._keep(np.ones(len(self._steps), dtype=np.bool_), step)
            return step == self.last
        if step % self._config.check_every and step != self.last:
            return False
        loss = self._evaluate()
        active = self._stale < self._config.patience
        better = active & (loss < self._loss)
        self._loss = np.where(better, loss, self._loss)
        self._stale = np.where(better, 0, self._stale + 1)
        self._stale = np.where(active, self._stale, self._config.patience)  # frozen for good
        self._keep(better, step)
        return not bool((self._stale < self._config.patience).any())

    def result(self) -> Descent:
        if not all(bool(torch.isfinite(value).all()) for value in self._best):
            raise RlcError("learner: the gradient stage diverged (NaN or infinite parameters); lower lr.")
        return Descent(self._best, self._steps, self._loss)

    def _keep(self, levels: np.ndarray[Any, np.dtype[np.bool_]], step: int) -> None:
        if not levels.any():
            return
        self._steps = np.where(levels, step, self._steps)
        index = torch.as_tensor(np.flatnonzero(levels), device=self._best[0].device)
        for best, current in zip(self._best, self._looked_at(), strict=True):
            best[index] = current[index]

    @torch.no_grad()
    def _evaluate(self) -> FloatArray:
        assert self._batch is not None
        with _holding(self._factors, self._looked_at()):
            loss = self._objective.judge(contrast(self._factors, self._batch)).loss
        return np.asarray(loss.to("cpu", torch.float64).numpy())


@contextmanager
def _holding(factors: Factors, values: list[Tensor]) -> Iterator[None]:
    """The factors with other parameter values, during one evaluation."""
    own, factors.parameters = factors.parameters, values
    try:
        yield
    finally:
        factors.parameters = own
