"""Settings of the deep agent for families of environments, as they were measured in docs/results.

`rlc run contrastive-ucb-deep minigrid:MiniGrid-DoorKey-8x8-v0` takes the preset of its environment's name where no
option of the agent is given; `--preset NAME` takes one beside other options, which win, and `--preset none` takes none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from rl_contrastive.config import require

PresetName = Literal["auto", "none", "minigrid", "minatar", "atari", "classic"]


@dataclass(frozen=True)
class Preset:
    """Changes to the defaults of a run, of its agent and of its environment."""

    source: str
    """The sweep file that measured it."""
    run: dict[str, Any] = field(default_factory=dict)
    agent: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)


CLASSIC = {"gym:CartPole-v1": 0.1, "gym:MountainCar-v0": 3.0, "gym:Acrobot-v1": 3.0}
"""Environment -> beta, in units of its reward."""
SMALL_HEADS = {"dim": 32, "hidden": 64}


def preset_of(agent: str, env: str, asked: str, options: Iterable[str]) -> tuple[str, Preset] | None:
    """Name and settings for a command line with these options, or None; RlcError where a preset does not fit.

    asked: the value of `--preset`.
    """
    if asked == "none":
        return None
    if asked == "auto" and (_fitting(agent, env) is None or _sets_agent(options)):
        return None
    name = _fitting(agent, env) if asked == "auto" else asked
    assert name is not None
    have = _agents(name)
    require(agent in have, f"preset {name} is one of {' and '.join(have)}, not of {agent}: leave --preset out.")
    preset = _MAKE[name](agent, env)
    if any(word.partition("=")[0] == "--agent.bonus.kind" for word in options):
        preset.agent.pop("bonus", None)  # its parts belong to its own kind, and another one may have none of them
    return name, preset


def left_out(agent: str, env: str, asked: str, options: Iterable[str]) -> str | None:
    """Name of the preset that options of the agent keep from being taken, or None."""
    return _fitting(agent, env) if asked == "auto" and _sets_agent(options) else None


def without(settings: dict[str, Any], options: Iterable[str]) -> dict[str, Any]:
    """The settings of a run without those that the command line replaces."""
    given = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in options}
    groups = ({"episodes", "steps"}, {"eval_every", "eval_every_steps"})
    taken = given.union(*(group for group in groups if group & given))
    return {name: value for name, value in settings.items() if name not in taken}


def _sets_agent(options: Iterable[str]) -> bool:
    return any(word.startswith("--agent.") for word in options)


def _fitting(agent: str, env: str) -> str | None:
    """The preset of the environment's name, if there is one of this agent."""
    name = _family(env)
    return name if name is not None and agent in _agents(name) else None


def _family(env: str) -> str | None:
    prefix = env.partition(":")[0]
    if prefix in ("minigrid", "minatar", "atari") and ":" in env:
        return prefix
    return "classic" if env in CLASSIC else None


def _agents(name: str) -> tuple[str, ...]:
    return ("contrastive-ucb-deep", "rnd-dqn") if name == "minigrid" else ("contrastive-ucb-deep",)


def _minigrid(agent: str, env: str) -> Preset:
    own, door = agent == "contrastive-ucb-deep", "DoorKey" in env
    encoder = {"channels": [], "hidden": [128, 128], "layer_norm": True}
    learner = {"batch_size": 64, "lr": 0.0005, "reward_scale": 10.0, "encoder": encoder}
    base: dict[str, Any] = {
        "beta": 0.003,
        "batch": 8,
        "train_every": 4,
        "n_step": 10,
        "alpha": 0.5,
        "capacity": 200_000,
        "episodic": True,
        "learner": learner,
    }
    if not own:
        run = {"steps": 150_000 if door else 400_000, "eval_every": 200, "eval_episodes": 50}
        return Preset(source="docs/results/minigrid.toml", run=run, env={"stack": 2}, agent=base)
    learner["feature_encoder"] = {"channels": [], "hidden": [128]}
    learner["representation"] = {**SMALL_HEADS, "weighted": False, "frames": "newest"}
    world = "doorkey" if door else "corridor" if "KeyCorridor" in env else "rooms"
    return Preset(
        source=f"docs/results/bonus-{world}.toml",
        run={"steps": 150_000 if door else 250_000, "eval_every_steps": 10_000, "eval_episodes": 24 if door else 16},
        env={"stack": 2},
        agent={**base, "epsilon": 0.1, "bonus": {"kind": "ours-arrival", "unit": True, "rho": 0.99}},
    )


def _minatar(agent: str, env: str) -> Preset:
    learner = {
        "batch_size": 32,
        "lr": 0.0005,
        "feature_encoder": {"hidden": [64]},
        "representation": SMALL_HEADS,
    }
    return Preset(
        source="docs/results/minatar.toml",
        run={"steps": 1_000_000, "eval_every_steps": 100_000, "eval_episodes": 30},
        agent={"beta": 0.03, "batch": 16, "train_every": 8, "learner": learner},
    )


def _atari(agent: str, env: str) -> Preset:
    learner = {
        "batch_size": 32,
        "lr": 0.0001,
        "encoder": {"hidden": [256], "layer_norm": True},
        "feature_encoder": {"hidden": [128]},
        "representation": {**SMALL_HEADS, "weighted": False},
    }
    return Preset(
        source="docs/results/atari-short.toml",
        run={"steps": 100_000, "eval_episodes": 5},
        env={"fire_reset": True},
        agent={"warm_start": 2000, "train_every": 4, "n_step": 10, "alpha": 0.5, "learner": learner},
    )


def _classic(agent: str, env: str) -> Preset:
    cartpole = env == "gym:CartPole-v1"
    learner = {
        "batch_size": 128,
        "lr": 0.0005,
        "lr_falls_over": 50_000,
        "encoder": {"hidden": [128, 128], "layer_norm": True},
        "feature_encoder": {"hidden": [128]},
        "representation": SMALL_HEADS,
        **({"reward_scale": 0.1} if cartpole else {}),
    }
    return Preset(
        source=f"docs/results/{'deep-cartpole' if cartpole else 'deep-classic'}.toml",
        run={"steps": 100_000, "eval_every": 50, "eval_episodes": 50},
        agent={"beta": CLASSIC.get(env, 0.1), "train_every": 2, "learner": learner},
    )


_MAKE = {"minigrid": _minigrid, "minatar": _minatar, "atari": _atari, "classic": _classic}
