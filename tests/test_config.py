"""Configs: dict and back, strict on keys and types with the full path in the sentence, docstrings under fields."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import pytest

from rl_contrastive.config import Ge, Gt, In, Options, field_docs, from_dict, load_toml, require, to_dict
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import entries


@dataclass(frozen=True)
class Inner:
    width: int = 3
    """Number of units
    (>= 1)."""
    names: tuple[str, ...] = ("a",)


@dataclass(frozen=True)
class Outer:
    """A config."""

    rate: float = 0.5
    """Step size."""
    kind: Literal["x", "y"] = "x"
    limit: int | None = None
    pair: tuple[int, float] = (1, 2.0)
    flag: bool = False
    inner: Inner = field(default_factory=Inner)
    """Nested."""

    def __post_init__(self) -> None:
        require(self.rate > 0, f"outer: rate must be > 0, got {self.rate}.")


def test_round_trip_through_json():
    config = Outer(rate=2.0, kind="y", limit=4, pair=(5, 0.25), flag=True, inner=Inner(7, ("b", "c")))
    assert from_dict(Outer, json.loads(json.dumps(to_dict(config)))) == config
    assert from_dict(Outer, {}) == Outer()
    assert from_dict(Outer, {"rate": 3}).rate == 3.0  # an int is a fine float
    assert isinstance(from_dict(Outer, {"rate": 3}).rate, float)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rat": 1.0}, r"unknown config key 'rat'; did you mean 'rate'\? Allowed: flag, inner, kind"),
        ({"inner": {"widht": 1}}, r"unknown config key 'inner.widht'; did you mean 'inner.width'"),
        ({"rate": "fast"}, r"rate must be of type float, got 'fast'"),
        ({"rate": True}, r"rate must be of type float, got True"),
        ({"flag": 1}, r"flag must be of type bool, got 1"),
        ({"inner": {"width": 1.5}}, r"inner.width must be of type int, got 1.5"),
        ({"inner": 3}, r"inner must be a table of fields, got 3"),
        ({"inner": {"names": [1]}}, r"inner.names\[0\] must be of type str, got 1"),
        ({"kind": "z"}, r"kind must be one of 'x', 'y', got 'z'"),
        ({"limit": "none"}, r"limit must be int \| None, got 'none'"),
        ({"pair": [1]}, r"pair must have 2 items, got 1"),
        ({"pair": 1}, r"pair must be a list, got 1"),
        ({"rate": -1}, r"outer: rate must be > 0, got -1.0"),
    ],
)
def test_bad_values_name_their_full_path(values, sentence):
    with pytest.raises(RlcError, match=sentence):
        from_dict(Outer, values)


def test_docstrings_under_fields():
    assert field_docs(Outer) == {"rate": "Step size.", "inner": "Nested."}
    assert field_docs(Inner) == {"width": "Number of units (>= 1)."}


ENTRIES = [*entries("agent"), *entries("env")]


@pytest.mark.parametrize("entry", ENTRIES, ids=[e.name for e in ENTRIES])
def test_every_registered_config_is_frozen_documented_and_survives_json(entry):
    config = entry.config()
    assert dataclasses.fields(config) is not None
    assert entry.config.__dataclass_params__.frozen
    undocumented = {f.name for f in dataclasses.fields(config)} - field_docs(entry.config).keys()
    assert not undocumented, f"{entry.name}: no docstring under {sorted(undocumented)}"
    assert from_dict(entry.config, json.loads(json.dumps(to_dict(config)))) == config
    assert entry.summary.endswith("."), f"{entry.name}: the first docstring line is the help text"
    if entry.kind == "agent":
        assert config.batch >= 1


def test_toml(tmp_path):
    good = tmp_path / "a.toml"
    good.write_text("rate = 2\n[inner]\nwidth = 9\n")
    assert from_dict(Outer, load_toml(good)).inner.width == 9
    good.write_text("rate = = 2")
    with pytest.raises(RlcError, match="is not valid TOML"):
        load_toml(good)
    good.write_bytes(b"\xff\xfe")
    with pytest.raises(RlcError, match="is not valid TOML"):
        load_toml(good)
    with pytest.raises(RlcError, match="cannot read"):
        load_toml(tmp_path / "missing.toml")


@dataclass(frozen=True)
class Part:
    """Two numbers."""

    a: int = 1
    """First."""
    b: int = 2
    """Second."""


@dataclass(frozen=True)
class Real:
    """A config with a number."""

    x: float = 1.0
    """Any."""


@dataclass(frozen=True)
class Whole:
    """A config whose default of a nested config is not the nested class's own."""

    inner: Part = field(default_factory=lambda: Part(a=10))
    """Nested."""


def test_a_partial_table_changes_the_outer_configs_default_and_not_the_inner_classs():
    assert from_dict(Whole, {"inner": {"b": 5}}) == Whole(Part(a=10, b=5))
    assert from_dict(Whole, {"inner": {"a": 3}}) == Whole(Part(a=3, b=2))
    with pytest.raises(RlcError, match=r"inner\.c"):
        from_dict(Whole, {"inner": {"c": 5}})


def test_an_integer_beyond_the_largest_float_is_not_finite():
    with pytest.raises(RlcError, match="x must be finite, got inf"):
        from_dict(Real, {"x": 10**400})


@dataclass(frozen=True)
class Ranged(Options, where="ranged"):
    """Numbers with ranges; one of them may be left out."""

    rate: Annotated[float, Gt(0)] = 0.5
    """Step size."""
    limit: Annotated[int | None, Ge(1)] = None
    """Most steps."""
    sizes: Annotated[tuple[int, ...], Ge(1)] = (1,)
    """Widths."""
    always: Annotated[int, In(1, 1)] = 1
    """No choice."""
    share: Annotated[float, In(0, 1)] = 1.0
    """A share."""


def test_none_is_in_range_only_where_the_type_has_it():
    assert Ranged(limit=None, rate=np.float32(0.5)).limit is None
    for values, words in [
        ({"rate": None}, "ranged: rate must be a number, got None"),
        ({"rate": "a"}, "ranged: rate must be a number, got 'a'"),
        ({"limit": "a"}, "ranged: limit must be a number, got 'a'"),
        ({"sizes": (1, "a")}, "ranged: sizes must be a number, got 'a'"),
        ({"sizes": None}, "ranged: sizes must be a number, got None"),
        ({"limit": 0}, "ranged: limit must be >= 1, got 0"),
        ({"always": 3}, "ranged: always must be 1, got 3"),
        ({"share": 3}, r"ranged: share must lie in \[0, 1\], got 3"),
    ]:
        with pytest.raises(RlcError, match=words):
            Ranged(**values)
