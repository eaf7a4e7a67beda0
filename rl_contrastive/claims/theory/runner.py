"""`run_theory(names, out=...)`: run the registered claims and write each verdict, its plot and a summary of all."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rl_contrastive import registry
from rl_contrastive.analysis.figures import plain
from rl_contrastive.claims.processes import measured
from rl_contrastive.claims.theory.verdict import Verdict
from rl_contrastive.config import require, to_dict
from rl_contrastive.errors import RlcError
from rl_contrastive.files import write_text

if TYPE_CHECKING:
    from rich.table import Table


def run_theory(
    names: list[str] | None = None, *, out: Path, quick: bool = False, workers: int = 1, seed: int | None = None
) -> list[Verdict]:
    """Run the claims `names` (None: all of them) and write out/<name>/{verdict.json, <name>.png, <name>.svg}.

    A name that begins others stands for all of them: `games` for `games-equilibrium`, `games-lock`, ...
    quick: small sizes, seconds each. workers: claims measured side by side in processes of their own; the numbers do
    not depend on it. seed: the first seed of the MDPs, locks and games, and that of the data (None: each claim's own).
    Also writes verdicts.json and verdicts.md of this call.
    """
    require(seed is None or seed >= 0, f"theory: seed must be >= 0, got {seed}.")
    require(workers >= 1, f"theory: workers must be >= 1, got {workers}.")
    chosen = selected(names)
    found = dict(measured(partial(run_one, out=out, quick=quick, seed=seed), chosen, workers))
    verdicts = [found[name] for name in chosen]
    write_text(out / "verdicts.json", json.dumps([_as_json(v) for v in verdicts], indent=2, ensure_ascii=False) + "\n")
    write_text(out / "verdicts.md", markdown(verdicts))
    return verdicts


def selected(names: list[str] | None) -> list[str]:
    """Registered names, each once and in order: a name itself, or all that it and a hyphen begin."""
    known = [entry.name for entry in registry.entries("claim")]
    chosen: list[str] = []
    for name in known if names is None else names:
        group = [other for other in known if other.startswith(f"{name}-")]
        if name in known or not group:
            registry.get("claim", name)  # unknown names before any work
            group = [name]
        chosen += [other for other in group if other not in chosen]
    return chosen


def run_one(name: str, out: Path, quick: bool, seed: int | None = None) -> Verdict:
    """Measure one claim into out/<name>/; its config, seed included, is part of verdict.json."""
    entry, _ = registry.get("claim", name)
    config = entry.config.quick() if quick else entry.config()  # type: ignore[attr-defined]
    config = config if seed is None else dataclasses.replace(config, seed=seed)
    folder = out / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RlcError(f"theory: cannot make the folder {folder}: {error.strerror}.") from error
    verdict: Verdict = entry.factory(config, out=folder)
    record = {**_as_json(verdict), "config": to_dict(config)}
    write_text(folder / "verdict.json", json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return verdict


def markdown(verdicts: list[Verdict]) -> str:
    """One section a claim."""
    lines = ["# Claims of the theory, measured", ""]
    for v in verdicts:
        lines += [
            f"## {v.name}: {'holds' if v.passed else 'does not hold'}, control {_control(v)}",
            "",
            f"- Claim: {v.claim}",
            f"- Measured: {v.measurement}",
            f"- Expected: {v.expected}",
            f"- Control: {v.control}",
            "",
            f"![{v.name}]({v.name}/{v.plot})",
            "",
        ]
    return "\n".join(lines)


def render(verdicts: list[Verdict]) -> Table:
    """A rich table for the terminal."""
    from rich.table import Table

    table = Table(title="Claims of the theory", header_style="bold", title_justify="left", show_lines=True)
    table.add_column("Claim", min_width=max((len(v.name) for v in verdicts), default=0))
    for column in ("Verdict", "Measured", "Expected", "Control (has to fail)"):
        table.add_column(column, overflow="fold")
    for v in verdicts:
        verdict = "[green]holds[/]" if v.passed else "[red]does not hold[/]"
        style = "green" if v.control_passed else "red"
        cells = [c.replace("[", "\\[") for c in (v.measurement, v.expected, v.control)]
        table.add_row(v.name, verdict, cells[0], cells[1], f"{cells[2]} [{style}]({_control(v)})[/]")
    return table


def _control(verdict: Verdict) -> str:
    return "fails as it must" if verdict.control_passed else "DID NOT FAIL"


def _as_json(verdict: Verdict) -> dict[str, object]:
    value: dict[str, object] = plain(dataclasses.asdict(verdict))
    return value
