"""Every tabular agent on every published toy-text table of gymnasium: to its end, with a summary and a comparison."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from rl_contrastive.analysis.compare import compare
from rl_contrastive.runs.loop import Budget
from rl_contrastive.runs.run import RunConfig, run

TABLES = {"FrozenLake-v1": 40, "FrozenLake8x8-v1": 8, "CliffWalking-v1": 8, "Taxi-v4": 4, "Blackjack-v1": 4}
"""Horizons. Of FrozenLake's 40 steps no episode reaches the last ones."""
STEP_BY_STEP = {"warm_start": 10, "pool": False}
"""A table of its own for each step, also for those that were never reached."""
FEW = {"method": "spectral+nce", "objective": "mle", "steps": 2, "exact_entries": 0, "batch_size": 8, "negatives": 8}
AGENTS = {
    "contrastive-ucb": STEP_BY_STEP,
    "contrastive-ucb, pooled": {"warm_start": 10},
    "contrastive-lsvi": STEP_BY_STEP,
    "rep-ucb": {"warm_start": 10, "learner": FEW},
    "contrastive-frontier": {},
    "pca-frontier": {},
    "ucbvi": {},
    "lsvi-ucb": {},
    "epsilon-greedy": {},
    "uniform": {},
}
NO_MODEL = {("lsvi-ucb", "Taxi-v4"), ("lsvi-ucb", "Blackjack-v1")}
"""Gymnasium does not publish these tables in full (`gym_table.py`), and the agent reads the true model."""
BUDGET = Budget(episodes=20, eval_every=10, eval_episodes=5)
RUNS = [(label, table) for label in AGENTS for table in TABLES if (label, table) not in NO_MODEL]


def played(out: Path, label: str, table: str) -> dict[str, Any]:
    """The summary of a small run."""
    fields, world = {"batch": 10, **AGENTS[label]}, {"horizon": TABLES[table]}
    agent = label.split(",")[0]
    return run(RunConfig(agent, f"gym:{table}", fields, world, budget=BUDGET, label=label, tensorboard=False), out)


@pytest.mark.parametrize(("label", "table"), RUNS)
def test_every_agent_runs_to_its_end(label, table, tmp_path):
    summary = played(tmp_path, label, table)
    assert (summary["status"], summary["error"], summary["episodes"]) == ("finished", None, 20)
    (metrics,) = tmp_path.rglob("metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["episodes"] for line in lines] == [10, 20]
    for line in (*lines, summary["exact"]):
        assert all(value is not None and math.isfinite(value) for value in (line or {}).values()), line


def test_a_comparison_lists_them(tmp_path):
    for label in ("ucbvi", "contrastive-ucb"):
        played(tmp_path, label, "FrozenLake-v1")
    (task,) = compare([tmp_path], tmp_path / "out", reps=10)["tasks"]
    assert {(group["agent"], group["n"]) for group in task["groups"]} == {("ucbvi", 1), ("contrastive-ucb", 1)}
