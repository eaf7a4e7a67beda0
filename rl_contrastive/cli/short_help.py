"""`rlc run --help`: the options that matter first, one line each; `--help-all`: every option with its whole text."""

from __future__ import annotations

import dataclasses
import re
import shutil
import textwrap
import types
import typing
from pathlib import Path
from typing import Any

from rl_contrastive.config import field_docs

FIRST = ("episodes", "steps", "seeds", "seed", "stop_when_solved", "eval_every", "out", "label", "workers", "device")
"""Options of the run that most users need."""
WIDTH = 120
FLAGS = {"imports": "import"}
"""Fields whose option has another name."""


def short_help(prog: str, flags: Any, agent: Any, env: Any) -> str:
    """Ten options of the run, then those of the agent and of the environment that are no tables of their own."""
    lines = [f"usage: {prog} [OPTIONS]", "", "Train AGENT on ENV, one process a seed; records go to a run folder.", ""]
    lines += ["run:", *_rows(flags, "--", FIRST)]
    for title, config, prefix in (("agent", agent, "--agent."), ("environment", env, "--env.")):
        rows = _rows(config, prefix, tuple(f.name for f in dataclasses.fields(config)))
        lines += ["", f"{title}:", *rows] if rows else []
    lines += ["", f"{prog} --help-all lists every option with its whole text."]
    return "\n".join(lines)


def long_help(prog: str, flags: Any, agent: Any, env: Any) -> str:
    """Every option of three configs: type, default, range and the whole text."""
    lines = [f"usage: {prog} [OPTIONS]", "", "Train AGENT on ENV, one process a seed; records go to a run folder."]
    for title, config, prefix in (("run", flags, "--"), ("agent", agent, "--agent."), ("environment", env, "--env.")):
        lines += ["", f"{title}:", *_entries(config, prefix)]
    return "\n".join(lines)


def _entries(config: Any, prefix: str) -> list[str]:
    """Plain fields first, then the tables within, each under its own heading."""
    width = _width()
    docs, hints = field_docs(type(config)), typing.get_type_hints(type(config))
    plain, inner = [], []
    for field in dataclasses.fields(config):
        value, flag = getattr(config, field.name), prefix + FLAGS.get(field.name, field.name).replace("_", "-")
        if dataclasses.is_dataclass(value):
            entries = _entries(value, flag + ".")
            inner += ["", f"{flag}: {docs.get(field.name, '')}", *entries] if entries else []
            continue
        kind = _kind(hints[field.name])
        if isinstance(value, bool):
            before, dot, name = flag.rpartition(".")
            kind = f"| {before}.no-{name}" if dot else f"| --no-{flag[2:]}"
        plain.append(f"  {flag} {kind}  (default: {_shown(value)})")
        plain += textwrap.wrap(docs.get(field.name, ""), width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return plain + inner


def _kind(hint: Any) -> str:
    """`INT`, `FLOAT|NONE`, `{a,b}`, ... of a type hint."""
    if typing.get_origin(hint) is typing.Literal:
        return "{" + ",".join(map(str, typing.get_args(hint))) + "}"
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return "|".join(_kind(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"[{_kind(typing.get_args(hint)[0])} ...]"
    if hint is type(None):
        return "none"
    return {str: "TEXT", Path: "PATH"}.get(hint, getattr(hint, "__name__", str(hint)).upper())


def _rows(config: Any, prefix: str, names: tuple[str, ...]) -> list[str]:
    """`--name  what it is (default)` for each plain field, cut to the terminal's width."""
    docs, values = field_docs(type(config)), {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    plain = [name for name in names if not dataclasses.is_dataclass(values[name])]
    flags = [prefix + name.replace("_", "-") for name in plain]
    column = max((len(flag) for flag in flags), default=0) + 4
    width = _width()
    rows = []
    for flag, name in zip(flags, plain, strict=True):
        text = f"{_first_part(docs.get(name, ''))}  [{_shown(values[name])}]"
        rows.append(f"  {flag:<{column - 2}}{textwrap.shorten(text, max(width - column, 20), placeholder=' ...')}")
    return rows


def _width() -> int:
    return min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH)


def _first_part(text: str) -> str:
    """The first sentence, without what follows a semicolon or a colon's list of cases."""
    return re.split(r"(?<=[a-z)])[.;](?:\s|$)", text, maxsplit=1)[0]


def _shown(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
