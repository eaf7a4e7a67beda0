"""Sweep files: cross products, labels, quick overrides, and what is skipped or resumed."""

from __future__ import annotations

import json

import pytest

from rl_contrastive.cli import main
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.run import read_summary, run_folder
from rl_contrastive.runs.sweep import load_sweep, plan_jobs

TEXT = """
name = "trial"
no_compare = true
imports = ["{tiny}"]
[defaults]
seeds = [5, 6]
eval_every = 8
eval_episodes = 5
tensorboard = false
[[run]]
agent = "tiny"
env = "low-rank"
episodes = 16
"agent.step_size" = [0.5, 1.0]
"env.horizon" = [2, 3]
"env.num_states" = 6
[[run]]
agent = "tiny"
env = "probe-delay"
label = "named"
env_label = "task"
episodes = 128
seeds = [7]
[quick]
seeds = [1]
"""


@pytest.fixture
def file(tmp_path, tiny):
    path = tmp_path / "sweep.toml"
    path.write_text(TEXT.replace("{tiny}", tiny))
    return path


def test_lists_are_crossed_and_each_run_has_its_folder(file, tmp_path):
    sweep = load_sweep(file)
    assert (sweep.name, sweep.compare) == ("trial", False)
    assert len(sweep.runs) == 2 * 2 * 2 + 1
    folders = {str(run_folder(tmp_path, c).relative_to(tmp_path)) for c in sweep.runs}
    assert "tiny,step_size=0.5--low-rank,horizon=2,num_states=6/seed-5" in folders
    assert "tiny,step_size=1.0--low-rank,horizon=3,num_states=6/seed-6" in folders
    assert "named--task/seed-7" in folders
    assert len(folders) == 9
    one = next(c for c in sweep.runs if c.label == "tiny,step_size=1.0" and c.env_config["horizon"] == 3)
    assert (one.agent, one.env, one.budget.episodes, one.budget.eval_every) == ("tiny", "low-rank", 16, 8)
    assert one.agent_config == {"batch": 4, "step_size": 1.0, "epsilon": 0.2}
    assert len(load_sweep(file, quick=True).runs) == 5


def test_bad_files_are_one_sentence(file, tmp_path, tiny):
    text = file.read_text()
    for old, new, words in [
        ("[[run]]", "[[runs]]", "unknown key of a sweep file 'runs'; did you mean 'run'"),
        ("episodes = 16", "episode = 16", "did you mean 'episodes'"),
        ('"env.horizon"', '"env.horzon"', "did you mean 'env.horizon'"),
        ("[2, 3]", "[2, 0]", "horizon must be >= 1, got 0"),
        ("episodes = 16", "", "exactly one of episodes and steps"),
        ("seeds = [7]", "seeds = 7", "seeds must be a list of integers"),
        ("seeds = [7]", "seeds = [-7]", "seed must be >= 0"),
        ('label = "named"', "", ""),
        ('env = "probe-delay"', "", "needs 'env'"),
        ("name =", "name", "not valid TOML"),
        ("seeds = [7]", "seeds = [7, 7]", "seeds has 7 more than once"),
        ('"agent.step_size" = [0.5, 1.0]', '"agent.step_size" = [0.5, 0.5]', "two runs share the folder"),
    ]:
        assert old in text
        bad = tmp_path / "bad.toml"
        bad.write_text(text.replace(old, new))
        if words:
            with pytest.raises(RlcError, match=words):
                load_sweep(bad)
        else:
            load_sweep(bad)  # the agent's name is the label then
    file.write_text(text.split("[quick]")[0])
    with pytest.raises(RlcError, match=r"needs a \[quick\] table"):
        load_sweep(file, quick=True)
    with pytest.raises(RlcError, match="cannot read"):
        load_sweep(tmp_path / "none.toml")
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    with pytest.raises(RlcError, match="at least one"):
        load_sweep(empty)


def test_finished_runs_are_skipped_unfinished_resumed_and_others_refused(file, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["sweep", str(file), "--quick", "--out", str(out)]
    assert main(words) == 0
    folders = sorted(path.parent for path in out.rglob("config.json"))
    assert len(folders) == 5
    runs = load_sweep(file, quick=True).runs
    assert plan_jobs(runs, out) == ([], [run_folder(out, c) for c in runs])
    stamps = {f: (f / "metrics.jsonl").stat().st_mtime_ns for f in folders}
    first = next(f for f in folders if "step_size=0.5" in str(f))
    (first / "summary.json").unlink()
    jobs, done = plan_jobs(runs, out)
    assert [job.folder for job in jobs] == [first]
    assert len(done) == 4
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    assert {row["status"] for row in json.loads(capsys.readouterr().out)} == {"finished"}
    assert read_summary(first)["status"] == "finished"
    assert {f: (f / "metrics.jsonl").stat().st_mtime_ns for f in folders if f != first} == {
        f: stamps[f] for f in folders if f != first
    }
    file.write_text(file.read_text().replace("episodes = 16", "episodes = 24"))
    assert main(words) == 2
    assert "holds a run with another config" in capsys.readouterr().err
    assert read_summary(first)["episodes"] == 16
    assert main([*words, "--overwrite"]) == 0
    assert read_summary(first)["episodes"] == 24


def test_ray_is_asked_for_only_where_it_is_installed(file, capsys, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["sweep", str(file), "--engine", "ray"]) == 2
    assert capsys.readouterr().err == "rlc: --engine ray needs the package ray: pip install -e '.[ray]'.\n"


@pytest.mark.long
def test_runs_of_one_bar_are_compared_by_it(tmp_path, capsys):
    path = tmp_path / "sweep.toml"
    run = (
        '[[run]]\nagent = "uniform"\nenv = "probe-constant"\nseeds = [0]\nepisodes = 50\nsolve_at = {}\nlabel = "{}"\n'
    )
    for bars, expected in (((0.5, 0.5), 0.5), ((0.5, 0.6), 0.9)):
        path.write_text("\n".join(run.format(bar, f"r{i}") for i, bar in enumerate(bars)))
        out = tmp_path / str(bars[1])
        assert main(["sweep", str(path), "--out", str(out), "--workers", "1"]) == 0
        assert json.loads((out / "compare" / "compare.json").read_text())["method"]["bar"] == expected


def test_a_run_older_than_an_option_had_its_default_and_one_of_an_option_that_is_gone_is_another(file, tmp_path):
    out = tmp_path / "out"
    runs = load_sweep(file, quick=True).runs
    plan_jobs(runs, out)
    path = next(out.rglob("config.json"))
    values = json.loads(path.read_text())
    default = values["agent_config"].pop("epsilon")
    path.write_text(json.dumps(values))
    assert plan_jobs(runs, out)[1] == []  # unfinished, and not refused
    for wrong in ({"epsilon": default / 2}, {"gone": 1.0}):
        path.write_text(json.dumps({**values, "agent_config": {**values["agent_config"], **wrong}}))
        with pytest.raises(RlcError, match="another config"):
            plan_jobs(runs, out)
