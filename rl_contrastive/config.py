"""Frozen dataclasses <-> plain dicts (JSON, TOML): strict on unknown keys, types and ranges, with plain sentences.

A config is a frozen dataclass with a docstring under each field; the command line, the run record and the tables
of the documentation derive from it. Its base `Options` checks the ranges and choices that the field types state.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import math
import numbers
import textwrap
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rl_contrastive.errors import RlcError, unknown_name

T = TypeVar("T")


def require(condition: bool, sentence: str) -> None:
    """Raise RlcError(sentence) unless the condition holds; the sentence says what, where and what is allowed."""
    if not condition:
        raise RlcError(sentence)


def require_number(where: str, value: Any, *, whole: bool = False) -> None:
    """RlcError unless `value` is a number, numpy's too: of code that hands over what nobody has checked."""
    kind, words = (numbers.Integral, "a whole number") if whole else (numbers.Real, "a number")
    good = isinstance(value, kind) and not isinstance(value, bool)
    require(good, f"{where} must be {words}, got {value!r}.")


MOST_WIDTH = 1 << 14
"""Units of a layer, channels, features: a square layer of so many takes 1 GiB in float32."""
MOST_DRAWN = 1 << 16
"""Rows of a gradient step."""
MOST_ROWS = 1 << 20
"""Rows of an environment side by side: far more than any run uses, few enough for a machine's memory."""
MOST_COPIES = 1 << 14
"""The same where each row is an environment object of another library."""


def require_rows(where: str, rows: Any, most: int = MOST_ROWS) -> None:
    """RlcError unless `rows` is a whole number in [1, most]."""
    whole = isinstance(rows, numbers.Integral) and not isinstance(rows, bool)
    good = whole and 1 <= rows <= most
    require(good, f"{where} must be >= 1 and whole, and at most {most}, got {rows!r}.")


def require_keys(state: Mapping[str, Any], keys: Iterable[str], who: str) -> None:
    """RlcError at the first key that a saved state lacks."""
    for key in keys:
        require(key in state, f"{who}: the saved state lacks '{key}'.")


def load_arrays(owner: Any, state: Mapping[str, Any], names: Iterable[str], who: str) -> None:
    """Set the arrays `names` of `owner` to those of a saved state; RlcError unless all have the shapes of its own."""
    saved = {name: np.array(state[name], dtype=np.float64) for name in names}
    for name, array in saved.items():
        shape = getattr(owner, name).shape
        require(array.shape == shape, f"{who}: the saved {name} has shape {array.shape}, not {shape}.")
    for name, array in saved.items():
        setattr(owner, name, array)


def fill_arrays(arrays: Mapping[str, Any], state: Mapping[str, Any], who: str) -> None:
    """Fill the arrays with those of a saved state; RlcError, and nothing filled, on missing keys or wrong shapes."""
    require_keys(state, arrays, who)
    for name, array in arrays.items():
        shape = np.shape(state[name])
        require(shape == array.shape, f"{who}: the saved {name} has shape {shape}, not {array.shape}.")
    for name, array in arrays.items():
        array[...] = state[name]


@dataclasses.dataclass(frozen=True)
class Range:
    """Allowed values of a number, for `Annotated[int, Ge(1)]`: check, help and sentence derive from it.

    An end may be left out (open). A number with a fraction must be finite whatever the ends are.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    """low itself is left out."""
    below: bool = False
    """high itself is left out."""

    def holds(self, value: float) -> bool:
        """Whether the value is allowed; NaN never is."""
        over = value > self.low if self.above else value >= self.low
        under = value < self.high if self.below else value <= self.high
        return over and under and abs(value) < math.inf

    def __str__(self) -> str:
        # 16384, where %g would write 1.638e+04 of larger ones.
        low, high = (str(int(end)) if float(end).is_integer() else f"{end:.10g}" for end in (self.low, self.high))
        if self.low == self.high:
            return low
        if self.high == math.inf:
            return f"{'>' if self.above else '>='} {low}"
        return f"in {'(' if self.above else '['}{low}, {high}{')' if self.below else ']'}"


def Ge(low: float) -> Range:
    """>= low."""
    return Range(low)


def Gt(low: float) -> Range:
    """> low."""
    return Range(low, above=True)


def In(low: float, high: float, *, above: bool = False, below: bool = False) -> Range:
    """[low, high]; above, below leave out the ends."""
    return Range(low, high, above, below)


@functools.cache
def ranges_of(cls: type) -> dict[str, Range]:
    """Field -> its range, of a config dataclass."""
    found = {}
    for base in reversed(cls.__mro__):  # a field that a subclass gives another default keeps its range
        hints = typing.get_type_hints(base, include_extras=True) if dataclasses.is_dataclass(base) else {}
        for name, hint in hints.items():
            for mark in getattr(hint, "__metadata__", ()):
                if isinstance(mark, Range):
                    found[name] = mark
    return found


@functools.cache
def choices_of(cls: type) -> dict[str, tuple[Any, ...]]:
    """Field -> its allowed values, of the fields with a Literal type."""
    hints = typing.get_type_hints(cls)
    return {name: typing.get_args(hint) for name, hint in hints.items() if typing.get_origin(hint) is typing.Literal}


@functools.cache
def optional_of(cls: type) -> frozenset[str]:
    """The fields that may be None."""
    hints = typing.get_type_hints(cls)
    return frozenset(name for name, hint in hints.items() if hint is Any or type(None) in typing.get_args(hint))


def check_ranges(config: Any, where: str) -> None:
    """RlcError at the first field beyond its range or its choices, in tuples too; None only where the type has it."""
    start = f"{where}: " if where[-1:].isalnum() else where
    for name, allowed in ranges_of(config.__class__).items():
        value = getattr(config, name)
        good = value is not None or name in optional_of(config.__class__)
        require(good, f"{start}{name} must be a number, got None.")
        for number in value if isinstance(value, tuple) else (value,):
            if number is None:
                continue
            require_number(f"{start}{name}", number)
            if not allowed.holds(number):
                verb = "lie" if str(allowed).startswith("in ") else "be"
                finite = " and finite" if number == math.inf else ""
                raise RlcError(f"{start}{name} must {verb} {allowed}{finite}, got {value}.")
    for name, choices in choices_of(config.__class__).items():
        value = getattr(config, name)
        require(value in choices, f"{start}{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


class Options:
    """Base of a config whose ranges and choices are checked when it is made: `class LockConfig(Options, where="lock")`.

    A class with relations between its fields to check calls `super().__post_init__()` first.
    """

    where: typing.ClassVar[str] = ""
    """Start of the sentences: "lock" gives "lock: horizon must ...", "tune." gives "tune.trials must ..."."""

    def __init_subclass__(cls, where: str | None = None) -> None:
        if where is not None:
            cls.where = where

    def __post_init__(self) -> None:
        check_ranges(self, self.where)


def config_or(given: T | None, default: type[T]) -> T:
    """`given`, or the class's defaults for None; RlcError for anything else, such as a table of fields."""
    name = default.__name__
    where = getattr(default, "where", "") or name
    words = f"{where}: the config must be of class {name}, or None for the defaults, got {given!r}"
    require(given is None or isinstance(given, default), words + ".")
    return default() if given is None else given


def require_finite(config: Any, where: str = "") -> None:
    """RlcError if a number anywhere in a config is NaN or infinite: comparisons with NaN pass many a range check."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{where}{field.name}"
        if dataclasses.is_dataclass(value):
            require_finite(value, name + ".")
        for number in value if isinstance(value, tuple) else value.values() if isinstance(value, dict) else (value,):
            good = not isinstance(number, float) or math.isfinite(number)
            require(good, f"{name} must be finite, got {number}.")


def to_dict(config: Any) -> dict[str, Any]:
    """Nested dataclass -> nested dict of JSON values (tuples become lists)."""
    out: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            out[field.name] = to_dict(value)
        else:
            out[field.name] = list(value) if isinstance(value, tuple) else value
    return out


def from_dict(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """Nested dict -> dataclass. Unknown keys and wrong types raise RlcError naming the key's full path."""
    hints = typing.get_type_hints(cls)
    names = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    kwargs: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            raise unknown_name("config key", f"{where}{key}", [f"{where}{n}" for n in names])
        default = names[key].default_factory
        if isinstance(value, dict) and default is not dataclasses.MISSING and dataclasses.is_dataclass(hints[key]):
            # A table changes some fields of this config's own default, which may differ from its class's.
            value = _merged(to_dict(default()), value)
        kwargs[key] = _coerce(hints[key], value, f"{where}{key}")
    return cls(**kwargs)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the entries of `changes`, tables within tables likewise."""
    out = dict(base)
    for key, value in changes.items():
        inner = out.get(key)
        out[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return out


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """Check `value` against a type hint; int -> float and list -> tuple are the only conversions."""
    if hint is Any:
        return value
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        for option in typing.get_args(hint):
            try:
                return _coerce(option, value, where)
            except RlcError:
                continue
        raise RlcError(f"{where} must be {hint}, got {value!r}.")
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        require(value in allowed, f"{where} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        require(isinstance(value, dict), f"{where} must be a table of fields, got {value!r}.")
        return from_dict(hint, value, where + ".")
    if origin is tuple:
        require(isinstance(value, list | tuple), f"{where} must be a list, got {value!r}.")
        args = typing.get_args(hint)
        items = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        require(len(items) == len(value), f"{where} must have {len(items)} items, got {len(value)}.")
        return tuple(_coerce(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(items, value, strict=True)))
    if origin is dict:
        require(isinstance(value, dict), f"{where} must be a table of fields, got {value!r}.")
        return dict(value)
    if hint is type(None):
        require(value is None, f"{where} must be null, got {value!r}.")
        return None
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an integer beyond the largest float, as JSON and TOML can hold
            number = math.inf
        require(math.isfinite(number), f"{where} must be finite, got {number!r}.")
        return number
    ok = isinstance(value, hint) and not (hint in (int, float) and isinstance(value, bool))
    require(ok, f"{where} must be of type {getattr(hint, '__name__', hint)}, got {value!r}.")
    return value


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; a missing or malformed file is an RlcError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
    except OSError as error:
        raise RlcError(f"cannot read {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RlcError(f"{path} is not valid TOML: {error}.") from error


def field_docs(cls: type) -> dict[str, str]:
    """Field name -> the docstring written under it, here or in a base class (for help texts and tables)."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            docs.update(_own_docs(base))
    for name, allowed in ranges_of(cls).items():
        text = docs.get(name, "").removesuffix(".")
        docs[name] = f"{text} ({allowed}).".strip()
    return docs


def _own_docs(cls: type) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for node, following in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            docs[node.target.id] = " ".join(following.value.value.split())
    return docs
