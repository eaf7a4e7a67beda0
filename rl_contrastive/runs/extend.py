"""Raises the cap of existing runs: `rlc resume DIR --steps N` continues even a finished one from its last checkpoint.

The evaluations keep their interval. If the interval divides the old cap, the longer run has the bytes of a run that
had the larger cap from the start. If not, the evaluation at the old end stays as an additional line, and later
evaluations use other episodes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rl_contrastive.config import require
from rl_contrastive.runs.budget import Budget
from rl_contrastive.runs.checkpoint import has_state
from rl_contrastive.runs.folder import CHECKPOINT, CONFIG, SUMMARY, RunFolder, read_json, write_json
from rl_contrastive.runs.rollout import close
from rl_contrastive.runs.run import build, read_summary
from rl_contrastive.runs.run_config import RunConfig, config_json, read_config, require_trust, resolve
from rl_contrastive.spec import OwnLoop


def longer(
    folder: Path, *, episodes: int | None = None, steps: int | None = None, trust_imports: bool = False
) -> RunConfig:
    """The config of the run in `folder` with a cap of `episodes` or `steps`; nothing is written.

    A run that ended because it was solved keeps its own cap. RlcError where a run cannot continue: a cap of the other
    kind, or a smaller one; no checkpoint; an agent that trains in a loop of its own.
    """
    require((episodes is None) != (steps is None), "give one of --episodes and --steps.")
    kind, cap = ("episodes", episodes) if steps is None else ("steps", steps)
    config = read_config(folder)
    require_trust(config, folder, trust_imports)
    config = resolve(config)
    old = getattr(config.budget, kind)
    require(old is not None, f"{folder} has no cap in {kind}: give --{'steps' if kind == 'episodes' else 'episodes'}.")
    require(cap >= old, f"{folder} has a cap of {old} {kind} already: --{kind} can only raise it, got {cap}.")
    summary = read_summary(folder) or {}
    done = summary.get("status") == "finished"
    solved = done and config.budget.stop_when_solved and summary.get("solved_at_episode") is not None
    if solved or cap == old:
        return config
    config = replace(config, budget=_raised(config, kind, cap))
    agent, *envs = build(config)
    close(*envs)
    require(
        not isinstance(agent, OwnLoop),
        f"{folder}: {config.agent} trains in a loop of its own and cannot go on; run it anew.",
    )
    require(not done or has_state(folder / CHECKPOINT), f"{folder} has no checkpoint that it could go on from.")
    return config


def _raised(config: RunConfig, kind: str, cap: int | None) -> Budget:
    """The budget with another cap and evaluations as before, also where their interval was a share of the cap."""
    budget = config.budget
    clock = "eval_every" if budget.evaluation_clock == "episodes" else "eval_every_steps"
    interval = budget.interval(int(config.agent_config["batch"]))
    changes: dict[str, Any] = {clock: interval, kind: cap}
    return replace(budget, **changes)


def extend(folder: Path, config: RunConfig, command: str) -> None:
    """Give the run in `folder` the config of `longer`; `rlc resume` continues with it. The old values stay under
    "meta" as "extended".

    A kill in between leaves a run that only has to be resumed, or one that still has its old cap.
    """
    if config.budget == read_config(folder).budget:
        return
    lock = RunFolder(folder)
    lock.lock()
    try:
        before = read_json(folder / CONFIG)
        values = config_json(config, command)
        del values["meta"]["run_id"]  # it stays the run that it was
        meta = dict(before.get("meta", {}))
        caps = {name: before.get(name) for name in ("episodes", "steps", "eval_every", "eval_every_steps")}
        values["meta"] = {**meta, "extended": [*meta.get("extended", []), {"before": caps, **values["meta"]}]}
        (folder / SUMMARY).unlink(missing_ok=True)  # first: a finished run with a larger cap would be left alone
        write_json(folder / CONFIG, values)
    finally:
        lock.unlock()
