"""Estimating a mean from minibatches: data N(R, 1), and noise that covers them (or does not), all seeds side by side.

f(x) = theta (x - shift) - x^2/2: `raw` has shift 0 (the statistic x), `centred` has the mean of the data, which changes
the parametrisation and nothing else: self-normalised weights do not feel it, everything that tracks log Z does, because
raw log Z = theta^2/2 has to travel R^2/2 = 128 nats for R = 16 where the centred one travels as much less as the
data's mean knows. Noise `mix` is half N(0, 1), half N(mean of the data, 2^2): it covers the data, and it contains the
answer's neighbourhood, for every method alike. Noise `narrow` is N(0, 1), which has no points where the data are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.analysis.figures import rng_of
from rl_contrastive.claims.energy.side_by_side import Steps, stepper
from rl_contrastive.config import require
from rl_contrastive.energy.base import EnergyLoss, Objective, ObjectiveState
from rl_contrastive.energy.noise import LOG_2PI, UserLaw
from rl_contrastive.energy.objectives import make
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import FloatArray

CHUNK = 250
"""Steps whose minibatches and noise are drawn at once."""


@dataclass(frozen=True)
class Setting:
    """One task of estimating the mean."""

    distance: float
    """R >= 0, distance of the data's mean from the start and from N(0, 1)."""
    batch: int
    """B >= 1 data and as many noise points a step."""
    noise: Literal["mix", "narrow"]
    """See the module's first lines."""
    form: Literal["centred", "raw"]
    """Parametrisation."""

    def __post_init__(self) -> None:
        require(self.distance >= 0.0, f"gaussian-mean: the distance R must be >= 0, got {self.distance}.")
        require(self.batch >= 1, f"gaussian-mean: the batch must be >= 1, got {self.batch}.")
        require(self.noise in ("mix", "narrow"), f"gaussian-mean: noise is mix or narrow, not {self.noise!r}.")
        require(self.form in ("centred", "raw"), f"gaussian-mean: form is centred or raw, not {self.form!r}.")

    @property
    def name(self) -> str:
        """`R=16 B=100 mix centred`."""
        return f"R={self.distance:g} B={self.batch} {self.noise} {self.form}"

    @classmethod
    def parse(cls, name: str) -> Setting:
        """The setting of this `name`."""
        distance, batch, noise, form = name.split()
        literal: Any = (noise, form)
        return cls(float(distance.removeprefix("R=")), int(batch.removeprefix("B=")), *literal)


@dataclass(frozen=True)
class Method:
    """An objective and its descent."""

    objective: str
    """Name in `energy.objectives`."""
    options: tuple[tuple[str, Any], ...] = ()
    """Its config's values."""
    steps: Steps = "gd"
    """See `side_by_side`."""


METHODS: dict[str, Method] = {
    "SNIS": Method("snis"),
    "MECO(.9)": Method("meco", (("gamma", 0.9),)),
    "MECO(.1)": Method("meco", (("gamma", 0.1),)),
    "MSTORM(.3)": Method("meco", (("gamma", 0.3), ("correction", "ratio"))),
    "eNCE-NGD": Method("ence", (), "ngd"),
    "NCE-GD": Method("nce"),
    "NCE-Adam": Method("nce", (), "adam"),
}


class Mean(nn.Module):
    """f(x) = theta (x - shift) - x^2/2 for problems (L, S): L step sizes, S seeds."""

    def __init__(self, shift: Tensor) -> None:
        """shift (L, S) float64; theta starts at 0, where f is N(0, 1)."""
        super().__init__()
        self.theta = nn.Parameter(torch.zeros_like(shift))
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """x (L, S, n, 1) -> (L, S, n)."""
        value = x[..., 0]
        return self.theta.unsqueeze(-1) * (value - cast(Tensor, self.shift).unsqueeze(-1)) - 0.5 * value.square()


def _no_draws(n: int, rng: torch.Generator) -> Tensor:
    del rng
    raise RlcError(f"gaussian-mean: the study draws its noise itself, seed by seed, not {n} points from the law.")


def noise_law(kind: str, centre: Tensor) -> UserLaw:
    """log q of x (..., S, n, 1) under each seed's own law: N(0, 1), or half of it and half N(centre_s, 2^2)."""

    def log_density(x: Tensor) -> Tensor:
        value = x[..., 0]
        near = -0.5 * value.square() - 0.5 * LOG_2PI
        if kind == "narrow":
            return near
        far = -0.125 * (value - centre[:, None]).square() - 0.5 * LOG_2PI - math.log(2.0)
        return torch.logaddexp(near, far) - math.log(2.0)

    return UserLaw(1, _no_draws, log_density)


class Stream:
    """Data, minibatches and noise of S seeds; a seed's draws depend on nothing else, so methods share them."""

    def __init__(self, setting: Setting, seeds: Sequence[int], data: int, device: torch.device) -> None:
        self.setting, self.device = setting, device
        self.data = np.stack([setting.distance + rng_of(seed, 0).standard_normal(data) for seed in seeds])  # (S, N)
        self.mean = self.data.mean(1)  # (S,)
        self._rngs = [rng_of(seed, 1) for seed in seeds]
        self._at = CHUNK

    def next(self) -> tuple[Tensor, Tensor]:
        """x and z (S, B, 1) of the next step."""
        if self._at == CHUNK:
            parts = [self._chunk(s, rng) for s, rng in enumerate(self._rngs)]
            both = torch.from_numpy(np.stack(parts, axis=2)).to(self.device)  # (2, CHUNK, S, B)
            self._x, self._z, self._at = both[0, ..., None], both[1, ..., None], 0
        self._at += 1
        return self._x[self._at - 1], self._z[self._at - 1]

    def _chunk(self, s: int, rng: np.random.Generator) -> FloatArray:
        """(2, CHUNK, B): minibatches with replacement, and noise."""
        size = (CHUNK, self.setting.batch)
        x = self.data[s][rng.integers(self.data.shape[1], size=size)]
        e, near = rng.standard_normal(size), rng.random(size) < 0.5
        z = e if self.setting.noise == "narrow" else np.where(near, e, self.mean[s] + 2.0 * e)
        return np.stack([x, z])


@dataclass(frozen=True)
class Trace:
    """What a descent leaves."""

    theta: FloatArray
    """(t+1, L, S) the mean after 0, 1, ... steps."""
    ess: FloatArray
    """(t, L, S) effective number of noise points behind each step's estimate of Z."""


def estimate(
    setting: Setting,
    method: Method,
    *,
    rates: Sequence[float],
    seeds: Sequence[int],
    steps: int,
    data: int,
    device: torch.device,
) -> Trace:
    """Descend from theta = 0 for `steps` steps, with every step size of rates (L,) on every seed (S,)."""
    L, S = len(rates), len(seeds)
    stream = Stream(setting, seeds, data, device)
    centre = torch.from_numpy(stream.mean).to(device)
    model = Mean((centre if setting.form == "centred" else torch.zeros_like(centre)).expand(L, S).clone())
    law = noise_law(setting.noise, centre)
    objective: Objective[Any] = make(method.objective, dict(method.options))
    state: ObjectiveState = objective.initial_state(shape=(L, S), device=device)
    params = [model.theta, *state.parameters()]
    rate = torch.tensor(rates, dtype=torch.float64, device=device).unsqueeze(-1)  # (L, 1)
    step = stepper(method.steps, params, rate, leading=2)
    theta = torch.zeros(steps + 1, L, S, dtype=torch.float64)
    ess = torch.empty(steps, L, S, dtype=torch.float64)
    for t in range(steps):
        x, z = stream.next()
        x, z = x.expand(L, *x.shape), z.expand(L, *z.shape)  # (L, S, B, 1)
        out: EnergyLoss[Any] = objective.loss(model, x, q=law, z=z, state=state)
        state = out.state
        for param, grad in zip(params, torch.autograd.grad(out.surrogate, params), strict=True):
            param.grad = grad
        step()
        theta[t + 1], ess[t] = model.theta.detach(), out.ess
    return Trace(theta.numpy(), ess.numpy())


def suffix_average(theta: FloatArray) -> FloatArray:
    """mean(theta[t//2 .. t]) for t = 0, 1, ...: theta (T, ...) -> (T, ...)."""
    sums = np.concatenate([np.zeros_like(theta[:1]), np.cumsum(theta, axis=0)])
    t = np.arange(len(theta))
    count = (t + 1 - t // 2).reshape(-1, *(1,) * (theta.ndim - 1))
    return np.asarray((sums[t + 1] - sums[t // 2]) / count)


def sustained(averages: FloatArray, distance: float, *, tolerance: float) -> FloatArray:
    """(...,) the iteration from which the suffix average stays within `tolerance` of R to the end; else inf.

    A first hit would count a run that diverges through R; to be sure of the end, the last tenth must lie inside.
    """
    outside = np.abs(averages - distance) >= tolerance  # (T, S); NaN is outside
    outside |= ~np.isfinite(averages)
    T = len(averages)
    last = np.where(outside.any(0), T - outside[::-1].argmax(0), 0)  # one past the last iteration outside
    return np.where(last <= 0.9 * (T - 1), last.astype(np.float64), np.inf)
