"""`rlc list [KIND]`: every registered name of a kind (agents, envs, objectives ...), with its first sentence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import tyro

from rl_contrastive import registry
from rl_contrastive.cli.parse import Done, flags_of, parse, python_files
from rl_contrastive.config import field_docs
from rl_contrastive.errors import unknown_name

KINDS: dict[str, registry.Kind] = {kind + "s": kind for kind in get_args(registry.Kind)}
OLD_NAMES = {"experiments": "claims", "studies": "claims"}


@dataclass(frozen=True)
class ListCommand:
    """Print the registered names, all of them or those of one kind. A name that ends in ':' is a prefix."""

    kind: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="KIND")] = None
    """agents | envs | objectives | view-objectives | energy-objectives | pair-objectives | group-objectives |
    reward-objectives | claims | opponents; default: all."""
    json: bool = False
    """Print names, summaries and config fields as JSON."""
    imports: Annotated[tuple[str, ...], tyro.conf.arg(name="import"), tyro.conf.UseAppendAction] = ()
    """Python file to import first; may be repeated."""


def list_names(args: list[str]) -> int:
    """`rlc list [KIND]`."""
    flags = flags_of(ListCommand) - {"--kind", "--imports"} | {"--import"}
    try:
        parsed = parse(ListCommand, args, prog="rlc list", flags=flags)
    except Done:
        return 0
    chosen = list(KINDS) if parsed.kind is None else [OLD_NAMES.get(parsed.kind, parsed.kind)]
    for name in chosen:
        if name not in KINDS:
            raise unknown_name("kind", name, KINDS)
    for file in python_files(parsed.imports):
        registry.import_file(Path(file))
    if parsed.json:
        rows = {name: [_row(entry) for entry in registry.entries(KINDS[name])] for name in chosen}
        print(json.dumps(rows if parsed.kind is None else rows[chosen[0]], indent=2))
        return 0
    for name in chosen:
        if parsed.kind is None:
            print(f"{name}:")
        _print_group(registry.entries(KINDS[name]))
        if parsed.kind is None:
            print()
    return 0


def _row(entry: registry.Entry) -> dict[str, Any]:
    return {"name": entry.name, "summary": entry.summary, "fields": field_docs(entry.config)}


def _print_group(entries: list[registry.Entry]) -> None:
    """Names and summaries; prefixes such as `gym:` come first, since most readers look for their own environment."""
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in sorted(entries, key=lambda entry: not entry.name.endswith(":")):
        print(f"{entry.name:<{width}}  {entry.summary}")
