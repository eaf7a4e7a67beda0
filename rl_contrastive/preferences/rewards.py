"""Losses of reward models, and what the votes of several models say of each label (Secrets of RLHF, part II, 2024).

    p = sigma(r_w - r_l)                                     Bradley-Terry: the chosen completion wins
    u = mean over models of r_w - r_l,  std likewise         the strength of a preference

A pair with u < 0 is labelled against the models' judgement. It can be flipped, dropped or smoothed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor, nn

from rl_contrastive.config import Ge, In, Options, require, require_number
from rl_contrastive.device import require_tensor
from rl_contrastive.preferences.base import LEAST_BETA, MOST_BETA, own_config
from rl_contrastive.registry import register


class RewardResult(NamedTuple):
    """loss (...): to be minimised; rows (..., P): its terms, one a pair."""

    loss: Tensor
    rows: Tensor


class RewardLoss(ABC):
    """A loss of a reward model's outputs; `registry.get("reward-objective", name)` gives the factory."""

    needs_strength: bool = False
    """It reads the strength of each pair."""

    def __call__(self, r_chosen: Tensor, r_rejected: Tensor, *, strength: Tensor | None = None) -> RewardResult:
        """Rewards (..., P) of P pairs and strengths u (..., P) or (P,) -> loss (...), rows (..., P).

        RlcError on shapes that disagree, no pairs, numbers that are not finite, or a strength that is missing.
        """
        who = type(self).__name__
        require_rewards(who, r_chosen, r_rejected)
        if self.needs_strength:
            require(strength is not None, f"{who}: needs the strength of each pair; `strength(r_chosen, r_rejected)` "
                    "makes it of several models' rewards.")  # fmt: skip
        if strength is not None:
            shape, P = tuple(r_chosen.shape), r_chosen.shape[-1]
            good = tuple(strength.shape) in (shape, (P,))
            require(good, f"{who}: strength must have shape {shape} or {(P,)}, got {tuple(strength.shape)}.")
            require(bool(torch.isfinite(strength).all()), f"{who}: strength holds NaN or infinite numbers.")
            strength = strength.detach().expand(shape)
        return self.loss(r_chosen - r_rejected, strength)

    @abstractmethod
    def loss(self, d: Tensor, u: Tensor | None) -> RewardResult:
        """The loss of differences d = r_w - r_l (..., P) and strengths u (..., P)."""


def require_rewards(who: str, r_chosen: Tensor, r_rejected: Tensor) -> None:
    """RlcError unless both are finite floats of one shape (..., P), P >= 1."""
    for name, r in (("r_chosen", r_chosen), ("r_rejected", r_rejected)):
        require_tensor(who, name, r)
    shape, other = tuple(r_chosen.shape), tuple(r_rejected.shape)
    require(shape == other, f"{who}: r_chosen and r_rejected must have the same shape, got {shape} and {other}.")
    require(len(shape) >= 1 and shape[-1] > 0, f"{who}: there are no pairs; give at least one.")
    for name, r in (("r_chosen", r_chosen), ("r_rejected", r_rejected)):
        require(r.dtype.is_floating_point, f"{who}: {name} must hold floats, got {r.dtype}.")
        require(bool(torch.isfinite(r).all()), f"{who}: {name} holds NaN or infinite numbers.")


@dataclass(frozen=True)
class BTConfig(Options, where="bt"):
    """It has no options."""


@register("reward-objective", "bt", BTConfig)
class BradleyTerry(RewardLoss):
    """Bradley-Terry: -log sigma(r_w - r_l). Its minimiser is the true reward, up to a constant by start."""

    def __init__(self, config: BTConfig | None = None) -> None:
        self.config = own_config(self, config, BTConfig)

    def loss(self, d: Tensor, u: Tensor | None) -> RewardResult:
        rows = -nn.functional.logsigmoid(d)
        return RewardResult(rows.mean(-1), rows)


@dataclass(frozen=True)
class SmoothedConfig(Options, where="smoothed"):
    """How much labels are softened, and which."""

    smoothing: Annotated[float, In(0, 1)] = 0.3
    """a: the probability that such a label is wrong; .5 says nothing of the pair, 1 flips it."""
    pairs: Literal["doubtful", "all"] = "doubtful"
    """doubtful: those of strength u < 0; all: every pair, and no strength is needed."""


@register("reward-objective", "smoothed", SmoothedConfig)
class Smoothed(RewardLoss):
    """Smoothed labels: -(1 - a) log p - a log(1 - p) where u < 0, and -log p elsewhere."""

    def __init__(self, config: SmoothedConfig | None = None) -> None:
        self.config = own_config(self, config, SmoothedConfig)
        self.needs_strength = self.config.pairs == "doubtful"

    def loss(self, d: Tensor, u: Tensor | None) -> RewardResult:
        a = torch.full_like(d, self.config.smoothing)
        if self.needs_strength:
            assert u is not None
            a = torch.where(u < 0, a, torch.zeros_like(a))
        rows = -(1 - a) * nn.functional.logsigmoid(d) - a * nn.functional.logsigmoid(-d)
        return RewardResult(rows.mean(-1), rows)


@dataclass(frozen=True)
class MarginConfig(Options, where="margin"):
    """How strongly the margin counts."""

    scale: Annotated[float, Ge(0)] = 1.0
    """Factor of the strength; 0 gives Bradley-Terry."""


@register("reward-objective", "margin", MarginConfig)
class Margin(RewardLoss):
    """Adaptive margin: -log sigma(r_w - r_l - u), so that a strong preference needs a large difference."""

    needs_strength = True

    def __init__(self, config: MarginConfig | None = None) -> None:
        self.config = own_config(self, config, MarginConfig)

    def loss(self, d: Tensor, u: Tensor | None) -> RewardResult:
        assert u is not None
        rows = -nn.functional.logsigmoid(d - self.config.scale * u)
        return RewardResult(rows.mean(-1), rows)


@dataclass(frozen=True)
class FlipConfig(Options, where="flip"):
    """Which labels are not believed, and what becomes of them."""

    share: Annotated[float, In(0, 1, below=True)] = 0.2
    """The share of the given pairs, those of lowest strength."""
    action: Literal["flip", "drop"] = "flip"
    """flip: chosen and rejected change places; drop: the pair is left out of the mean, its row is 0."""


@register("reward-objective", "flip", FlipConfig)
class Flip(RewardLoss):
    """Bradley-Terry after the pairs of the lowest strength were flipped, or dropped.

    The share is taken over the pairs of one call. For minibatches change the data once, by `bottom`.
    """

    needs_strength = True

    def __init__(self, config: FlipConfig | None = None) -> None:
        self.config = own_config(self, config, FlipConfig)

    def loss(self, d: Tensor, u: Tensor | None) -> RewardResult:
        assert u is not None
        low = bottom(u, self.config.share)
        if self.config.action == "flip":
            rows = -nn.functional.logsigmoid(torch.where(low, -d, d))
            return RewardResult(rows.mean(-1), rows)
        rows = torch.where(low, torch.zeros_like(d), -nn.functional.logsigmoid(d))
        return RewardResult(rows.sum(-1) / (~low).sum(-1), rows)


class Strength(NamedTuple):
    """mean (P,): u, below 0 where the models vote against the label; std (P,): how much they disagree."""

    mean: Tensor
    std: Tensor


def strength(r_chosen: Tensor, r_rejected: Tensor) -> Strength:
    """u_p = mean_m d_mp and std_m d_mp, d = r_chosen - r_rejected, of rewards (..., M, P) of M models: (..., P) each.

    The models differ by their data (halves, order) or their start. RlcError on wrong shapes or fewer than two models.
    """
    require_rewards("strength", r_chosen, r_rejected)
    models = r_chosen.shape[-2] if r_chosen.ndim >= 2 else 1
    require(models >= 2, f"strength: needs the rewards (M, P) of M >= 2 models, got {models}.")
    d = (r_chosen - r_rejected).detach()
    return Strength(d.mean(-2), d.std(-2))


def bottom(u: Tensor, share: float) -> Tensor:
    """(..., P) bool: the round(share P) pairs of the lowest strength u; of equal ones the first."""
    require(0 <= share < 1, f"bottom: share must be in [0, 1), got {share}.")
    count = min(round(share * u.shape[-1]), u.shape[-1] - 1)  # one pair stays
    rank = u.argsort(dim=-1, stable=True).argsort(-1)
    return rank < count


def contrastive_term(first: Tensor, second: Tensor, temperature: float = 0.05) -> Tensor:
    """[from memory] Two views (..., P, k) of the features of each pair's difference -> InfoNCE loss (...).

    -mean_p log softmax_q(cos(first_p, second_q)/tau) at q = p, as SimCSE has it: the views are the differences
    f(chosen) - f(rejected) of one network with two dropout masks. Added to a reward loss it spreads the features. The
    paper has it in words only. RlcError on wrong shapes, fewer than two pairs, a temperature beyond [1e-4, 1e4], and
    vectors that are zero or not finite.
    """
    for name, x in (("first", first), ("second", second)):
        require_tensor("contrastive_term", name, x)
        require(x.dtype.is_floating_point, f"contrastive_term: {name} must hold floats, got {x.dtype}.")
    shape, other = tuple(first.shape), tuple(second.shape)
    require(shape == other, f"contrastive_term: both views must have the same shape, got {shape} and {other}.")
    require(len(shape) >= 2 and shape[-2] >= 2, f"contrastive_term: needs shape (..., P, k) with P >= 2, got {shape}.")
    require_number("contrastive_term: temperature", temperature)
    good = LEAST_BETA <= temperature <= MOST_BETA
    require(good, f"contrastive_term: temperature must lie in [{LEAST_BETA:g}, {MOST_BETA:g}], got {temperature}.")
    for name, x in (("first", first), ("second", second)):
        require(bool(torch.isfinite(x).all()), f"contrastive_term: {name} holds NaN or infinite numbers.")
        nonzero = bool((x != 0).any(-1).all())
        require(nonzero, f"contrastive_term: a vector of {name} is zero and has no direction.")
    a, b = (nn.functional.normalize(x, dim=-1) for x in (first, second))
    scores = a @ b.mT / temperature  # (..., P, P)
    return (torch.logsumexp(scores, -1) - scores.diagonal(dim1=-2, dim2=-1)).mean(-1)


def meta_term(r: Tensor) -> Tensor:
    """[from memory] Rewards (..., K) of K completions of one start by the shifted policy -> J (...), to be *maximised*.

    J = 2/K^2 sum_{i<j} sigma(|r_i - r_j|), MetaRM's measure of how well a model tells them apart. MetaRM ascends it by
    one step, theta' = theta + eta grad J, and then takes the gradient of the Bradley-Terry loss at theta'. RlcError for
    fewer than two completions, and rewards that are no floats or not finite.
    """
    require_tensor("meta_term", "r", r)
    require(r.dtype.is_floating_point, f"meta_term: rewards must be floats, got {r.dtype}.")
    K = r.shape[-1] if r.ndim else 0
    require(K >= 2, f"meta_term: needs at least 2 completions of a start, got {K}.")
    require(bool(torch.isfinite(r).all()), "meta_term: rewards must be finite.")
    i, j = torch.triu_indices(K, K, 1, device=r.device)
    return 2.0 / K**2 * torch.sigmoid((r[..., i] - r[..., j]).abs()).sum(-1)
