"""What the experiment tests share: the user's agent of `tests/tiny_agent.py`, and small configs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rl_contrastive import registry
from rl_contrastive.experiment.loop import Budget
from rl_contrastive.experiment.run import RunConfig

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
