"""Contrastive features of raw observations: the network, its training, and the frozen copy that others use.

The deep agent trains `FeatureNet` beside its values (`learner.py`). `TransitionLearner` adds a memory, for code that
has its own agent. The frozen copy changes only at `freeze`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.config import MOST_DRAWN, Ge, Gt, In, require, require_keys
from rl_contrastive.deep.config import Backend, EncoderConfig, RepresentationConfig
from rl_contrastive.deep.native.features import native_contrast, native_features
from rl_contrastive.deep.networks import Encoder, encoder
from rl_contrastive.deep.representation import Representation
from rl_contrastive.deep.weights import (
    FlatAdam,
    FlatParameters,
    compile_gradient,
    follow,
    frozen_copy,
    load_weights,
    weights,
)
from rl_contrastive.device import DeviceOptions, fetch, put, resolve_device
from rl_contrastive.spec import Array, FloatArray, IntArray, State

Shown = TypeVar("Shown", Tensor, Array)


@dataclass(frozen=True)
class FeatureConfig(DeviceOptions, where="features"):
    """Networks, memory and training of the features."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Observations -> vectors."""
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)
    """phi(s,a) and psi(s')."""
    capacity: Annotated[int, Ge(2)] = 100_000
    """Number of newest transitions that are kept, with two observations each."""
    batch_size: Annotated[int, In(2, MOST_DRAWN)] = 64
    """Transitions of a gradient step; each has the successors of the others as negatives."""
    lr: Annotated[float, Gt(0)] = 3e-4
    """Adam's step size."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda or cuda:N."""
    backend: Backend = "auto"
    """auto: numpy where it has these networks and this loss on a CPU, else torch; torch; numpy."""


@dataclass(frozen=True)
class ObsLayout:
    """The format of an observation: shape and dtype, the number of states of state indices, codes as in `EnvSpec`."""

    shape: tuple[int, ...]
    dtype: str
    num_states: int | None = None
    codes: tuple[int, ...] = ()

    def encoder(self, config: EncoderConfig, *, rng: torch.Generator) -> Encoder:
        """A network that reads it."""
        return encoder(config, self.shape, self.dtype, rng=rng, num_states=self.num_states, codes=self.codes)


class TransitionFeatures(nn.Module):
    """An encoder with the two heads on it: raw observations in, features out."""

    def __init__(
        self,
        layout: ObsLayout,
        num_actions: int,
        config: FeatureConfig,
        *,
        rng: torch.Generator,
        slots: int = 0,
        stack: int = 1,
    ) -> None:
        """stack: frames in an observation, of which the config may want the newest alone."""
        super().__init__()
        self.layout, self.num_actions = layout, num_actions
        read = layout
        if config.representation.frames == "newest":
            single = "representation: frames newest is for stacked frames, and an observation here is a single one"
            require(stack > 1, f"{single}: give env.stack >= 2, or leave frames at all.")
            read = replace(layout, shape=(layout.shape[0] // stack, *layout.shape[1:]))
        self._read = read.shape[0] if read is not layout else 0
        self.encoder = read.encoder(config.encoder, rng=rng)
        self.heads = Representation(self.encoder.width, num_actions, config.representation, rng=rng, slots=slots)

    @property
    def dim(self) -> int:
        """d."""
        return self.heads.config.dim

    @property
    def width(self) -> int:
        """Number of features per state that `forward` returns: A d, or d for psi."""
        return self.dim if self.heads.config.of_states else self.num_actions * self.dim

    def forward(self, obs: Tensor, action: Tensor | None = None) -> Tensor:
        """Features for the bonus: (N, ...) -> (N, A, d) or (N, 1, d), or (N, d) of the actions (N,); no gradients."""
        return self.heads.features(self.encode(obs), action)

    def encode(self, obs: Tensor) -> Tensor:
        """The encoder's vectors (N, width) of observations (N, ...), or of their newest frames."""
        return self.encoder.forward(self.shown(obs))

    def shown(self, obs: Shown) -> Shown:
        """What the encoder reads of observations (N, ...)."""
        return obs[:, -self._read :] if self._read else obs

    def contrast(
        self,
        obs: Tensor,
        action: Tensor,
        next_obs: Tensor,
        *,
        weight: Tensor | None = None,
        same: Tensor | None = None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """`Representation.contrast` of N transitions, as `shown`; both ends go through the encoder in one pass."""
        z, z_next = self.encoder(torch.cat([obs, next_obs])).chunk(2)
        return self.heads.contrast(z, action, z_next, weight=weight, same=same, ids=ids)


class FeatureNet:
    """The network that learns, and its frozen copy, whose features the bonus counts."""

    def __init__(
        self,
        layout: ObsLayout,
        num_actions: int,
        config: FeatureConfig,
        *,
        rng: torch.Generator,
        compiled: bool = False,
        slots: int = 0,
        stack: int = 1,
        option: str = "features.backend",
    ) -> None:
        """rng: on the CPU, so that the weights are the same on each device. compiled: `torch.compile` the gradient.

        slots: capacity of the replay, for objectives that remember something of each stored transition. stack: frames
        in an observation. option: the name of the option that chose the backend, for its sentence.
        """
        self.config, self.device = config, resolve_device(config.device)
        self.online = TransitionFeatures(layout, num_actions, config, rng=rng, slots=slots, stack=stack)
        self.online = self.online.to(self.device)
        self.frozen = frozen_copy(self.online).eval()
        self._flat = FlatParameters(self.online.parameters())
        self._optimiser = FlatAdam(self._flat, lr=config.lr)
        self._gradient_of = compile_gradient(self._gradient, self.device) if compiled else self._gradient
        backend = "torch" if compiled else config.backend
        self._native = native_features(self.frozen.encoder, self.frozen.heads, backend, option)
        contrast = native_contrast(self.online.encoder, self.online.heads, self._flat, backend, option)
        if contrast is not None:
            self._gradient_of = contrast.step

    def descend(
        self,
        obs: Tensor,
        action: Tensor,
        next_obs: Tensor,
        *,
        weight: Tensor | None = None,
        same: Tensor | None = None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """One gradient step on N transitions with importance weights (N,); returns the loss, on the device."""
        obs, next_obs = self.online.shown(obs), self.online.shown(next_obs)
        loss, gradient = self._gradient_of(obs, action, next_obs, weight, same, ids)
        self._optimiser.step(gradient)
        return loss

    def slots(self, index: IntArray, total: int) -> Tensor | None:
        """ids (N,) of a batch from the slots `index`, and entries of slots that were overwritten begin anew.

        total: transitions that the replay has taken in. None where the objective remembers nothing of a slot.
        """
        if not self.online.heads.keyed:
            return None
        self.online.heads.forget(total)
        return put(index, self.device)

    def _gradient(
        self,
        obs: Tensor,
        action: Tensor,
        next_obs: Tensor,
        weight: Tensor | None,
        same: Tensor | None,
        ids: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        loss = self.online.contrast(obs, action, next_obs, weight=weight, same=same, ids=ids)
        return loss.detach(), self._flat.gradient(loss)

    def phi(self, obs: Array, action: IntArray | None = None) -> FloatArray:
        """Frozen features (N, A, d), or (N, 1, d) of states, or (N, d) of the actions (N,), float64."""
        if self._native is not None:
            return self._native(self.online.shown(obs), action)
        chosen = None if action is None else put(action, self.device)
        with torch.inference_mode():
            phi = fetch(self.frozen.forward(put(obs, self.device), chosen))
        return np.asarray(phi, dtype=np.float64)

    @torch.inference_mode()
    def factors(self, obs: Array, action: IntArray, next_obs: Array) -> tuple[FloatArray, FloatArray]:
        """Frozen phi(s,a), psi(s') (N, d) of the ratio f = psi'phi, whatever the bonus counts of them."""
        encode, chosen = self.frozen.encode, put(action, self.device)
        z, z_next = encode(put(obs, self.device)), encode(put(next_obs, self.device))
        phi, psi = fetch(torch.stack(self.frozen.heads.factors(z, chosen, z_next)).double())
        return phi, psi

    def freeze(self) -> None:
        """Copy the current network to the frozen one; everything computed with the old copy is out of date."""
        follow(self.frozen, self.online, 1.0)

    def standardise(self, obs: Array) -> None:
        """Centre and scale vector observations by these; once, before the first step and the first `freeze`."""
        self.online.encoder.inputs.standardise(self.online.shown(obs))

    @torch.no_grad()
    def diagnose(self, obs: Array, action: IntArray, next_obs: Array) -> dict[str, float]:
        """`Representation.diagnose` of the online network on these transitions."""
        z, z_next = self.online.encode(put(np.concatenate([obs, next_obs]), self.device)).chunk(2)
        return self.online.heads.diagnose(z, put(action, self.device), z_next)

    def state_dict(self) -> State:
        """Both networks and the optimiser."""
        return {
            "online": weights(self.online),
            "frozen": weights(self.frozen),
            "optimiser": self._optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, ("online", "frozen", "optimiser"), "features")
        for name in ("online", "frozen"):
            load_weights(getattr(self, name), self._renamed(state[name]), "features")
        self._optimiser.load_state_dict(state["optimiser"], "features")

    def _renamed(self, saved: dict[str, Any]) -> dict[str, Any]:
        """Convert weights of older versions, in which every objective had a vector `log_state`."""
        saved = dict(saved)
        before = saved.pop("heads.log_state", None)
        return saved if before is None or not self.online.heads.remembered else {**saved, "heads.state_log_u": before}


def torch_generator(rng: np.random.Generator) -> torch.Generator:
    """A generator on the CPU, seeded by the next integer of `rng`; only the state of `rng` must be saved."""
    return torch.Generator().manual_seed(int(rng.integers(2**62)))
