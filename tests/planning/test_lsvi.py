"""Backward passes against every policy there is, against each other, and against simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from rl_contrastive.errors import RlcError
from rl_contrastive.planning.lsvi import Plan, occupancy, plan_features, plan_model, plan_ridge, policy_values
from rl_contrastive.planning.models import DenseModel
from rl_contrastive.spec import optimal_values


def random_mdp(rng, H: int = 3, S: int = 2, A: int = 2):
    P = rng.dirichlet(np.ones(S), size=(H, S, A))
    return P, rng.normal(size=(H, S, A)), rng.dirichlet(np.ones(S))


def value_by_paths(P, r, rho, pi) -> float:
    """E[sum of rewards] by adding up every path (s_0, a_0, s_1, ...): no recursion, no linear algebra."""
    H, S, A = r.shape
    total = 0.0
    for path in product(*([range(S), range(A)] * H)):
        s, a = path[::2], path[1::2]
        p = rho[s[0]]
        for h in range(H):
            p *= pi[h, s[h], a[h]]
            if h + 1 < H:
                p *= P[h, s[h], a[h], s[h + 1]]
        total += p * sum(r[h, s[h], a[h]] for h in range(H))
    return total


def deterministic_policies(H: int, S: int, A: int):
    for choice in product(range(A), repeat=H * S):
        yield np.eye(A)[np.array(choice).reshape(H, S)]


# plan_model.


def test_two_steps_by_hand():
    """State 0: action 1 pays .5 and stays, action 0 goes to state 1, where both actions pay 2. V_0 = (2, 4)."""
    P = np.zeros((2, 2, 2, 2))
    P[:, 0, 0, 1] = P[:, 0, 1, 0] = P[:, 1, :, 1] = 1.0
    r = np.tile([[0.0, 0.5], [2.0, 2.0]], (2, 1, 1))
    plan = plan_model(P, r)
    np.testing.assert_allclose(plan.Q[0], [[2.0, 1.0], [4.0, 4.0]])
    np.testing.assert_allclose(plan.V, [[2.0, 4.0], [0.5, 2.0], [0.0, 0.0]])
    np.testing.assert_allclose(plan.greedy()[0], [[1.0, 0.0], [0.5, 0.5]])  # ties are shared


@pytest.mark.parametrize("seed", range(5))
def test_exact_planning_beats_every_policy(seed):
    """64 deterministic policies of a 3-step, 2-state MDP, each valued by summing over paths."""
    P, r, rho = random_mdp(np.random.default_rng(seed))
    best = max(value_by_paths(P, r, rho, pi) for pi in deterministic_policies(3, 2, 2))
    plan = plan_model(P, r)
    assert rho @ plan.V[0] == pytest.approx(best, abs=1e-12)
    assert value_by_paths(P, r, rho, plan.greedy()) == pytest.approx(best, abs=1e-12)
    V, Q = optimal_values(P, r)
    np.testing.assert_allclose(plan.V, V)
    np.testing.assert_allclose(plan.Q, Q)
    np.testing.assert_array_equal(plan_model(DenseModel(P), r).Q, plan.Q)


def test_a_bonus_makes_values_optimistic_and_zero_bonus_does_not():
    P, r, _ = random_mdp(np.random.default_rng(0), 4, 3, 2)
    exact = plan_model(P, r).V
    assert (plan_model(P, r, 0.3).V[:-1] > exact[:-1] + 0.29).all()
    np.testing.assert_array_equal(plan_model(P, r, np.zeros(r.shape)).V, exact)


def test_cap_floor_and_saturation():
    P = np.ones((2, 1, 2, 1))
    r = np.array([[[5.0, -3.0]], [[0.5, 0.25]]])
    plan = plan_model(P, r, cap=np.array([2.0, 1.0]))
    np.testing.assert_allclose(plan.Q, [[[2.0, 0.0]], [[0.5, 0.25]]])
    assert plan.saturated == 0.25  # one of four at its cap
    np.testing.assert_allclose(plan_model(P, r, cap=2.0, floor=-1.0).Q[0], [[2.0, -1.0]])
    assert plan_model(P, r).saturated == 0.0
    assert plan_model(P, r, 100.0, cap=2.0).saturated == 1.0  # a bonus that leaves no preference at all


def test_an_infinite_bonus_means_the_cap():
    plan = plan_model(np.ones((1, 1, 2, 1)), np.zeros((1, 1, 2)), np.array([[[np.inf, 0.0]]]), cap=3.0)
    np.testing.assert_allclose(plan.Q, [[[3.0, 0.0]]])


# plan_ridge.


def recorded(rng, P, r, N: int):
    """N transitions a step from uniform pairs, with the features one-hot(s, a)."""
    H, S, A = r.shape
    s, a = rng.integers(S, size=(H, N)), rng.integers(A, size=(H, N))
    s_next = np.array([[rng.choice(S, p=P[h, s[h, n], a[h, n]]) for n in range(N)] for h in range(H)])
    onehot = np.eye(S * A)
    phi = onehot[s * A + a]
    phi_next = onehot[(s_next[..., None] * A + np.arange(A))]  # (H, N, A, SA)
    return s, a, s_next, phi, phi_next


def test_onehot_ridge_is_dynamic_programming_on_shrunk_frequencies():
    """w_h(s,a) = sum over visits of [r + V(s')] / (lambda + N): the empirical model times N / (N + lambda)."""
    rng = np.random.default_rng(3)
    H, S, A, N, lam = 3, 3, 2, 60, 0.5
    P, r, _ = random_mdp(rng, H, S, A)
    r = np.abs(r)
    s, a, s_next, phi, phi_next = recorded(rng, P, r, N)
    bonus = rng.random((H, S, A))
    following = np.minimum(np.arange(H) + 1, H - 1)[:, None]
    w = plan_ridge(
        phi,
        r[np.arange(H)[:, None], s, a],
        phi_next,
        bonus[following, s_next],
        np.ones((H, N)),
        np.full(H, N),
        lam=lam,
        cap=5.0,
    )
    counts = np.zeros((H, S, A, S))
    np.add.at(counts, (np.arange(H)[:, None], s, a, s_next), 1.0)
    visits = counts.sum(axis=-1)
    V = np.zeros(S)
    for h in reversed(range(H)):
        values = (visits[h] * r[h] + counts[h] @ V) / (lam + visits[h])
        np.testing.assert_allclose(w[h].reshape(S, A), values, atol=1e-12)
        V = np.clip(values + bonus[h], 0.0, 5.0).max(axis=1)


def test_ridge_reads_no_padding_and_nothing_after_a_terminal():
    rng = np.random.default_rng(4)
    H, N, A, d = 2, 8, 2, 3
    phi, phi_next = rng.normal(size=(H, N, d)), rng.normal(size=(H, N, A, d))
    reward, bonus, count = rng.random((H, N)), rng.random((H, N, A)), np.array([5, 3])
    discount = np.ones((H, N))
    w = plan_ridge(phi, reward, phi_next, bonus, discount, count)
    spoiled = [x.copy() for x in (phi, reward, phi_next, bonus, discount)]
    for x in spoiled:
        x[0, 5:], x[1, 3:] = 99.0, 99.0
    np.testing.assert_allclose(plan_ridge(*spoiled, count), w)
    # Terminal everywhere: each step is a plain regression of its reward.
    alone = plan_ridge(phi, reward, phi_next, bonus, np.zeros((H, N)), count)
    for h in range(H):
        X, y = phi[h, : count[h]], reward[h, : count[h]]
        np.testing.assert_allclose(alone[h], np.linalg.solve(np.eye(d) + X.T @ X, X.T @ y))
    assert np.abs(alone[0] - w[0]).max() > 1e-3  # the value of what follows matters otherwise
    with pytest.raises(RlcError, match="lambda must be > 0"):
        plan_ridge(phi, reward, phi_next, bonus, discount, count, lam=0.0)


# plan_features.


@pytest.mark.parametrize("cap", [np.inf, 2.0])
def test_features_of_a_low_rank_model_give_the_plan_of_its_table(cap):
    """P = P^- psi'phi: w_h = E_{P^-}[psi V] through every successor is the same backward pass."""
    rng = np.random.default_rng(5)
    H, S, A, d = 4, 6, 3, 2
    phi = rng.dirichlet(np.ones(d), size=(H, S, A))
    mu = rng.dirichlet(np.ones(S), size=(H, d)).transpose(0, 2, 1)  # (H, S, d)
    law = rng.dirichlet(np.ones(S), size=H)
    psi = mu / law[..., None]
    r, bonus = rng.random((H, S, A)), 0.1 * rng.random((H, S, A))
    following = np.minimum(np.arange(H) + 1, H - 1)
    w = plan_features(psi, law, phi[following], r[following], bonus[following], np.ones((H, S)), cap=cap)
    P = np.einsum("hsad,htd->hsat", phi, mu)
    plan = plan_model(P, r, bonus, cap=cap)
    Q = r + bonus + np.einsum("hsad,hd->hsa", phi, w)
    np.testing.assert_allclose(np.clip(Q, 0, cap), plan.Q, atol=1e-12)
    assert (w[-1] == 0).all()


def test_nothing_follows_a_terminal_successor():
    psi, law = np.ones((2, 2, 1)), np.full((2, 2), 0.5)
    phi, reward = np.ones((2, 2, 1, 1)), np.full((2, 2, 1), 4.0)
    discount = np.array([[1.0, 0.0], [1.0, 1.0]])
    w = plan_features(psi, law, phi, reward, np.zeros((2, 2, 1)), discount)
    np.testing.assert_allclose(w, [[2.0], [0.0]])  # half of the successors go on to a reward of 4


# policy_values and occupancy.


@pytest.mark.parametrize("seed", range(3))
def test_policy_values_equal_the_sum_over_paths(seed):
    rng = np.random.default_rng(seed)
    P, r, rho = random_mdp(rng)
    pi = rng.dirichlet(np.ones(2), size=(3, 2))
    V, Q = policy_values(P, r, pi)
    expected = value_by_paths(P, r, rho, pi)
    assert rho @ V[0] == pytest.approx(expected, abs=1e-12)
    # Duality: the same number from occupancies, which sum to 1 at each step.
    mu = occupancy(P, rho, pi)
    np.testing.assert_allclose(mu.sum(axis=(1, 2)), 1.0)
    assert (mu * r).sum() == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose((pi * Q).sum(axis=-1), V[:-1])


def test_occupancy_against_simulation():
    rng = np.random.default_rng(6)
    P, _, rho = random_mdp(rng, 3, 3, 2)
    pi = rng.dirichlet(np.ones(2), size=(3, 3))
    n = 20_000
    s = rng.choice(3, size=n, p=rho)
    seen = np.zeros((3, 3, 2))
    for h in range(3):
        a = (rng.random(n) > pi[h, s, 0]).astype(int)
        np.add.at(seen[h], (s, a), 1 / n)
        s = (rng.random((n, 1)) > P[h, s, a].cumsum(axis=1)).sum(axis=1)
    np.testing.assert_allclose(seen, occupancy(P, rho, pi), atol=0.02)  # 5 standard errors


def test_shapes_are_checked():
    with pytest.raises(RlcError, match="rewards have shape"):
        plan_model(np.ones((1, 2, 1, 2)) / 2, np.zeros((1, 2, 2)))
    with pytest.raises(RlcError, match=r"shape \(H, S, A, S\)"):
        plan_model(np.ones((1, 2, 1, 3)), np.zeros((1, 2, 1)))


def test_a_plan_of_exact_ties_is_uniform():
    plan = Plan(np.zeros((1, 2, 4)), np.zeros((2, 2)), 0.0)
    np.testing.assert_array_equal(plan.greedy(), np.full((1, 2, 4), 0.25))


# Terminals: `alive`.


def test_alive_weighs_what_follows_by_hand():
    """Two steps; state 0 leads to 0 or 1 with 1/2 each. Of the arrivals in 1 at step 0 a quarter goes on."""
    P = np.zeros((2, 2, 1, 2))
    P[:, 0, 0] = 0.5
    P[:, 1, 0, 1] = 1.0
    r = np.array([[[1.0], [0.0]], [[2.0], [4.0]]])
    alive = np.array([[1.0, 0.25], [0.0, 0.0]])  # the last row multiplies V_H = 0
    np.testing.assert_allclose(plan_model(P, r, alive=alive).Q[0, :, 0], [1 + 0.5 * 2 + 0.5 * 0.25 * 4, 0.25 * 4])
    np.testing.assert_allclose(plan_model(P, r).Q[0, :, 0], [1 + 1 + 2, 4.0])  # the default: nothing ends


@pytest.mark.parametrize("seed", range(3))
def test_alive_equals_a_model_with_the_missing_mass_in_an_absorbing_state(seed):
    """P(s') g(s') with the rest sent to a state that pays nothing, as a proper model of S + 1 states."""
    rng = np.random.default_rng(seed)
    H, S, A = 4, 3, 2
    P, r, _ = random_mdp(rng, H, S, A)
    alive = rng.random((H, S))
    wide = np.zeros((H, S + 1, A, S + 1))
    wide[:, :S, :, :S] = P * alive[:, None, None]
    wide[..., S] = 1.0 - wide[..., :S].sum(axis=-1)
    r_wide = np.concatenate([r, np.zeros((H, 1, A))], axis=1)
    np.testing.assert_allclose(plan_model(P, r, alive=alive).Q, plan_model(wide, r_wide).Q[:, :S], atol=1e-12)
