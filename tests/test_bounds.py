"""Every option keeps the bounds that its docstring states, and no number that is not finite gets past a config."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
import types
import typing
from typing import Any

import pytest

from rl_contrastive.cli import main
from rl_contrastive.config import field_docs, from_dict
from rl_contrastive.deep.config import ValueConfig
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import entries, get
from rl_contrastive.runs.budget import Budget

KINDS = ("agent", "claim", "env", "objective", "opponent")


def leaves(cls: type, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any, str]]:
    """(path, type hint, docstring) of every option of a config, those of its tables too."""
    hints, docs, out = typing.get_type_hints(cls), field_docs(cls), []
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            out += leaves(hint, (*path, field.name))
        else:
            out.append(((*path, field.name), hint, docs.get(field.name, "")))
    return out


def kinds_of(hint: Any) -> list[Any]:
    """int, float, or tuple[...] that an option may be."""
    return [h for option in typing.get_args(hint) for h in kinds_of(option)] if (
        typing.get_origin(hint) in (types.UnionType, typing.Union)
    ) else [hint]  # fmt: skip


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return value


def unregistered() -> list[type]:
    """Configs of the packages that are handed over in Python alone."""
    found = set()
    for package in ("bridges", "claims", "deep", "energy", "features", "objectives"):
        root = importlib.import_module(f"rl_contrastive.{package}")
        for module in pkgutil.walk_packages(root.__path__, root.__name__ + "."):
            for thing in vars(importlib.import_module(module.name)).values():
                if isinstance(thing, type) and dataclasses.is_dataclass(thing) and thing.__name__.endswith("Config"):
                    found.add(thing)
    known = {entry.config for kind in KINDS for entry in entries(kind)}
    return sorted((cls for cls in found - known if has_defaults(cls)), key=lambda cls: cls.__module__ + cls.__name__)


def has_defaults(cls: type) -> bool:
    missing = dataclasses.MISSING
    return all(f.default is not missing or f.default_factory is not missing for f in dataclasses.fields(cls))


def cases() -> list[Any]:
    more = [
        pytest.param(cls, path, hint, doc, id=f"{cls.__module__}.{cls.__name__}.{'.'.join(path)}")
        for cls in unregistered()
        for path, hint, doc in leaves(cls)
    ]
    return more + [
        pytest.param(entry.config, path, hint, doc, id=f"{kind}:{entry.name.rstrip(':')}.{'.'.join(path)}")
        for kind in KINDS
        for entry in entries(kind)
        for path, hint, doc in leaves(entry.config)
    ]


def refused(config: type, path: tuple[str, ...], value: Any) -> bool:
    try:
        from_dict(config, nested(path, value))
    except RlcError as error:
        return "\n" not in str(error)
    return False


def as_values(hint: Any, numbers: list[float]) -> list[Any]:
    """The numbers as values of this option: themselves, in a tuple, or nothing if it takes none."""
    out: list[Any] = []
    for kind in kinds_of(hint):
        if kind is float:
            out += numbers
        elif kind is int:
            out += [int(x) for x in numbers if abs(x) < 1e15 and x == int(x)]
        elif typing.get_origin(kind) is tuple:
            args = typing.get_args(kind)
            inner = as_values(args[0], numbers)
            out += [[x] * (1 if len(args) == 2 and args[1] is Ellipsis else len(args)) for x in inner]
    return out


NUMBER = r"-?(?:\d+\.?\d*(?:e-?\d+)?|\.\d+)"


def beyond(doc: str) -> list[float]:
    """Numbers just outside the bounds that a docstring states: "(>= 1)", "each > 0", "in (0, 1]", "in [0, .5)"."""
    out: list[float] = []
    if found := re.search(rf"(?<![a-zA-Z\d] )(>=|>) ({NUMBER})\b", doc):
        least = float(found[2])
        out += [least - 1.0] + ([least] if found[1] == ">" else [])
    if found := re.search(rf"\bin ([\[(])({NUMBER}), ({NUMBER})([\])])", doc):
        low, high = float(found[2]), float(found[3])
        out += [low - 1.0, high + 1.0] + ([low] if found[1] == "(" else []) + ([high] if found[4] == ")" else [])
    return out


@pytest.mark.parametrize(("config", "path", "hint", "doc"), cases())
def test_documented_bounds_hold_and_numbers_are_finite(config, path, hint, doc):
    never = [float("nan"), float("inf"), float("-inf")]
    for value in as_values(hint, never + beyond(doc)):
        assert refused(config, path, value), f"{'.'.join(path)} = {value} was taken; its docstring: {doc}"


def test_the_bounds_of_a_budget_and_what_is_built_by_hand():
    never = [float("nan"), float("inf"), float("-inf")]
    for path, hint, doc in leaves(Budget):
        for value in as_values(hint, never + beyond(doc)):
            assert refused(Budget, (), {"episodes": 100, **nested(path, value)}), f"{path} {value}"
    entry, _ = get("agent", "contrastive-ucb")
    env_entry, fixed = get("env", "probe-constant")
    env = env_entry.factory(env_entry.config(**fixed), 1)
    with pytest.raises(RlcError, match=r"agent\.reward_max must be finite, got nan"):
        entry.factory(env, entry.config(batch=1, reward_max=float("nan")), seed=0)
    with pytest.raises(RlcError, match=r"low must be < high, both finite, got -inf and 10"):
        ValueConfig(low=float("-inf"))
    with pytest.raises(RlcError, match="solve_gap must be > 0 and finite, got inf"):
        Budget(episodes=1, solve_gap=float("inf"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("energy images --quick --claim.energy.lr 0", "lr must be > 0, got 0.0"),
        ("energy images --quick --claim.energy.lr nan", "lr must be > 0, got nan"),
        ("energy images --quick --claim.energy.jitter inf", "claim.energy.jitter must be finite, got inf"),
        ("run contrastive-ucb probe-constant --episodes 9 --agent.reward-max nan", "agent.reward_max must be finite"),
    ],
)
def test_the_command_line_refuses_them(words, sentence, capsys):
    assert main(words.split()) == 2
    assert sentence in capsys.readouterr().err
