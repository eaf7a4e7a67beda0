"""MCLRec: two small networks learn to make views of an embedding, in turns with the encoder.

    v1, v2 encoded views,   q1 = w1(v1), q2 = w2(v2)
    M = NCE(v1,q2) + NCE(v2,q1) + NCE(q1,q2)                     symmetric over 2B, dot products
      + lam [R(v1,q2) + R(v2,q1) + R(q1,q2)]                     pairs must not become too similar
    R = mean (pos - lo)+ + mean (hi - neg)+,   lo, hi = the smaller and larger of pos_i and row i's greatest negative

Each batch takes three steps: the encoder on main + NCE(v1,v2) + M; the augmenters on M, with the encoder as it is now
and no gradient through its step; the encoder again. A control must therefore get two encoder steps a batch too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from rl_contrastive.config import MOST_WIDTH, Ge, Gt, In, Options, config_or, require
from rl_contrastive.device import copied
from rl_contrastive.objectives.base import ObjectiveResult
from rl_contrastive.objectives.base import State as LossState
from rl_contrastive.objectives.parts import Augmenter, draw_linear, load_weights, require_batch, saved, weights
from rl_contrastive.objectives.views import ViewObjective, Views, weighted_rows
from rl_contrastive.registry import register
from rl_contrastive.spec import State


@dataclass(frozen=True)
class MCLRecConfig(Options, where="mclrec"):
    """The loss of the augmented views."""

    temperature: Annotated[float, In(1e-4, 1e4)] = 1.0
    """tau of the three contrastive terms; products are divided by it."""
    regulariser: Annotated[float, Ge(0)] = 0.1
    """lam: weight of R."""


@register("view-objective", "mclrec", MCLRecConfig)
class MCLRec(ViewObjective):
    """M = NCE(v1,q2) + NCE(v2,q1) + NCE(q1,q2) + lam [R(v1,q2) + R(v2,q1) + R(q1,q2)] (Qin et al. 2023, MCLRec).

    z (..., 4, N, d): v1, v2, q1, q2.
    """

    least_views = 4

    def __init__(self, config: MCLRecConfig | None = None) -> None:
        self.config = config_or(config, MCLRecConfig)

    def loss(self, views: Views, state: LossState) -> tuple[ObjectiveResult, LossState]:
        require(views.size[0] == 4, f"MCLRec: needs 4 views v1, v2, q1, q2, got {views.size[0]}.")
        v1, v2, q1, q2 = views.z.unbind(-3)
        rows, similar = torch.zeros_like(v1[..., 0]), torch.zeros_like(v1[..., 0])
        for a, b in ((v1, q2), (v2, q1), (q1, q2)):
            rows = rows + symmetric_nce(a, b, views.log_count, temperature=self.config.temperature)
            if self.config.regulariser > 0:
                similar = similar + too_similar(a, b, views.log_count)
        return weighted_rows(rows + self.config.regulariser * similar, views.anchor_weight), state


def pair_products(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Products of all 2N embeddings (..., 2N, 2N), -inf on the diagonal, and those of partners (..., N)."""
    z, N = torch.cat([a, b], dim=-2), a.shape[-2]
    own = torch.eye(2 * N, dtype=torch.bool, device=z.device)
    return (z @ z.mT).masked_fill(own, -torch.inf), (a * b).sum(-1)


def symmetric_nce(a: Tensor, b: Tensor, log_count: Tensor, *, temperature: float = 1.0) -> Tensor:
    """-s_i + log sum_{j != i} exp s_ij over 2N, s = z'z/tau, both ways (Qin et al. 2023): (..., N, d) -> (..., N)."""
    S, partner = pair_products(a, b)
    N, S = a.shape[-2], S / temperature
    log_m = torch.cat([log_count, log_count], dim=-1).unsqueeze(-2)  # (..., 1, 2N)
    partition = torch.logsumexp(S + log_m, dim=-1)  # (..., 2N)
    return 0.5 * (partition[..., :N] + partition[..., N:]) - partner / temperature


def too_similar(a: Tensor, b: Tensor, log_count: Tensor) -> Tensor:
    """R = (pos - lo)+ + mean_j (hi - neg_j)+ by instance (Qin et al. 2023): a, b (..., N, d) -> (..., N).

    lo and hi are the smaller and the larger of the pair's product and the row's greatest negative.
    """
    S, pos = pair_products(a, b)
    N = a.shape[-2]
    m = torch.cat([log_count, log_count], dim=-1).exp().unsqueeze(-2).expand_as(S)  # (..., 2N, 2N)
    same = torch.eye(N, dtype=torch.bool, device=a.device).repeat(2, 2)
    m = m.masked_fill(same, 0.0)
    pos = torch.cat([pos, pos], dim=-1)  # (..., 2N)
    greatest = S.masked_fill(m == 0, -torch.inf).amax(-1)
    lo, hi = torch.minimum(pos, greatest), torch.maximum(pos, greatest)
    below = (hi.unsqueeze(-1) - S.masked_fill(same, 0.0)).relu()
    rows = (pos - lo).relu() + (m * below).sum(-1) / m.sum(-1)
    return 0.5 * (rows[..., :N] + rows[..., N:])


@dataclass(frozen=True)
class AugmentersConfig(Options, where="augmenters"):
    """The two networks and their optimiser."""

    hidden: Annotated[int, In(1, MOST_WIDTH)] = 64
    """Width of the hidden layer."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Adam's step size."""


class Augmenters:
    """w1, w2: d -> hidden -> d with a ReLU, trained by an Adam of their own (Qin et al. 2023, MCLRec)."""

    def __init__(self, dim: int, config: AugmentersConfig | None = None, *, rng: torch.Generator) -> None:
        require(dim >= 1, f"augmenters: d must be >= 1, got {dim}.")
        self.config, self.dim = config_or(config, AugmentersConfig), dim

        def net() -> nn.Sequential:
            first, last = nn.Linear(dim, self.config.hidden), nn.Linear(self.config.hidden, dim)
            return nn.Sequential(draw_linear(first, rng=rng), nn.ReLU(), draw_linear(last, rng=rng))

        self.nets = nn.ModuleList([net(), net()])
        self.optimiser = torch.optim.Adam(self.nets.parameters(), lr=self.config.lr)

    @property
    def pair(self) -> tuple[Augmenter, Augmenter]:
        """w1 and w2."""
        return self.nets[0], self.nets[1]

    def __call__(self, v1: Tensor, v2: Tensor) -> Tensor:
        """v1, v2 (N, d) -> (4, N, d): v1, v2, w1(v1), w2(v2), as `mclrec` takes them."""
        require_batch("augmenters", v1, self.dim)
        require(v1.shape == v2.shape, f"augmenters: views of shapes {tuple(v1.shape)} and {tuple(v2.shape)}.")
        return torch.stack([v1, v2, self.nets[0](v1), self.nets[1](v2)])

    def step(self, loss: Tensor) -> None:
        """One step of their optimiser alone."""
        parameters = list(self.nets.parameters())
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = gradient
        self.optimiser.step()
        self.optimiser.zero_grad()

    def state_dict(self) -> State:
        """Weights, and Adam's moments once it has made a step."""
        adam = [self.optimiser.state[p] for p in self.nets.parameters() if p in self.optimiser.state]
        moments = {f"{key}_{i}": copied(entry[key]) for i, entry in enumerate(adam) for key in ADAM}
        return {"weights": weights(self.nets), "moments": moments}

    def load_state_dict(self, state: State) -> None:
        """Inverse of `state_dict`; RlcError on missing keys or other shapes."""
        load_weights(self.nets, saved(state, "weights", "augmenters"), "augmenters")
        moments = saved(state, "moments", "augmenters")
        self.optimiser.state.clear()
        for i, p in enumerate(self.nets.parameters() if moments else ()):
            shapes: dict[str, tuple[int, ...]] = {"step": (), "exp_avg": tuple(p.shape), "exp_avg_sq": tuple(p.shape)}
            entry = {key: saved(moments, f"{key}_{i}", "augmenters", shape) for key, shape in shapes.items()}
            self.optimiser.state[p] = {key: torch.as_tensor(value).clone() for key, value in entry.items()}


ADAM = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TurnsConfig(Options, where="mclrec turns"):
    """The weights of the three steps."""

    plain: Annotated[float, Ge(0)] = 0.1
    """Weight of NCE(v1,v2) in the encoder's loss."""
    augmented: Annotated[float, Ge(0)] = 0.1
    """beta: weight of M in the encoder's loss; the augmenters' own loss is M itself."""


def take_turns(
    encode: Callable[[], tuple[Tensor, Tensor, Tensor]],
    augmenters: Augmenters,
    encoder: torch.optim.Optimizer,
    objective: MCLRec,
    config: TurnsConfig | None = None,
) -> tuple[float, float]:
    """The three steps of a batch (Qin et al. 2023, MCLRec): encoder, augmenters, encoder.

    encode() -> v1, v2 (N, d) and the scalar main loss, computed anew by the encoder of the moment.
    Returns M as the augmenters saw it and the encoder's last loss.
    """
    config = config_or(config, TurnsConfig)

    def encoder_step() -> float:
        v1, v2, main = encode()
        views = Views(augmenters(v1, v2))
        plain = symmetric_nce(v1, v2, views.log_count, temperature=objective.config.temperature).mean()
        loss = main + config.plain * plain + config.augmented * objective(views).loss
        encoder.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        encoder.step()
        augmenters.optimiser.zero_grad()  # the backward pass went through them too
        return float(loss.detach())

    encoder_step()
    v1, v2, _ = encode()
    M = objective(Views(augmenters(v1.detach(), v2.detach()))).loss
    augmenters.step(M)
    return float(M.detach()), encoder_step()
