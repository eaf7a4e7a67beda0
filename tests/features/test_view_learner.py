"""The learner of embedding losses: it learns what the views share, and goes on to the same bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rl_contrastive import registry
from rl_contrastive.errors import RlcError
from rl_contrastive.features.embedding import alignment
from rl_contrastive.features.view_learner import ViewLearner, seeded
from rl_contrastive.objectives.base import ObjectiveResult
from rl_contrastive.objectives.views import ViewObjective, Views

NAMES = [entry.name for entry in registry.entries("view-objective")]
N, D = 16, 6


def batch(objective: Any, seed: int) -> Views:
    """Views of 16 instances that agree in their first half and are noise in the other."""
    rng = torch.Generator().manual_seed(seed)
    V = max(2, objective.least_views)
    shared = torch.randn(1, N, D // 2, generator=rng).expand(V, N, D // 2)
    x = torch.cat([shared, torch.randn(V, N, D // 2, generator=rng)], dim=-1)
    index, number = torch.arange(N), torch.arange(N)
    return Views(x, label=(number % 4).float(), group=number % 2, index=index)


def learner(objective: ViewObjective, seed: int = 0, lr: float = 1e-2) -> ViewLearner:
    with seeded(seed):
        encoder = nn.Linear(D, 4)
    return ViewLearner(encoder, objective, dim=4, slots=N, lr=lr, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_learner_goes_on_to_the_same_bytes(name: str) -> None:
    objective = registry.build("view-objective", name)
    whole = learner(objective)
    losses = whole.fit(batch(objective, k) for k in range(6))
    first = learner(objective)
    first.fit(batch(objective, k) for k in range(3))
    torch.manual_seed(99)  # nothing depends on the global generator
    again = learner(registry.build("view-objective", name), seed=5)
    again.load_state_dict(first.state_dict())
    assert again.fit(batch(objective, k) for k in range(3, 6)) == losses[3:]
    a, b = whole.state_dict(), again.state_dict()
    for part in ("encoder", "objective"):
        for key, value in a[part].items():
            np.testing.assert_array_equal(value, b[part][key])


@pytest.mark.parametrize("name", NAMES)
def test_the_global_generator_is_left_alone(name: str) -> None:
    objective = registry.build("view-objective", name)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    learner(objective).step(batch(objective, 0))
    assert torch.equal(before, torch.random.get_rng_state())


def test_it_learns_what_views_share() -> None:
    """Against the untrained encoder as a control."""
    objective = registry.build("view-objective", "nt-xent", {"temperature": 0.5})
    net, fresh = learner(objective, lr=0.03), batch(objective, 1000).z
    before = alignment(net(fresh[0]), net(fresh[1]))
    losses = net.fit(batch(objective, k) for k in range(150))
    assert np.mean(losses[-20:]) < np.mean(losses[:20])
    assert alignment(net(fresh[0]), net(fresh[1])) < 0.5 * before


class Drifting(ViewObjective):
    """Remembers how often it met each slot, and draws noise."""

    needs = frozenset({"index"})

    def initial(self, slots: int, dim: int) -> dict[str, torch.Tensor]:
        return {"met": torch.zeros(slots), "scale": nn.Parameter(torch.ones(dim))}

    def reset(self, state: Any, slots: torch.Tensor) -> Any:
        met = state["met"].clone()
        met[slots] = 0
        return {**state, "met": met}

    def loss(self, views: Views, state: Any) -> Any:
        assert views.index is not None
        met = state["met"].index_add(0, views.index, torch.ones(len(views.index)))
        z = views.z * state["scale"] + 0.1 * torch.randn(views.z.shape)
        rows = (z[0] - z[1]).square().sum(-1) / (1 + met[views.index])
        return ObjectiveResult(rows.mean(), rows), {**state, "met": met}


def test_state_parameters_and_noise_are_saved() -> None:
    objective = Drifting()
    whole, half, again = learner(objective), learner(objective), learner(objective, seed=1)
    losses = whole.fit(batch(objective, k) for k in range(4))
    half.fit(batch(objective, k) for k in range(2))
    again.load_state_dict(half.state_dict())
    assert again.fit(batch(objective, k) for k in range(2, 4)) == losses[2:]
    assert not torch.equal(whole.state["scale"], torch.ones(4))
    assert (whole.state["met"] == 4).all()
    whole.reset(torch.tensor([2]))
    assert whole.state["met"][2] == 0


def test_wrong_use_is_a_sentence() -> None:
    objective = registry.build("view-objective", "nt-xent")
    net = learner(objective)
    with pytest.raises(RlcError, match="shape"):
        net.step(Views(torch.ones(3, D)))
    with pytest.raises(RlcError, match="the encoder gives"):
        ViewLearner(nn.Linear(D, 3), objective, dim=4, rng=np.random.default_rng(0)).step(batch(objective, 0))
    with pytest.raises(RlcError, match="lr"):
        learner(objective, lr=0.0)
    with pytest.raises(RlcError, match="lacks 'rng'"):
        net.load_state_dict({k: v for k, v in net.state_dict().items() if k != "rng"})
    state = net.state_dict()
    with pytest.raises(RlcError, match="shape"):
        net.load_state_dict({**state, "encoder": {**state["encoder"], "bias": np.zeros(9)}})
