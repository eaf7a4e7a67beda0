"""What the learning claims share: an agent on an environment by name, through THE loop, and its history."""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_contrastive.config import from_dict, require
from rl_contrastive.registry import entries, get
from rl_contrastive.runs.loop import TrainingResult, train
from rl_contrastive.spec import FloatArray


def known(agents: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(registered, missing) of the names: a claim is measured on those that exist and says which do not."""
    names = {entry.name for entry in entries("agent")}
    return [a for a in agents if a in names], [a for a in agents if a not in names]


def settings(agent: str, *, horizon: int, c: float | None = None) -> dict[str, Any]:
    """Config of a tabular agent that knows the rewards, as the analyses assume, but not the rank of the kernel.

    c scales the bonus to c H times a norm (None: the default).
    """
    values: dict[str, Any] = {"batch": 10}
    if agent == "uniform":
        return values
    if agent != "lsvi-ucb":  # which reads the true rewards by default, as the analyses assume
        values |= {"known_reward": True}
    if agent == "contrastive-ucb":
        # The paper's gamma multiplies the norm itself; the baselines' c is relative to H.
        return values if c is None else values | {"gamma": c * horizon}
    return values if c is None else values | {"c": c}


def run(
    agent: str, env: str, *, agent_config: dict[str, Any], env_config: dict[str, Any], seed: int, **budget: Any
) -> TrainingResult:
    """Train `agent` on `env`; `budget` holds the fields of `loop.Budget`."""
    env_entry, env_fixed = get("env", env)
    agent_entry, agent_fixed = get("agent", agent)
    config: Any = from_dict(agent_entry.config, {**agent_config, **agent_fixed}, f"{agent}.")
    world = env_entry.factory(from_dict(env_entry.config, {**env_config, **env_fixed}, f"{env}."), config.batch)
    try:
        return train(agent_entry.factory(world, config, seed=seed), world, seed=seed, **budget)
    finally:
        world.close()


def column(result: TrainingResult, name: str) -> FloatArray:
    """One column of the history, of the lines that have it (T,): agents know no optimism before their first plan."""
    values = [line[name] for line in result.history if name in line]
    require(len(values) > 0, f"theory: this run records no '{name}'.")
    return np.array(values, dtype=np.float64)
