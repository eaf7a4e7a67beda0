"""kill -9 at any moment, then resume: the bytes of an uninterrupted run, for every registered agent and for `rlc`."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rl_contrastive import registry
from rl_contrastive.cli import main
from rl_contrastive.config import from_dict, to_dict
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.loop import Budget
from rl_contrastive.runs.run import RunConfig, config_json, read_summary, resolve, run, run_folder
from rl_contrastive.spec import OwnLoop

AGENTS = [entry.name for entry in registry.entries("agent")]
ENVS = {
    "low-rank": {"num_states": 6, "num_actions": 3, "horizon": 3, "rank": 2},
    "combination-lock": {"horizon": 3, "num_actions": 3},
    "low-rank-game": {"num_states": 6, "num_actions": 2, "num_opponent_actions": 3, "horizon": 3, "rank": 2},
}


def same_bytes(a: Path, b: Path) -> None:
    """Two run folders agree in everything that is promised to be deterministic."""
    for name in ("metrics.jsonl", "checkpoint/state.npz"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    first, second = read_summary(a), read_summary(b)
    for changing in ("wall_s", "peak_memory_mb", "sha256"):  # the checksum is of the other two as well
        del first[changing], second[changing]
    assert first == second
    times = [[json.loads(line) for line in (f / "timing.jsonl").read_text().splitlines()] for f in (a, b)]
    assert [t["episodes"] for t in times[0]] == [t["episodes"] for t in times[1]]
    for rows in times:
        assert all(x["wall_s"] <= y["wall_s"] for x, y in itertools.pairwise(rows))


def suitable(agent: str) -> RunConfig:
    """A short run of `agent` on the first small environment it accepts; skips agents with a loop of their own."""
    entry, _ = registry.get("agent", agent)
    config = entry.config()
    if agent in ("contrastive-ucb-deep", "contrastive-ucb-game-deep", "independent-dqn"):
        config = replace(config, warm_start=6)  # gradient steps on both sides of every cut
    elif agent == "rnd-dqn":
        config = replace(config, warm_start=6, rnd=replace(config.rnd, batch_size=4))
    elif hasattr(config, "learner"):  # a short gradient stage, where there is one, is cut as well as a long one
        config = replace(config, learner=replace(config.learner, steps=20))
    for env, fields in ENVS.items():
        env_entry, _ = registry.get("env", env)
        try:
            made = entry.factory(env_entry.factory(from_dict(env_entry.config, fields), config.batch), config, seed=0)
        except RlcError:
            continue
        if isinstance(made, OwnLoop):
            pytest.skip("has its own loop: resuming starts it again")
        budget = Budget(episodes=8 * config.batch, eval_every=2 * config.batch, eval_episodes=20)
        configs = {"agent_config": to_dict(config), "env_config": fields}
        return RunConfig(agent, env, **configs, budget=budget, checkpoint_seconds=0.0, tensorboard=False)
    raise AssertionError(f"{agent} accepts none of {list(ENVS)}")


@pytest.mark.parametrize("name", [*AGENTS, "tiny"])
def test_contract_killed_and_resumed_gives_the_same_bytes(name, tiny, config, two_lives):
    same_bytes(*two_lives(config if name == "tiny" else suitable(name)))


def test_rlc_killed_with_its_workers_and_resumed(tmp_path, tiny, config, clean_environment, capsys):
    words = ["run", "tiny", "low-rank", "--import", tiny, "--env.num-states", "6", "--env.num-actions", "3"]
    words += ["--env.horizon", "3", "--env.rank", "2", "--episodes", "160", "--eval-every", "8", "--seeds", "2"]
    words += ["--checkpoint-seconds", "0", "--no-tensorboard", "--out"]
    rlc = [sys.executable, "-m", "rl_contrastive.cli"]
    folder = tmp_path / "a" / "default" / "tiny--low-rank"
    for _ in range(5):
        process = subprocess.Popen([*rlc, *words, str(tmp_path / "a")], env=clean_environment, start_new_session=True)
        give_up = time.monotonic() + 120
        while not any(folder.glob("seed-*/checkpoint/state.npz")) and time.monotonic() < give_up:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if read_summary(folder / "seed-0") is None:  # it was in the middle
            break
        shutil.rmtree(tmp_path / "a")  # on a busy machine we can be late
    assert read_summary(folder / "seed-0") is None
    assert main(["resume", str(tmp_path / "a")]) == 0
    assert main([*words, str(tmp_path / "b"), "--workers", "1"]) == 0
    for seed in ("seed-0", "seed-1"):
        same_bytes(folder / seed, tmp_path / "b" / "default" / "tiny--low-rank" / seed)
    assert "finished, 160 episodes" in capsys.readouterr().out


def test_a_run_without_any_checkpoint_starts_again_and_a_finished_one_is_left_alone(tmp_path, config):
    from rl_contrastive.runs.run import resume

    run(config, tmp_path / "whole")
    run(config, tmp_path / "again")
    whole, again = run_folder(tmp_path / "whole", config), run_folder(tmp_path / "again", config)
    before = (again / "summary.json").read_bytes()
    assert resume(again) == json.loads(before)
    for name in ("state.npz", "previous.npz"):
        (again / "checkpoint" / name).unlink()
    (again / "summary.json").unlink()
    with open(again / "metrics.jsonl", "a") as file:
        file.write('{"episodes": 99999, "half a li')
    resume(again)
    same_bytes(whole, again)


def test_lines_behind_the_checkpoint_and_half_lines_are_cut(tmp_path, config):
    from rl_contrastive.runs.run import resume

    run(config, tmp_path / "whole")
    stop = iter([False] * 4)
    run(config, tmp_path / "part", should_stop=lambda: next(stop, True))
    part = run_folder(tmp_path / "part", config)
    assert read_summary(part)["status"] == "aborted"
    assert 0 < read_summary(part)["episodes"] < 40
    for name in ("metrics.jsonl", "timing.jsonl"):
        with open(part / name, "a") as file:
            file.write('{"episodes": 99999, "env_steps": 1, "wall_s": 1.0}\n{"episodes": 9')
    assert resume(part)["status"] == "finished"
    same_bytes(run_folder(tmp_path / "whole", config), part)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, config):
    from rl_contrastive.runs.run import resume

    run(config, tmp_path / "whole")
    stop = iter([False] * 4)
    run(config, tmp_path / "part", should_stop=lambda: next(stop, True))
    part = run_folder(tmp_path / "part", config)
    newest = part / "checkpoint" / "state.npz"
    newest.write_bytes(newest.read_bytes()[:100])
    resume(part)
    same_bytes(run_folder(tmp_path / "whole", config), part)


def test_both_checkpoints_damaged_foreign_or_lost_lines_are_one_sentence(tmp_path, config, capsys):
    stop = iter([False] * 4)
    run(config, tmp_path, should_stop=lambda: next(stop, True))
    folder = run_folder(tmp_path, config)
    saved = {name: (folder / "checkpoint" / name).read_bytes() for name in ("state.npz", "previous.npz")}

    def complaint() -> str:
        before = {path: path.read_bytes() for path in (folder / "checkpoint").iterdir()}
        assert main(["resume", str(folder)]) == 2
        assert {path: path.read_bytes() for path in (folder / "checkpoint").iterdir()} == before
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        assert "Traceback" not in text
        return text

    for name, data in saved.items():
        (folder / "checkpoint" / name).write_bytes(data[:50])
    assert "corrupt or not a checkpoint of this library" in complaint()
    for name, data in saved.items():
        (folder / "checkpoint" / name).write_bytes(data)
    lines = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(lines[:20])
    assert "lines were lost" in complaint()
    (folder / "metrics.jsonl").write_bytes(lines)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "seed": 4}))
    assert "of another run" in complaint()
    (folder / "config.json").write_text("{")
    assert "not valid JSON" in complaint()
    (folder / "config.json").write_text(json.dumps({**values, "sed": 4}))
    assert "unknown config key" in complaint()


def test_an_interrupted_run_is_aborted_and_resumable(tmp_path, config):
    from rl_contrastive.runs.run import resume

    run(config, tmp_path / "whole")

    def interrupt(progress):
        if progress.episodes == 20:
            raise KeyboardInterrupt

    summary = run(config, tmp_path / "part", on_progress=interrupt)
    assert summary["status"] == "aborted"
    part = run_folder(tmp_path / "part", config)
    resume(part)
    same_bytes(run_folder(tmp_path / "whole", config), part)


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path, config, monkeypatch):
    from rl_contrastive.runs import folder as record

    monkeypatch.setattr(record, "LOCK_WAIT", 0.1)
    folder = record.RunFolder(tmp_path)
    folder.create(config_json(resolve(config), ""))
    start = time.monotonic()
    with pytest.raises(RlcError, match="another process is writing"):
        record.RunFolder(tmp_path).lock()
    assert 0.1 <= time.monotonic() - start < 5.0  # it waits for LOCK_WAIT, here .1 s
    folder.unlock()
    record.RunFolder(tmp_path).lock()


def test_another_budget_of_the_same_run_goes_on(tmp_path, config):
    """A finished run cannot be lengthened by resuming; a config of another length is another run."""
    run(config, tmp_path)
    with pytest.raises(RlcError, match="holds a finished run"):
        run(replace(config, budget=Budget(episodes=80)), tmp_path)
    assert run(replace(config, budget=Budget(episodes=80)), tmp_path, overwrite=True)["episodes"] == 80
