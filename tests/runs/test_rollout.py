"""One batch as transitions: the same stream under each autoreset mode, hand-written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from rl_contrastive.errors import RlcError
from rl_contrastive.runs.rollout import play
from rl_contrastive.spec import EnvSpec

LENGTHS = np.array([1, 3, 4])
"""Row 0 terminates at h=0, row 1 is truncated at h=2, row 2 goes on past the horizon of 4."""


class Scripted:
    """Observation 100 row + t within the first episode, -1 afterwards; reward 10 row + t."""

    def __init__(self, mode: AutoresetMode, bad_reward_at: tuple[int, int] | None = None) -> None:
        self.metadata = {"autoreset_mode": mode}
        self.mode, self.num_envs, self.bad = mode, 3, bad_reward_at
        self.env_spec = EnvSpec("scripted", 2, 4, (), "int64")
        self.masks: list[list[bool]] = []

    def reset(self, *, seed=None, options=None):
        if options:
            assert self.mode == AutoresetMode.DISABLED
            self.masks.append(options["reset_mask"].tolist())
            return np.where(self.t >= LENGTHS, -1, self._obs()), {}
        self.seeds, self.t = seed, np.zeros(3, dtype=np.int64)
        return self._obs(), {}

    def _obs(self):
        return 100 * np.arange(3) + self.t

    def step(self, actions):
        reward = 10.0 * np.arange(3) + self.t
        if self.bad is not None and self.t[0] == self.bad[1]:
            reward[self.bad[0]] = np.nan
        self.t = self.t + 1
        ends = self.t == LENGTHS
        terminated, truncated = ends & (np.arange(3) == 0), ends & (np.arange(3) == 1)
        obs = np.where(self.t > LENGTHS, -1, self._obs())
        info = {}
        if self.mode == AutoresetMode.SAME_STEP and (terminated | truncated).any():
            final = np.full(3, None, dtype=object)
            for row in np.flatnonzero(terminated | truncated):
                final[row] = self._obs()[row]
            info["final_obs"] = final
            obs = np.where(terminated | truncated, -1, obs)
        return obs, reward, terminated, truncated, info

    def exact(self):
        return None

    def close(self):
        pass


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_each_autoreset_mode_gives_the_same_living_rows(mode):
    asked = []

    def act(obs, h):
        asked.append(h)
        return np.zeros(3, dtype=np.int64)

    env = Scripted(mode)
    steps = list(play(env, [5, 6, 7], act))
    assert env.seeds == [5, 6, 7]
    assert asked == [0, 1, 2, 3] == [s.h for s in steps]
    alive = [[True] * 3, [False, True, True], [False, True, True], [False, False, True]]
    assert [s.alive.tolist() for s in steps] == alive
    assert [s.boundary.tolist() for s in steps] == [
        [True, False, False],
        [False, False, False],
        [False, True, False],
        [False, False, True],  # the horizon
    ]
    for s in steps:
        rows = np.flatnonzero(s.alive)
        np.testing.assert_array_equal(s.obs[rows], 100 * rows + s.h)
        np.testing.assert_array_equal(s.next_obs[rows], 100 * rows + s.h + 1)  # final ones included
        np.testing.assert_array_equal(s.reward[rows], 10 * rows + s.h)
        np.testing.assert_array_equal(s.discount[rows], np.where((rows == 0) & (s.h == 0), 0.0, 1.0))
    if mode == AutoresetMode.DISABLED:
        assert env.masks == [[True, False, False], [False, True, False]]


def test_it_ends_when_no_row_is_alive(monkeypatch):
    monkeypatch.setitem(globals(), "LENGTHS", np.array([1, 2, 2]))
    env = Scripted(AutoresetMode.NEXT_STEP)
    env_truncates = Scripted.step

    def step(self, actions):
        obs, reward, terminated, truncated, info = env_truncates(self, actions)
        return obs, reward, terminated | ((self.t == LENGTHS) & ~truncated), truncated, info

    monkeypatch.setattr(Scripted, "step", step)
    assert [s.h for s in play(env, [0, 0, 0], lambda obs, h: np.zeros(3, dtype=np.int64))] == [0, 1]


def test_a_reward_that_is_not_finite_is_an_error_of_living_rows_only():
    def run(bad):
        return list(play(Scripted(AutoresetMode.NEXT_STEP, bad), [0, 0, 0], lambda obs, h: np.zeros(3, dtype=int)))

    with pytest.raises(RlcError, match="reward of step h=1 is nan in row 2"):
        run((2, 1))
    assert len(run((0, 1))) == 4  # row 0 is over by then


def test_same_step_without_final_observations_is_an_error(monkeypatch):
    env = Scripted(AutoresetMode.SAME_STEP)
    step = env.step
    env.step = lambda actions: (*step(actions)[:4], {})
    with pytest.raises(RlcError, match="no final_obs"):
        list(play(env, [0, 0, 0], lambda obs, h: np.zeros(3, dtype=int)))


class Undeclared(Scripted):
    """Row 1 loses a life at h=0, row 2 at h=1; row 0 says so together with its end, which changes nothing."""

    def step(self, actions):
        lost = np.array([self.t[0] == 0, self.t[1] == 0, self.t[2] == 1])
        obs, reward, terminated, truncated, info = super().step(actions)
        return obs, reward, terminated, truncated, {**info, "life_lost": lost}


class Lives(Undeclared):
    """The same, declared."""

    def __init__(self, *args):
        super().__init__(*args)
        self.env_spec = replace(self.env_spec, life_loss=True)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_of_environments_that_do_not_declare_it_a_lost_life_means_nothing(mode):
    told, plain = (
        [*play(env(mode), [1, 2, 3], lambda obs, h: np.zeros(3, np.int64))] for env in (Undeclared, Scripted)
    )
    assert [step.discount.tolist() for step in told] == [step.discount.tolist() for step in plain]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_lost_life_cuts_the_discount_and_nothing_else(mode):
    cut, plain = ([*play(env(mode), [1, 2, 3], lambda obs, h: np.zeros(3, np.int64))] for env in (Lives, Scripted))
    assert [step.discount.tolist() for step in cut][:2] == [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    assert [step.discount.tolist() for step in plain][:2] == [[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    for x, y in zip(cut, plain, strict=True):
        for name in ("obs", "reward", "next_obs", "boundary", "alive"):
            np.testing.assert_array_equal(getattr(x, name), getattr(y, name))
    assert [step.discount.tolist() for step in cut[2:]] == [step.discount.tolist() for step in plain[2:]]
