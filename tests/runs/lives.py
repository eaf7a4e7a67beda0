"""A process that runs a config once to its end, and once with several lives, each ended by kill -9.

Lives are forked, so that the imports are paid once. usage: lives.py CONFIG.json OUT KILLS; prints what happened.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from rl_contrastive.runs.run import build, config_from_json, resolve, resume, run, run_folder

MOST_LIVES = 40


def life(work) -> int:
    """Fork a child that does `work`; its process id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return child


def ended_by(child: int) -> int:
    """0 after a clean end, else the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def leave(work):
    """`work`, then a clean exit."""

    def inside():
        work()
        os._exit(0)

    return inside


def import_optimisers(config) -> None:
    """The first optimiser that torch makes imports its compiler, for seconds: once here instead of in each life."""
    if config.agent_config.get("learner", {}).get("method", "spectral") == "spectral":
        return
    import torch

    weight = torch.zeros(1, requires_grad=True)
    weight.grad = torch.zeros(1)  # no backward pass: its engine does not survive a fork
    torch.optim.AdamW([weight], fused=True).step()


def main() -> None:
    config = resolve(config_from_json(json.loads(Path(sys.argv[1]).read_text()), "config"))
    out, kills = Path(sys.argv[2]), int(sys.argv[3])
    build(config)  # imports what it needs, once for all lives
    import_optimisers(config)
    started = time.perf_counter()
    assert ended_by(life(leave(lambda: run(config, out / "whole")))) == 0
    length = time.perf_counter() - started
    folder = run_folder(out / "killed", config)
    rng, killed, lives, progress = random.Random(config.seed), 0, 0, []
    while lives < MOST_LIVES:
        lives += 1
        fresh = not (folder / "config.json").exists()
        child = life(leave((lambda: run(config, out / "killed")) if fresh else (lambda: resume(folder))))
        if killed < kills:
            # Later lives have less to do: they are killed earlier, until enough kills have hit.
            time.sleep(length * rng.uniform(0.1, 0.7) / (1 + killed / 2))
            os.kill(child, signal.SIGKILL)
        code = ended_by(child)
        metrics = folder / "metrics.jsonl"
        progress.append(metrics.stat().st_size if metrics.exists() else 0)
        if code == 0 and killed >= 1:
            break
        if code == 0:  # it was too quick to be killed: again, with less patience
            shutil.rmtree(out / "killed")
            length *= 0.6
        killed += code == -signal.SIGKILL
        if code not in (0, -signal.SIGKILL):
            raise SystemExit(f"a life ended with {code}")
    print(json.dumps({"killed": killed, "lives": lives, "progress": progress}))


if __name__ == "__main__":
    main()
