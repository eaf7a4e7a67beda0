"""The training loop of any energy with any objective: minibatches, device, mixed precision, averaging, exact resume.

One step t:
    x: a minibatch of the data (rows with replacement, so every step is an unbiased sample of E_data)
    z: noise_batch draws of q, or what the objective draws for itself
    theta <- optimiser(theta, grad surrogate(theta; x, z, state)),  state <- the objective's new state
    average <- d average + (1 - d) theta,  d = min(decay, (1 + t) / (10 + t)): the first steps do not weigh for ever.
The network may compute in bfloat16; its parameters stay float32 and everything that touches a partition function
float64 (the objectives' door casts). Batches come from one stream and noise from another, so two objectives with the
same seed see the same data. All state is in `state_dict`: a run that was cut and loaded goes on to the same bits.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.config import Ge, Gt, In, require, to_dict
from rl_contrastive.device import DeviceOptions, copies, fetch, fetch_numbers, move, resolve_device, waits
from rl_contrastive.energy.base import EnergyLoss, Objective
from rl_contrastive.energy.noise import NoiseLaw, check_points, moved, require_coverage
from rl_contrastive.energy.steps import AveragedDescent
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import State

Validation = Callable[[nn.Module], float]
"""Score of a model, lower is better; called without gradients on `Trainer.model`."""
CHECKED = 2000
"""Rows of the data, at most, on which it is checked that the noise law covers them."""
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""(rows (n, D), generator on their device) -> changed rows (n, D)."""


@dataclass(frozen=True)
class TrainConfig(DeviceOptions, where="train"):
    """How an energy is descended."""

    steps: Annotated[int, Ge(1)] = 1500
    """Optimiser steps of the whole run; the cosine schedule ends there."""
    batch_size: Annotated[int, Ge(1)] = 256
    """Rows of data in a step, drawn with replacement."""
    noise_batch: Annotated[int, Ge(0)] = 0
    """Draws of q in a step. 0: the objective draws as many as its own noise_per_datum says."""
    optimiser: Literal["adam", "adamw", "sgd", "normalised"] = "adam"
    """sgd and normalised are averaged descent (see `beta`), the latter with steps of length lr."""
    lr: Annotated[float, Gt(0)] = 2e-3
    """Learning rate at the start."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """cosine: lr (1 + cos(pi t / steps)) / 2."""
    beta: Annotated[float, In(0, 1, above=True)] = 1.0
    """Weight of the newest gradient in the moving average that sgd and normalised follow; 1 is plain."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """adamw only, on the model's parameters and not on a learned log Z."""
    clip: Annotated[float, Ge(0)] = 0.0
    """Largest norm of the gradient of all parameters together; 0 does not clip."""
    average: Annotated[float, In(0, 1, below=True)] = 0.0
    """Decay of the moving average of the parameters that `Trainer.model` shows; 0: no average."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: the network's products in bfloat16 (autocast); parameters, partitions and states keep their precision."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:1 ..."""
    compile: bool = False
    """Compile the network (torch.compile): a minute first, then faster steps on a GPU."""
    log_every: Annotated[int, Ge(1)] = 50
    """Steps between lines of the history."""
    validate_every: Annotated[int, Ge(1)] = 100
    """Steps between calls of the validation, if one is given."""
    patience: Annotated[int, Ge(0)] = 0
    """Stop after this many validations in a row without a new best; 0 never stops early."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.weight_decay == 0.0 or self.optimiser == "adamw",
            f"train: weight_decay works with adamw only, not with {self.optimiser}.",
        )
        require(
            self.beta == 1.0 or self.optimiser in ("sgd", "normalised"),
            f"train: beta works with sgd and normalised only, not with {self.optimiser}.",
        )


class Trainer:
    """Descends an objective of an energy on data.

    Example:
        f = tilted(q, MLPEnergy.for_data(x, rng=rng))
        trainer = Trainer(f, make("meco"), x, q=q, config=TrainConfig(steps=1500), rng_seed=0)
        trainer.run()
        log_partition(trainer.model, Quadrature((-6, -6), (6, 6)))
    """

    def __init__(
        self,
        f: nn.Module,
        objective: Objective[Any],
        data: Tensor,
        *,
        q: NoiseLaw | None,
        config: TrainConfig,
        rng_seed: int,
        validation: Validation | None = None,
        augment: Augment | None = None,
        allow_uncovered: bool = False,
    ) -> None:
        """data (N, D) stays where it is, batches move. f is moved to the device and trained in place; so is q, but a
        law inside f (`tilted`) is its maker's: move it with `noise.moved(q, resolve_device(config.device))` first.
        allow_uncovered: train although q misses data (`noise.require_coverage`), under which nothing is learned."""
        dim = check_points("train: the data", data)
        require(
            q is None or q.dim == dim, f"train: the noise law has dimension {q.dim if q else 0}, the data have {dim}."
        )
        require(config.noise_batch == 0 or q is not None, "train: noise_batch > 0 needs a noise law q.")
        self.config, self.objective, self.data = config, objective, data
        self.device = resolve_device(config.device)
        self.f = f.to(self.device)
        self.q = None if q is None else moved(q, self.device)
        if self.q is not None and not allow_uncovered:
            some = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:CHECKED]
            require_coverage(self.q, data[some.to(data.device)].to(self.device))
        self.validation, self.augment = validation, augment
        self.step, self.best, self.stale = 0, math.inf, 0
        self.history: dict[str, list[float]] = {n: [] for n in ("step", "nll", "ess", "gradient_norm")}
        self.validations: dict[str, list[float]] = {"step": [], "value": []}
        batches, noise = np.random.SeedSequence(rng_seed).generate_state(2, np.uint64)
        self._batch_rng = torch.Generator().manual_seed(int(batches >> np.uint64(1)))
        self._noise_rng = torch.Generator(self.device).manual_seed(int(noise >> np.uint64(1)))
        self.state = objective.initial_state(device=self.device)
        self._own = [p for p in self.f.parameters() if p.requires_grad]
        require(len(self._own) > 0, "train: the energy has no parameters to train.")
        self._optimiser = _optimiser(config, self._own, self.state.parameters())
        self._largest = torch.zeros((), dtype=torch.float64, device=self.device)
        """The largest norm of a gradient so far; NaN if one was."""
        self._unread = False
        self._averaged = copy.deepcopy(self.f).requires_grad_(False) if config.average > 0.0 else None
        self._best_weights: dict[str, Tensor] = {}
        self._network = _Network(self.f, self.device, bf16=config.precision == "bf16")
        if config.compile:
            self._network.compile()  # in place, so that parameters keep their names in an objective's state

    @property
    def model(self) -> nn.Module:
        """What to evaluate: the averaged energy where the config asks for an average, else f itself."""
        return self.f if self._averaged is None else self._averaged

    @property
    def finished(self) -> bool:
        """All steps done, or stopped early."""
        out_of_patience = 0 < self.config.patience <= self.stale
        return self.step >= self.config.steps or out_of_patience

    def run(self, steps: int | None = None) -> dict[str, list[float]]:
        """Take `steps` more steps (all that are left, when left out), stopping early if the config says so."""
        require(steps is None or steps >= 0, f"train: steps must be >= 0, got {steps}.")
        end = self.config.steps if steps is None else min(self.config.steps, self.step + steps)
        while self.step < end and not self.finished:
            self.take_step()
            if self.validation is not None and self.step % self.config.validate_every == 0:
                self._validate(self.validation)
        self._require_finite()
        return self.history

    def take_step(self) -> EnergyLoss[Any]:
        """One step; returns the objective's outcome before it."""
        # 1. Data and noise of the step.
        x = self._batch()
        z = None
        if self.config.noise_batch > 0:
            assert self.q is not None  # the constructor refuses None
            z = self.q.sample(self.config.noise_batch, rng=self._noise_rng).to(x)
        # 2. The surrogate and its gradient.
        self._optimiser.zero_grad(set_to_none=True)
        out = self.objective.loss(self._network, x, q=self.q, z=z, state=self.state, rng=self._noise_rng)
        out.surrogate.backward()  # type: ignore[no-untyped-call]
        logged = self.step % self.config.log_every == 0 or self.step + 1 == self.config.steps
        norm = self._clip()
        if logged or not waits(self.device):
            self._require_finite()
        # 3. The step, and what follows it.
        for group in self._optimiser.param_groups:
            group["lr"] = self._lr()
        self._optimiser.step()
        self.state = out.state
        self._average()
        if logged:
            line = {"step": self.step, "nll": out.nll, "ess": out.ess, "gradient_norm": norm}
            for name, value in fetch_numbers(line).items():
                self.history[name].append(value)
        self.step += 1
        return out

    def load_best(self) -> None:
        """Put the parameters of the best validation into `model` (and f); an error if nothing was validated."""
        require(bool(self._best_weights), "train: there is no best model: no validation has been made.")
        self.f.load_state_dict(self._best_weights)
        self.model.load_state_dict(self._best_weights)

    def state_dict(self) -> State:
        """Everything the next step depends on, as nested dicts of numpy arrays and plain values."""
        self._require_finite()
        return {
            "config": _identity(self.config),
            "step": self.step,
            "model": copies(self.f.state_dict()),
            "average": {} if self._averaged is None else copies(self._averaged.state_dict()),
            "optimiser": {str(k): copies(v) for k, v in self._optimiser.state_dict()["state"].items()},
            "objective": copies(self.state.state_dict()),
            "rng": copies({"batch": self._batch_rng.get_state(), "noise": self._noise_rng.get_state()}),
            "history": {name: np.array(values) for name, values in self.history.items()},
            "validations": {name: np.array(values) for name, values in self.validations.items()},
            "best": {"value": np.array(self.best), "stale": self.stale, "weights": copies(self._best_weights)},
        }

    def load_state_dict(self, state: State) -> None:
        """Take over what `state_dict` gave: same config (device apart), same energy, same objective, same data."""
        require(
            state["config"] == _identity(self.config), "train: the saved state is of a run with another configuration."
        )
        try:
            self.f.load_state_dict(self._tensors(state["model"]))
            if self._averaged is not None:
                self._averaged.load_state_dict(self._tensors(state["average"]))
        except RuntimeError as error:
            raise RlcError(f"train: the saved state is of another energy: {' '.join(str(error).split())}.") from error
        self.state.load_state_dict(self._tensors(state["objective"]))
        # As CPU tensors: the optimiser moves what belongs to a parameter and leaves its step counters there.
        saved = {int(k): {n: torch.tensor(a) for n, a in v.items()} for k, v in state["optimiser"].items()}
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": saved, "param_groups": groups})
        self._batch_rng.set_state(torch.from_numpy(state["rng"]["batch"].copy()))
        self._noise_rng.set_state(torch.from_numpy(state["rng"]["noise"].copy()))
        self.step = int(state["step"])
        self.history = {name: values.tolist() for name, values in state["history"].items()}
        self.validations = {name: values.tolist() for name, values in state["validations"].items()}
        self.best, self.stale = float(state["best"]["value"]), int(state["best"]["stale"])
        self._best_weights = self._tensors(state["best"]["weights"])

    def _batch(self) -> Tensor:
        index = torch.randint(len(self.data), (self.config.batch_size,), generator=self._batch_rng)
        x = move(self.data[move(index, self.data.device)], self.device)
        return x if self.augment is None else self.augment(x, self._noise_rng)

    def _lr(self) -> float:
        if self.config.schedule == "constant":
            return self.config.lr
        return 0.5 * self.config.lr * (1.0 + math.cos(math.pi * self.step / self.config.steps))

    def _clip(self) -> Tensor:
        """Norm of the whole gradient, float64 (), which is scaled down to `clip`. No wait for the device."""
        gradients = [p.grad for p in (*self._own, *self.state.parameters()) if p.grad is not None]
        # float64: a float32 sum of squares overflows at entries of 1e19.
        norm = torch.stack([g.to(torch.float64).square().sum() for g in gradients]).sum().sqrt()
        self._largest, self._unread = torch.maximum(self._largest, norm), True
        if self.config.clip > 0.0:
            scale = (self.config.clip / norm).clamp(max=1.0)
            for gradient in gradients:
                gradient.mul_(scale)
        return norm

    def _require_finite(self) -> None:
        """RlcError if a gradient was NaN or infinite: at once on the CPU; a GPU is asked only at the lines of the
        history, at validations and at the end, because it would have to be waited for."""
        unread, self._unread = self._unread, False
        require(
            not unread or math.isfinite(fetch(self._largest)),
            f"train ({self.objective.name}): the gradient is NaN or infinite at step {self.step}; "
            "lower the learning rate, standardise the data or bound the energy.",
        )

    @torch.no_grad()
    def _average(self) -> None:
        if self._averaged is None:
            return
        decay = min(self.config.average, (1.0 + self.step) / (10.0 + self.step))
        for mean, new in zip(self._averaged.parameters(), self.f.parameters(), strict=True):
            mean.lerp_(new, 1.0 - decay)
        for kept, now in zip(self._averaged.buffers(), self.f.buffers(), strict=True):
            kept.copy_(now)

    @torch.no_grad()
    def _validate(self, validation: Validation) -> None:
        self._require_finite()
        value = float(validation(self.model))
        require(not math.isnan(value), f"train: the validation is NaN at step {self.step}.")
        self.validations["step"].append(float(self.step))
        self.validations["value"].append(value)
        if value < self.best:
            self.best, self.stale = value, 0
            self._best_weights = {name: v.detach().clone() for name, v in self.model.state_dict().items()}
        else:
            self.stale += 1

    def _tensors(self, arrays: dict[str, Any]) -> dict[str, Tensor]:
        return {name: torch.tensor(value, device=self.device) for name, value in arrays.items()}


class _Network(nn.Module):
    """f as a step sees it; in bf16 its scores come back as float32 at least, so sums over them keep their digits."""

    def __init__(self, f: nn.Module, device: torch.device, *, bf16: bool) -> None:
        super().__init__()
        self.f, self.kind, self.bf16 = f, device.type, bf16

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.kind, torch.bfloat16, enabled=self.bf16):
            out: Tensor = self.f(x)
        return out if out.dtype == torch.float64 else out.float()


def _optimiser(config: TrainConfig, own: list[nn.Parameter], log_z: list[nn.Parameter]) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [{"params": own}]
    if log_z:
        groups.append({"params": log_z})
    if config.optimiser in ("sgd", "normalised"):
        normalise = config.optimiser == "normalised"
        # The trainer checks its gradients itself.
        return AveragedDescent(groups, config.lr, beta=config.beta, normalise=normalise, checked=False)
    if config.optimiser == "adam":
        return torch.optim.Adam(groups, config.lr)
    groups[1:] = [{**group, "weight_decay": 0.0} for group in groups[1:]]
    return torch.optim.AdamW(groups, config.lr, weight_decay=config.weight_decay)


def _identity(config: TrainConfig) -> dict[str, Any]:
    """What must agree for a resume; where the run computes is free."""
    return {name: value for name, value in to_dict(config).items() if name not in ("device", "compile")}
