"""Losses that separate what instances share from what sets them apart: SepCLR by groups, SimLAP by gates of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from rl_contrastive.config import Ge, In, Options, config_or, require
from rl_contrastive.objectives.base import ObjectiveResult, State
from rl_contrastive.objectives.labelled import over_positives
from rl_contrastive.objectives.multi_view import square_distances
from rl_contrastive.objectives.views import LEAST_LENGTH, ViewObjective, Views, unit, weighted_rows
from rl_contrastive.registry import register


@dataclass(frozen=True)
class SepCLRConfig(Options, where="sepclr"):
    """Weights of the terms, and where the common head ends."""

    temperature: Annotated[float, In(1e-4, 1e4)] = 0.5
    """tau: squared distances are divided by 2 tau."""
    common: Annotated[int, Ge(0)] = 0
    """Coordinates of the common head c; the rest are the salient head s. 0: half of them."""
    salient: Annotated[float, Ge(0)] = 1000.0
    """b_s, weight of alignment and uniformity of the salient head."""
    empty: Annotated[float, Ge(0)] = 1000.0
    """b_r, weight of |s|^2 in the background."""
    independent: Annotated[float, Ge(0)] = 10.0
    """lam, weight of the joint entropy kJEM, which keeps the heads apart."""


@register("view-objective", "sepclr", SepCLRConfig)
class SepCLR(ViewObjective):
    """SepCLR: align + unif of c, b_s (align + unif) of s, b_r |s|^2/2 tau, lam kJEM (Louiset et al. 2024).

    z = (c, s): the common head c, made unit length, and the salient head s, which is not. Background instances
    (group 0) should have s = 0; targets (group 1) hold there what only they have. s0 = s on targets, 0 elsewhere.
        align_i = |a_i - b_i|^2 / 2 tau       mean over pairs of views; of s over targets only
        unif = 2 log mean_{i<j} e^{-|a_i - a_j|^2 / 2 tau}       of c and s0, mean over views
        kJEM = mean_i log mean_j e^{-(|c_i - c_j|^2 + |s0_i - s0_j|^2) / 2 tau}       mean over views
    """

    needs = frozenset({"group"})

    def __init__(self, config: SepCLRConfig | None = None) -> None:
        self.config = config_or(config, SepCLRConfig)

    def loss(self, views: Views, state: State) -> tuple[ObjectiveResult, State]:
        assert views.group is not None
        tau, w, log_m = self.config.temperature, views.anchor_weight, views.log_count
        c, s = self.heads(views.z)
        target = views.group == 1
        s0 = s * target[..., None, :, None]
        common = alignment(c, tau) + 2.0 * uniformity(c, log_m, tau).unsqueeze(-1)
        salient = _mean_of(target, alignment(s, tau), w) + 2.0 * uniformity(s0, log_m, tau).unsqueeze(-1)
        empty = _mean_of(~target, s.square().sum(-1).mean(-2) / (2.0 * tau), w)
        rows = common + self.config.salient * salient + self.config.empty * empty
        rows = rows + self.config.independent * joint_entropy(c, s0, w, tau)
        return weighted_rows(rows, w), state

    def heads(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (..., d) -> c (..., common) of length 1 and s (..., d - common)."""
        d = z.shape[-1]
        common = self.config.common or d // 2
        require(0 < common < d, f"SepCLR: both heads need a coordinate, got d = {d} and common = {common}.")
        return unit(z[..., :common]), z[..., common:]


def alignment(a: Tensor, tau: float) -> Tensor:
    """Mean over pairs of views l < m of |a_li - a_mi|^2 / 2 tau: (..., V, N, d) -> (..., N)."""
    V = a.shape[-3]
    pairs = torch.combinations(torch.arange(V, device=a.device))  # (V(V-1)/2, 2)
    one, other = (a.index_select(-3, column) for column in pairs.unbind(-1))
    return (one - other).square().sum(-1).mean(-2) / (2.0 * tau)


def uniformity(a: Tensor, log_m: Tensor, tau: float) -> Tensor:
    """log mean_{i<j} e^{-|a_i - a_j|^2 / 2 tau}, mean over views: (..., V, N, d), log m (..., N) -> (...)."""
    log_pair = log_m.unsqueeze(-1) + log_m.unsqueeze(-2)
    log_pair = log_pair.masked_fill(torch.eye(log_m.shape[-1], dtype=torch.bool, device=a.device), -torch.inf)
    log_kernel = -square_distances(a, a) / (2.0 * tau)  # (..., V, N, N)
    total = torch.logsumexp(log_kernel + log_pair.unsqueeze(-3), dim=(-2, -1))
    return total.mean(-1) - torch.logsumexp(log_pair, dim=(-2, -1))


def joint_entropy(c: Tensor, s: Tensor, w: Tensor, tau: float) -> Tensor:
    """log mean_j k(c_i, c_j) k(s_i, s_j), mean over views: (..., V, N, d) each, w (..., N) -> (..., N)."""
    log_kernel = -(square_distances(c, c) + square_distances(s, s)) / (2.0 * tau)
    return torch.logsumexp(log_kernel + w.log()[..., None, None, :], dim=-1).mean(-2)


def _mean_of(chosen: Tensor, terms: Tensor, w: Tensor) -> Tensor:
    """Rows (..., N) whose weighted sum is the mean of `terms` over the chosen instances."""
    total = (w * chosen).sum(-1, keepdim=True)
    good = bool((total > 0).all())
    require(good, "SepCLR: a batch needs instances of both groups, background (0) and target (1).")
    return chosen * terms / total


@dataclass(frozen=True)
class SimLAPConfig(Options, where="simlap"):
    """Cosine similarities and their temperature."""

    temperature: Annotated[float, In(1e-4, 1e4)] = 0.1
    """tau: similarities are divided by it."""


@register("view-objective", "simlap", SimLAPConfig)
class SimLAP(ViewObjective):
    """SimLAP: mean over i and j of class y2_i of log(1 + sum_k e^{S_ik - S_ij}), k of a third class (Wu et al. 2024).

    S_ij = cos(g_i z_i, g_i z_j) / tau with the gate g_i of the pair of classes (y1_i, y2_i), which a head makes; k has
    neither class. Classes y2 are `views.partner`: labels of the batch in another order; none: y2 = y1, pairs of one
    class, and an anchor is its own positive too, as in the published code. Gates are `views.gate`; none: all 1. Both
    are the paper's controls. Hydra is the name in its first version.
    """

    needs = frozenset({"label"})
    least_views = 1

    def __init__(self, config: SimLAPConfig | None = None) -> None:
        self.config = config_or(config, SimLAPConfig)

    def loss(self, views: Views, state: State) -> tuple[ObjectiveResult, State]:
        V, _, _ = views.size
        assert views.label is not None
        z = unit(views.z).flatten(-3, -2)  # (..., R, d), R = V N
        gate = None if views.gate is None else torch.cat([views.gate] * V, dim=-2)
        S = gated_cosines(z, gate) / self.config.temperature  # (..., R, R)
        y1 = torch.cat([views.label] * V, dim=-1)
        y2 = y1 if views.partner is None else torch.cat([views.partner] * V, dim=-1)
        log_m = torch.cat([views.log_count] * V, dim=-1).unsqueeze(-2)
        first, second = (y.unsqueeze(-1) == y1.unsqueeze(-2) for y in (y1, y2))
        good = bool((~(first | second) & (log_m > -torch.inf)).flatten(-2).any(-1).all())
        require(good, "SimLAP: there is no negative: all instances belong to one of the two classes of every anchor.")
        rest = torch.logsumexp((S + log_m).masked_fill(first | second, -torch.inf), dim=-1, keepdim=True)
        m = second * log_m.exp()
        number = m.sum(-1)
        terms = (m * (torch.logaddexp(S, rest) - S)).sum(-1) / torch.where(number > 0, number, torch.ones_like(number))
        return over_positives("SimLAP", terms, number, views, each=True), state


def gated_cosines(z: Tensor, gate: Tensor | None) -> Tensor:
    """cos(g_i z_i, g_i z_j) of z (..., R, d) and gates (..., R, d) -> (..., R, R)."""
    if gate is None:
        return z @ z.mT
    g = gate.square()
    length = (g @ z.square().mT).clamp_min(LEAST_LENGTH**2).sqrt()  # |g_i z_j|
    own = torch.diagonal(length, dim1=-2, dim2=-1).unsqueeze(-1)
    return (g * z) @ z.mT / (length * own)
