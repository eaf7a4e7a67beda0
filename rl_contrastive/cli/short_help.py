"""The short form of `rlc run --help`: the options that matter first, one line each; `--help-all` lists the rest."""

from __future__ import annotations

import dataclasses
import re
import shutil
import textwrap
from typing import Any

from rl_contrastive.config import field_docs

FIRST = ("episodes", "steps", "seeds", "seed", "stop_when_solved", "eval_every", "out", "label", "workers", "device")
"""Options of the run that most users need."""
WIDTH = 120


def short_help(prog: str, flags: type, agent: type, env: type) -> str:
    """Ten options of the run, then those of the agent and of the environment that are no tables of their own."""
    lines = [f"usage: {prog} [OPTIONS]", "", "Train AGENT on ENV, one process a seed; records go to a run folder.", ""]
    lines += ["run:", *_rows(flags, "--", FIRST)]
    for title, config, prefix in (("agent", agent, "--agent."), ("environment", env, "--env.")):
        rows = _rows(config, prefix, tuple(f.name for f in dataclasses.fields(config)))
        lines += ["", f"{title}:", *rows] if rows else []
    lines += ["", f"{prog} --help-all lists every option with its whole text."]
    return "\n".join(lines)


def _rows(config: type, prefix: str, names: tuple[str, ...]) -> list[str]:
    """`--name  what it is (default)` for each plain field, cut to the terminal's width."""
    docs, values = field_docs(config), {field.name: _default(field) for field in dataclasses.fields(config)}
    plain = [name for name in names if not dataclasses.is_dataclass(values[name])]
    flags = [prefix + name.replace("_", "-") for name in plain]
    column = max((len(flag) for flag in flags), default=0) + 4
    width = min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH)
    rows = []
    for flag, name in zip(flags, plain, strict=True):
        text = f"{_first_part(docs.get(name, ''))}  [{_shown(values[name])}]"
        rows.append(f"  {flag:<{column - 2}}{textwrap.shorten(text, max(width - column, 20), placeholder=' ...')}")
    return rows


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None


def _first_part(text: str) -> str:
    """The first sentence, without what follows a semicolon or a colon's list of cases."""
    return re.split(r"(?<=[a-z)])[.;](?:\s|$)", text, maxsplit=1)[0]


def _shown(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
