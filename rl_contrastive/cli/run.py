"""`rlc run AGENT ENV` and `rlc resume DIR`: two names pick two configs, whose fields become options."""

from __future__ import annotations

import itertools
import json
import shlex
import sys
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, get_args

import tyro

from rl_contrastive import registry
from rl_contrastive.cli.options import in_new_form, require_used, with_options
from rl_contrastive.cli.parse import Done, Nothing, flags_of, parse, python_files
from rl_contrastive.cli.short_help import long_help, short_help
from rl_contrastive.config import from_dict, require, to_dict
from rl_contrastive.device import require_devices
from rl_contrastive.runs.budget import Budget, Limits
from rl_contrastive.runs.presets import PresetName, left_out, preset_of, without

if TYPE_CHECKING:
    from rl_contrastive.runs.engine_options import EngineOptions

AgentConfig = TypeVar("AgentConfig")
EnvConfig = TypeVar("EnvConfig")


@dataclass(frozen=True)
class RunFlags(Limits):
    """Options of the run itself."""

    seed: int = 0
    """Seed of the run, or the first one (>= 0)."""
    seeds: int = 1
    """Number of seeds: seed, seed + 1, ... (>= 1)."""
    episodes: int | None = None
    """Cap on episodes, rounded down to whole batches; 1000 if neither this nor --steps is given."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:1 ..., for agents with a network."""
    out: Path = Path("runs")
    """Folder of all runs; one goes to OUT/GROUP/LABEL--ENV/seed-N."""
    group: str = "default"
    """Name of the group of runs."""
    preset: PresetName = "auto"
    """Settings of the deep agents for a family of environments, as measured: auto (by the environment's name, if no
    option of the agent is given) | none | minigrid | minatar | atari | classic. Other options win over them."""
    label: str | None = None
    """Name in folders, tables and plots; default: the agent's."""
    workers: int | None = None
    """Runs at a time, each a process; default: min(cores, seeds)."""
    threads: int = 1
    """BLAS and torch threads of each run; another number may change the last bits of results."""
    checkpoint_seconds: float = 30.0
    """Wall seconds between checkpoints."""
    step_seconds: float | None = None
    """Seconds that one step of the environment may take; a step that hangs then fails the run. Default: no limit."""
    tensorboard: bool = True
    """Write TensorBoard scalars beside metrics.jsonl, and histograms and numbers of features of agents that offer
    them."""
    overwrite: bool = False
    """Replace runs that are there already."""
    json: bool = False
    """Print the summaries as JSON."""
    imports: Annotated[tuple[str, ...], tyro.conf.arg(name="import"), tyro.conf.UseAppendAction] = ()
    """Python file to import first, which registers agents or environments; may be repeated."""


@dataclass(frozen=True)
class RunCommand(Generic[AgentConfig, EnvConfig]):
    """Train AGENT on ENV, one process a seed; records, plots and checkpoints go to a run folder."""

    run: tyro.conf.OmitArgPrefixes[RunFlags]
    agent: AgentConfig
    env: EnvConfig


def run(args: list[str]) -> int:
    """`rlc run AGENT ENV [options]`."""
    names, options = _leading_words(renamed(args), 2)
    options = in_new_form(options)
    imports = _imports(options)
    for file in python_files(imports):
        registry.import_file(Path(file))
    wants_help = not {"-h", "--help", "--help-all"}.isdisjoint(options)
    require(len(names) == 2 or wants_help, "rlc run needs two names first: rlc run AGENT ENV (see `rlc list agents`).")
    agent_config: type = Nothing
    env_config: type = Nothing
    fixed: dict[str, Any] = {}
    if names:
        agent_config = registry.get("agent", names[0])[0].config
    if len(names) == 2:
        entry, fixed = registry.get("env", names[1])
        env_config = entry.config
    prog = f"rlc run {' '.join(names) if len(names) == 2 else 'AGENT ENV'}"
    agent, env, flags_now = agent_config(), env_config(**fixed), RunFlags()
    found = preset_of(names[0], names[1], _asked(options), options) if len(names) == 2 else None
    if found is not None:
        name, preset = found
        agent, env = from_dict(agent_config, preset.agent), from_dict(env_config, {**fixed, **preset.env})
        flags_now = replace(flags_now, **without(preset.run, options))
        if not wants_help:
            hint = "--preset none for the agent's own defaults"
            print(f"rlc: settings of the preset {name}, from {preset.source} ({hint}).", file=sys.stderr)
    elif len(names) == 2 and not wants_help:
        other = left_out(names[0], names[1], _asked(options), options)
        if other is not None:
            hint = f"--preset {other} takes it beside them, --preset none is silent"
            print(f"rlc: preset {other} left out, because options of the agent are given ({hint}).", file=sys.stderr)
    agent = with_options(agent, options, "--agent.")
    if wants_help:
        write = long_help if "--help-all" in options else short_help
        print(write(prog, flags_now, agent, env))
        return 0
    flags = flags_of(RunFlags) - {"--imports"} | {"--import"}
    flags |= flags_of(agent, "--agent.") | flags_of(env_config, "--env.")
    generic: Any = RunCommand
    default = RunCommand(flags_now, agent, env)
    try:
        parsed = parse(generic[agent_config, env_config], options, prog=prog, flags=flags, default=default)
    except Done:  # tyro has options of its own, such as the one for shell completion
        return 0
    require_used(parsed.agent, options)
    return start(names[0], names[1], parsed, "rlc run " + shlex.join(args))


def _asked(options: list[str]) -> str:
    """The value of --preset, needed before the other options can be known; the parser complains about a wrong one."""
    after = [after for word, after in itertools.pairwise([*options, ""]) if word == "--preset"]
    asked = [*after, *(word.partition("=")[2] for word in options if word.startswith("--preset="))]
    return asked[-1] if asked and asked[-1] in get_args(PresetName) else "auto"


OLD_FLAGS = {"--experiment": "--group"}


def renamed(words: list[str]) -> list[str]:
    """Options by their names today; one line on stderr for each that was renamed."""
    out = []
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in OLD_FLAGS:
            print(f"rlc: {flag} is called {OLD_FLAGS[flag]} now.", file=sys.stderr)
            word = f"{OLD_FLAGS[flag]}{equals}{value}"
        out.append(word)
    return out


def _leading_words(args: list[str], most: int) -> tuple[list[str], list[str]]:
    """The words before the first option, at most `most`, and the rest."""
    count = 0
    while count < min(most, len(args)) and not args[count].startswith("-"):
        count += 1
    return args[:count], args[count:]


def _imports(options: list[str]) -> list[str]:
    """Files given by --import, needed before the other options can be known."""
    files = [after for word, after in itertools.pairwise(options) if word == "--import"]
    return files + [word.partition("=")[2] for word in options if word.startswith("--import=")]


def start(agent: str, env: str, parsed: Any, command: str) -> int:
    """Check everything once, here, then hand the seeds to worker processes."""
    from rl_contrastive.runs.engine_options import EngineOptions
    from rl_contrastive.runs.run import RunConfig, prepare_all, resolve
    from rl_contrastive.runs.run_config import with_local_folder
    from rl_contrastive.runs.workers import Job

    flags: RunFlags = parsed.run
    require(flags.seeds >= 1, f"--seeds must be >= 1, got {flags.seeds}.")
    check_workers(flags.workers)
    config = resolve(
        RunConfig(
            agent=agent,
            env=env,
            agent_config=to_dict(parsed.agent),
            env_config=to_dict(parsed.env),
            seed=flags.seed,
            budget=budget_of(flags),
            checkpoint_seconds=flags.checkpoint_seconds,
            group=flags.group,
            label=flags.label,
            device=flags.device,
            threads=flags.threads,
            step_seconds=flags.step_seconds,
            tensorboard=flags.tensorboard,
            imports=tuple(str(Path(file).resolve()) for file in flags.imports),
        )
    )
    require_devices(config.agent_config)
    config = with_local_folder(config)
    out = flags.out / flags.group
    configs = [replace(config, seed=flags.seed + i) for i in range(flags.seeds)]
    new = not flags.out.exists()
    folders = prepare_all(configs, out, overwrite=flags.overwrite, command=command)
    jobs = [Job(f, c, fresh=True, trusted=True) for f, c in zip(folders, configs, strict=True)]
    code = work(jobs, EngineOptions(workers=flags.workers), as_json=flags.json)
    if new and flags.out.is_dir() and not any(flags.out.iterdir()):  # every run was refused, and nothing is left of it
        flags.out.rmdir()
    return code


def check_workers(workers: int | None) -> None:
    """RlcError on an impossible count, before any folder is made."""
    require(workers is None or workers >= 1, f"--workers must be >= 1, got {workers}.")


def budget_of(flags: RunFlags) -> Budget:
    """The flags' budget; 1000 episodes where none is given."""
    require(flags.episodes is None or flags.steps is None, "give --episodes or --steps, not both.")
    limits = {field.name: getattr(flags, field.name) for field in fields(Limits)}
    if flags.episodes is None and flags.steps is None:
        limits["episodes"] = 1000
    return Budget(**limits)


def work(jobs: list[Any], options: EngineOptions, *, as_json: bool, done: list[Path] | None = None) -> int:
    """Run jobs on an engine, show progress, print how they ended; the exit code."""
    from rl_contrastive.runs.engines import start_engine
    from rl_contrastive.runs.progress import ProgressLines
    from rl_contrastive.runs.run import read_summary

    with ProgressLines(runs=len(jobs), quiet=as_json) as lines, closing(start_engine(options, lines.report)) as engine:
        outcomes = engine.run(jobs)
    shown = [(folder, read_summary(folder)) for folder in done or []]
    shown += [(outcome.job.folder, outcome.summary) for outcome in outcomes if outcome.bad_input is None]
    return finish(shown, [o.bad_input for o in outcomes if o.bad_input is not None], as_json=as_json)


def finish(shown: list[tuple[Path, Any]], bad: list[str], *, as_json: bool) -> int:
    """Print summaries (one line or one JSON object each) and sentences; 0, 1 or 2."""
    if as_json:
        print(json.dumps([{"folder": str(f), **(s or {"status": "aborted"})} for f, s in shown], indent=2))
    else:
        for folder, summary in shown:
            print(_line(folder, summary))
    for sentence in dict.fromkeys(bad):
        print(f"rlc: {sentence}", file=sys.stderr)
    for folder, summary in shown:
        if summary and summary.get("error"):
            print(f"rlc: {folder}: {summary['error']}", file=sys.stderr)
    if bad:
        return 2
    return 0 if all(s is not None and s.get("status") == "finished" for _, s in shown) else 1


def _line(folder: Path, summary: Any) -> str:
    if summary is None:
        return f"{folder}: not started"
    value, solved = summary.get("final_return"), summary.get("solved_at_episode")
    parts = [summary["status"], f"{summary.get('episodes', 0)} episodes", f"{summary.get('wall_s', 0):.1f} s"]
    parts += [] if value is None else [f"return {value:.3f}"]
    exact = summary.get("exact", {}) if summary.get("players") else {}
    parts += [f"duality gap {exact['gap']:.4f}"] if "gap" in exact else []
    if "certificate" in exact:  # it bounds the gap of another pair, the one that explores
        parts += [f"of sigma's marginals {exact['gap_explore']:.4f} (certificate {exact['certificate']:.4f})"]
    parts += [f"solved at episode {solved}"] if solved is not None else []
    parts += _estimates(summary.get("estimated", {}))
    parts += [f"go on with `rlc resume {folder}`"] if summary["status"] == "aborted" else []
    return f"{folder}: {', '.join(parts)}"


def _estimates(found: dict[str, float]) -> list[str]:
    """What the agent read off the data, in words."""
    words = [f"d {found['dim']:.0f} of the data"] if "dim" in found else []
    if "reward_high" in found:
        words.append(f"rewards {found['reward_low']:g} to {found['reward_high']:g} as seen")
    if "full" in found:
        words.append(f"{'full' if found['full'] else 'given'} whitening")
    return words


@dataclass(frozen=True)
class ResumeCommand:
    """Go on with every unfinished run at or below DIR. Agents with a loop of their own (SB3) start again."""

    dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """A seed's folder, or one that holds many."""
    episodes: int | None = None
    """Raise the cap of each run to this, and let finished ones go on too (for runs with a cap in episodes)."""
    steps: int | None = None
    """The same for runs with a cap in environment steps."""
    workers: int | None = None
    """Runs at a time; default: min(cores, runs)."""
    trust_imports: bool = False
    """Run the Python files that the run folders name (--import of their runs). Read them first where somebody else made
    the folder."""
    json: bool = False
    """Print the summaries as JSON."""


def resume(args: list[str]) -> int:
    """`rlc resume DIR`."""
    from rl_contrastive.runs.engine_options import EngineOptions
    from rl_contrastive.runs.extend import extend, longer
    from rl_contrastive.runs.folder import CONFIG
    from rl_contrastive.runs.run import read_config, read_summary
    from rl_contrastive.runs.run_config import require_trust
    from rl_contrastive.runs.workers import Job

    try:
        parsed = parse(ResumeCommand, args, prog="rlc resume", flags=flags_of(ResumeCommand) - {"--dir"})
    except Done:
        return 0
    check_workers(parsed.workers)
    require(parsed.dir.is_dir(), f"there is no folder {parsed.dir}.")
    folders = sorted(path.parent for path in parsed.dir.rglob(CONFIG))
    require(len(folders) > 0, f"no run folder ({CONFIG}) at or below {parsed.dir}.")
    further = parsed.episodes is not None or parsed.steps is not None
    # A damaged config is bad input, noticed before anything is started or changed.
    trust = parsed.trust_imports
    jobs = [Job(folder, read_config(folder), trusted=True) for folder in folders]
    for job in jobs:
        if (read_summary(job.folder) or {}).get("status") == "finished" and not further:
            continue  # it is left as it is, and imports nothing
        require_trust(job.config, job.folder, trust)
    if further:
        more = {"episodes": parsed.episodes, "steps": parsed.steps, "trust_imports": trust}
        jobs = [Job(folder, longer(folder, **more), trusted=True) for folder in folders]
        for job in jobs:
            extend(job.folder, job.config, "rlc resume " + shlex.join(args))
    return work(jobs, EngineOptions(workers=parsed.workers), as_json=parsed.json)
