"""An encoder trained by a loss of embeddings: what every study of such losses shares.

    z = enc(x) of V views of each of N instances;   (loss, state) <- objective(z, state);   Adam on enc and on what the
    objective learns beside it

Whatever an objective draws (mixtures, permutations, first parameters) comes from the learner's own stream: the same
seed gives the same bytes, a restored learner goes on to the same bytes, and torch's global generator is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.config import require
from rl_contrastive.device import copies, fetch
from rl_contrastive.errors import RlcError
from rl_contrastive.objectives.base import ObjectiveResult
from rl_contrastive.objectives.views import ViewObjective, Views
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import Array, State


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it torch's global generators start from `seed`; afterwards they are as they were."""
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if started else []):
        torch.manual_seed(seed)
        yield


def draw_seed(rng: np.random.Generator) -> int:
    """The next seed for `seeded`."""
    return int(rng.integers(2**62))


class ViewLearner:
    """Encoder, objective, its state, and one Adam for both."""

    def __init__(
        self,
        encoder: nn.Module,
        objective: ViewObjective,
        *,
        dim: int,
        slots: int = 0,
        lr: float = 1e-3,
        rng: np.random.Generator,
    ) -> None:
        """encoder: inputs (M, ...) -> (M, dim). slots: entries that `Views.index` names. lr > 0."""
        require(0.0 < lr < np.inf, f"view learner: lr must be > 0 and finite, got {lr}.")
        require(dim >= 1 and slots >= 0, f"view learner: dim must be >= 1 and slots >= 0, got {dim} and {slots}.")
        self.encoder, self.objective, self.dim, self.rng = encoder, objective, dim, rng
        with seeded(draw_seed(rng)):
            self.state = objective.initial(slots, dim)
        parameters = [*encoder.parameters(), *objective.parameters(self.state)]
        require(len(parameters) > 0, "view learner: the encoder has nothing to train.")
        self._optimiser = torch.optim.Adam(parameters, lr=lr)
        self.steps = 0
        """Gradient steps so far."""

    def embed(self, x: Tensor) -> Tensor:
        """Inputs (V, N, ...) -> z (V, N, dim), in one pass of the encoder."""
        require(x.ndim >= 3, f"view learner: inputs must have shape (V, N, ...), got {tuple(x.shape)}.")
        V, N = x.shape[:2]
        z: Tensor = self.encoder(x.reshape(V * N, *x.shape[2:]))
        have = tuple(z.shape)
        require(have == (V * N, self.dim), f"view learner: the encoder gives {have}, not {(V * N, self.dim)}.")
        return z.reshape(V, N, self.dim)

    def step(self, views: Views) -> ObjectiveResult:
        """One gradient step. `views.z` holds the encoder's inputs (V, N, ...); the rest is what the objective sees."""
        with seeded(draw_seed(self.rng)):
            result, state = self.objective.step(replace(views, z=self.embed(views.z)), self.state)
        require(bool(torch.isfinite(result.loss)), f"view learner: the loss is NaN or infinite at step {self.steps}.")
        self._optimiser.zero_grad()
        result.loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self.state = {name: x if isinstance(x, nn.Parameter) else x.detach() for name, x in state.items()}
        self.steps += 1
        return result

    def fit(self, batches: Iterable[Views]) -> list[float]:
        """One step for each batch; the losses."""
        return [float(self.step(views).loss.detach()) for views in batches]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Array:
        """Embeddings (N, dim) of inputs (N, ...), in evaluation mode."""
        before = self.encoder.training
        self.encoder.eval()
        z = self.encoder(x)
        self.encoder.train(before)
        return fetch(z.double())

    def reset(self, slots: Tensor) -> None:
        """The instances in these slots (M,) were replaced by others."""
        self.state = self.objective.reset(self.state, slots)

    def state_dict(self) -> State:
        """Encoder, objective and optimiser as arrays, and the generator."""
        moments = self._optimiser.state_dict()["state"]
        return {
            "encoder": copies(self.encoder.state_dict()),
            "objective": copies(self.state),
            "optimiser": {str(number): copies(of) for number, of in moments.items()},
            "steps": self.steps,
            "rng": generator_state(self.rng),
        }

    def load_state_dict(self, state: State) -> None:
        """Inverse of `state_dict`; RlcError on missing keys or wrong shapes."""
        for key in ("encoder", "objective", "optimiser", "steps", "rng"):
            require(key in state, f"view learner: the saved state lacks '{key}'.")
        _restore(self.encoder.state_dict(), state["encoder"], "encoder")
        _restore(self.state, state["objective"], "objective")
        whole = self._optimiser.state_dict()
        whole["state"] = {int(number): _tensors(of) for number, of in state["optimiser"].items()}
        try:
            self._optimiser.load_state_dict(whole)
        except (ValueError, KeyError) as error:
            raise RlcError(f"view learner: the saved optimiser does not fit: {error}.") from error
        self.steps = int(state["steps"])
        restore_generator(self.rng, state["rng"])


def _tensors(arrays: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(np.array(x)) for name, x in arrays.items()}


def _restore(own: dict[str, Tensor], saved: dict[str, Any], where: str) -> None:
    """Copy saved arrays into tensors of the same names and shapes, in place: optimisers hold some of them."""
    for name in sorted(own.keys() | saved.keys()):
        require(name in saved and name in own, f"view learner: the {where} and its saved state differ in '{name}'.")
        shape, have = tuple(own[name].shape), np.shape(saved[name])
        require(have == shape, f"view learner: the saved {where}'s '{name}' has shape {have}, not {shape}.")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(torch.as_tensor(np.array(saved[name])))
