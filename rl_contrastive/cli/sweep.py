"""`rlc sweep FILE.toml`: all runs of a file, by local processes or on a Ray cluster, then the comparison."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from rl_contrastive.cli.parse import Done, flags_of, parse, python_files
from rl_contrastive.cli.run import work
from rl_contrastive.device import require_devices
from rl_contrastive.runs.engine_options import EngineOptions


@dataclass(frozen=True)
class SweepCommand:
    """Run everything in a TOML file: finished runs with the same config are skipped, unfinished ones resumed."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """TOML file with [[run]] tables."""
    engine: tyro.conf.OmitArgPrefixes[EngineOptions] = field(default_factory=EngineOptions)
    out: Path | None = None
    """Folder of the runs; default: runs/NAME."""
    quick: bool = False
    """Apply the file's [quick] table."""
    overwrite: bool = False
    """Replace runs that are there already."""
    json: bool = False
    """Print the summaries as JSON; no comparison is printed."""
    imports: Annotated[tuple[str, ...], tyro.conf.arg(name="import"), tyro.conf.UseAppendAction] = ()
    """Python file to import first; may be repeated."""


def sweep(args: list[str]) -> int:
    """`rlc sweep FILE`."""
    from rl_contrastive.runs.run import read_summary
    from rl_contrastive.runs.sweep import load_sweep, plan_jobs

    flags = flags_of(SweepCommand) - {"--file", "--imports"} | flags_of(EngineOptions) | {"--import"}
    try:
        parsed = parse(SweepCommand, args, prog="rlc sweep", flags=flags)
    except Done:
        return 0
    imports = python_files(parsed.imports)
    plan = load_sweep(parsed.file, quick=parsed.quick, imports=imports)
    if parsed.engine.engine == "local":  # a cluster's nodes have other devices
        for config in plan.runs:
            require_devices(config.agent_config)
    out = parsed.out or Path("runs") / plan.name
    command = "rlc sweep " + shlex.join(args)
    jobs, done = plan_jobs(plan.runs, out, needs=plan.needs, overwrite=parsed.overwrite, command=command)
    code = work(jobs, parsed.engine, as_json=parsed.json, done=done)
    if code == 2:  # bad input: those runs have no folders any more
        return code
    unfinished = sum((read_summary(job.folder) or {"status": "aborted"})["status"] == "aborted" for job in jobs)
    if unfinished:
        print(f"rlc: stopped before the end of {unfinished} runs; the same command goes on.", file=sys.stderr)
    elif plan.compare and not parsed.json:
        from rl_contrastive.cli.reports import write_comparison

        bars = {config.budget.solve_at for config in plan.runs}
        gaps = {config.budget.solve_gap for config in plan.runs}
        # Runs of one bar are compared by it; where they differ, `rlc compare --bar` has to say which one counts.
        options = {name: values.pop() for name, values in (("bar", bars), ("solve_gap", gaps)) if len(values) == 1}
        write_comparison([out], out / "compare", as_json=False, **options)
    return code
