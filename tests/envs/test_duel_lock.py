"""DuelLock: the closed form, the published table, the rules one by one, its observations, and what noise takes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import hadamard

from rl_contrastive.envs.duel_lock import DEAD, DuelLockConfig, DuelLockEnv
from rl_contrastive.errors import RlcError
from rl_contrastive.planning.equilibrium import nash
from rl_contrastive.planning.games import duality_gap, nash_values


def unrotate(obs: np.ndarray) -> np.ndarray:
    D = obs.shape[-1]
    return obs.astype(np.float64) @ hadamard(D) / D


def equilibrium(env: DuelLockEnv) -> tuple[np.ndarray, np.ndarray]:
    """(mu, nu), each (H, 3, n): one half on each key and on each block; uniform in the dead latent."""
    H, n = env.config.horizon, env.config.num_actions
    mu, nu = np.full((H, 3, n), 1 / n), np.full((H, 3, n), 1 / n)
    for policy, hidden in ((mu, env.keys), (nu, env.blocks)):
        policy[:, :DEAD] = 0.0
        np.put_along_axis(policy[:, :DEAD], hidden, 0.5, axis=-1)
    return mu, nu


@pytest.mark.parametrize("lock_seed", range(3))
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"horizon": 1},
        {"delta": 0.5, "kappa": 0.0},
        {"delta": 0.0},
        {"num_actions": 3, "kappa": 0.7},
        {"observation": "symbols", "num_symbols": 4},
    ],
)
def test_closed_form_equals_backward_induction_through_the_solver(fields, lock_seed):
    env = DuelLockEnv(DuelLockConfig(lock_seed=lock_seed, **fields), 1)
    model = env.exact()
    V, Q = nash_values(model.P, model.r, model.players)
    np.testing.assert_allclose(model.V, V, atol=1e-12)
    np.testing.assert_allclose(model.Q, Q, atol=1e-12)
    assert env.env_spec.optimal_return == pytest.approx(model.rho @ V[0], abs=1e-9)


# H, n, delta -> V*, gap of the uniform pair, what each player loses by uniform play, P(uniform play survives).
TABLE = [
    (3, 5, 0.1, 0.756100, 0.754, 0.614, 0.140, 5.7e-2),
    (5, 5, 0.1, 0.631441, 0.728, 0.526, 0.202, 8.3e-3),
    (10, 5, 0.05, 0.638863, 0.735, 0.539, 0.197, 8.6e-5),
    (10, 10, 0.05, 0.638863, 0.814, 0.539, 0.275, 9.3e-8),
    (20, 5, 0.03, 0.589415, 0.707, 0.489, 0.218, 8.6e-9),
]


@pytest.mark.parametrize(("H", "n", "delta", "value", "gap", "loss_max", "loss_min", "survives"), TABLE)
def test_table_of_hardness(H, n, delta, value, gap, loss_max, loss_min, survives):
    env = DuelLockEnv(DuelLockConfig(horizon=H, num_actions=n, delta=delta), 1)
    model = env.exact()
    assert env.env_spec.optimal_return == pytest.approx(value, abs=1e-6)
    uniform = np.full((H, 3, 1, n), 1 / n)
    found = duality_gap(model, uniform, uniform)
    assert found.gap == pytest.approx(gap, abs=6e-4)
    assert value - found.best_min == pytest.approx(loss_max, abs=6e-4)
    assert found.best_max - value == pytest.approx(loss_min, abs=6e-4)
    alive = model.rho
    for P in model.P:
        alive = alive @ P.mean(axis=1)
    assert alive[:DEAD].sum() == pytest.approx(survives, rel=0.01)


def test_halves_on_keys_and_blocks_are_an_equilibrium_and_any_pure_choice_is_not():
    env = DuelLockEnv(DuelLockConfig(), 1)
    mu, nu = equilibrium(env)
    assert abs(duality_gap(env.exact(), mu[:, :, None], nu[:, :, None]).gap) < 1e-12
    for policy, hidden in ((mu, env.keys), (nu, env.blocks)):
        pure = policy.copy()
        pure[:, :DEAD] = 0.0
        np.put_along_axis(pure[:, :DEAD], hidden[..., :1], 1.0, axis=-1)
        pair = (pure, nu) if policy is mu else (mu, pure)
        assert duality_gap(env.exact(), pair[0][:, :, None], pair[1][:, :, None]).gap > 0.2


def test_each_rule_of_passing_and_paying():
    n = 40_000
    env = DuelLockEnv(DuelLockConfig(horizon=2, delta=0.1, kappa=0.3), n)
    key, block = env.keys[0], env.blocks[0]  # (2, 2) of live latent and i
    wrong = np.array([next(a for a in range(5) if a not in key[z]) for z in range(2)])
    for a, b, p in [
        (wrong, block[:, 0], 0.0),
        (key[:, 0], block[:, 0], 0.8),
        (key[:, 1], block[:, 1], 0.8),
        (key[:, 0], block[:, 1], 1.0),  # the other key's block
        (key[:, 1], (block[:, 1] + 1) % 5, 1.0),
    ]:
        env.reset(seed=7)
        z = env.latent_states()
        assert abs(np.mean(z) - 0.5) < 5 * 0.5 / np.sqrt(n)
        _, reward, *_ = env.step(a[z] * 5 + b[z])
        passed = env.latent_states() < DEAD
        np.testing.assert_array_equal(reward, np.where(passed, 0.0, 0.3))
        assert abs(passed.mean() - p) <= 5 * np.sqrt(p * (1 - p) / n)
        if p > 0:
            landed = env.latent_states()[passed]
            assert abs(landed.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(landed))  # whatever the latent before
            assert abs(np.corrcoef(landed, z[passed])[0, 1]) < 5 / np.sqrt(len(landed))
        # The last level: 1 for passing, kappa for dying there, nothing to who died before.
        z = np.minimum(env.latent_states(), 1)
        free = np.array([next(b for b in range(5) if b != env.blocks[1, w, 0]) for w in range(2)])
        _, reward, terminated, *_ = env.step(env.keys[1][z, 0] * 5 + free[z])
        np.testing.assert_array_equal(reward, np.where(passed, 1.0, 0.0))
        assert terminated.all()


def test_the_dead_stay_dead_and_earn_nothing():
    env = DuelLockEnv(DuelLockConfig(), 2000)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    dead = np.zeros(2000, bool)
    for _ in range(8):
        _, reward, *_ = env.step(rng.integers(25, size=2000))
        assert np.all(reward[dead] == 0.0)
        assert np.all(env.latent_states()[dead] == DEAD)
        dead = env.latent_states() == DEAD
    assert dead.mean() > 0.99


def test_next_states_cannot_tell_the_live_latents_apart_and_what_follows_can():
    """Decode x by what it leads to, not by what led to it."""
    model = DuelLockEnv(DuelLockConfig(), 1).exact()
    for P, psi, phi in zip(model.P, model.psi, model.phi, strict=True):
        assert np.linalg.matrix_rank(P.reshape(-1, 3)) == 2
        np.testing.assert_array_equal(psi[0], psi[1])
        assert np.abs(phi[0] - phi[1]).max() > 0.09
    assert model.phi.shape == (8, 3, 25, 2)


def test_keys_and_blocks_are_two_each_and_follow_lock_seed_only():
    env = DuelLockEnv(DuelLockConfig(), 1)
    other = DuelLockEnv(DuelLockConfig(noise=0.3, observation="state", delta=0.2), 9)
    np.testing.assert_array_equal(env.keys, other.keys)
    np.testing.assert_array_equal(env.blocks, other.blocks)
    counts = np.zeros((2, 5))
    for seed in range(200):
        drawn = DuelLockEnv(DuelLockConfig(lock_seed=seed), 1)
        for i, hidden in enumerate((drawn.keys, drawn.blocks)):
            assert np.all(hidden[..., 0] != hidden[..., 1])
            counts[i] += np.bincount(hidden.ravel(), minlength=5)
    assert np.abs(counts - 1280).max() < 5 * np.sqrt(1280)  # 6400 of each, uniform over 5
    assert not np.array_equal(drawn.keys, drawn.blocks)


@pytest.mark.parametrize(("H", "D"), [(1, 8), (4, 8), (5, 16), (8, 16), (12, 16), (13, 32), (20, 32)])
def test_dimension_is_the_power_of_two_above_h_plus_4(H, D):
    assert DuelLockEnv(DuelLockConfig(horizon=H), 1).env_spec.obs_shape == (D,)


def test_observation_is_one_hots_plus_noise_and_emissions_have_its_law():
    H, n = 5, 40_000
    env = DuelLockEnv(DuelLockConfig(horizon=H, noise=0.2), n)
    emit = env.exact().emissions
    mu, _ = equilibrium(env)
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    for h in range(H + 1):
        x, z = unrotate(obs), env.latent_states()
        fresh = unrotate(emit(h, 20_000, rng))  # (3, 20000, D)
        for latent in range(3):
            here = x[z == latent]
            for sample in (here, fresh[latent]):
                if len(sample) < 1000:
                    continue  # the dead before anyone died
                signal = np.zeros(env.dimension)
                signal[[latent, 3 + h]] += 1.0
                noise = sample - signal
                np.testing.assert_allclose(noise[:, H + 3 :], 0.0, atol=1e-5)
                inner = noise[:, : H + 3]
                np.testing.assert_allclose(inner.mean(axis=0), 0.0, atol=5 * 0.2 / np.sqrt(len(sample)))
                np.testing.assert_allclose(inner.std(axis=0), 0.2, atol=5 * 0.2 / np.sqrt(2 * len(sample)))
                corner = np.corrcoef(inner.T)[np.triu_indices(H + 3, 1)]
                assert np.abs(corner).max() < 5.5 / np.sqrt(len(sample))
        if h < H:
            probabilities = mu[h][z]
            a = (rng.random((n, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
            obs, *_ = env.step(a * 5 + rng.integers(5, size=n))
    with pytest.raises(RlcError, match="emissions of level 6"):
        emit(6, 1, rng)


def test_gap_over_emissions_is_zero_for_who_reads_them_and_large_for_who_does_not():
    env = DuelLockEnv(DuelLockConfig(horizon=4), 1)
    model = env.exact()
    mu, nu = equilibrium(env)
    rng = np.random.default_rng(0)
    x = np.stack([unrotate(model.emissions(h, 50, rng)) for h in range(4)])  # (H, 3, M, D)
    read = x[..., :3].argmax(axis=-1)  # (H, 3, M) latents as decoded
    level = np.arange(4)[:, None, None]
    assert abs(duality_gap(model, mu[level, read], nu[level, read]).gap) < 1e-9
    blind = np.zeros_like(read)
    assert duality_gap(model, mu[level, blind], nu[level, read]).gap > 0.3


def test_the_tabular_twin_shows_the_latent_and_has_the_same_game():
    rich = DuelLockEnv(DuelLockConfig(), 1).exact()
    env = DuelLockEnv(DuelLockConfig(observation="state"), 5)
    model = env.exact()
    assert env.env_spec.num_states == 3
    assert model.observations_are_states
    assert model.emissions is None
    assert not rich.observations_are_states
    np.testing.assert_array_equal(model.P, rich.P)
    np.testing.assert_array_equal(model.r, rich.r)
    obs, _ = env.reset(seed=0)
    np.testing.assert_array_equal(obs, env.latent_states())


def test_symbols_are_drawn_evenly_from_those_of_the_latent_in_a_hidden_order():
    n, m = 30_000, 4
    env = DuelLockEnv(DuelLockConfig(observation="symbols", num_symbols=m), n)
    model = env.exact()
    np.testing.assert_array_equal(np.sort(env.symbols.ravel()), np.arange(3 * m))
    assert not np.array_equal(env.symbols.ravel(), np.arange(3 * m))
    assert model.phi.shape == (8, 3 * m, 25, 2)
    assert np.linalg.matrix_rank(model.P[0].reshape(-1, 3 * m)) == 2
    obs, _ = env.reset(seed=0)
    counts = np.bincount(obs, minlength=3 * m)
    assert np.abs(counts[env.symbols[:DEAD]] - n / (2 * m)).max() < 5 * np.sqrt(n / (2 * m))
    assert counts[env.symbols[DEAD]].sum() == 0
    np.testing.assert_array_equal(obs, env.latent_states())
    # A key of live 1 alone: all that show a symbol of live 0 die of it, of the others only who is blocked.
    only_one = next(k for k in env.keys[0, 1] if k not in env.keys[0, 0])
    after, *_ = env.step(np.full(n, only_one * 5))
    died = np.isin(after, env.symbols[DEAD])
    of_zero = np.isin(obs, env.symbols[0])
    assert died[of_zero].all()
    assert died[~of_zero].mean() < 0.12
    again = DuelLockEnv(DuelLockConfig(observation="symbols", num_symbols=m), 1)
    np.testing.assert_array_equal(again.symbols, env.symbols)
    np.testing.assert_array_equal(again.keys, DuelLockEnv(DuelLockConfig(), 1).keys)


def test_value_under_noise_is_that_of_the_game_on_posteriors():
    """By sampling both coordinates of x and solving the game at each posterior: none of the library's quadrature."""
    noise, n = 0.4, 20_000
    env = DuelLockEnv(DuelLockConfig(horizon=3, noise=noise, num_actions=3), 1)
    rng = np.random.default_rng(0)
    value, squared_error = 1.0, 0.0
    for p in env.pass_probability[::-1]:
        z = rng.integers(2, size=n)
        x = rng.normal(0, noise, (n, 2))
        x[np.arange(n), z] += 1.0
        centres = np.eye(2)
        likelihood = np.exp(-((x[:, None] - centres) ** 2).sum(axis=-1) / (2 * noise**2))  # (n, 2)
        posterior = likelihood / likelihood.sum(axis=1, keepdims=True)
        games = nash(0.1 + np.einsum("nz,zab->nab", posterior, p[:DEAD]) * (value - 0.1)).value
        value, squared_error = games.mean(), squared_error + games.var() / n
    assert abs(env.env_spec.optimal_return - value) < 5 * np.sqrt(squared_error)
    assert env.exact().optimal_return - env.env_spec.optimal_return > 20 * np.sqrt(squared_error)


def test_little_noise_costs_nothing_and_the_two_formulas_meet():
    ideal = DuelLockEnv(DuelLockConfig(noise=0.0), 1).env_spec.optimal_return
    assert DuelLockEnv(DuelLockConfig(), 1).env_spec.optimal_return == ideal
    assert DuelLockEnv(DuelLockConfig(noise=0.12), 1).env_spec.optimal_return == pytest.approx(ideal, abs=1e-7)
    assert DuelLockEnv(DuelLockConfig(noise=0.5, observation="state"), 1).env_spec.optimal_return == ideal


def test_picture_frames_the_state_and_dots_the_last_joint_action():
    env = DuelLockEnv(DuelLockConfig(), 1)
    env.reset(seed=0)
    white = (255, 255, 255)
    first = np.all(env.render() == white, axis=-1)
    z = int(env.latent_states()[0])
    env.step(np.array([env.keys[0, z, 0] * 5 + (env.blocks[0, z, 0] + 1) % 5]))
    second = np.all(env.render() == white, axis=-1)
    rows, columns = np.nonzero(first)
    later_rows, later_columns = np.nonzero(second & ~first)
    assert columns.max() < later_columns.max()  # the frame moved one level to the right
    inside = second[rows.min() + 4 : rows.max() - 3, columns.min() + 4 : columns.max() - 3]
    assert 0 < inside.sum() < 60  # the dot, in the cell that was left
    assert second.sum() == inside.sum() + first.sum()
    assert later_rows.size > 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("horizon", 0),
        ("num_actions", 2),
        ("delta", 0.6),
        ("kappa", 1.0),
        ("noise", -0.1),
        ("lock_seed", -1),
        ("num_symbols", 0),
    ],
)
def test_impossible_values_are_named(field, value):
    with pytest.raises(RlcError, match=f"duel-lock: {field}"):
        DuelLockConfig(**{field: value})
