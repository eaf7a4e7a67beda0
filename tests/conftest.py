"""What every test may use: environments and agents by name, as the command line makes them."""

from __future__ import annotations

import os

# Before numpy loads its BLAS: matrices are small here, and the tests run on two processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
from typing import Any

import pytest

from rl_contrastive.config import from_dict
from rl_contrastive.registry import get

# A suite started in the background of a script ignores Ctrl-C, and so would the programs that the tests start and stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def make_env(name: str, num_envs: int, **fields: Any) -> Any:
    """The environment `name` with `num_envs` rows."""
    entry, fixed = get("env", name)
    return entry.factory(from_dict(entry.config, {**fixed, **fields}), num_envs)


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
