"""Deep Sea: bsuite's rules, the optimum .99, and every action sequence against a plain re-telling."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rl_contrastive.envs.deep_sea import DeepSeaConfig, DeepSeaEnv, action_mapping
from rl_contrastive.errors import RlcError


@pytest.mark.parametrize("N", [2, 10, 50])
def test_going_right_all_the_way_earns_the_optimum(N):
    env = DeepSeaEnv(DeepSeaConfig(size=N), 3)
    obs, _ = env.reset(seed=0)
    total = np.zeros(3)
    for h in range(N):
        obs, reward, terminated, truncated, _ = env.step(env.mapping[h][obs])
        total += reward
    np.testing.assert_allclose(total, 0.99)
    assert env.env_spec.optimal_return == pytest.approx(0.99)
    assert terminated.all()
    assert not truncated.any()


def told_plainly(actions, mapping, cost) -> float:
    """One episode in the words of the rules."""
    N, column, total = len(mapping), 0, 0.0
    for row, action in enumerate(actions):
        if action == mapping[row][column]:
            total -= cost / N
            if column == N - 1:
                total += 1.0
            column = min(column + 1, N - 1)
        else:
            column = max(column - 1, 0)
    return total


def test_every_action_sequence_of_a_small_grid():
    N = 6
    sequences = np.array(list(itertools.product(range(2), repeat=N)))  # (64, 6)
    env = DeepSeaEnv(DeepSeaConfig(size=N, mapping_seed=7), len(sequences))
    env.reset(seed=0)
    total = sum(env.step(sequences[:, h])[1] for h in range(N))
    expected = [told_plainly(actions, env.mapping, 0.01) for actions in sequences]
    np.testing.assert_allclose(total, expected)
    assert (total > 0.5).sum() == 1  # one sequence finds the treasure
    assert max(expected) == pytest.approx(env.exact().optimal_return)


def test_the_mapping_is_a_fair_random_table_of_the_seed():
    np.testing.assert_array_equal(action_mapping(10, 42), action_mapping(10, 42))
    assert not np.array_equal(action_mapping(10, 42), action_mapping(10, 43))
    assert action_mapping(10, 42)[0, :5].tolist() == [0, 1, 1, 1, 0]  # the first draws of the published generator
    assert abs(action_mapping(100, 42).mean() - 0.5) < 0.025


@pytest.mark.parametrize(("shown", "dtype"), [("onehot", np.float32), ("picture", np.bool_)])
def test_grid_observation_marks_the_cell_and_ends_in_zeros(shown, dtype):
    N = 4
    grid, table = (DeepSeaEnv(DeepSeaConfig(size=N, observation=kind), 2) for kind in (shown, "tabular"))
    x, _ = grid.reset(seed=0)
    s, _ = table.reset(seed=0)
    for h in range(N):
        assert x.dtype == dtype
        assert grid.observation_space.contains(x)
        np.testing.assert_array_equal(x.argmax(axis=1), h * N + s)
        np.testing.assert_array_equal(x.sum(axis=1), 1.0)
        action = grid.mapping[h][s]
        x, s = grid.step(action)[0], table.step(action)[0]
    assert np.all(x == 0.0)


def test_stochastic_rules_slip_and_add_noise_at_the_bottom_corners():
    N, n = 5, 40_000
    env = DeepSeaEnv(DeepSeaConfig(size=N, deterministic=False), n)
    obs, _ = env.reset(seed=0)
    obs, reward, *_ = env.step(np.full(n, env.mapping[0][0]))
    assert abs((obs == 0).mean() - 1 / N) < 5 * np.sqrt(0.16 / n)
    np.testing.assert_allclose(reward, -0.01 / N)
    for _ in range(1, N):
        column = env.latent_states()
        _, reward, *_ = env.step(np.full(n, 0))
    corner = (column == 0) | (column == N - 1)
    assert abs(reward[corner].std() - 1.0) < 0.05
    assert reward[~corner].std() < 0.01
    assert env.env_spec.optimal_return < 0.99


@pytest.mark.parametrize(("field", "value"), [("size", 1), ("move_cost", 2.0), ("mapping_seed", -1)])
def test_impossible_values_are_named(field, value):
    with pytest.raises(RlcError, match=field):
        DeepSeaConfig(**{field: value})
