"""Noise-contrastive estimation: tell data from noise and read the density off the classifier; two losses, NCE and eNCE.

Both see the model only through l(x) - c with l = f - log q and c a learned log Z, so the model they fit is
normalised by itself: at the minimiser c = log Z and l - c = log p/q.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import Tensor

from rl_contrastive.config import require
from rl_contrastive.energy.base import (
    Configured,
    Energy,
    EnergyLoss,
    Noise,
    ObjectiveState,
    check_finite,
    effective_sample_size,
    energies,
    log_mean_exp,
    log_q_of_data,
    nll_estimate,
    noise_of,
)
from rl_contrastive.energy.contrast import data_term, noise_term
from rl_contrastive.registry import register

if TYPE_CHECKING:
    from rl_contrastive.energy.noise import NoiseLaw


def nce_loss(l_x: Tensor, l_z: Tensor, nu: float) -> Tensor:
    """mean softplus(-(l(x) - log nu)) + nu mean softplus(l(z) - log nu): l_x (..., n), l_z (..., m) -> (...,).

    Logistic regression with nu noise points to a datum; minimiser l = log p/q for every nu, and as nu grows the
    estimate tends to maximum likelihood. Source: Gutmann & Hyvarinen 2012.
    """
    shift = math.log(nu)
    return data_term(l_x, shift).mean(-1) + nu * noise_term(l_z, shift).mean(-1)


def exponential_log_loss(l_x: Tensor, l_z: Tensor) -> Tensor:
    """log L with L = (E_data exp(-l/2) + E_q exp(l/2)) / 2: l_x (..., n), l_z (..., m) -> (...,).

    L is the exponential loss of the classifier l/2 (eNCE, Liu et al. 2022); minimiser l = log p/q, where
    L = int sqrt(p q). Its logarithm has the same minimisers and, being grad L / L, the same gradient direction, but
    never overflows: adding a constant to all exponents changes the value and not one bit of the direction.
    """
    return torch.logaddexp(log_mean_exp(-0.5 * l_x), log_mean_exp(0.5 * l_z)) - math.log(2.0)


@dataclass
class LogZState(ObjectiveState):
    """The learned log Z."""

    c: Tensor = field(default_factory=lambda: torch.nn.Parameter(torch.full((), math.nan, dtype=torch.float64)))
    """(...,) float64: a parameter for the optimiser; NaN until the first loss sets it to that batch's estimate."""


@dataclass(frozen=True)
class NCEConfig:
    """Logistic noise-contrastive estimation."""

    noise_per_datum: int = 1
    """K >= 1: draws of q to a datum where the objective draws the noise; given noise of m rows means K = m/n."""
    learn_log_z: bool = True
    """Learn c = log Z; without it c = 0 and the model's own constant (a last bias, a free scale) must do this."""

    def __post_init__(self) -> None:
        require(self.noise_per_datum >= 1, f"nce: noise_per_datum must be >= 1, got {self.noise_per_datum}.")


@dataclass(frozen=True)
class ENCEConfig:
    """Exponential-loss noise-contrastive estimation, to be descended with normalised steps."""

    noise_per_datum: int = 1
    """K >= 1: draws of q to a datum where the objective draws the noise; more only lowers the variance."""
    learn_log_z: bool = True
    """Learn c = log Z; without it c = 0 and the model's own constant must do this."""
    scale: Literal["log", "exact"] = "log"
    """log: the surrogate is log L (same direction, never overflows). exact: L itself, an error once it overflows."""

    def __post_init__(self) -> None:
        require(self.noise_per_datum >= 1, f"ence: noise_per_datum must be >= 1, got {self.noise_per_datum}.")


C = TypeVar("C", NCEConfig, ENCEConfig)


class Classifier(Configured[C]):
    """Base of both: a learned log Z."""

    def initial_state(self, *, shape: tuple[int, ...] = (), device: torch.device | None = None) -> LogZState:
        """c not yet set, 0 where it is not learned; give `state.parameters()` to the optimiser."""
        if not self.config.learn_log_z:
            return LogZState(c=torch.zeros(shape, dtype=torch.float64, device=device))
        return LogZState(c=torch.nn.Parameter(torch.full(shape, math.nan, dtype=torch.float64, device=device)))


@register("energy-objective", "nce", NCEConfig)
class NCE(Classifier[NCEConfig]):
    """Noise-contrastive estimation with K noise points to a datum; see `nce_loss` of l - c."""

    name = "nce"
    options = NCEConfig

    def loss(
        self,
        f: Energy,
        x: Tensor,
        *,
        q: NoiseLaw | None = None,
        z: Tensor | None = None,
        state: LogZState,
        rng: torch.Generator | None = None,
    ) -> EnergyLoss[LogZState]:
        """x (..., n, D), z (..., m, D) -> the step's outcome; the surrogate is the NCE loss itself."""
        f_x, l_x, noise = _scores(self.name, f, x, q, z, state, rng, self.config.noise_per_datum)
        nu = noise.f_z.shape[-1] / f_x.shape[-1]
        each = nce_loss(l_x - state.c.unsqueeze(-1), noise.log_w - state.c.unsqueeze(-1), nu)
        return _outcome(each.sum(), each, f_x, noise, state)


@register("energy-objective", "ence", ENCEConfig)
class ENCE(Classifier[ENCEConfig]):
    """Exponential-loss NCE; see `exponential_log_loss` of l - c. Use with AveragedDescent(normalise=True) or Adam."""

    name = "ence"
    options = ENCEConfig

    def loss(
        self,
        f: Energy,
        x: Tensor,
        *,
        q: NoiseLaw | None = None,
        z: Tensor | None = None,
        state: LogZState,
        rng: torch.Generator | None = None,
    ) -> EnergyLoss[LogZState]:
        """x (..., n, D), z (..., m, D) -> the step's outcome."""
        f_x, l_x, noise = _scores(self.name, f, x, q, z, state, rng, self.config.noise_per_datum)
        log_loss = exponential_log_loss(l_x - state.c.unsqueeze(-1), noise.log_w - state.c.unsqueeze(-1))
        if self.config.scale == "log":
            return _outcome(log_loss.sum(), log_loss, f_x, noise, state)
        exact = torch.exp(log_loss)
        check_finite(exact, objective=self.name, step=state.step, what="exponential losses (use scale='log')")
        return _outcome(exact.sum(), log_loss, f_x, noise, state)


def _scores(
    name: str,
    f: Energy,
    x: Tensor,
    q: NoiseLaw | None,
    z: Tensor | None,
    state: LogZState,
    rng: torch.Generator | None,
    per_datum: int,
) -> tuple[Tensor, Tensor, Noise]:
    """f(x), l(x) and the noise; sets c to this batch's estimate where it is not yet set."""
    noise = noise_of(f, x, q=q, z=z, rng=rng, objective=name, step=state.step, per_datum=per_datum)
    assert q is not None  # noise_of refuses None
    f_x = energies(f, x, objective=name, step=state.step, what="data x")
    l_x = f_x - log_q_of_data(q, x, objective=name, step=state.step)
    require(
        state.c.shape == x.shape[:-2],
        f"{name}: the state is for problems {tuple(state.c.shape)}, the data for {tuple(x.shape[:-2])}.",
    )
    if state.step == 0:  # starting at log Z of the first batch saves c its whole journey
        with torch.no_grad():
            state.c.copy_(torch.where(torch.isnan(state.c), log_mean_exp(noise.log_w), state.c))
    return f_x, l_x, noise


def _outcome(surrogate: Tensor, each: Tensor, f_x: Tensor, noise: Noise, state: LogZState) -> EnergyLoss[LogZState]:
    return EnergyLoss(
        surrogate=surrogate,
        nll=nll_estimate(f_x, log_mean_exp(noise.log_w)),
        ess=effective_sample_size(noise.log_w),
        state=replace(state, step=state.step + 1),
        diagnostics={"loss": each.detach(), "log_z": state.c.detach().clone()},
    )
