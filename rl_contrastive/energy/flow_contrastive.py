"""Flow contrastive estimation: NCE whose noise is a flow that learns to be taken for data (Gao et al. 2020).

With the energy l = f - c (c a learned log Z) and the flow's law q_a, which starts as the law q that is handed in:
    V(f, c, a) = E_data log p/(p + q_a) + E_{q_a} log q_a/(p + q_a),  p = e^l:   max over f and c, min over a.
-V is NCE's loss with one noise point to a datum, so f and c descend it as NCE does. The flow climbs it, which moves q_a
towards the data (V = -2 log 2 + 2 JS(p_data, q_a) where f is at its optimum): noise that is ever harder to tell from
them, so that q needs to cover the data less well at the start than it must for NCE. Where the flow stands still this is
NCE. Fixed point: e^l = q_a = p_data, or the flow's law next to it.

One surrogate trains both: its gradient in f and c is that of -V, its gradient in the flow's weights that of V, where a
draw z = g_a(e) moves with the flow, d f(z)/da = grad f(z)' dz/da. The flow's vector is a parameter of the state, as c.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from rl_contrastive.config import MOST_WIDTH, Ge, Gt, In, Options, require
from rl_contrastive.energy.base import (
    Configured,
    Energy,
    EnergyLoss,
    ObjectiveState,
    effective_sample_size,
    energies,
    log_mean_exp,
    log_q_of_data,
    nll_estimate,
)
from rl_contrastive.energy.flow import Flow
from rl_contrastive.energy.noise_contrastive import nce_loss
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import register

if TYPE_CHECKING:
    from rl_contrastive.energy.noise import NoiseLaw


def _unset() -> Tensor:
    return torch.nn.Parameter(torch.full((), math.nan, dtype=torch.float64))


@dataclass(frozen=True)
class FCEConfig(Options, where="fce"):
    """Flow contrastive estimation."""

    dim: Annotated[int, In(1, MOST_WIDTH)] = 2
    """D, dimension of the data."""
    layers: Annotated[int, In(0, 1000)] = 4
    """Coupling layers of the flow, each with a network of two hidden layers; none in one dimension."""
    hidden: Annotated[int, In(1, MOST_WIDTH)] = 32
    """Units of a hidden layer."""
    pace: Annotated[float, Gt(0)] = 1.0
    """Steps of the flow's weights over those of the energy. Under Adam the gradient's size says nothing, so the
    weights are `pace` times what is descended."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the flow's fixed initial weights."""


@dataclass
class FlowState(ObjectiveState):
    """The learned log Z and the flow."""

    c: Tensor = field(default_factory=_unset)
    """() float64: a parameter; NaN until the first loss sets it to that batch's estimate."""
    flow: Tensor = field(default_factory=lambda: torch.nn.Parameter(torch.zeros(0, dtype=torch.float64)))
    """(weights,) float64: a parameter, zeros at first."""


@register("energy-objective", "fce", FCEConfig)
class FCE(Configured[FCEConfig]):
    """Flow contrastive estimation: energy and noise are trained against each other; see the module's first lines."""

    name = "fce"
    options = FCEConfig

    def __init__(self, config: FCEConfig | None = None) -> None:
        super().__init__(config)
        self.flow = Flow(self.config.dim, layers=self.config.layers, hidden=self.config.hidden, seed=self.config.seed)

    def initial_state(self, *, shape: tuple[int, ...] = (), device: torch.device | None = None) -> FlowState:
        """c not yet set, the flow the identity; give `state.parameters()` to the optimiser."""
        require(shape == (), f"fce: fits one problem at a time, got {shape}.")
        zeros = torch.zeros(self.flow.size, dtype=torch.float64, device=device)
        return FlowState(c=torch.nn.Parameter(_unset().detach().to(device)), flow=torch.nn.Parameter(zeros))

    def loss(
        self,
        f: Energy,
        x: Tensor,
        *,
        q: NoiseLaw | None = None,
        z: Tensor | None = None,
        state: FlowState,
        rng: torch.Generator | None = None,
    ) -> EnergyLoss[FlowState]:
        """x (n, D), z (m, D) draws of q, which the flow moves (n where left out) -> the step's outcome."""
        e = self._base(q, x, z, rng)
        assert q is not None  # _base refuses None
        # 1. Noise of the flow and its law, with their gradients in the flow's weights.
        moved, log_q_z = self.law(q, e.double(), state)
        log_q_x = self.log_q(q, x, state)
        z_leaf = moved.detach().to(x.dtype).requires_grad_(True)
        # 2. NCE's loss of f and c, under this noise.
        f_x = energies(f, x, objective=self.name, step=state.step, what="data x")
        with torch.enable_grad():  # losses are also looked at under no_grad
            f_z = energies(f, z_leaf, objective=self.name, step=state.step, what="the flow's noise z")
            (slope,) = torch.autograd.grad(f_z.sum(), z_leaf, retain_graph=True)
        log_w = (f_z - log_q_z).detach()
        if state.step == 0:
            with torch.no_grad():
                state.c.copy_(torch.where(torch.isnan(state.c), log_mean_exp(log_w), state.c))
        ours = nce_loss(f_x - log_q_x.detach() - state.c, f_z - log_q_z.detach() - state.c, 1.0)
        # 3. The flow's part of it, upwards; a draw moves f(z) by its slope there.
        f_moved = f_z.detach() + ((moved - moved.detach()) * slope.double()).sum(-1)
        c = state.c.detach()
        theirs = nce_loss(f_x.detach() - log_q_x - c, f_moved - log_q_z - c, 1.0)
        return EnergyLoss(
            surrogate=ours - theirs,
            nll=nll_estimate(f_x, log_mean_exp(log_w)),
            ess=effective_sample_size(log_w),
            state=replace(state, step=state.step + 1),
            diagnostics={"loss": ours.detach(), "log_z": c.clone(), "flow_nll": -log_q_x.detach().mean()},
        )

    def law(self, q: NoiseLaw, e: Tensor, state: FlowState) -> tuple[Tensor, Tensor]:
        """Draws z = g(e) (n, D) of the flow's law and their log q_a(z) (n,), of draws e (n, D) of q; float64."""
        z, log_det = self.flow.forward(self.config.pace * state.flow, e)
        return z, q.log_prob(e) - log_det

    def log_q(self, q: NoiseLaw, x: Tensor, state: FlowState) -> Tensor:
        """log q_a(x) (n,) float64 of points (n, D)."""
        e, log_det = self.flow.inverse(self.config.pace * state.flow, x.double())
        log_q_of_data(q, e, objective=self.name, step=state.step)  # a sentence where it is 0
        return q.log_prob(e) - log_det

    def _base(self, q: NoiseLaw | None, x: Tensor, z: Tensor | None, rng: torch.Generator | None) -> Tensor:
        D = self.config.dim
        require(x.ndim == 2 and x.shape[1] == D, f"{self.name}: x must be (n, {D}) as dim says, got {tuple(x.shape)}.")
        if q is None:
            raise RlcError(f"{self.name}: needs a noise law q with sample and log_prob, where its flow starts.")
        require(q.dim == D, f"{self.name}: the noise law has dimension {q.dim}, the data {D}.")
        if z is None and rng is None:
            raise RlcError(f"{self.name}: give the noise z, or rng to draw it.")
        if z is None:
            assert rng is not None
            return q.sample(len(x), rng=rng).to(x)
        require(z.ndim == 2 and z.shape[1] == D, f"{self.name}: z must be (m, {D}), got {tuple(z.shape)}.")
        return z
