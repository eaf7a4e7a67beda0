"""What the experiment tests share: the user's agent of `tests/tiny_agent.py`, and small configs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rl_contrastive import registry
from rl_contrastive.experiment.loop import Budget
from rl_contrastive.experiment.run import RunConfig, config_json, run_folder

LIVES = Path(__file__).parent / "lives.py"
TINY = str(Path(__file__).parent.parent / "tiny_agent.py")


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
