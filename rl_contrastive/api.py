"""The public functions: environments and agents by name, with keywords for their options.

from rl_contrastive import make_agent, make_env, train

env = make_env("combination-lock", num_envs=50, horizon=5)
agent = make_agent("contrastive-frontier", env, seed=0)
print(train(agent, env, episodes=1000).solved_at_episode)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rl_contrastive import registry
from rl_contrastive.config import from_dict, require, require_rows, to_dict
from rl_contrastive.device import enough_memory, require_devices
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.load import load_trained as load
from rl_contrastive.runs.loop import train
from rl_contrastive.spec import Agent, Env

if TYPE_CHECKING:
    import gymnasium

__all__ = ["load", "make_agent", "make_env", "make_objective", "names", "options", "train"]


def make_env(source: str | gymnasium.Env[Any, Any] | Callable[[], Any], num_envs: int = 1, **fields: Any) -> Env:
    """A batched environment.

    source: a name of `rlc list envs` ("combination-lock", "gym:CartPole-v1"), a function that makes a gymnasium
    environment of your own, or one such environment, which then is the only row. num_envs: rows that play side by side.
    fields: options, as after `--env.` on the command line. RlcError names an unknown option or a value out of range.

    >>> make_env("combination-lock", num_envs=4, horizon=3).env_spec.horizon
    3
    """
    require_rows("make_env: num_envs", num_envs)
    if isinstance(source, str):
        entry, fixed = registry.get("env", source)
        config: Any = from_dict(entry.config, {**fields, **fixed}, "env.")
        with enough_memory(source):
            env: Env = entry.factory(config, num_envs)
        return env
    from rl_contrastive.envs.adapters.gym_adapter import GymConfig, adapt_gym

    return adapt_gym(source, from_dict(GymConfig, fields, "env."), num_envs)


def make_agent(name: str, env: Env, *, seed: int = 0, **fields: Any) -> Agent:
    """An agent for `env`, whose rows it plays in each batch of episodes.

    name: one of `rlc list agents`. fields: options, as after `--agent.` on the command line; options of a part are a
    dictionary (`learner={"dim": 4}`). `batch` is the number of the environment's rows unless given.

    >>> make_agent("ucbvi", make_env("low-rank", num_envs=8), c=0.1).batch
    8
    """
    entry, fixed = registry.get("agent", name)
    rows = getattr(env, "num_envs", None)
    if not isinstance(rows, int):
        raise RlcError(f"make_agent: the environment must come from make_env, got {type(env).__name__}.")
    config: Any = from_dict(entry.config, {"batch": rows, **fields, **fixed}, "agent.")
    require(config.batch == rows, f"make_agent: batch is {config.batch}, but the environment has {rows} rows.")
    require_devices(to_dict(config))
    with enough_memory(name):
        agent: Agent = entry.factory(env, config, seed=seed)
    return agent


def make_objective(name: str, **options: Any) -> Any:
    """A contrastive objective of `rlc list objectives` with its options.

    >>> make_objective("infonce", temperature=0.5).config.temperature
    0.5
    """
    from rl_contrastive.objectives import make

    return make(name, options)


def names(kind: registry.Kind) -> list[str]:
    """All registered names of a kind: "agent", "env", "objective", "energy-objective", "claim" or "opponent".

    >>> "contrastive-ucb" in names("agent")
    True
    """
    return [entry.name for entry in registry.entries(kind)]


def options(kind: registry.Kind, name: str) -> dict[str, Any]:
    """The options of a name and their defaults.

    >>> options("agent", "uniform")
    {'batch': 50}
    """
    config = registry.get(kind, name)[0].config()
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
