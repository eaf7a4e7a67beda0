"""Random network distillation (Burda et al. 2018), a control for the deep agent's bonus.

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
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.config import require, require_keys
from rl_contrastive.deep.bonus_contract import NoBonus
from rl_contrastive.deep.config import EncoderConfig, RNDConfig
from rl_contrastive.deep.feature_net import ObsLayout, put
from rl_contrastive.deep.networks import RELU_GAIN, Encoder, linear
from rl_contrastive.deep.replay.replay import Replay
from rl_contrastive.deep.weights import FlatAdam, FlatParameters, load_weights, weights
from rl_contrastive.device import resolve_device
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import Array, FloatArray, IntArray, State


class Spread:
    """Standard deviation of all numbers seen so far: mean and M2 = sum (x - mean)^2 in float64, batches merged exactly.

    n = n_a + n_b, delta = mean_b - mean_a:  mean = mean_a + delta n_b / n,  M2 = M2_a + M2_b + delta^2 n_a n_b / n
    (Welford 1962; Chan, Golub and LeVeque 1983).
    """

    def __init__(self) -> None:
        self.count, self.mean, self.m2 = 0, 0.0, 0.0

    def add(self, x: FloatArray) -> None:
        """Take in x (n,), finite."""
        if not np.isfinite(x).all():
            raise RlcError("rnd: an error is NaN or infinite; lower lr.")
        mean, before = float(x.mean()), self.count
        self.count += len(x)
        delta = mean - self.mean
        self.mean += delta * len(x) / self.count
        self.m2 += float(np.square(x - mean).sum()) + delta**2 * before * len(x) / self.count

    @property
    def value(self) -> float:
        """The deviation; 1 before there is any."""
        # Errors that are almost equal differ only by rounding, so the spread is at least a tenth of their mean.
        spread = max(math.sqrt(self.m2 / self.count), 0.1 * abs(self.mean)) if self.count else 0.0
        return spread if spread > 0 else 1.0

    def state_dict(self) -> State:
        return {"count": self.count, "mean": self.mean, "m2": self.m2}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key in ("count", "mean", "m2"):
            require(key in state, f"rnd: the saved spread lacks '{key}'.")
        self.count, self.mean, self.m2 = int(state["count"]), float(state["mean"]), float(state["m2"])


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
    ) -> None:
        """layout: of a stacked observation. encoders: of both networks, each with a linear output layer."""
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

    @torch.no_grad()
    def errors(self, obs: Array) -> FloatArray:
        """||f_hat - f||^2 of stacked observations (N, ...) -> (N,)."""
        return np.asarray(self._errors(put(obs, self.device)).double().cpu().numpy())

    def bonus(self, obs: Array) -> FloatArray:
        """error / spread of stacked observations (N, ...) -> (N,), >= 0."""
        return self.errors(obs) / self.spread.value

    def visit(self, obs: Array) -> None:
        """Take in the errors of visited observations (N, ...), then descend once on them."""
        errors = self._errors(put(obs, self.device))
        self.spread.add(errors.detach().double().cpu().numpy())
        self._optimiser.step(self._flat.gradient(errors.mean() / self.config.dim))

    def standardise(self, obs: Array) -> None:
        """Centre and scale vector observations by these; before the first visit."""
        require(self.spread.count == 0, "rnd: standardise comes before the first visit.")
        for network in (self.target, self.predictor):
            body = network[0]
            assert isinstance(body, Encoder)
            body.inputs.standardise(obs)

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


class NextErrors(NoBonus):
    """beta * bonus(s') of a step (s,a,s'), for an agent and its learner: `deep/bonus_contract.py`'s `Bonus`.

    s' is not known before the step, so acting and the end of a path add no bonus, and G includes the bonuses of ALL
    steps. The bonuses are current: errors are computed again whenever a step is sampled.
    """

    before_step = False

    def __init__(self, rnd: RandomDistillation, replay: Replay, num_actions: int, *, beta: float) -> None:
        require(0.0 <= beta < np.inf, f"rnd: beta must be >= 0 and finite, got {beta}.")
        super().__init__(num_actions)
        self.rnd, self.replay, self.beta = rnd, replay, float(beta)
        self.waiting, self.started = 0, False
        """The number of newest visits that the predictor has not yet learned from, and whether it may learn."""

    def taken(self, index: IntArray, action: IntArray) -> FloatArray:
        """beta * bonus(s') of stored steps (...,) -> (...,)."""
        after = self.replay.observations(self.replay.ring.next[index.ravel()])
        return self.beta * self.rnd.bonus(after).reshape(index.shape)

    def visit(self, index: IntArray, action: IntArray) -> None:
        """Count the newest visits, which lie at index (k,)."""
        super().visit(index, action)
        self.waiting += len(index)
        if self.started:
            self._learn()

    def start(self, obs: Array) -> None:
        """Standardise vector observations by these, and learn from the waiting visits."""
        self.rnd.standardise(obs)
        self.started = True
        self._learn()

    def _learn(self) -> None:
        """Learn from whole batches of waiting visits that are still in the replay, oldest first."""
        size = self.rnd.config.batch_size
        if self.waiting < size:
            return
        after = self.replay.ring.next[self.replay.last(self.waiting)]
        for first in range(0, len(after) - size + 1, size):
            self.rnd.visit(self.replay.observations(after[first : first + size]))
        self.waiting = len(after) % size

    def state_dict(self, *, whole: bool = True) -> State:
        """The networks and the counts."""
        counts = {"visits": self.visits, "waiting": self.waiting, "started": self.started}
        return {"rnd": self.rnd.state_dict(), **counts}

    def load_state_dict(self, state: dict[str, Any], *, whole: bool = True) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, ("rnd", "visits", "waiting", "started"), "rnd")
        self.rnd.load_state_dict(state["rnd"])
        self.visits, self.waiting, self.started = int(state["visits"]), int(state["waiting"]), bool(state["started"])
