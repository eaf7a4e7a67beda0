"""Tuning: seeds kept apart, settings that depend on their number alone, and the same trials after a kill."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from rl_contrastive.cli import main
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.engine_options import EngineOptions
from rl_contrastive.runs.engines import start_engine
from rl_contrastive.runs.tune import LEDGER, Stopped, draw, good_first, keeper, open_ledger, report, search
from rl_contrastive.runs.tune_file import TuneConfig, load_tuning
from rl_contrastive.runs.workers import Pool

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="needs optuna: pip install '.[tune]'"
)
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray: pip install '.[ray]'")
TEXT = """
name = "trial"
imports = ["{tiny}"]
[run]
agent = "tiny"
env = "low-rank"
episodes = 160
eval_every = 40
eval_episodes = 20
tensorboard = false
checkpoint_seconds = 0.0
"env.num_states" = 6
"env.horizon" = 3
[tune]
trials = 4
method = "halving"
rungs = [40]
reduction = 2
tune_seeds = [100]
report_seeds = [0, 1]
[tune.ranges]
"agent.step_size" = { loguniform = [0.01, 1.0] }
"agent.batch" = { choice = [4, 8] }
"agent.epsilon" = { uniform = [0.0, 1.0] }
"""
BASE = {"ranges": {"agent.x": {"uniform": [0.0, 1.0]}}, "trials": 6, "tune_seeds": (1,), "report_seeds": (2,)}


@pytest.fixture
def file(tmp_path, tiny):
    path = tmp_path / "tune.toml"
    path.write_text(TEXT.replace("{tiny}", tiny))
    return path


def records(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.name in ("metrics.jsonl", "state.npz")}


def test_bad_files_are_one_sentence(file, tmp_path):
    text = file.read_text()
    for old, new, words in [
        ("report_seeds = [0, 1]", "report_seeds = [0, 100]", "seeds 100 are among both tune_seeds and report_seeds"),
        ("report_seeds = [0, 1]", "report_seeds = []", "report_seeds is empty"),
        ("report_seeds = [0, 1]", "", "needs report_seeds"),
        ("trials = 4", "trials = 0", "trials must be >= 1"),
        ("trials = 4", "trails = 4", "needs trials"),
        ('"halving"', '"halve"', "must be one of 'random', 'halving', 'asha'"),
        ('"halving"', '"random"', "none for random"),
        ("rungs = [40]", "", "give one at least for halving"),
        ("rungs = [40]", "rungs = [160]", "must lie below the 160 episodes"),
        ("rungs = [40]", "rungs = [80, 40]", "must be >= 1 and rise"),
        ("reduction = 2", "reduction = 1", "reduction must be >= 2"),
        ("loguniform = [0.01, 1.0]", "loguniform = [0.0, 1.0]", "needs low > 0"),
        ("uniform = [0.0, 1.0]", "uniform = [1.0, 0.0]", "low < high"),
        ("choice = [4, 8]", "choice = []", "has no choices"),
        ("choice = [4, 8]", "choose = [4, 8]", "must be one of"),
        ("choice = [4, 8]", "int = [4, 8.5]", "two whole numbers"),
        ("episodes = 160", "episodes = 160\nseeds = [1]", "stand under"),
        ("episodes = 160", '"agent.epsilon" = 0.1\nepisodes = 160', "both in"),
        ("episodes = 160", "", "needs episodes or steps"),
        ("[run]", "[runs]", "did you mean 'run'"),
    ]:
        assert old in text
        bad = tmp_path / "bad.toml"
        bad.write_text(text.replace(old, new, 1))
        with pytest.raises(RlcError, match=words):
            load_tuning(bad)


def test_optuna_is_asked_for_by_its_extra(file, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["tune", str(file)]) == 2
    assert capsys.readouterr().err == "rlc: rlc tune needs the package optuna: pip install -e '.[tune]'.\n"


def test_halving_keeps_the_best_part_and_drops_what_failed():
    values = {0: 3.0, 1: None, 2: 5.0, 3: 5.0, 4: 1.0, 5: 4.0}
    up = TuneConfig(**BASE, method="halving", rungs=(1,), reduction=3)
    assert good_first(up, values) == [2, 3, 5, 0, 4]
    assert keeper(up)(0, values) == [2, 3]  # 6 / 3
    down = TuneConfig(**BASE, method="halving", rungs=(1,), reduction=3, direction="minimize")
    assert keeper(down)(0, values) == [0, 4]


@needs_optuna
def test_asha_judges_each_trial_against_those_before_it():
    config = TuneConfig(**{**BASE, "trials": 8}, method="asha", rungs=(1, 2), reduction=2)
    keep = keeper(config)
    values = dict(enumerate([3.0, 1.0, 2.0, 5.0, 4.0, 6.0, None, 7.0]))
    # Trial 0 is alone; 1 and 2 are not in the upper half of what came before; 3 is the best of four; ...
    assert keep(0, values) == [0, 3, 4, 5, 7]
    assert keep(1, {0: 1.0, 3: 2.0, 4: 0.0, 5: 0.5, 7: 3.0}) == [0, 3, 7]


@needs_optuna
def test_a_setting_depends_on_its_number_alone_and_lies_in_its_range():
    ranges = {
        "agent.a": {"loguniform": [1e-3, 1.0]},
        "agent.b": {"int": [2, 4]},
        "agent.c": {"choice": [[64], [32, 32]]},
        "agent.d": {"uniform": [-1, 1]},
    }
    config = TuneConfig(**{**BASE, "ranges": ranges})
    drawn = [draw(config, n) for n in range(40)]
    assert drawn[7] == draw(TuneConfig(**{**BASE, "ranges": ranges, "trials": 99}), 7)
    assert len({d["agent.a"] for d in drawn}) == 40
    assert all(1e-3 <= d["agent.a"] <= 1.0 and -1 <= d["agent.d"] <= 1 for d in drawn)
    assert {d["agent.b"] for d in drawn} == {2, 3, 4}
    assert sum(d["agent.a"] < 0.0316 for d in drawn) > 10  # half of a logarithmic range
    assert {len(d["agent.c"]) for d in drawn} == {1, 2}
    assert draw(TuneConfig(**{**BASE, "ranges": ranges, "seed": 1}), 7) != drawn[7]


@needs_optuna
def test_an_impossible_setting_is_told_before_any_run(file, tmp_path):
    file.write_text(file.read_text().replace("choice = [4, 8]", "choice = [0]"))
    with pytest.raises(RlcError, match="batch must be >= 1"):
        search(load_tuning(file), tmp_path / "out", Pool(1))
    assert not (tmp_path / "out").exists()


def stopping_pool():
    """A pool that stops at the third message of 40 episodes or more."""
    count = 0

    def report_one(job, message):
        nonlocal count
        count += message["episodes"] >= 40
        if count >= 3:
            pool.stop()

    pool = Pool(1, report_one)
    return pool


@needs_optuna
@pytest.mark.long
def test_a_stopped_tuning_goes_on_with_the_same_trials(file, tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["tune", str(file), "--out", str(whole), "--workers", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["report"]["seeds"]) == {"0", "1"}
    low, high = result["report"]["mean_interval"][1:]
    assert low < result["report"]["mean_interval"][0] < high
    tuning = load_tuning(file)
    for _ in range(3):  # one life before the first rung ends, one within the second
        with suppress(Stopped):
            search(tuning, cut, stopping_pool())
    found = search(tuning, cut, Pool(2))
    values = report(tuning, found, cut, Pool(2))
    assert {str(seed): value for seed, value in values.items()} == result["report"]["seeds"]
    assert (cut / LEDGER).read_bytes() == (whole / LEDGER).read_bytes()
    assert records(cut) == records(whole)
    file.write_text(file.read_text().replace("trials = 4", "trials = 5"))
    with pytest.raises(RlcError, match="a tuning of other values"):
        open_ledger(load_tuning(file), cut)


@needs_optuna
@pytest.mark.long
def test_a_killed_tuning_goes_on_with_the_same_trials(file, tmp_path, clean_environment):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command = [sys.executable, "-m", "rl_contrastive.cli", "tune", str(file), "--workers", "2", "--out"]
    with subprocess.Popen([*command, str(cut)], env=clean_environment, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(cut.glob("trials/trial-0001/*/*/metrics.jsonl")):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert json.loads((cut / LEDGER).read_text())["rungs"] == []
    for out in (cut, whole):
        done = subprocess.run([*command, str(out)], env=clean_environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (cut / LEDGER).read_bytes() == (whole / LEDGER).read_bytes()
    assert records(cut) == records(whole)


@needs_optuna
@needs_ray
@pytest.mark.slow
def test_a_tuning_on_ray_has_the_bytes_of_a_local_one(file, tmp_path):
    tuning = load_tuning(file)
    here, there = tmp_path / "here", tmp_path / "there"
    found = search(tuning, here, Pool(2))
    engine = start_engine(EngineOptions(engine="ray", workers=2, disk="apart"))
    try:
        assert search(tuning, there, engine) == found
    finally:
        engine.close()
    assert (here / LEDGER).read_bytes() == (there / LEDGER).read_bytes()
    assert records(here) == records(there)


@needs_optuna
@pytest.mark.long
def test_a_metric_that_is_not_recorded_is_named(file, tmp_path):
    text = (
        file.read_text()
        .replace('method = "halving"\nrungs = [40]', 'metric = "return_men"')
        .replace("trials = 4", "trials = 1")
    )
    file.write_text(text)
    with pytest.raises(RlcError, match="did you mean 'return_mean'"):
        search(load_tuning(file), tmp_path / "out", Pool(1))
    file.write_text(text.replace("return_men", "return_mean"))  # nothing was decided yet: the runs count
    assert search(load_tuning(file), tmp_path / "out", Pool(1)).trial == 0


def test_the_example_of_the_module_is_a_tuning(tmp_path):
    from rl_contrastive.runs import tune_file

    lines = (tune_file.__doc__ or "").splitlines()
    (tmp_path / "x.toml").write_text("\n".join(line[4:] for line in lines if line.startswith("    ")))
    tuning = load_tuning(Path(tmp_path / "x.toml"))
    assert tuning.caps == (100, 300, 900)
    params = {"agent.gamma": 0.1, "agent.batch": 10}
    low, whole = tuning.configs(params, (1, 2), 100), tuning.configs(params, (1, 2))
    assert [c.seed for c in low] == [1, 2]
    assert (low[0].budget.episodes, low[0].budget.eval_every) == (100, whole[0].budget.interval(10))
