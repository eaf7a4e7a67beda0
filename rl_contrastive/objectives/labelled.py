"""Losses of labelled instances: SupCon, and SupReMix, which mixes embeddings by their values.

All views are one list of R = V N rows, view by view. A row's positives carry its label; its term is the mean over them.
Anchors without a positive drop out of the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from rl_contrastive.config import MOST_DRAWN, Ge, Gt, In, Options, config_or, require
from rl_contrastive.objectives.base import ObjectiveResult, State
from rl_contrastive.objectives.mixtures import Pairs, draw_beta, draw_pairs
from rl_contrastive.objectives.views import ViewObjective, Views, unit, weighted_rows
from rl_contrastive.registry import register


@dataclass(frozen=True)
class SupConConfig(Options, where="supcon"):
    """Cosine similarities and their temperature."""

    temperature: Annotated[float, In(1e-4, 1e4)] = 0.1
    """tau: similarities are divided by it."""


@register("view-objective", "supcon", SupConConfig)
class SupCon(ViewObjective):
    """SupCon: mean over positives p of -S_ap + log sum_{b != a} exp S_ab (Khosla et al. 2020, eq. (2), L_out).

    S = cosine / tau, a and b run over all V N embeddings. Labels are classes: equal or not.
    """

    needs = frozenset({"label"})
    least_views = 1

    def __init__(self, config: SupConConfig | None = None) -> None:
        self.config = config_or(config, SupConConfig)

    def loss(self, views: Views, state: State) -> tuple[ObjectiveResult, State]:
        z, label, log_m = _flat(views)
        terms, positives = _cross_entropy(_real(z @ z.mT / self.config.temperature, label, log_m))
        return over_positives("SupCon", terms, positives, views), state


@dataclass(frozen=True)
class SupReMixConfig(Options, where="supremix"):
    """What is mixed with what, how much, and how far labels may lie apart."""

    temperature: Annotated[float, In(1e-4, 1e4)] = 0.5
    """tau: similarities are divided by it."""
    mix_neg: bool = True
    """Negatives lam z_i + (1 - lam) z_k for every k of another value."""
    mix_pos: bool = True
    """Positives lam z_j + (1 - lam) z_k whose mixed value is the anchor's: y_j < y_i < y_k."""
    magnify: bool = True
    """A candidate whose value lies |dy| away counts |dy| + 1 times; |dy| is in the unit of the labels."""
    window: Annotated[float, Gt(0)] = 5.0
    """n, in the unit of the labels: positives are mixed of values less than n below and above the anchor's."""
    beta: Annotated[tuple[int, int], Ge(1)] = (2, 8)
    """lam of mixed negatives ~ Beta(a, b); (2, 8) is mostly the negative."""
    mixtures: Annotated[int, In(1, MOST_DRAWN)] = 64
    """M, mixed positives of a row at most; of more, M are drawn evenly and stand for all."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the draws."""
    published: bool = False
    """Control: subtract different maxima from real and mixed scores, as the published code does."""


@register("view-objective", "supremix", SupReMixConfig)
class SupReMix(ViewObjective):
    """SupReMix: SupCon of values with mixed negatives, mixed positives and distances |dy| + 1 (Wu et al. 2023).

    Mean over positives p of -S_ip + log sum_b (|y_i - y_b| + 1) exp S_ib; b runs over embeddings and mixtures.
    Mixtures carry no gradient and are not made unit length. Positives have the anchor's value, or are mixed to have it.
    The state is that of the generator which draws lam and, of many mixed positives, M.
    """

    needs = frozenset({"label"})
    least_views = 1

    def __init__(self, config: SupReMixConfig | None = None) -> None:
        self.config = config_or(config, SupReMixConfig)

    def initial(self, slots: int, dim: int) -> State:
        return {"generator": torch.Generator().manual_seed(self.config.seed).get_state()}

    def loss(self, views: Views, state: State) -> tuple[ObjectiveResult, State]:
        generator = torch.Generator()
        generator.set_state(state["generator"].cpu())
        z, y, log_m = _flat(views)
        y = y.double()
        lam, pairs = None, None
        if self.config.mix_neg:
            lam = draw_beta((*z.shape[:-1], z.shape[-2]), self.config.beta, generator=generator).to(z)  # (..., R, R)
        if self.config.mix_pos:
            pairs = draw_pairs(y, log_m > -torch.inf, self.config.window, self.config.mixtures, generator=generator)
        terms, positives = _cross_entropy(self.candidates(z, y, log_m, lam, pairs))
        result = over_positives("SupReMix", terms, positives, views)
        return result, {"generator": generator.get_state()}

    def candidates(self, z: Tensor, y: Tensor, log_m: Tensor, lam: Tensor | None, pairs: Pairs | None) -> Candidates:
        """Embeddings z (..., R, d) of length 1, then their mixtures; lam (..., R, R) of z_i with z_k."""
        tau = self.config.temperature
        real = _real(z @ z.mT / tau, y, log_m)
        dy = (y.unsqueeze(-1) - y.unsqueeze(-2)).abs().to(z)
        if self.config.magnify:
            real = Candidates(real.scores, real.log_weight + dy.log1p(), real.positive)
        fixed = z @ z.detach().mT / tau  # scores with what carries no gradient
        mixed = []
        if lam is not None:
            mixed.append(self._mixed_negatives(fixed, dy, log_m, lam))
        if pairs is not None:
            mixed.append(_mixed_positives(fixed, log_m, pairs))
        if self.config.published and mixed:
            top = real.scores.detach().amax(-1, keepdim=True)
            real = Candidates(real.scores - top, real.log_weight, real.positive)
            mixed = [_below_own_maximum(_joined(mixed))]
        return _joined([real, *mixed])

    def _mixed_negatives(self, fixed: Tensor, dy: Tensor, log_m: Tensor, lam: Tensor) -> Candidates:
        """lam z_i + (1 - lam) z_k for all k of another value."""
        own = torch.diagonal(fixed, dim1=-2, dim2=-1).unsqueeze(-1)
        log_weight = log_m.unsqueeze(-2).expand_as(fixed).masked_fill(dy == 0, -torch.inf)
        if self.config.magnify:
            log_weight = log_weight + ((1.0 - lam) * dy).log1p()
        return Candidates(lam * own + (1.0 - lam) * fixed, log_weight, torch.zeros_like(fixed))


@dataclass(frozen=True)
class Candidates:
    """What the R anchors are compared with."""

    scores: Tensor
    """(..., R, C), finite."""
    log_weight: Tensor
    """(..., R, C): logarithm of how often each counts in the sum; -inf: it is no candidate."""
    positive: Tensor
    """(..., R, C): how often each counts as a positive."""


def over_positives(name: str, terms: Tensor, positives: Tensor, views: Views, *, each: bool = False) -> ObjectiveResult:
    """Mean over the anchors that have a positive, or `each`: over their positives. RlcError if none has any.

    terms, positives (..., R): the mean over a row's positives and how many it has; rows of the result (..., N).
    """
    V, N, _ = views.size
    w = views.anchor_weight
    share = positives if each else (positives > 0).to(terms)
    share, rows = (x.reshape(*w.shape[:-1], V, N).mean(-2) for x in (share, share * terms))
    total = (w * share).sum(-1, keepdim=True)
    good = bool((total > 0).all())
    require(good, f"{name}: no instance of the batch has a positive; draw more of a class or give two views of each.")
    return weighted_rows(rows / total, w)


def _flat(views: Views) -> tuple[Tensor, Tensor, Tensor]:
    """Unit embeddings (..., R, d), labels (..., R) and log m (..., R) of all views, one view after the other."""
    V, _, _ = views.size
    assert views.label is not None
    repeated = [torch.cat([values] * V, dim=-1) for values in (views.label, views.log_count)]
    return unit(views.z).flatten(-3, -2), repeated[0], repeated[1]


def _real(S: Tensor, label: Tensor, log_m: Tensor) -> Candidates:
    """The other embeddings; those of the same label are positives."""
    itself = torch.eye(S.shape[-1], dtype=torch.bool, device=S.device)
    log_weight = log_m.unsqueeze(-2).expand_as(S).masked_fill(itself, -torch.inf)
    same = label.unsqueeze(-1) == label.unsqueeze(-2)
    return Candidates(S, log_weight, same * log_weight.exp())


def _mixed_positives(fixed: Tensor, log_m: Tensor, pairs: Pairs) -> Candidates:
    """lam z_j + (1 - lam) z_k of the drawn pairs; their value is the anchor's, so their distance is 0."""
    lam = pairs.lam.to(fixed)
    scores = lam * fixed.gather(-1, pairs.j) + (1.0 - lam) * fixed.gather(-1, pairs.k)
    m = log_m.unsqueeze(-2).expand_as(fixed)
    log_weight = m.gather(-1, pairs.j) + m.gather(-1, pairs.k) + pairs.count.to(fixed).log()
    return Candidates(scores, log_weight, log_weight.exp())


def _joined(parts: list[Candidates]) -> Candidates:
    names = ("scores", "log_weight", "positive")
    return Candidates(*(torch.cat([getattr(part, name) for part in parts], dim=-1) for name in names))


def _below_own_maximum(mixed: Candidates) -> Candidates:
    """Scores minus the row's largest, where rows with fewer mixtures than others were filled up with zero vectors."""
    present = mixed.log_weight > -torch.inf
    number = present.sum(-1, keepdim=True)
    most = number.amax(-2, keepdim=True)
    top = mixed.scores.detach().masked_fill(~present, -torch.inf).amax(-1, keepdim=True)
    top = torch.where(number < most, top.clamp_min(0.0), top)
    top = torch.where(most > 0, top, torch.zeros_like(top))
    return Candidates(mixed.scores - top, mixed.log_weight, mixed.positive)


def _cross_entropy(rows: Candidates) -> tuple[Tensor, Tensor]:
    """Mean over positives of -S + log sum_b e^{S_b}, and the number of positives: (..., R) each."""
    number = rows.positive.sum(-1)
    mean = (rows.positive * rows.scores).sum(-1) / torch.where(number > 0, number, torch.ones_like(number))
    return torch.logsumexp(rows.scores + rows.log_weight, dim=-1) - mean, number
