"""Data of the conditional study: what is known by hand, and that a problem does not depend on its neighbours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rl_contrastive.claims.energy.conditional_data import (
    Problems,
    Sizes,
    context_law,
    draw_problems,
    draw_transitions,
    held_out_nll,
    kernel,
    mean_tv,
)
from rl_contrastive.errors import RlcError

CPU = torch.device("cpu")
SIZES = Sizes(num_states=8, num_actions=2, rank=3)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def by_hand() -> Problems:
    """One problem, two contexts (S=2, A=1), three transitions, all of context 0."""
    return Problems(
        sizes=Sizes(num_states=2, num_actions=1, rank=1),
        P=torch.tensor([[[0.5, 0.5], [0.25, 0.75]]], dtype=torch.float64),
        x=torch.tensor([[0, 0, 0]]),
        y=torch.tensor([[0, 0, 1]]),
        x_held=torch.tensor([[0, 1]]),
        y_held=torch.tensor([[0, 1]]),
        pool=torch.tensor([[0, 0, 1, 0, 1]]),
    )


def test_the_kernel_is_a_law_of_rank_d_and_differs_from_seed_to_seed():
    P = kernel(3, SIZES)
    assert P.shape == (16, 8)
    np.testing.assert_allclose(P.sum(1), 1.0, atol=1e-12)
    assert np.linalg.matrix_rank(P, tol=1e-9) == 3
    assert np.abs(P - kernel(4, SIZES)).max() > 0.1


def test_contexts_follow_zipf_in_some_order():
    law = context_law("zipf", 4, rng=rng())
    np.testing.assert_allclose(np.sort(law)[::-1], np.array([12, 6, 4, 3]) / 25.0)
    np.testing.assert_array_equal(context_law("uniform", 4, rng=rng()), np.full(4, 0.25))
    with pytest.raises(RlcError, match="zipf"):
        context_law("zip", 4, rng=rng())


def test_transitions_have_the_frequencies_of_their_law():
    P = np.array([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]])
    x, y = draw_transitions(P, np.array([0.75, 0.25]), 40000, rng=rng())
    assert abs((x == 0).mean() - 0.75) < 0.01  # 4.6 standard errors
    frequency = np.bincount(y[x == 0], minlength=3) / (x == 0).sum()
    np.testing.assert_allclose(frequency, P[0], atol=0.012)
    assert (y[x == 1] == 2).all()


def test_noise_law_counts_visits_and_tv_by_hand():
    problems = by_hand()
    np.testing.assert_allclose(problems.q.numpy(), [[3 / 5, 2 / 5]])
    np.testing.assert_array_equal(problems.counts.numpy(), [[[2, 1], [0, 0]]])
    np.testing.assert_array_equal(problems.visited.numpy(), [[True, False]])
    P_hat = torch.tensor([[[0.7, 0.3], [0.0, 0.0]]], dtype=torch.float64)
    assert float(mean_tv(P_hat, problems)) == pytest.approx(0.2)  # the unvisited context does not count
    twice = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]], dtype=torch.float64)
    assert float(mean_tv(twice, problems)) == pytest.approx(0.5)  # a measure of mass 2 is .5 away


def test_held_out_nll_by_hand():
    P_hat = torch.tensor([[[0.7, 0.3], [0.9, 0.1]]], dtype=torch.float64)
    assert float(held_out_nll(P_hat, by_hand())) == pytest.approx(-(math.log(0.7) + math.log(0.1)) / 2)


def test_the_noise_law_covers_outcomes_that_never_happened():
    problems = draw_problems((0,), SIZES, transitions=3, held_out=1, law="uniform", device=CPU)
    assert float(problems.q.min()) >= 1 / 11 - 1e-12
    assert float(problems.q.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("law", ["uniform", "zipf"])
def test_a_problem_does_not_depend_on_its_neighbours(law):
    pair = draw_problems((1, 2), SIZES, transitions=50, held_out=10, law=law, device=CPU)
    alone = draw_problems((2,), SIZES, transitions=50, held_out=10, law=law, device=CPU)
    for name in ("P", "x", "y", "x_held", "y_held", "pool"):
        assert torch.equal(getattr(pair, name)[1], getattr(alone, name)[0]), name
    assert not torch.equal(pair.x[0], pair.x[1])
    assert not torch.equal(pair.x[:, :10], pair.x_held)  # held-out data are others
