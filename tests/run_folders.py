"""Synthetic run folders of the documented layout, whose every number is given."""

from __future__ import annotations

import json
from pathlib import Path


def write_run(
    root: Path,
    agent: str = "ucb",
    seed: int = 0,
    *,
    env: str = "lock",
    env_config: dict | None = None,
    returns: tuple[float, ...] = (0.0, 0.5, 1.0, 1.0),
    every: int = 100,
    solved_at: int | None = 300,
    cap: int = 1000,
    status: str = "finished",
    error: str | None = None,
    optimal: float | None = 1.0,
    exact: bool = False,
    steps: int | None = None,
) -> Path:
    """One run folder of the documented layout, its budget in episodes (`cap`) or in `steps`; solved runs stop there."""
    folder = root / f"{agent}--{env}" / f"seed-{seed}"
    folder.mkdir(parents=True)
    config = {"agent": agent, "env": env, "label": None, "seed": seed, "env_config": env_config or {"horizon": 5}}
    config |= {
        "agent_config": {"batch": 10},
        "episodes": None if steps else cap,
        "steps": steps,
        "solve_at": 0.9,
        "meta": {"versions": {}},
    }
    lines = []
    for i, value in enumerate(returns, start=1):
        line = {"episodes": every * i, "env_steps": 5 * every * i, "return_mean": value, "return_sem": 0.01}
        losses = {"gap": 1.001 - value, "regret": 10.0 * i**0.5, "suboptimality": 1.0 / i}
        lines.append(line | (losses if exact else {}))
    summary = {"agent": agent, "env": env, "label": agent, "seed": seed, "status": status, "error": error}
    summary |= {"episodes": every * len(returns), "env_steps": 5 * every * len(returns), "wall_s": 1.5 + seed}
    summary |= {"solved_at_episode": solved_at, "solved_at_env_steps": solved_at and 5 * solved_at}
    summary |= {"final_return": returns[-1], "optimal_return": optimal, "episode_cap": cap}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    timing = [{"episodes": line["episodes"], "env_steps": line["env_steps"], "wall_s": 0.1} for line in lines]
    (folder / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timing))
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def never(root: Path, agent: str, seed: int, **more) -> Path:
    """A run that used up its 1000 episodes without solving."""
    return write_run(root, agent, seed, returns=(0.1,) * 10, solved_at=None, **more)


def with_columns(folder: Path, columns: dict[str, list]) -> None:
    """Add columns (name -> values, None: not recorded in this line) to a run's metrics.jsonl."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for i, line in enumerate(lines):
        line |= {name: values[i] for name, values in columns.items() if values[i] is not None}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
