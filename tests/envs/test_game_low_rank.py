"""Random low-rank games: Nash values against linear programs, both one-player limits, symmetry, rewards, sizes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

from rl_contrastive.envs.game_low_rank import LowRankGameConfig, game_reward, low_rank_game
from rl_contrastive.envs.low_rank import LowRankConfig, LowRankEnv
from rl_contrastive.errors import RlcError
from rl_contrastive.planning.games import duality_gap, nash_values
from rl_contrastive.spec import optimal_values


def linear_program_value(M: np.ndarray) -> float:
    """max v subject to M'x >= v, x a distribution: the value of one matrix game, by HiGHS."""
    A, B = M.shape
    found = linprog(
        np.append(np.zeros(A), -1.0),
        A_ub=np.hstack([-M.T, np.ones((B, 1))]),
        b_ub=np.zeros(B),
        A_eq=np.append(np.ones(A), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * A + [(None, None)],
    )
    return -found.fun


@pytest.mark.parametrize(("players", "stationary"), [((3, 3), False), ((2, 4), False), ((4, 2), True)])
def test_nash_values_are_those_of_a_linear_program_at_every_state(players, stationary):
    A, B = players
    config = LowRankGameConfig(
        num_states=6, num_actions=A, num_opponent_actions=B, horizon=3, game_seed=1, stationary=stationary
    )
    model = low_rank_game(config, 1).exact()
    V = np.zeros(6)
    for h in (2, 1, 0):
        Q = model.r[h] + model.P[h] @ V
        np.testing.assert_allclose(model.Q[h], Q, atol=1e-9)
        V = np.array([linear_program_value(q.reshape(A, B)) for q in Q])
        np.testing.assert_allclose(model.V[h], V, atol=1e-9)


def test_an_opponent_of_one_action_leaves_a_decision_problem():
    alone = low_rank_game(LowRankGameConfig(num_opponent_actions=1), 1).exact()
    V, _ = optimal_values(alone.P, alone.r)
    np.testing.assert_allclose(alone.V, V, atol=1e-12)
    opposed = low_rank_game(LowRankGameConfig(num_actions=1), 1).exact()
    V, _ = optimal_values(opposed.P, -opposed.r)
    np.testing.assert_allclose(opposed.V, -V, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_players_who_change_sides_exchange_the_value(seed):
    A, B = 2, 4
    config = LowRankGameConfig(num_states=8, num_actions=A, num_opponent_actions=B, game_seed=seed)
    model = low_rank_game(config, 1).exact()
    swapped = np.arange(A * B).reshape(A, B).T.ravel()  # joint action (b, a) of the other naming
    V, _ = nash_values(model.P[:, :, swapped], -model.r[:, :, swapped], (B, A))
    np.testing.assert_allclose(model.V, -V, atol=1e-10)


def test_rank_of_the_kernel_is_d_over_the_joint_actions():
    model = low_rank_game(LowRankGameConfig(num_states=30, num_actions=4, num_opponent_actions=2), 1).exact()
    assert model.P.shape == (5, 30, 8, 30)
    for P in model.P:
        singular = np.linalg.svd(P.reshape(-1, 30), compute_uv=False)
        assert singular[2] > 1e-3
        assert singular[3] < 1e-12


def test_rewards_have_a_part_of_the_state_and_a_smaller_one_of_the_actions():
    r = low_rank_game(LowRankGameConfig(num_states=200), 1).exact().r  # (5, 200, 9)
    assert r.min() >= 0.0
    assert r.max() <= 1.0
    assert np.ptp(r, axis=-1).max() <= 0.4
    # .6 Beta(.5, .5) + .4 U: mean 1/2, variance .36 / 8 + .16 / 12 (1000 states: one standard error is .007)
    assert r.mean() == pytest.approx(0.5, abs=0.035)
    assert r.var() == pytest.approx(0.36 / 8 + 0.16 / 12, abs=0.005)
    assert r.var(axis=-1, ddof=1).mean() == pytest.approx(0.16 / 12, rel=0.05)
    phi = np.zeros((1, 2, 3, 4))
    assert game_reward(phi, np.random.default_rng(0)).shape == (1, 2, 3)


def test_uniform_play_can_be_exploited_as_much_as_was_measured():
    """The prototype's measurement: a gap of .60 to .67 for the uniform pair over five games of the default sizes."""
    gaps = []
    for seed in range(5):
        model = low_rank_game(LowRankGameConfig(game_seed=seed), 1).exact()
        uniform = np.full((5, 20, 1, 3), 1 / 3)
        gaps.append(duality_gap(model, uniform, uniform).gap)
    assert 0.55 < np.mean(gaps) < 0.75
    assert np.ptp(gaps) > 0.01


def test_equilibria_mix_in_many_states():
    """Otherwise pure policies would do, and the games would tell no algorithm for games from one for one agent."""
    model = low_rank_game(LowRankGameConfig(), 1).exact()
    games = model.Q.reshape(-1, 3, 3)
    saddle = games.min(axis=2).max(axis=1) == games.max(axis=1).min(axis=1)
    assert 0.2 < saddle.mean() < 0.8


def test_a_game_is_a_function_of_its_seed_with_the_dynamics_of_the_mdp():
    one, many = (low_rank_game(LowRankGameConfig(game_seed=5), n) for n in (1, 64))
    np.testing.assert_array_equal(one.mdp.r, many.mdp.r)
    assert not np.array_equal(one.mdp.r, low_rank_game(LowRankGameConfig(game_seed=6), 1).mdp.r)
    mdp = LowRankEnv(LowRankConfig(num_states=20, num_actions=9, mdp_seed=5, alpha_psi=0.2), 1).mdp
    np.testing.assert_array_equal(one.mdp.phi, mdp.phi)
    assert not np.array_equal(one.mdp.r, mdp.r)


def test_stationary_games_say_so_and_share_one_kernel():
    env = low_rank_game(LowRankGameConfig(stationary=True, horizon=7), 1)
    assert env.env_spec.stationary
    assert env.exact().P.strides[0] == 0
    assert not low_rank_game(LowRankGameConfig(), 1).env_spec.stationary


def test_large_games_are_made_without_the_kernel():
    env = low_rank_game(LowRankGameConfig(num_states=500, num_actions=5, num_opponent_actions=5), 32)
    env.reset(seed=0)
    env.step(np.zeros(32, dtype=int))
    assert "_exact" not in vars(env)  # P (250 MB) is built on demand only
    assert 0 < env.env_spec.optimal_return < 5


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_states", 0), ("num_opponent_actions", 0), ("num_actions", 0), ("alpha_psi", 0.0), ("game_seed", -1)],
)
def test_impossible_values_are_named(field, value):
    with pytest.raises(RlcError, match=f"low-rank-game: {field}"):
        LowRankGameConfig(**{field: value})
