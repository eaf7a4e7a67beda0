"""What every test may use: environments and agents by name, the user's agent of `tests/tiny_agent.py`, small runs."""

from __future__ import annotations

import os

# Before numpy loads its BLAS: matrices are small here, and the tests run on two processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rl_contrastive import make_env, registry
from rl_contrastive.config import from_dict
from rl_contrastive.registry import get
from rl_contrastive.runs.loop import Budget
from rl_contrastive.runs.run import RunConfig, config_json, run_folder

# A suite started in the background of a script ignores Ctrl-C, and so would the programs that the tests start and stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def make_agent(name: str, env_name: str, *, seed: int = 0, env: dict[str, Any] | None = None, **fields: Any) -> Any:
    """The agent `name` on a fresh environment with as many rows as its batch; the environment is `agent.env`."""
    entry, fixed = get("agent", name)
    config = from_dict(entry.config, {**fixed, **fields})
    return entry.factory(make_env(env_name, config.batch, **(env or {})), config, seed=seed)


@pytest.fixture(name="make_env")
def make_env_fixture() -> Any:
    """`make_env(name, num_envs, **fields)`."""
    return make_env


@pytest.fixture(name="make_agent")
def make_agent_fixture() -> Any:
    """`make_agent(name, env_name, seed=0, env={}, **fields)`."""
    return make_agent


LIVES = Path(__file__).parent / "runs" / "lives.py"
TINY = str(Path(__file__).parent / "tiny_agent.py")


@pytest.fixture
def tiny() -> str:
    """Path of the user's file, imported. At run time only: other tests' lists of agents must not see it."""
    registry.import_file(Path(TINY))
    return TINY


@pytest.fixture
def config(tiny: str) -> RunConfig:
    """A run of a tenth of a second."""
    return RunConfig(
        agent="tiny",
        env="low-rank",
        env_config={"num_states": 6, "num_actions": 3, "horizon": 3, "rank": 2},
        seed=3,
        budget=Budget(episodes=40, eval_every=8, eval_episodes=20),
        checkpoint_seconds=0.0,
        tensorboard=False,
        imports=(tiny,),
    )


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Environment of a child process with one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def two_lives(tmp_path: Path, clean_environment: dict[str, str]) -> Callable[[RunConfig], tuple[Path, Path]]:
    """Plays a run whole, and again with kills (one at least) and resumes, in another process; their two folders."""

    def play(run_config: RunConfig) -> tuple[Path, Path]:
        (tmp_path / "config.json").write_text(json.dumps(config_json(run_config, "")))
        answer = subprocess.run(
            [sys.executable, str(LIVES), str(tmp_path / "config.json"), str(tmp_path), "3"],
            capture_output=True,
            text=True,
            env=clean_environment,
            timeout=240,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout.splitlines()[-1])["killed"] >= 1
        return run_folder(tmp_path / "whole", run_config), run_folder(tmp_path / "killed", run_config)

    return play
