"""RunConfig: one run as JSON values, checked, completed with defaults, and written to config.json with its origin."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from rl_contrastive import registry
from rl_contrastive.config import from_dict, require, to_dict
from rl_contrastive.device import check_device
from rl_contrastive.errors import RlcError
from rl_contrastive.experiment.budget import Budget
from rl_contrastive.experiment.record import CONFIG, read_json

PACKAGES = ("rl-contrastive", "numpy", "scipy", "gymnasium", "torch", "stable-baselines3")


DEFAULT_BUDGET = Budget(episodes=1000)
"""A constant, not a factory: `config.from_dict` merges a table into a factory's default, and one that says only `steps`
would keep these episodes."""


@dataclass(frozen=True)
class RunConfig:
    """One run, as JSON values: what config.json holds and what a worker process is handed."""

    agent: str
    """Registered agent."""
    env: str
    """Registered environment, or a prefixed name such as gym:CartPole-v1."""
    agent_config: dict[str, Any] = field(default_factory=dict)
    """Fields of the agent's config; those left out keep their defaults."""
    env_config: dict[str, Any] = field(default_factory=dict)
    """Fields of the environment's config."""
    seed: int = 0
    """Seed of the run (>= 0)."""
    budget: Budget = DEFAULT_BUDGET
    """How long, and when measured."""
    checkpoint_seconds: float = 30.0
    """Wall seconds between checkpoints (>= 0; 0 is one after each batch)."""
    experiment: str = "default"
    """Name of the group of runs: the folder above."""
    label: str | None = None
    """Name in folders, tables and plots; the agent's own by default."""
    env_label: str | None = None
    """Name of the task in folders, tables and plots; the environment's own by default."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:1 ..., for agents with a field `device`."""
    threads: int = 1
    """BLAS and torch threads of the worker process (>= 1); another number may change the last bits of results."""
    tensorboard: bool = True
    """Write TensorBoard scalars, and histograms of agents that offer them."""
    imports: tuple[str, ...] = ()
    """User files to import first."""

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"seed must be >= 0, got {self.seed}.")
        require(self.threads >= 1, f"threads must be >= 1, got {self.threads}.")
        require(self.checkpoint_seconds >= 0, f"checkpoint_seconds must be >= 0, got {self.checkpoint_seconds}.")
        check_device(self.device)
        for name in ("experiment", "label", "env_label"):
            value = getattr(self, name)
            require(value is None or bool(value.strip(". ")), f"{name} must not be empty or only dots, got {value!r}.")

    @property
    def shown_agent(self) -> str:
        return self.label or self.agent

    @property
    def shown_env(self) -> str:
        return self.env_label or self.env


def resolve(config: RunConfig) -> RunConfig:
    """The same run with every field of both configs written out, all names and values checked."""
    for path in config.imports:
        registry.import_file(Path(path))
    agent, _ = registry.get("agent", config.agent)
    env, fixed = registry.get("env", config.env)
    for name, value in fixed.items():
        given = config.env_config.get(name, value)
        require(given == value, f"{config.env} says env.{name} already: leave out {given!r}.")
    agent_config = with_device(agent.config, config.agent_config, config.device)
    return replace(
        config,
        agent_config=to_dict(from_dict(agent.config, agent_config, "agent.")),
        env_config=to_dict(from_dict(env.config, {**config.env_config, **fixed}, "env.")),
    )


def completed(kind: Literal["agent", "env"], name: str, values: dict[str, Any]) -> dict[str, Any]:
    """A stored config in which options that are newer than it have their defaults; as it stands where the name is not
    registered here, or an option is gone."""
    try:
        entry, _ = registry.get(kind, name)
        return to_dict(from_dict(entry.config, values))
    except RlcError:
        return values


def with_device(config: type, values: dict[str, Any], device: str) -> dict[str, Any]:
    """Set the field `device`, here and in nested configs, where it is not given or "auto"."""
    if device == "auto":
        return values
    full = to_dict(from_dict(config, values, "agent."))

    def put(given: dict[str, Any], whole: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        out, found = dict(given), False
        for name, value in whole.items():
            if isinstance(value, dict):
                out[name], inside = put(given.get(name, {}), value)
                found |= inside
            elif name == "device":
                found = True
                if out.get(name, "auto") == "auto":
                    out[name] = device
        return out, found

    out, found = put(values, full)
    require(found, f"--device {device}: this agent has no network and no field 'device'.")
    return out


def run_folder(out: Path, config: RunConfig) -> Path:
    """out/<label or agent>--<env>/seed-<n>; what cannot stand in a file name becomes "_"."""
    name = f"{config.shown_agent}--{config.shown_env}"
    return out / "".join("_" if c in '/\\: *?"<>|\n' else c for c in name) / f"seed-{config.seed}"


def read_config(path: Path) -> RunConfig:
    """The RunConfig of a run folder."""
    require((path / CONFIG).is_file(), f"{path} is no run folder: it has no {CONFIG}.")
    return config_from_json(read_json(path / CONFIG), str(path / CONFIG))


def config_from_json(values: dict[str, Any], where: str) -> RunConfig:
    """Inverse of `config_json`; RlcError on unknown or impossible fields."""
    values = {name: value for name, value in values.items() if name != "meta"}
    budget = {name: values.pop(name) for name in to_dict(Budget(episodes=1)) if name in values}
    for name in ("agent", "env"):
        require(isinstance(values.get(name), str), f"{where}: '{name}' must be the name of an {name}.")
    return from_dict(RunConfig, {**values, "budget": budget}, f"{where}: ")


def config_json(config: RunConfig, command: str) -> dict[str, Any]:
    """RunConfig with the budget's fields beside the others, and where it came from under "meta"."""
    values = to_dict(config)
    budget = values.pop("budget")
    meta = {"command": command, "versions": _versions(), "processor": _processor(), "git": _git_commit()}
    return {**values, **budget, "meta": meta}


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _processor() -> str:
    """The processor's name. Matrix libraries choose their code by it, and sums in another order round differently: the
    same seed gives the same bytes on the same kind of processor only."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """Commit of the library's checkout ("-dirty" if changed), or None outside a repository."""
    here = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
