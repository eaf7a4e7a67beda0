"""Targets of Q and G by hand, the projection of distributions against brute force, and what must not leak."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_contrastive.deep.config import EncoderConfig, ValueConfig
from rl_contrastive.deep.networks import encoder
from rl_contrastive.deep.value import Values, project, td_losses
from rl_contrastive.errors import RlcError


def values(**options) -> Values:
    rng = torch.Generator().manual_seed(0)
    return Values(encoder(EncoderConfig(hidden=(8,)), (3,), "float32", rng=rng), 2, ValueConfig(**options), rng=rng)


def loss(net: Values, out: torch.Tensor, **changes: torch.Tensor | None):
    """Of one value function, action 1."""
    arrays = {
        "reward": torch.tensor([1.0]),
        "discount": torch.tensor([0.5]),
        "online_next": torch.tensor([[3.0, 2.0]]),
        "target_next": torch.tensor([[4.0, 8.0]]),
        "extra_next": torch.zeros(1, 2),
    }
    arrays.update(changes)
    grouped = {k: x if x is None or k == "discount" else x[:, None] for k, x in arrays.items()}
    losses, errors = td_losses(net, out[:, None], torch.tensor([1]), **grouped)
    return losses[:, 0], errors[:, 0]


def test_double_targets_by_hand() -> None:
    out = torch.tensor([[0.0, 2.5]], requires_grad=True)
    value, error = loss(values(), out)  # online prefers action 0, worth 4 to the target: 1 + .5 * 4 = 3
    assert float(error) == pytest.approx(0.5)
    assert float(value.detach()) == pytest.approx(0.125)  # Huber: .5 * .5^2
    _, error = loss(values(), out, online_next=None)  # the target's own choice: 1 + .5 * 8 = 5
    assert float(error) == pytest.approx(2.5)
    value.sum().backward()
    assert out.grad is not None
    assert out.grad[0].tolist() == pytest.approx([0.0, -0.5])


def test_known_bonuses_decide_and_are_added() -> None:
    # b = (0, 3): b + G online = (3, 5) chooses action 1, worth 8 + 3 to the target: 1 + .5 * 11.
    _, error = loss(values(), torch.tensor([[0.0, 0.0]]), extra_next=torch.tensor([[0.0, 3.0]]))
    assert float(error) == pytest.approx(6.5)


def test_value_functions_side_by_side_do_not_mix() -> None:
    """Q and G in one array give what each gives alone."""
    rng = torch.Generator().manual_seed(3)
    out, online, target, extra = (torch.randn(5, 2, 3, generator=rng) for _ in range(4))
    reward, discount, action = torch.randn(5, 2, generator=rng), torch.rand(5, generator=rng), torch.arange(5) % 3
    rest = {"discount": discount}

    def part(v: slice):
        arrays = {"reward": reward[:, v], "online_next": online[:, v], "target_next": target[:, v]}
        return td_losses(values(), out[:, v], action, extra_next=extra[:, v], **arrays, **rest)

    both = part(slice(0, 2))
    for v in range(2):
        for mine, alone in zip(both, part(slice(v, v + 1)), strict=True):
            assert torch.equal(mine[:, v], alone[:, 0])
    assert not torch.allclose(both[1][:, 0], both[1][:, 1])


def test_nothing_is_bootstrapped_at_a_true_terminal() -> None:
    extra = torch.tensor([[100.0, 100.0]])
    _, error = loss(values(), torch.tensor([[0.0, 0.0]]), discount=torch.tensor([0.0]), extra_next=extra)
    assert float(error) == pytest.approx(1.0)


def brute(p: np.ndarray, reward: float, discount: float, atoms: np.ndarray) -> np.ndarray:
    out = np.zeros_like(p)
    for mass, atom in zip(p, atoms, strict=True):
        x = min(max(reward + discount * atom, atoms[0]), atoms[-1])
        j = min(int(np.searchsorted(atoms, x, side="right")) - 1, len(atoms) - 2)
        share = (x - atoms[j]) / (atoms[j + 1] - atoms[j])
        out[j] += mass * (1 - share)
        out[j + 1] += mass * share
    return out


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(-3, 3), st.floats(0, 1))
def test_projection_agrees_with_brute_force(seed: int, reward: float, discount: float) -> None:
    rng, atoms = np.random.default_rng(seed), np.linspace(-2.0, 2.0, 9)
    p = rng.dirichlet(np.ones(9))
    r, g = (torch.tensor([x], dtype=torch.float64) for x in (reward, discount))
    mine = project(torch.tensor(p)[None], r, g, torch.tensor(atoms))
    np.testing.assert_allclose(mine[0].numpy(), brute(p, reward, discount, atoms), atol=1e-9)


def test_a_distribution_learns_the_same_mean_as_a_value() -> None:
    """The head at one state with target 1 + .5 * mean(next): its mean goes there, and not to the plain maximum."""
    net = values(atoms=41, low=-10.0, high=10.0)
    logits = torch.zeros(1, 2, 41, requires_grad=True)
    following = torch.zeros(1, 2, 41)
    following[0, 0, 28] = 50.0  # all mass at atom -10 + 28 * .5 = 4
    optimiser = torch.optim.Adam([logits], lr=0.2)
    for _ in range(300):
        optimiser.zero_grad()
        value, _ = loss(net, logits, online_next=following, target_next=following)
        value.sum().backward()
        optimiser.step()
    assert float(net.mean(logits)[0, 1].detach()) == pytest.approx(3.0, abs=0.1)
    assert float(net.mean(logits)[0, 0].detach()) == pytest.approx(0.0, abs=1e-5)  # the other action is untouched


def test_bad_options_are_sentences() -> None:
    for options in ({"atoms": 0}, {"low": 1.0, "high": 1.0}, {"hidden": -1}):
        with pytest.raises(RlcError, match="value: "):
            ValueConfig(**options)
