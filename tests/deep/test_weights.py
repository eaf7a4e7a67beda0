"""Adam on one vector against torch's own, its resuming to the bit, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rl_contrastive.deep.weights import FlatAdam, FlatParameters
from rl_contrastive.errors import RlcError


def network(seed: int = 0) -> nn.Sequential:
    rng = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(generator=rng)
    return net


def descend(flat: FlatParameters, net: nn.Module, adam: FlatAdam, steps: range) -> None:
    for step in steps:
        x = torch.randn((8, 3), generator=torch.Generator().manual_seed(step))
        adam.step(flat.gradient(net(x).square().sum() * 10.0 ** (step % 3 - 1)))


def test_two_steps_by_hand() -> None:
    """g = 2, then 0: mhat = 2, sqrt vhat = 2; then mhat = .18 / .19, vhat = .003996 / .001999."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 1.0)
    flat = FlatParameters(net.parameters())
    adam = FlatAdam(flat, lr=0.1, eps=1.0)
    adam.step(torch.tensor([2.0]))
    assert net.weight.item() == pytest.approx(1.0 - 0.1 * 2.0 / (2.0 + 1.0))
    adam.step(torch.zeros(1))
    second = 0.1 * (0.18 / 0.19) / (np.sqrt(0.003996 / 0.001999) + 1.0)
    assert net.weight.item() == pytest.approx(1.0 - 0.2 / 3.0 - second, rel=1e-6)


def test_gradients_of_a_part_and_of_frozen_parameters_are_zero() -> None:
    """2 w x at w = 3, x = 5 for one layer; the other ones are not in the loss, or need none."""
    layers = [nn.Linear(1, 1, bias=False) for _ in range(3)]
    layers[0].requires_grad_(False)
    nn.init.constant_(layers[1].weight, 3.0)
    flat = FlatParameters(p for layer in layers for p in layer.parameters())
    gradient = flat.gradient(layers[1](torch.full((1, 1), 5.0)).sum() * layers[1].weight.sum())
    assert gradient.tolist() == [0.0, 30.0, 0.0]


@pytest.mark.parametrize("eps", [1e-8, 0.1])
def test_flat_adam_is_torchs_adam(eps: float) -> None:
    ours, usual = network(), network()
    flat, reference = FlatParameters(ours.parameters()), torch.optim.Adam(usual.parameters(), lr=0.03, eps=eps)
    adam = FlatAdam(flat, lr=0.03, eps=eps)
    for step in range(8):
        descend(flat, ours, adam, range(step, step + 1))
        reference.zero_grad()
        x = torch.randn((8, 3), generator=torch.Generator().manual_seed(step))
        torch.autograd.backward(usual(x).square().sum() * 10.0 ** (step % 3 - 1))
        reference.step()
        for a, b in zip(ours.parameters(), usual.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert float(adam.steps) == 8.0


def test_flat_adam_goes_on_from_its_state_to_the_same_bytes() -> None:
    net = network()
    flat = FlatParameters(net.parameters())
    adam = FlatAdam(flat, lr=0.03, eps=1e-8)
    descend(flat, net, adam, range(3))
    vector, state = flat.vector.clone(), adam.state_dict()
    descend(flat, net, adam, range(3, 6))

    def again(**changes: object) -> torch.Tensor:
        other = network(1)
        second = FlatParameters(other.parameters())
        second.vector.copy_(vector)
        resumed = FlatAdam(second, lr=0.03, eps=1e-8)
        resumed.load_state_dict({**state, **changes}, "test")
        descend(second, other, resumed, range(3, 6))
        return second.vector

    assert torch.equal(again(), flat.vector)
    for name, other in (("mean", np.zeros_like(state["mean"])), ("square", 2 * state["square"]), ("steps", 2.0)):
        assert not torch.equal(again(**{name: other}), flat.vector)  # each part counts


def test_a_flat_adam_refuses_states_of_another_network() -> None:
    adam = FlatAdam(FlatParameters(network().parameters()), lr=0.1, eps=1e-8)
    state = adam.state_dict()
    for key in ("mean", "square", "steps"):
        with pytest.raises(RlcError, match=f"test: the saved optimiser lacks '{key}'"):
            adam.load_state_dict({k: v for k, v in state.items() if k != key}, "test")
    with pytest.raises(RlcError, match=r"test: the optimiser's square has shape \(3,\), not \(32,\)"):
        adam.load_state_dict({**state, "square": np.zeros(3)}, "test")
