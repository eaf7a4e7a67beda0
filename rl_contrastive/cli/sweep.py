"""`rlc sweep FILE.toml`: all runs of a file, by local processes or on a Ray cluster, then the comparison."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from rl_contrastive.cli.parse import Done, flags_of, parse
from rl_contrastive.cli.run import check_workers, finish, work
from rl_contrastive.config import require


@dataclass(frozen=True)
class SweepCommand:
    """Run everything in a TOML file: finished runs with the same config are skipped, unfinished ones resumed."""

    file: tyro.conf.Positional[Path]
    """TOML file with [[run]] tables."""
    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine; ray: tasks of a Ray cluster with a shared file system."""
    workers: int | None = None
    """Runs at a time (local); default: the cores."""
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

    flags = flags_of(SweepCommand) - {"--file", "--imports"} | {"--import"}
    try:
        parsed = parse(SweepCommand, args, prog="rlc sweep", flags=flags)
    except Done:
        return 0
    if parsed.engine == "ray":
        found = importlib.util.find_spec("ray") is not None
        require(found, "--engine ray needs the package ray: pip install -e '.[ray]'.")
    check_workers(parsed.workers)
    imports = tuple(str(Path(file).resolve()) for file in parsed.imports)
    plan = load_sweep(parsed.file, quick=parsed.quick, imports=imports)
    out = parsed.out or Path("runs") / plan.name
    command = "rlc sweep " + shlex.join(args)
    jobs, done = plan_jobs(plan.runs, out, overwrite=parsed.overwrite, command=command)
    if parsed.engine == "ray":
        code = _work_on_ray(jobs, done, as_json=parsed.json)
    else:
        code = work(jobs, parsed.workers, as_json=parsed.json, done=done)
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


def _work_on_ray(jobs: list[Any], done: list[Path], *, as_json: bool) -> int:
    """One Ray task a run; each starts the same worker process as a local run, so its bytes are the same."""
    import ray

    from rl_contrastive.runs.run import read_summary
    from rl_contrastive.runs.workers import Pool

    ray.init(ignore_reinit_error=True, log_to_driver=False)
    task: Any = ray.remote(lambda job: Pool(1).run([job])[0])
    outcomes = ray.get([task.options(num_cpus=job.config.threads).remote(job) for job in jobs])
    shown = [(folder, read_summary(folder)) for folder in done]
    shown += [(outcome.job.folder, outcome.summary) for outcome in outcomes if outcome.bad_input is None]
    return finish(shown, [o.bad_input for o in outcomes if o.bad_input is not None], as_json=as_json)
