"""The interface of every contrastive objective: pairwise scores in, one loss per step and some diagnostics out.

An objective is a pure function of log density ratios s = log f(s,a,s') on positive and negative pairs:
    pos (..., N, K)  scores of row i with its K positives      pos_weight, same shape, sums to 1 over (N, K)
    neg (..., N, M)  scores of row i with its M negatives      neg_weight (..., N, M), sums to 1 over M: the law P^-
Leading axes (H) are separate problems. A row is an anchor (s, a); weights carry counts, masks (0) and importance
weights, so exact expectations over a table and sampled minibatches are the same call. An objective that needs the
ratio itself (the spectral one: f may be <= 0 there) sets `space = "ratio"` and receives f in place of log f.

A descent calls `step`, which may remember something from batch to batch: its state is handed in and handed back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rl_contrastive.config import require
from rl_contrastive.device import require_tensor

Space = Literal["log", "ratio"]
Recovers = Literal["ratio", "ratio-up-to-row", "tempered", "nothing"]
State = dict[str, Tensor]
"""What an objective remembers between two steps of one descent, by name."""


@dataclass(frozen=True)
class NoOptions:
    """An objective without hyperparameters."""


@dataclass(frozen=True)
class ObjectiveResult:
    """loss (...,): to be minimised; rows (..., N): its terms by anchor, loss = sum_i w_i rows_i, w = row weights."""

    loss: Tensor
    rows: Tensor
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """How many entries a state may need."""

    levels: int
    """H, the number of problems side by side."""
    anchors: int
    """Anchors of each problem that keep their number: pairs of a table, stored rows; 0 where none does."""
    dim: int
    """d."""


@dataclass(frozen=True)
class Contrast:
    """One batch: N anchors with K positives each and M negatives. Scores are computed when an objective asks for them.

    Softplus factors phi and psi are given by their logarithms, which lose nothing.
    """

    pos: Callable[[Space], Tensor]
    """Scores (H, N, K)."""
    neg: Callable[[Space], Tensor]
    """Scores (H, N, M)."""
    log_phi: Callable[[], Tensor]
    """(H, N, d) of the anchors."""
    log_psi: Callable[[], Tensor]
    """(H, M, d) of the negatives, where all anchors share them."""
    pos_weight: Tensor
    """(H, N, K)."""
    law: Tensor
    """P^- of the negatives: (H, M) where all anchors share them, else (H, N, M)."""
    ids: Tensor | None = None
    """(H, N) numbers of the anchors; None: every anchor once, in order."""
    same: bool = False
    """The positives are the negatives too (all successors), so both have one score matrix."""

    @property
    def row_weight(self) -> Tensor:
        """(H, N)."""
        return self.pos_weight.sum(-1)

    def scores(self, space: Space) -> tuple[Tensor, Tensor, Tensor]:
        """pos (H, N, K), neg (H, N, M) and the negatives' weights (H, N, M)."""
        neg = self.neg(space)
        law = self.law if self.law.ndim == neg.ndim else self.law.unsqueeze(-2)
        return (neg if self.same else self.pos(space)), neg, law.expand_as(neg)


class Objective:
    """A loss of scores; `registry.get("objective", name)` gives its factory, which is called with its config."""

    space: Space = "log"
    recovers: Recovers = "nothing"
    """What the minimiser s* is: log P/P^-; the same plus some c(s,a); tau times that; or nothing of the kind."""
    keyed: bool = False
    """The state has one entry for each anchor, so a batch must say which anchors it holds (`Contrast.ids`)."""
    shared: bool = False
    """All anchors of a batch must have the same negatives."""

    def __init__(self, config: Any = None) -> None:
        """An objective without options keeps none; the others have typed ones."""
        given = config is None or is_dataclass(config)
        require(given, f"{type(self).__name__}: the config must be a dataclass, got {config!r}.")

    def initial(self, sizes: Sizes) -> State:
        """The state before the first step; values that are `nn.Parameter` are trained beside phi and psi."""
        del sizes
        return {}

    def reset(self, state: State, sizes: Sizes, slots: Tensor) -> State:
        """The state after the anchors in `slots` (M,) were replaced by others, as in a replay that overwrites."""
        if not self.keyed:
            return state
        fresh = self.initial(sizes)
        return {
            name: value.index_copy(1, slots, fresh[name][:, slots].to(value.device)) for name, value in state.items()
        }

    def parameters(self, state: State) -> list[nn.Parameter]:
        """What the optimiser trains beside phi and psi."""
        return [value for value in state.values() if isinstance(value, nn.Parameter)]

    def __call__(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        """`loss` of checked arrays: RlcError for other shapes or sums than above, for NaN or infinite numbers.

        What has weight 0 changes nothing, whatever its scores are, and neither does the law of a row of weight 0.
        """
        require_scores(self, pos, neg, pos_weight, neg_weight)
        return self.loss(*without_padding(pos, neg, pos_weight, neg_weight))

    def loss(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        """The loss without a state, which stops and judges a fit; see the module's first lines for shapes.

        Every objective defines it. It is called in loops, so it checks nothing.
        """
        # Objectives written for earlier versions define __call__ in its place.
        own = type(self).__call__ is not Objective.__call__
        require(own, f"{type(self).__name__}: an objective must define loss(pos, neg, pos_weight, neg_weight).")
        return self(pos, neg, pos_weight, neg_weight)

    def judge(self, batch: Contrast) -> ObjectiveResult:
        """`loss` of a batch."""
        pos, neg, neg_weight = batch.scores(self.space)
        return self.loss(pos, neg, batch.pos_weight, neg_weight)

    def step(self, batch: Contrast, state: State) -> tuple[ObjectiveResult, State]:
        """What a descent minimises on this batch, and the new state."""
        return self.judge(batch), state


def require_scores(objective: Objective, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> None:
    """RlcError unless the scores (..., N, K), (..., N, M) and their weights are finite, fit, and sum to 1 as stated."""
    name = type(objective).__name__
    arrays = {"pos": pos, "neg": neg, "pos_weight": pos_weight, "neg_weight": neg_weight}
    for what, x in arrays.items():
        require_tensor(name, what, x)
        require(x.dtype.is_floating_point, f"{name}: {what} must hold floating-point numbers, got {x.dtype}.")
    shapes = f"got pos {tuple(pos.shape)} and neg {tuple(neg.shape)}"
    fit = pos.ndim >= 2 and pos.shape[:-1] == neg.shape[:-1]
    require(fit, f"{name}: pos must have shape (..., N, K) and neg (..., N, M) with equal (..., N), {shapes}.")
    require(pos.shape[-2] >= 1, f"{name}: needs an anchor, N >= 1, {shapes}.")
    require(min(pos.shape[-1], neg.shape[-1]) >= 1, f"{name}: each anchor needs a positive and a negative, {shapes}.")
    for what, x, scores in (("pos_weight", pos_weight, pos), ("neg_weight", neg_weight, neg)):
        want = f"{what} must have the shape {tuple(scores.shape)} of its scores"
        require(x.shape == scores.shape, f"{name}: {want}, got {tuple(x.shape)}.")
        require(bool((x >= 0).all()) and bool(torch.isfinite(x).all()), f"{name}: {what} must be finite and >= 0.")
    for what in ("pos", "neg"):
        good = bool(torch.isfinite(arrays[what]).all())
        require(good, f"{name}: {what} holds NaN or infinite scores; all must be finite, those of weight 0 too.")
    _require_sums(name, pos_weight, neg_weight)


def _require_sums(name: str, pos_weight: Tensor, neg_weight: Tensor) -> None:
    """RlcError unless positives' weights sum to 1 over (N, K), and each row's law to 1 where the row counts.

    Of problems side by side some may be without data, with weights that are all 0.
    """
    total, law = pos_weight.double().sum((-2, -1)), neg_weight.double().sum(-1)
    near = (total - 1.0).abs() <= _tolerance(pos_weight)
    good = near if pos_weight.ndim == 2 else near | (total == 0)
    sums = f"got a sum of {_first(total, ~good):.6g}" if not bool(good.all()) else ""
    require(not sums, f"{name}: pos_weight must sum to 1 over all positives (N, K), {sums}.")
    good = ((law - 1.0).abs() <= _tolerance(neg_weight)) | (pos_weight.sum(-1) == 0)
    sums = f"got a sum of {_first(law, ~good):.6g}" if not bool(good.all()) else ""
    require(not sums, f"{name}: neg_weight must sum to 1 over the M negatives of each row that has weight, {sums}.")


def _tolerance(weight: Tensor) -> float:
    """1e-4, or the rounding of a number of less precision, such as bfloat16."""
    return max(1e-4, torch.finfo(weight.dtype).eps)


def _first(values: Tensor, wrong: Tensor) -> float:
    return float(values[wrong][0])


def without_padding(
    pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same with score 0 where the weight is 0, and the uniform law in rows of weight 0.

    A huge score would give 0 * inf, and the logarithm of a law that is 0 everywhere has no gradient.
    """
    real = (pos_weight.sum(-1) > 0).unsqueeze(-1)
    law = torch.where(real, neg_weight, 1.0 / neg_weight.shape[-1])
    pos, neg = torch.where(pos_weight > 0, pos, 0.0), torch.where(real & (neg_weight > 0), neg, 0.0)
    return pos, neg, pos_weight, law


def require_ids(name: str, batch: Contrast, table: Tensor) -> None:
    """RlcError unless a batch's ids (H, N) number entries of a state's table (H, anchors), or are None for each once.

    Their range is looked at on the CPU alone: elsewhere it would wait for the device, and indexing complains there.
    """
    ids, rows, (levels, entries) = batch.ids, batch.pos_weight.shape[-2], table.shape
    if ids is None:
        require(rows == entries, f"{name}: {rows} anchors of {entries} in the state; ids must say which they are.")
        return
    require_tensor(name, "ids", ids)
    good = ids.shape == (levels, rows) and ids.dtype == torch.int64
    require(good, f"{name}: ids must be int64 of shape (H, N) = {(levels, rows)}, got {ids.dtype} {tuple(ids.shape)}.")
    if ids.device.type == "cpu" and not torch.compiler.is_compiling():
        inside = bool(((ids >= 0) & (ids < entries)).all())
        require(inside, f"{name}: ids must lie in 0..{entries - 1}, the entries of the state.")


def reduce_rows(pos_terms: Tensor, row_terms: Tensor, pos_weight: Tensor) -> tuple[Tensor, Tensor]:
    """loss = sum_ik w_ik pos_ik + sum_i w_i row_i with w_i = sum_k w_ik -> (loss (...,), rows (..., N))."""
    w = pos_weight.sum(-1)  # (..., N)
    positives = (pos_weight * pos_terms).sum(-1)  # (..., N)
    loss = (positives + w * row_terms).sum(-1)
    # Rows of weight 0 (padding) report 0, not 0/0.
    rows = torch.where(w > 0, positives / torch.where(w > 0, w, torch.ones_like(w)) + row_terms, torch.zeros_like(w))
    return loss, rows


def log_expectation(scores: Tensor, weight: Tensor) -> Tensor:
    """log E_{P^-} exp(s) = logsumexp_j(log v_j + s_j) over the last axis; entries of weight 0 do not count."""
    return torch.logsumexp(scores + weight.log(), dim=-1)  # log 0 = -inf: exp gives exactly 0
