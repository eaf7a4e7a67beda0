"""Rewards of a group that depend on the group itself: a bonus for an option that helped, cosines of embeddings.

A group objective takes what a transform returns as its reward. GRPO and RLOO subtract the mean of the group, so a term
that is the same for all completions of a group has no effect there: `GRACE` shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from rl_contrastive.config import Ge, In, Options, require
from rl_contrastive.device import require_tensor
from rl_contrastive.preferences.base import RewardTransform, own_config


@dataclass(frozen=True)
class GCPOConfig(Options, where="gcpo"):
    """The bonus, and when it is paid."""

    bonus: Annotated[float, Ge(0)] = 0.5
    """Paid to completions that used the option, times m."""
    eps: Annotated[float, Ge(0)] = 0.05
    """m is 0 where the mean accuracies of users and others differ by no more."""
    rule: Literal["contrast", "always"] = "contrast"
    """contrast: m is the sign of the difference; always: m = 1 whatever it is, as a control."""


class GCPO(RewardTransform):
    """GCPO: R = sum of parts + bonus m used, m in {-1, 0, 1} the sign of acc(used) - acc(not used) beyond eps.

    acc are means over the group; m = 0 where all used the option or none. Source: a note, and the author's code of the
    reward (accuracy 1, format .5, length .5 min(n, 900)/900: scale the parts before); the trainer was not to be had.
    """

    def __init__(self, config: GCPOConfig | None = None) -> None:
        self.config = own_config(self, config, GCPOConfig)

    def __call__(self, parts: dict[str, Tensor], used: Tensor) -> Tensor:
        """Rewards (..., K) of parts (..., K), one of them "accuracy", and used (..., K), 1 where the option was used.

        RlcError if "accuracy" is missing, shapes differ or `used` holds other numbers than 0 and 1.
        """
        require(isinstance(parts, dict), f"GCPO: parts must be a dict of rewards by name, got {type(parts).__name__}.")
        require("accuracy" in parts, f"GCPO: parts need 'accuracy', got {', '.join(map(repr, parts)) or 'none'}.")
        require_tensor("GCPO", "used", used)
        shape = tuple(used.shape)
        for name, part in parts.items():
            require_tensor("GCPO", name, part)
            require(part.dtype.is_floating_point, f"GCPO: {name} must be floats, got {part.dtype}.")
            good = tuple(part.shape) == shape
            require(good, f"GCPO: {name} must have the shape of used, {shape}, got {tuple(part.shape)}.")
            require(bool(torch.isfinite(part).all()), f"GCPO: {name} holds NaN or infinite numbers.")
        require(len(shape) > 0 and bool(((used == 0) | (used == 1)).all()), "GCPO: used must hold 0 and 1, (..., K).")
        used = used.to(parts["accuracy"].dtype)
        m = self.mask(parts["accuracy"], used) if self.config.rule == "contrast" else torch.ones_like(used[..., :1])
        return torch.stack(list(parts.values())).sum(0) + self.config.bonus * m * used

    def mask(self, accuracy: Tensor, used: Tensor) -> Tensor:
        """m (..., 1)."""
        n = used.sum(-1, keepdim=True)
        rest = used.shape[-1] - n
        with_it = (accuracy * used).sum(-1, keepdim=True) / n.clamp_min(1)
        without = (accuracy * (1 - used)).sum(-1, keepdim=True) / rest.clamp_min(1)
        gap = with_it - without
        told = (n > 0) & (rest > 0) & (gap.abs() > self.config.eps)
        return torch.where(told, gap.sign(), torch.zeros_like(gap))


Form = Literal["query", "consistent", "published", "per-rollout", "softmax"]


@dataclass(frozen=True)
class GRACEConfig(Options, where="grace"):
    """The reward's form and its weights."""

    form: Form = "softmax"
    """query, consistent: without repulsion; published: with terms that a group shares; per-rollout, softmax: ours."""
    tau: Annotated[float, In(1e-4, 1e4)] = 0.1
    """Temperature: rewards are divided by it."""
    weight: Annotated[float, Ge(0)] = 0.2
    """Of the likeness within the group, and of that with other groups."""


class GRACE(RewardTransform):
    """GRACE: the reward of a rollout is how well its embedding p_i finds its query q among others, over tau.

    query        cos(q, p_i)
    consistent   cos(q, p_i) + w mean_{j != i} cos(p_i, p_j)
    published    consistent - cos(q, neg) - w mean over other groups of max_j cos(q, p_j)
    per-rollout  consistent - cos(p_i, neg) - w mean over other queries q' of cos(p_i, q')
    softmax      consistent - cos(q, p_i) + tau log softmax_g(cos(p_i, q_g)/tau) at the own group g

    The last two terms of `published` are the same for all rollouts of a group, as q and neg are generated once for all
    of them. The group's mean removes both, so training has no repulsion. Source: published code; `per-rollout` and
    `softmax` are this library's repairs.
    """

    def __init__(self, config: GRACEConfig | None = None) -> None:
        self.config = own_config(self, config, GRACEConfig)

    def __call__(
        self, rollouts: Tensor, queries: Tensor, negatives: Tensor | None = None, *, finished: Tensor | None = None
    ) -> Tensor:
        """Rewards (..., G, K) of embeddings (..., G, K, d) with queries and negatives (..., G, d).

        finished (..., G, K): rollouts with 0 get -1. Without negatives the form "published" subtracts w mean cos(p_i,
        q') over other queries in place of both its constants, as the published code does. RlcError for shapes that
        disagree, fewer than two groups or rollouts, and numbers that are not finite.
        """
        _require_embeddings(rollouts, queries, negatives)
        c = self.config
        p, q = (nn.functional.normalize(x, dim=-1) for x in (rollouts, queries))
        neg = None if negatives is None else nn.functional.normalize(negatives, dim=-1)
        G, K = p.shape[-3:-1]
        across = torch.einsum("...gkd,...hd->...gkh", p, q)  # cos(p_i of group g, q_h)
        own = across.diagonal(dim1=-3, dim2=-1).transpose(-1, -2)  # (..., G, K)
        within = (p @ p.mT).sum(-1) - p.square().sum(-1)
        reward = own if c.form == "query" else own + c.weight * within / (K - 1)
        other = (across.sum(-1) - own) / (G - 1)
        if c.form == "published":
            reward = reward - c.weight * other if neg is None else reward - self.shared(across, own, q, neg)
        elif c.form == "per-rollout":
            against = 0.0 if neg is None else torch.einsum("...gkd,...gd->...gk", p, neg)
            reward = reward - against - c.weight * other
        elif c.form == "softmax":
            chance = (across / c.tau).log_softmax(-1).diagonal(dim1=-3, dim2=-1).transpose(-1, -2)
            reward = reward - own + c.tau * chance
        reward = reward / c.tau
        if finished is None:
            return reward
        good = tuple(finished.shape) == tuple(reward.shape)
        require(good, f"GRACE: finished must have shape {tuple(reward.shape)}, got {tuple(finished.shape)}.")
        return torch.where(finished > 0, reward, -torch.ones_like(reward))

    def shared(self, across: Tensor, own: Tensor, q: Tensor, neg: Tensor) -> Tensor:
        """(..., G, 1): cos(q, neg) + w mean over other groups of max_j cos(q, p_j)."""
        G = q.shape[-2]
        largest = across.amax(-2)  # (..., G', G): the rollout of group G' that is nearest to q of group G
        mean = (largest.sum(-2) - own.amax(-1)) / (G - 1)
        return ((q * neg).sum(-1) + self.config.weight * mean).unsqueeze(-1)


def _require_embeddings(rollouts: Tensor, queries: Tensor, negatives: Tensor | None) -> None:
    for name, value in (("rollouts", rollouts), ("queries", queries), ("negatives", negatives)):
        if value is not None:
            require_tensor("GRACE", name, value)
            same = value.dtype.is_floating_point and value.dtype == rollouts.dtype
            require(same, f"GRACE: {name} must be floats of the type of rollouts, got {value.dtype}.")
    shape = tuple(rollouts.shape)
    require(len(shape) >= 3, f"GRACE: rollouts must have shape (..., G, K, d), got {shape}.")
    G, K = shape[-3:-1]
    require(G >= 2 and K >= 2, f"GRACE: needs at least 2 groups of 2 rollouts, got {G} of {K}.")
    want = (*shape[:-2], shape[-1])
    for name, value in (("queries", queries), ("negatives", negatives)):
        good = value is None or tuple(value.shape) == want
        got = None if value is None else tuple(value.shape)
        require(good, f"GRACE: {name} must have shape {want}, one a group, got {got}.")
    for name, value in (("rollouts", rollouts), ("queries", queries), ("negatives", negatives)):
        good = value is None or bool(torch.isfinite(value).all())
        require(good, f"GRACE: {name} holds NaN or infinite numbers.")
