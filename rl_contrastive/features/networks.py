"""The trainable factors phi_h, psi_h of all steps h at once: stacked parameters (leading axis H), scores, one loss.

Both factors are softplus(beta u)/beta > 0 with u a table (`TableFactors`) or a linear map of whitened coordinates,
plus an MLP if hidden sizes are given (`RowFactors`). The ratio f = psi(s')'phi(s,a) is trained without its
normaliser, as in the paper's loss; `maps.nonnegative_*` folds the normaliser in afterwards, so that P-hat sums to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rl_contrastive.features.batches import Batch
from rl_contrastive.objectives.base import Contrast, Space
from rl_contrastive.objectives.scores import log_softplus, pair_scores, row_scores
from rl_contrastive.spec import FloatArray, IntArray

Named = dict[str, FloatArray]


class Factors(Protocol):
    """u_phi of anchors and u_psi of successors, before the softplus."""

    beta: float
    parameters: list[Tensor]
    num_anchors: int
    """Anchors of a step h: pairs (s, a) of a table, or stored rows."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters, in order."""

    def anchors(self, index: Tensor | None) -> Tensor:
        """(H, N, d) of the listed anchors, None for all."""

    def successors(self, index: Tensor | None) -> Tensor:
        """(H, M, d) of the listed successors, None for all."""


class TableFactors:
    """u_phi (H, SA, d) and u_psi (H, S, d) are the parameters themselves."""

    def __init__(self, phi: FloatArray, psi: FloatArray, *, beta: float, dtype: torch.dtype, device: str) -> None:
        self.beta: float = beta
        self.names: tuple[str, ...] = ("phi", "psi")
        self.parameters = _leaves([phi, psi], dtype, device)
        self.num_anchors: int = phi.shape[1]

    def anchors(self, index: Tensor | None) -> Tensor:
        return _take(self.parameters[0], index)

    def successors(self, index: Tensor | None) -> Tensor:
        return _take(self.parameters[1], index)


class RowFactors:
    """u_phi = z'Phi_a (+ trunk(z)'heads_a), u_psi = z~'Psi (+ its own MLP) of stored rows.

    here (H, N, k+1), there (H, N, k'+1): whitened coordinates with a last column of ones; action (H, N).
    `weights` holds Phi (H, A, k+1, d), Psi (H, k'+1, d) and, for each side s in (phi, psi), layers s_W0, s_b0, ...
    and the heads s_head (H, width, A d or d).
    """

    def __init__(
        self,
        here: FloatArray,
        action: IntArray,
        there: FloatArray,
        weights: Named,
        *,
        beta: float,
        dtype: torch.dtype,
        device: str,
    ) -> None:
        self.beta, self.names = beta, tuple(weights)
        self.here, self.there = (torch.as_tensor(x, dtype=dtype, device=device) for x in (here, there))
        self.action = torch.as_tensor(action, device=device)
        self.num_anchors: int = action.shape[1]
        self.parameters = _leaves(list(weights.values()), dtype, device)
        self.layers = sum(name.startswith("phi_W") for name in self.names)

    def anchors(self, index: Tensor | None) -> Tensor:
        z, action = _take(self.here, index), _take(self.action, index)
        Phi = self._get("Phi")  # (H, A, k+1, d)
        H, A, rows, d = Phi.shape
        u = torch.bmm(z, Phi.transpose(1, 2).reshape(H, rows, A * d))  # (H, N, A d)
        if self.layers:
            u = u + self._mlp("phi", z)
        chosen = action[..., None, None].expand(-1, -1, 1, d)
        return u.reshape(H, -1, A, d).gather(2, chosen).squeeze(2)  # (H, N, d)

    def successors(self, index: Tensor | None) -> Tensor:
        z = _take(self.there, index)
        u = torch.bmm(z, self._get("Psi"))  # (H, M, d)
        return u + self._mlp("psi", z) if self.layers else u

    def _mlp(self, side: str, z: Tensor) -> Tensor:
        x = z[..., :-1]
        for layer in range(self.layers):
            x = torch.relu(torch.baddbmm(self._get(f"{side}_b{layer}"), x, self._get(f"{side}_W{layer}")))
        return torch.bmm(x, self._get(f"{side}_head"))

    def _get(self, name: str) -> Tensor:
        return self.parameters[self.names.index(name)]


def mlp_weights(
    side: str, inputs: int, outputs: int, hidden: tuple[int, ...], horizon: int, *, rng: np.random.Generator, warm: bool
) -> Named:
    """He-initialised layers of H MLPs; `warm` starts the heads at 0, so that the output is the linear part."""
    weights: Named = {}
    width = inputs
    for layer, size in enumerate(hidden):
        weights[f"{side}_W{layer}"] = rng.standard_normal((horizon, width, size)) * np.sqrt(2.0 / width)
        weights[f"{side}_b{layer}"] = np.zeros((horizon, 1, size))
        width = size
    if hidden:
        head = rng.standard_normal((horizon, width, outputs)) / np.sqrt(width)
        weights[f"{side}_head"] = 0.0 * head if warm else head
    return weights


def export(factors: Factors, values: list[Tensor] | None = None) -> Named:
    """Parameters as float64 arrays."""
    tensors = factors.parameters if values is None else values
    return {
        name: tensor.detach().to("cpu", torch.float64).numpy()
        for name, tensor in zip(factors.names, tensors, strict=True)
    }


@dataclass(frozen=True)
class TensorBatch:
    """A `Batch` on the device."""

    anchors: Tensor | None
    positives: Tensor | None
    negatives: Tensor | None
    pos_weight: Tensor
    neg_weight: Tensor

    @classmethod
    def of(cls, batch: Batch, like: Tensor) -> TensorBatch:
        """Move to the device and precision of `like`."""

        def index(x: IntArray | None) -> Tensor | None:
            return None if x is None else torch.as_tensor(np.ascontiguousarray(x), device=like.device)

        def weight(x: FloatArray) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(x), dtype=like.dtype, device=like.device)

        return cls(
            index(batch.anchors),
            index(batch.positives),
            index(batch.negatives),
            weight(batch.pos_weight),
            weight(batch.neg_weight),
        )


def contrast(factors: Factors, batch: TensorBatch) -> Contrast:
    """The batch as an objective sees it."""
    beta = factors.beta
    u, v = factors.anchors(batch.anchors), factors.successors(batch.negatives)  # (H, N, d), (H, M, d)

    def positives(space: Space) -> Tensor:
        own = factors.successors(batch.positives)
        if batch.positives is None:
            return pair_scores(u, own, beta, log=space == "log")  # (H, N, S): every successor is one
        return row_scores(u, own, beta, log=space == "log")[..., None]  # (H, N, 1)

    return Contrast(
        pos=positives,
        neg=lambda space: pair_scores(u, v, beta, log=space == "log"),
        log_phi=lambda: log_softplus(u, beta),
        log_psi=lambda: log_softplus(v, beta),
        pos_weight=batch.pos_weight,
        law=batch.neg_weight,
        ids=batch.anchors,
        same=batch.positives is None and batch.negatives is None,
    )


def _take(x: Tensor, index: Tensor | None) -> Tensor:
    """x[h, index[h]] for each h: (H, N, ...) and (H, M) -> (H, M, ...), as one flat row selection."""
    if index is None:
        return x
    H, N = x.shape[:2]
    flat = (index + torch.arange(H, device=index.device)[:, None] * N).reshape(-1)
    return x.reshape(H * N, *x.shape[2:]).index_select(0, flat).reshape(*index.shape, *x.shape[2:])


def _leaves(arrays: list[FloatArray], dtype: torch.dtype, device: str) -> list[Tensor]:
    return [torch.tensor(x, dtype=dtype, device=device).requires_grad_() for x in arrays]
