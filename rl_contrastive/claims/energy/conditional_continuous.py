"""Contexts from a continuum: one d-vector normalises contexts that no table has an entry for.

x uniform on [-1, 1]^2, y real:  p(y | x) = sum_k phi*_k(x) N(y; m_k, s_k^2),  phi*(x) a softmax of d affine functions:
low rank, with networks phi and psi to fit it. q is one Gaussian fitted to the outcomes. Judged on contexts that were
not in the data, by quadrature over y. The contrast is a table with a moving average for each datum: it can train (the
data come back), but has no Z for a new context.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rl_contrastive.energy.energies import MLP, MLPConfig
from rl_contrastive.energy.low_rank import LowRankConditional
from rl_contrastive.energy.noise import Gaussian
from rl_contrastive.errors import unknown_name
from rl_contrastive.objectives import make
from rl_contrastive.objectives.base import Contrast, Objective, Sizes, State

METHODS = ("likelihood", "vector", "nce", "infonce", "table")
GRID = 400
"""Points of the quadrature over y."""


@dataclass(frozen=True)
class ContinuousOptions:
    """Data, networks and descent of one fit."""

    transitions: int = 5000
    """N."""
    rank: int = 3
    """d, of the truth and of the model."""
    noise: int = 16
    """Draws of q a step, shared by the batch."""
    lr: float = 0.01
    """Adam's step, to 0 by a cosine."""
    gamma: float = 0.1
    """Weight of the newest batch in u (vector, table)."""
    steps: int = 1500
    """Minibatches."""
    batch: int = 256
    """Transitions to a minibatch."""
    hidden: int = 64
    """Width of the two hidden layers of phi and psi."""


@dataclass(frozen=True)
class Truth:
    """p(y|x) = sum_k softmax_k(slope x + offset) N(y; mean_k, scale_k^2)."""

    slope: Tensor
    """(d, 2)."""
    offset: Tensor
    """(d,)."""
    mean: Tensor
    """(d,)."""
    scale: Tensor
    """(d,)."""

    @classmethod
    def draw(cls, rank: int, *, rng: np.random.Generator) -> Truth:
        """Components that overlap little, in places and widths that vary with the seed."""
        mean = np.linspace(-3.0, 3.0, rank) + rng.uniform(-0.5, 0.5, rank)
        parts = (rng.normal(0.0, 3.0, (rank, 2)), rng.normal(0.0, 0.5, rank), mean, rng.uniform(0.3, 0.8, rank))
        return cls(*(torch.from_numpy(np.asarray(part)) for part in parts))

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """(n, 2) contexts, (m,) outcomes -> (n, m)."""
        log_phi = torch.log_softmax(x @ self.slope.T + self.offset, dim=-1)  # (n, d)
        return torch.logsumexp(log_phi.unsqueeze(1) + self._components(y).unsqueeze(0), dim=-1)

    def sample(self, x: Tensor, *, rng: np.random.Generator) -> Tensor:
        """One outcome for each context: (n, 2) -> (n,)."""
        phi = torch.softmax(x @ self.slope.T + self.offset, dim=-1).numpy()
        k = np.minimum((rng.random(len(x))[:, None] > np.cumsum(phi, axis=1)).sum(1), phi.shape[1] - 1)
        return self.mean[k] + self.scale[k] * torch.from_numpy(rng.standard_normal(len(x)))

    def _components(self, y: Tensor) -> Tensor:
        z = (y.unsqueeze(-1) - self.mean) / self.scale  # (m, d)
        return -0.5 * z.square() - self.scale.log() - 0.5 * math.log(2.0 * math.pi)


def fit_continuous(method: str, seed: int, options: ContinuousOptions) -> dict[str, float]:
    """Fit one seed and judge it on new contexts; see `_judge` for the metrics."""
    if method not in METHODS:
        raise unknown_name("method of the continuous check", method, METHODS)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(2,))))
    truth = Truth.draw(options.rank, rng=rng)
    x = torch.from_numpy(rng.uniform(-1.0, 1.0, (options.transitions, 2)))
    y = truth.sample(x, rng=rng)
    new = torch.from_numpy(rng.uniform(-1.0, 1.0, (500, 2)))
    q = Gaussian.fit(y.unsqueeze(-1), inflate=1.5)
    draws = torch.Generator().manual_seed(seed)
    model = LowRankConditional(
        MLP(2, options.rank, MLPConfig(hidden=(options.hidden,) * 2, first_scale=1.0), rng=draws),
        MLP(1, options.rank, MLPConfig(hidden=(options.hidden,) * 2), rng=draws),
    )
    state = _descend(method, model, x, y.unsqueeze(-1), q, options, draws)
    return _judge(method, model, state, truth, new, q, options, rng=rng)


def _descend(
    method: str,
    model: LowRankConditional,
    x: Tensor,
    y: Tensor,
    q: Gaussian,
    options: ContinuousOptions,
    draws: torch.Generator,
) -> State:
    optimiser = torch.optim.Adam(model.parameters(), lr=options.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)
    objective = _objective(method, options)
    state = objective.initial(Sizes(1, len(x), options.rank))
    every = quadrature(q)
    for _ in range(options.steps):
        rows = torch.randint(len(x), (options.batch,), generator=draws)
        z, law = q.sample(options.noise, rng=draws), torch.full((options.noise,), 1.0 / options.noise).double()
        if method == "likelihood":
            z, law = every
        result, state = objective.step(_contrast(model, x, y, rows, z, law), state)
        optimiser.zero_grad()
        result.loss.sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return state


def _objective(method: str, options: ContinuousOptions) -> Objective:
    """The registered objective behind a method."""
    if method == "infonce":
        return make("infonce")
    if method == "nce":
        return make("logistic", {"negatives": float(options.noise)})
    gamma = 1.0 if method == "likelihood" else options.gamma
    return make("meco-keyed" if method == "table" else "meco", {"gamma": gamma})


def _contrast(model: LowRankConditional, x: Tensor, y: Tensor, rows: Tensor, z: Tensor, law: Tensor) -> Contrast:
    """Some rows of the data against noise (M, 1) that all of them share."""
    weight = torch.full((1, len(rows), 1), 1.0 / len(rows), dtype=torch.float64)
    return Contrast(
        pos=lambda _: model.rows(x[rows], y[rows])[None, :, None],
        neg=lambda _: model.pairs(x[rows], z)[None],
        log_phi=lambda: model.phi(x[rows])[None],
        log_psi=lambda: model.psi(z)[None],
        pos_weight=weight,
        law=law[None],
        ids=rows[None],
    )


def quadrature(q: Gaussian) -> tuple[Tensor, Tensor]:
    """Points (GRID, 1) over +-6 standard deviations of q and weights q(y) dy, which sum to 1."""
    centre, spread = q.mean, q.covariance.reshape(-1)[0].sqrt()
    grid = centre + spread * torch.linspace(-6.0, 6.0, GRID, dtype=torch.float64).unsqueeze(-1)
    weight = torch.exp(q.log_prob(grid))
    return grid, weight / weight.sum()


@torch.no_grad()
def _judge(
    method: str,
    model: LowRankConditional,
    state: State,
    truth: Truth,
    new: Tensor,
    q: Gaussian,
    options: ContinuousOptions,
    *,
    rng: np.random.Generator,
) -> dict[str, float]:
    """tv, held_nll: Z by quadrature; tv_draws: by 1000 draws; tv_own, log_z_error: the method's own Z."""
    grid, law = quadrature(q)
    p = torch.exp(truth.log_prob(new, grid.squeeze(-1)))
    width = float(grid[1, 0] - grid[0, 0])
    log_q = q.log_prob(grid)
    log_u = model.log_mean_psi(grid, law)
    f = model.pairs(new, grid)
    log_z = model.log_partition(new, log_u)
    y_new = truth.sample(new, rng=rng).unsqueeze(-1)
    metrics = {
        "tv": float(0.5 * (torch.exp(log_q + f - log_z.unsqueeze(-1)) - p).abs().sum(-1).mean()) * width,
        "held_nll": float((log_z - model.rows(new, y_new) - q.log_prob(y_new)).mean()),
    }
    # One d-vector from fresh draws normalises every context, whatever the objective was: no sum and no table.
    log_u_draws = model.log_mean_psi(q.sample(1000, rng=torch.Generator().manual_seed(options.steps)))
    P_draws = torch.exp(log_q + f - model.log_partition(new, log_u_draws).unsqueeze(-1))
    metrics["tv_draws"] = float(0.5 * (P_draws - p).abs().sum(-1).mean()) * width
    own = {"vector": lambda: model.log_partition(new, state["log_u"][0]), "nce": lambda: torch.zeros_like(log_z)}
    if method in own:
        log_own = own[method]()
        P_own = torch.exp(log_q + f - log_own.unsqueeze(-1))
        metrics["tv_own"] = float(0.5 * (P_own - p).abs().sum(-1).mean()) * width
        metrics["log_z_error"] = float((log_own - log_z).abs().mean())
    return metrics
