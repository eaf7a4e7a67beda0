"""The interface of preference and policy objectives: log-ratios of completions in, one loss out.

A completion y is a trajectory of T actions (a bandit's has T = 1). All objectives here see it only through

    log pi(a_t|s_t)  with a gradient,   log pi_ref(a_t|s_t),   h(y) = sum_t [log pi(a_t|s_t) - log pi_ref(a_t|s_t)]

so one loss serves bandits, MDPs and token models, and its optimum can be compared with the exact one (`exact`). The
environment's transition probabilities cancel in h.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from rl_contrastive.config import config_or, fill_arrays, require
from rl_contrastive.device import copies, require_tensor

C = TypeVar("C")
State = dict[str, Tensor]
"""What an objective remembers or trains between two steps, by name."""
LEAST_BETA, MOST_BETA = 1e-4, 1e4
"""Beyond these a loss overflows in float32, or says nothing about beta."""
LARGEST_LOG = 1e6
"""Log-probabilities are no larger than this in magnitude, so that their squares stay finite in float32."""
LARGEST_REWARD = 1e15
"""The same for rewards."""
Reduce = Literal["sum", "mean"]
"""Over the steps of a completion: their sum, as in the papers, or their mean, as some libraries take it."""


@dataclass(frozen=True)
class Completions:
    """Completions y with their log-probabilities by step; leading axes are pairs, groups or separate problems."""

    logp: Tensor
    """(..., T) log pi(a_t|s_t), with a gradient."""
    ref: Tensor
    """(..., T) log pi_ref(a_t|s_t), without."""
    mask: Tensor | None = None
    """(..., T): 1 on real steps, 0 on padding; None: all steps are real."""
    kl: Tensor | None = None
    """(..., T) KL(pi_ref || pi) at s_t, exact over the actions, with a gradient (SparsePO, TDPO)."""
    hidden: Tensor | None = None
    """(..., T, k) features of s_t that the reference policy computes, for learned masks (SparsePO)."""

    @property
    def real(self) -> Tensor:
        """(..., T): the mask, ones where none is given."""
        return torch.ones_like(self.logp) if self.mask is None else self.mask.to(self.logp.dtype)

    def on_real(self, x: Tensor) -> Tensor:
        """x (..., T), or (..., T, k), with 0 on padding, where it may be infinite or NaN."""
        real = self.real > 0
        # where: 0 * x of padding is NaN for infinite x, and so is the gradient of what multiplies it.
        return torch.where(real if x.ndim <= real.ndim else real.unsqueeze(-1), x, torch.zeros_like(x))

    def total(self, terms: Tensor, reduce: Reduce = "sum") -> Tensor:
        """(...): sum or mean of terms (..., T) over the real steps; products need `on_real` of their factors before."""
        out = self.on_real(terms).sum(-1)
        return out if reduce == "sum" else out / self.real.sum(-1)

    def h(self, reduce: Reduce = "sum") -> Tensor:
        """(...): the log-ratio sum_t [log pi - log pi_ref], or its mean over the real steps."""
        return self.total(self.logp - self.ref.detach(), reduce)

    def log_prob(self, reduce: Reduce = "sum") -> Tensor:
        """(...): log pi(y), or its mean over the real steps."""
        return self.total(self.logp, reduce)


@dataclass(frozen=True)
class PreferenceResult:
    """loss (...): to be minimised; rows (..., P or K): its terms; margin (..., P or K): the quantity that it moves."""

    loss: Tensor
    rows: Tensor
    margin: Tensor
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Pairs:
    """P pairs of completions of the same starts, the first of each preferred."""

    chosen: Completions
    """logp (..., P, T)."""
    rejected: Completions
    """logp (..., P, T'); T' may differ from T, but the leading axes are the same."""
    weight: Tensor | None = None
    """(..., P) >= 0: the loss is the mean of weight times row; None: 1."""
    online: Completions | None = None
    """logp (..., B, K, T''): K completions that the policy itself drew at each of B starts (HyPO)."""


class PairObjective(ABC):
    """A loss of pairs; `registry.get("pair-objective", name)` gives the factory, which takes its config."""

    needs: frozenset[str] = frozenset()
    """What completions must bring: any of "kl", "hidden"; "online": completions of the policy itself."""

    def initial(self, hidden: int, rng: torch.Generator) -> State:
        """The state before the first step; `hidden` is k of `Completions.hidden`, 0 where there is none."""
        del hidden, rng
        return {}

    def parameters(self, state: State) -> list[nn.Parameter]:
        """What the optimiser trains beside the policy."""
        return [value for value in state.values() if isinstance(value, nn.Parameter)]

    def __call__(
        self, chosen: Completions, rejected: Completions, *, weight: Tensor | None = None,
        online: Completions | None = None,
    ) -> PreferenceResult:  # fmt: skip
        """The loss of one batch, from the first state. RlcError on wrong use, as `step`."""
        require_pairs(self, Pairs(chosen, rejected, weight, online))
        hidden = 0 if chosen.hidden is None else chosen.hidden.shape[-1]
        state = self.initial(hidden, torch.Generator().manual_seed(0))
        return self.loss(Pairs(chosen, rejected, weight, online), state)[0]

    def step(self, pairs: Pairs, state: State) -> tuple[PreferenceResult, State]:
        """The loss of one batch and the new state. RlcError on shapes that disagree, no pairs, or infinite numbers."""
        require_pairs(self, pairs)
        return self.loss(pairs, state)

    @abstractmethod
    def loss(self, pairs: Pairs, state: State) -> tuple[PreferenceResult, State]:
        """The loss of a batch that `require_pairs` has passed."""


def save_state(state: State) -> dict[str, Any]:
    """Name -> array: a pair objective's state as it goes into a checkpoint."""
    return copies(state)


def load_state(objective: PairObjective, saved: Mapping[str, Any], hidden: int) -> State:
    """The state that `save_state` saved; RlcError unless its names and shapes are those that the objective makes."""
    who = type(objective).__name__
    state = objective.initial(hidden, torch.Generator().manual_seed(0))
    fill_arrays({name: value.detach().numpy() for name, value in state.items()}, saved, who)
    return state


class GroupObjective(ABC):
    """A loss of K completions of one start and their rewards; `registry.get("group-objective", name)`."""

    least: int = 2
    """K at least."""
    on_policy: bool = False
    """Its gradient is right only for completions that the policy itself drew."""

    def __call__(self, group: Completions, reward: Tensor, *, old_logp: Tensor | None = None) -> PreferenceResult:
        """logp (..., K, T), rewards (..., K) -> loss (...), one a group. RlcError on wrong use.

        old_logp (..., K, T): log-probabilities under the policy that drew the group, for clipped ratios; None: the
        policy itself drew it just now.
        """
        require_group(self, group, reward, old_logp)
        old = None if old_logp is None else old_logp.detach()
        return self.loss(group, reward.to(group.logp.dtype), old)

    @abstractmethod
    def loss(self, group: Completions, reward: Tensor, old_logp: Tensor | None) -> PreferenceResult:
        """The loss of a group that `require_group` has passed."""


class RewardTransform(Protocol):
    """What makes the rewards of a group objective."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Rewards (..., K) of K completions of one start; what of is its own matter."""


class PairWeight(Protocol):
    """What makes the `weight` of a loss of pairs."""

    def __call__(self, start: Tensor, chosen: Tensor) -> Tensor:
        """Weights (..., P) >= 0 of features (..., P, d) of the starts and of the chosen completions."""


class Regulariser(Protocol):
    """A term that `Regularised` adds to a loss of pairs."""

    def __call__(self, y: Completions) -> Tensor:
        """(...): one number for each problem, of completions (..., P, T) or online (..., B, K, T)."""


def own_config(owner: object, config: C | None, kind: type[C]) -> C:
    """`config_or` of an objective; RlcError unless it is of the objective's own kind, and no subclass of it."""
    good = config is None or type(config) is kind  # not isinstance: IPOConfig is a DPOConfig, too
    who, name = type(owner).__name__, kind.__name__
    require(good, f"{who}: the config must be {name}(...), got {config!r}.")
    return config_or(config, kind)


def mean_rows(rows: Tensor, margin: Tensor, weight: Tensor | None, diagnostics: dict[str, Tensor]) -> PreferenceResult:
    """loss = mean over pairs of weight * row."""
    weighted = rows if weight is None else weight * rows
    return PreferenceResult(weighted.mean(-1), rows, margin, diagnostics)


def require_completions(who: str, what: str, y: Completions) -> None:
    """RlcError for shapes that disagree, completions without a step, infinite or undefined log-probabilities."""
    require(isinstance(y, Completions), f"{who}: {what} must be Completions(logp, ref), got {type(y).__name__}.")
    for name in ("logp", "ref", "mask", "kl", "hidden"):
        if name in ("logp", "ref") or getattr(y, name) is not None:
            require_tensor(who, f"{what}.{name}", getattr(y, name))
    shape = tuple(y.logp.shape)
    require(len(shape) >= 1, f"{who}: {what}.logp must have shape (..., T), got a single number.")
    for name in ("logp", "ref"):
        dtype = getattr(y, name).dtype
        good = dtype in (torch.float32, torch.float64, torch.bfloat16)  # ratios of probabilities overflow in float16
        require(good, f"{who}: {what}.{name} must be float32, float64 or bfloat16, got {dtype}.")
    for name in ("ref", "mask", "kl"):
        value = getattr(y, name)
        good = value is None or tuple(value.shape) == shape
        got = None if value is None else tuple(value.shape)
        require(good, f"{who}: {what}.{name} must have the shape of logp, {shape}, got {got}.")
    if y.hidden is not None:
        good = tuple(y.hidden.shape[:-1]) == shape
        require(good, f"{who}: {what}.hidden must have shape {shape} and a last axis, got {tuple(y.hidden.shape)}.")
    real = y.real
    require(bool(((real == 0) | (real == 1)).all()), f"{who}: {what}.mask must hold 0 (padding) and 1 (real steps).")
    require(bool((real.sum(-1) > 0).all()), f"{who}: a completion in {what} has no real step; its mask is all 0.")
    for name, policy in (("logp", "the policy"), ("ref", "the reference policy")):
        value = getattr(y, name).detach()
        require(not bool((value.isneginf() & (real > 0)).any()), f"{who}: {policy} gives an action in {what} "
                f"probability 0; the log-ratio needs it positive.")  # fmt: skip
        finite = torch.isfinite(value) | (real == 0)
        require(bool(finite.all()), f"{who}: {what}.{name} holds NaN or infinite numbers.")
        small = (value.abs() <= LARGEST_LOG) | (real == 0)
        require(bool(small.all()), f"{who}: {what}.{name} must lie within {LARGEST_LOG:g} of 0.")


def require_pairs(objective: PairObjective, pairs: Pairs) -> None:
    """RlcError unless the batch is one that the objective can take."""
    who = type(objective).__name__
    sides = [("chosen", pairs.chosen), ("rejected", pairs.rejected)]
    for what, y in sides:
        require_completions(who, what, y)
        require(y.logp.ndim >= 2, f"{who}: {what}.logp must have shape (..., P, T), got {tuple(y.logp.shape)}.")
        for name in sorted(objective.needs - {"online"}):
            require(getattr(y, name) is not None, f"{who}: needs {name} of every completion ({what}.{name}).")
    lead = tuple(pairs.chosen.logp.shape[:-1])
    other = tuple(pairs.rejected.logp.shape[:-1])
    require(lead == other, f"{who}: chosen and rejected must have the same pairs, got {lead} and {other}.")
    require(lead[-1] > 0, f"{who}: there are no pairs; give at least one.")
    w = pairs.weight
    if w is not None:
        require_tensor(who, "weight", w)
        require(tuple(w.shape) == lead, f"{who}: weight must have shape {lead}, one a pair, got {tuple(w.shape)}.")
        good = bool((torch.isfinite(w) & (w >= 0)).all())
        require(good, f"{who}: weights of pairs must be finite and >= 0.")
    if "online" in objective.needs:
        require(pairs.online is not None, f"{who}: needs completions that the policy itself drew (online).")
    if pairs.online is not None:
        require_completions(who, "online", pairs.online)
        got = tuple(pairs.online.logp.shape)
        good = len(got) >= 3 and got[-3] > 0
        require(good, f"{who}: online.logp must have shape (..., B, K, T) with B >= 1, got {got}.")
        K = got[-2]
        require(K >= 2, f"{who}: online must hold at least 2 completions of each start, got {K}.")
        same = got[:-3] == lead[:-1]
        require(same, f"{who}: online.logp must have the leading axes of the pairs, {lead[:-1]}, before (B, K, T), "
                f"got {got}.")  # fmt: skip
    require(pairs.chosen is not pairs.rejected, f"{who}: chosen and rejected are the same completions.")


def require_group(objective: GroupObjective, group: Completions, reward: Tensor, old_logp: Tensor | None) -> None:
    """RlcError unless the group is one that the objective can take."""
    who = type(objective).__name__
    require_completions(who, "group", group)
    shape = tuple(group.logp.shape)
    require(len(shape) >= 2, f"{who}: group.logp must have shape (..., K, T), got {shape}.")
    K = shape[-2]
    require(objective.least <= K, f"{who}: needs at least {objective.least} completions of each start, got {K}.")
    require_tensor(who, "reward", reward)
    good = tuple(reward.shape) == shape[:-1]
    require(good, f"{who}: reward must have shape {shape[:-1]}, one a completion, got {tuple(reward.shape)}.")
    require(bool(torch.isfinite(reward).all()), f"{who}: rewards must be finite.")
    small = bool((reward.abs() <= LARGEST_REWARD).all()) if reward.dtype.is_floating_point else True
    require(small, f"{who}: rewards must lie within {LARGEST_REWARD:g} of 0.")
    if old_logp is not None:
        require_tensor(who, "old_logp", old_logp)
        good = tuple(old_logp.shape) == shape
        require(good, f"{who}: old_logp must have the shape of logp, {shape}, got {tuple(old_logp.shape)}.")
        finite = torch.isfinite(old_logp) | (group.real == 0)
        require(bool(finite.all()), f"{who}: old_logp holds NaN or infinite numbers.")
