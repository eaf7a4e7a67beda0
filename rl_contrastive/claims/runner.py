"""`run_claims(names, out=...)`: measure registered claims; a page and a record each, and a summary of all.

OUT/GROUP/NAME/ holds report.md, report.json, plots and, of a grid, the cells that the same call does not measure again;
OUT/claims.md and OUT/claims.json are the summary of the last call.
"""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rl_contrastive import registry
from rl_contrastive.analysis.figures import plain
from rl_contrastive.claims.base import Context, Report, Timed, silent
from rl_contrastive.claims.page import page, summary
from rl_contrastive.claims.processes import measured
from rl_contrastive.config import require, to_dict
from rl_contrastive.device import require_device
from rl_contrastive.errors import RlcError, unknown_name
from rl_contrastive.files import write_text
from rl_contrastive.runs.folder import write_json

REPORT, SUMMARY = "report.json", "claims.json"


def run_claims(
    names: Sequence[str] = (),
    *,
    out: Path,
    group: str = "",
    quick: bool = False,
    seed: int | None = None,
    workers: int = 1,
    device: str = "auto",
    overwrite: bool = False,
    config: Any = None,
    words: Sequence[str] | None = None,
    say: Callable[[str], None] = silent,
) -> list[Report]:
    """Measure the claims that `names` stand for (see `selected`; none: all), each into OUT/GROUP/NAME.

    group: names are of this group, and folders leave it out. quick: small sizes. seed: the first seed, of claims that
    draw any (None: each claim's own). workers: several claims side by side, or the fits of a single one; the numbers do
    not depend on it. config: of a single claim, in place of its own. words: options of the command line
    that decide numbers, for the page. say: takes lines of progress, a function of a module.
    """
    require(seed is None or seed >= 0, f"claims: seed must be >= 0, got {seed}.")
    require_device(device)
    require(workers >= 1, f"claims: workers must be >= 1, got {workers}.")
    chosen = selected(names, group)
    require(config is None or len(chosen) == 1, "claims: a config is for a single claim.")
    context = Context(out, workers if len(chosen) == 1 else 1, device, say)
    configs = {name: _seeded(config or default_config(name, quick=quick), seed) for name in chosen}
    work = partial(_run_one, configs=configs, context=context, group=group, overwrite=overwrite, words=words)
    found = dict(measured(work, chosen, workers))
    reports = [found[name] for name in chosen]
    write_json(out / SUMMARY, [as_json(report) for report in reports])
    write_text(out / "claims.md", summary(reports, {name: _folder(name, group) for name in chosen}))
    return reports


def selected(names: Sequence[str] = (), group: str = "") -> list[str]:
    """Registered names, each once: a name, or what a group (`theory`) or a first word (`theory/games`) stands for.

    The group may be left out where the rest says it (`tv-rate`). RlcError suggests a near name for an unknown one.
    """
    groups = {name.partition("/")[0] if "/" in name else "" for name in names}
    # One group alone is imported faster than all.
    known = [entry.name for entry in registry.entries("claim", group or (groups.pop() if len(groups) == 1 else ""))]
    chosen = [] if names else known
    for name in names:
        full = [(other, _folder(other, other.partition("/")[0])) for other in known]  # theory/tv-rate, tv-rate
        begun = (f"{name}/", f"{name}-")
        found = [other for other, short in full if name in (other, short)]
        found = found or [other for other, short in full if other.startswith(begun) or short.startswith(begun)]
        if not found:
            in_group = bool(group) or "/" not in name
            raise unknown_name("claim", name, (short if in_group else other for other, short in full))
        chosen += [other for other in found if other not in chosen]
    return chosen


def default_config(name: str, *, quick: bool = False) -> Any:
    """The claim's default config, or its small one."""
    kind: Any = registry.get("claim", name)[0].config
    return kind.quick() if quick else kind()


def _seeded(config: Any, seed: int | None) -> Any:
    """The config with its field `seed`, or with `seeds` that begin there; an exact claim has neither."""
    if seed is None or not (hasattr(config, "seed") or hasattr(config, "seeds")):
        return config
    if hasattr(config, "seed"):
        return replace(config, seed=seed)
    return replace(config, seeds=tuple(s - config.seeds[0] + seed for s in config.seeds))


def _folder(name: str, group: str) -> str:
    return name.removeprefix(f"{group}/") if group else name


def _run_one(
    name: str, configs: dict[str, Any], context: Context, group: str, overwrite: bool, words: Sequence[str] | None
) -> Report:
    context, config = replace(context.part(_folder(name, group)), say=Timed(name, context.say)), configs[name]
    _prepare(context.out, overwrite=overwrite)
    context.say(f"begins, claim {list(configs).index(name) + 1} of {len(configs)}")
    found: Report = registry.get("claim", name)[0].factory(config, context)
    command = "" if words is None else shlex.join(["rlc", "claims", name, *words])
    report = replace(found, name=name, config=to_dict(config), command=command)
    write_json(context.out / REPORT, as_json(report))
    write_text(context.out / "report.md", page(report))
    context.say("holds" if report.holds else "does not hold")
    return report


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON values, with `holds`."""
    return {"name": report.name, "holds": report.holds, **plain(dataclasses.asdict(report))}


def _prepare(folder: Path, *, overwrite: bool) -> None:
    """Make the claim's folder, empty if `overwrite`; only what looks like a claim's is ever deleted."""
    if overwrite and folder.exists():
        mine = any(folder.rglob("cells.jsonl")) or (folder / REPORT).is_file() or not any(folder.iterdir())
        require(mine, f"{folder} is no claim's folder (no cells.jsonl, no {REPORT}); it is not deleted.")
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RlcError(f"claims: cannot make the folder {folder}: {error.strerror}.") from error
