"""Losses of pairs that weigh each step: SparsePO's learned masks, MaPO's masks without parameters, TDPO's ones.

    l_t = log pi(a_t|s_t) - log pi_ref(a_t|s_t),   KL_t = KL(pi_ref || pi) at s_t, exact over actions, with a gradient
    u = sum_t m_u l_t(w) - sum_t m_u l_t(l),   d = D(l) - D(w),   D(y) = sum_t m_d KL_t
    row = -log sigma(beta (u - d)) + L1_u (|m_u(w)|_1 + |m_u(l)|_1) + L1_d (|m_d(w)|_1 + |m_d(l)|_1)

The masks are functions of features of the *reference* model, so the policy cannot change them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from rl_contrastive.config import MOST_WIDTH, Ge, In, require
from rl_contrastive.preferences.base import (
    LARGEST_LOG,
    LARGEST_REWARD,
    Completions,
    PairObjective,
    Pairs,
    PreferenceResult,
    State,
    mean_rows,
    own_config,
)
from rl_contrastive.preferences.pairwise import DPOConfig, diagnose
from rl_contrastive.registry import register


def weighted_rows(pairs: Pairs, m_u: list[Tensor], m_d: list[Tensor], beta: float) -> tuple[Tensor, Tensor]:
    """-log sigma(beta (u - d)) and u - d, (..., P) each, of masks (..., P, T) of the chosen and of the rejected."""
    sides = (pairs.chosen, pairs.rejected)
    kl = [y.kl for y in sides if y.kl is not None]
    u = [y.total(m * y.on_real(y.logp - y.ref.detach())) for y, m in zip(sides, m_u, strict=True)]
    D = [y.total(m * y.on_real(x)) for y, m, x in zip(sides, m_d, kl, strict=True)]
    moved = (u[0] - u[1]) - (D[1] - D[0])
    return -nn.functional.logsigmoid(beta * moved), moved


def require_kl(who: str, what: str, y: Completions) -> None:
    """RlcError unless KL_t is finite and >= 0, up to rounding, on real steps."""
    assert y.kl is not None
    require(y.kl.dtype.is_floating_point, f"{who}: {what}.kl must hold floats, got {y.kl.dtype}.")
    kl = y.on_real(y.kl.detach())
    require(bool(torch.isfinite(kl).all()), f"{who}: {what}.kl holds NaN or infinite numbers on a real step.")
    # Log-probabilities near -10 are rounded by some 10 eps each, so that equal laws may differ by as much.
    least = -max(1e-6, 64 * torch.finfo(kl.dtype).eps)
    good = bool(((kl >= least) & (kl <= LARGEST_LOG)).all())
    require(good, f"{who}: {what}.kl is a divergence and must lie in [0, {LARGEST_LOG:g}] on real steps.")


def require_hidden(who: str, what: str, y: Completions) -> None:
    """RlcError unless every real step has k >= 1 features, finite and not so large that their range overflows."""
    assert y.hidden is not None
    require(y.hidden.dtype.is_floating_point, f"{who}: {what}.hidden must hold floats, got {y.hidden.dtype}.")
    require(y.hidden.shape[-1] > 0, f"{who}: {what}.hidden has no features; give at least one of every step.")
    x = y.on_real(y.hidden.detach())
    require(bool(torch.isfinite(x).all()), f"{who}: {what}.hidden holds NaN or infinite numbers on a real step.")
    small = bool((x.abs() <= LARGEST_REWARD).all())
    require(small, f"{who}: {what}.hidden must lie within {LARGEST_REWARD:g} of 0 on real steps.")


def require_steps(who: str, pairs: Pairs, *, hidden: bool = True) -> None:
    """RlcError unless the divergences, and the features, of both sides are ones that a masked loss can take."""
    for what, y in (("chosen", pairs.chosen), ("rejected", pairs.rejected)):
        require_kl(who, what, y)
        if hidden:
            require_hidden(who, what, y)
    if hidden:
        k = [0 if y.hidden is None else y.hidden.shape[-1] for y in (pairs.chosen, pairs.rejected)]
        require(k[0] == k[1], f"{who}: both sides must have as many features, got {k[0]} in chosen.hidden and {k[1]} "
                "in rejected.hidden.")  # fmt: skip


@dataclass(frozen=True)
class TDPOConfig(DPOConfig, where="tdpo"):
    """The strength of the regulariser."""


@register("pair-objective", "tdpo", TDPOConfig)
class TDPO(PairObjective):
    """TDPO: -log sigma(beta (h_w - h_l - (D_l - D_w))), D = sum_t KL(pi_ref || pi) at s_t (Zeng et al. 2024).

    It is SparsePO with masks of ones. Where KL_t is the same along both completions it is DPO.
    """

    needs = frozenset({"kl"})

    def __init__(self, config: TDPOConfig | None = None) -> None:
        self.config = own_config(self, config, TDPOConfig)

    def loss(self, pairs: Pairs, state: State) -> tuple[PreferenceResult, State]:
        require_steps("TDPO", pairs, hidden=False)
        ones = [pairs.chosen.real, pairs.rejected.real]
        rows, moved = weighted_rows(pairs, ones, ones, self.config.beta)
        return mean_rows(rows, moved, pairs.weight, diagnose(pairs, moved)), state


@dataclass(frozen=True)
class SparsePOConfig(DPOConfig, where="sparsepo"):
    """Masks and how sparse they are. Published: beta .1 or .8, L1 0 or .001, weight decay .01 on the masks."""

    masks: Literal["common", "two"] = "common"
    """common: one mask for log-ratios and divergences (both L1 weights are halved); two: one for each."""
    layers: Annotated[int, In(1, MOST_WIDTH)] = 1
    """L: `hidden` holds the features of L layers of the reference one after another, of equal size."""
    l1_u: Annotated[float, Ge(0)] = 0.0
    """L1_u: weight of the mask of the log-ratios."""
    l1_d: Annotated[float, Ge(0)] = 0.0
    """L1_d: weight of the mask of the divergences."""


@register("pair-objective", "sparsepo", SparsePOConfig)
class SparsePO(PairObjective):
    """SparsePO: steps weighted by masks learned from the reference's features (Christopoulou et al. 2024).

        m = ReLU(sum_l mix_l ReLU(w_l . LayerNorm(hidden_l) + b_l))

    Deviations from the published code: w starts small, b at 1 and mix at 1/L, so that masks start near 1 and none is
    dead from the start; no dropout (published: .01). State tensors may have leading axes that broadcast with those of
    `hidden`, so that several problems train side by side.
    """

    needs = frozenset({"kl", "hidden"})

    def __init__(self, config: SparsePOConfig | None = None) -> None:
        self.config = own_config(self, config, SparsePOConfig)

    def initial(self, hidden: int, rng: torch.Generator) -> State:
        """Parameters u.* (and d.* of two masks): norm (2, k), w (L, k), b (L,), mix (L,), k = hidden/L."""
        L = self.config.layers
        require(hidden > 0, "SparsePO: needs the reference's features of every step (hidden).")
        require(hidden % L == 0, f"SparsePO: hidden has {hidden} features, which {L} layers cannot share evenly.")
        k = hidden // L
        state: State = {}
        for mask in ("u",) if self.config.masks == "common" else ("u", "d"):
            state[f"{mask}.norm"] = nn.Parameter(torch.stack([torch.ones(k), torch.zeros(k)]))
            w = (2 * torch.rand(L, k, generator=rng) - 1) * 0.1 * k**-0.5
            state[f"{mask}.w"], state[f"{mask}.b"] = nn.Parameter(w), nn.Parameter(torch.ones(L))
            state[f"{mask}.mix"] = nn.Parameter(torch.full((L,), 1.0 / L))
        return state

    def mask(self, y: Completions, state: State, which: Literal["u", "d"]) -> Tensor:
        """(..., T): the mask of completions, 0 on padding; with one common mask u and d are the same."""
        assert y.hidden is not None
        which = "u" if self.config.masks == "common" else which
        norm, w, b, mix = (state[f"{which}.{part}"].to(y.hidden.dtype) for part in ("norm", "w", "b", "mix"))
        size = w.shape[-2] * w.shape[-1]
        got = y.hidden.shape[-1]
        require(got == size, f"SparsePO: hidden has {got} features, but the masks were made for {size}.")
        x = y.on_real(y.hidden.detach()).reshape(*y.logp.shape, *w.shape[-2:])  # (..., T, L, k)
        x = nn.functional.layer_norm(x, (w.shape[-1],)) * norm[..., :1, :] + norm[..., 1:, :]
        layers = torch.relu((x * w).sum(-1) + b)  # (..., T, L)
        return torch.relu((layers * mix).sum(-1)) * y.real

    def loss(self, pairs: Pairs, state: State) -> tuple[PreferenceResult, State]:
        require_steps("SparsePO", pairs)
        c, sides = self.config, (pairs.chosen, pairs.rejected)
        m_u, m_d = ([self.mask(y, state, which) for y in sides] for which in ("u", "d"))
        rows, moved = weighted_rows(pairs, m_u, m_d, c.beta)
        half = 0.5 if c.masks == "common" else 1.0
        rows = rows + half * c.l1_u * sum(m.sum(-1) for m in m_u) + half * c.l1_d * sum(m.sum(-1) for m in m_d)
        on = torch.stack([y.total((m.detach() > 0).to(m.dtype), "mean") for y, m in zip(sides, m_u, strict=True)])
        told = {**diagnose(pairs, moved), "mask_on": on.mean(0).mean(-1)}
        return mean_rows(rows, moved, pairs.weight, told), state


@dataclass(frozen=True)
class MaPOConfig(DPOConfig, where="mapo"):
    """What the activations are."""

    layers: Annotated[int, In(1, MOST_WIDTH)] = 1
    """L: `hidden` holds the features of L layers of the reference one after another, of equal size."""


@register("pair-objective", "mapo", MaPOConfig)
class MaPO(PairObjective):
    """MaPO: SparsePO's loss with masks made of the reference's activations, without parameters (the same paper).

    A layer's mean activation of each step is z-normalised over the completion, rescaled to 0..1 over its real steps
    and averaged over the layers. Where all steps are alike the mask is 1.
    """

    needs = frozenset({"kl", "hidden"})

    def __init__(self, config: MaPOConfig | None = None) -> None:
        self.config = own_config(self, config, MaPOConfig)

    def loss(self, pairs: Pairs, state: State) -> tuple[PreferenceResult, State]:
        require_steps("MaPO", pairs)
        masks = [activation_mask(y, self.config.layers) for y in (pairs.chosen, pairs.rejected)]
        rows, moved = weighted_rows(pairs, masks, masks, self.config.beta)
        return mean_rows(rows, moved, pairs.weight, diagnose(pairs, moved)), state


def activation_mask(y: Completions, layers: int) -> Tensor:
    """(..., T) in 0..1, 0 on padding: MaPO's mask.

    Rescaling undoes the z-normalisation before it, (x - min)/(max - min) being the same for both, so it is left out.
    """
    assert y.hidden is not None
    require_hidden("activation_mask", "y", y)
    k = y.hidden.shape[-1]
    require(k % layers == 0, f"MaPO: hidden has {k} features, which {layers} layers cannot share evenly.")
    x = y.on_real(y.hidden.detach()).reshape(*y.logp.shape, layers, k // layers).mean(-1)  # (..., T, L)
    real = y.real.unsqueeze(-1) > 0
    low = x.masked_fill(~real, torch.inf).amin(-2, keepdim=True)
    width = x.masked_fill(~real, -torch.inf).amax(-2, keepdim=True) - low
    alike = width <= 0
    scaled = torch.where(alike, torch.ones_like(x), (x - low) / torch.where(alike, torch.ones_like(width), width))
    return scaled.mean(-1) * y.real
