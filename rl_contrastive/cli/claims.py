"""`rlc claims [NAME ...]`: measure claims; `rlc theory` and `rlc energy` are the same for the claims of one group."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import tyro

from rl_contrastive.cli.parse import Done, Nothing, flags_of, parse

if TYPE_CHECKING:
    from rl_contrastive.claims.base import Report

Config = TypeVar("Config")


@dataclass(frozen=True)
class ClaimFlags:
    """Options of every claim."""

    quick: bool = False
    """Small sizes: seconds to a minute each; options of the claim keep their small values unless given."""
    seed: int | None = None
    """First seed of problems and data (>= 0), of claims that draw any; default: each claim's own."""
    out: Path = Path("runs")
    """Folder of claims; each goes to OUT/GROUP/NAME. Fits that are there already are not measured again."""
    workers: int = 1
    """Claims side by side, or the fits of a single one, in processes of their own (>= 1); changes no number."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:1 ..., for the networks."""
    overwrite: bool = False
    """Delete what these claims measured before."""
    json: bool = False
    """Print the reports as JSON: a list, or one report where one claim was named."""


@dataclass(frozen=True)
class ClaimsCommand(Generic[Config]):
    """Measure claims: bars drawn beforehand, negative controls, tables, plots and a page each."""

    run: tyro.conf.OmitArgPrefixes[ClaimFlags]
    claim: Config


SWITCHES = ("--quick", "--overwrite", "--json", "-h", "--help")
PLACES = ("--out", "--workers", "--overwrite", "--json")
"""Options that change no number: a page may lie anywhere and be made by any number of workers."""


def theory(args: list[str]) -> int:
    """`rlc theory [NAME ...]`: the claims of the group `theory`, into OUT/NAME."""
    return claims(args, "theory")


def energy(args: list[str]) -> int:
    """`rlc energy [NAME ...]`: the claims of the group `energy`, into OUT/NAME; a bar that is missed is no failure."""
    words = ["--claim." + word.removeprefix("--study.") if word.startswith("--study.") else word for word in args]
    if words != args:
        print("rlc: --study.X is written --claim.X now.", file=sys.stderr)
    return 0 if (code := claims(words, "energy")) == 1 else code


def claims(args: list[str], group: str = "") -> int:
    """`rlc claims [NAME ...]`; exit code 1 if a claim does not hold or a control does not fail."""
    names, options = _split(args)
    if sys.stderr.isatty() and not {"-h", "--help"} & set(options):
        _say("claims: loading")  # the imports alone take seconds; in a pipe an error is one line
    from rl_contrastive.claims.runner import default_config, run_claims, selected

    chosen = selected(names, group)
    prog = f"rlc {group or 'claims'} {' '.join(names) or '[NAME ...]'}"
    single = len(chosen) == 1
    default: Any = default_config(chosen[0], quick="--quick" in options) if single else Nothing()
    flags = flags_of(ClaimFlags) | flags_of(default, "--claim.")
    generic: Any = ClaimsCommand
    start = ClaimsCommand(ClaimFlags(out=Path("runs") / group), default)
    try:
        parsed = parse(generic[type(default)], options, prog=prog, flags=flags, default=start)
    except Done:
        print(f"claims: {', '.join(chosen)}") if not names else None
        return 0
    run: ClaimFlags = parsed.run
    keywords = {name: value for name, value in vars(run).items() if name != "json"}
    keywords |= {"config": parsed.claim if single else None, "words": _lasting(options)}
    found = run_claims(names, group=group, say=_say, **keywords)
    _show(found, run, alone=single and bool(names))
    return 0 if all(report.holds for report in found) else 1


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """(names, options): words that are no option's value are names."""
    names: list[str] = []
    options: list[str] = []
    values = 0.0  # how many of the next words belong to the option before
    for word in words:
        if word.startswith("-"):
            values = 0 if "=" in word or word in SWITCHES else math.inf if word.startswith("--claim.") else 1
        (names if not word.startswith("-") and values == 0 else options).append(word)
        values = values if word.startswith("-") else max(0, values - 1)
    return names, options


def _lasting(options: list[str]) -> list[str]:
    """The options that decide numbers."""
    out, flag = [], ""
    for word in options:
        flag = word.partition("=")[0] if word.startswith("-") else flag
        out += [] if flag in PLACES else [word]
    return out


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(reports: Sequence[Report], run: ClaimFlags, *, alone: bool) -> None:
    from rich.console import Console

    from rl_contrastive.claims.page import render
    from rl_contrastive.claims.runner import as_json

    if run.json:
        values = [as_json(report) for report in reports]
        print(json.dumps(values[0] if alone else values, indent=2))
        return
    # A file or a pipe has no width of its own, and 80 columns cut these tables into slivers.
    console = Console(width=None if sys.stdout.isatty() else 140)
    for part in render(reports):
        console.print(part)
    console.print(f"written: {run.out}", markup=False)
