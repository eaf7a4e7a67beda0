"""A loss of embeddings beside those of Q and G, on their encoder: a projector, a registered view-objective, its state.

    successor   views z(s_t) and z(s_{t+1}), one step on whatever n the returns have
    shift       views z(T s) and z(T' s), T and T' random shifts of the frames (`deep/augment.py`)
    loss       <- loss of Q and G + weight * objective(projector(views))

Off by default; nothing is drawn or computed then. Labels, for objectives that need them, are the n-step rewards; slots,
for objectives that remember instances, are those of the replay, and what a slot remembers is forgotten when the replay
overwrites it. What an objective draws comes from the learner's stream (`features/view_learner.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.config import require
from rl_contrastive.deep.augment import check_augment, distort, draw
from rl_contrastive.deep.config import AugmentConfig, AuxiliaryConfig
from rl_contrastive.deep.feature_net import torch_generator
from rl_contrastive.deep.networks import RELU_GAIN, Encoder, Layers, linear
from rl_contrastive.deep.replay.replay import Replay, ReplayBatch
from rl_contrastive.deep.replay.ring import written
from rl_contrastive.device import move, put
from rl_contrastive.features.view_learner import draw_seed, seeded
from rl_contrastive.objectives.views import ViewObjective, Views
from rl_contrastive.registry import build

STATE = "state_"
"""In front of the names of what the objective remembers."""


class Auxiliary(nn.Module):
    """Projector and objective, for vectors of this encoder.

    Buffers and parameters `state_*` are what the objective remembers and learns; `seen` () int64 is how many entries
    the replay had taken in at the last step.
    """

    seen: Tensor

    def __init__(self, encoder: Encoder, config: AuxiliaryConfig, *, slots: int, rng: torch.Generator) -> None:
        """encoder: only looked at. slots: capacity of the replay."""
        super().__init__()
        width = encoder.width
        self._shift = AugmentConfig(shift=config.shift if config.views == "shift" else 0)
        check_augment(self._shift, encoder.kind)
        self.config, self.slots = config, slots
        self.objective: ViewObjective = build("view-objective", config.objective, config.objective_options)
        name, least = config.objective, self.objective.least_views
        require(least <= 2, f"auxiliary: {name} needs {least} views of a state, but {config.views} gives two.")
        lacking = sorted(self.objective.needs - {"label", "index"})
        require(not lacking, f"auxiliary: {name} needs a {' and a '.join(lacking)} of each state; a replay has none.")
        layers: list[nn.Module] = []
        if config.dim:
            hidden = linear(width, config.hidden, gain=RELU_GAIN, init="orthogonal", rng=rng)
            layers = [hidden, nn.ReLU(), linear(config.hidden, config.dim, gain=1.0, init="orthogonal", rng=rng)]
        self.projector = Layers(*layers)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        seed = int(torch.randint(2**62, (), generator=rng))
        with seeded(seed):
            state = self.objective.initial(slots if self.indexed else 0, config.dim or width)
        self.remembered = tuple(state)
        for key, value in state.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(STATE + key, value)
            else:
                self.register_buffer(STATE + key, value)

    @property
    def indexed(self) -> bool:
        """Whether the objective remembers instances by their slot."""
        return "index" in self.objective.needs

    def views(
        self,
        batch: ReplayBatch,
        ends: Tensor,
        replay: Replay,
        augment: Callable[[Tensor, Any], Tensor],
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        """Both views (N, ...) of a batch, and what `loss` takes beside their vectors.

        ends: on the device, o_t of the batch first. augment: of the learner.
        """
        device, first = ends.device, ends[: len(batch.index)]
        second = first
        self._forget(replay.ring.total)
        if self.config.views == "successor":
            second = put(replay.observations(replay.ring.next[batch.index]), device)
            first, second = augment(first, rng), augment(second, rng)
        else:
            draws = [draw(self._shift, len(first), rng=torch_generator(rng)) for _ in range(2)]
            first, second = (distort(first.float(), *(move(x, device) for x in some)) for some in draws)
        return {
            "first": first,
            "second": second,
            "label": put(batch.reward.astype(np.float32), device),
            "index": put(batch.index, device),
            "weight": None if replay.tree is None else put(batch.weight.astype(np.float32), device),
            "seed": draw_seed(rng),
        }

    def loss(
        self, first: Tensor, second: Tensor, *, label: Tensor, index: Tensor, weight: Tensor | None, seed: int
    ) -> Tensor:
        """The loss of two views (N, width) of N instances; moves the state.

        label (N,) returns, index (N,) slots, weight (N,) importance weights; seed: of what the objective draws.
        """
        z = self.projector.forward(torch.stack([first, second]).flatten(0, 1).float()).reshape(2, len(first), -1)
        needs = self.objective.needs
        views = Views(
            z,
            weight=None if weight is None else weight / weight.sum(),
            label=label if "label" in needs else None,
            index=index if "index" in needs else None,
        )
        with seeded(seed):
            result, state = self.objective.step(views, self._state())
        self._keep(state)
        return result.loss

    @torch.no_grad()
    def _forget(self, total: int) -> None:
        """The replay has taken in `total` entries: reset the slots that were overwritten since the last step."""
        before = int(self.seen)
        self.seen.fill_(total)
        if not self.indexed or total <= before:
            return
        slots = put(written(before, total, self.slots), self.seen.device)
        self._keep(self.objective.reset(self._state(), slots))

    def _state(self) -> dict[str, Any]:
        return {name: getattr(self, STATE + name) for name in self.remembered}

    @torch.no_grad()
    def _keep(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            if (kept := getattr(self, STATE + name)) is not value:
                kept.copy_(value.detach())
