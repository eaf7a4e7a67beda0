"""Contrastive transition features of a deep encoder: phi(s,a) and psi(s') told apart by the negatives of the batch.

On the encoder's vectors z, two heads u_phi(z, a) and u_psi(z') give phi, psi = softplus(beta u)/beta > 0 in R^d and

    f(s,a,s') = psi(s')'phi(s,a) -> P(s'|s,a) / P^-(s')        (`nce`: Qiu et al. 2022, eq. (3); others up to c(s,a))

The negatives of row i are the successors of the other rows. They are N - 1 samples of the batch's distribution P^- of
s' that do not depend on row i, so they need no second batch and no further pass through the encoder. Every registered
objective runs on these scores.

With u_k = E_{P^-} psi_k the fitted model is a mixture, P-hat(s'|s,a) = sum_k w_k(s,a) p_k(s') with p_k = P^- psi_k/u_k:

    w(s,a) = u * phi(s,a) / <u, phi(s,a)>, the posterior of d latent successors.

The bonus counts u_phi ("logits", the default), phi / |phi| ("unit"), w ("simplex") or phi ("raw"). w does not depend
on how phi and psi share their scale, coordinate by coordinate; |phi| <= 1, which the theory asks for, holds for unit
and simplex. With all of them, an action never tried here looks like a similar one elsewhere. "psi" counts u_psi(s)
separately for each action, as a decoder of latent states does. Unpredictable parts of s are not in psi.

With `ahead` = gamma_c > 0 the positive s' is o_{t+K}, K ~ Geometric(1 - gamma_c) within the episode (`Replay.ahead`).
P(s'|s,a) is then the discounted distribution of what follows (s,a), and f its ratio to P^-(s').

Some objectives remember something of each anchor (`Objective.keyed`, as meco-keyed and isogclr do). Then an anchor is a
slot of the replay: the state has one entry a slot, and an entry begins anew when another transition takes its slot.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from rl_contrastive.config import require
from rl_contrastive.deep.config import RepresentationConfig
from rl_contrastive.deep.networks import RELU_GAIN, Layers, linear
from rl_contrastive.deep.replay.ring import written
from rl_contrastive.deep.temporal import contrast_in_time
from rl_contrastive.device import fetch
from rl_contrastive.energy.compositional import average_log
from rl_contrastive.energy.low_rank import log_products
from rl_contrastive.errors import RlcError
from rl_contrastive.features.diagnostics import effective_rank
from rl_contrastive.objectives import make
from rl_contrastive.objectives.base import Contrast, ObjectiveResult, Sizes, Space
from rl_contrastive.objectives.base import State as LossState
from rl_contrastive.objectives.scores import log_softplus
from rl_contrastive.spec import Array, BoolArray

LEAST = 1e-30
"""The smallest f that single precision distinguishes from 0."""
STATE = "state_"
"""Prefix of the buffers that hold the objective's state."""


class Representation(nn.Module):
    """The two heads, for vectors of an encoder of this width.

    Buffers: `log_u` (d,) the moving average log u, which simplex features need, NaN at first; `state_*` the state of
    the objective, (1, slots) where it is keyed; then also `seen` () int64, how many transitions the replay had taken in
    at the last `forget`.
    """

    log_u: Tensor
    seen: Tensor

    def __init__(
        self, width: int, num_actions: int, config: RepresentationConfig, *, rng: torch.Generator, slots: int = 0
    ) -> None:
        """slots: capacity of the replay, for objectives that remember something of each stored transition."""
        super().__init__()
        self.config, self.num_actions = config, num_actions
        self.objective = make(config.objective, config.objective_options)
        self.keyed, self.slots = self.objective.keyed, slots
        hint = "give the number of `slots` of the replay"
        known = slots > 0 or not self.keyed
        require(known, f"representation: {config.objective} keeps an entry for each stored transition; {hint}.")
        # A row without a negative has weight 0, but would count in its entry.
        masked = (self.objective.shared or self.keyed) and config.mask_identical
        require(not masked, f"representation: {config.objective} cannot leave out negatives.")

        def head(outputs: int) -> Layers:
            inputs, layers = width, list[nn.Module]()
            if config.hidden:
                layers = [linear(width, config.hidden, gain=RELU_GAIN, init="orthogonal", rng=rng), nn.ReLU()]
                inputs = config.hidden
            return Layers(*layers, linear(inputs, outputs, gain=1.0, init="orthogonal", rng=rng))

        self.phi_head, self.psi_head = head(num_actions * config.dim), head(config.dim)
        self.inverse_head: Layers | None = None
        if config.loss == "inverse":
            self.inverse_head = Layers(linear(2 * config.dim, num_actions, gain=1.0, init="orthogonal", rng=rng))
        self.potential_head: Layers | None = None
        if config.loss == "temporal":
            self.potential_head = Layers(linear(width, 1, gain=1.0, init="orthogonal", rng=rng))
        unset = torch.full((config.dim,), math.nan, dtype=torch.float64, device=rng.device)
        self.register_buffer("log_u", unset.clone())
        with rng.device:
            state = self.objective.initial(Sizes(levels=1, anchors=slots if self.keyed else 0, dim=config.dim))
        self.remembered = tuple(state)
        for name, value in state.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(STATE + name, value)
            else:
                self.register_buffer(STATE + name, value)
        if self.keyed:
            self.register_buffer("seen", torch.zeros((), dtype=torch.int64, device=rng.device))

    def anchors(self, z: Tensor) -> Tensor:
        """u_phi of all actions: z (N, width) -> (N, A, d)."""
        return self.phi_head.forward(z).reshape(-1, self.num_actions, self.config.dim)

    def successors(self, z_next: Tensor) -> Tensor:
        """u_psi: z' (N, width) -> (N, d)."""
        return self.psi_head.forward(z_next)

    @torch.no_grad()
    def factors(self, z: Tensor, action: Tensor, z_next: Tensor) -> tuple[Tensor, Tensor]:
        """phi(s,a), psi(s') >= 0 (N, d) of f = psi'phi: z, z' (N, width) of s and s', action (N,)."""
        u = self.anchors(z)[torch.arange(len(action), device=z.device), action]
        return softplus(u, self.config.beta), softplus(self.successors(z_next), self.config.beta)

    @torch.no_grad()
    def features(self, z: Tensor, action: Tensor | None = None) -> Tensor:
        """Features for the bonus (`config.features`): z (N, width) -> (N, A, d), or (N, d) of the given actions (N,).

        With psi they are the same for all actions: (N, 1, d).
        """
        if self.config.of_states:
            v = self.successors(z)
            return v[:, None] if action is None else v
        u = self.anchors(z)
        if action is not None:
            u = u[torch.arange(len(u), device=u.device), action]
        if self.config.features == "logits":
            return u
        log_phi = log_softplus(u, self.config.beta)
        if self.config.features == "raw":
            return log_phi.exp()
        if self.config.features == "unit":
            return torch.exp(log_phi - 0.5 * torch.logsumexp(2.0 * log_phi, dim=-1, keepdim=True))
        log_u = torch.where(torch.isnan(self.log_u), 0.0, self.log_u)  # before the first batch
        return torch.softmax(log_phi + log_u.to(log_phi.dtype), dim=-1)

    def contrast(
        self,
        z: Tensor,
        action: Tensor,
        z_next: Tensor,
        *,
        weight: Tensor | None = None,
        same: Tensor | None = None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch of N >= 2 transitions; in training it moves the objective's state, and `log_u` of simplex
        features.

        For `meco` this is the surrogate loss: its gradient is right, but its value says little.

        z, z' (N, width) of s and of the next observation (one step on, whatever n the returns have), action (N,).
        weight (N,) > 0: importance weights, of rows and of their successors as negatives. same (N, N): pairs of
        identical successors (`identical`), needed if `mask_identical`. ids (N,): slots of the rows in the replay, which
        keyed objectives need.
        """
        N = len(z)
        if self.inverse_head is not None:
            return self._inverse(self.inverse_head, z, action, z_next, weight)
        require(N >= 2, f"representation: a batch needs two rows or more for negatives, got {N}.")
        if self.potential_head is not None:
            return self._temporal(self.potential_head, z, z_next, weight)
        require((same is not None) or not self.config.mask_identical, "representation: mask_identical needs `same`.")
        require((ids is not None) or not self.keyed, "representation: a keyed objective needs `ids`, the rows' slots.")
        # Scores are sums of exponentials; in bfloat16 the logarithm of a rare f would be noise.
        with torch.autocast(z.device.type, enabled=False):
            dtype = next(self.parameters()).dtype
            u = self.anchors(z.to(dtype))[torch.arange(N, device=z.device), action]  # (N, d)
            v = self.successors(z_next.to(dtype))  # (N, d)
            w = torch.full((N,), 1.0 / N, dtype=dtype, device=z.device)
            if weight is not None:
                w = weight.to(dtype) / weight.to(dtype).sum()
            if self.training and self.config.features == "simplex":
                self._average(log_softplus(v, self.config.beta).detach(), w)
            masked = same if self.config.mask_identical else None
            slots = ids if self.keyed else None
            if self.objective.shared:
                return self._descended(self._halves(u, v, w, slots))
            return self._descended([self._pairs(u, v, w, masked, slots)])

    @torch.no_grad()
    def forget(self, total: int) -> None:
        """The replay has taken in `total` transitions: entries whose slots it has written since begin anew."""
        before = int(self.seen)
        self.seen.fill_(total)
        slots = torch.as_tensor(written(before, total, self.slots), device=self.seen.device)
        M = len(slots)
        if M:
            here = torch.arange(M, device=slots.device)
            old = {name: value[:, slots] for name, value in self._state().items()}
            fresh = self.objective.reset(old, Sizes(levels=1, anchors=M, dim=self.config.dim), here)
            for name, value in self._state().items():
                value[:, slots] = fresh[name]

    def _state(self) -> LossState:
        return {name: getattr(self, STATE + name) for name in self.remembered}

    def _keyed_step(self, batch: Contrast, slots: Tensor) -> ObjectiveResult:
        """A step on the entries of the batch's slots (N,) alone, so that it costs nothing more in a large replay."""
        # Rows that were drawn twice share an entry, that of the first. The sizes do not depend on the draw.
        first = (slots[:, None] == slots).to(torch.uint8).argmax(1)
        state = self._state()
        result, new = self.objective.step(
            replace(batch, ids=first[None]), {name: value[:, slots] for name, value in state.items()}
        )
        if self.training:
            with torch.no_grad():
                for name, value in state.items():
                    value[:, slots] = new[name][:, first].detach()
        return result

    def _inverse(self, head: Layers, z: Tensor, action: Tensor, z_next: Tensor, weight: Tensor | None) -> Tensor:
        """Mean of -log p(a | u_psi(s), u_psi(s')), linear in both (Pathak et al. 2017)."""
        with torch.autocast(z.device.type, enabled=False):
            dtype = next(self.parameters()).dtype
            v, v_next = self.successors(z.to(dtype)), self.successors(z_next.to(dtype))
            loss = cross_entropy(head.forward(torch.cat([v, v_next], dim=1)), action, reduction="none")
            return loss.mean() if weight is None else (weight.to(dtype) * loss).sum() / weight.to(dtype).sum()

    def _temporal(self, head: Layers, z: Tensor, z_next: Tensor, weight: Tensor | None) -> Tensor:
        """The contrast of states by the quasimetric of u_psi (`temporal.py`)."""
        with torch.autocast(z.device.type, enabled=False):
            dtype = next(self.parameters()).dtype
            v, v_next = self.successors(z.to(dtype)), self.successors(z_next.to(dtype))
            weight = None if weight is None else weight.to(dtype)
            return contrast_in_time(v, v_next, head.forward(z_next.to(dtype))[:, 0], weight)

    def _descended(self, batches: list[Contrast]) -> Tensor:
        """The objective's loss of the batches, one step after the other; its state is kept in training."""
        state = self._state()
        losses = []
        for batch in batches:
            if batch.ids is not None:
                result = self._keyed_step(batch, batch.ids[0])
            else:
                result, state = self.objective.step(batch, state)
            losses.append(result.loss[0].to(batch.pos_weight.dtype))
        if self.training and not self.keyed:
            for name, value in state.items():
                if (kept := getattr(self, STATE + name)) is not value:
                    kept.copy_(value)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _pairs(self, u: Tensor, v: Tensor, w: Tensor, same: Tensor | None, ids: Tensor | None) -> Contrast:
        """Each row with the successors of all others as its negatives."""
        f = (softplus(u, self.config.beta) @ softplus(v, self.config.beta).T).clamp_min(LEAST)  # (N, N)

        def scores(space: Space) -> Tensor:
            return f.log() if space == "log" else f

        law = off_diagonal(w.expand(len(w), -1))
        if same is not None:
            law = torch.where(off_diagonal(same), 0.0, law)
            # A row whose negatives are all masked teaches nothing: its weight is 0 and its distribution arbitrary.
            lone = law.sum(-1) == 0
            w = torch.where(lone, 0.0, w)
            w = w / torch.where(w.sum() > 0, w.sum(), 1.0)
            law = torch.where(lone[:, None], 1.0, law)
        return Contrast(
            pos=lambda space: scores(space).diagonal()[None, :, None],
            neg=lambda space: off_diagonal(scores(space))[None],
            log_phi=lambda: log_softplus(u, self.config.beta)[None],
            log_psi=lambda: log_softplus(v, self.config.beta)[None],
            pos_weight=w[None, :, None],
            law=(law / law.sum(-1, keepdim=True))[None],
            ids=None if ids is None else ids[None],
        )

    def _halves(self, u: Tensor, v: Tensor, w: Tensor, ids: Tensor | None) -> list[Contrast]:
        """Each half of the rows with the successors of the other half, because a row's own one is no sample of P^-."""
        log_phi, log_psi = log_softplus(u, self.config.beta), log_softplus(v, self.config.beta)
        own = torch.logsumexp(log_phi + log_psi, dim=-1)  # (N,) log f of each row and its successor
        first, second = slice(0, len(w) // 2), slice(len(w) // 2, None)

        def half(mine: slice, others: slice) -> Contrast:
            a, b, s = log_phi[None, mine], log_psi[None, others], own[None, mine, None]
            return Contrast(
                pos=lambda space: s if space == "log" else s.exp(),
                neg=lambda space: log_products(a, b) if space == "log" else a.exp() @ b.exp().mT,
                log_phi=lambda: a,
                log_psi=lambda: b,
                pos_weight=w[None, mine, None],
                law=(w[others] / w[others].sum())[None],
                ids=None if ids is None else ids[None, mine],
            )

        return [half(first, second), half(second, first)]

    @torch.no_grad()
    def _average(self, log_psi: Tensor, w: Tensor) -> None:
        log_mean = torch.logsumexp(log_psi.double() + w.double().log()[:, None], dim=0)
        self.log_u.copy_(average_log(self.log_u, log_mean, self.config.law_rate))

    @torch.no_grad()
    def diagnose(self, z: Tensor, action: Tensor, z_next: Tensor) -> dict[str, float]:
        """Diagnostics of a batch, to be logged now and then: they show collapse and a wrong normaliser.

        top1        share of rows whose own successor has the highest score in the batch, ties not counted
        binary      mean of the shares of own successors with f > 1 and of negatives with f < 1; .5 by chance
        normaliser  mean over rows of the batch's <u, phi>, u = mean psi: 1 for a fitted ratio of probabilities
        rank        effective rank of the features, centred, in [0, d]
        spread      1 - |mean feature|^2 / mean |feature|^2, in [0, 1]; 0: all rows are equal
        """
        u, v = self.anchors(z)[torch.arange(len(z), device=z.device), action], self.successors(z_next)
        log_phi, log_psi = log_softplus(u, self.config.beta), log_softplus(v, self.config.beta)
        own, others = torch.logsumexp(log_phi + log_psi, dim=-1), off_diagonal(log_products(log_phi, log_psi))
        x = fetch(self.features(z, action).double())
        if not np.isfinite(x).all():
            raise RlcError("representation: features are NaN or infinite; the fit diverged.")
        log_u = torch.logsumexp(log_psi.double(), dim=0) - math.log(len(z))
        square = float(np.square(x).sum(axis=1).mean())
        spread = 1.0 - float(np.square(x.mean(axis=0)).sum()) / square if square > 0 else 0.0
        return {
            "top1": float((own > others.amax(-1)).double().mean()),
            "binary": 0.5 * float((own > 0).double().mean() + (others < 0).double().mean()),
            "normaliser": float(torch.logsumexp(log_phi.double() + log_u, dim=-1).exp().mean()),
            # Centring equal rows leaves only rounding, which can look like full rank; this is collapse.
            "rank": effective_rank(x, centred=True) if spread > 1e-10 else 0.0,
            "spread": spread,
        }


def off_diagonal(square: Tensor) -> Tensor:
    """(N, N) -> (N, N-1): row i without its column i, in order."""
    N = len(square)
    # After the first entry, every block of N + 1 entries ends with one of the diagonal.
    return square.reshape(-1)[1:].reshape(N - 1, N + 1)[:, :-1].reshape(N, N - 1)


def identical(next_obs: Array) -> BoolArray:
    """(N, N) pairs of rows that are the same observation byte by byte: next_obs (N, ...)."""
    flat = np.ascontiguousarray(next_obs).reshape(len(next_obs), -1)
    rows = flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1]))).reshape(-1)
    _, group = np.unique(rows, return_inverse=True)
    return np.asarray(group[:, None] == group)
