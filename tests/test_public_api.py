"""The public API: what it lists, what it loads, and that mypy --strict accepts a file that uses it."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import rl_contrastive
from rl_contrastive import RlcError, api, make_agent, make_env, train

USER = """
from pathlib import Path

from rl_contrastive import Agent, Env, RlcError, compare, load, make_agent, make_env, names, train

env: Env = make_env("combination-lock", num_envs=50, horizon=3)
agent: Agent = make_agent("contrastive-frontier", env, seed=0)
result = train(agent, env, episodes=500)
value: float | None = result.final_return
solved: int | None = result.solved_at_episode
known: list[str] = names("agent")


def again(folder: Path) -> int:
    try:
        player = load(folder).player()
    except RlcError:
        return 0
    compare([folder], folder / "compare")
    return int(player.act(0))
"""


def test_everything_listed_is_there_and_nothing_else_answers():
    for name in rl_contrastive.__all__:
        assert getattr(rl_contrastive, name) is not None
    assert set(rl_contrastive.__all__) <= set(dir(rl_contrastive))
    with pytest.raises(AttributeError, match="make_env"):
        rl_contrastive.make_enf  # noqa: B018


def test_the_import_alone_loads_nothing_heavy():
    heavy = ("numpy", "torch", "gymnasium", "scipy", "matplotlib", "tyro")
    code = f"import sys, rl_contrastive; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_examples_in_the_docstrings_run():
    assert doctest.testmod(api).failed == 0
    assert doctest.testmod(api).attempted >= 5


class Corridor(gym.Env):
    """Right five times ends with reward 1."""

    observation_space, action_space = gym.spaces.Discrete(6), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = 0
        return 0, {}

    def step(self, action):
        self.cell = max(self.cell + (1 if action else -1), 0)
        return self.cell, float(self.cell == 5), self.cell == 5, False, {}


def test_an_environment_of_ones_own_learns_in_four_lines():
    env = make_env(Corridor, num_envs=10, horizon=8)
    result = train(make_agent("ucbvi", env, seed=0), env, episodes=500, eval_episodes=50)
    assert result.final_return == 1.0
    lazy = train(make_agent("uniform", env, seed=0), env, episodes=500, eval_episodes=50)
    assert lazy.final_return < 0.6  # control
    one = make_env(gym.wrappers.TimeLimit(Corridor(), 8))
    assert (one.num_envs, one.env_spec.horizon) == (1, 8)
    assert make_env("gym:CartPole-v1", 2).env_spec.horizon == 500


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: make_env("combination-lok"), "did you mean 'combination-lock'"),
        (lambda: make_env("combination-lock", 0), "num_envs must be >= 1"),
        (lambda: make_env("combination-lock", 2.5), "num_envs must be >= 1 and whole"),
        (lambda: make_env(Corridor, True), "num_envs must be >= 1 and whole"),
        (lambda: make_env("combination-lock", 2, horizn=3), "did you mean 'env.horizon'"),
        (lambda: make_env(Corridor(), 3), "give a function"),
        (lambda: make_env(lambda: 3, 3), "made a int"),
        (lambda: make_env(7), "a name, a function or a gymnasium environment"),
        (lambda: make_agent("ucbvi", make_env("low-rank", 4), batch=5), "batch is 5"),
        (lambda: make_agent("ucbvi", np.zeros(3)), "must come from make_env"),
        (lambda: make_agent("ucbv", make_env("low-rank", 4)), "did you mean 'ucbvi'"),
    ],
)
def test_bad_calls_are_one_sentence(call, sentence):
    with pytest.raises(RlcError, match=sentence):
        call()


@pytest.mark.long
def test_a_users_file_passes_mypy_strict(tmp_path):
    if find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    (tmp_path / "user.py").write_text(USER)
    home = {**os.environ, "MYPYPATH": str(Path(rl_contrastive.__file__).parents[1])}  # an editable install is a hook
    check = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "user.py"]
    done = subprocess.run(check, cwd=tmp_path, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    (tmp_path / "user.py").write_text(USER.replace("int | None = result.solved", "str = result.solved"))
    done = subprocess.run(check, cwd=tmp_path, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 1  # control: types are seen
