"""RunConfig: one run as JSON values. They are checked, completed with defaults, and written to config.json."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from rl_contrastive import registry
from rl_contrastive.config import Ge, Gt, from_dict, require, to_dict
from rl_contrastive.device import DeviceOptions
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.budget import Budget
from rl_contrastive.runs.folder import CONFIG, read_json
from rl_contrastive.runs.origin import origin

TABLES = ("agent_config", "env_config", "budget")
OLD_NAMES = {"experiment": "group"}
"""Fields of older run folders -> their names today."""
LONGEST_NAME = 255
"""Bytes of a folder's name on common file systems."""


DEFAULT_BUDGET = Budget(episodes=1000)
"""A constant, not a factory: `config.from_dict` merges a table into a factory's default, and one that says only `steps`
would keep these episodes."""


@dataclass(frozen=True)
class RunConfig(DeviceOptions):
    """One run as JSON values: the contents of config.json and the input of a worker process."""

    agent: str
    """Registered agent."""
    env: str
    """Registered environment, or a prefixed name such as gym:CartPole-v1."""
    agent_config: dict[str, Any] = field(default_factory=dict)
    """Fields of the agent's config; those left out keep their defaults."""
    env_config: dict[str, Any] = field(default_factory=dict)
    """Fields of the environment's config."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the run."""
    budget: Budget = DEFAULT_BUDGET
    """Length of the run and times of its evaluations."""
    checkpoint_seconds: Annotated[float, Ge(0)] = 30.0
    """Wall seconds between checkpoints (0 is one after each batch)."""
    group: str = "default"
    """Name of the group of runs and of its folder."""
    label: str | None = None
    """Name in folders, tables and plots; the agent's own by default."""
    env_label: str | None = None
    """Name of the task in folders, tables and plots; the environment's own by default."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:1 ..., for agents with a field `device`."""
    threads: Annotated[int, Ge(1)] = 1
    """BLAS and torch threads of the worker process; another number may change the last bits of results."""
    tensorboard: bool = True
    """Write TensorBoard scalars, and histograms and numbers of features of agents that offer them."""
    imports: tuple[str, ...] = ()
    """User files to import first, and folders from which modules may be imported."""
    step_seconds: Annotated[float | None, Gt(0)] = None
    """Seconds that one step of the environment may take; a step that hangs then fails the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("group", "label", "env_label"):
            value = getattr(self, name)
            if value is not None:
                require(bool(value.strip(". ")), f"{name} must not be empty or only dots, got {value!r}.")
                require(value.isprintable(), f"{name} must hold printable characters only, got {value!r}.")
        inside = not Path(self.group).is_absolute() and ".." not in Path(self.group).parts
        require(inside, f"group must be the name of a folder below --out, got {self.group!r}.")

    @property
    def shown_agent(self) -> str:
        return self.label or self.agent

    @property
    def shown_env(self) -> str:
        return self.env_label or self.env


def require_trust(config: RunConfig, folder: Path, trust_imports: bool) -> None:
    """RlcError if the run in `folder`, which somebody else may have made, names files that this process has not
    imported: they are executed only where the user says so."""
    new = [name for name in config.imports if not registry.is_imported(Path(name))]
    new += [str(path) for path in [_own_module(config)] if path is not None]
    require(
        trust_imports or not new,
        f"{folder} names Python code to import: {', '.join(new)}. Read it, then allow it: --trust-imports on the "
        "command line, trust_imports=True in Python.",
    )


def resolve(config: RunConfig) -> RunConfig:
    """The same run with every field of both configs written out, all names and values checked. Imports its files."""
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


def _own_module(config: RunConfig) -> Path | None:
    """The file of the module that the environment's name asks for (`pettingzoo:my_module:make`), if that was not
    imported yet and is not installed as a package."""
    top = _module(config)
    spec = None if not top or top in sys.modules else importlib.util.find_spec(top)
    origin = None if spec is None or spec.origin is None else Path(spec.origin)
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    return None if origin is None or any(origin.is_relative_to(folder) for folder in installed) else origin


def _module(config: RunConfig) -> str:
    """`my_module` of the environment pettingzoo:my_module:make; empty where the name asks for none."""
    _, _, rest = config.env.partition(":")
    module, inner, _ = rest.partition(":")
    top = module.partition(".")[0]
    return top if inner and top.isidentifier() else ""


def with_local_folder(config: RunConfig) -> RunConfig:
    """With the current folder among the imports, where the environment's name (`pettingzoo:my_module:make`) means a
    module that lies there: whoever opens the run from elsewhere finds it too."""
    here, top = Path.cwd(), _module(config)
    local = bool(top) and any((here / name).exists() for name in (f"{top}.py", top))
    return replace(config, imports=(*config.imports, str(here))) if local else config


def completed(kind: Literal["agent", "env"], name: str, values: dict[str, Any]) -> dict[str, Any]:
    """A stored config with defaults for the options that are newer than it. It is returned unchanged if the name is not
    registered here or an option no longer exists."""
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
    name = "".join("_" if c in '/\\: *?"<>|' else c for c in f"{config.shown_agent}--{config.shown_env}")
    size = len(name.encode())
    require(
        size <= LONGEST_NAME,
        f"the folder name {name[:60]}... has {size} bytes, at most {LONGEST_NAME} are allowed: give a shorter label or "
        "env_label.",
    )
    return out / name / f"seed-{config.seed}"


def read_config(path: Path) -> RunConfig:
    """The RunConfig of a run folder."""
    require((path / CONFIG).is_file(), f"{path} is no run folder: it has no {CONFIG}.")
    return config_from_json(read_json(path / CONFIG), str(path / CONFIG))


def identity(config: RunConfig) -> dict[str, Any]:
    """The values that determine a resolved run's bytes, as JSON; each checkpoint stores them."""
    budget = config.budget
    judged = ("episodes", "steps", "eval_episodes", "solve_at", "solve_gap", "stop_when_solved", "exact")
    return {
        "agent": config.agent,
        "env": config.env,
        "seed": config.seed,
        "agent_config": config.agent_config,
        "env_config": config.env_config,
        "budget": {
            **{name: getattr(budget, name) for name in judged},
            "clock": budget.evaluation_clock,
            "interval": budget.interval(int(config.agent_config["batch"])),
        },
    }


def require_identity(folder: Path, found: Any, config: RunConfig) -> None:
    """RlcError unless `found`, the identity in a checkpoint of `folder`, is that of `config`.

    Options newer than the checkpoint get their defaults, older checkpoints have fewer keys, and a run whose cap was
    raised has checkpoints with the earlier caps.
    """
    keys = {"agent", "env", "seed"}
    good = isinstance(found, dict) and keys <= found.keys() and all(isinstance(found.get(k, {}), dict) for k in TABLES)
    require(good, f"the checkpoint in {folder} does not say of which run it is.")
    own = identity(config)
    theirs = dict(found)
    if (theirs["agent"], theirs["env"]) == (own["agent"], own["env"]):
        if "agent_config" in theirs:
            theirs["agent_config"] = completed("agent", own["agent"], theirs["agent_config"])
        if "env_config" in theirs:
            theirs["env_config"] = completed("env", own["env"], theirs["env_config"])
    if "budget" in theirs:
        theirs["budget"] = {**own["budget"], **theirs["budget"]}
        cap = {name: theirs["budget"][name] for name in ("episodes", "steps")}
        if cap in _earlier_caps(folder):
            theirs["budget"] |= {name: own["budget"][name] for name in cap}
    other = list(_differences(theirs, own, ""))
    require(not other, f"the checkpoint in {folder} is of another run: {', '.join(other)}.")


def _earlier_caps(folder: Path) -> list[dict[str, Any]]:
    """The caps that a run had before `rlc resume` raised them."""
    meta = read_json(folder / CONFIG).get("meta")
    notes = meta.get("extended", []) if isinstance(meta, dict) else []
    before = [note.get("before") for note in notes if isinstance(note, dict)]
    return [{name: caps.get(name) for name in ("episodes", "steps")} for caps in before if isinstance(caps, dict)]


def _differences(found: dict[str, Any], own: dict[str, Any], where: str) -> Iterator[str]:
    """`agent_config.step_size is 0.5 there and 0.6 here` for each value of `found` that is another one in `own`."""
    for key, value in found.items():
        mine = own.get(key)
        if isinstance(value, dict) and isinstance(mine, dict):
            yield from _differences(value, mine, f"{where}{key}.")
        elif value != mine:
            yield f"{where}{key} is {value!r} there and {mine!r} here"


def config_from_json(values: dict[str, Any], where: str) -> RunConfig:
    """Inverse of `config_json`; RlcError on unknown or impossible fields."""
    values = {OLD_NAMES.get(name, name): value for name, value in values.items() if name != "meta"}
    budget = {name: values.pop(name) for name in to_dict(Budget(episodes=1)) if name in values}
    for name in ("agent", "env"):
        require(isinstance(values.get(name), str), f"{where}: '{name}' must be the name of an {name}.")
    return from_dict(RunConfig, {**values, "budget": budget}, f"{where}: ")


def config_json(config: RunConfig, command: str, made: dict[str, Any] | None = None) -> dict[str, Any]:
    """RunConfig with the budget's fields beside the others, and where it came from under "meta". `made`: `origin()`,
    where it was asked for already."""
    values = to_dict(config)
    budget = values.pop("budget")
    made = origin() if made is None else made
    # The run id tells this run from any other one in the same folder; nothing that is computed depends on it.
    return {**values, **budget, "meta": {"command": command, "run_id": uuid.uuid4().hex, **made}}
