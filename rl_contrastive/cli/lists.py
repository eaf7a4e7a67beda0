"""`rlc list agents|envs|objectives|experiments|studies|opponents`: every registered name, with its first sentence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

import tyro

from rl_contrastive import registry
from rl_contrastive.cli.parse import Done, flags_of, parse
from rl_contrastive.config import field_docs
from rl_contrastive.errors import unknown_name

KINDS: dict[str, registry.Kind] = {
    "studies" if kind == "study" else kind + "s": kind for kind in get_args(registry.Kind)
}


@dataclass(frozen=True)
class ListCommand:
    """Print the names of one kind: agents, envs, objectives, experiments, opponents. A final ':' marks a prefix."""

    kind: tyro.conf.Positional[str]
    """agents | envs | objectives | experiments | studies | opponents"""
    json: bool = False
    """Print names, summaries and config fields as JSON."""
    imports: Annotated[tuple[str, ...], tyro.conf.arg(name="import"), tyro.conf.UseAppendAction] = ()
    """Python file to import first; may be repeated."""


def list_names(args: list[str]) -> int:
    """`rlc list KIND`."""
    flags = flags_of(ListCommand) - {"--kind", "--imports"} | {"--import"}
    try:
        parsed = parse(ListCommand, args, prog="rlc list", flags=flags)
    except Done:
        return 0
    if parsed.kind not in KINDS:
        raise unknown_name("kind", parsed.kind, KINDS)
    for file in parsed.imports:
        registry.import_file(Path(file))
    entries = registry.entries(KINDS[parsed.kind])
    if parsed.json:
        rows = [{"name": e.name, "summary": e.summary, "fields": field_docs(e.config)} for e in entries]
        print(json.dumps(rows, indent=2))
        return 0
    width = max((len(e.name) for e in entries), default=0)
    for entry in entries:
        print(f"{entry.name:<{width}}  {entry.summary}")
    return 0
