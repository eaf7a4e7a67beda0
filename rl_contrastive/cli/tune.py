"""`rlc tune FILE.toml`: search on tuning seeds, then the best setting on reporting seeds, with an interval."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from rl_contrastive.cli.parse import Done, flags_of, parse, python_files
from rl_contrastive.runs.engine_options import EngineOptions
from rl_contrastive.runs.engines import start_engine

SHOWN = 10
"""Trials in the table."""


@dataclass(frozen=True)
class TuneCommand:
    """Try settings of one run on tuning seeds and report the best one on other seeds; the same command goes on."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """TOML file with a [run] and a [tune] table."""
    engine: tyro.conf.OmitArgPrefixes[EngineOptions] = field(default_factory=EngineOptions)
    out: Path | None = None
    """Folder of the trials; default: runs/NAME."""
    overwrite: bool = False
    """Start again where a tuning is there already."""
    json: bool = False
    """Print the result as JSON."""
    imports: Annotated[tuple[str, ...], tyro.conf.arg(name="import"), tyro.conf.UseAppendAction] = ()
    """Python file to import first; may be repeated."""


def tune(args: list[str]) -> int:
    """`rlc tune FILE`."""
    from rl_contrastive.runs.progress import ProgressLines
    from rl_contrastive.runs.tune import Stopped, open_ledger, report, require_optuna, search
    from rl_contrastive.runs.tune_file import load_tuning

    flags = flags_of(TuneCommand) - {"--file", "--imports"} | flags_of(EngineOptions) | {"--import"}
    try:
        parsed = parse(TuneCommand, args, prog="rlc tune", flags=flags)
    except Done:
        return 0
    tuning = load_tuning(parsed.file, python_files(parsed.imports))
    require_optuna()
    out = parsed.out or Path("runs") / tuning.name
    again = {"overwrite": parsed.overwrite, "command": "rlc tune " + shlex.join(args)}
    try:
        with ProgressLines(quiet=parsed.json) as lines, closing(start_engine(parsed.engine, lines.report)) as engine:
            found = search(tuning, out, engine, **again)
            values = report(tuning, found, out, engine, **again)
    except Stopped as stop:
        return _stopped(stop.outcomes)
    result = _result(tuning, open_ledger(tuning, out), found, values)
    if parsed.json:
        print(json.dumps(result, indent=2))
    else:
        print(table(result))
        print(f"runs: {out}")
    return 0 if all(value is not None for value in values.values()) else 1


def _stopped(outcomes: list[Any]) -> int:
    bad = dict.fromkeys(outcome.bad_input for outcome in outcomes if outcome.bad_input is not None)
    for sentence in bad:
        print(f"rlc: {sentence}", file=sys.stderr)
    if not bad:
        print("rlc: stopped before the end; the same command goes on.", file=sys.stderr)
    return 2 if bad else 1


def _result(tuning: Any, ledger: Any, found: Any, values: dict[int, float | None]) -> dict[str, Any]:
    """Everything that is printed, as JSON values."""
    from rl_contrastive.analysis.statistics import mean_interval

    good = np.array([value for value in values.values() if value is not None])
    what = mean_interval(good) if len(good) else None
    interval = None if what is None else [what.estimate, what.low, what.high]
    if interval is not None and not np.isfinite(interval).all():
        interval = interval[:1]
    last = {int(n): (rung["cap"], value) for rung in ledger.rungs for n, value in rung["values"].items()}
    rows = [{"trial": n, "cap": cap, "value": value, **ledger.trials[n]} for n, (cap, value) in last.items()]
    return {
        "metric": tuning.tune.metric,
        "over": tuning.tune.over,
        "direction": tuning.tune.direction,
        "unit": tuning.unit,
        "trials": sorted(rows, key=lambda row: row["trial"]),
        "tune_seeds": list(tuning.tune.tune_seeds),
        "best": {"trial": found.trial, "tuning_value": found.value, "params": found.params},
        "report": {"seeds": {str(seed): value for seed, value in values.items()}, "mean_interval": interval},
    }


def table(result: dict[str, Any]) -> str:
    """Markdown: the trials that came furthest, then the best one's report."""
    from rl_contrastive.analysis.tables import Table

    sign = -1 if result["direction"] == "maximize" else 1
    rows = sorted(result["trials"], key=lambda r: (-r["cap"], r["value"] is None, sign * (r["value"] or 0), r["trial"]))
    keys = list(result["best"]["params"])
    heads = ("trial", result["unit"], f"{result['metric']} (tuning seeds)", *keys)
    cells = [(str(r["trial"]), str(r["cap"]), _value(r["value"]), *(_short(r[key]) for key in keys)) for r in rows]
    lines = Table("Trials", heads, cells[:SHOWN], text_columns=0).markdown()
    if len(rows) > SHOWN:
        lines.append(f"\nand {len(rows) - SHOWN} trials more")
    best, seeds = result["best"], result["report"]["seeds"]
    setting = ", ".join(f"{key} = {_short(value)}" for key, value in best["params"].items())
    failed = [seed for seed, value in seeds.items() if value is None]
    interval = result["report"]["mean_interval"]
    words = "no run ended" if interval is None else f"{interval[0]:.4g}"
    if interval is not None:
        words += " (one run: no interval)" if len(interval) == 1 else f" [{interval[1]:.4g}, {interval[2]:.4g}]"
    lines += ["", f"Best setting, trial {best['trial']}: {setting}"]
    lines += [f"{result['metric']} on the reporting seeds {', '.join(seeds)}: mean [95% CI] {words}"]
    lines += [f"failed: seeds {', '.join(failed)}, which are not in the mean"] if failed else []
    return "\n".join(lines)


def _value(value: float | None) -> str:
    return "failed" if value is None else f"{value:.4g}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
