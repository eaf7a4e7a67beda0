"""BECLR: a student learns from a teacher, with positives from a memory that is kept in balanced partitions (DyCE).

    loss    -(cos(p1, sg z2') + cos(p2, sg z1'))/2 + lam log mean_i mean_{j != i} exp(cos(z_i, z_j)/tau)
    memory  a ring of vectors in K partitions; a new batch is shared out evenly among the prototypes by Sinkhorn, and
            the positives of a vector are its nearest neighbours within the partition of its nearest prototype

Poulakakis-Daktylidis and Jamali-Rad 2024, BECLR. The published assignment puts the distance where a similarity belongs,
so that far prototypes are preferred: here it is minus the distance, and `published_sign` is the control.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from rl_contrastive.config import MOST_WIDTH, Ge, In, Options, config_or, require
from rl_contrastive.device import copied
from rl_contrastive.objectives.base import ObjectiveResult
from rl_contrastive.objectives.base import State as LossState
from rl_contrastive.objectives.learned import log_mean_others
from rl_contrastive.objectives.parts import require_batch, require_index, saved
from rl_contrastive.objectives.transport import log_sinkhorn
from rl_contrastive.objectives.views import ViewObjective, Views, unit, weighted_rows
from rl_contrastive.registry import register
from rl_contrastive.spec import BoolArray, IntArray, State


@dataclass(frozen=True)
class BECLRConfig(Options, where="beclr"):
    """The negative term."""

    temperature: Annotated[float, In(1e-4, 1e4)] = 2.0
    """tau of the negative term."""
    negative: Annotated[float, Ge(0)] = 0.1
    """lam: weight of the negative term."""


@register("view-objective", "beclr", BECLRConfig)
class BECLR(ViewObjective):
    """-(cos(p1, sg z2') + cos(p2, sg z1'))/2 + lam log mean_{j != i} exp(cos/tau) (Poulakakis-Daktylidis 2024, BECLR).

    z (..., 4 or 6, N, d): the student's predictions p1, p2, the teacher's z1', z2', and, for the negative term, the
    student's projections z1, z2; with 4 views the predictions stand in for these. The other view of an instance is no
    negative.
    """

    least_views = 4

    def __init__(self, config: BECLRConfig | None = None) -> None:
        self.config = config_or(config, BECLRConfig)

    def loss(self, views: Views, state: LossState) -> tuple[ObjectiveResult, LossState]:
        V = views.size[0]
        require(V in (4, 6), f"BECLR: needs 4 views p1, p2, z1', z2', or 6 with z1, z2, got {V}.")
        p1, p2, t1, t2 = unit(views.z).unbind(-3)[:4]
        pulled = -0.5 * ((p1 * t2.detach()).sum(-1) + (p2 * t1.detach()).sum(-1))  # (..., N)
        first, second = unit(views.z).unbind(-3)[-2:] if V == 6 else (p1, p2)
        pushed = log_negatives(first, second, views, self.config.temperature)
        result = weighted_rows(pulled + self.config.negative * pushed.unsqueeze(-1), views.anchor_weight)
        return ObjectiveResult(result.loss, result.rows, {"negative": pushed.detach()}), state


def log_negatives(a: Tensor, b: Tensor, views: Views, temperature: float) -> Tensor:
    """log mean_i mean_{j != i} exp(cos/tau) over both views a, b (..., N, d) of unit length -> (...,)."""
    log_m, w = views.log_count, views.anchor_weight
    means = []
    for x in (a, b):
        parts = [log_mean_others(torch.einsum("...id,...jd->...ij", x, y) / temperature, log_m) for y in (a, b)]
        means.append(torch.logaddexp(*parts))
    both = torch.logaddexp(*means) - np.log(4.0)  # (..., N): mean over own and other view, both anchors
    return torch.logsumexp(both + w.log(), dim=-1)


@dataclass(frozen=True)
class DyCEConfig(Options, where="dyce"):
    """Size and upkeep of the memory."""

    prototypes: Annotated[int, In(1, MOST_WIDTH)] = 32
    """K, partitions."""
    scale: Annotated[int, In(1, 10_000)] = 20
    """Vectors held, in multiples of K."""
    eps: Annotated[float, In(1e-4, 1e4)] = 0.05
    """Entropy of the assignment."""
    rounds: Annotated[int, Ge(1)] = 10
    """Sinkhorn rounds of an assignment."""
    momentum: Annotated[float, In(0, 1, below=True)] = 0.0
    """Share of the old prototype that stays; 0: prototypes are the means of their members."""
    every: Annotated[int, Ge(0)] = 0
    """Pushes between two fits of k-means; 0: once, when the memory is first full."""
    iterations: Annotated[int, Ge(1)] = 20
    """Rounds of k-means."""
    published_sign: bool = False
    """Assign by plus the distance, as the published code does: a control, which prefers far prototypes."""


class DyCEMemory:
    """A ring of scale K vectors in K partitions (Poulakakis-Daktylidis and Jamali-Rad 2024, DyCE).

    `z` (M, d) as pushed; `index` (M,) the instance (replay slot) each belongs to, -1 where a position is empty;
    `label` (M,) its partition, -1 before the first k-means. Positions are overwritten oldest first.
    """

    def __init__(
        self, dim: int, config: DyCEConfig | None = None, *, slots: int, dtype: torch.dtype = torch.float32
    ) -> None:
        """slots: instances there are, so that an index beyond them is refused."""
        require(dim >= 1, f"dyce: d must be >= 1, got {dim}.")
        require(slots >= 1, f"dyce: slots must be >= 1, got {slots}.")
        self.config, self.dim, self.slots = config_or(config, DyCEConfig), dim, slots
        self.capacity = self.config.scale * self.config.prototypes
        self.z = torch.zeros(self.capacity, dim, dtype=dtype)
        self.centres = torch.zeros(self.config.prototypes, dim, dtype=dtype)
        self.index: IntArray = np.full(self.capacity, -1, dtype=np.int64)
        self.label: IntArray = np.full(self.capacity, -1, dtype=np.int64)
        self.total, self.pushes, self.clustered_at = 0, 0, -1

    @property
    def filled(self) -> BoolArray:
        """(M,) positions that hold a vector."""
        return self.index >= 0

    @property
    def prototypes(self) -> Tensor:
        """(K, d), of the unit sphere's inside; 0 before the first k-means."""
        return self.centres

    @torch.no_grad()
    def push(self, z: Tensor, index: IntArray, *, rng: np.random.Generator) -> None:
        """Put z (N, d) of the instances `index` (N,) over the oldest; of more than fit only the last ones stay."""
        require_batch("dyce", z, self.dim)
        require_index("dyce", index, self.slots)
        require(len(index) == len(z), f"dyce: {len(z)} vectors, but {len(index)} indices.")
        z, index = z.detach()[-self.capacity :].to(self.z), index[-self.capacity :]
        where = (self.total + np.arange(len(z))) % self.capacity
        label = assign(z, self.centres, self.config) if self.clustered_at >= 0 else np.full(len(z), -1)
        self.z[torch.from_numpy(where)] = z
        self.index[where], self.label[where] = index, label
        self.total, self.pushes = self.total + len(z), self.pushes + 1
        due = self.config.every > 0 and self.pushes - self.clustered_at >= self.config.every
        if (self.clustered_at < 0 and self.total >= self.capacity) or (self.clustered_at >= 0 and due):
            self._cluster(rng)
        elif self.clustered_at >= 0:
            self._move_prototypes()

    def forget(self, slots: IntArray) -> None:
        """Empty the positions of instances that were replaced by others, as in a replay that overwrites."""
        require_index("dyce", slots, self.slots)
        gone = np.isin(self.index, slots)
        self.index[gone], self.label[gone] = -1, -1
        self.z[torch.from_numpy(gone)] = 0.0

    @torch.no_grad()
    def nearest(self, z: Tensor, k: int, *, own: IntArray | None = None) -> IntArray:
        """(N, k) positions of greatest cosine to z (N, d), in the partition of its nearest prototype.

        The whole memory where that holds fewer than k. `own` (N,): the instance of each row, which is left out.
        """
        require_batch("dyce", z, self.dim)
        require(k >= 1, f"dyce: k must be >= 1, got {k}.")
        allowed = np.broadcast_to(self.filled, (len(z), self.capacity)).copy()
        if own is not None:
            require_index("dyce", own, self.slots)
            require(len(own) == len(z), f"dyce: {len(z)} vectors, but {len(own)} own indices.")
            allowed &= own[:, None] != self.index
        least = int(allowed.sum(1).min(initial=self.capacity))
        require(k <= least, f"dyce: k must be at most the {least} vectors to choose from, got {k}.")
        if self.clustered_at >= 0:
            home = _distance(z.to(self.z), self.centres).argmin(1).numpy()
            within = allowed & (self.label == home[:, None])
            allowed = np.where((within.sum(1) >= k)[:, None], within, allowed)
        cosine = (unit(z.to(self.z)) @ unit(self.z).T).masked_fill(~torch.from_numpy(allowed), -torch.inf)
        return np.asarray(cosine.topk(k, dim=1).indices.numpy(), dtype=np.int64)

    def _cluster(self, rng: np.random.Generator) -> None:
        """k-means of all vectors; prototypes and labels anew."""
        some = np.flatnonzero(self.filled)
        if len(some) < self.config.prototypes:  # too many were forgotten; the next push tries again
            return
        points = unit(self.z[torch.from_numpy(some)])
        self.centres, self.label[some] = k_means(points, self.config.prototypes, self.config.iterations, rng=rng)
        self.clustered_at = self.pushes

    def _move_prototypes(self) -> None:
        """Each prototype <- momentum of it + (1 - momentum) of its members' mean; without members it stays."""
        some = torch.from_numpy(np.flatnonzero(self.label >= 0))
        mean, count = _means(unit(self.z[some]), torch.from_numpy(self.label)[some], self.config.prototypes)
        moved = self.config.momentum * self.centres + (1.0 - self.config.momentum) * mean
        self.centres = torch.where((count > 0).unsqueeze(1), moved, self.centres)

    def state_dict(self) -> State:
        """Everything: vectors, instances, labels, prototypes, counters."""
        arrays = {"z": copied(self.z), "centres": copied(self.centres)}
        arrays |= {"index": self.index.copy(), "label": self.label.copy()}
        return {**arrays, "total": self.total, "pushes": self.pushes, "clustered_at": self.clustered_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; RlcError on missing keys or other shapes."""
        M, shapes = self.capacity, {"z": tuple(self.z.shape), "centres": tuple(self.centres.shape)}
        tensors = {key: torch.as_tensor(saved(state, key, "dyce", shape)) for key, shape in shapes.items()}
        self.z, self.centres = tensors["z"].to(self.z, copy=True), tensors["centres"].to(self.centres, copy=True)
        self.index = np.array(saved(state, "index", "dyce", (M,)), dtype=np.int64)
        self.label = np.array(saved(state, "label", "dyce", (M,)), dtype=np.int64)
        self.total, self.pushes = int(saved(state, "total", "dyce")), int(saved(state, "pushes", "dyce"))
        self.clustered_at = int(saved(state, "clustered_at", "dyce"))


def assign(z: Tensor, prototypes: Tensor, config: DyCEConfig) -> IntArray:
    """Partition (N,) of each z (N, d): the greatest entry of its column in a plan of equal shares (Asano et al. 2020).

    Cost: the distance between unit vectors (`published_sign`: minus the distance).
    """
    distance = _distance(z, prototypes).T  # (K, N)
    cost = -distance if config.published_sign else distance
    log_plan = log_sinkhorn(cost, eps=config.eps, rounds=config.rounds, tolerance=0.0)
    return np.asarray(log_plan.argmax(0).numpy(), dtype=np.int64)


def k_means(points: Tensor, count: int, iterations: int, *, rng: np.random.Generator) -> tuple[Tensor, IntArray]:
    """Centres (count, d) and labels (n,) of points (n, d) by Lloyd's rounds from k-means++ (Arthur et al. 2007)."""
    n = len(points)
    require(1 <= count <= n, f"k-means: {count} centres of {n} points.")
    chosen = [int(rng.integers(n))]
    distance = torch.full((n,), torch.inf, dtype=torch.float64)
    for _ in range(count - 1):
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1).to(torch.float64))
        mass = np.cumsum(distance.numpy())
        u = rng.random()
        # Copies of one point leave no mass: then any point is as good.
        chosen.append(int(np.searchsorted(mass, u * mass[-1], side="right")) if mass[-1] > 0 else int(u * n))
        chosen[-1] = min(chosen[-1], n - 1)
    centres = points[chosen].clone()
    for _ in range(iterations):
        label = torch.cdist(points, centres).argmin(1)
        mean, size = _means(points, label, count)
        centres = torch.where((size > 0).unsqueeze(1), mean, centres)
    return centres, np.asarray(torch.cdist(points, centres).argmin(1).numpy(), dtype=np.int64)


def _means(points: Tensor, label: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Means (count, d) by label and their numbers of points (count,)."""
    total = torch.zeros(count, points.shape[1], dtype=points.dtype).index_add_(0, label, points)
    size = torch.bincount(label, minlength=count)
    return total / size.clamp_min(1).unsqueeze(1), size


def _distance(z: Tensor, prototypes: Tensor) -> Tensor:
    """Distances (N, K) between directions."""
    return torch.cdist(unit(z), unit(prototypes))
