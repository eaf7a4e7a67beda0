"""MECO: maximum likelihood of an energy model as compositional optimisation, with a moving average of log Z.

min_theta -E_data f + log E_q exp(l), l = f - log q, puts a logarithm outside an expectation: its plain minibatch
gradient, self-normalised importance sampling (SNIS), is biased by O(1/m). MECO tracks u ~ Z over the steps and
divides by it (Jiang et al. 2023; the stochastic compositional gradient). All states here are logarithms:
    lm = log (1/m) sum_j e^{l_j};    log u <- logaddexp(log(1 - gamma) + log u, log gamma + lm);
    surrogate = -mean f(x) + sum_j sg[w_j] f(z_j),    w_j = e^{l_j - log u} / m.
u is updated before it divides, so sum_j w_j = e^{lm - log u} <= 1/gamma always: no clipping, no overflow, and
gamma = 1 is SNIS. The additive constant of f is not identified (freeze the last bias). The gradient's own moving
average is `steps.AveragedDescent`. This file has one u for the whole model; `conditional.py` has one per context.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor

from rl_contrastive.config import Ge, Gt, In, Options, require
from rl_contrastive.energy.base import (
    Configured,
    Energy,
    EnergyLoss,
    ObjectiveState,
    effective_sample_size,
    energies,
    log_mean_exp,
    nll_estimate,
    noise_of,
)
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import register

if TYPE_CHECKING:
    from rl_contrastive.energy.noise import NoiseLaw

Correction = Literal["none", "storm", "ratio"]


def average_log(log_u: Tensor, lm: Tensor, gamma: float) -> Tensor:
    """log((1 - gamma) u + gamma e^lm) elementwise; where log_u is NaN (no value yet) just lm."""
    keep = -math.inf if gamma == 1.0 else math.log1p(-gamma)
    return torch.where(torch.isnan(log_u), lm, torch.logaddexp(keep + log_u, math.log(gamma) + lm))


def storm_log(log_u: Tensor, lm: Tensor, lm_before: Tensor, gamma: float) -> Tensor:
    """log max(e^lm + (1 - gamma)(u - e^lm_before), gamma e^lm): additive STORM with a floor.

    lm and lm_before are the same noise under the new and the previous model. The bare recursion can turn negative,
    where a logarithm and a density have no meaning; the floor is what the moving average keeps of the newest term,
    so the weights stay <= 1/gamma as in MECO. Source of the recursion: Cutkosky & Orabona 2019.
    """
    peak = torch.maximum(torch.maximum(lm, lm_before), torch.where(torch.isnan(log_u), lm, log_u))
    value = torch.exp(lm - peak) + (1.0 - gamma) * (torch.exp(log_u - peak) - torch.exp(lm_before - peak))
    # A value <= 0 becomes log 0 = -inf here and loses to the floor.
    corrected = torch.maximum(peak + torch.log(value.clamp(min=0.0)), math.log(gamma) + lm)
    return torch.where(torch.isnan(log_u), lm, corrected)


def ratio_log(log_u: Tensor, lm: Tensor, lm_before: Tensor, gamma: float, max_drift: float) -> Tensor:
    """Moving average of u e^{lm - lm_before}: the old u carried along by the two models' ratio on the same noise.

    Always positive and exact under constant shifts of f, unlike additive STORM; the exponent is limited to
    +-max_drift because the ratio of two small batches is noise. Derived here, in no paper that we know.
    """
    drift = (lm - lm_before).clamp(-max_drift, max_drift)
    return average_log(log_u + drift, lm, gamma)


@dataclass(frozen=True)
class MECOConfig(Options, where="meco"):
    """Compositional maximum likelihood with one moving average of log Z."""

    gamma: Annotated[float, In(0, 1, above=True)] = 0.9
    """Weight of the newest batch in u; 1 is SNIS. Small batches want less, fast drift of f wants more."""
    correction: Correction = "none"
    """none: moving average. storm: additive variance reduction with a floor. ratio: u moves along with the model."""
    max_drift: Annotated[float, Gt(0)] = 5.0
    """ratio only: largest change of log u (nats) that one step's two models may cause."""
    noise_per_datum: Annotated[int, Ge(1)] = 1
    """Draws of q to a datum where the objective draws the noise."""


@dataclass
class MECOState(ObjectiveState):
    """The moving average, and for the corrected forms the previous model."""

    log_u: Tensor = field(default_factory=lambda: torch.full((), math.nan, dtype=torch.float64))
    """(...,) float64; NaN before the first step."""
    previous: dict[str, Tensor] = field(default_factory=dict)
    """Parameters and buffers of f at the last step (storm, ratio); empty otherwise."""


@register("energy-objective", "meco", MECOConfig)
class MECO(Configured[MECOConfig]):
    """Maximum likelihood whose log Z is a moving average over the descent; see the module's first lines."""

    options = MECOConfig

    def __init__(self, config: MECOConfig | None = None) -> None:
        super().__init__(config)
        self.name = "meco" if self.config.gamma < 1.0 else "snis"

    def initial_state(self, *, shape: tuple[int, ...] = (), device: torch.device | None = None) -> MECOState:
        """log u not yet set: the first step takes its own batch's estimate."""
        return MECOState(log_u=torch.full(shape, math.nan, dtype=torch.float64, device=device))

    def loss(
        self,
        f: Energy,
        x: Tensor,
        *,
        q: NoiseLaw | None = None,
        z: Tensor | None = None,
        state: MECOState,
        rng: torch.Generator | None = None,
    ) -> EnergyLoss[MECOState]:
        """x (..., n, D), z (..., m, D) -> the step's outcome; log `nll`, the surrogate's value means nothing."""
        name, step, per_datum = self.name, state.step, self.config.noise_per_datum
        noise = noise_of(f, x, q=q, z=z, rng=rng, objective=name, step=step, per_datum=per_datum)
        f_x = energies(f, x, objective=name, step=step, what="data x")
        require(
            state.log_u.shape == x.shape[:-2],
            f"{name}: the state is for problems {tuple(state.log_u.shape)}, the data for {tuple(x.shape[:-2])}.",
        )
        # 1. The moving average, with this batch inside.
        log_w = noise.log_w.detach()
        lm = log_mean_exp(log_w)
        log_u = self._update(f, noise.z, noise.log_q, lm, state)
        # 2. The gradient divides by the new u.
        weights = torch.exp(log_w - log_u.unsqueeze(-1)) / log_w.shape[-1]  # (..., m), sum <= 1/gamma
        surrogate = -f_x.mean(-1) + (weights * noise.f_z).sum(-1)
        return EnergyLoss(
            surrogate=surrogate.sum(),
            nll=nll_estimate(f_x, log_u),
            ess=effective_sample_size(log_w),
            state=replace(state, step=step + 1, log_u=log_u, previous=self._remember(f)),
            diagnostics={"log_u": log_u, "log_z_batch": lm, "weight": weights.sum(-1)},
        )

    def _update(self, f: Energy, z: Tensor, log_q: Tensor, lm: Tensor, state: MECOState) -> Tensor:
        config = self.config
        if config.correction == "none" or not state.previous:
            return average_log(state.log_u, lm, config.gamma)
        assert isinstance(f, torch.nn.Module)  # _remember refuses others
        with torch.no_grad():
            before = torch.func.functional_call(f, state.previous, (z,))  # (..., m): the last step's model, this noise
        lm_before = log_mean_exp(before.to(torch.float64) - log_q)
        if config.correction == "storm":
            return storm_log(state.log_u, lm, lm_before, config.gamma)
        return ratio_log(state.log_u, lm, lm_before, config.gamma, config.max_drift)

    def _remember(self, f: Energy) -> dict[str, Tensor]:
        if self.config.correction == "none":
            return {}
        if not isinstance(f, torch.nn.Module):
            raise RlcError(f"{self.name}: the correction '{self.config.correction}' needs f to be an nn.Module.")
        return {name: value.detach().clone() for name, value in f.state_dict().items()}


@register("energy-objective", "snis", MECOConfig)
def snis(config: MECOConfig) -> MECO:
    """Self-normalised importance sampling: MECO with gamma = 1, so log Z comes from this batch alone."""
    return MECO(replace(config, gamma=1.0))
