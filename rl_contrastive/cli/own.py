"""`rlc new KIND NAME` writes a file to start from; `rlc check FILE` holds such a file to the contracts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import tyro

from rl_contrastive import registry
from rl_contrastive.cli.parse import Done, flags_of, parse
from rl_contrastive.config import from_dict, require
from rl_contrastive.errors import RlcError, unknown_name

WORLDS: tuple[tuple[str, dict[str, int]], ...] = (
    ("low-rank", {"num_states": 6, "num_actions": 3, "horizon": 3, "rank": 2}),
    ("combination-lock", {"horizon": 3, "num_actions": 3}),
    ("low-rank-game", {"num_states": 6, "num_actions": 2, "num_opponent_actions": 3, "horizon": 3, "rank": 2}),
    ("duel-lock", {"horizon": 3, "num_actions": 3}),
)
"""Small worlds an agent or an opponent is tried on: tables and vectors, of one player and of two."""
CHECKED: tuple[registry.Kind, ...] = ("agent", "env", "objective", "opponent")


@dataclass(frozen=True)
class CheckCommand:
    """Hold what a Python file registers, or what has the given name, to the contracts of the library."""

    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE|NAME")]
    """A Python file, or a registered name such as combination-lock."""
    seconds: float = 10.0
    """The longest that one step of an environment may take (> 0)."""


def check(args: list[str]) -> int:
    """`rlc check FILE|NAME`."""
    try:
        parsed = parse(CheckCommand, args, prog="rlc check", flags=flags_of(CheckCommand) - {"--target"})
    except Done:
        return 0
    require(parsed.seconds > 0, f"--seconds must be > 0, got {parsed.seconds}.")
    for entry, fixed in _entries(parsed.target):
        try:
            rules = CHECKS[entry.kind](entry, fixed, parsed.seconds)
        except RlcError:
            raise
        except (Exception, SystemExit) as error:  # a user's code may end the process, which would look like a pass
            text = " ".join(str(error).split())
            raise RlcError(f"{entry.kind} {entry.name} raised {type(error).__name__}: {text}.") from error
        print(f"ok    {entry.kind} {entry.name}: {', '.join(rules)}")
    return 0


def _entries(target: str) -> list[tuple[registry.Entry, dict[str, Any]]]:
    """What the file registered, or every entry of that name, with the options that the name fixes."""
    path = Path(target)
    if path.suffix == ".py" or path.exists():
        require(not path.is_dir(), f"rlc check takes a Python file or a registered name, got the folder {target!r}.")
        registry.import_file(path)
        everything = [entry for kind in CHECKED for entry in registry.entries(kind)]
        found = [entry for entry in everything if Path(inspect.getfile(entry.factory)).resolve() == path.resolve()]
        require(len(found) > 0, f"{path} registers no agent, environment, objective or opponent (see `rlc new`).")
        return [(entry, {}) for entry in found]
    named = []
    for kind in CHECKED:
        try:
            named.append(registry.get(kind, target))
        except RlcError:
            continue
    if not named:
        raise unknown_name("file or name", target, [e.name for kind in CHECKED for e in registry.entries(kind)])
    return named


def _check_env(entry: registry.Entry, fixed: dict[str, Any], seconds: float) -> list[str]:
    from rl_contrastive.testing import check_env

    return check_env(lambda rows: entry.factory(from_dict(entry.config, fixed, "env."), rows), seconds=seconds)


def _check_agent(entry: registry.Entry, fixed: dict[str, Any], seconds: float) -> list[str]:
    """On each small world that the agent takes; one at least."""
    from rl_contrastive.testing import check_agent

    rules: list[str] = []
    refusals = []
    for world, options in WORLDS:
        make = _maker(entry, fixed, world, options)
        try:
            make(0)
        except RlcError as error:
            refusals.append(str(error))
            continue
        rules = check_agent(make, seconds=seconds)
    require(bool(rules), f"{entry.name} refused every world it was tried on: {' '.join(refusals)}")
    return rules


def _maker(
    entry: registry.Entry, fixed: dict[str, Any], world: str, options: dict[str, int]
) -> Callable[[int], tuple[Any, Any]]:
    from rl_contrastive.api import make_env

    def make(seed: int) -> tuple[Any, Any]:
        config: Any = from_dict(entry.config, fixed, "agent.")
        env = make_env(world, config.batch, **options)
        return entry.factory(env, config, seed=seed), env

    return make


def _check_objective(entry: registry.Entry, fixed: dict[str, Any], seconds: float) -> list[str]:
    del seconds
    from rl_contrastive.testing import check_objective

    config: Any = from_dict(entry.config, fixed, f"{entry.name}.")
    return check_objective(entry.factory(config))


def _check_opponent(entry: registry.Entry, fixed: dict[str, Any], seconds: float) -> list[str]:
    del seconds
    import numpy as np

    from rl_contrastive.api import make_env
    from rl_contrastive.testing import check_opponent

    config: Any = from_dict(entry.config, fixed, "opponent.")
    rules: list[str] = []
    for world, options in WORLDS[2:]:
        spec = make_env(world, 1, **options).env_spec
        rules = check_opponent(lambda seed: entry.factory(spec, config, rng=np.random.default_rng(seed)), spec)  # noqa: B023
    return rules


CHECKS: dict[str, Callable[[registry.Entry, dict[str, Any], float], list[str]]] = {
    "env": _check_env,
    "agent": _check_agent,
    "objective": _check_objective,
    "opponent": _check_opponent,
}


@dataclass(frozen=True)
class NewCommand:
    """Write a small working file to start from; `rlc check` on it passes."""

    kind: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="KIND")]
    """agent | env | objective"""
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Its name on the command line, such as my-agent."""
    out: Path | None = None
    """File to write; default: the name with underscores, here."""


def new(args: list[str]) -> int:
    """`rlc new agent|env|objective NAME`."""
    try:
        parsed = parse(NewCommand, args, prog="rlc new", flags=flags_of(NewCommand) - {"--kind", "--name"})
    except Done:
        return 0
    kinds: tuple[registry.Kind, ...] = ("agent", "env", "objective")
    if parsed.kind not in kinds:
        raise unknown_name("kind", parsed.kind, kinds)
    words = parsed.name.replace("_", "-").split("-")
    plain = all(word.isascii() and word.isalnum() for word in words) and not words[0][0].isdigit()
    require(plain, f"rlc new: a name begins with a letter and has letters, digits and hyphens, got {parsed.name!r}.")
    taken = [entry.name for entry in registry.entries(parsed.kind)]
    require(parsed.name not in taken, f"rlc new: the {parsed.kind} name '{parsed.name}' is already taken.")
    out = parsed.out or Path("_".join(words) + ".py")
    require(out.suffix == ".py", f"rlc new: the file must end in .py, got {out}.")
    require(not out.exists(), f"rlc new: {out} exists already; give another --out.")
    text = files("rl_contrastive.cli").joinpath("templates", f"{parsed.kind}.txt").read_text(encoding="utf-8")
    name = "".join(word.capitalize() for word in words)
    for mark, value in (("@NAME@", parsed.name), ("@CLASS@", name), ("@FILE@", str(out))):
        text = text.replace(mark, value)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RlcError(f"rlc new: cannot write {out}: {error.strerror}.") from error
    print(f"{out} is written. Check it: rlc check {out}")
    return 0
