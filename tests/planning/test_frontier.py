"""The frontier's backward pass: by hand on three states, and against every way to walk and stop."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_contrastive.planning.frontier import plan_frontier


def three_states():
    """Two steps, states 0, 1, 2, two actions; only state 0 is a start, and one arrival in four ends the episode."""
    P, N, r = np.zeros((2, 3, 2, 3)), np.zeros((2, 3, 2)), np.zeros((2, 3, 2))
    P[0, 0, 0, 1], P[0, 0, 0, 2] = 0.5, 0.25
    P[0, 0, 1, 2] = 1.0
    N[0, 0], N[1, 1], N[1, 2] = (8, 3), (3, 0), (15, 8)
    r[0, 0], r[1, 1], r[1, 2] = (0.2, 0.1), (0.7, 9.0), (0.4, -0.6)
    return P, r, N


def test_three_states_by_hand():
    plan = plan_frontier(*three_states())
    # b = 1/sqrt(1 + N): 8 -> 1/3, 3 -> 1/2, 15 -> 1/4, 0 -> 1.
    np.testing.assert_allclose(plan.bonus[0], [[1 / 3, 1 / 2], [1, 1], [1, 1]])
    np.testing.assert_allclose(plan.bonus[1], [[1, 1], [1 / 2, 1], [1 / 4, 1 / 3]])
    # Last step: nothing lies ahead.
    np.testing.assert_array_equal(plan.reachable[1], np.zeros((3, 2)))
    np.testing.assert_array_equal(plan.E[1], plan.bonus[1])
    # First step: max_a E_1 = (1, 1, 1/3); the quarter that ended reaches nothing.
    np.testing.assert_allclose(plan.reachable[0, 0], [0.5 * 1 + 0.25 / 3, 1 / 3])
    np.testing.assert_allclose(plan.E[0, 0], [0.5 + 1 / 12, 1 / 2])
    # Walk on from 0 (7/12 ahead against 1/2 here); wherever nothing lies ahead, here is the frontier.
    np.testing.assert_array_equal(plan.frontier(), [[0, 1, 1], [1, 1, 1]])
    # Greedy values: the untried action of state 1 is taken for its worst tried one, whatever r says of it.
    np.testing.assert_allclose(plan.Q[1], [[0, 0], [0.7, 0.7], [0.4, -0.6]])
    np.testing.assert_allclose(plan.Q[0, 0], [0.2 + 0.5 * 0.7 + 0.25 * 0.4, 0.1 + 0.4])


def test_the_frontier_moves_on_once_it_was_tried():
    P, r, N = three_states()
    N[1, 1, 1] = 24  # b = 1/5, so state 1 offers 1/2, and 0.25 + 1/12 ahead is less than 1/2 here
    assert plan_frontier(P, r, N).frontier()[0, 0] == 1


@pytest.mark.parametrize(("tried", "lowest"), [((2.0, -1.0), -1.0), ((2.0, 3.0), 2.0)])
def test_pairs_never_tried_keep_the_lowest_value(tried, lowest):
    """The last action was never tried: it is no better than the worst known one, below 0 or above."""
    r = np.array([[[*tried, 7.0]]])
    plan = plan_frontier(np.zeros((1, 1, 3, 1)), r, np.array([[[1.0, 1.0, 0.0]]]))
    np.testing.assert_array_equal(plan.Q[0, 0], [*tried, lowest])
    assert plan.bonus[0, 0].argmax() == 2  # exploring prefers it all the same


def test_a_state_never_seen_is_worth_nothing():
    P = np.ones((2, 1, 2, 1))
    plan = plan_frontier(P, np.full((2, 1, 2), 5.0), np.array([[[1.0, 1.0]], [[0.0, 0.0]]]))
    np.testing.assert_array_equal(plan.Q, [[[5.0, 5.0]], [[0.0, 0.0]]])


def test_terminals_hide_what_lies_behind_them():
    P, r, N = three_states()
    P[0, 0, 0] = 0.0  # all arrivals of the first action ended
    plan = plan_frontier(P, r, N)
    assert plan.reachable[0, 0, 0] == 0.0
    assert plan.E[0, 0, 0] == plan.bonus[0, 0, 0]
    assert plan.Q[0, 0, 0] == 0.2


def best_stop(P, bonus, start: int) -> float:
    """Largest expected bonus over all deterministic walks with a choice of where to stop: no recursion."""
    H, S, A = bonus.shape
    best = 0.0
    for choice in product(product(range(A), (False, True)), repeat=H * S):
        action = np.array([a for a, _ in choice]).reshape(H, S)
        stop = np.array([s for _, s in choice]).reshape(H, S)
        stop[-1] = True
        law, total = np.eye(S)[start], 0.0
        for h in range(H):
            at = bonus[h, np.arange(S), action[h]]
            total += (law * stop[h]) @ at
            law = (law * ~stop[h]) @ P[h, np.arange(S), action[h]]
        best = max(best, total)
    return best


@pytest.mark.parametrize("seed", range(4))
def test_the_recursion_is_the_best_walk_to_one_pair(seed):
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.ones(3), size=(2, 2, 2))[..., :2]  # the third outcome ends the episode
    plan = plan_frontier(P, np.zeros((2, 2, 2)), rng.integers(20, size=(2, 2, 2)).astype(float))
    for s in range(2):
        assert plan.E[0, s].max() == pytest.approx(best_stop(P, plan.bonus, s), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 12))
def test_uncertainty_lies_in_0_1_above_the_bonus_and_falls_with_data(seed, H):
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.ones(4), size=(H, 3, 2))[..., :3]
    N, r = rng.integers(30, size=(H, 3, 2)).astype(float), rng.normal(size=(H, 3, 2))
    plan = plan_frontier(P, r, N)
    assert ((plan.E > 0) & (plan.E <= 1)).all()  # no growth with H: there is nothing to clip
    assert (plan.bonus <= plan.E).all()
    assert (plan.reachable <= plan.E).all()
    more = plan_frontier(P, r, N + rng.integers(5, size=N.shape))
    assert (more.E <= plan.E + 1e-12).all()
