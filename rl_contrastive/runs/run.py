"""From a RunConfig to a finished run folder: build env and agent by name, train, and record how the run ended.

Any failure inside a run (an environment that raises, NaN rewards, a full disk) ends as status "failed" with one
sentence in summary.json, so that the run is counted. Bad input (unknown names, impossible values) raises an RlcError
before the folder exists.
"""

from __future__ import annotations

import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rl_contrastive import registry
from rl_contrastive.config import from_dict, require, require_rows
from rl_contrastive.device import enough_memory, require_devices
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.budget import FEWEST
from rl_contrastive.runs.evaluate import MOST_ROWS, exact_model
from rl_contrastive.runs.folder import CONFIG, SUMMARY, RunFolder, peak_memory_mb, read_json, write_json
from rl_contrastive.runs.loop import Budget, Progress, TrainingResult, check_fit, train
from rl_contrastive.runs.origin import origin
from rl_contrastive.runs.rollout import close, step_limit
from rl_contrastive.runs.run_config import (
    RunConfig,
    config_from_json,
    config_json,
    identity,
    read_config,
    require_identity,
    require_trust,
    resolve,
    run_folder,
    with_device,
)
from rl_contrastive.runs.seal import broken_seal, sealed
from rl_contrastive.runs.sink import RunSink
from rl_contrastive.spec import Agent, Env, Persistent, State, WithFeatures, WithHistograms

__all__ = [
    "Budget",
    "RunConfig",
    "Summary",
    "build",
    "check_new",
    "config_from_json",
    "config_json",
    "prepare",
    "prepare_all",
    "read_config",
    "read_summary",
    "resolve",
    "resume",
    "run",
    "run_folder",
    "with_device",
]

Summary = dict[str, Any]


def build(config: RunConfig) -> tuple[Agent, Env, Env]:
    """Agent, its environment of B rows, and one for evaluation; RlcError on anything impossible."""
    agent_entry, _ = registry.get("agent", config.agent)
    env_entry, _ = registry.get("env", config.env)
    agent_config: Any = from_dict(agent_entry.config, config.agent_config, "agent.")
    env_config: Any = from_dict(env_entry.config, config.env_config, "env.")
    require_rows("agent.batch", agent_config.batch)
    with enough_memory(config.env):
        env: Env = env_entry.factory(env_config, agent_config.batch)
    with enough_memory(config.agent):
        agent: Agent = agent_entry.factory(env, agent_config, seed=config.seed)
    check_fit(agent, env, config.budget)
    group = env.env_spec.group
    rows = -(-_evaluation_rows(config.budget, env_config) // group) * group  # rounded up: all rows are played anyway
    eval_env: Env = env_entry.factory(for_evaluation(env_config), rows)
    return agent, env, eval_env


def _evaluation_rows(budget: Budget, env_config: Any) -> int:
    """Rows of the evaluation environment: one for each episode of an evaluation, or FEWEST where their number varies,
    because all rows are played even where fewer would do. Environments whose rows are slow to make allow fewer."""
    return min(budget.eval_episodes or FEWEST, getattr(env_config, "most_evaluation_rows", MOST_ROWS))


def for_evaluation(env_config: Any) -> Any:
    """The config under which a policy is measured: the training one, unless it says otherwise itself.

    Atari trains on clipped rewards with lives as ends, and is measured by the score of whole games.
    """
    change: Callable[[], Any] | None = getattr(env_config, "for_evaluation", None)
    return env_config if change is None else change()


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
    require_devices(config.agent_config)
    parts = build(config)
    folder.create(config_json(config, command))
    try:
        folder.drop_replaced()
        return _train(config, folder, parts, None, on_progress, should_stop)
    finally:
        folder.unlock()


def resume(
    path: Path,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    trust_imports: bool = False,
) -> Summary:
    """Continue the run in `path` from its last good checkpoint, or from its seed if it has none.

    A finished run is left as it is. The result has the bytes of a run that was never interrupted. `trust_imports`: run
    the Python files that config.json names; RlcError if it names some that this process has not imported.
    """
    config = read_config(path)
    summary = read_summary(path)
    if summary is not None and summary.get("status") == "finished":
        return summary
    require_trust(config, path, trust_imports)
    folder = RunFolder(path)
    folder.lock()
    try:
        again = read_config(path)  # another process may have had the lock until now
        require(again == config, f"{path} was changed by another process; start again.")
        config = resolve(config)
        found = folder.restore(
            lambda state: require_identity(path, state.get("run"), config),
            lambda state: _restored(config, folder, state),
        )
        if found is None:  # a run from its seed; one that goes on may do so where its device is not
            require_devices(config.agent_config)
        parts, progress = (build(config), None) if found is None else found
        folder.drop_replaced()  # only now: a run that cannot be built replaces none
        return _train(config, folder, parts, progress, on_progress, should_stop)
    finally:
        folder.unlock()


def _restored(config: RunConfig, folder: RunFolder, state: State) -> tuple[tuple[Agent, Env, Env], Progress]:
    """A new agent with its environments, as it was at a checkpoint; RlcError whatever is wrong with that."""
    parts = build(config)
    try:
        _keep(parts[0], folder)
        progress = Progress.from_state(state["progress"])
        parts[0].load_state_dict(state["agent"])
    except Exception as error:
        close(*parts[1:])
        raise RlcError(f"the checkpoint in {folder.path} cannot be loaded: {one_line(error)}") from error
    return parts, progress


def _keep(agent: Agent, folder: RunFolder) -> None:
    """Give agents that store large data in a folder of the run their folder."""
    if isinstance(agent, Persistent):
        agent.persist_in(folder.replay)


def prepare(config: RunConfig, out: Path, *, overwrite: bool = False, command: str = "") -> Path:
    """`prepare_all` of one run."""
    return prepare_all([config], out, overwrite=overwrite, command=command)[0]


def prepare_all(configs: Sequence[RunConfig], out: Path, *, overwrite: bool = False, command: str = "") -> list[Path]:
    """Make the folders of resolved configs, which `resume` starts later, so that a kill before that loses no run.

    RlcError, and nothing is changed, where one of them cannot be made. The files of runs that are replaced are kept
    until `resume` has built the new agent and environment (`RunFolder.discard` puts them back).
    """
    folders = [RunFolder(run_folder(out, config)) for config in configs]
    for folder in folders:
        check_new(folder.path, overwrite)
    made = origin() if configs else None  # once for all: it asks git
    done: list[RunFolder] = []
    try:
        for folder, config in zip(folders, configs, strict=True):
            folder.create(config_json(config, command, made))
            folder.unlock()
            done.append(folder)
    except RlcError:
        for folder in done:
            folder.discard()
        raise
    return [folder.path for folder in folders]


def check_new(path: Path, overwrite: bool) -> None:
    """RlcError if `path` holds a run that would be lost."""
    if (path / CONFIG).exists() and not overwrite:
        summary = read_summary(path)
        done = summary is not None and summary.get("status") == "finished"
        hint = "choose another --label, --group or --out" if done else f"go on with `rlc resume {path}`"
        raise RlcError(f"{path} holds a{' finished' if done else 'n unfinished'} run: {hint}, or use --overwrite.")


def read_summary(path: Path) -> Summary | None:
    """The summary of a run folder, or None if it has none yet.

    RlcError where it says finished but it, or what it vouches for, was changed; unfinished runs have their checkpoints.
    """
    if not (path / SUMMARY).is_file():
        return None
    summary = read_json(path / SUMMARY)
    broken = broken_seal(path, summary) if summary.get("status") == "finished" else None
    require(broken is None, f"{path}: {broken}")
    return summary


def _train(
    config: RunConfig,
    folder: RunFolder,
    parts: tuple[Agent, Env, Env],
    progress: Progress | None,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> Summary:
    """Train, and write summary.json in any case. `progress`: for a resumed run, whose agent is loaded."""
    agent, env, eval_env = parts
    seen = Progress() if progress is None else progress

    def note(progress: Progress) -> None:
        nonlocal seen
        seen = progress
        on_progress(progress)

    sink: RunSink | None = None
    status, error = "failed", None
    started = time.monotonic()
    try:
        if progress is None:
            _keep(agent, folder)
        sink = RunSink(
            folder,
            identity=identity(config),
            checkpoint_seconds=config.checkpoint_seconds,
            tensorboard=config.tensorboard,
            on_progress=note,
            should_stop=should_stop,
            histograms=agent.histograms if isinstance(agent, WithHistograms) else None,
            features=_feature_numbers(agent, env, config.budget.exact) if isinstance(agent, WithFeatures) else None,
            clock=config.budget.clock,
        )
        result = _guarded(agent, env, eval_env, config, sink, progress)
        seen, status = result.progress, "aborted" if result.stopped else "finished"
    except KeyboardInterrupt:
        status = "aborted"
    except RlcError as problem:
        error = str(problem)
    finally:
        if sink is not None:
            sink.close()
        close(env, eval_env)
    wall = sink.wall if sink is not None else time.monotonic() - started
    summary = _summary(config, env, seen, status, error, wall)
    try:
        folder.require_own()
        summary = sealed(folder.path, summary)
        write_json(folder.path / SUMMARY, summary)
    except RlcError as problem:  # a full disk, a deleted folder: the caller still learns how the run ended
        summary["error"] = summary["error"] or str(problem)
        summary["status"] = "failed"
    return summary


def _feature_numbers(agent: WithFeatures, env: Env, exact: str) -> Callable[[], dict[str, float]]:
    """What TensorBoard shows of the agent's features; {} while it has none."""
    from rl_contrastive.features.embedded import board_scalars

    def numbers() -> dict[str, float]:
        found = agent.stored_features()
        if found is None:
            return {}
        return board_scalars(found, exact_model(env, exact) if found.states is not None else None)

    return numbers


def _guarded(
    agent: Agent, env: Env, eval_env: Env, config: RunConfig, sink: RunSink, progress: Progress | None
) -> TrainingResult:
    """`train`, with any exception turned into one sentence; the traceback goes to stderr if RLC_DEBUG is set."""
    try:
        with step_limit((env, eval_env), config.step_seconds):
            return train(
                agent, env, budget=config.budget, eval_env=eval_env, seed=config.seed, sink=sink, progress=progress
            )
    except RlcError:
        raise
    except Exception as error:
        if os.environ.get("RLC_DEBUG"):
            traceback.print_exc(file=sys.stderr)
        raise RlcError(f"the run raised {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """`ZeroDivisionError at lock.py:7 (step): ...`; an RlcError is its own sentence."""
    if isinstance(error, RlcError):
        return str(error)
    text = " ".join(str(error).split()).rstrip(".")
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(last.filename).name}:{last.lineno} ({last.name})"
    return f"{type(error).__name__} at {place}{': ' if text else ''}{text}."


def _share(progress: Progress) -> float | None:
    """Share of evaluations in all environment steps (training and evaluations)."""
    both = progress.env_steps + progress.eval_steps
    return round(progress.eval_steps / both, 6) if both else None


ESTIMATED = ("dim", "full", "reward_low", "reward_high", "misfit")
"""Scalars of agents that were estimated from the data because an option was not given."""


def _summary(config: RunConfig, env: Env, progress: Progress, status: str, error: str | None, wall: float) -> Summary:
    solved = progress.solved_at
    return {
        "agent": config.agent,
        "env": config.shown_env,
        "players": None if env.env_spec.players is None else list(env.env_spec.players),
        "label": config.shown_agent,
        "seed": config.seed,
        "status": status,
        "error": error,
        "episodes": progress.episodes,
        "env_steps": progress.env_steps,
        "eval_steps": progress.eval_steps,
        "evaluation_share": _share(progress),
        "wall_s": round(wall, 3),
        "solved_at_episode": solved[0] if solved else None,
        "solved_at_env_steps": solved[1] if solved else None,
        "final_return": progress.last_return,
        "optimal_return": env.env_spec.optimal_return,
        "peak_memory_mb": peak_memory_mb(),
        "exact": {name: value for name, value in progress.exact.items() if math.isfinite(value)},
        "estimated": {
            name: progress.scalars[name] for name in ESTIMATED if math.isfinite(progress.scalars.get(name, math.nan))
        },
        "episode_cap": config.budget.episodes,
        "step_cap": config.budget.steps,
    }
