"""Q and G in numpy: what acting asks for, and the gradient of one step of `td_losses` by hand.

For the outputs q = out(s)[v, a_t] of both value functions v, with targets y that are constants:

    loss = 1/N sum_i w_i sum_v huber(q_iv - y_iv),    d loss / d q_iv = w_i clip(q_iv - y_iv, -1, 1) / N

The rest is the chain rule through the head and the encoder (`layers.py`). torch computes the same numbers with
autograd; `tests/deep/test_native.py` holds both equal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl_contrastive.deep.config import DeepLearnerConfig, ValueConfig
from rl_contrastive.deep.native.encoder import NativeEncoder, chosen, knows
from rl_contrastive.deep.native.layers import Batch, Network, Slot, known, shared, slots, some
from rl_contrastive.deep.value import Values
from rl_contrastive.deep.weights import FlatParameters
from rl_contrastive.spec import Array

HEADS = np.arange(2)[:, None]
"""Q and G, to index with."""
Gradient = Callable[..., tuple[Tensor, Tensor, Tensor]]
"""`DeepLearner._gradient`."""


class NativeValues:
    """One copy of `Values`: (N, *obs_shape) or columns -> values (2, A, N)."""

    def __init__(self, values: Values, slot: Slot | None = None) -> None:
        """slot: as in `Network`."""
        head = values.head
        self.encoder, self.streams = NativeEncoder(values.encoder, slot), Network(head.streams, slot)
        self.outputs = head.shape[:2]
        self.mix = shared(head.mix) if head.dueling else None

    def __call__(self, x: Batch) -> Array:
        """Of columns x, as `encoder.columns` gives them."""
        return self.mixed(self.streams(self.encoder.body(x)))

    def mixed(self, out: Array) -> Array:
        """The streams' outputs as values; with dueling V + Adv - mean_a Adv."""
        out = out.reshape(*self.outputs, -1)  # (2, A or 1 + A, N)
        return out if self.mix is None else self.mix.T @ out

    def unmixed(self, dout: Array) -> Array:
        """The gradient of `mixed`."""
        if self.mix is not None:
            dout = self.mix @ dout
        return dout.reshape(-1, dout.shape[-1])


class NativeLearner:
    """The two copies of the values that a gradient step reads, and the gradient of the online one."""

    def __init__(
        self, values: Values, target: Values, trained: FlatParameters, *, double: bool, otherwise: Gradient
    ) -> None:
        """otherwise: what computes the gradient where `step` gets more than it knows."""
        self.gradient, self.otherwise = torch.zeros_like(trained.vector), otherwise
        self.known = 5 + 2 * values.head.num_actions  # columns of numbers
        self.online = NativeValues(values, slots(trained, shared(self.gradient)))
        self.target, self.double = NativeValues(target), double

    def q(self, obs: Array) -> Array:
        """Q and G of observations (N, ...) -> (N, 2, A) float64."""
        return self._rows(self.online, obs)

    def target_q(self, obs: Array) -> Array:
        """The same of the target network."""
        return self._rows(self.target, obs)

    def _rows(self, copy: NativeValues, obs: Array) -> Array:
        return copy(copy.encoder.columns(obs)).transpose(2, 0, 1).astype(np.float64)

    def step(self, obs: Tensor, numbers: Tensor, *more: Any) -> tuple[Tensor, Tensor, Any]:
        """`DeepLearner._gradient`: the gradient, |TD errors| (N,), and the mean losses (2,)."""
        if numbers.shape[1] != self.known or any(part is not None for part in more):
            return self.otherwise(obs, numbers, *more)
        columns, rows = shared(obs), shared(numbers)
        N, online = len(rows), self.online
        x = online.encoder.columns(columns)
        ahead = some(x, slice(N, None))
        target_next = self.target(ahead)
        # With double Q-learning one pass of the online network takes both ends.
        z, kept = online.encoder.body.saving(x if self.double else some(x, slice(N)))
        raw, kept_head = online.streams.saving(z)
        out = online.mixed(raw)
        dout, errors, losses = td_gradient(
            out[..., :N], rows.T, online_next=out[..., N:] if self.double else None, target_next=target_next
        )
        dz = online.streams.backward(online.unmixed(dout), kept_head, inner=True)
        online.encoder.body.backward(dz, kept, inner=False)
        return self.gradient, torch.from_numpy(errors), losses


def td_gradient(
    out: Array, numbers: Array, *, online_next: Array | None, target_next: Array
) -> tuple[Array, Array, Array]:
    """d loss / d out (2, A, N), |TD errors| (N,), and mean losses (2,).

    out, online_next, target_next: values (2, A, N) at s, and at s_m. numbers (5 + 2A, N), the columns of
    `DeepLearner._gradient`.
    """
    N = out.shape[-1]
    reward, discount, weight, action = numbers[:2], numbers[2], numbers[3], numbers[4].astype(np.int64)
    extra, here = numbers[5:].reshape(out.shape), np.arange(N)
    future = target_next + extra
    best = (future if online_next is None else online_next + extra).argmax(1)  # (2, N)
    error = out[HEADS, action, here] - reward - discount * future[HEADS, best, here]
    slope = np.minimum(np.maximum(error, -1.0), 1.0)
    losses = slope * (error - 0.5 * slope)  # e^2 / 2 within 1, |e| - 1/2 beyond
    dout = np.zeros(out.shape, out.dtype)
    dout[HEADS, action, here] = slope * (weight / N)
    return dout, np.add.reduce(np.abs(error)), np.add.reduce(losses, axis=1) / N


def native_values(
    values: Values, target: Values, trained: FlatParameters, config: DeepLearnerConfig, otherwise: Gradient
) -> NativeLearner | None:
    """The learner in numpy, or None where torch is to compute; RlcError where `backend` asks for what is not here.

    otherwise: torch's gradient.
    """
    here = values.encoder.inputs.centre.device.type == "cpu"
    networks = knows(values.encoder) and known(values.head.streams) and values.head.shape[0] == len(HEADS)
    networks = networks and {name for name, _ in values.named_children()} == {"encoder", "head"}
    able = here and networks and covers(config)
    if not chosen(config.backend, able, "these options of the values", "learner.backend"):
        return None
    return NativeLearner(values, target, trained, double=config.value.double, otherwise=otherwise)


FREE = (
    *("encoder", "feature_encoder", "representation", "learn_features", "batch_size", "lr", "lr_falls_over"),
    *("adam_eps", "clip", "tau", "reward_scale", "clip_rewards", "device", "backend"),
)
"""Options that may have any value."""


def covers(config: DeepLearnerConfig) -> bool:
    """Whether a gradient step with these options is the one written here.

    Options that this module does not know must have their defaults.
    """
    value = _with(ValueConfig(), config.value, ("dueling", "double", "hidden", "low", "high"))
    off = (*(["auxiliary"] if config.auxiliary.weight == 0 else []),
           *(["self_prediction"] if config.self_prediction.weight == 0 else []))  # fmt: skip
    known: bool = config == dataclasses.replace(_with(DeepLearnerConfig(), config, (*FREE, *off)), value=value)
    return known


def _with(base: Any, options: Any, names: tuple[str, ...]) -> Any:
    """`base` with those fields of `options`."""
    return dataclasses.replace(base, **{name: getattr(options, name) for name in names})
