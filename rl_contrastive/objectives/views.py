"""The interface of losses of embeddings: several views of each instance in, one loss out.

A score loss (`base.Objective`) sees positives and negatives of one anchor. The losses here need more: the Gram matrix
of several views, labels, or groups. A view may be phi(s,a) and psi(s'), one of K successors of a pair (s,a), or one of
several augmentations of a state. Embeddings come in unnormalised; a loss that compares directions normalises itself.

    z (..., V, N, d)     V views of each of N instances; leading axes are separate problems
    weight (..., N)      of the instances, sums to 1; an instance of weight 0 is padding and changes nothing
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rl_contrastive.config import require
from rl_contrastive.device import require_tensor
from rl_contrastive.objectives.base import ObjectiveResult, State

LEAST_LENGTH = 1e-6
"""Shorter vectors are divided by this, so a direction of the zero vector is 0 and its gradient is finite."""
LARGEST = 1e15
"""Largest coordinate of an embedding: the squares of larger ones, and their sums, overflow in single precision."""


@dataclass(frozen=True)
class Views:
    """V views of N instances, `z (..., V, N, d)` with the views first, and what is known of the instances."""

    z: Tensor
    """(..., V, N, d), of any length."""
    weight: Tensor | None = None
    """(..., N) >= 0, sums to 1; None: 1/N each."""
    label: Tensor | None = None
    """(..., N): classes (int) or values (float)."""
    group: Tensor | None = None
    """(..., N): 0 background, 1 target."""
    index: Tensor | None = None
    """(..., N): entries of the state, such as replay slots."""
    partner: Tensor | None = None
    """(..., N): a second class for each instance, whose members are its positives."""
    gate: Tensor | None = None
    """(..., N, d) in [0, 1]: what each anchor multiplies embeddings with; a head makes it of the anchor's classes."""

    @property
    def size(self) -> tuple[int, int, int]:
        """V, N, d."""
        V, N, d = self.z.shape[-3:]
        return V, N, d

    @property
    def anchor_weight(self) -> Tensor:
        """(..., N): the weights, 1/N where none are given."""
        if self.weight is not None:
            return self.weight
        N = self.z.shape[-2]
        return self.z.new_full((*self.z.shape[:-3], N), 1.0 / N)

    @property
    def log_count(self) -> Tensor:
        """(..., N) log m, m_j = w_j * (number of real instances): how often j counts as a candidate.

        Equal weights give m = 1. Padding has m = 0, so a sum over candidates loses it and the others keep their share.
        """
        w = self.anchor_weight
        return (w * (w > 0).sum(-1, keepdim=True)).log()


class ViewObjective(ABC):
    """A loss of embeddings; `registry.get("view-objective", name)` gives the factory, which takes its config."""

    needs: frozenset[str] = frozenset()
    """What a batch must have: any of "label", "group", "index"."""
    least_views: int = 2
    """V at least."""
    least_instances: int = 2
    """Real instances at least; a loss without negatives sets 1."""

    def initial(self, slots: int, dim: int) -> State:
        """The state before the first step: `slots` entries that `Views.index` names, d = dim."""
        del slots, dim
        return {}

    def reset(self, state: State, slots: Tensor) -> State:
        """The state after the instances in `slots` (M,) were replaced by others, as in a replay that overwrites."""
        del slots
        return state

    def parameters(self, state: State) -> list[nn.Parameter]:
        """What the optimiser trains beside the encoder."""
        return [value for value in state.values() if isinstance(value, nn.Parameter)]

    def __call__(self, views: Views) -> ObjectiveResult:
        """The loss of one batch, from the first state."""
        views = require_views(self, views)
        slots = 0 if views.index is None else int(views.index.max()) + 1
        return self.loss(views, self.initial(slots, views.z.shape[-1]))[0]

    def step(self, views: Views, state: State) -> tuple[ObjectiveResult, State]:
        """The loss of one batch and the new state. RlcError where the batch lacks what the loss needs."""
        views = require_views(self, views)
        return self.loss(views, state)

    @abstractmethod
    def loss(self, views: Views, state: State) -> tuple[ObjectiveResult, State]:
        """The loss of a batch that `require_views` has passed; rows (..., N) are its terms by instance."""


def require_views(objective: ViewObjective, views: Views) -> Views:
    """The views with 0 for the embeddings of padding, whose size must not matter (0 * inf).

    RlcError for a bare tensor, shapes that disagree, numbers that are not finite, or a lack of what is needed.
    """
    name, kind = type(objective).__name__, type(views).__name__
    require(isinstance(views, Views), f"{name}: takes Views(z) with z of shape (..., V, N, d), got {kind}.")
    z = views.z
    for field in ("z", "weight", "label", "group", "index", "partner", "gate"):
        value = getattr(views, field)
        if value is not None or field == "z":
            require_tensor(name, field, value)
    require(z.ndim >= 3, f"{name}: z must have shape (..., V, N, d), got {tuple(z.shape)}.")
    require(z.dtype.is_floating_point, f"{name}: z must hold floating-point numbers, got {z.dtype}.")
    V, _, d = views.size
    require(objective.least_views <= V, f"{name}: needs {objective.least_views} views of each instance, got {V}.")
    require(d >= 1, f"{name}: embeddings need a coordinate, got d = 0.")
    require(z.numel() > 0, f"{name}: the batch is empty, z has shape {tuple(z.shape)}.")
    require(bool(torch.isfinite(z).all()), f"{name}: z holds NaN or infinite numbers.")
    want = (*z.shape[:-3], z.shape[-2])
    for field in ("weight", "label", "group", "index", "partner"):
        value = getattr(views, field)
        require(value is not None or field not in objective.needs, f"{name}: needs a {field} for each instance.")
        if value is not None:
            shapes = f"got {tuple(value.shape)}; z has shape {tuple(z.shape)}, which is (..., V, N, d)"
            require(tuple(value.shape) == want, f"{name}: {field} must have shape {want}, {shapes}.")
    _require_values(name, views)
    real = (views.anchor_weight > 0).sum(-1)
    least = objective.least_instances
    require(bool((real >= least).all()), f"{name}: needs {least} instances in a batch, got {int(real.min())}.")
    if views.weight is not None:
        z = torch.where((views.weight > 0)[..., None, :, None], z, 0.0)
    top = float(z.detach().abs().max())
    require(top <= LARGEST, f"{name}: coordinates of z must lie in [-{LARGEST:g}, {LARGEST:g}], got one of {top:g}.")
    return replace(views, z=z)


def _require_values(name: str, views: Views) -> None:
    """Weights sum to 1, labels are finite, groups are 0 or 1, indices whole and not negative, gates in [0, 1]."""
    w, label, group, index, gate = views.weight, views.label, views.group, views.index, views.gate
    if w is not None:
        require_weight(name, w)
    if label is not None and label.dtype.is_floating_point:
        require(bool(torch.isfinite(label).all()), f"{name}: labels must be finite.")
    if group is not None:
        require(bool(((group == 0) | (group == 1)).all()), f"{name}: groups must be 0 (background) or 1 (target).")
    if index is not None:
        whole = not index.dtype.is_floating_point and not index.dtype.is_complex
        require(whole and bool((index >= 0).all()), f"{name}: an index must be a whole number >= 0.")
    if gate is not None:
        want = (*views.z.shape[:-3], *views.z.shape[-2:])
        require(tuple(gate.shape) == want, f"{name}: gate must have shape {want}, got {tuple(gate.shape)}.")
        require(bool(((gate >= 0) & (gate <= 1)).all()), f"{name}: gates must lie in [0, 1].")


def require_weight(name: str, weight: Tensor) -> None:
    """RlcError unless the weights (..., N) of instances are >= 0 and sum to 1."""
    require_tensor(name, "weight", weight)
    good = bool((weight >= 0).all()) and bool((weight.sum(-1) - 1.0).abs().max() < 1e-4)
    require(good, f"{name}: weights must be >= 0 and sum to 1 over the instances.")


def require_slots(name: str, index: Tensor, slots: int) -> None:
    """RlcError if an index lies outside the state."""
    top = int(index.max()) if index.numel() else -1
    require(top < slots, f"{name}: index {top} lies outside the state, which has {slots} entries.")


def unit(z: Tensor) -> Tensor:
    """z/|z| along the last axis."""
    return nn.functional.normalize(z, dim=-1, eps=LEAST_LENGTH)


def weighted_rows(rows: Tensor, weight: Tensor) -> ObjectiveResult:
    """loss = sum_i w_i rows_i with the rows of padding set to 0."""
    rows = torch.where(weight > 0, rows, torch.zeros_like(rows))
    return ObjectiveResult((weight * rows).sum(-1), rows)
