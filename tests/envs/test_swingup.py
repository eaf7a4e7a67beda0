"""The swing-up: its equations of motion, the rule of what pays, and that it is sparse but solvable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_contrastive.envs.swingup import (
    CART,
    FORCE,
    GRAVITY,
    HALF_LENGTH,
    POLE,
    SwingupConfig,
    SwingupEnv,
    accelerations,
)
from rl_contrastive.errors import RlcError

angles = st.floats(-7.0, 7.0)
speeds = st.floats(-10.0, 10.0)
LEFT, STAY, RIGHT = 0, 1, 2


def made(n=1, **fields) -> SwingupEnv:
    env = SwingupEnv(SwingupConfig(**fields), n)
    env.reset(seed=0)
    return env


def put(env: SwingupEnv, x=0.0, x_dot=0.0, theta=np.pi, theta_dot=0.0) -> None:
    env._state = np.tile(np.array([x, x_dot, theta, theta_dot], dtype=np.float64)[:, None], (1, env.num_envs))


def energy(x_dot, theta, theta_dot):
    """Kinetic and potential energy of a cart and a uniform rod of length 2 l that turns on it."""
    cart = 0.5 * (CART + POLE) * x_dot**2
    both = POLE * HALF_LENGTH * x_dot * theta_dot * np.cos(theta)
    rod = 0.5 * (4.0 / 3.0) * POLE * HALF_LENGTH**2 * theta_dot**2
    return cart + both + rod + POLE * GRAVITY * HALF_LENGTH * np.cos(theta)


@given(theta=angles, theta_dot=speeds, force=st.floats(-20.0, 20.0))
def test_accelerations_solve_both_equations_of_motion(theta, theta_dot, force):
    ml, cos = POLE * HALF_LENGTH, np.cos(theta)
    A = np.array([[CART + POLE, ml * cos], [cos, 4.0 / 3.0 * HALF_LENGTH]])
    b = np.array([force + ml * theta_dot**2 * np.sin(theta), GRAVITY * np.sin(theta)])
    found = accelerations(np.array([theta]), np.array([theta_dot]), np.array([force]))
    np.testing.assert_allclose(np.ravel(found), np.linalg.solve(A, b), rtol=1e-10, atol=1e-10)


@given(x_dot=speeds, theta=angles, theta_dot=speeds, force=st.floats(-20.0, 20.0))
def test_energy_changes_by_the_work_of_the_push_alone(x_dot, theta, theta_dot, force):
    """dE/dt = F x': a central difference along the flow; without a push energy is conserved."""
    x_acc, theta_acc = accelerations(np.array([theta]), np.array([theta_dot]), np.array([force]))
    dt = 1e-5

    def at(t):
        return energy(x_dot + t * x_acc[0], theta + t * theta_dot, theta_dot + t * theta_acc[0])

    assert (at(dt) - at(-dt)) / (2 * dt) == pytest.approx(force * x_dot, abs=1e-4, rel=1e-6)


def test_hand_values():
    hanging = accelerations(np.array([np.pi]), np.zeros(1), np.zeros(1))
    np.testing.assert_allclose(np.ravel(hanging), 0.0, atol=1e-14)
    # Level pole, no push: theta'' = g / (4/3 l) = 14.7, and it pulls the cart by nothing, because cos theta = 0.
    level = accelerations(np.array([np.pi / 2]), np.zeros(1), np.zeros(1))
    np.testing.assert_allclose(np.ravel(level), [0.0, 14.7], atol=1e-12)


def test_a_step_is_one_of_explicit_euler_and_its_error_falls_with_the_step():
    env = made()
    put(env, 0.3, -0.2, 1.0, 2.0)
    env.step(np.array([RIGHT]))
    x_acc, theta_acc = accelerations(np.array([1.0]), np.array([2.0]), np.array([FORCE]))
    expected = [0.3 - 0.002, -0.2 + 0.01 * x_acc[0], 1.0 + 0.02, 2.0 + 0.01 * theta_acc[0]]
    np.testing.assert_allclose(env._state[:, 0], expected, rtol=1e-14)

    def drift(timescale):
        free = made(timescale=timescale)
        put(free, theta=2.5)
        for _ in range(round(0.5 / timescale)):
            free.step(np.array([STAY]))
        return abs(energy(*free._state[1:, 0]) - energy(0.0, 2.5, 0.0))

    coarse, fine = drift(0.001), drift(0.0005)
    assert 0 < fine < coarse
    assert coarse / fine == pytest.approx(2.0, abs=0.1)  # first order


@pytest.mark.parametrize(
    ("state", "pays"),
    [
        ({}, False),
        ({"theta": 0.0}, True),
        ({"theta": 2 * np.pi - 0.5}, True),
        ({"theta": 1.0}, True),  # cos 1 = .54
        ({"theta": 1.1}, False),  # cos 1.1 = .45
        ({"theta": 0.0, "theta_dot": 0.9}, True),
        ({"theta": 0.0, "theta_dot": -1.3}, False),
        ({"theta": 0.0, "x": 0.98}, True),
        ({"theta": 0.0, "x": -1.02}, False),
    ],
)
def test_what_pays_and_what_moving_costs(state, pays):
    for action, cost in ((LEFT, 0.1), (STAY, 0.0), (RIGHT, 0.1)):
        env = made(timescale=1e-4)  # so short that the state stays where it is put
        put(env, **state)
        _, reward, terminated, _, _ = env.step(np.array([action]))
        assert reward[0] == pytest.approx(pays - cost, abs=1e-15)
        assert not terminated[0]


def test_the_observation_shows_clock_and_thresholds():
    env = made(horizon=50)
    put(env, 1.5, -3.0, 1.1, -4.0)
    x, x_dot, theta, theta_dot = env._state[:, 0]
    env._taken[:] = 25
    expected = [x / 3, x_dot / 3, np.sin(theta), np.cos(theta), theta_dot, 0.5, -1.0, -1.0]
    np.testing.assert_allclose(env._observe(0)[0], np.array(expected, dtype=np.float32))
    put(env, theta=0.0)
    assert env._observe(0)[0, 6:].tolist() == [1.0, 1.0]


def test_leaving_the_track_ends_one_row_and_time_ends_all():
    env = made(2, horizon=6)
    env._state[:, 0] = [2.99, 5.0, np.pi, 0.0]
    _, _, terminated, truncated, _ = env.step(np.array([STAY, STAY]))
    assert terminated.tolist() == [True, False]
    assert not truncated.any()
    ends = [env.step(np.array([STAY, STAY]))[2].tolist() for _ in range(7)]
    assert ends[:5] == [[False, False]] * 4 + [[False, True]]
    assert ends[5:] == [[False, False], [True, False]]  # row 0 spent one step on beginning anew


def controller(obs):
    """Pump energy until the pole is high, then balance it by a linear rule."""
    x, x_dot, sin, cos, theta_dot = 3 * obs[:, 0], 3 * obs[:, 1], obs[:, 2], obs[:, 3], obs[:, 4]
    lacking = energy(0.0, np.arctan2(sin, cos), theta_dot) < energy(0.0, 0.0, 0.0)
    swing = -5.0 * np.sign(theta_dot * cos) * np.where(lacking, 1.0, -1.0) - x - x_dot
    balance = x + 2.0 * x_dot + 30.0 * np.arctan2(sin, cos) + 6.0 * theta_dot
    push = np.where(cos > 0.85, balance, swing)
    return np.where(push > 2.0, RIGHT, np.where(push < -2.0, LEFT, STAY))


def returns(policy, n=16):
    env = made(n)
    obs, _ = env.reset(seed=5)
    total, alive = np.zeros(n), np.ones(n, bool)
    for _ in range(env.env_spec.horizon):
        obs, reward, terminated, _, _ = env.step(policy(obs))
        total += np.where(alive, reward, 0.0)
        alive &= ~terminated
    assert not alive.any()
    return total


def test_the_task_can_be_solved_and_dithering_never_meets_its_reward():
    assert returns(controller).min() > 400
    assert (returns(lambda obs: np.full(len(obs), STAY)) == 0.0).all()
    rng = np.random.default_rng(0)
    dithering = returns(lambda obs: rng.integers(3, size=len(obs)))
    assert dithering.max() < 0.0  # only costs


def test_pictures_show_where_the_pole_is():
    env = made()
    green, blue = (0, 158, 115), (0, 114, 178)

    def rows_of(colour):
        return np.flatnonzero((env.render() == colour).all(axis=2).any(axis=1))

    assert rows_of(blue).min() > 60  # hangs below the track
    put(env, theta=0.0)
    assert not len(rows_of(blue))
    assert rows_of(green).min() < 40  # stands, and pays
    put(env, x=2.5, theta=0.0)
    dark = (env.render() == 60).all(axis=2)
    assert np.flatnonzero(dark.any(axis=0)).mean() > 180


@pytest.mark.parametrize(
    "fields",
    [{"horizon": 0}, {"height_threshold": 1.0}, {"timescale": 0.0}, {"move_cost": -0.1}, {"x_threshold": np.inf}],
)
def test_impossible_settings_are_refused(fields):
    with pytest.raises(RlcError, match=f"swingup: {next(iter(fields))}"):
        SwingupConfig(**fields)
