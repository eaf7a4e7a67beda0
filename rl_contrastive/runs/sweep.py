"""From a TOML file to its runs: cross products, seeds, and the runs that are already done.

    name = "locks"                        # the group of runs; the file's name by default
    [defaults]                            # for every run
    seeds = [0, 1, 2, 3, 4]
    [[run]]
    agent = "contrastive-frontier"
    env = ["combination-lock", "distractor-lock"]   # a list is crossed with every other list
    episodes = 2000
    gpus = 0.5                            # what each of these runs asks of a cluster, as `cpus` (--engine ray)
    "agent.batch" = 50                    # fields of the configs, in quotes because of the dot
    "env.horizon" = [5, 10]
    [quick]                               # overrides under --quick
    seeds = [0]

A crossed `agent.x` is added to the label and every `env.x` to the task's name (`combination-lock,horizon=5`), so that
each run has its own folder <out>/<label>--<task>/seed-<n>. A value that is itself a list must be inside another list:
`"agent.net_arch" = [[256, 256]]`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rl_contrastive.config import from_dict, load_toml, require
from rl_contrastive.errors import RlcError, unknown_name
from rl_contrastive.runs.folder import CONFIG
from rl_contrastive.runs.loop import Budget
from rl_contrastive.runs.run import RunConfig, prepare_all, read_config, read_summary, resolve, run_folder
from rl_contrastive.runs.run_config import completed, require_trust, with_local_folder
from rl_contrastive.runs.workers import Job, Needs

BUDGET = {f.name for f in fields(Budget)}
PLAIN = {"agent", "env", "label", "env_label", "device", "checkpoint_seconds", "threads", "tensorboard", "step_seconds"}
TOP = {"name", "defaults", "run", "quick", "imports", "no_compare"}


@dataclass(frozen=True)
class Sweep:
    """The runs of one file, every config resolved."""

    name: str
    runs: list[RunConfig]
    needs: list[Needs]
    """The resources that each of them asks of a cluster."""
    compare: bool
    """Whether to compare the runs at the end."""


def load_sweep(path: Path, *, quick: bool = False, imports: tuple[str, ...] = ()) -> Sweep:
    """Read a sweep file; RlcError on unknown keys, impossible values, or two runs in one folder."""
    table = load_toml(path)
    _check_shape(table, str(path))
    require(not quick or "quick" in table, f"{path}: --quick needs a [quick] table with what it overrides.")
    own = tuple(str((path.parent / name).resolve()) for name in table.get("imports", []))
    base = {**table.get("defaults", {}), "imports": (*own, *imports), "group": table.get("name", path.stem)}
    more = table.get("quick", {}) if quick else {}
    configs: list[RunConfig] = []
    needs: list[Needs] = []
    for entry in table["run"]:
        own_needs, values = split_needs({**base, **entry, **more}, str(path))
        configs += expand(values, str(path))
        needs += [own_needs] * (len(configs) - len(needs))
    seen: dict[Path, RunConfig] = {}
    for config in configs:
        folder = _named(path, config)
        require(folder not in seen, f"{path}: two runs share the folder {folder}: give them different labels.")
        seen[folder] = config
    return Sweep(str(base["group"]), configs, needs, not table.get("no_compare", False))


def _named(path: Path, config: RunConfig) -> Path:
    try:
        return run_folder(Path(), config)
    except RlcError as error:
        raise RlcError(f"{path}: {error}") from error


def _check_shape(table: dict[str, Any], where: str) -> None:
    """RlcError unless the top of a sweep file has the keys and types that it may have."""
    for key in table:
        if key not in TOP:
            raise RlcError(f"{where}: {unknown_name('key of a sweep file', key, TOP)}")
    runs, imports = table.get("run"), table.get("imports", [])
    good = isinstance(runs, list) and len(runs) > 0 and all(isinstance(entry, dict) for entry in runs)
    require(good, f"{where}: a sweep needs at least one [[run]] table.")
    for key in ("defaults", "quick"):
        require(isinstance(table.get(key, {}), dict), f"{where}: {key} must be a table, got {table.get(key)!r}.")
    names = isinstance(imports, list) and all(isinstance(name, str) and name.isprintable() for name in imports)
    require(names, f'{where}: imports must be a list of file names, such as ["my_agent.py"], got {imports!r}.')
    name = table.get("name", "sweep")
    require(isinstance(name, str), f"{where}: name must be a text, got {name!r}.")
    flag = table.get("no_compare", False)
    require(isinstance(flag, bool), f"{where}: no_compare must be true or false, got {flag!r}.")


def split_needs(entry: dict[str, Any], where: str) -> tuple[Needs, dict[str, Any]]:
    """What a run asks of a cluster, which no folder keeps, and the rest of its table."""
    names = {f.name for f in fields(Needs)}
    needs = from_dict(Needs, {name: value for name, value in entry.items() if name in names}, f"{where}: ")
    return needs, {name: value for name, value in entry.items() if name not in names}


def expand(entry: dict[str, Any], where: str) -> list[RunConfig]:
    """One [[run]] table -> its runs: the cross product of all lists, times the seeds."""
    entry = dict(entry)
    imports, group = entry.pop("imports"), entry.pop("group")
    seeds = entry.pop("seeds", [0])
    good = isinstance(seeds, list) and all(type(s) is int for s in seeds)
    require(good, f"{where}: seeds must be a list of integers, got {seeds!r}.")
    require(len(seeds) > 0, f"{where}: seeds is an empty list: give at least one seed.")
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    require(not twice, f"{where}: seeds has {', '.join(map(str, twice))} more than once.")
    for key in entry:
        if key not in BUDGET | PLAIN and not key.startswith(("agent.", "env.")):
            known = BUDGET | PLAIN | {"seeds", "cpus", "gpus", "agent.<field>", "env.<field>"}
            raise RlcError(f"{where}: {unknown_name('key of a [[run]] table', key, known)}")
    for key in ("agent", "env"):
        require(key in entry, f"{where}: each [[run]] needs '{key}'.")
    for key, value in entry.items():
        require(value != [], f"{where}: {key} is an empty list, so there is no run: give it a value.")
    choices = [value if isinstance(value, list) else [value] for value in entry.values()]
    crossed = {key for key, values in zip(entry, choices, strict=True) if len(values) > 1}
    runs = []
    for values in itertools.product(*choices):
        config = _one(dict(zip(entry, values, strict=True)), crossed, group, imports, where)
        runs += [replace(config, seed=seed) for seed in seeds]
    return runs


def _one(values: dict[str, Any], crossed: set[str], group: str, imports: tuple[str, ...], where: str) -> RunConfig:
    """One point of the product as a resolved RunConfig of seed 0."""
    try:
        return with_local_folder(resolve(from_dict(RunConfig, _fields(values, crossed, group, imports))))
    except RlcError as error:
        raise RlcError(f"{where}: {error}") from error


def _fields(values: dict[str, Any], crossed: set[str], group: str, imports: tuple[str, ...]) -> dict[str, Any]:
    """The RunConfig of one point as JSON values."""
    agent_values = {key[6:]: value for key, value in values.items() if key.startswith("agent.")}
    env_values = {key[4:]: value for key, value in values.items() if key.startswith("env.")}
    suffix = "".join(f",{key}={value}" for key, value in agent_values.items() if f"agent.{key}" in crossed)
    env_suffix = "".join(f",{key}={value}" for key, value in env_values.items())
    plain: dict[str, Any] = {key: value for key, value in values.items() if key in PLAIN}
    plain["label"] = f"{plain.get('label', plain['agent'])}{suffix}"
    plain.setdefault("env_label", f"{plain['env']}{env_suffix}")
    return {
        **plain,
        "agent_config": _nested(agent_values),
        "env_config": _nested(env_values),
        "budget": {key: value for key, value in values.items() if key in BUDGET},
        "group": group,
        "imports": imports,
    }


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    """{"learner.lr": 1} -> {"learner": {"lr": 1}}."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        *path, last = key.split(".")
        place = out
        for part in path:
            place = place.setdefault(part, {})
            require(isinstance(place, dict), f"{key} is a field of {part}, which has a value of its own.")
        require(last not in place, f"{key} is given as a value and by its fields.")
        place[last] = value
    return out


def plan_jobs(
    runs: list[RunConfig],
    out: Path,
    *,
    needs: Sequence[Needs] = (),
    overwrite: bool = False,
    command: str = "",
) -> tuple[list[Job], list[Path]]:
    """Jobs still to do (new ones, whose folders are made here, or to be resumed) and the folders that are done.

    `needs`: of each run, or of none. RlcError where a folder holds another run, unless `overwrite`.
    """
    jobs: list[Job] = []
    done: list[Path] = []
    new: list[RunConfig] = []
    for config, need in zip(runs, needs or [Needs()] * len(runs), strict=True):
        folder = run_folder(out, config)
        if overwrite or not (folder / CONFIG).exists():
            new.append(config)
            jobs.append(Job(folder, config, fresh=True, trusted=True, needs=need))
            continue
        stored = read_config(folder)
        same = _essence(_completed(stored)) == _essence(config)
        require(same, f"{folder} holds a run with another config: choose another --out, or use --overwrite.")
        summary = read_summary(folder)
        if summary is not None and summary.get("status") == "finished":
            done.append(folder)
        else:
            require_trust(stored, folder, set(stored.imports) <= set(config.imports))
            jobs.append(Job(folder, config, trusted=True, needs=need))
    # Only now, so that no folder is made if another one is in the way.
    prepare_all(new, out, overwrite=overwrite, command=command)
    return jobs, done


def _completed(config: RunConfig) -> RunConfig:
    """With the defaults of options that are newer than the run."""
    agent = completed("agent", config.agent, config.agent_config)
    return replace(config, agent_config=agent, env_config=completed("env", config.env, config.env_config))


def _essence(config: RunConfig) -> RunConfig:
    """The config without the fields that do not affect results."""
    return replace(config, checkpoint_seconds=0.0, tensorboard=True, imports=(), group="x")
