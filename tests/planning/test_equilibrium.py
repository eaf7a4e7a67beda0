"""Equilibria of matrix games: by hand, by definition, against HiGHS and nashpy, and what a certificate must tell."""

from __future__ import annotations

from fractions import Fraction

import nashpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog

from rl_contrastive.errors import RlcError
from rl_contrastive.planning import equilibrium, simplex
from rl_contrastive.planning.equilibrium import cce, cce_gap, nash, nash_gap
from rl_contrastive.planning.scales import exact_packing, fold, rationals, without_dominated


@pytest.fixture(name="rng")
def rng_fixture():
    return np.random.default_rng(0)


SIZES = st.integers(1, 6)
ENTRIES = {
    "reals": st.floats(-1.0, 1.0, width=32),
    "ties": st.sampled_from([0.0, 0.5, 1.0]),
    "scales": st.floats(-8.0, 0.0).map(lambda e: 10.0**e),
}


@st.composite
def games(draw, count=1):
    """`count` matrices (A, B) of one shape: reals, ties {0, .5, 1}, or entries of very different sizes."""
    shape, entries = (draw(SIZES), draw(SIZES)), draw(st.sampled_from(sorted(ENTRIES)))
    return tuple(draw(arrays(np.float64, shape, elements=ENTRIES[entries])) for _ in range(count))


def spread(*matrices):
    return max(1e-300, *(float(np.ptp(M)) for M in matrices))


def highs_value(M):
    """min_y max_a (M y)_a by HiGHS, as anyone would write it: variables (y, v)."""
    A, B = M.shape
    result = linprog(
        np.append(np.zeros(B), 1.0),
        A_ub=np.hstack([M, -np.ones((A, 1))]), b_ub=np.zeros(A),
        A_eq=np.append(np.ones(B), 0.0)[None], b_eq=[1.0],
        bounds=[(0, None)] * B + [(None, None)], method="highs",
    )  # fmt: skip
    assert result.success
    return result.fun


def gains(U, L, sigma):
    """Of one pair, the gain of every deviation, entry by entry from the definition."""
    A, B = U.shape
    cells = [(a, b) for a in range(A) for b in range(B)]
    of_max = [sum(sigma[a, b] * (U[other, b] - U[a, b]) for a, b in cells) for other in range(A)]
    of_min = [sum(sigma[a, b] * (L[a, b] - L[a, other]) for a, b in cells) for other in range(B)]
    return of_max + of_min


def gain_matrix(U, L):
    """D (A+B, AB): column (a, b) are the gains from the point mass on (a, b)."""
    points = np.eye(U.size).reshape(U.size, *U.shape)
    return np.array([gains(U, L, point) for point in points]).T


BY_HAND = {
    "matching pennies": ([[1, -1], [-1, 1]], [0.5, 0.5], [0.5, 0.5], 0.0),
    "rock paper scissors": ([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], [1 / 3] * 3, [1 / 3] * 3, 0.0),
    # Odd rule: rock beats scissors by 2. Each plays (1, 2, 1)/4: M y = 0.
    "weighted rock paper scissors": ([[0, -1, 2], [1, 0, -1], [-2, 1, 0]], [0.25, 0.5, 0.25], [0.25, 0.5, 0.25], 0.0),
    # Inside mixing: x = (d - c, a - b) / (a + d - b - c), v = (ad - bc) / (a + d - b - c).
    "two by two": ([[3, 0], [1, 2]], [0.25, 0.75], [0.5, 0.5], 1.5),
    "saddle point": ([[4, 2, 5], [3, 1, 0], [6, 1, 7]], [1, 0, 0], [0, 1, 0], 2.0),
    "dominated row and column": ([[3, 0, 9], [1, 2, 9], [0, -1, 9]], [0.25, 0.75, 0], [0.5, 0.5, 0], 1.5),
    # diag(d): both play 1/d over sum 1/d = 1 + 1/2 + 1/4.
    "diagonal": ([[1, 0, 0], [0, 2, 0], [0, 0, 4]], [4 / 7, 2 / 7, 1 / 7], [4 / 7, 2 / 7, 1 / 7], 4 / 7),
    "one row": ([[3, 1, 2]], [1], [0, 1, 0], 1.0),
    "one column": ([[3], [7], [2]], [0, 1, 0], [1], 7.0),
    "one cell": ([[-5]], [1], [1], -5.0),
    "more columns than rows": ([[1, -1, 3, 2], [-1, 1, 2, 3]], [0.5, 0.5], [0.5, 0.5, 0, 0], 0.0),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_games_solved_by_hand(name):
    M, x, y, value = BY_HAND[name]
    result = nash(np.array([M], dtype=float))
    np.testing.assert_allclose(result.x[0], x, atol=1e-12)
    np.testing.assert_allclose(result.y[0], y, atol=1e-12)
    assert result.value[0] == pytest.approx(value, abs=1e-12)
    assert abs(result.gap[0]) < 1e-12
    assert result.fallbacks == 0


@settings(max_examples=150, deadline=None)
@given(games())
def test_nash_has_the_value_of_highs_and_an_exact_certificate(game):
    (M,) = game
    result = nash(M[None])
    x, y = result.x[0], result.y[0]
    for p in (x, y):
        assert (p >= 0).all()
        assert p.sum() == pytest.approx(1.0, abs=1e-12)
    assert result.value[0] == pytest.approx(highs_value(M), abs=1e-7)  # HiGHS stops at 1e-7
    by_hand = max(float(row @ y) for row in M) - min(float(x @ column) for column in M.T)
    assert result.gap[0] == pytest.approx(by_hand, abs=1e-13)
    assert by_hand <= 1e-9 * spread(M) + 1e-15
    np.testing.assert_allclose(nash_gap(M[None], x[None], y[None]), result.gap, atol=1e-14)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 4))
def test_nash_against_nashpy(seed, A, B):
    # By enumeration of the vertices of both polytopes: nothing shared with the simplex. Generic equilibria are unique.
    M = np.random.default_rng(seed).standard_normal((A, B))
    ((x, y),) = nashpy.Game(M).vertex_enumeration()
    result = nash(M[None])
    np.testing.assert_allclose(result.x[0], x, atol=1e-7)
    np.testing.assert_allclose(result.y[0], y, atol=1e-7)
    assert result.value[0] == pytest.approx(x @ M @ y, abs=1e-9)


def test_chicken_by_hand():
    # Row's payoffs U, column's -L. By symmetry sigma = ((p, q), (q, r)) with p + 2q + r = 1; always daring gains
    # r - 2q, always yielding 2p - q >= -1/2. Taking turns, q = 1/2, reaches this bound: deviating costs at least 1/2.
    U, L = np.array([[0.0, 7.0], [2.0, 6.0]]), -np.array([[0.0, 2.0], [7.0, 6.0]])
    result = cce(U[None], L[None])
    np.testing.assert_allclose(result.sigma[0], [[0, 0.5], [0.5, 0]], atol=1e-12)
    assert result.gap[0] == pytest.approx(-0.5, abs=1e-12)
    # The best cell for both, (6, 6), is no equilibrium: either would move to earn 7.
    assert cce_gap(U[None], L[None], np.array([[[0.0, 0.0], [0.0, 1.0]]]))[0] == pytest.approx(1.0)


@settings(max_examples=150, deadline=None)
@given(games(count=2))
def test_cce_by_definition_and_as_good_as_highs(pair):
    U, L = pair
    result = cce(U[None], L[None])
    sigma = result.sigma[0]
    assert (sigma >= 0).all()
    assert sigma.sum() == pytest.approx(1.0, abs=1e-12)
    worst = max(gains(U, L, sigma))
    assert result.gap[0] == pytest.approx(worst, abs=1e-13)
    assert worst <= 1e-9 * spread(U, L) + 1e-15
    assert worst == pytest.approx(highs_value(gain_matrix(U, L)), abs=1e-7)  # no CCE makes deviating dearer
    np.testing.assert_allclose(cce_gap(U[None], L[None], sigma[None]), result.gap, atol=1e-14)


@settings(max_examples=100, deadline=None)
@given(games())
def test_where_both_payoffs_agree_the_marginals_of_a_cce_are_nash(game):
    (M,) = game
    sigma = cce(M[None], M[None]).sigma
    assert nash_gap(M[None], sigma.sum(axis=2), sigma.sum(axis=1))[0] <= 2.1e-9 * spread(M) + 1e-15
    assert (sigma[0] * M).sum() == pytest.approx(nash(M[None]).value[0], abs=1e-8)


@pytest.mark.parametrize(("A", "B"), [(2, 2), (3, 3), (3, 5), (5, 5), (7, 2), (1, 6), (10, 10)])
def test_both_forms_of_the_simplex_agree(A, B, rng):
    for U, L in (rng.random((2, 200, A, B)), rng.integers(0, 3, (2, 200, A, B)) / 2):
        tableau, revised = simplex.packing(simplex.deviations(U, L) + 2.0), simplex.correlated_packing(U, L)
        assert tableau.solved.all()
        assert revised.solved.all()
        np.testing.assert_allclose(tableau.w.sum(axis=1), revised.w.sum(axis=1), rtol=1e-10)
        for form in (tableau, revised):  # both are optimal: primal and dual agree
            np.testing.assert_allclose(form.u.sum(axis=1), form.w.sum(axis=1), rtol=1e-10)
        np.testing.assert_allclose(simplex.deviations(U, L)[0], gain_matrix(U[0], L[0]), atol=1e-14)


@pytest.mark.parametrize(("A", "B"), [(2, 2), (3, 3), (4, 3), (5, 5), (10, 10), (1, 7), (6, 1)])
@pytest.mark.parametrize("kind", ["ties", "signs", "constant", "few cells", "capped", "twins"])
def test_ties_are_certified_without_fallback(A, B, kind, rng):
    N, shape = 400, (400, A, B)
    draws = {
        "ties": lambda: rng.integers(0, 3, shape) / 2,
        "signs": lambda: rng.choice([-1.0, 1.0], shape),
        "constant": lambda: np.full(shape, rng.standard_normal()),
        "few cells": lambda: (rng.random(shape) < 0.1) * 1.0,
        "capped": lambda: np.minimum(2.0 * rng.random(shape), 1.0),
        "twins": lambda: rng.random(shape)[:, np.arange(A) // 2][:, :, np.arange(B) // 2],
    }
    M, L = draws[kind](), draws[kind]()
    solved, correlated = nash(M), cce(M, L)
    assert solved.fallbacks == correlated.fallbacks == 0
    assert solved.gap.max() <= 1e-10
    assert correlated.gap.max() <= 1e-10
    assert solved.x.shape == (N, A)
    assert correlated.sigma.shape == (N, A, B)


@pytest.mark.parametrize("noise", [1e-16, 1e-14, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-6])
def test_near_ties_are_certified(noise, rng):
    # Where two vertices differ by rounding, pivots lose digits: this is what tableaux computed anew are for.
    for shape in ((600, 4, 4), (300, 2, 12)):
        M = rng.integers(0, 3, shape) / 2 + noise * rng.standard_normal(shape)
        L = M - noise * rng.random(shape)
        scale = np.ptp(M, axis=(1, 2))
        for result in (nash(M), cce(M, M), cce(M, L)):
            assert (result.gap <= 1.01e-9 * scale).mean() >= 0.998  # cce's scale is the larger of two ranges
            assert result.gap.max() <= 1e-6
            assert result.fallbacks <= 1


@pytest.mark.parametrize(("A", "B"), [(2, 2), (3, 4), (5, 5), (8, 6), (20, 20)])
def test_a_game_alone_gives_the_bits_it_gives_in_a_batch(A, B, rng):
    M = np.concatenate([rng.random((20, A, B)), rng.integers(0, 3, (40, A, B)) / 2])
    M[40:] += 1e-9 * rng.standard_normal((20, A, B))  # near ties, some of which go through a second tableau
    L = M - 0.3 * rng.random(M.shape)
    solved, correlated, again = nash(M), cce(M, L), cce(M, L)
    assert correlated.sigma.tobytes() == again.sigma.tobytes()
    order = rng.permutation(60)
    shuffled = nash(M[order])
    assert shuffled.x.tobytes() == solved.x[order].tobytes()
    for i in range(0, 60, 3):
        alone, pair = nash(M[i : i + 1]), cce(M[i : i + 1], L[i : i + 1])
        for name in ("x", "y", "value", "gap"):
            assert getattr(alone, name).tobytes() == getattr(solved, name)[i : i + 1].tobytes(), name
        assert pair.sigma.tobytes() == correlated.sigma[i : i + 1].tobytes()
        assert pair.gap.tobytes() == correlated.gap[i : i + 1].tobytes()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6))
def test_equilibria_move_with_the_game(seed, A, B):
    rng = np.random.default_rng(seed)
    M, rows, columns = rng.standard_normal((1, A, B)), rng.permutation(A), rng.permutation(B)
    plain = nash(M)
    moved = nash(M[:, rows][:, :, columns])
    np.testing.assert_allclose(moved.x, plain.x[:, rows], atol=1e-9)
    np.testing.assert_allclose(moved.y, plain.y[:, columns], atol=1e-9)
    for scale, offset in ((1e8, 0.0), (1e-8, 0.0), (1e-300, 0.0), (3.0, 1e4), (1e150, 1e151)):
        affine = nash(scale * M + offset)
        np.testing.assert_allclose(affine.x, plain.x, atol=1e-8)
        assert affine.value[0] == pytest.approx(scale * plain.value[0] + offset, rel=1e-9)
        assert affine.gap[0] <= 1e-9 * scale * max(np.ptp(M), 1e-9)
    swapped = nash(-M.transpose(0, 2, 1))  # the players change seats
    np.testing.assert_allclose(swapped.x, plain.y, atol=1e-9)
    assert swapped.value[0] == pytest.approx(-plain.value[0], abs=1e-12)


@pytest.mark.parametrize(("scale", "offset"), [(1e8, 0.0), (1e-8, 0.0), (1.0, 1e8), (1e-6, -1e3)])
def test_certificates_hold_at_any_scale_and_offset(scale, offset, rng):
    M = scale * rng.random((300, 4, 5)) + offset
    L = M - 0.2 * scale * rng.random(M.shape)
    solved, correlated = nash(M), cce(M, L)
    assert solved.gap.max() <= 1e-9 * scale
    assert correlated.gap.max() <= 1e-9 * scale
    assert solved.fallbacks == correlated.fallbacks == 0
    # A rounding error at the offset would be as large as this deviation: it has to be seen.
    wrong = np.tile([1.0, 0, 0, 0], (300, 1))
    assert (nash_gap(M, wrong, solved.y) > 1e-3 * scale).mean() > 0.5


def test_a_wrong_strategy_has_a_positive_certificate():
    M = np.array([[[1.0, -1.0], [-1.0, 1.0]]])
    half, rock = np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])
    assert nash_gap(M, half, half)[0] == 0.0
    assert nash_gap(M, rock, half)[0] == 1.0  # the column player answers with -1
    assert nash_gap(M, rock, rock)[0] == 2.0  # 1 - (-1)
    corner = np.array([[[1.0, 0.0], [0.0, 0.0]]])
    assert cce_gap(M, M, corner)[0] == 2.0  # the column player moves from 1 to -1
    assert cce_gap(M, M, np.full((1, 2, 2), 0.25))[0] == 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 6))
def test_leaving_the_equilibrium_of_a_generic_game_is_noticed(seed, A, B):
    rng = np.random.default_rng(seed)
    M = rng.standard_normal((1, A, B))
    result = nash(M)
    other = 0.9 * result.x + 0.1 * np.eye(A)[[rng.integers(A)]]
    if np.abs(other - result.x).max() > 1e-3:  # equilibria of generic games are unique
        assert nash_gap(M, other, result.y)[0] > 1e-9


def test_blands_rule_alone_solves_everything(monkeypatch, rng):
    monkeypatch.setattr(simplex, "CALM", 0)
    for M in (rng.random((300, 4, 4)), rng.integers(0, 3, (300, 4, 4)) / 2, rng.integers(0, 2, (100, 6, 6)) * 1.0):
        result = nash(M)
        assert result.gap.max() <= 1e-10
        pair = cce(M, M[::-1])
        assert pair.gap.max() <= 1e-10
        assert result.fallbacks == pair.fallbacks == 0


def test_what_the_simplex_leaves_goes_to_highs(monkeypatch, rng):
    M = rng.random((12, 3, 4))
    expected, pair = nash(M), cce(M, M - 0.1)
    monkeypatch.setattr(simplex, "CAP", 0)  # no pivot is allowed
    result, other = nash(M), cce(M, M - 0.1)
    assert result.fallbacks == other.fallbacks == 12
    np.testing.assert_allclose(result.value, expected.value, atol=1e-9)
    np.testing.assert_allclose(other.gap, pair.gap, atol=1e-8)
    assert result.gap.max() <= 1e-9
    monkeypatch.setattr(equilibrium, "_highs", lambda P, basis: (np.zeros((12, 4)), np.zeros((12, 3)), basis))
    with pytest.raises(RlcError, match="neither the simplex nor HiGHS solves game 0"):
        nash(M)


def test_a_fresh_tableau_goes_on_from_any_basis(rng):
    P = 1.0 + rng.random((50, 4, 5))
    first = simplex.packing(P)
    again = simplex.packing(P, basis=first.basis)
    assert again.pivots == 0
    np.testing.assert_allclose(again.w, first.w, atol=1e-13)
    np.testing.assert_allclose(again.u, first.u, atol=1e-13)
    slacks, singular = np.array([5, 6, 7, 8]), np.array([5, 5, 6, 7])
    for basis in (slacks, singular):
        np.testing.assert_allclose(simplex.packing(P, basis=np.tile(basis, (50, 1))).w, first.w, atol=1e-12)


def test_the_dual_simplex_repairs_an_infeasible_basis():
    # Row 0 is below row 1: w_0 = 1/P_00 = 1 breaks row 1 (its slack is 1 - 2 < 0), while all costs are >= 0.
    P = np.array([[[1.0, 1.5], [2.0, 3.0]]])
    T, basic, _ = simplex._tableau_of(P, np.array([[0, 3]]))
    # w_0 = 1/2 now obeys row 1, the slack of row 0 is 1/2, and the value 1'w is 1/2.
    assert sorted(basic[:, 0]) == [0, 2]
    np.testing.assert_allclose(T[:2, 2, 0], [0.5, 0.5])
    np.testing.assert_allclose(T[2, 2, 0], 0.5)
    solution = simplex.packing(P, basis=np.array([[0, 3]]))
    assert solution.pivots == 0
    np.testing.assert_allclose(solution.w, [[0.5, 0.0]])
    np.testing.assert_allclose(solution.u, [[0.0, 0.5]])


def exact_gap(M, x, y):
    """The duality gap without rounding."""
    payoffs, p, q = rationals(M), *([Fraction(weight) for weight in strategy.tolist()] for strategy in (x, y))
    rows = [sum(payoff * weight for payoff, weight in zip(row, q, strict=True)) for row in payoffs]
    columns = [sum(row[b] * weight for row, weight in zip(payoffs, p, strict=True)) for b in range(len(payoffs[0]))]
    return float(max(rows) - min(columns))


ROSHAMBO = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])


@pytest.mark.parametrize("penalty", [1e6, 1e9, 1e12, 1e15, 1e17])
def test_a_forbidden_action_changes_nothing(penalty):
    row = np.vstack([ROSHAMBO, np.full((1, 3), -penalty)])
    column = np.hstack([ROSHAMBO, np.full((3, 1), penalty)])
    for M in (row, column):
        result = nash(M[None])
        np.testing.assert_allclose(result.x[0], np.append([1 / 3] * 3, [0] * (len(M) - 3)), atol=1e-9)
        np.testing.assert_allclose(result.y[0], np.append([1 / 3] * 3, [0] * (M.shape[1] - 3)), atol=1e-9)
        assert abs(result.value[0]) < 1e-9
        assert exact_gap(M, result.x[0], result.y[0]) <= result.gap[0] < 1e-9
        correlated = cce(M[None], M[None])
        assert correlated.gap[0] < 1e-9
        assert nash_gap(M[None], *(correlated.sigma.sum(axis=axis) for axis in (2, 1)))[0] < 1e-9
        pure = np.eye(len(M))[:1], np.eye(M.shape[1])[:1]
        assert nash_gap(M[None], *pure)[0] == pytest.approx(2.0)
        assert cce_gap(M[None], M[None], pure[0][:, :, None] * pure[1][:, None])[0] == pytest.approx(1.0)


def test_forbidden_actions_of_random_games_and_forbidden_cells(rng):
    """300 games of 4 x 4 with a fifth row of -1e10; and with one cell of it, which no pure action dominates."""
    M = rng.standard_normal((300, 4, 4))
    with_row = np.concatenate([M, np.full((300, 1, 4), -1e10)], axis=1)
    with_cell = M[:100].copy()
    with_cell[:, 2, 1] = -1e10
    for games, exact in ((with_row, nash(M).value), (with_cell, None)):
        result = nash(games)
        gaps = np.array([exact_gap(*game) for game in zip(games, result.x, result.y, strict=True)])
        assert (result.gap >= gaps).all()
        assert result.gap.max() < 1e-9
        if exact is not None:
            np.testing.assert_allclose(result.value, exact, atol=1e-9)
    assert cce(with_row, with_row - 0.1).gap.max() < 1e-9
    assert cce(with_cell[:20], with_cell[:20]).gap.max() < 1e-9


def test_rational_simplex_against_highs(rng):
    M = rng.integers(-3, 4, (4, 5)).astype(float)
    w, u = exact_packing(rationals(M))
    assert (M @ w).max() == pytest.approx(highs_value(M))
    assert (u @ M).min() == pytest.approx(highs_value(M))


def test_dominated_rows_and_columns_become_copies():
    M = np.array([[[3.0, 0.0, 9.0], [1.0, 2.0, 9.0], [0.0, -1.0, 9.0]]])
    U, _, rows, columns = without_dominated(M, M)
    assert rows.tolist() == [[0, 1, 0]]
    assert columns.tolist() == [[0, 1, 0]]
    assert U[0].tolist() == [[3, 0, 3], [1, 2, 1], [3, 0, 3]]
    assert fold(np.array([[0.2, 0.3, 0.5]]), rows)[0] == pytest.approx([0.7, 0.3, 0.0])


def test_no_games():
    result, pair = nash(np.zeros((0, 3, 2))), cce(np.zeros((0, 3, 2)), np.zeros((0, 3, 2)))
    assert result.x.shape == (0, 3)
    assert result.value.shape == result.gap.shape == (0,)
    assert pair.sigma.shape == (0, 3, 2)
    assert nash_gap(np.zeros((0, 3, 2)), result.x, result.y).shape == (0,)


def test_broken_input_is_one_sentence():
    good = np.zeros((2, 2, 3))
    for value in (np.nan, np.inf, -np.inf):
        bad = good.copy()
        bad[1, 0, 2] = value
        with pytest.raises(RlcError, match="game 1"):
            nash(bad)
        with pytest.raises(RlcError, match="lower must be finite"):
            cce(good, bad)
    with pytest.raises(RlcError, match="finite range"):
        nash(np.array([[[1.7e308, -1.7e308]]]))
    for shape in ((2, 3), (2, 0, 3), (1, 2, 3, 4)):
        with pytest.raises(RlcError, match=r"must be \(N, A, B\)"):
            nash(np.zeros(shape))
    with pytest.raises(RlcError, match=r"got shape \(3, 3\); of one game give M\[None\]"):
        nash(ROSHAMBO)
    with pytest.raises(RlcError, match=r"got shape \(\)"):
        nash(3.0)
    with pytest.raises(RlcError, match="shapes must agree"):
        cce(good, np.zeros((2, 3, 2)))
    with pytest.raises(RlcError, match="x has shape"):
        nash_gap(good, np.ones((2, 3)) / 3, np.ones((2, 3)) / 3)
    for wrong in (np.ones((2, 2, 3)), np.full((2, 2, 3), np.nan), np.tile([[2.0, -1.0, 0], [0, 0, 0]], (2, 1, 1))):
        with pytest.raises(RlcError, match="sum to 1"):
            cce_gap(good, good, wrong)
