"""Random network distillation (Burda et al. 2018): the networks; `lifelong.py` makes a part of a bonus of them.

    error(s) = ||f_hat(s) - f(s)||^2      (Section 2.2) f: a random network that is never trained; f_hat: trained
    bonus(s) = error(s) / spread          towards f on the mean error of the visited observations

The error falls where f_hat was trained and stays large elsewhere. Dividing by the spread gives it the same unit
everywhere. The spread is the standard deviation of the ERRORS so far, each measured before f_hat learned from its
observation. The paper divides by the standard deviation of their discounted sums (Section 2.4), which depends on the
discount.

f_hat learns from each visited observation once, in the order of arrival, in batches of `batch_size`. With the replay's
minibatches the error would fall with gradient steps and not with visits, and most for the oldest observations. Vector
observations are standardised once, before the first visit, like those of the other networks. The paper keeps running
moments, so that its past and present errors belong to different functions.

The bonus is asked for many observations at once, and in worlds of few views most of them more than once: each one's
error is computed once, in numpy where the networks are small (`learner.backend`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.config import require, require_keys
from rl_contrastive.deep.bonus_config import RNDConfig
from rl_contrastive.deep.config import Backend, EncoderConfig
from rl_contrastive.deep.feature_net import ObsLayout
from rl_contrastive.deep.native.encoder import Columns, chosen, knows
from rl_contrastive.deep.native.layers import Network
from rl_contrastive.deep.networks import RELU_GAIN, Encoder, linear
from rl_contrastive.deep.spread import Spread
from rl_contrastive.deep.weights import FlatAdam, FlatParameters, load_weights, weights
from rl_contrastive.device import fetch, put, resolve_device
from rl_contrastive.spec import Array, FloatArray, IntArray, State


class RandomDistillation:
    """f, f_hat and the spread of their errors."""

    def __init__(
        self,
        layout: ObsLayout,
        encoders: EncoderConfig,
        config: RNDConfig,
        *,
        seed: int,
        device: str = "auto",
        backend: Backend = "auto",
        option: str = "learner.backend",
    ) -> None:
        """layout: of a stacked observation. encoders: of both networks, each with a linear output layer. option: the
        name of the option that chose the backend, for its sentence."""
        self.config, self.device = config, resolve_device(device)
        rng = torch.Generator().manual_seed(seed)  # on the CPU, so that weights do not depend on the device

        def network(hidden: int) -> nn.Sequential:
            body = layout.encoder(encoders, rng=rng)
            more: list[nn.Module] = []
            if hidden:
                more = [linear(body.width, hidden, gain=RELU_GAIN, init=encoders.init, rng=rng), nn.ReLU()]
            last = linear(hidden or body.width, config.dim, gain=1.0, init=encoders.init, rng=rng)
            return nn.Sequential(body, *more, last).to(self.device)

        self.target = network(0).requires_grad_(False)
        self.predictor = network(config.hidden)
        self.spread = Spread()
        self._flat = FlatParameters(self.predictor.parameters())
        self._optimiser = FlatAdam(self._flat, lr=config.lr)
        possible = self.device.type == "cpu" and knows(body_of(self.target))
        native = chosen(backend, possible, "this random network", option)
        self._native = NativeErrors(self.target, self.predictor) if native else None

    def errors(self, obs: Array) -> FloatArray:
        """||f_hat - f||^2 of stacked observations (N, ...) -> (N,)."""
        if not len(obs):
            return np.zeros(0)
        first, again = distinct(obs)
        once = obs[first]
        if self._native is not None:
            return self._native(once)[again]
        with torch.no_grad():
            return fetch(self._errors(put(once, self.device)).double())[again]

    def bonus(self, obs: Array) -> FloatArray:
        """error / spread of stacked observations (N, ...) -> (N,), >= 0."""
        return self.errors(obs) / self.spread.value

    def visit(self, obs: Array) -> None:
        """Take in the errors of visited observations (N, ...), then descend once on them."""
        errors = self._errors(put(obs, self.device))
        self.spread.add(fetch(errors.double()))
        self._optimiser.step(self._flat.gradient(errors.mean() / self.config.dim))

    def standardise(self, obs: Array) -> None:
        """Centre and scale vector observations by these; before the first visit."""
        require(self.spread.count == 0, "rnd: standardise comes before the first visit.")
        for network in (self.target, self.predictor):
            body_of(network).inputs.standardise(obs)

    def _errors(self, obs: Tensor) -> Tensor:
        with torch.no_grad():
            goal = self.target(obs)
        out: Tensor = (self.predictor(obs) - goal).square().sum(-1)
        return out

    def state_dict(self) -> State:
        """Both networks, the optimiser and the spread."""
        return {
            "target": weights(self.target),
            "predictor": weights(self.predictor),
            "optimiser": self._optimiser.state_dict(),
            "spread": self.spread.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, ("target", "predictor", "optimiser", "spread"), "rnd")
        load_weights(self.target, state["target"], "rnd: target")
        load_weights(self.predictor, state["predictor"], "rnd: predictor")
        self._optimiser.load_state_dict(state["optimiser"], "rnd")
        self.spread.load_state_dict(state["spread"])


class NativeErrors:
    """The errors in numpy, on the memory of torch's weights."""

    def __init__(self, target: nn.Sequential, predictor: nn.Sequential) -> None:
        first = body_of(target)
        self.columns = Columns(first.inputs, vectors=first.kind == "mlp")  # both networks read the same numbers
        self.networks = [Network([*body_of(network).body, *list(network)[1:]]) for network in (target, predictor)]

    def __call__(self, obs: Array) -> FloatArray:
        """Observations (N, ...) -> (N,)."""
        x = self.columns(obs)
        goal, out = (network(x) for network in self.networks)
        out -= goal
        errors: FloatArray = np.square(out, dtype=np.float64).sum(axis=0)
        return errors


def body_of(network: nn.Sequential) -> Encoder:
    """The encoder of f or f_hat."""
    body = network[0]
    assert isinstance(body, Encoder)
    return body


def distinct(obs: Array) -> tuple[IntArray, IntArray]:
    """Rows (n,) of the observations (N, ...) of which each is there once, and which of them each row equals (N,)."""
    met: dict[bytes, int] = {}
    earliest = np.fromiter((met.setdefault(row.tobytes(), i) for i, row in enumerate(obs)), np.int64, count=len(obs))
    first, again = np.unique(earliest, return_inverse=True)
    return first, again
