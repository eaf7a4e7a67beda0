"""Checksums in summary.json of itself, config.json and metrics.jsonl, so that a changed figure is refused.

`summary["sha256"]` has one entry for each of the three files; the entry of the summary covers all its other keys. Older
summaries have none and are read without a check.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from rl_contrastive.errors import RlcError

KEY = "sha256"
ITSELF, OTHERS = "summary.json", ("config.json", "metrics.jsonl")


def sealed(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The summary with its checksums, of the files that are there; RlcError if one cannot be read."""
    files = {name: _of_file(folder / name) for name in OTHERS if (folder / name).is_file()}
    return {**summary, KEY: {ITSELF: _of_values(summary), **files}}


def broken_seal(folder: Path, summary: dict[str, Any]) -> str | None:
    """A sentence about what changed since the run ended; None if nothing did, or if there are no checksums."""
    if KEY not in summary:
        return None
    seal = summary[KEY] if isinstance(summary[KEY], dict) else {}
    values = {name: value for name, value in summary.items() if name != KEY}
    if not seal.keys() <= {ITSELF, *OTHERS} or seal.get(ITSELF) != _of_values(values):
        return f"{ITSELF} was changed since the run ended (another checksum); without it `rlc resume` makes it anew."
    for name in OTHERS:
        if seal.get(name) != (_of_file(folder / name) if (folder / name).is_file() else None):
            return f"{name} was changed since the run ended: {ITSELF} has another checksum of it, or none."
    return None


def _of_values(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _of_file(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise RlcError(f"cannot read {path}: {error.strerror}.") from error
