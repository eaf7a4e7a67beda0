"""A larger cap for runs that exist: the bytes of a run that had it from the start, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rl_contrastive.cli import main
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.extend import extend, longer
from rl_contrastive.runs.loop import Budget
from rl_contrastive.runs.run import RunConfig, read_config, read_summary, resume, run, run_folder


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def with_cap(config: RunConfig, **limits) -> RunConfig:
    return replace(config, budget=Budget(**{"eval_every": 8, "eval_episodes": 20, **limits}))


def deep() -> RunConfig:
    """With a replay in its own folder, and gradient steps on both sides of the old cap."""
    env = {"num_states": 6, "num_actions": 3, "horizon": 3, "rank": 2}
    agent = {"warm_start": 6, "batch": 2, "learner": {"batch_size": 4}}
    return RunConfig("contrastive-ucb-deep", "low-rank", agent, env, seed=3, checkpoint_seconds=0.0, tensorboard=False)


@pytest.mark.parametrize("kind", ["tiny", "deep"])
def test_it_has_the_bytes_of_a_run_that_had_the_cap_from_the_start(kind, tmp_path, config):
    config = config if kind == "tiny" else deep()
    short, long = with_cap(config, episodes=16), with_cap(config, episodes=40)
    run(short, tmp_path / "a", command="rlc run")
    run(long, tmp_path / "b")
    a, b = run_folder(tmp_path / "a", short), run_folder(tmp_path / "b", long)
    before = (a / "metrics.jsonl").read_bytes()
    extend(a, longer(a, episodes=40), "rlc resume")
    assert read_summary(a) is None  # not finished, as far as its cap goes
    summary = resume(a)
    assert (summary["status"], summary["episodes"], summary["episode_cap"]) == ("finished", 40, 40)
    for name in ("metrics.jsonl", "checkpoint/state.npz"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert len(before) < len((a / "metrics.jsonl").read_bytes())  # it did go on
    meta = json.loads((a / "config.json").read_text())["meta"]
    assert meta["command"] == "rlc run"
    (note,) = meta["extended"]
    assert (note["command"], note["before"]["episodes"]) == ("rlc resume", 16)


def test_where_the_old_end_was_no_evaluation_its_line_stays(tmp_path, config):
    short = with_cap(config, episodes=20)
    run(short, tmp_path)
    folder = run_folder(tmp_path, short)
    extend(folder, longer(folder, episodes=32), "")
    resume(folder)
    assert [line["episodes"] for line in lines(folder)] == [8, 16, 20, 24, 32]


def test_evaluations_keep_an_interval_that_was_a_share_of_the_cap(tmp_path, config):
    for limits in ({"episodes": 400}, {"steps": 1200}):
        short = with_cap(config, **limits, eval_every=None)
        run(short, tmp_path / next(iter(limits)))
        folder = run_folder(tmp_path / next(iter(limits)), short)
        count = lines(folder)
        (kind, cap), batch = next(iter(limits.items())), read_config(folder).agent_config["batch"]
        budget = longer(folder, **{kind: 2 * cap}).budget
        assert (
            budget.interval(batch)
            == short.budget.interval(batch)
            != replace(short.budget, **{kind: 2 * cap}).interval(batch)
        )
        extend(folder, longer(folder, **{kind: 2 * cap}), "")
        assert resume(folder)["status"] == "finished"
        assert len(lines(folder)) == pytest.approx(2 * len(count), abs=1)


def test_the_command_lets_finished_and_stopped_runs_go_on_and_may_be_repeated(tmp_path, config, capsys):
    short = with_cap(config, episodes=16)
    run(short, tmp_path)
    stop = iter([False])
    run(replace(short, seed=4), tmp_path, should_stop=lambda: next(stop, True))
    words = ["resume", str(tmp_path), "--episodes", "24"]
    assert main(words) == 0
    assert capsys.readouterr().out.count("finished, 24 episodes") == 2
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(words) == 0
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["resume", str(tmp_path), "--episodes", "16"]) == 2
    assert "can only raise it, got 16" in capsys.readouterr().err


def test_what_cannot_go_on_is_one_sentence_and_stays_as_it_is(tmp_path, config):
    solved = with_cap(config, episodes=400, stop_when_solved=True, solve_at=0.01)
    plain = with_cap(config, episodes=16)
    external = RunConfig("sb3-dqn", "low-rank", env_config=config.env_config, budget=plain.budget, tensorboard=False)
    assert run(solved, tmp_path / "solved")["solved_at_episode"] is not None
    run(plain, tmp_path / "plain")
    run(external, tmp_path / "external")
    ended, folder = run_folder(tmp_path / "solved", solved), run_folder(tmp_path / "plain", plain)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert longer(ended, episodes=800).budget == solved.budget  # it has no use for more
    with pytest.raises(RlcError, match="no cap in steps: give --episodes"):
        longer(folder, steps=800)
    with pytest.raises(RlcError, match="can only raise"):
        longer(folder, episodes=8)
    with pytest.raises(RlcError, match="give one of"):
        longer(folder, episodes=80, steps=80)
    with pytest.raises(RlcError, match="loop of its own"):
        longer(run_folder(tmp_path / "external", external), episodes=80)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for path in (folder / "checkpoint").iterdir():
        path.unlink()
    with pytest.raises(RlcError, match="no checkpoint"):
        longer(folder, episodes=80)


def test_killed_before_the_new_cap_was_written_it_ends_as_before(tmp_path, config):
    short = with_cap(config, episodes=16)
    run(short, tmp_path)
    folder = run_folder(tmp_path, short)
    before = (folder / "metrics.jsonl").read_bytes()
    (folder / "summary.json").unlink()  # the first thing that `extend` does
    assert resume(folder)["episodes"] == 16
    assert (folder / "metrics.jsonl").read_bytes() == before
