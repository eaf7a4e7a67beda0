"""Words -> dataclasses by tyro, with every complaint brought into one form: an RlcError of one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import os
import re
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tyro

from rl_contrastive.config import require, require_finite
from rl_contrastive.errors import RlcError

BORDER = "╭╮╰╯│─ "
CHOICE = re.compile(r"invalid choice '(.*)' for argument '([^']+)'\. Expected one of \((.*)\)")
UNREADABLE = re.compile(
    r"Error parsing (--\S+): (?:(?:(invalid literal for int)|could not convert string to float).*?: (['\"].*)"
    r"|no type matching (.+) could be instantiated from \[(.+)\])"
)
MISSING = re.compile(r"Missing from (rlc [a-z]+): (.+ \(required\))")
WANTED = re.compile(r"(\S+) (.+?) \(required\)")
TYPES = {
    "{[INT [INT ...]]}": "whole numbers",
    "{[FLOAT [FLOAT ...]]}": "numbers",
    "INT": "a whole number",
    "FLOAT": "a number",
    "{None}": "None",
    "|": " or ",
}
"""What tyro calls the types of values, in words."""


class Done(Exception):  # noqa: N818 - not an error
    """The command line asked for help, which has been printed."""


@dataclasses.dataclass(frozen=True)
class Nothing:
    """Options that appear once every name is given."""


def python_files(files: Iterable[str]) -> tuple[str, ...]:
    """The whole paths of the files that `--import` names; RlcError for a folder, and where there is no such file."""
    takes = "--import takes a Python file such as my_agent.py"
    for file in files:
        require(not os.path.isdir(file or "."), f"{takes}, got the folder {file!r}.")
        require(os.path.isfile(file), f"{takes}; there is no file {file}.")
        require(file.endswith(".py"), f"{takes}; {file} does not end in .py.")
    return tuple(str(Path(file).resolve()) for file in files)


def parse(command: Any, args: list[str], *, prog: str, flags: set[str], default: Any = None) -> Any:
    """Parse `args` into the dataclass `command`; RlcError on bad input, Done after --help.

    `flags` are the options that exist, for the near-miss suggestion of an unknown one.
    """
    _require_once(args, flags)
    complaint = io.StringIO()
    keywords = {} if default is None else {"default": default}
    # tyro wraps its boxes to the terminal's width; a sentence must not be cut in the middle of a word.
    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), os.environ.get("COLUMNS", "120")
    try:
        with contextlib.redirect_stderr(complaint):
            parsed, unknown = tyro.cli(command, args=args, prog=prog, return_unknown_args=True, **keywords)
    except SystemExit as stop:
        if not stop.code:
            raise Done from None
        raise RlcError(_sentence(complaint.getvalue())) from None
    finally:
        if before is None:
            del os.environ["COLUMNS"]
    if unknown:
        word = unknown[0].partition("=")[0]
        if word.startswith("-"):
            close = difflib.get_close_matches(word.replace("_", "-"), sorted(flags), n=1, cutoff=0.5)
            hint = f" did you mean {close[0]}?" if close else ""
            raise RlcError(f"unknown option {word};{hint} {prog} --help lists all.")
        raise RlcError(f"{prog}: unexpected word {word!r}; see {prog} --help.")
    if dataclasses.is_dataclass(parsed):
        require_finite(parsed)
    return parsed


REPEATED = {"--import"}
"""Options that may be given several times: each adds to the ones before."""


def _require_once(args: list[str], flags: set[str]) -> None:
    """RlcError where an option is given twice, `--x` and `--no-x` too: the last one would win without a word."""
    seen: dict[str, str] = {}
    for word in args:
        if not word.startswith("--"):
            continue
        flag = word.partition("=")[0].replace("_", "-")
        before, dot, name = flag.removeprefix("--").rpartition(".")
        name = name.removeprefix("no-") if f"--{before}{dot}{name.removeprefix('no-')}" in flags else name
        option = f"--{before}{dot}{name}"
        if option not in flags or option in REPEATED:
            continue
        if option in seen:
            what = f"{flag} is given twice" if seen[option] == flag else f"{seen[option]} and {flag} exclude each other"
            raise RlcError(f"{what}: give it once.")
        seen[option] = flag


def _sentence(box: str) -> str:
    """The first paragraph of a tyro error box or ruled text, as one line."""
    words: list[str] = []
    for line in box.splitlines()[1:]:  # the first line is the title
        text = line.strip(BORDER)
        if text.strip("-"):
            words.append(text)
        elif words:
            break
    sentence = " ".join(words) or " ".join(box.split())
    # A config's own sentence names its field; "Error parsing env:" in front of it says nothing more.
    sentence = re.sub(r"^Error parsing (env|agent|engine|claim)\b[^ ]*: ", "", sentence)
    return _readable(sentence.rstrip(".")) + "."


def _readable(sentence: str) -> str:
    """tyro's complaint of a value that Python cannot read, as what, where and what is allowed; others as they are."""
    if missing := MISSING.fullmatch(sentence):
        prog, words = missing.groups()
        wanted = WANTED.findall(words)
        what = " and ".join(name for name, _ in wanted)
        return f"{prog} needs {what}{': ' + wanted[0][1].rstrip('.') if len(wanted) == 1 else ''}; see {prog} --help"
    if choice := CHOICE.fullmatch(sentence):
        value, flag, words = choice.groups()
        choices = re.findall(r"'([^']+)'", words)
        if "None" in choices:  # tyro's list of an option that may be left out is a set: its order changes
            choices = sorted({*choices} - {"None"})
        return f"{flag} takes one of {', '.join(choices)}, got {value}"
    found = UNREADABLE.fullmatch(sentence)
    if not found:
        return sentence
    flag, whole, value, types, values = found.groups()
    allowed = types or ("INT" if whole else "FLOAT")
    for name, words in TYPES.items():
        allowed = allowed.replace(name, words)
    return f"{flag} takes {allowed}, got {value or values}"


def flags_of(config: Any, prefix: str = "--") -> set[str]:
    """Options of a config dataclass or its default: `--agent.batch`, nested ones included, `--no-x` for booleans."""
    hints = typing.get_type_hints(config if isinstance(config, type) else type(config))
    out: set[str] = set()
    for field in dataclasses.fields(config):
        hint, name = hints[field.name], field.name.replace("_", "-")
        value = getattr(config, field.name, None)
        inner = value if dataclasses.is_dataclass(value) else hint
        if dataclasses.is_dataclass(inner):
            out |= flags_of(inner, f"{prefix}{name}.")
            continue
        out.add(prefix + name)
        if hint is bool:
            out.add(f"{prefix}no-{name}")
    return out
