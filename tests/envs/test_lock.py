"""The locks: BRIEE's rules one by one, the optimum by playing the combination, and what noise makes unattainable."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import hadamard

from rl_contrastive.envs.lock import LockConfig, LockEnv, hadamard_transform
from rl_contrastive.envs.lock_variants import (
    DenseLockConfig,
    DistractorLockConfig,
    VariableLockConfig,
    dense_lock,
    distractor_lock,
    variable_lock,
)
from rl_contrastive.errors import RlcError


def returns(env: LockEnv, choose, seed: int = 0) -> np.ndarray:
    """Returns (n,) of one episode each; choose(h, x) -> actions, x the coordinates (n, D) before the rotation."""
    obs, _ = env.reset(seed=seed)
    total = np.zeros(env.num_envs)
    for h in range(env.config.horizon):
        obs, reward, *_ = env.step(choose(h, unrotate(obs)))
        total += reward
    return total


def unrotate(obs: np.ndarray) -> np.ndarray:
    D = obs.shape[1]
    return obs.astype(np.float64) @ hadamard(D) / D


@pytest.mark.parametrize("D", [1, 2, 16, 128])
def test_transform_equals_the_hadamard_matrix_and_does_not_depend_on_the_batch(D):
    x = np.random.default_rng(0).normal(size=(D, 5)).astype(np.float32)
    np.testing.assert_allclose(hadamard_transform(x), hadamard(D) @ x.astype(np.float64), atol=1e-4)
    np.testing.assert_array_equal(hadamard_transform(x)[:, 2:3], hadamard_transform(x[:, 2:3].copy()))


@pytest.mark.parametrize(("H", "D"), [(1, 8), (5, 16), (10, 16), (12, 16), (13, 32), (20, 32), (50, 64), (100, 128)])
def test_dimension_is_the_power_of_two_above_h_plus_4(H, D):
    assert LockEnv(LockConfig(horizon=H), 1).env_spec.obs_shape == (D,)


@pytest.mark.parametrize("make", [lambda: LockEnv(LockConfig(), 200), lambda: LockEnv(LockConfig(horizon=100), 50)])
def test_the_combination_earns_exactly_one(make):
    env = make()
    assert env.env_spec.optimal_return == pytest.approx(1.0, abs=1e-9)
    assert env.exact().optimal_return == pytest.approx(1.0, abs=1e-12)
    total = returns(env, lambda h, x: env.good_actions[h][env.latent_states()])
    np.testing.assert_array_equal(total, 1.0)


def test_a_wrong_action_pays_the_bait_half_of_the_time_and_nothing_ever_after():
    env = LockEnv(LockConfig(horizon=4), 20_000)
    env.reset(seed=1)
    wrong = (env.good_actions[0][env.latent_states()] + 1) % 10
    _, reward, *_ = env.step(wrong)
    assert set(np.unique(reward)) == {0.0, 0.1}
    assert abs((reward > 0).mean() - 0.5) < 5 * 0.5 / np.sqrt(20_000)
    assert np.all(env.latent_states() == 2)
    for action in range(3):
        _, reward, terminated, *_ = env.step(np.full(20_000, action))
        assert np.all(reward == 0.0)
        assert np.all(env.latent_states() == 2)
    assert terminated.all()


def test_observation_is_one_hots_plus_noise_on_the_first_coordinates_only():
    H, n = 6, 50_000
    env = LockEnv(LockConfig(horizon=H), n)
    obs, _ = env.reset(seed=0)
    for h in range(H + 1):
        x = unrotate(obs)
        signal = np.zeros_like(x)
        signal[np.arange(n), env.latent_states()] += 1.0
        signal[:, 3 + h] += 1.0
        noise = x - signal
        np.testing.assert_allclose(noise[:, H + 3 :], 0.0, atol=1e-5)
        inner = noise[:, : H + 3]
        np.testing.assert_allclose(inner.std(axis=0), 0.1, atol=5 * 0.1 / np.sqrt(2 * n))
        np.testing.assert_allclose(inner.mean(axis=0), 0.0, atol=5 * 0.1 / np.sqrt(n))
        off_diagonal = np.corrcoef(inner.T)[np.triu_indices(H + 3, 1)]
        assert np.abs(off_diagonal).max() < 5.5 / np.sqrt(n)
        if h < H:
            obs, *_ = env.step(env.good_actions[h][env.latent_states()])


def test_rank_two_with_fair_switches_and_three_otherwise():
    for p_switch, rank in ((0.5, 2), (0.3, 3)):
        model = LockEnv(LockConfig(horizon=3, p_switch=p_switch), 1).exact()
        assert np.linalg.matrix_rank(model.P[0].reshape(-1, 3)) == rank
        assert model.phi.shape[-1] == rank
        assert not model.observations_are_states


def test_the_combination_follows_lock_seed_only():
    base = LockEnv(LockConfig(), 1).good_actions
    np.testing.assert_array_equal(base, LockEnv(LockConfig(noise=0.3), 9).good_actions)
    assert not np.array_equal(base, LockEnv(LockConfig(lock_seed=1), 1).good_actions)
    counts = np.bincount(
        np.concatenate([LockEnv(LockConfig(lock_seed=s), 1).good_actions[:, :2].ravel() for s in range(200)])
    )
    assert np.abs(counts - 400).max() < 5 * np.sqrt(400)  # 4000 good actions, uniform over 10


@pytest.mark.parametrize("make", [lambda c: LockEnv(c, 20_000), lambda c: distractor_lock(c, 20_000)])
def test_bayes_return_is_what_the_best_decoder_earns_under_noise(make):
    env = make(DistractorLockConfig(noise=0.3))
    total = returns(env, lambda h, x: env.good_actions[h][(x[:, 1] > x[:, 0]).astype(int)])
    assert abs(total.mean() - env.bayes_return) < 5 * total.std() / np.sqrt(20_000)
    assert env.bayes_return < 0.95
    assert env.env_spec.optimal_return == env.bayes_return
    assert LockEnv(LockConfig(), 1).bayes_return == pytest.approx(1.0, abs=1e-9)
    blind = returns(env, lambda h, x: env.good_actions[h][np.zeros(20_000, dtype=int)])
    assert blind.mean() < 0.2


def test_distractors_are_fair_coins_with_more_variance_than_any_other_coordinate():
    n = 20_000
    env = distractor_lock(DistractorLockConfig(distractor_scale=1.5), n)
    assert env.env_spec.obs_shape == (32,)
    obs, _ = env.reset(seed=0)
    x = unrotate(obs)
    coins = x[:, 14:18]
    np.testing.assert_allclose(np.abs(coins), 1.5, atol=1e-5)
    assert np.abs(np.corrcoef(np.sign(coins).T)[np.triu_indices(4, 1)]).max() < 5 / np.sqrt(n)
    assert np.abs(np.sign(coins).mean(axis=0)).max() < 5 / np.sqrt(n)
    variance = np.var(x, axis=0)
    assert np.delete(variance, range(14, 18)).max() < variance[14:18].min() / 4
    again, *_ = env.step(np.zeros(n, dtype=int))
    agreement = (np.sign(unrotate(again)[:, 14:18]) == np.sign(coins)).mean()
    assert abs(agreement - 0.5) < 5 * 0.5 / np.sqrt(4 * n)  # drawn anew at each step


def test_dense_lock_pays_each_good_action_and_no_bait():
    env = dense_lock(DenseLockConfig(horizon=6), 300)
    total = returns(env, lambda h, x: env.good_actions[h][env.latent_states()])
    np.testing.assert_allclose(total, 1.5)
    assert env.env_spec.optimal_return == pytest.approx(1.5)
    assert env.exact().optimal_return == pytest.approx(1.5)
    assert env.bayes_return == pytest.approx(1.5, abs=1e-9)
    wrong = returns(env, lambda h, x: (env.good_actions[h][env.latent_states() % 2] + 1) % 10)
    np.testing.assert_array_equal(wrong, 0.0)


def soft_value_by_sampling(env: LockEnv, n: int = 200_000) -> float:
    """Optimal return of a variable lock by plain Monte Carlo, written apart from the library's quadrature."""
    rng = np.random.default_rng(0)
    m, c = env.variant.num_good, env.config
    V = np.zeros(m + 1)
    for h in reversed(range(c.horizon)):
        new = np.zeros(m + 1)
        for z in range(m + 1):
            x = rng.normal(0, c.noise, (n, m + 1))
            x[:, z] += 1
            p = np.exp(x / c.temperature)
            p /= p.sum(axis=1, keepdims=True)
            values = np.zeros((n, c.num_actions))
            for s in range(m + 1):
                for a in range(c.num_actions):
                    if s < m and a == env.good_actions[h, s]:
                        q = (h == c.horizon - 1) + (1 - c.p_switch) * V[s]
                        q += sum(c.p_switch / (m - 1) * V[o] for o in range(m) if o != s)
                    else:
                        q = V[m] + (0.05 if s < m else 0.0)
                    values[:, a] += p[:, s] * q
            new[z] = values.max(axis=1).mean()
        V = new
    return float(V[:m].mean())


@pytest.mark.parametrize("fields", [{}, {"noise": 0.4, "temperature": 0.3}, {"num_latents": 4, "p_switch": 0.9}])
def test_optimum_over_observations_of_the_variable_lock(fields):
    env = variable_lock(VariableLockConfig(horizon=3, num_actions=3, **fields), 1)
    assert env.env_spec.optimal_return == pytest.approx(soft_value_by_sampling(env), abs=4e-3)
    assert env.env_spec.optimal_return < env.exact().optimal_return  # who sees the state does better


def test_variable_lock_becomes_the_plain_lock_as_the_temperature_falls():
    env = variable_lock(VariableLockConfig(temperature=0.01), 500)
    assert env.env_spec.optimal_return == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(env.emission(), np.eye(3), atol=1e-6)
    assert variable_lock(VariableLockConfig(), 1).emission()[0, 0] == pytest.approx(0.576, abs=0.002)


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (LockConfig, "horizon", 0),
        (LockConfig, "num_actions", 1),
        (LockConfig, "noise", -0.1),
        (LockConfig, "p_switch", 1.5),
        (LockConfig, "lock_seed", -1),
        (DistractorLockConfig, "num_distractors", 65),
        (DenseLockConfig, "step_reward", 2.0),
        (VariableLockConfig, "temperature", 0.0),
        (VariableLockConfig, "num_latents", 2),
    ],
)
def test_impossible_values_are_named(config, field, value):
    with pytest.raises(RlcError, match=field):
        config(**{field: value})
