"""Each of the deep agent's environments starts by one command line, and a run on it resumes to the same bytes."""

from __future__ import annotations

import json

import pytest

from rl_contrastive.cli import main
from rl_contrastive.runs.run import RunConfig, resume, run, run_folder
from rl_contrastive.runs.run_config import Budget

LINES = [
    ("minatar:Breakout", "minatar", 50, []),
    ("minigrid:MiniGrid-DoorKey-8x8-v0", "minigrid", 100, ["--env.horizon", "60"]),
    ("minigrid:MiniGrid-KeyCorridorS3R2-v0", "minigrid", 50, ["--env.observation", "onehot", "--env.horizon", "50"]),
    ("minigrid:MiniGrid-MultiRoom-N4-S5-v1", "minigrid", 50, []),
    ("atari:Pong", "ale_py", 10, ["--env.horizon", "5", "--env.size", "42"]),
    ("swingup", "numpy", 100, ["--env.horizon", "50"]),
    ("gym:MountainCar-v0", "numpy", 50, []),
]


@pytest.mark.parametrize(("env", "library", "steps", "more"), LINES, ids=[line[0] for line in LINES])
def test_one_line_runs_it(tmp_path, capsys, env, library, steps, more):
    pytest.importorskip(library)
    words = ["run", "uniform", env, "--steps", str(steps), "--agent.batch", "2", "--eval-episodes", "2", *more]
    assert main([*words, "--out", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["status"] == "finished"
    assert row["env_steps"] >= steps


@pytest.mark.long
def test_sb3_dqn_trains_on_minatar(tmp_path, capsys):
    pytest.importorskip("minatar")
    words = ["run", "sb3-dqn", "minatar:Breakout", "--steps", "150", "--eval-episodes", "1", "--env.horizon", "60"]
    assert main([*words, "--out", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["status"], row["env"]) == ("finished", "minatar:Breakout")


@pytest.mark.parametrize(
    ("env", "library", "fields"),
    [
        ("minatar:Asterix", "minatar", {"horizon": 40}),
        ("minigrid:MiniGrid-DoorKey-5x5-v0", "minigrid", {"horizon": 25}),
        ("atari:Breakout", "ale_py", {"horizon": 4, "size": 20, "sticky": 0.25}),
        ("swingup", "numpy", {"horizon": 25}),
    ],
)
def test_an_interrupted_run_gives_the_same_metrics(tmp_path, env, library, fields):
    pytest.importorskip(library)
    config = RunConfig(
        agent="uniform",
        env=env,
        agent_config={"batch": 2},
        env_config=fields,
        budget=Budget(episodes=6, eval_every=2, eval_episodes=2),
        checkpoint_seconds=0.0,
        tensorboard=False,
    )
    assert run(config, tmp_path / "whole")["status"] == "finished"
    batches = iter((False, True))
    assert run(config, tmp_path / "cut", should_stop=lambda: next(batches, True))["status"] == "aborted"
    folder = run_folder(tmp_path / "cut", config)
    assert resume(folder)["status"] == "finished"
    whole = run_folder(tmp_path / "whole", config)
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    lines = (whole / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
