"""Names -> factories: one decorated class or function per file makes an agent, an environment, a claim, ...

Discovery imports the modules of the library's own packages once, then entry points of the group
`rl_contrastive.plugins`; `import_file` adds a user's file. Registered modules therefore stay light at import:
torch and stable-baselines3 are imported inside the functions that need them.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, TypeVar

from rl_contrastive.config import from_dict, require, to_dict
from rl_contrastive.errors import RlcError, unknown_name

Kind = Literal[
    "agent",
    "env",
    "objective",
    "view-objective",
    "energy-objective",
    "pair-objective",
    "group-objective",
    "reward-objective",
    "claim",
    "opponent",
]
PACKAGES: dict[Kind, str] = {
    "agent": "rl_contrastive.agents",
    "env": "rl_contrastive.envs",
    "objective": "rl_contrastive.objectives",
    "view-objective": "rl_contrastive.objectives",
    "energy-objective": "rl_contrastive.energy",
    "claim": "rl_contrastive.claims",
    "opponent": "rl_contrastive.agents",
    "pair-objective": "rl_contrastive.preferences",
    "group-objective": "rl_contrastive.preferences",
    "reward-objective": "rl_contrastive.preferences",
}
RECOVERS = ("ratio", "ratio-up-to-row", "tempered", "nothing")
"""What an objective of scores may say of its minimiser, `Objective.recovers`."""
ELSEWHERE: dict[Kind, tuple[Kind, str]] = {
    "objective": (
        "view-objective",
        "a loss of embeddings (view-objective), not of scores: use objectives.make_view, or "
        "--agent.learner.auxiliary.objective of contrastive-ucb-deep",
    ),
    "view-objective": (
        "objective",
        "a loss of scores (objective), not of embeddings: use objectives.make, or --agent.learner.objective",
    ),
}
"""Kind that was asked for -> the kind it is taken for, and where a name of that is used."""
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """One registered name. `factory` is called as agent: (env, config, *, seed), env: (config, num_envs), opponent:
    (env_spec, config, *, rng), claim: (config, context)."""

    kind: Kind
    name: str
    factory: Callable[..., Any]
    config: type
    summary: str


_ENTRIES: dict[tuple[Kind, str], Entry] = {}
_DISCOVERED: set[str] = set()
_IMPORTED: dict[Path, int] = {}
"""User files that were imported -> their time of change then."""


def register(kind: Kind, name: str, config: type) -> Callable[[F], F]:
    """Decorator: make `name` known. A name ending in ':' is a prefix, whose rest becomes the config's `id`."""

    def decorate(factory: F) -> F:
        require(is_dataclass(config), f"register: the config of {kind} '{name}' must be a dataclass, got {config!r}.")
        batch = kind != "agent" or "batch" in {field.name for field in fields(config)}
        require(batch, f"register: the config of agent '{name}' needs a field batch: the episodes side by side.")
        key = (kind, name)
        if key in _ENTRIES and _ENTRIES[key].factory.__module__ != factory.__module__:
            raise RlcError(f"the {kind} name '{name}' is already taken by {_ENTRIES[key].factory.__module__}.")
        if kind == "objective":
            require_recovers(f"register: {kind} '{name}'", getattr(factory, "recovers", "nothing"))
        summary = (inspect.getdoc(factory) or "").split("\n")[0]
        _ENTRIES[key] = Entry(kind, name, factory, config, summary)
        return factory

    return decorate


def require_recovers(who: str, value: Any) -> None:
    """RlcError unless an objective's `recovers` is one of the four."""
    allowed = ", ".join(map(repr, RECOVERS))
    require(value in RECOVERS, f"{who}: recovers must be one of {allowed}, got {value!r}.")


def get(kind: Kind, name: str) -> tuple[Entry, dict[str, Any]]:
    """Entry of `name` and the config values that the name itself fixes (`gym:CartPole-v1` fixes `id`)."""
    require(isinstance(name, str), f"{kind}: the name must be a text, got {name!r}.")
    group, slash, _ = name.partition("/")
    _discover(kind, group if slash else "")
    prefix, colon, rest = name.partition(":")
    if colon and (kind, prefix + ":") in _ENTRIES:
        require(bool(rest), f"the {kind} '{name}' needs a name behind the colon, such as gym:CartPole-v1.")
        return _ENTRIES[kind, prefix + ":"], {"id": rest}
    if (kind, name) in _ENTRIES:
        return _ENTRIES[kind, name], {}
    if kind == "env":
        import gymnasium  # the environments need it anyway, other commands start faster without

        if name in gymnasium.registry:
            raise RlcError(f"unknown env '{name}'; did you mean 'gym:{name}'?")
    _require_not_elsewhere(kind, name)
    raise unknown_name(kind, name, (e.name for e in entries(kind)))


def _require_not_elsewhere(kind: Kind, name: str) -> None:
    """RlcError that says where a name belongs, if it is of the kind that this one is taken for."""
    other, words = ELSEWHERE.get(kind, (kind, ""))
    require(not words or (other, name) not in _ENTRIES, f"{kind}: '{name}' is {words}.")


def kind_of(kinds: tuple[Kind, ...], name: str) -> Kind:
    """The first of the kinds that has this name; RlcError if none has."""
    known = {kind: [e.name for e in entries(kind)] for kind in kinds}
    for kind in kinds:
        if name in known[kind]:
            return kind
    _require_not_elsewhere(kinds[0], name)
    raise unknown_name(" or ".join(kinds), name, (n for names in known.values() for n in names))


def build(kind: Kind, name: str, options: Any = None) -> Any:
    """What the factory of `name` makes of a config, or of a table of the config's fields; the rest has its defaults."""
    entry, fixed = get(kind, name)
    if isinstance(options, entry.config):
        return entry.factory(options)
    values = {} if options is None else to_dict(options) if is_dataclass(options) else options
    require(isinstance(values, dict), f"the options of {name} must be a table of fields, got {values!r}.")
    return entry.factory(from_dict(entry.config, {**values, **fixed}, f"{name}."))


def entries(kind: Kind, group: str = "") -> list[Entry]:
    """All entries of a kind, or those named GROUP/..., by name."""
    _discover(kind, group)
    start = f"{group}/" if group else ""
    return [entry for (k, name), entry in sorted(_ENTRIES.items()) if k == kind and name.startswith(start)]


def import_file(path: Path) -> None:
    """Import a user's Python file, once, so that what it registers can be named on the command line.

    Its folder is put at the end of Python's path, so that it may import its neighbours. A file that is a module of this
    process already, because the program imported it by its name or is that file, is not run again. A folder is only put
    on the path.
    """
    add_folder(path if path.is_dir() else path.parent)
    if path.is_dir():
        return
    if not path.is_file():
        raise RlcError(f"there is no file {path}.")
    # The library's own names come first: a file that takes one of them is the one to blame.
    _discover("agent")
    _discover("env")
    if is_imported(path):
        return
    spec = _spec_of(path)
    if spec is None or spec.loader is None:
        raise RlcError(f"{path} is no Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        text = " ".join(str(error).split())
        raise RlcError(f"{path} raised {type(error).__name__}: {text}.") from error
    _IMPORTED[path.resolve()] = path.stat().st_mtime_ns


def is_imported(path: Path) -> bool:
    """Whether `import_file` would do nothing: the file was imported as it is now, or the folder is on Python's path."""
    file = path.resolve()
    if path.is_dir():
        return str(file) in _resolved_path()
    if file in _IMPORTED:
        return path.is_file() and _IMPORTED[file] == path.stat().st_mtime_ns
    return any(_file_of(module) == file for module in list(sys.modules.values()))


def add_folder(folder: Path) -> None:
    """Put a folder at the end of Python's path, where it hides nothing that is installed."""
    if folder.is_dir() and str(folder.resolve()) not in _resolved_path():
        sys.path.append(str(folder.resolve()))


def _resolved_path() -> set[str]:
    return {str(Path(entry).resolve()) for entry in sys.path}


def _file_of(module: Any) -> Path | None:
    name = getattr(module, "__file__", None)
    return Path(name).resolve() if isinstance(name, str) else None


def _spec_of(path: Path) -> ModuleSpec | None:
    """By its own name where `import` would find this file, so that it is one module to whoever imports it."""
    try:
        found = importlib.util.find_spec(path.stem) if path.stem.isidentifier() else None
    except (ValueError, ImportError):  # a module without a spec has this name, as `__main__` may
        found = None
    if found is not None and found.origin is not None and Path(found.origin).resolve() == path.resolve():
        return found
    return importlib.util.spec_from_file_location(f"rlc_user_{path.stem}", path)


def _discover(kind: Kind, group: str = "") -> None:
    """Import the modules of a kind; of a group of claims alone where it is known, as the others may load torch."""
    require(isinstance(kind, str) and kind in PACKAGES, f"unknown kind {kind!r}; allowed: {', '.join(PACKAGES)}.")
    package = PACKAGES[kind]
    if kind == "claim" and group and importlib.util.find_spec(f"{package}.{group}"):
        package = f"{package}.{group}"
    if package in _DISCOVERED:
        return
    _DISCOVERED.add(package)  # first, as a module may ask for a name while it is imported
    try:
        root = importlib.import_module(package)
        for module in pkgutil.walk_packages(root.__path__, package + "."):
            importlib.import_module(module.name)
        for point in entry_points(group="rl_contrastive.plugins"):
            point.load()
    except BaseException:
        _DISCOVERED.discard(package)
        raise
