"""Goofspiel as vectors: its rules are those of the table, its exact values too, and 8 cards are listed by rounds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rl_contrastive.api import make_agent
from rl_contrastive.config import from_dict
from rl_contrastive.envs.goofspiel import GoofspielConfig, Round, make_goofspiel
from rl_contrastive.envs.goofspiel import bid as bid_once
from rl_contrastive.envs.goofspiel_cards import Rounds, bid, card
from rl_contrastive.envs.soccer import SoccerConfig, SoccerEnv
from rl_contrastive.errors import RlcError
from rl_contrastive.planning.games import duality_gap, layered_gap
from rl_contrastive.runs.oracle import make_layered

K = 4


def cards(**fields):
    return make_goofspiel(GoofspielConfig(**{"cards": K, "observation": "cards", **fields}), 5)


def flags(*numbers: int) -> np.ndarray:
    """Cards by their worth -> (1, K)."""
    return np.isin(np.arange(1, K + 1), numbers)[None]


def test_a_vector_worked_out_by_hand():
    """Cards 1 3 4 against 2 3 4, prize 3 at stake, 1 and 2 to come, one point behind of 10."""
    state = Rounds(flags(1, 3, 4), flags(2, 3, 4), flags(1, 2), np.array([2]), np.array([-1]))
    shown = [1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, -0.1]
    np.testing.assert_allclose(state.observe(), [shown], atol=1e-7)
    assert card(state.own, np.array([1])).item() == 0  # its 2 was played: the lowest left is the 1
    after, reward = bid(state, np.array([2]), np.array([1]), False)  # 3 beats 2
    assert (after.lead.item(), reward.item()) == (2, 0.0)
    assert after.own.tolist() == flags(1, 4).tolist()
    assert bid(state, np.array([2]), np.array([1]), True)[1].item() == pytest.approx(3 / 10)


@pytest.mark.parametrize("pay", ["win", "points"])
def test_every_bid_of_every_state_is_that_of_the_table(pay):
    config = GoofspielConfig(K, pay=pay)
    points = pay == "points"
    some = [s for s in make_goofspiel(config, 1).table.keys if isinstance(s, Round)][::7]
    for s, a, b in itertools.product(some, range(K), range(K)):
        state = Rounds(flags(*s.own), flags(*s.other), flags(*s.later), np.array([s.prize - 1]), np.array([s.lead]))
        [(_, reward, following)] = bid_once(config, s, a, b)
        after, found = bid(state, np.array([a]), np.array([b]), points)
        assert found.item() == pytest.approx(reward)
        if following is not None:
            left = (flags(*following.own), flags(*following.other), following.lead)
            assert all(map(np.array_equal, (after.own, after.other, after.lead.item()), left))


@pytest.mark.parametrize("prizes", ["descending", "random"])
@pytest.mark.parametrize("pay", ["win", "points"])
def test_exact_values_are_those_of_the_table(prizes, pay):
    """Uniform actions against each other: the bid of the lowest card is the likeliest one."""
    uniform = np.full((1, K), 1 / K)
    listed = cards(prizes=prizes, pay=pay).layered(10_000)
    found = layered_gap(listed, lambda obs, h: (uniform.repeat(len(obs), 0),) * 2)
    model = make_goofspiel(GoofspielConfig(K, prizes, pay), 1).exact()
    policy = np.full((K, model.r.shape[1], 1, K), 1 / K)
    expected = duality_gap(model, policy, policy)
    assert found.best_max == pytest.approx(expected.best_max, abs=1e-12)
    assert found.best_min == pytest.approx(expected.best_min, abs=1e-12)
    assert found.value == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("prizes", ["descending", "random"])
def test_play_visits_listed_states_in_order(prizes):
    env = cards(prizes=prizes)
    listed = env.layered(10_000).layers
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    total = np.zeros(5)
    for h in range(K):
        seen = {row.tobytes() for row in listed[h].obs}
        assert all(row.tobytes() in seen for row in obs)
        obs, reward, terminated, _, _ = env.step(rng.integers(K * K, size=5))
        total += reward
        assert terminated.all() == (h == K - 1)
    assert set(total) <= {-1.0, 0.0, 1.0}


def test_random_prizes_are_equally_likely():
    env = make_goofspiel(GoofspielConfig(3, "random", observation="cards"), 6000)
    obs, _ = env.reset(seed=1)
    first = obs[:, 9:12].argmax(1)
    np.testing.assert_allclose(np.bincount(first) / 6000, 1 / 3, atol=0.03)
    second = env.step(np.zeros(6000, dtype=int))[0][:, 9:12].argmax(1)
    assert (first != second).all()
    np.testing.assert_allclose(
        np.bincount(second[first == 1], minlength=3) / (first == 1).sum(), [0.5, 0, 0.5], atol=0.05
    )


def test_eight_cards_are_listed_where_points_are_paid():
    env = cards(cards=8, pay="points")
    assert sum(len(layer.obs) for layer in env.layered(20_000).layers) == 12869
    assert env.layered(12_868) is None
    assert env.env_spec.optimal_return == 0.0
    assert make_layered(cards(cards=8)) is None  # 300315 states


def test_what_cannot_be_is_refused():
    with pytest.raises(RlcError, match="8 cards have too many states for a table: at most 6, or observation cards"):
        GoofspielConfig(8)
    with pytest.raises(RlcError, match="cards"):
        from_dict(GoofspielConfig, {"cards": 14, "observation": "cards"})
    with pytest.raises(RlcError, match="more than 2000000 states are too many for exact values"):
        make_layered(cards(cards=10, prizes="random"), "always")


def test_pixels_of_soccer_tell_the_states_apart_and_have_the_table_s_values():
    config = SoccerConfig(horizon=5, observation="pixels")
    env, table = SoccerEnv(config, 3), SoccerEnv(SoccerConfig(horizon=5), 3)
    assert env.env_spec.obs_shape == (50, 66)
    assert env.env_spec.num_states is None
    listed = env.layered(5000)
    assert len(np.unique(listed.layers[0].obs.reshape(760, -1), axis=0)) == 760
    rng = np.random.default_rng(0)
    mu, nu = (rng.dirichlet(np.ones(5), size=760) for _ in range(2))
    found = layered_gap(listed, lambda obs, h: (mu, nu))
    policies = (np.broadcast_to(np.vstack([p, p[:1]])[None, :, None], (5, 761, 1, 5)) for p in (mu, nu))
    expected = duality_gap(table.exact(), *policies)
    assert (found.value, found.best_max) == (pytest.approx(expected.value), pytest.approx(expected.best_max))
    pixels, states = env.reset(seed=4)[0], table.reset(seed=4)[0]
    for _ in range(4):
        np.testing.assert_array_equal(pixels[0], listed.layers[0].obs[states[0]] if states[0] < 760 else 0)
        action = rng.integers(25, size=3)
        pixels, states = env.step(action)[0], table.step(action)[0]


def test_a_run_records_the_exact_gap():
    env = cards(cards=3, pay="points")
    agent = make_agent("uniform", env, batch=5)
    recorded = agent.learn(episodes=10, eval_episodes=5, exact="always").history[-1]
    uniform = np.full((1, 3), 1 / 3)
    found = layered_gap(env.layered(1000), lambda obs, h: (uniform.repeat(len(obs), 0),) * 2)
    assert recorded["gap"] == pytest.approx(found.gap)
    assert recorded["loss_max"] == pytest.approx(-found.best_min)  # the value of the game is 0
    assert "gap" not in make_agent("uniform", env, batch=5).learn(episodes=5, exact="never").history[-1]
