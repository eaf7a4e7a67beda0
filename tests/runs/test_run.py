"""Run folders: what is in them, and that every way to fail is counted and said in one sentence."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from rl_contrastive import registry
from rl_contrastive.errors import RlcError
from rl_contrastive.runs import checkpoint
from rl_contrastive.runs.folder import RunFolder, json_line
from rl_contrastive.runs.loop import Budget
from rl_contrastive.runs.run import (
    RunConfig,
    prepare,
    read_config,
    read_summary,
    resolve,
    resume,
    run,
    run_folder,
    with_device,
)
from rl_contrastive.runs.workers import Job, Pool

BROKEN = str(Path(__file__).parent.parent / "broken_env.py")
SUMMARY = {
    "agent", "env", "label", "seed", "status", "error", "episodes", "env_steps", "wall_s", "solved_at_episode",
    "solved_at_env_steps", "final_return", "optimal_return", "peak_memory_mb", "exact", "episode_cap", "step_cap",
    "players", "eval_steps", "evaluation_share", "estimated", "sha256",
}  # fmt: skip


@dataclass(frozen=True)
class Inner:
    device: str = "auto"


@dataclass(frozen=True)
class Outer:
    learner: Inner = field(default_factory=Inner)
    batch: int = 1


@pytest.fixture
def broken(tiny, config) -> RunConfig:
    registry.import_file(Path(BROKEN))
    return replace(config, env="broken", env_config={}, imports=(tiny, BROKEN))


def test_the_folder_holds_what_is_promised(tmp_path, config):
    summary = run(replace(config, tensorboard=True), tmp_path, command="rlc run ...")
    folder = tmp_path / "tiny--low-rank" / "seed-3"
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint", "config.json", "lock", "metrics.jsonl", "summary.json", "tensorboard", "timing.jsonl",
    ]  # fmt: skip
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert set(summary) == SUMMARY
    assert summary["status"] == "finished"
    assert summary["error"] is None
    assert (summary["episodes"], summary["env_steps"], summary["episode_cap"]) == (40, 120, 40)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["episodes"] for line in lines] == [8, 16, 24, 32, 40]
    assert set(lines[0]) == {
        "episodes", "env_steps", "return_mean", "return_sem", "version", "value", "gap", "regret", "suboptimality",
        "q_error", "agent/q_mean",
    }  # fmt: skip
    assert summary["exact"] == {key: lines[-1][key] for key in ("value", "gap", "regret", "suboptimality", "q_error")}
    assert summary["final_return"] == lines[-1]["return_mean"]
    times = [json.loads(line) for line in (folder / "timing.jsonl").read_text().splitlines()]
    assert [set(t) for t in times] == [{"episodes", "env_steps", "wall_s"}] * 5
    values = json.loads((folder / "config.json").read_text())
    assert values["agent_config"] == {"batch": 4, "step_size": 0.5, "epsilon": 0.2}  # defaults written out
    assert values["env_config"]["mdp_seed"] == 0
    assert values["meta"]["command"] == "rlc run ..."
    assert values["meta"]["versions"]["numpy"] == np.__version__
    assert read_config(folder) == resolve(replace(config, tensorboard=True))


def test_tensorboard_has_the_same_scalars_also_after_a_resume(tmp_path, config):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stop = iter([False] * 4)
    run(replace(config, tensorboard=True), tmp_path, should_stop=lambda: next(stop, True))
    folder = run_folder(tmp_path, config)
    resume(folder)
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for tag, key in (("run/return_mean", "return_mean"), ("agent/q_mean", "agent/q_mean")):
        read = [(event.step, event.value) for event in board.Scalars(tag)]
        assert [step for step, _ in read] == [line["episodes"] for line in lines]
        np.testing.assert_allclose([v for _, v in read], [line[key] for line in lines], rtol=1e-6)


def test_names_become_folder_names(config):
    assert run_folder(Path("r"), replace(config, env="gym:ALE/Pong-v5")) == Path("r/tiny--gym_ALE_Pong-v5/seed-3")
    assert run_folder(Path("r"), replace(config, label="a b", env_label="x,y=1")) == Path("r/a_b--x,y=1/seed-3")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "the run raised ZeroDivisionError at broken_env.py:"),
        ("nan", "the reward of step h=0 is nan in row 1"),
    ],
)
def test_an_environment_that_breaks_is_a_failed_run(tmp_path, broken, how, words):
    broken = replace(broken, env_config={"how": how, "at": 4})
    summary = run(broken, tmp_path)
    assert summary["status"] == "failed"
    assert words in summary["error"]
    assert "\n" not in summary["error"]
    assert summary["episodes"] == 12  # three whole batches before it
    assert json.loads((run_folder(tmp_path, broken) / "summary.json").read_text()) == summary


def test_a_failed_run_can_be_resumed_once_the_cause_is_gone(tmp_path, broken, monkeypatch):
    config = replace(broken, env_config={"how": "raise", "at": 4})
    run(config, tmp_path / "a")
    folder = run_folder(tmp_path / "a", config)
    monkeypatch.setenv("MENDED", "1")
    assert resume(folder)["status"] == "finished"
    run(config, tmp_path / "b")
    whole = run_folder(tmp_path / "b", config)
    assert (whole / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


def test_one_failed_run_leaves_the_others_alone(tmp_path, broken):
    from rl_contrastive.runs.run import prepare

    good = resolve(replace(broken, env_config={"how": "no"}, label="good"))
    bad = [resolve(replace(broken, env_config={"how": how}, label=how)) for how in ("die", "raise")]
    impossible = resolve(replace(broken, budget=Budget(episodes=1), label="impossible"))
    configs = [*bad, good, impossible]
    folders = [prepare(c, tmp_path) for c in configs]
    seen = []
    pool = Pool(2, lambda job, message: seen.append((job.folder, message["episodes"])))
    died, raised, fine, refused = pool.run(
        [Job(f, c, fresh=True, trusted=True) for f, c in zip(folders, configs, strict=True)]
    )
    assert died.summary["status"] == raised.summary["status"] == "failed"
    assert "ended with signal 9 (SIGKILL)" in died.summary["error"]
    assert json.loads((folders[0] / "summary.json").read_text()) == died.summary
    assert fine.summary["status"] == "finished"
    assert (folders[2], 4) in seen
    assert refused.summary is None
    assert "no batch would fit" in refused.bad_input
    assert not folders[3].parent.exists()  # no run was started, nothing stays


def test_a_full_disk_fails_the_run_and_keeps_the_last_good_checkpoint(tmp_path, config, monkeypatch):
    save, count = checkpoint.write_state, [0]

    def full_at_the_fourth(file, state):
        count[0] += 1
        if count[0] == 4:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(file, state)

    monkeypatch.setattr(checkpoint, "write_state", full_at_the_fourth)
    summary = run(config, tmp_path / "a")
    assert summary["status"] == "failed"
    assert "No space left on device; the last good one is kept" in summary["error"]
    folder = run_folder(tmp_path / "a", config)
    assert checkpoint.load_state(folder / "checkpoint")["progress"]["iteration"] == 3
    assert resume(folder)["status"] == "finished"
    run(config, tmp_path / "b")
    for name in ("metrics.jsonl", "checkpoint/state.npz"):
        assert (folder / name).read_bytes() == (run_folder(tmp_path / "b", config) / name).read_bytes()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full device")
def test_a_disk_that_is_full_for_the_records_too(tmp_path, config, monkeypatch):
    from rl_contrastive.runs import sink

    real = sink._append
    monkeypatch.setattr(sink, "_append", lambda path: real(Path("/dev/full") if "metrics" in path.name else path))
    summary = run(replace(config, checkpoint_seconds=1000.0), tmp_path)
    assert summary["status"] == "failed"
    assert "metrics.jsonl: No space left on device" in summary["error"]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, config, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(RlcError, match=r"cannot make the run folder .*: Not a directory"):
        run(config, tmp_path / "file")

    def read_only(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(RlcError, match=r"cannot make the run folder .*: Read-only file system"):
        run(config, tmp_path / "new")
    with pytest.raises(RlcError, match=r"cannot write the checkpoint .*: Read-only file system"):
        checkpoint.save_state(tmp_path, {})


def test_bad_configs_are_refused_before_a_folder_exists(tmp_path, config):
    for change, words in [
        ({"agent": "tyni"}, "unknown agent 'tyni'; did you mean 'tiny'"),
        ({"env": "low-rnk"}, "did you mean 'low-rank'"),
        ({"agent_config": {"step": 1.0}}, "unknown config key 'agent.step'; did you mean 'agent.step_size'"),
        ({"agent_config": {"step_size": 2.0}}, r"step_size must be in \(0, 1\]"),
        ({"env_config": {"horizon": 0}}, "horizon must be >= 1"),
        ({"env": "combination-lock", "env_config": {}}, "tiny needs a tabular environment"),
        ({"env": "gym:Pendulum-v1", "env_config": {}}, "none"),
        ({"env": "gym:NoSuch-v0", "env_config": {}}, "cannot be made"),
        ({"budget": Budget(episodes=3)}, "no batch would fit"),
        ({"device": "cuda"}, "no field 'device'"),
        ({"env": "gym:CartPole-v1", "env_config": {"id": "Acrobot-v1"}}, "says env.id already: leave out 'Acrobot-v1'"),
        ({"imports": ("/nowhere.py",)}, "no file /nowhere.py"),
    ]:
        with pytest.raises(RlcError, match=words):
            run(replace(config, **change), tmp_path / "x")
    for name, value in [
        ("seed", -1),
        ("label", ".."),
        ("group", ""),
        ("checkpoint_seconds", -1.0),
        ("device", "gpu"),
    ]:
        with pytest.raises(RlcError, match=name):
            replace(config, **{name: value})
    assert not (tmp_path / "x").exists()


def test_the_device_goes_where_a_config_has_one():
    assert with_device(Outer, {}, "cpu") == {"learner": {"device": "cpu"}}
    assert with_device(Outer, {"learner": {"device": "cuda"}}, "cpu") == {"learner": {"device": "cuda"}}
    assert with_device(Outer, {"batch": 2}, "auto") == {"batch": 2}
    # The command line hands over every field: a default is not a wish.
    assert with_device(Outer, {"learner": {"device": "auto"}}, "cpu") == {"learner": {"device": "cpu"}}


def test_what_can_never_happen_is_refused_before_a_folder_exists(tmp_path, config):
    gym = {"agent": "uniform", "agent_config": {}, "env": "gym:CartPole-v1", "env_config": {}, "imports": ()}
    for budget, words in [
        (Budget(episodes=50, stop_when_solved=True), "the best return of gym:CartPole-v1 is not known"),
        (Budget(episodes=50, exact="always"), "there is no exact model"),
    ]:
        with pytest.raises(RlcError, match=words):
            run(replace(config, **gym, budget=budget), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_number_that_is_not_finite_does_not_fail_a_run_that_is_done(tmp_path, config, monkeypatch):
    agent: type = registry.get("agent", config.agent)[0].factory
    update = agent.update
    monkeypatch.setattr(agent, "update", lambda self: {**update(self), "dim": 3.0, "misfit": float("nan")})
    monkeypatch.setattr(agent, "exact_metrics", lambda self, model: {"odd": float("inf")})
    summary = run(config, tmp_path)
    assert summary["status"] == "finished"
    assert summary["estimated"] == {"dim": 3.0}
    assert "odd" not in summary["exact"]
    assert read_summary(run_folder(tmp_path, resolve(config))) == summary


def test_a_figure_in_a_file_that_the_seal_leaves_out_is_refused(tmp_path, config):
    run(config, tmp_path)
    path = run_folder(tmp_path, resolve(config))
    summary = json.loads((path / "summary.json").read_text())
    for name in ("config.json", "metrics.jsonl"):
        less = {key: value for key, value in summary["sha256"].items() if key != name}
        (path / "summary.json").write_text(json.dumps(summary | {"sha256": less}))
        with pytest.raises(RlcError, match=f"{name} was changed since the run ended"):
            read_summary(path)


def test_lines_are_strict_json():
    assert json_line({"a": 0.1 + 0.2, "b": float("nan"), "c": 3}) == '{"a": 0.30000000000000004, "b": null, "c": 3}\n'


def test_a_prepared_run_that_another_process_took_over_is_not_discarded(tmp_path, config):
    """A sweep prepares its folders; where `rlc resume` got to one before it, the sweep leaves that one alone."""
    path = prepare(resolve(config), tmp_path)
    owner = RunFolder(path)
    owner.lock()
    (path / "tensorboard").mkdir()
    RunFolder(path).discard()
    assert (path / "config.json").is_file()
    assert (path / "tensorboard").is_dir()
    owner.unlock()
    RunFolder(path).discard()  # control: nobody's folder goes, nor do the empty ones around it stay
    assert not path.exists()
    assert not path.parent.parent.exists()
