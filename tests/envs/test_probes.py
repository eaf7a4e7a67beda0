"""Probe environments: every value stated in their docstrings, and terminal kept apart from truncation."""

from __future__ import annotations

import numpy as np
import pytest

from rl_contrastive.envs.probes import ProbeConfig
from rl_contrastive.registry import get


def make(name: str, num_envs: int = 4):
    return get("env", name)[0].factory(ProbeConfig(), num_envs)


@pytest.mark.parametrize(
    ("name", "V_0", "Q_0"),
    [
        ("probe-constant", [1], [[1, 1]]),
        ("probe-observation", [-1, 1], [[-1, -1], [1, 1]]),
        ("probe-delay", [1, 2], [[1, 1], [2, 2]]),
        ("probe-action", [1], [[-1, 1]]),
        ("probe-match", [1, 1], [[1, -1], [-1, 1]]),
        ("probe-terminal", [3.5, 0], [[1.5, 3.5], [0, 0]]),
        ("probe-truncation", [3, 3], [[3, 3], [3, 3]]),
    ],
)
def test_values_by_hand(name, V_0, Q_0):
    model = make(name).exact()
    np.testing.assert_allclose(model.V[0], V_0)
    np.testing.assert_allclose(model.Q[0], Q_0)


def test_terminal_values_of_the_later_steps():
    np.testing.assert_allclose(make("probe-terminal").exact().V[:, 0], [3.5, 2.5, 1.5, 0.0])


def test_rows_of_the_terminal_probe_end_at_their_own_steps():
    env = make("probe-terminal", 3)
    env.reset(seed=0)
    # Row 0 leaves at once, row 1 at the second step, row 2 stays to the horizon.
    obs, reward, terminated, truncated, _ = env.step(np.array([0, 1, 1]))
    assert (obs.tolist(), reward.tolist(), terminated.tolist()) == ([1, 0, 0], [1.5, 1, 1], [True, False, False])
    obs, reward, terminated, _, _ = env.step(np.array([0, 0, 1]))  # row 0 restarts: its action is ignored
    assert (obs.tolist(), reward.tolist(), terminated.tolist()) == ([0, 1, 0], [0, 1.5, 1], [False, True, False])
    obs, reward, terminated, truncated, _ = env.step(np.array([1, 0, 1]))
    assert (obs.tolist(), reward.tolist(), terminated.tolist()) == ([0, 0, 0], [1, 0, 1], [False, False, True])
    assert not truncated.any()


def test_truncation_keeps_its_flag_and_its_true_final_observation():
    env = make("probe-truncation", 2)
    env.reset(seed=0)
    flags = [env.step(np.zeros(2, dtype=int)) for _ in range(3)]
    assert [f[0][0] for f in flags] == [1, 0, 1]  # the final observation is not the first one of the next episode
    assert [bool(f[3][0]) for f in flags] == [False, False, True]
    assert not any(f[2].any() for f in flags)
    obs, reward, *_ = env.step(np.zeros(2, dtype=int))
    assert (obs.tolist(), reward.tolist()) == ([0, 0], [0.0, 0.0])
