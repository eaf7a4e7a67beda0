"""Games by hand, by brute force over deterministic responses, and by linear programming."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linprog

from rl_contrastive.errors import RlcError
from rl_contrastive.planning.bounds import ReturnBounds
from rl_contrastive.planning.games import duality_gap, kernels, nash_values
from rl_contrastive.planning.optimistic_games import plan_game, plan_nash
from rl_contrastive.spec import EnvSpec, ExactModel, joint_action, marginals, product, split_action

PENNIES = np.array([[1.0, 0.0], [0.0, 1.0]])


def random_game(seed, H=3, S=4, A=2, B=3, d=None):
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.ones(S), size=(H, S, A * B))
    if d is not None:
        P = rng.dirichlet(np.ones(d), size=(H, S, A * B)) @ rng.dirichlet(np.ones(S), size=(H, d))
    r, rho = rng.random((H, S, A * B)), rng.dirichlet(np.ones(S))
    V, Q = nash_values(P, r, (A, B))
    return ExactModel(P, r, rho, None, None, V, Q, True, players=(A, B))


def random_policies(model, seed, M=1):
    rng = np.random.default_rng(seed)
    H, S, _ = model.r.shape
    A, B = model.players
    return rng.dirichlet(np.ones(A), size=(H, S, M)), rng.dirichlet(np.ones(B), size=(H, S, M))


def one_step(M):
    """A game of one state and one step with the payoffs M."""
    r = M.reshape(1, 1, -1)
    P = np.ones((1, 1, M.size, 1))
    V, Q = nash_values(P, r, M.shape)
    return ExactModel(P, r, np.ones(1), None, None, V, Q, True, players=M.shape)


def test_joint_actions_round_trip_and_products_have_their_marginals():
    a, b = np.array([0, 1, 1]), np.array([2, 0, 1])
    assert joint_action(a, b, (2, 3)).tolist() == [2, 3, 4]
    for back, given in zip(split_action(joint_action(a, b, (2, 3)), (2, 3)), (a, b), strict=True):
        assert back.tolist() == given.tolist()
    mu, nu = np.array([[0.25, 0.75]]), np.array([[0.5, 0.5, 0.0]])
    assert product(mu, nu).tolist() == [[0.125, 0.125, 0.0, 0.375, 0.375, 0.0]]
    for back, given in zip(marginals(product(mu, nu), (2, 3)), (mu, nu), strict=True):
        np.testing.assert_allclose(back, given)


def test_matching_pennies_by_hand():
    model = one_step(PENNIES)
    assert model.optimal_return == pytest.approx(0.5)
    half, first = np.full((1, 1, 1, 2), 0.5), np.array([[[[1.0, 0.0]]]])
    fair = duality_gap(model, half, half)
    assert (fair.value, fair.best_max, fair.best_min, fair.gap) == pytest.approx((0.5, 0.5, 0.5, 0.0))
    naive = duality_gap(model, first, first)  # min answers with column 1, max with row 0
    assert (naive.value, naive.best_max, naive.best_min, naive.gap) == pytest.approx((1.0, 1.0, 0.0, 1.0))


def test_a_responder_who_sees_the_observation_gains_from_a_policy_that_varies_with_it():
    """One pure action for each of two equally likely observations: half and half on average, but it can be seen."""
    model = one_step(PENNIES)
    seen = np.array([[[[1.0, 0.0], [0.0, 1.0]]]])  # (1, 1, M=2, A)
    half = np.full((1, 1, 2, 2), 0.5)
    assert duality_gap(model, seen, half).best_min == pytest.approx(0.0)
    assert duality_gap(model, half, seen).best_max == pytest.approx(1.0)
    blind = seen.mean(axis=2, keepdims=True)
    assert duality_gap(model, blind, half[:, :, :1]).best_min == pytest.approx(0.5)
    assert duality_gap(model, half[:, :, :1], blind).best_max == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(3))
def test_best_responses_equal_brute_force_over_deterministic_policies(seed):
    model = random_game(seed, H=2, S=2)
    A, B = model.players
    mu, nu = random_policies(model, seed)
    found = duality_gap(model, mu, nu)

    def value(rows, columns):
        V = np.zeros(2)
        for h in (1, 0):
            V = np.array(
                [rows[h, s, 0] @ (model.r[h, s] + model.P[h, s] @ V).reshape(A, B) @ columns[h, s, 0] for s in (0, 1)]
            )
        return model.rho @ V

    def pure(actions):
        choices = itertools.product(range(actions), repeat=4)
        return [np.eye(actions)[np.reshape(c, (2, 2))][:, :, None] for c in choices]

    assert found.value == pytest.approx(value(mu, nu))
    assert found.best_max == pytest.approx(max(value(rows, nu) for rows in pure(A)))
    assert found.best_min == pytest.approx(min(value(mu, columns) for columns in pure(B)))


def test_sparse_and_shared_kernels_give_the_same_gap():
    rng = np.random.default_rng(0)
    S, A, B, H = 40, 2, 2, 3
    P = np.zeros((S, 4, S))
    P[np.arange(S)[:, None], np.arange(4), rng.integers(S, size=(S, 4))] = 1.0
    r = rng.random((S, 4))
    stacked = ExactModel(
        *(np.stack([x] * H) for x in (P, r)), np.full(S, 1 / S), None, None, r, r, True, players=(A, B)
    )
    shared = replace(stacked, P=np.broadcast_to(P, (H, S, 4, S)))
    assert sparse.issparse(kernels(shared.P)[2])
    assert len(set(map(id, kernels(shared.P)))) == 1
    mu, nu = random_policies(stacked, 1)
    by_hand = np.zeros(S)  # best responses of max through the dense table
    for h in (2, 1, 0):
        Q = (r + P @ by_hand).reshape(S, A, B)
        by_hand = np.einsum("sab,sb->sa", Q, nu[h, :, 0]).max(axis=1)
    for model in (stacked, shared):
        assert duality_gap(model, mu, nu).best_max == pytest.approx(by_hand.mean())


@pytest.mark.parametrize("seed", range(3))
def test_nash_values_equal_linear_programmes_and_their_policies_have_no_gap(seed):
    model = random_game(seed)
    A, B = model.players
    H, S, _ = model.r.shape
    for h, s in itertools.product(range(H), range(S)):
        M = model.Q[h, s].reshape(A, B)
        rows = np.hstack([-M.T, np.ones((B, 1))])  # max v with x'M >= v
        best = linprog(
            np.append(np.zeros(A), -1.0), A_ub=rows, b_ub=np.zeros(B), A_eq=[[1.0] * A + [0.0]], b_eq=[1.0],
            bounds=[(0, None)] * A + [(None, None)],
        )  # fmt: skip
        assert model.V[h, s] == pytest.approx(-best.fun, abs=1e-9)
    plan = plan_nash(model.P, model.r, model.players)
    np.testing.assert_allclose(plan.V, model.V, atol=1e-12)
    assert duality_gap(model, plan.mu[:, :, None], plan.nu[:, :, None]).gap == pytest.approx(0.0, abs=1e-10)
    # Control: what is no equilibrium has a gap.
    assert duality_gap(model, *random_policies(model, seed)).gap > 0.05


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bonus", [0.0, 0.02, 0.3, 10.0])
def test_width_of_an_optimistic_plan_bounds_the_gap_of_its_marginals(seed, bonus):
    model = random_game(seed, H=4)
    H = 4
    plan = plan_game(model.P, model.r, bonus, model.players, cap=np.arange(H, 0.0, -1))
    assert (plan.V_upper[:-1] >= model.V[:-1] - 1e-9).all()
    assert (plan.V_lower[:-1] <= model.V[:-1] + 1e-9).all()
    mu, nu = marginals(plan.sigma, model.players)
    gap = duality_gap(model, mu[:, :, None], nu[:, :, None]).gap
    assert gap <= float(model.rho @ plan.width()) + 1e-9
    assert plan.gap <= 1e-9
    if bonus == 0.0:
        np.testing.assert_allclose(plan.V_upper, model.V, atol=1e-9)
        assert gap == pytest.approx(0.0, abs=1e-8)
    if bonus == 10.0:
        assert plan.saturated == 1.0


def test_each_end_of_an_optimistic_plan_has_the_whole_bonus_by_hand():
    """Two steps of one joint action that pays .5, bonus .1: 1 +- .2 over both, .5 +- .1 over the last."""
    P, r = np.ones((2, 1, 1, 1)), np.full((2, 1, 1), 0.5)
    plan = plan_game(P, r, 0.1, (1, 1), cap=np.array([2.0, 1.0]))
    np.testing.assert_allclose(plan.V_upper[:, 0], [1.2, 0.6, 0.0])
    np.testing.assert_allclose(plan.V_lower[:, 0], [0.8, 0.4, 0.0])


def test_where_all_joint_actions_tie_the_equilibrium_is_uniform():
    """A vertex would be the same joint action in each plan; where anything differs, the solver's answer stands."""
    model = random_game(3)
    full = plan_game(model.P, model.r, 10.0, model.players, cap=np.arange(3, 0.0, -1))
    assert (full.sigma == 1 / 6).all()
    assert (plan_nash(model.P, model.r, model.players, 10.0, cap=np.arange(3, 0.0, -1)).mu == 0.5).all()
    none = plan_game(model.P, model.r, 0.0, model.players, cap=np.arange(3, 0.0, -1))
    assert (none.sigma != 1 / 6).any(axis=2).all()


def test_a_plan_that_is_not_optimistic_does_not_cover():
    """Control: a wrong model without a bonus is sure of itself, and wrong."""
    model, wrong = random_game(0), random_game(1)
    plan = plan_game(wrong.P, wrong.r, 0.0, model.players, cap=np.arange(3, 0.0, -1))
    mu, nu = marginals(plan.sigma, model.players)
    assert duality_gap(model, mu[:, :, None], nu[:, :, None]).gap > float(model.rho @ plan.width()) + 0.01


def test_one_kernel_serves_all_steps_and_alive_stops_the_value():
    model = random_game(0, H=3)
    stacked = np.repeat(model.P[:1], 3, axis=0)
    a = plan_game(model.P[:1], model.r, 0.1, model.players, cap=3.0)
    b = plan_game(stacked, model.r, 0.1, model.players, cap=3.0)
    np.testing.assert_array_equal(a.sigma, b.sigma)
    over = plan_nash(model.P, model.r, model.players, alive=np.zeros((3, 4)))
    last = plan_nash(model.P[2:], model.r[2:], model.players)
    first = plan_nash(model.P[:1], model.r[:1], model.players)
    np.testing.assert_allclose(over.V[2], last.V[0])
    np.testing.assert_allclose(over.V[0], first.V[0])


def test_optimism_of_a_maximiser_alone_is_an_upper_bound():
    model = random_game(2)
    plan = plan_nash(model.P, model.r, model.players, 0.1, cap=np.arange(3, 0.0, -1), floor=0.0)
    assert (plan.V[:-1] >= model.V[:-1] - 1e-9).all()
    assert (plan.V[0] > model.V[0] + 0.05).all()


def test_what_does_not_fit_is_said():
    model = random_game(0)
    mu, _ = random_policies(model, 0)
    with pytest.raises(RlcError, match="nu has shape"):
        duality_gap(model, mu, mu)
    with pytest.raises(RlcError, match="joint actions"):
        plan_nash(model.P, model.r, (2, 2))
    with pytest.raises(RlcError, match="rewards have shape"):
        plan_nash(model.P, model.r[:2], model.players)


def test_returns_of_a_game_are_bounded_at_both_ends_even_where_nothing_is_declared():
    spec = EnvSpec("g", 4, 2, (), "int64", 1, players=(2, 2))
    floor, cap = ReturnBounds(spec, None).returns()
    assert (floor.tolist(), cap.tolist()) == ([-2.0, -1.0], [2.0, 1.0])
    floor, cap = ReturnBounds(spec, 3.0).returns()
    assert (floor.tolist(), cap.tolist()) == ([-6.0, -3.0], [6.0, 3.0])
    floor, cap = ReturnBounds(replace(spec, reward_range=(-1.0, 1.0), return_range=(-1.0, 1.0)), None).returns()
    assert (floor.tolist(), cap.tolist()) == ([-1.0, -1.0], [1.0, 1.0])
    one = ReturnBounds(replace(spec, players=None, reward_range=(0.0, np.inf)), None).returns()
    assert (one[0].tolist(), one[1].tolist()) == ([0.0, 0.0], [2.0, 1.0])
