"""The engines of `rlc sweep` against each other: equal bytes after kills, and what they cost.

Run (needs `pip install '.[ray]'`):
- `python benchmarks/engines.py same`: 32 small runs by two local processes, and by Ray with two CPUs, where one run's
  process and one Ray worker are killed by kill -9 in the middle. Exit code 1 unless metrics.jsonl and
  checkpoint/state.npz are equal, byte for byte.
- `python benchmarks/engines.py efficiency`: wall seconds of the same runs with 1, 2 and 4 workers, by both engines.
  `--work cpu`: runs that compute; with more workers than cores they can only share the cores. `--work sleep`: runs
  that sleep for most of their time, so that the engine is measured and not the number of cores.
  Efficiency: seconds inside the runs at one local worker / (workers x wall seconds). Ray's start is timed apart.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rl_contrastive.agents.base import BaseAgent
from rl_contrastive.registry import import_file, register
from rl_contrastive.runs.budget import Budget
from rl_contrastive.runs.engine_options import EngineOptions
from rl_contrastive.runs.engines import Engine, start_engine
from rl_contrastive.runs.run import resolve
from rl_contrastive.runs.run_config import RunConfig
from rl_contrastive.runs.sweep import plan_jobs
from rl_contrastive.seeding import generator_state, restore_generator

BATCHES = 20


@dataclass(frozen=True)
class PacedConfig:
    """Uniform actions at a given pace."""

    batch: int = 4
    """B, episodes between two updates (>= 1)."""
    seconds: float = 0.0
    """What a batch sleeps (>= 0)."""
    orders: str = ""
    """Folder in which `kill-run-<seed>` and `kill-parent-<seed>` order a kill -9, once."""


@register("agent", "paced", PacedConfig)
class Paced(BaseAgent):
    """Uniform actions; sleeps, and dies where it is told to."""

    def __init__(self, env: Any, config: PacedConfig, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        self.pace, self.number = config, seed
        self.rng = self.seeds.generator("act")

    def act(self, obs: Any, h: int) -> Any:
        return self.rng.integers(self.env_spec.num_actions, size=len(obs))

    def observe(self, transition: Any) -> None:
        """Nothing is learned."""

    def update(self) -> dict[str, float]:
        self.version += 1
        time.sleep(self.pace.seconds)
        for name, process in (("kill-run", os.getpid()), ("kill-parent", os.getppid())):
            order = Path(self.pace.orders) / f"{name}-{self.number}"
            if self.pace.orders and self.version == BATCHES // 2 and order.exists():
                order.unlink()
                os.kill(process, signal.SIGKILL)
        return {}

    def policy(self, obs: Any, h: int, *, explore: bool = False) -> Any:
        return np.full((len(obs), self.env_spec.num_actions), 1.0 / self.env_spec.num_actions)

    def state_dict(self) -> dict[str, Any]:
        return {"version": self.version, "rng": generator_state(self.rng)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.version = int(state["version"])
        restore_generator(self.rng, state["rng"])


def paced(count: int, seconds: float, orders: str = "") -> list[RunConfig]:
    """So many runs of 20 batches on the lock."""
    config = RunConfig(
        agent="paced",
        env="combination-lock",
        agent_config={"seconds": seconds, "orders": orders},
        budget=Budget(episodes=4 * BATCHES, eval_every=4 * BATCHES // 4, eval_episodes=20),
        checkpoint_seconds=0.0,
        tensorboard=False,
        imports=(str(Path(__file__).resolve()),),
    )
    return [resolve(replace(config, seed=seed)) for seed in range(count)]


def learning(count: int, episodes: int) -> list[RunConfig]:
    """So many runs of Contrastive-UCB on the lock."""
    budget = Budget(episodes=episodes, eval_every=episodes // 10, eval_episodes=50)
    config = RunConfig(
        "contrastive-ucb", "combination-lock", env_config={"horizon": 6}, budget=budget, tensorboard=False
    )
    return [resolve(replace(config, seed=seed)) for seed in range(count)]


def play(engine: Engine, runs: list[RunConfig], out: Path) -> tuple[float, float, float]:
    """(wall seconds, seconds inside the runs, processor seconds of this process)."""
    jobs, _ = plan_jobs(runs, out)
    started, busy = time.perf_counter(), time.process_time()
    outcomes = engine.run(jobs)
    wall, busy = time.perf_counter() - started, time.process_time() - busy
    summaries = [outcome.summary or {"status": "none"} for outcome in outcomes]
    assert {s["status"] for s in summaries} == {"finished"}, summaries
    return wall, sum(s["wall_s"] for s in summaries), busy


def files(out: Path) -> dict[str, bytes]:
    """Records and final states."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.name in ("metrics.jsonl", "state.npz")}


def same(out: Path, count: int) -> int:
    """Both engines on the same runs; 1 where a byte differs or nobody died."""
    orders = out / "orders"
    orders.mkdir()
    runs = paced(count, 0.05, str(orders))
    walls = {"local": play(start_engine(EngineOptions(workers=2)), runs, out / "local")[0]}
    (orders / f"kill-run-{count // 3}").touch()
    (orders / f"kill-parent-{count // 2}").touch()
    with closing(start_engine(EngineOptions(engine="ray", workers=2))) as engine:
        walls["ray"] = play(engine, runs, out / "ray")[0]
    here, there = files(out / "local"), files(out / "ray")
    equal = sum(there.get(name) == data for name, data in here.items())
    killed = 2 - len(list(orders.iterdir()))
    print(f"{count} runs: local {walls['local']:.1f} s, ray {walls['ray']:.1f} s with its start")
    print(f"{killed} processes killed by kill -9")
    print(f"{equal} of {len(here)} files equal (metrics.jsonl and state.npz)")
    return 0 if equal == len(here) == len(there) == 2 * count and killed == 2 else 1


def efficiency(out: Path, count: int, work: str) -> int:
    """Wall seconds by engine and number of workers."""
    cores = len(os.sched_getaffinity(0))
    runs = paced(count, 6.0 / BATCHES) if work == "sleep" else learning(count, 3000)
    print(f"{count} runs that {work}, {cores} cores, load average {os.getloadavg()[0]:.1f} before")
    print(f"| engine | workers | start s | wall s | s in a run | efficiency | driver ms a run |\n|{' --- |' * 7}")
    alone = 0.0
    for workers in (1, 2, 4):
        for name in ("local", "ray"):
            started = time.perf_counter()
            options = (
                EngineOptions(workers=workers) if name == "local" else EngineOptions(engine="ray", workers=workers)
            )
            if name == "ray":
                import ray

                ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
            start = time.perf_counter() - started
            with closing(start_engine(options)) as engine:
                wall, inside, busy = play(engine, runs, out / f"{name}-{workers}")
            if name == "ray":
                ray.shutdown()
            alone = alone or inside
            note = " (oversubscribed)" if workers > cores and work == "cpu" else ""
            share = f"{alone / (workers * wall):.2f}{note}"
            cells = f"{name} | {workers} | {start:.1f} | {wall:.1f} | {inside / count:.2f} | {share}"
            print(f"| {cells} | {1000 * busy / count:.0f} |", flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("same", "efficiency"))
    parser.add_argument("--runs", type=int, default=None, help="default: 32 for same, 8 for efficiency")
    parser.add_argument("--work", choices=("cpu", "sleep"), default="sleep")
    args = parser.parse_args()
    import_file(Path(__file__))
    with tempfile.TemporaryDirectory() as folder:
        if args.what == "same":
            return same(Path(folder), args.runs or 32)
        return efficiency(Path(folder), args.runs or 8, args.work)


if __name__ == "__main__":
    sys.exit(main())
