"""From a RunConfig to a finished run folder: build env and agent by name, train, and write down how it ended.

Whatever happens inside a run (an environment that raises, NaN rewards, a full disk) ends as status "failed" with one
sentence in summary.json, so that it is counted; bad input (unknown names, impossible values) is an RlcError before the
folder exists.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rl_contrastive import registry
from rl_contrastive.config import from_dict, require, to_dict
from rl_contrastive.errors import RlcError
from rl_contrastive.experiment.evaluate import MOST_ROWS
from rl_contrastive.experiment.loop import Budget, Progress, TrainingResult, check_fit, train
from rl_contrastive.experiment.record import CONFIG, SUMMARY, RunFolder, RunSink, peak_memory_mb, read_json, write_json
from rl_contrastive.spec import Agent, Env, State

Summary = dict[str, Any]
PACKAGES = ("rl-contrastive", "numpy", "scipy", "gymnasium", "torch", "stable-baselines3")


@dataclass(frozen=True)
class RunConfig:
    """One run, as JSON values: what config.json holds and what a worker process is handed."""

    agent: str
    """Registered agent."""
    env: str
    """Registered environment, or a prefixed name such as gym:CartPole-v1."""
    agent_config: dict[str, Any] = field(default_factory=dict)
    """Fields of the agent's config; those left out keep their defaults."""
    env_config: dict[str, Any] = field(default_factory=dict)
    """Fields of the environment's config."""
    seed: int = 0
    """Seed of the run (>= 0)."""
    budget: Budget = field(default_factory=lambda: Budget(episodes=1000))
    """How long, and when measured."""
    checkpoint_seconds: float = 30.0
    """Wall seconds between checkpoints (>= 0; 0 is one after each batch)."""
    experiment: str = "default"
    """Name of the group of runs: the folder above."""
    label: str | None = None
    """Name in folders, tables and plots; the agent's own by default."""
    env_label: str | None = None
    """Name of the task in folders, tables and plots; the environment's own by default."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:1 ..., for agents with a field `device`."""
    threads: int = 1
    """BLAS and torch threads of the worker process (>= 1); another number may change the last bits of results."""
    tensorboard: bool = True
    """Write TensorBoard scalars."""
    imports: tuple[str, ...] = ()
    """User files to import first."""

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"seed must be >= 0, got {self.seed}.")
        require(self.threads >= 1, f"threads must be >= 1, got {self.threads}.")
        require(self.checkpoint_seconds >= 0, f"checkpoint_seconds must be >= 0, got {self.checkpoint_seconds}.")
        for name in ("experiment", "label", "env_label"):
            value = getattr(self, name)
            require(value is None or bool(value.strip(". ")), f"{name} must not be empty or only dots, got {value!r}.")

    @property
    def shown_agent(self) -> str:
        return self.label or self.agent

    @property
    def shown_env(self) -> str:
        return self.env_label or self.env


def resolve(config: RunConfig) -> RunConfig:
    """The same run with every field of both configs written out, all names and values checked."""
    for path in config.imports:
        registry.import_file(Path(path))
    agent, _ = registry.get("agent", config.agent)
    env, fixed = registry.get("env", config.env)
    agent_config = with_device(agent.config, config.agent_config, config.device)
    return replace(
        config,
        agent_config=to_dict(from_dict(agent.config, agent_config, "agent.")),
        env_config=to_dict(from_dict(env.config, {**config.env_config, **fixed}, "env.")),
    )


def with_device(config: type, values: dict[str, Any], device: str) -> dict[str, Any]:
    """Set the field `device`, here and in nested configs, where it is not given; "auto" leaves the defaults."""
    if device == "auto":
        return values
    full = to_dict(from_dict(config, values, "agent."))

    def put(given: dict[str, Any], whole: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        out, found = dict(given), False
        for name, value in whole.items():
            if isinstance(value, dict):
                out[name], inside = put(given.get(name, {}), value)
                found |= inside
            elif name == "device":
                found = True
                out.setdefault(name, device)
        return out, found

    out, found = put(values, full)
    require(found, f"--device {device}: this agent has no network and no field 'device'.")
    return out


def run_folder(out: Path, config: RunConfig) -> Path:
    """out/<label or agent>--<env>/seed-<n>; what cannot stand in a file name becomes "_"."""
    name = f"{config.shown_agent}--{config.shown_env}"
    return out / "".join("_" if c in '/\\: *?"<>|\n' else c for c in name) / f"seed-{config.seed}"


def build(config: RunConfig) -> tuple[Agent, Env, Env]:
    """Agent, its environment of B rows, and one for evaluation; RlcError on anything impossible."""
    agent_entry, _ = registry.get("agent", config.agent)
    env_entry, _ = registry.get("env", config.env)
    agent_config: Any = from_dict(agent_entry.config, config.agent_config, "agent.")
    env_config: Any = from_dict(env_entry.config, config.env_config, "env.")
    env: Env = env_entry.factory(env_config, agent_config.batch)
    agent: Agent = agent_entry.factory(env, agent_config, seed=config.seed)
    check_fit(agent, env, config.budget)
    return agent, env, env_entry.factory(env_config, min(config.budget.eval_episodes, MOST_ROWS))


def run(
    config: RunConfig,
    out: Path,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    overwrite: bool = False,
    command: str = "",
) -> Summary:
    """Start a run in a new folder below `out` and return its summary (also written there)."""
    config = resolve(config)
    folder = RunFolder(run_folder(out, config))
    check_new(folder.path, overwrite)
    parts = build(config)
    folder.create(config_json(config, command))
    try:
        return _train(config, folder, parts, None, on_progress, should_stop)
    finally:
        folder.unlock()


def resume(
    path: Path,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Go on with the run in `path` from its last whole checkpoint, or from its seed if it has none.

    A finished run is left as it is. The result has the bytes of a run that was never interrupted.
    """
    config = read_config(path)
    summary = read_summary(path)
    if summary is not None and summary.get("status") == "finished":
        return summary
    config = resolve(config)
    folder = RunFolder(path)
    folder.lock()
    try:
        parts = build(config)
        state = folder.restore(_identity(config))
        return _train(config, folder, parts, state, on_progress, should_stop)
    finally:
        folder.unlock()


def prepare(config: RunConfig, out: Path, *, overwrite: bool = False, command: str = "") -> Path:
    """Make the folder of a resolved config, for `resume` to start it: a kill before its turn then loses no run."""
    path = run_folder(out, config)
    check_new(path, overwrite)
    folder = RunFolder(path)
    folder.create(config_json(config, command))
    folder.unlock()
    return path


def check_new(path: Path, overwrite: bool) -> None:
    """RlcError if `path` holds a run that would be lost."""
    if (path / CONFIG).exists() and not overwrite:
        summary = read_summary(path)
        done = summary is not None and summary.get("status") == "finished"
        hint = "choose another --label, --experiment or --out" if done else f"go on with `rlc resume {path}`"
        raise RlcError(f"{path} holds a{' finished' if done else 'n unfinished'} run: {hint}, or use --overwrite.")


def read_config(path: Path) -> RunConfig:
    """The RunConfig of a run folder."""
    require((path / CONFIG).is_file(), f"{path} is no run folder: it has no {CONFIG}.")
    return config_from_json(read_json(path / CONFIG), str(path / CONFIG))


def config_from_json(values: dict[str, Any], where: str) -> RunConfig:
    """Inverse of `config_json`; RlcError on unknown or impossible fields."""
    values = {name: value for name, value in values.items() if name != "meta"}
    budget = {name: values.pop(name) for name in to_dict(Budget(episodes=1)) if name in values}
    for name in ("agent", "env"):
        require(isinstance(values.get(name), str), f"{where}: '{name}' must be the name of an {name}.")
    return from_dict(RunConfig, {**values, "budget": budget}, f"{where}: ")


def read_summary(path: Path) -> Summary | None:
    """The summary of a run folder, or None if it has none yet."""
    return read_json(path / SUMMARY) if (path / SUMMARY).is_file() else None


def config_json(config: RunConfig, command: str) -> dict[str, Any]:
    """RunConfig with the budget's fields beside the others, and where it came from under "meta"."""
    values = to_dict(config)
    budget = values.pop("budget")
    return {**values, **budget, "meta": {"command": command, "versions": _versions(), "git": _git_commit()}}


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _git_commit() -> str | None:
    """Commit of the library's checkout ("-dirty" if changed), or None outside a repository."""
    here = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def _identity(config: RunConfig) -> dict[str, Any]:
    return {"agent": config.agent, "env": config.env, "seed": config.seed}


def _train(
    config: RunConfig,
    folder: RunFolder,
    parts: tuple[Agent, Env, Env],
    state: State | None,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> Summary:
    """Train, and write summary.json whatever happens."""
    agent, env, eval_env = parts
    seen = Progress.from_state(state["progress"]) if state is not None else Progress()

    def note(progress: Progress) -> None:
        nonlocal seen
        seen = progress
        on_progress(progress)

    sink: RunSink | None = None
    status, error = "failed", None
    started = time.monotonic()
    try:
        sink = RunSink(
            folder,
            identity=_identity(config),
            checkpoint_seconds=config.checkpoint_seconds,
            tensorboard=config.tensorboard,
            on_progress=note,
            should_stop=should_stop,
        )
        result = _guarded(agent, env, eval_env, config, sink, state)
        seen, status = result.progress, "aborted" if result.stopped else "finished"
    except KeyboardInterrupt:
        status = "aborted"
    except RlcError as problem:
        error = str(problem)
    finally:
        if sink is not None:
            sink.close()
        env.close()
        eval_env.close()
    wall = sink.wall if sink is not None else time.monotonic() - started
    summary = _summary(config, env, seen, status, error, wall)
    try:
        write_json(folder.path / SUMMARY, summary)
    except RlcError as problem:  # a full disk: the caller still learns how the run ended
        summary["error"] = summary["error"] or str(problem)
        summary["status"] = "failed"
    return summary


def _guarded(
    agent: Agent, env: Env, eval_env: Env, config: RunConfig, sink: RunSink, state: State | None
) -> TrainingResult:
    """`train`, with whatever it raises turned into one sentence; the traceback goes to stderr if RLC_DEBUG is set."""
    try:
        return train(agent, env, budget=config.budget, eval_env=eval_env, seed=config.seed, sink=sink, state=state)
    except RlcError:
        raise
    except Exception as error:
        if os.environ.get("RLC_DEBUG"):
            traceback.print_exc(file=sys.stderr)
        text = " ".join(str(error).split()).rstrip(".")
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        raise RlcError(f"the run raised {type(error).__name__} at {place}: {text}.") from error


def _summary(config: RunConfig, env: Env, progress: Progress, status: str, error: str | None, wall: float) -> Summary:
    solved = progress.solved_at
    return {
        "agent": config.agent,
        "env": config.shown_env,
        "label": config.shown_agent,
        "seed": config.seed,
        "status": status,
        "error": error,
        "episodes": progress.episodes,
        "env_steps": progress.env_steps,
        "wall_s": round(wall, 3),
        "solved_at_episode": solved[0] if solved else None,
        "solved_at_env_steps": solved[1] if solved else None,
        "final_return": progress.last_return,
        "optimal_return": env.env_spec.optimal_return,
        "peak_memory_mb": peak_memory_mb(),
        "exact": dict(progress.exact),
        "episode_cap": config.budget.episodes,
        "step_cap": config.budget.steps,
    }
