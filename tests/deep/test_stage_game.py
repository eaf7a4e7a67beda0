"""Stage games in the deep learner: equilibria at a state, targets of three values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matrix_game import PENNIES

from rl_contrastive.deep.choice import Best, StageGame, choice_of
from rl_contrastive.deep.value import stage_losses
from rl_contrastive.planning.equilibrium import cce_gap

ROCK = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
"""Rock, paper, scissors: value 0, both play 1/3 each."""


def test_equilibria_of_known_games():
    pennies, rock = (game.reshape(1, -1) for game in (PENNIES, ROCK))
    np.testing.assert_allclose(StageGame((2, 2)).final(pennies), 0.25)
    np.testing.assert_allclose(StageGame((3, 3)).final(rock), 1 / 9)
    weights = StageGame((3, 3)).weights(np.stack([rock] * 3, axis=1))
    np.testing.assert_allclose((weights * rock[:, None]).sum(-1), 0.0, atol=1e-12)
    dominant = np.array([[3.0, 2.0, 1.0, 0.0]])  # row 0, column 1
    assert StageGame((2, 2)).final(dominant).tolist() == [[0.0, 1.0, 0.0, 0.0]]
    assert Best().final(dominant).tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_optimistic_play_is_a_cce_of_both_ends():
    """U = M + b, L = M - b: the bonus draws both players, with opposite signs in their tables."""
    rng = np.random.default_rng(0)
    M, b = rng.normal(size=(50, 12)), rng.random((50, 12))
    upper, lower = (M + b).reshape(50, 3, 4), (M - b).reshape(50, 3, 4)
    sigma = StageGame((3, 4)).law([M + b, M - b])
    assert cce_gap(upper, lower, sigma.reshape(50, 3, 4)).max() < 1e-9
    b = np.zeros((3, 4))
    b[1] = 5.0  # a row that was never tried: the maximiser goes there
    assert StageGame((3, 4)).law([b.reshape(1, 12), -b.reshape(1, 12)])[0, 4:8].sum() == pytest.approx(1.0)
    tied = StageGame((3, 4)).law([np.ones((1, 12)), np.ones((1, 12))])
    np.testing.assert_allclose(tied, 1 / 12)  # a vertex would try the same pair again and again


def test_targets_worked_out_by_hand():
    """Matching pennies ahead, value 1/2; the upper end pays .2 more everywhere, the lower one .2 less."""
    q = torch.tensor(PENNIES.reshape(1, 1, 4)).float()
    ahead = torch.cat([q, q + 0.2, q - 0.2], dim=1)  # (1, 3, 4)
    weights = torch.as_tensor(StageGame((2, 2)).weights(ahead.double().numpy())).float()
    out = torch.zeros(1, 3, 4)
    arrays = {"reward": torch.tensor([[1.0, 1.1, 0.9]]), "weights": weights, "next_values": ahead}
    action = torch.tensor([2])

    def errors(discount: float, bounds: tuple[float, float]) -> list[float]:
        _, found = stage_losses(out, action, discount=torch.tensor([discount]), bounds=bounds, **arrays)
        return found[0].tolist()

    free = (-np.inf, np.inf)
    assert errors(1.0, free) == pytest.approx([1.5, 1.8, 1.2])
    assert errors(0.9, free) == pytest.approx([1.45, 1.73, 1.17])
    assert errors(0.0, free) == pytest.approx([1.0, 1.1, 0.9])  # a true terminal
    assert errors(1.0, (0.4, 0.6)) == pytest.approx([1.5, 1.7, 1.3])  # V-bar .7 and V-under .3, clipped


def test_gradients_reach_the_joint_action_that_was_played():
    out = torch.zeros(1, 3, 4, requires_grad=True)
    ahead = torch.zeros(1, 3, 4)
    losses, _ = stage_losses(
        out,
        torch.tensor([2]),
        reward=torch.ones(1, 3),
        discount=torch.ones(1),
        weights=torch.full((1, 3, 4), 0.25),
        next_values=ahead,
        bounds=(-1.0, 1.0),
    )
    losses.sum().backward()
    assert out.grad is not None
    assert out.grad[0].nonzero()[:, 1].tolist() == [2, 2, 2]


def test_one_agent_keeps_its_maximum():
    assert isinstance(choice_of(None), Best)
    assert choice_of(None).signs == (0.0, 1.0)
    assert choice_of((2, 3)).signs == (0.0, 1.0, -1.0)
