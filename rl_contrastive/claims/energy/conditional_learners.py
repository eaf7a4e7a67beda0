"""Ways to fit p(s'|x) = q(s') <psi(s'), phi(x)> / Z(x) to transitions by minibatches: likelihood, NCE, InfoNCE, MECO.

All learn the same tables, log phi (B, SA, d) and log psi (B, S, d), from the same batches; f = log <psi, phi>. They
differ in how they come by Z(x) and in their noise: `noise` draws of q, for each row its own or `shared` by the batch.
    likelihood   Z exact                                    nce      Z is learned into f itself (f self-normalised)
    infonce      Z by the row's noise and its datum         table    u[x] a moving average for each context (MECO)
    one-u        one moving average for all contexts        vector   u in R^d, Z(x) = <u, phi(x)> (MECO, low rank)
    snis         Z by the row's noise alone (the negative control: its bias does not vanish with the data)
`Learner` has switches that take the vector form apart (whose noise goes into u, whose into the gradient of psi, which
optimiser moves psi): what fails when one draw is shared by the whole batch, and what does not.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from rl_contrastive.claims.energy.conditional_data import Problems
from rl_contrastive.config import require
from rl_contrastive.energy.low_rank import TableFactor
from rl_contrastive.energy.steps import AveragedDescent
from rl_contrastive.objectives import make
from rl_contrastive.objectives.base import Contrast, Objective, Sizes, State
from rl_contrastive.objectives.compositional import vector_partition

Kind = Literal["likelihood", "nce", "infonce", "snis", "table", "one-u", "vector"]


@dataclass(frozen=True)
class Learner:
    """What a method is, apart from the options that are tuned."""

    kind: Kind
    noise: int = 16
    """Draws of q a row, or a step where they are shared."""
    shared: bool = False
    """One set of draws for all rows of a batch."""
    outcomes_as_noise: bool = False
    """vector: the batch's own outcomes are the noise (they are draws of q); costs no evaluation of psi."""
    u: Literal["draws", "exact"] = "draws"
    """vector: u from the draws, or E_q psi itself (an oracle, to find what fails)."""
    psi_gradient: Literal["draws", "exact"] = "draws"
    """vector: psi's part of the gradient of Z from the draws, or over all outcomes (an oracle)."""
    psi_steps: Literal["adam", "averaged"] = "adam"
    """Adam divides each entry's gradient by that entry's own size; averaged descent (MECO's v) is linear in it."""


@dataclass(frozen=True)
class Descent:
    """The options that are tuned, and the length."""

    lr: float = 0.03
    """Adam's step (nats), to 0 by a cosine."""
    gamma: float = 0.1
    """Weight of the newest batch in u."""
    lr_psi: float = 1.0
    """Step of psi under averaged descent."""
    momentum: float = 0.9
    """Adam's first moment."""
    steps: int = 2000
    """Minibatches."""
    batch: int = 256
    """Transitions to a minibatch."""


@dataclass
class Fitted:
    """What a fit left: f and, where the method knows one, its own Z."""

    log_phi: Tensor
    """(B, SA, d)."""
    log_psi: Tensor
    """(B, S, d)."""
    log_z: Tensor | None
    """(B, SA) the method's own log Z(x): 0 for nce, log u for MECO (NaN: never visited); None where it has none."""
    seconds: float
    """Of the descent, all problems together."""

    @property
    def scores(self) -> Tensor:
        """f (B, SA, S)."""
        return log_inner(self.log_phi, self.log_psi)


def log_inner(log_phi: Tensor, log_psi: Tensor) -> Tensor:
    """log <phi_x, psi_y>: (B, X, d), (B, Y, d) -> (B, X, Y), by a matrix product; peaks are taken out first."""
    top_phi = log_phi.detach().amax(-1, keepdim=True)
    top_psi = log_psi.detach().amax(-1, keepdim=True)
    inner = torch.exp(log_phi - top_phi) @ torch.exp(log_psi - top_psi).mT
    # Where the peaks are hundreds of nats apart the product is 0 and its gradient lost: there only, the long way.
    if bool((inner <= 1e-290).any()):
        return torch.logsumexp(log_phi.unsqueeze(-2) + log_psi.unsqueeze(-3), dim=-1)
    return inner.log() + top_phi + top_psi.mT


@dataclass
class Batch:
    """One step's draws: x, y (B, n), noise z (B, n, M) a row or (B, M) shared, pairs = f (B, SA, S) flattened."""

    x: Tensor
    y: Tensor
    z: Tensor
    scores: Tensor
    log_phi: Tensor
    log_psi: Tensor

    @property
    def positive(self) -> Tensor:
        """(B, n) f of the data."""
        return self.scores.flatten(1).gather(1, self.x * self.scores.shape[-1] + self.y)

    @property
    def negative(self) -> Tensor:
        """(B, n, M) f of each row with its noise."""
        z = self.z if self.z.ndim == 3 else self.z.unsqueeze(1).expand(-1, self.x.shape[1], -1)
        pairs = self.x.unsqueeze(-1) * self.scores.shape[-1] + z
        return self.scores.flatten(1).gather(1, pairs.flatten(1)).reshape(z.shape)

    @property
    def anchors(self) -> Tensor:
        """(B, n, d) log phi of each row's context."""
        return self.log_phi.gather(1, self.x.unsqueeze(-1).expand(-1, -1, self.log_phi.shape[-1]))

    @property
    def draws(self) -> Tensor:
        """(B, M, d) log psi of the shared noise."""
        return self.log_psi.gather(1, self.z.unsqueeze(-1).expand(-1, -1, self.log_psi.shape[-1]))


@dataclass
class BatchLoss:
    """The objective of a learner with its state; call it with a batch, () to descend."""

    learner: Learner
    options: Descent
    q: Tensor
    contexts: int
    state: State | None = None

    @property
    def objective(self) -> Objective:
        """Logistic with M negatives, InfoNCE, likelihood exact or by draws, or one of the moving averages."""
        kind = self.learner.kind
        options = {"negatives": float(self.learner.noise)} if kind == "nce" else {}
        options |= {"gamma": self.options.gamma} if kind in ("table", "one-u", "vector") else {}
        return make(NAMES[kind], options)

    def __call__(self, batch: Batch) -> Tensor:
        objective, B, dim = self.objective, len(batch.x), batch.log_phi.shape[-1]
        if self.state is None:
            anchors = 1 if self.learner.kind == "one-u" else self.contexts
            self.state = objective.initial(Sizes(B, anchors, dim))
        if self.learner.u == "exact" or self.learner.psi_gradient == "exact":
            return self._by_oracle(batch, self.state)
        result, self.state = objective.step(self._contrast(batch), self.state)
        return result.loss.sum()

    def _contrast(self, batch: Batch) -> Contrast:
        """The batch as the objective sees it."""
        n = batch.x.shape[1]
        positive, negative = batch.positive.unsqueeze(-1), batch.negative
        if self.learner.kind == "likelihood":
            S = batch.scores.shape[-1]
            negative = batch.scores.gather(1, batch.x.unsqueeze(-1).expand(-1, -1, S))  # (B, n, S): all outcomes
            law = self.q.unsqueeze(1).expand_as(negative)
        else:
            shape = batch.z.shape if self.learner.kind == "vector" else negative.shape
            law = torch.full(shape, 1.0 / shape[-1], dtype=negative.dtype, device=negative.device)
        return Contrast(
            pos=lambda _: positive,
            neg=lambda _: negative,
            log_phi=lambda: batch.anchors,
            log_psi=lambda: batch.draws,
            pos_weight=torch.full_like(positive, 1.0 / n),
            law=law,
            ids=torch.zeros_like(batch.x) if self.learner.kind == "one-u" else batch.x,
        )

    def _by_oracle(self, batch: Batch, state: State) -> Tensor:
        """-f + Zhat / sg[Zu] with u in R^d; the switches of `Learner` replace draws by the whole law q."""
        a, b = batch.anchors, batch.draws
        uniform = torch.full_like(b[..., 0], 1.0 / b.shape[1])
        if self.learner.u == "exact":
            exact = torch.logsumexp(batch.log_psi.detach() + self.q.log().unsqueeze(-1), dim=1)  # (B, d)
            ratio, log_u = vector_partition(a, b, uniform, exact, _NEVER)
        else:
            ratio, log_u = vector_partition(a, b, uniform, state["log_u"], self.options.gamma)
        if self.learner.psi_gradient == "exact":
            with_phi, _ = vector_partition(a, b.detach(), uniform, log_u, _NEVER)
            with_psi, _ = vector_partition(a.detach(), batch.log_psi, self.q, log_u, _NEVER)
            ratio = with_phi + with_psi
        self.state = {"log_u": log_u}
        return (ratio.mean(-1) - batch.positive.mean(-1)).sum()

    def log_z(self, log_phi: Tensor) -> Tensor | None:
        """(B, SA) what this learner itself knows of log Z."""
        if self.learner.kind == "nce":
            return torch.zeros_like(log_phi[..., 0])
        if not self.state:
            return None
        log_u = self.state["log_u"]
        if self.learner.kind == "vector":
            return torch.logsumexp(log_phi + log_u.unsqueeze(-2), dim=-1)
        return log_u.expand(-1, log_phi.shape[1])  # one u serves all contexts


NAMES: dict[Kind, str] = {
    "likelihood": "mle",
    "nce": "logistic",
    "infonce": "infonce",
    "snis": "mle",
    "table": "meco-keyed",
    "one-u": "meco-keyed",
    "vector": "meco",
}
"""Kind -> the registered objective of its scores."""
_NEVER = 1e-12
"""A gamma so small that u stays what it is to twelve digits."""


def fit_tables(
    problems: Problems, seeds: tuple[int, ...], learner: Learner, options: Descent, *, init: float = 0.1
) -> Fitted:
    """Fit all problems side by side; a problem whose fit diverged has NaN in its tables."""
    require(learner.shared or learner.kind != "vector", "conditional: the d-vector form shares its noise.")
    device, sizes = problems.P.device, problems.sizes
    rngs = [torch.Generator().manual_seed(seed) for seed in seeds]  # on the CPU: the same draws on each device

    def table(rows: int) -> Tensor:
        parts = [TableFactor(rows, sizes.rank, rng=rng, spread=init).table.detach() for rng in rngs]
        return torch.stack(parts).to(device, torch.float64).requires_grad_()

    log_phi, log_psi = table(sizes.contexts), table(sizes.num_states)
    loss = BatchLoss(learner, options, problems.q, sizes.contexts)
    optimisers = _optimisers(learner, options, log_phi, log_psi)
    schedules = [CosineAnnealingLR(optimiser, options.steps) for optimiser in optimisers]
    start = time.perf_counter()
    for _ in range(options.steps):
        batch = _draw(problems, learner, options.batch, rngs, log_phi, log_psi)
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss(batch).backward()  # type: ignore[no-untyped-call]
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
    seconds = time.perf_counter() - start
    log_phi, log_psi = log_phi.detach(), log_psi.detach()
    return Fitted(log_phi, log_psi, loss.log_z(log_phi), seconds)


def _optimisers(learner: Learner, options: Descent, log_phi: Tensor, log_psi: Tensor) -> list[torch.optim.Optimizer]:
    betas = (options.momentum, 0.999)
    if learner.psi_steps == "adam":
        return [torch.optim.Adam([log_phi, log_psi], lr=options.lr, betas=betas)]
    phi = torch.optim.Adam([log_phi], lr=options.lr, betas=betas)
    return [phi, AveragedDescent([log_psi], options.lr_psi, beta=1.0 - options.momentum)]


def _draw(
    problems: Problems, learner: Learner, n: int, rngs: list[torch.Generator], log_phi: Tensor, log_psi: Tensor
) -> Batch:
    """n transitions and their noise for each problem, from its own generator."""
    device = problems.x.device

    def rows(high: int, shape: tuple[int, ...]) -> Tensor:
        return torch.stack([torch.randint(high, shape, generator=rng) for rng in rngs]).to(device)

    chosen = rows(problems.x.shape[1], (n,))
    x, y = problems.x.gather(1, chosen), problems.y.gather(1, chosen)
    if learner.outcomes_as_noise:
        z = y
    elif learner.kind == "likelihood":
        z = y[:, :0]
    else:
        shape = (learner.noise,) if learner.shared else (n, learner.noise)
        z = problems.pool.gather(1, rows(problems.pool.shape[1], shape).flatten(1)).reshape(len(rngs), *shape)
    return Batch(x, y, z, log_inner(log_phi, log_psi), log_phi, log_psi)


def table_law(fitted: Fitted, q: Tensor, log_z: Tensor | None = None) -> Tensor:
    """P-hat (B, SA, S) = q e^f / Z with the Z given, or renormalised exactly when it is left out."""
    log_q_f = fitted.scores + q.log().unsqueeze(1)
    log_z = torch.logsumexp(log_q_f, dim=-1) if log_z is None else log_z
    return torch.exp(log_q_f - log_z.unsqueeze(-1))


def z_from_draws(fitted: Fitted, problems: Problems, draws: int, *, seeds: tuple[int, ...]) -> Tensor:
    """(B, SA) log Z(x) = log <u, phi(x)> with u the mean of psi over fresh draws of q: any objective's low-rank f."""
    rngs = [torch.Generator().manual_seed(2**31 + seed) for seed in seeds]  # not the stream of the fit
    rows = torch.stack([torch.randint(problems.pool.shape[1], (draws,), generator=rng) for rng in rngs])
    z = problems.pool.gather(1, rows.to(problems.pool.device))
    b = fitted.log_psi.gather(1, z.unsqueeze(-1).expand(-1, -1, fitted.log_psi.shape[-1]))  # (B, draws, d)
    log_u = torch.logsumexp(b, dim=1) - torch.log(torch.tensor(float(draws), dtype=torch.float64))
    return torch.logsumexp(fitted.log_phi + log_u.unsqueeze(-2), dim=-1)
