"""What evaluations may cost by default: a tenth of a budget in steps, and nothing for a policy that did not change."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rl_contrastive.runs.budget import FEWEST, Budget, Progress
from rl_contrastive.runs.run import RunConfig, resume, run, run_folder

CARTPOLE = RunConfig("epsilon-greedy", "gym:CartPole-v1", env_config={"observation": "bins"}, tensorboard=False,
                     checkpoint_seconds=0.0)  # fmt: skip


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_budget_in_steps_spends_a_tenth_of_them_on_evaluations(tmp_path):
    config = replace(CARTPOLE, budget=Budget(steps=6000))
    summary = run(config, tmp_path)
    assert summary["status"] == "finished"
    rows = lines(run_folder(tmp_path, config))
    assert 2 <= len(rows) <= 20
    assert rows[-1]["episodes"] == summary["episodes"]
    # A tenth, the last FEWEST episodes apart, which may be longer than those of training.
    last = FEWEST * 500
    assert summary["eval_steps"] <= 0.1 * summary["env_steps"] + last
    assert summary["evaluation_share"] == pytest.approx(
        summary["eval_steps"] / (summary["env_steps"] + summary["eval_steps"]), abs=1e-6
    )
    versions = [row["version"] for row in rows[:-1]]
    assert len(set(versions)) == len(versions)  # none twice


def test_what_the_user_says_holds(tmp_path):
    config = replace(CARTPOLE, agent="uniform", env_config={}, budget=Budget(steps=600, eval_episodes=20))
    summary = run(config, tmp_path)
    assert summary["eval_steps"] > 0.2 * summary["env_steps"]  # as was asked for
    assert len({row["version"] for row in lines(run_folder(tmp_path, config))}) == 1  # of one policy, again and again
    assert Budget(episodes=10).eval_episodes == 200
    assert Budget(steps=10).eval_episodes is None


def test_an_unchanged_policy_waits_and_the_last_evaluation_does_not():
    budget = Budget(steps=100_000)
    progress = Progress(episodes=1000, env_steps=20_000)
    assert budget.affordable(progress, 1, 5) == 100  # 2000 steps of evaluation at 20 steps an episode
    progress.evaluated_version = 1
    assert budget.affordable(progress, 1, 5) == 0
    assert budget.affordable(progress, 1, 5, last=True) == 100
    progress.eval_steps = 1990
    assert budget.affordable(progress, 2, 5) == 0
    assert budget.affordable(progress, 2, 5, last=True) == FEWEST
    assert budget.affordable(replace(progress, eval_steps=0), 2, 64) == 64  # whole batches of rows
    assert Budget(steps=10, eval_episodes=7).affordable(progress, 1, 5) == 7


def test_a_resumed_run_spends_the_same(tmp_path):
    config = replace(CARTPOLE, budget=Budget(steps=3000))
    stop = iter([False] * 3)
    run(config, tmp_path / "a", should_stop=lambda: next(stop, True))
    resumed, whole = resume(run_folder(tmp_path / "a", config)), run(config, tmp_path / "b")
    assert resumed["eval_steps"] == whole["eval_steps"]
    assert lines(run_folder(tmp_path / "a", config)) == lines(run_folder(tmp_path / "b", config))
