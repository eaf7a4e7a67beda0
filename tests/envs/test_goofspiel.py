"""Goofspiel: rounds worked out by hand, Nash values against OpenSpiel's rules, the batch against its table."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy.optimize import linprog

from rl_contrastive.config import from_dict
from rl_contrastive.envs.game_table import MAX_PAIRS, TableGameEnv, build_table
from rl_contrastive.envs.goofspiel import GoofspielConfig, Round, bid, goofspiel_table, make_goofspiel
from rl_contrastive.errors import RlcError
from rl_contrastive.planning.games import nash_values
from rl_contrastive.registry import get

WIN, POINTS = GoofspielConfig(4), GoofspielConfig(4, pay="points")


def test_bids_worked_out_by_hand():
    state = Round((1, 3, 4), (2, 3, 4), 3, (1, 2), -1)
    assert bid(WIN, state, 2, 1) == [(1.0, 0.0, Round((1, 4), (3, 4), 2, (1,), 2))]  # 3 beats 2: +3
    assert bid(WIN, state, 2, 2) == [(1.0, 0.0, Round((1, 4), (2, 4), 2, (1,), -1))]  # equal: nobody
    assert bid(WIN, state, 0, 3) == [(1.0, 0.0, Round((3, 4), (2, 3), 2, (1,), -4))]
    # Cards that were played count as the lowest one left: the maximiser's 2 as its 1, the minimiser's 1 as its 2.
    assert bid(WIN, state, 1, 0) == bid(WIN, state, 0, 1)
    last = Round((4,), (2,), 1, (), -1)
    assert bid(WIN, last, 3, 1) == [(1.0, 0.0, None)]  # -1 + 1: a draw
    assert bid(WIN, last._replace(lead=0), 0, 0) == [(1.0, 1.0, None)]
    assert bid(WIN, last._replace(lead=-2), 3, 1) == [(1.0, -1.0, None)]
    [(p, reward, following)] = bid(POINTS, state._replace(lead=0), 2, 1)
    assert (p, reward, following.lead) == (1.0, pytest.approx(3 / 10), 0)
    random = GoofspielConfig(4, prizes="random")
    assert [(p, s.prize, s.later) for p, _, s in bid(random, state, 2, 1)] == [(0.5, 1, (2,)), (0.5, 2, (1,))]


def test_two_cards_are_decided_by_the_first_bid():
    """Prizes 2, 1: high against low wins 2 and loses 1. High dominates, the value is 0; r as computed by hand."""
    env = make_goofspiel(GoofspielConfig(2), 1)
    model = env.exact()
    assert model.Q[0, 0].tolist() == [0.0, -1.0, 1.0, 0.0]
    points = make_goofspiel(GoofspielConfig(2, pay="points"), 1).exact()
    np.testing.assert_allclose(points.Q[0, 0], [0.0, -1 / 3, 1 / 3, 0.0], atol=1e-12)
    assert env.env_spec.optimal_return == 0.0


def lp_value(M: np.ndarray) -> float:
    """Value of a matrix game by scipy's LP: an oracle apart from the library's solver."""
    A, B = M.shape
    constraints = np.hstack([-M.T, np.ones((B, 1))])  # v <= (x'M)_b
    sum_to_one = np.append(np.ones(A), 0.0)[None]
    result = linprog(np.append(np.zeros(A), -1.0), constraints, np.zeros(B), sum_to_one, [1.0],
                     bounds=[(0, None)] * A + [(None, None)])  # fmt: skip
    return float(-result.fun)


def openspiel_values(prizes: str, returns: str, cards: int) -> dict:
    """{(own, other, prize, lead): value} by recursion over OpenSpiel's states."""
    pyspiel = pytest.importorskip("pyspiel")
    game = pyspiel.load_game(f"goofspiel(num_cards={cards},points_order={prizes},returns_type={returns})")
    found: dict = {}

    @functools.cache
    def value(text: str) -> float:
        state = states[text]
        if state.is_terminal():
            return state.returns()[0]
        if state.is_chance_node():
            return sum(p * of(state.child(a)) for a, p in state.chance_outcomes())
        rows = [[of(after(state, a, b)) for b in state.legal_actions(1)] for a in state.legal_actions(0)]
        v = lp_value(np.array(rows))
        found.setdefault(read(text), []).append(v)
        return v

    states: dict = {}

    def of(state) -> float:
        states[str(state)] = state
        return value(str(state))

    def after(state, a, b):
        child = state.clone()
        child.apply_actions([a, b])
        return child

    of(game.new_initial_state())
    return found


def read(text: str) -> tuple:
    """(own, other, prize, prizes so far, points) of OpenSpiel's text of a state."""
    fields = dict(line.split(":") for line in text.strip().splitlines() if ":" in line)
    numbers = {name: tuple(int(x) for x in rest.split()) for name, rest in fields.items()}
    return numbers["P0 hand"], numbers["P1 hand"], numbers["Point card sequence"], numbers["Points"]


@pytest.mark.parametrize(("prizes", "cards"), [("descending", 3), ("descending", 4), ("random", 3)])
@pytest.mark.parametrize("pay", ["win", "points"])
def test_values_of_every_state_equal_those_of_openspiels_rules(prizes, cards, pay):
    theirs = openspiel_values(prizes, "win_loss" if pay == "win" else "point_difference", cards)
    config = GoofspielConfig(cards, prizes, pay)
    table = goofspiel_table(config)
    V, _ = table.values(cards)
    numbers = {key: s for s, key in enumerate(table.keys)}
    total = cards * (cards + 1) // 2
    for (own, other, sequence, points), values in theirs.items():
        later = tuple(x for x in range(1, cards + 1) if x not in sequence)
        lead = points[0] - points[1]
        key = Round(own, other, sequence[-1], later, lead if pay == "win" else 0)
        mine = V[cards - len(own), numbers[key]]
        if pay == "points":
            mine = mine * total + lead
            values = [2 * v for v in values]  # OpenSpiel's difference is to the mean of both players
        np.testing.assert_allclose(values, mine, atol=1e-8)
    assert len(theirs) >= 10


@pytest.mark.parametrize("fields", [{}, {"prizes": "random", "cards": 3}, {"pay": "points"}])
def test_the_exact_model_is_the_game_of_the_table(fields):
    entry, _ = get("env", "goofspiel")
    env = entry.factory(from_dict(entry.config, fields), 1)
    model, spec = env.exact(), env.env_spec
    assert isinstance(env, TableGameEnv)
    np.testing.assert_allclose(model.P.sum(axis=-1), 1.0, atol=1e-12)
    V, Q = nash_values(model.P, model.r, spec.game)
    np.testing.assert_allclose(model.V, V, atol=1e-9)
    np.testing.assert_allclose(model.Q, Q, atol=1e-9)
    assert spec.optimal_return == pytest.approx(0.0, abs=1e-9)  # both have the same cards
    assert model.rho.sum() == pytest.approx(1.0)
    assert np.abs(V).max() <= 1.0 + 1e-9
    assert spec.horizon == len(env.table.keys[0].own)


@pytest.mark.parametrize("pay", ["win", "points"])
def test_equilibria_are_mixed(pay):
    """In some states no pure bid guarantees the value."""
    model = make_goofspiel(GoofspielConfig(4, "random", pay), 1).exact()
    pure = model.Q.reshape(4, -1, 4, 4).min(axis=3).max(axis=2)
    assert np.all(pure <= model.V[:-1] + 1e-9)
    assert np.count_nonzero(pure[1] < model.V[1] - 0.01) > 10


@pytest.mark.parametrize("fields", [{"cards": 3, "prizes": "random"}, {"cards": 4, "pay": "points"}])
def test_steps_follow_the_table(fields):
    n = 40_000
    env = make_goofspiel(from_dict(GoofspielConfig, fields), n)
    model = env.exact()
    rng = np.random.default_rng(0)
    s, _ = env.reset(seed=1)
    expected = model.rho * n
    assert np.all(np.abs(np.bincount(s, minlength=len(expected)) - expected) <= 5 * np.sqrt(expected) + 1e-9)
    total = np.zeros(n)
    for h in range(env.env_spec.horizon):
        action = rng.integers(env.env_spec.num_actions, size=n)
        t, reward, terminated, truncated, _ = env.step(action)
        assert np.all(model.P[h, s, action, t] > 0)
        joint = np.zeros_like(model.P[0])
        np.add.at(joint, (s, action, t), 1.0)
        counts = joint.sum(axis=-1, keepdims=True)
        error = np.abs(joint - counts * model.P[h]) / np.sqrt(np.maximum(counts * model.P[h], 1.0))
        assert error.max() < 6.0
        np.testing.assert_allclose(reward.sum(), model.r[h, s, action].sum(), atol=1e-6)  # rewards are not random
        total += reward
        assert terminated.tolist() == [h == env.env_spec.horizon - 1] * n
        assert not truncated.any()
        s = t
    assert np.all(s == env.table.over)
    assert np.abs(total).max() <= 1.0 + 1e-9


def test_a_batch_equals_singles_with_the_same_seeds():
    config = GoofspielConfig(3, "random")
    actions = np.random.default_rng(0).integers(9, size=(20, 4))
    batch = make_goofspiel(config, 4)
    many = [batch.reset(seed=[5, 9, 2, 5])[0], *[np.array(batch.step(a)[:3]) for a in actions]]
    for row, seed in enumerate([5, 9, 2, 5]):
        single = make_goofspiel(config, 1)
        one = [single.reset(seed=[seed])[0], *[np.array(single.step(a[row : row + 1])[:3]) for a in actions]]
        for x, y in zip(many, one, strict=True):
            np.testing.assert_array_equal(x[..., row], y[..., 0])


def test_games_that_are_too_large_are_refused():
    with pytest.raises(RlcError, match="count: more than 100 states of 100 x 100 actions; choose a smaller game"):
        build_table("count", (100, 100), [(1.0, 0)], lambda n: [[(1.0, 0.0, n + 1)]] * 10_000)
    assert MAX_PAIRS == 100 * 100**2
    for cards, words in ((1, "cards must lie in"), (7, "too many states for a table"), (14, "cards must lie in")):
        with pytest.raises(RlcError, match=words):
            GoofspielConfig(cards)


def test_a_table_never_leads_to_an_impossible_outcome():
    """A walk that goes up with 0.1 ten times over: its sums miss 1 by rounding."""
    outcomes = [(0.1, float(k), "b" if k else None) for k in range(10)] + [(0.0, 99.0, "never")]
    table = build_table("walk", (1, 1), [(1.0, "a")], lambda key: [outcomes])
    assert table.keys == ("a", "b", "never")
    env = TableGameEnv("walk", table, 1, 3, (0.0, 9.0))
    env.reset(seed=0)
    env._uniform[...] = [np.nextafter(1.0, 0.0), 0.0, 0.35]
    obs, reward, *_ = env.step(np.zeros(3, int))
    assert reward.tolist() == [9.0, 0.0, 3.0]
    assert obs.tolist() == [1, 3, 1]
