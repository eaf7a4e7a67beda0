"""The interface of every energy objective: a model f and a noise law q in, a surrogate to descend and an NLL out.

An energy model is any callable f: x (..., n, D) -> (..., n), the log of an unnormalised density; leading axes are
separate problems (seeds, say) that are fitted side by side. With noise z ~ q the log weights l = f(z) - log q(z)
carry everything that is known about the partition function:
    Z = E_q exp(l)        NLL = -E_data f + log Z        ESS = (sum_j e^{l_j})^2 / sum_j e^{2 l_j}.
What an objective remembers from step to step (a moving average, a learned log Z, chains of a sampler) is its state:
handed in, handed back new, and saved by `state_dict`. Nothing is hidden in the objective, so a run that is resumed
continues to the bit. Scores become float64 at the door: partitions are sums of exponentials, float32 nets lose them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError

if TYPE_CHECKING:
    from rl_contrastive.energy.noise import NoiseLaw

Energy = Callable[[Tensor], Tensor]
"""f: (..., n, D) -> (..., n), the log of the unnormalised density; a function or an nn.Module."""


@dataclass
class ObjectiveState:
    """What an objective remembers: a dataclass of ints, tensors and dicts of tensors (subclasses add their own)."""

    step: int = 0
    """Losses computed so far."""

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all fields as tensors, a dict of tensors under `field.key`: what a checkpoint stores."""
        saved: dict[str, Tensor] = {}
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, dict):
                saved.update({f"{spec.name}.{key}": entry.detach().clone() for key, entry in value.items()})
            elif isinstance(value, Tensor):
                saved[spec.name] = value.detach().clone()
            else:
                saved[spec.name] = torch.tensor(int(value), dtype=torch.int64)
        return saved

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave, on this state's device; a parameter keeps its identity (optimisers)."""
        own = {spec.name: getattr(self, spec.name) for spec in dataclasses.fields(self)}
        roots = {key.partition(".")[0] for key in saved}
        needed = {name for name, value in own.items() if not isinstance(value, dict)}
        require(
            needed <= roots <= set(own),
            f"{type(self).__name__}: the saved state has {sorted(roots)}, expected {sorted(own)}.",
        )
        for name, value in own.items():
            if isinstance(value, dict):
                prefix = name + "."
                setattr(self, name, {k[len(prefix) :]: v.clone() for k, v in saved.items() if k.startswith(prefix)})
            elif isinstance(value, Tensor):
                self._load_tensor(name, value, saved[name])
            else:
                setattr(self, name, int(saved[name]))

    def _load_tensor(self, name: str, own: Tensor, saved: Tensor) -> None:
        require(  # an empty tensor (a buffer before the first step) takes any shape
            own.numel() == 0 or (own.dtype == saved.dtype and own.shape == saved.shape),
            f"{type(self).__name__}: the saved {name} is {saved.dtype} {tuple(saved.shape)}, "
            f"expected {own.dtype} {tuple(own.shape)}.",
        )
        if isinstance(own, torch.nn.Parameter):
            with torch.no_grad():
                own.copy_(saved)
        else:
            setattr(self, name, saved.detach().clone().to(own.device))

    def parameters(self) -> list[torch.nn.Parameter]:
        """What the optimiser must train beside the model's own parameters (NCE's log Z)."""
        values = (getattr(self, spec.name) for spec in dataclasses.fields(self))
        return [value for value in values if isinstance(value, torch.nn.Parameter)]


S = TypeVar("S", bound=ObjectiveState)
C = TypeVar("C")


@dataclass(frozen=True)
class EnergyLoss(Generic[S]):
    """One step's outcome: call backward on `surrogate`, log the rest, pass `state` to the next step."""

    surrogate: Tensor
    """(): its gradient is the descent direction; summed over leading axes. Its value may mean nothing."""
    nll: Tensor
    """(...,) float64, detached: estimate of -E_data log p; NaN where the objective has nothing to estimate Z with."""
    ess: Tensor
    """(...,) float64, detached: effective number of noise samples behind `nll`; NaN where there are none."""
    state: S
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


class Objective(Protocol[S]):
    """An objective: its hyperparameters only; see the module's first lines for the rest."""

    name: str

    def initial_state(self, *, shape: tuple[int, ...] = (), device: torch.device | None = None) -> S:
        """State before the first step; shape: leading axes of x, one problem each."""

    def loss(
        self,
        f: Energy,
        x: Tensor,
        *,
        q: NoiseLaw | None = None,
        z: Tensor | None = None,
        state: S,
        rng: torch.Generator | None = None,
    ) -> EnergyLoss[S]:
        """x (..., n, D) data, z (..., m, D) draws of q (drawn here with rng when left out) -> the step's outcome."""


class Configured(Generic[C]):
    """Base of the objectives: their hyperparameters, by default those of `options`."""

    options: ClassVar[type[Any]]

    def __init__(self, config: C | None = None) -> None:
        self.config: C = self.options() if config is None else config


class Stateless(Configured[C]):
    """Base of the objectives that remember nothing but the step."""

    def initial_state(self, *, shape: tuple[int, ...] = (), device: torch.device | None = None) -> ObjectiveState:
        """Step 0."""
        del shape, device
        return ObjectiveState()


def log_mean_exp(values: Tensor) -> Tensor:
    """log (1/m) sum_j e^{v_j} over the last axis."""
    return torch.logsumexp(values, dim=-1) - math.log(values.shape[-1])


def effective_sample_size(log_w: Tensor) -> Tensor:
    """(sum_j w_j)^2 / sum_j w_j^2 over the last axis, in [1, m]: how many equal weights carry the same information."""
    log_w = log_w.detach().to(torch.float64)
    return torch.exp(2.0 * torch.logsumexp(log_w, dim=-1) - torch.logsumexp(2.0 * log_w, dim=-1))


def nll_estimate(f_x: Tensor, log_z: Tensor) -> Tensor:
    """-mean f(x) + log Z over the last axis of f_x, float64, detached; as good as its log Z and no better."""
    return log_z.detach().to(torch.float64) - f_x.detach().to(torch.float64).mean(dim=-1)


def energies(f: Energy, x: Tensor, *, objective: str, step: int, what: str) -> Tensor:
    """f(x) in float64 (..., n); a wrong shape and values that are not finite are errors that say where and when."""
    require(x.ndim >= 2, f"{objective}: {what} must be (..., n, D), got the shape {tuple(x.shape)}.")
    require(x.shape[-2] > 0, f"{objective}: {what} is empty, got the shape {tuple(x.shape)}.")
    values = f(x)
    require(
        values.shape == x.shape[:-1],
        f"{objective}: f must map {what} {tuple(x.shape)} to {tuple(x.shape[:-1])}, got {tuple(values.shape)}.",
    )
    check_finite(values, objective=objective, step=step, what=f"energies f({what})")
    return values.to(torch.float64)


def check_finite(values: Tensor, *, objective: str, step: int, what: str) -> None:
    """Refuse NaN and infinite values: how many, where, and what usually causes them."""
    if bool(torch.isfinite(values).all()):
        return
    bad = int((~torch.isfinite(values)).sum())
    raise RlcError(
        f"{objective}: {bad} of {values.numel()} {what} are NaN or infinite at step {step}; "
        "lower the learning rate, standardise the data or bound the energy."
    )


@dataclass(frozen=True)
class Noise:
    """Noise of one step: z (..., m, D), its energies f_z and log q(z), both (..., m) float64."""

    z: Tensor
    f_z: Tensor
    log_q: Tensor

    @property
    def log_w(self) -> Tensor:
        """l = f(z) - log q(z) (..., m); keeps the gradient of f."""
        return self.f_z - self.log_q


def noise_of(
    f: Energy,
    x: Tensor,
    *,
    q: NoiseLaw | None,
    z: Tensor | None,
    rng: torch.Generator | None,
    objective: str,
    step: int,
    per_datum: int = 1,
) -> Noise:
    """The step's noise with its energies: z as given, else `per_datum` draws of q for each row of x."""
    require(x.ndim >= 2, f"{objective}: x must be (..., n, D), got the shape {tuple(x.shape)}.")
    if q is None:
        raise RlcError(f"{objective}: needs a noise law q with sample and log_prob.")
    require(q.dim == x.shape[-1], f"{objective}: the noise law has dimension {q.dim}, the data {x.shape[-1]}.")
    if z is None:
        if rng is None:
            raise RlcError(f"{objective}: give the noise z, or rng to draw it.")
        count = math.prod(x.shape[:-1]) * per_datum
        drawn = q.sample(count, rng=rng).to(x)
        z = drawn.reshape(*x.shape[:-2], x.shape[-2] * per_datum, x.shape[-1])  # (..., m, D)
    require(
        z.ndim == x.ndim and z.shape[:-2] == x.shape[:-2] and z.shape[-1] == x.shape[-1],
        f"{objective}: the noise z {tuple(z.shape)} and the data x {tuple(x.shape)} must agree but for their counts.",
    )
    f_z = energies(f, z, objective=objective, step=step, what="noise z")
    log_q = q.log_prob(z).detach().to(torch.float64)
    require(
        log_q.shape == f_z.shape, f"{objective}: q.log_prob(z) must be {tuple(f_z.shape)}, got {tuple(log_q.shape)}."
    )
    check_finite(log_q, objective=objective, step=step, what="noise log-densities log q(z)")
    return Noise(z, f_z, log_q)


def log_q_of_data(q: NoiseLaw, x: Tensor, *, objective: str, step: int) -> Tensor:
    """log q(x) (..., n) float64 for losses that need q on the data: q must cover every point."""
    log_q = q.log_prob(x).detach().to(torch.float64)
    missed = int(torch.isneginf(log_q).sum())
    require(
        missed == 0,
        f"{objective}: the noise law has density 0 at {missed} of {log_q.numel()} data points at step {step}; "
        "widen it or mix in a wide law (it must cover the data).",
    )
    check_finite(log_q, objective=objective, step=step, what="noise log-densities log q(x)")
    return log_q


def monitor(
    f: Energy, x: Tensor, *, q: NoiseLaw | None, z: Tensor | None, objective: str, step: int
) -> tuple[Tensor, Tensor]:
    """(nll, ess) (...,) of x from noise that is used for nothing else; NaN where the caller gives no noise."""
    if q is None or z is None:
        nothing = torch.full(x.shape[:-2], math.nan, dtype=torch.float64, device=x.device)
        return nothing, nothing
    with torch.no_grad():
        f_x = energies(f, x, objective=objective, step=step, what="data x")
        log_w = noise_of(f, x, q=q, z=z, rng=None, objective=objective, step=step).log_w
    return nll_estimate(f_x, log_mean_exp(log_w)), effective_sample_size(log_w)
