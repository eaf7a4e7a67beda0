"""Promise P8: a run folder alone says what was run, how, how long and how it ended; and light runs stay light."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rl_contrastive import registry
from rl_contrastive.cli import main

HEAVY = ("torch", "stable_baselines3", "matplotlib", "plotly", "pandas", "tensorflow")


@pytest.fixture
def folder(tmp_path, tiny) -> Path:
    words = ["run", "tiny", "low-rank", "--import", tiny, "--env.num-states", "6", "--episodes", "16", "--seed", "9"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    return tmp_path / "default" / "tiny--low-rank" / "seed-9"


def test_p8_the_record_answers_every_question(folder):
    config, summary = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "summary"))
    assert config["meta"]["command"].startswith("rlc run tiny low-rank --import")
    assert config["agent_config"].keys() == {"batch", "step_size", "epsilon"}
    assert config["env_config"]["num_states"] == 6
    assert config["env_config"]["horizon"] == 5
    assert (config["seed"], config["threads"], config["episodes"]) == (9, 1, 16)
    assert {"python", "numpy", "scipy", "gymnasium", "torch", "rl-contrastive"} <= config["meta"]["versions"].keys()
    assert config["meta"]["processor"]
    git = config["meta"]["git"]
    assert git is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", git)
    assert summary["status"] == "finished"
    assert summary["wall_s"] > 0
    assert 20 < summary["peak_memory_mb"] < 4000
    assert summary["seed"] == 9


def test_metrics_hold_no_wall_times(folder):
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        assert not {key for key in json.loads(line) if "wall" in key or "time" in key or "second" in key}


def test_the_comparison_is_made_from_the_folder_alone(folder, tmp_path):
    for name in ("checkpoint", "tensorboard"):
        for path in (folder / name).iterdir():
            path.unlink()
    assert main(["report", str(tmp_path / "default"), "--out", str(tmp_path / "page")]) == 0
    text = (tmp_path / "page" / "compare.json").read_text()
    assert "tiny" in text
    assert "bootstrap" in text


@pytest.mark.parametrize(
    "agent",
    [
        e.name
        for e in registry.entries("agent")
        if e.name in ("uniform", "ucbvi", "lsvi-ucb", "contrastive-frontier", "contrastive-ucb")
    ],
)
def test_theory_agents_import_nothing_heavy(agent, tmp_path):
    """With TensorBoard on, as by default."""
    code = f"""
import sys
from pathlib import Path
from rl_contrastive.runs.loop import Budget
from rl_contrastive.runs.run import RunConfig, run
small = {{"num_states": 6, "num_actions": 3, "horizon": 3, "rank": 2}}
summary = run(RunConfig({agent!r}, "low-rank", env_config=small, budget=Budget(episodes=128)), Path({str(tmp_path)!r}))
assert summary["status"] == "finished", summary
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "[]"
