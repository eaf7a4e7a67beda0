"""Inverse dynamics as a loss of features: the cross-entropy by hand, and what it learns where there is something."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rl_contrastive.deep.config import RepresentationConfig
from rl_contrastive.deep.representation import Representation


def make(dim: int = 2, actions: int = 2) -> Representation:
    config = RepresentationConfig(dim=dim, hidden=0, features="psi", loss="inverse")
    return Representation(3, actions, config, rng=torch.Generator().manual_seed(0))


def test_the_loss_by_hand() -> None:
    heads = make()
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.fill_(0.0)
        heads.psi_head[0].weight[0, 0] = 1.0  # v = (z_1, 0)
        heads.inverse_head[0].weight[1, 2] = 1.0  # logits (0, v'_1)
    z, ahead = torch.zeros(2, 3), torch.tensor([[2.0, 5.0, 5.0], [-1.0, 0.0, 0.0]])
    action = torch.tensor([1, 0])
    each = np.array([np.log(1 + np.exp(-2.0)), np.log(1 + np.exp(-1.0))])
    assert float(heads.contrast(z, action, ahead).detach()) == pytest.approx(each.mean(), rel=1e-6)
    weighted = heads.contrast(z, action, ahead, weight=torch.tensor([3.0, 1.0]))
    assert float(weighted.detach()) == pytest.approx((3 * each[0] + each[1]) / 4, rel=1e-6)


def test_it_learns_the_action_between_two_states_and_nothing_from_chance() -> None:
    losses = {}
    for told in (True, False):
        heads, rng = make(4, 3), np.random.default_rng(0)
        optimiser = torch.optim.Adam(heads.parameters(), lr=0.03)
        for _ in range(150):
            z = torch.tensor(rng.normal(size=(64, 3)), dtype=torch.float32)
            action = torch.tensor(rng.integers(3, size=64))
            moved = action if told else torch.tensor(rng.integers(3, size=64))
            loss = heads.contrast(z, action, z + 2 * torch.nn.functional.one_hot(moved, 3))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        losses[told] = float(loss.detach())
    assert losses[True] < 0.3
    assert losses[False] > 0.9 * np.log(3)
