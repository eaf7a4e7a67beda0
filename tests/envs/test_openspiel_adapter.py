"""The OpenSpiel adapter: tables against games played in OpenSpiel, against the native games, and what it refuses."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from rl_contrastive.config import from_dict
from rl_contrastive.envs import soccer
from rl_contrastive.envs.adapters.openspiel_adapter import (
    OpenSpielConfig,
    check_table,
    enumerate_game,
    load,
    make_openspiel,
)
from rl_contrastive.errors import RlcError
from rl_contrastive.planning.games import nash_values
from rl_contrastive.registry import get

pyspiel = pytest.importorskip("pyspiel")

OSHI = "oshi_zumo(coins=4,size=1)"


def test_matching_pennies_and_rock_paper_scissors():
    env = make_openspiel(OpenSpielConfig("matrix_rps"), 3)
    assert env.env_spec.players == (3, 3)
    assert (env.env_spec.horizon, env.env_spec.num_states) == (1, 2)
    assert env.exact().Q[0, 0].reshape(3, 3).tolist() == [[0, -1, 1], [1, 0, -1], [-1, 1, 0]]
    assert env.env_spec.optimal_return == pytest.approx(0.0, abs=1e-12)
    env.reset(seed=0)
    obs, reward, terminated, _, _ = env.step(np.array([1, 3, 4]))  # rock-paper, paper-rock, paper-paper
    assert reward.tolist() == [-1.0, 1.0, 0.0]
    assert terminated.all()
    assert obs.tolist() == [1, 1, 1]


def test_the_registry_takes_parameters_in_brackets():
    entry, fixed = get("env", f"openspiel:{OSHI}")
    env = entry.factory(from_dict(entry.config, {**fixed, "horizon": 7}), 2)
    assert env.env_spec.name == f"openspiel:{OSHI}"
    assert (env.env_spec.horizon, env.env_spec.players) == (7, (5, 5))
    assert env.env_spec.return_range == (-1.0, 1.0)


@pytest.mark.parametrize("id", [OSHI, "goofspiel(num_cards=3)", "goofspiel(num_cards=3,points_order=descending)"])
def test_exact_model_satisfies_the_nash_equations(id):
    env = make_openspiel(OpenSpielConfig(id), 1)
    model = env.exact()
    np.testing.assert_allclose(model.P.sum(axis=-1), 1.0, atol=1e-12)
    V, _ = nash_values(model.P, model.r, env.env_spec.game)
    np.testing.assert_allclose(model.V, V, atol=1e-9)
    assert env.env_spec.optimal_return == pytest.approx(0.0, abs=1e-9)  # both sides are alike


def test_batch_steps_are_games_that_openspiel_plays():
    """Row by row: the same joint actions in OpenSpiel give the same rewards and ends (oshi_zumo has no chance)."""
    n = 200
    env = make_openspiel(OpenSpielConfig(OSHI, horizon=40), n)
    game = load(OSHI)
    states = [game.new_initial_state() for _ in range(n)]
    obs, _ = env.reset(seed=0)
    rng, alive = np.random.default_rng(1), np.ones(n, bool)
    ended = 0
    for h in range(40):
        action = rng.integers(25, size=n)
        obs, reward, terminated, _, _ = env.step(action)
        for row in np.flatnonzero(alive):
            state, (a, b) = states[row], divmod(int(action[row]), 5)
            legal = state.legal_actions(0), state.legal_actions(1)
            # Bids beyond one's coins are not legal: they count as the first legal one.
            state.apply_actions([a if a in legal[0] else legal[0][0], b if b in legal[1] else legal[1][0]])
            assert terminated[row] == (state.is_terminal() or h == 39)
            assert reward[row] == (state.returns()[0] if state.is_terminal() else 0.0)
            if not state.is_terminal():
                assert env.table.keys[obs[row]] == str(state)
        ended += int((alive & terminated).sum())
        alive &= ~terminated
    assert ended == n


def test_values_equal_those_of_the_native_goofspiel():
    theirs = make_openspiel(OpenSpielConfig("goofspiel(num_cards=4,points_order=descending)"), 1).exact()
    entry, _ = get("env", "goofspiel")
    mine = entry.factory(from_dict(entry.config, {"cards": 4}), 1).exact()
    np.testing.assert_allclose(theirs.Q[0, 0], mine.Q[0, 0], atol=1e-9)
    assert np.abs(mine.Q[0, 0]).max() > 0.1


def test_values_equal_those_of_the_native_soccer_in_every_position():
    """OpenSpiel's pitch is ours in the mirror: its first player scores on the right. No draws, the same horizon."""
    H = 12
    table = enumerate_game("markov_soccer")
    V, _ = table.values(H)
    ours, _ = soccer.values(0.0, H)
    compared = 0
    for s, key in enumerate(table.keys):
        pitch = "".join(key.split())
        if "O" in pitch:
            continue  # nobody has the ball yet
        first, second = (next(i for i, c in enumerate(pitch) if c in pair) for pair in ("aA", "bB"))
        x, y = (np.array(5 * (i // 5) + 4 - i % 5) for i in (first, second))
        state = int(soccer.encode(soccer.Position((x, y), np.array(int("B" in pitch)), np.array(-1))))
        np.testing.assert_allclose(V[0, s], ours[0, state], atol=1e-8)
        compared += 1
    assert compared == 760


def test_a_clock_that_the_text_leaves_out_is_found():
    """markov_soccer(horizon=10) counts the toss of the ball: its ninth move is its last, where no goal counts."""
    with pytest.raises(RlcError, match=r"at step 8 the game goes otherwise .* set env.horizon to at most 8\.$"):
        make_openspiel(OpenSpielConfig("markov_soccer(horizon=10)"), 1)
    assert make_openspiel(OpenSpielConfig("markov_soccer(horizon=10)", horizon=8), 1).env_spec.horizon == 8


@pytest.mark.parametrize("what", ["reward", "successor"])
def test_the_check_finds_a_wrong_table(what):
    game, table = load(OSHI), enumerate_game(OSHI)
    check_table("x", game, table, 20)
    getattr(table, what)[0, 7] = 0.5 if what == "reward" else 0
    with pytest.raises(RlcError, match=r"x: at step 0 the game goes otherwise .* it is no table"):
        check_table("x", game, table, 20)


def test_seeds_fix_everything_and_a_batch_equals_singles():
    config = OpenSpielConfig("markov_soccer", horizon=9)
    actions = np.random.default_rng(0).integers(25, size=(30, 3))
    batch = make_openspiel(config, 3)
    many = [batch.reset(seed=[7, 1, 7])[0], *[np.array(batch.step(a)[:3]) for a in actions]]
    for row, seed in enumerate([7, 1, 7]):
        single = make_openspiel(config, 1)
        one = [single.reset(seed=[seed])[0], *[np.array(single.step(a[row : row + 1])[:3]) for a in actions]]
        for x, y in zip(many, one, strict=True):
            np.testing.assert_array_equal(x[..., row], y[..., 0])


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("kuhn_poker", "its players do not move at once; allowed are"),
        ("tic_tac_toe", "its players do not move at once; allowed are"),
        ("goofspiel(imp_info=True)", "its players do not know the state; allowed are"),
        ("goofspiel(players=3)", "it has 3 players; allowed are"),
        ("matrix_pd", "its returns do not sum to zero by definition; allowed are"),
        ("oshi_zumo", "more than 384 states of 51 x 51 actions; choose a smaller game"),
        ("no_such_game", "OpenSpiel has no game 'no_such_game'; allowed are"),
        ("goofspiel(num_cards=3", "cannot be loaded"),
    ],
)
def test_other_games_are_refused_in_one_sentence(id, words):
    with pytest.raises(RlcError, match=words) as caught:
        make_openspiel(OpenSpielConfig(id), 1)
    assert str(caught.value).startswith(f"openspiel:{id}")
    assert "\n" not in str(caught.value)


def test_bad_configs_and_a_missing_openspiel_are_refused(monkeypatch):
    for fields in ({"id": ""}, {"horizon": 0}):
        with pytest.raises(RlcError, match=r"openspiel: (id|horizon) must"):
            OpenSpielConfig(**fields)
    monkeypatch.setitem(sys.modules, "pyspiel", None)  # what import sees where it is not installed
    with pytest.raises(RlcError, match=r"needs OpenSpiel, which is missing: pip install -e '\.\[games\]'"):
        load("matrix_rps")
