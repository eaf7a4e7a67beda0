"""The deep agent learns a little on each of its environments, started by one command line; slow: minutes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rl_contrastive.cli import main

LINES = [
    ("gym:MountainCar-v0", "numpy", []),
    ("gym:CartPole-v1", "numpy", []),
    ("swingup", "numpy", []),
    ("minigrid:MiniGrid-DoorKey-8x8-v0", "minigrid", []),
    ("minigrid:MiniGrid-KeyCorridorS3R2-v0", "minigrid", []),
    ("minigrid:MiniGrid-MultiRoom-N4-S5-v1", "minigrid", []),
    ("minatar:Breakout", "minatar", []),
    ("minatar:Asterix", "minatar", []),
    ("minatar:Freeway", "minatar", ["--env.horizon", "200"]),
    ("minatar:SpaceInvaders", "minatar", []),
]
OFFICIAL = {
    "n-step": "10",
    "alpha": ".5",
    "learner.adam-eps": "1.5e-4",
    "learner.tau": "1",
    "learner.lr": "1e-4",
    "learner.augment.shift": "4",
    "learner.augment.intensity": ".05",
    "learner.value.atoms": "51",
    "learner.value.hidden": "256",
    "learner.value.noisy": ".5",
    "learner.self-prediction.weight": "5",
}


def finished(words: list[str], steps: int, tmp_path, capsys) -> None:
    """The run ends well, after gradient steps with finite losses, and every step was counted as a visit."""
    assert main(["run", "contrastive-ucb-deep", *words, "--steps", str(steps), "--out", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["status"] == "finished"
    assert row["env_steps"] >= steps
    (file,) = tmp_path.rglob("metrics.jsonl")
    last = json.loads(file.read_text().splitlines()[-1])
    assert last["agent/visits"] == row["env_steps"]
    assert last["agent/updates"] > 0.15 * steps
    assert all(np.isfinite(last[f"agent/{name}"]) for name in ("loss_q", "loss_g", "loss_contrast", "gradient_norm"))


@pytest.mark.slow
@pytest.mark.parametrize(("env", "library", "more"), LINES, ids=[line[0] for line in LINES])
def test_it_runs(tmp_path, capsys, env, library, more):
    pytest.importorskip(library)
    words = [env, "--agent.warm-start", "100", "--eval-episodes", "2", "--eval-every", "1000", *more]
    finished(words, 300, tmp_path, capsys)


@pytest.mark.slow
def test_atari_with_the_official_options(tmp_path, capsys):
    """2000 steps, a gradient step on a batch of 8 each fourth one; episodes are cut at 100 steps."""
    pytest.importorskip("ale_py")
    words = ["atari:Breakout", "--env.horizon", "100", "--eval-episodes", "2", "--eval-every", "1000"]
    words += ["--agent.warm-start", "500", "--agent.capacity", "3000", "--agent.train-every", "4"]
    words += ["--agent.learner.batch-size", "8"]
    words += [word for name, value in OFFICIAL.items() for word in (f"--agent.{name}", value)]
    finished(words, 2000, tmp_path, capsys)
