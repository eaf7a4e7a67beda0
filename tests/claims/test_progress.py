"""What `rlc claims` says while it measures: a claim's name, what begins, and how long it has taken."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rl_contrastive import registry
from rl_contrastive.claims.base import Context, Timed
from rl_contrastive.claims.runner import run_claims

QUICK = ["theory/tv-rate", "theory/nce-ratio", "theory/elliptical-potential", "theory/games-lock"]


@pytest.mark.parametrize("name", QUICK)
def test_a_claim_says_when_it_begins_each_part_and_ends(name: str, tmp_path: Path) -> None:
    lines: list[str] = []
    run_claims([name], out=tmp_path, quick=True, say=lines.append)
    assert lines[0] == f"{name}, 0 s: begins, claim 1 of 1"
    assert re.fullmatch(rf"{name}, \d+ s: holds|{name}, \d+ s: does not hold", lines[-1])
    assert len(lines) >= 4
    assert all(re.match(rf"{name}, \d+ s: ", line) for line in lines)


def test_each_names_every_item_as_it_begins(tmp_path: Path) -> None:
    lines: list[str] = []
    items = Context(tmp_path, say=lines.append).each("method", ("a", ("b", 2)))
    assert lines == []
    assert next(items) == "a"
    assert lines == ["method 1 of 2: a"]
    assert list(items) == [("b", 2)]
    assert lines[1:] == ["method 2 of 2: b 2"]


def test_a_line_tells_the_time_since_the_start() -> None:
    lines: list[str] = []
    Timed("theory/coin", lines.append, started=time.monotonic() - 600)("thrown")
    assert lines == ["theory/coin, 10 min: thrown"]


def test_every_claim_says_what_begins() -> None:
    """By their code, because all of them take hours: each names its parts, or is a grid, which names its fits."""
    silent = []
    for entry in registry.entries("claim"):
        if "rl_contrastive" in entry.factory.__module__:
            text = Path(sys.modules[entry.factory.__module__].__file__ or "").read_text()
            if not re.search(r"context\.each\(|context\.say\(|run_grid\(", text):
                silent.append(entry.name)
    assert silent == []


def test_on_a_terminal_the_command_says_something_before_its_imports(tmp_path: Path) -> None:
    code = """
import sys
from rl_contrastive.cli.claims import claims
write, sys.stderr.isatty = sys.stderr.write, lambda: True
sys.stderr.write = lambda text: write(f"{text} torch={'torch' in sys.modules}" if text.strip() else text)
claims(["theory/no-such-claim"])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "claims: loading torch=False" in found.stderr
