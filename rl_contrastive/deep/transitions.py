"""Contrastive features on their own: learned from stored transitions, whatever agent plays.

The deep agent trains them together with its values (`learner.py`); this is for code that brings its own agent, as
Stable-Baselines3 does (`sb3.py`). What others see is a frozen copy, which moves only at `freeze`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.config import require
from rl_contrastive.deep.config import EncoderConfig, RepresentationConfig
from rl_contrastive.deep.networks import encoder
from rl_contrastive.deep.representation import Contrast, Representation, identical
from rl_contrastive.deep.weights import (
    follow,
    frozen_copy,
    load_optimizer_state,
    load_weights,
    optimizer_state,
    weights,
)
from rl_contrastive.device import resolve_device
from rl_contrastive.spec import Array, FloatArray, IntArray, State


@dataclass(frozen=True)
class FeatureConfig:
    """Networks, memory and descent of the features."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Observations -> vectors."""
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)
    """phi(s,a) and psi(s')."""
    capacity: int = 100_000
    """Newest transitions that are kept (>= 2), with two observations each."""
    batch_size: int = 64
    """Transitions of a gradient step (>= 2): each has the others' successors as negatives."""
    lr: float = 3e-4
    """Adam's step size (> 0)."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        for name in ("capacity", "batch_size"):
            require(getattr(self, name) >= 2, f"features: {name} must be >= 2, got {getattr(self, name)}.")
        require(0.0 < self.lr < np.inf, f"features: lr must be > 0 and finite, got {self.lr}.")


@dataclass(frozen=True)
class ObsLayout:
    """What an observation is: shape and dtype, and for state indices their number."""

    shape: tuple[int, ...]
    dtype: str
    num_states: int | None = None


class TransitionFeatures(nn.Module):
    """An encoder with the two heads on it: raw observations in, features out."""

    def __init__(self, layout: ObsLayout, num_actions: int, config: FeatureConfig, *, rng: torch.Generator) -> None:
        super().__init__()
        self.layout, self.num_actions = layout, num_actions
        self.encoder = encoder(config.encoder, layout.shape, layout.dtype, rng=rng, num_states=layout.num_states)
        self.heads = Representation(self.encoder.width, num_actions, config.representation, rng=rng)

    @property
    def dim(self) -> int:
        """d."""
        return self.heads.config.dim

    def forward(self, obs: Tensor, action: Tensor | None = None) -> Tensor:
        """phi as the bonus counts it: (N, ...) -> (N, A, d), or (N, d) of the actions (N,); without gradients."""
        return self.heads.features(self.encoder(obs), action)

    def contrast(self, obs: Tensor, action: Tensor, next_obs: Tensor, *, same: Tensor | None = None) -> Contrast:
        """The contrastive loss of N transitions; both ends go through the encoder in one pass."""
        z, z_next = self.encoder(torch.cat([obs, next_obs])).chunk(2)
        return self.heads.contrast(z, action, z_next, same=same)


class FeatureLearner:
    """The newest transitions, the network that learns from them, and its frozen copy."""

    def __init__(self, layout: ObsLayout, num_actions: int, config: FeatureConfig, *, rng: np.random.Generator) -> None:
        """rng: initial weights and batches are drawn from it."""
        self.config, self.layout, self.rng = config, layout, rng
        self.device = resolve_device(config.device)
        init = torch.Generator().manual_seed(int(rng.integers(2**62)))  # on the CPU: the same weights on each device
        self.online = TransitionFeatures(layout, num_actions, config, rng=init).to(self.device)
        self.frozen = frozen_copy(self.online).eval()
        self.optimiser = torch.optim.Adam(self.online.parameters(), lr=config.lr)
        self.stored = self.steps = 0
        """Transitions ever stored, gradient steps ever taken."""
        self._obs, self._next = (np.zeros((config.capacity, *layout.shape), dtype=layout.dtype) for _ in range(2))
        self._action: IntArray = np.zeros(config.capacity, dtype=np.int64)

    def __len__(self) -> int:
        """Transitions that are kept."""
        return min(self.stored, self.config.capacity)

    def store(self, obs: Array, action: IntArray, next_obs: Array) -> IntArray:
        """Keep B transitions; returns their places (B,), where the oldest ones lay before."""
        obs, next_obs = np.asarray(obs), np.asarray(next_obs)
        shape = (len(action), *self.layout.shape)
        require(obs.shape == shape == next_obs.shape, f"features: expected {shape}, got {obs.shape}, {next_obs.shape}.")
        require(len(action) <= self.config.capacity, "features: more rows at once than the capacity.")
        place = (self.stored + np.arange(len(action))) % self.config.capacity
        self._obs[place], self._action[place], self._next[place] = obs, action, next_obs
        self.stored += len(action)
        return place

    def step(self) -> dict[str, Tensor]:
        """One gradient step on a uniform batch; loss and accuracies, on the device."""
        require(len(self) >= 2, "features: a gradient step needs two stored transitions or more.")
        rows = self.rng.integers(len(self), size=self.config.batch_size)
        successors = self._next[rows]
        masked = self.config.representation.mask_identical
        same = torch.as_tensor(identical(successors), device=self.device) if masked else None
        action = torch.as_tensor(self._action[rows], device=self.device)
        contrast = self.online.contrast(self._put(self._obs[rows]), action, self._put(successors), same=same)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(contrast.loss)
        self.optimiser.step()
        self.steps += 1
        return {"loss": contrast.loss.detach(), "top1": contrast.top1, "binary": contrast.binary}

    def standardise(self) -> None:
        """Centre and scale vector observations by those stored: once, before the first step."""
        require(self.steps == 0, "features: standardise before the first gradient step; later it would undo it.")
        self.online.encoder.inputs.standardise(self._obs[: len(self)])

    def freeze(self) -> None:
        """The frozen copy becomes the network of this moment: what was computed with it before is out of date."""
        follow(self.frozen, self.online, 1.0)

    @torch.no_grad()
    def phi(self, obs: Array, action: IntArray | None = None) -> FloatArray:
        """Frozen features (N, A, d), or (N, d) of the actions (N,), float64."""
        chosen = None if action is None else torch.as_tensor(action, device=self.device)
        return np.asarray(self.frozen(self._put(obs), chosen).to("cpu", torch.float64).numpy())

    def visits(self, chunk: int = 1024) -> Iterator[tuple[IntArray, FloatArray]]:
        """(places, frozen phi (n, d)) of all that is kept: for `VisitBonus.rebuild`."""
        for start in range(0, len(self), chunk):
            place = np.arange(start, min(start + chunk, len(self)))
            yield place, self.phi(self._obs[place], self._action[place])

    def diagnose(self, rows: int = 512) -> dict[str, float]:
        """`Representation.diagnose` of the online network on the first `rows` kept transitions."""
        n = min(rows, len(self))
        with torch.no_grad():
            z, z_next = self.online.encoder(self._put(np.concatenate([self._obs[:n], self._next[:n]]))).chunk(2)
        return self.online.heads.diagnose(z, torch.as_tensor(self._action[:n], device=self.device), z_next)

    def state_dict(self) -> State:
        """Both networks, the optimiser and the transitions; the generator belongs to whoever handed it in."""
        n = len(self)
        return {
            "online": weights(self.online),
            "frozen": weights(self.frozen),
            "optimiser": optimizer_state(self.optimiser),
            "stored": self.stored,
            "steps": self.steps,
            "obs": self._obs[:n].copy(),
            "action": self._action[:n].copy(),
            "next_obs": self._next[:n].copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        for key in ("online", "frozen", "optimiser", "stored", "steps", "obs", "action", "next_obs"):
            require(key in state, f"features: the saved state lacks '{key}'.")
        stored = int(state["stored"])
        n = min(stored, self.config.capacity)
        for key, own in (("obs", self._obs), ("action", self._action), ("next_obs", self._next)):
            shape = np.shape(state[key])
            require(shape == (n, *own.shape[1:]), f"features: the saved {key} has shape {shape}, not {n} rows of ours.")
            own[:n] = state[key]
        load_weights(self.online, state["online"], "features")
        load_weights(self.frozen, state["frozen"], "features")
        load_optimizer_state(self.optimiser, state["optimiser"], "features")
        self.stored, self.steps = stored, int(state["steps"])

    def _put(self, obs: Array) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(obs), device=self.device)
