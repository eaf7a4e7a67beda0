"""The pooled tables of `benchmarks/`: runs that did not finish never make a row better."""

from __future__ import annotations

import argparse
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from run_folders import with_columns, write_run

from rl_contrastive.errors import RlcError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """Scripts find the modules beside them, as where Python starts them."""
    monkeypatch.syspath_prepend(BENCHMARKS)


def row(capsys, folder):
    """Cells of the only row of the table of worlds."""
    code = runpy.run_path(str(BENCHMARKS / "worlds_table.py"))["main"]([str(folder)])
    return code, [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].strip("|").split("|")]


def failed(root, seed, **more):
    """A run that failed before its first evaluation."""
    folder = write_run(root, "a", seed, returns=(0.0,), solved_at=None, status="failed", error="boom.", **more)
    (folder / "metrics.jsonl").unlink()
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"final_return": None}))
    return folder


def test_a_run_without_an_evaluation_counts_with_the_worst_return(tmp_path, capsys):
    write_run(tmp_path, "a", 0, returns=(-100.0, -20.0), optimal=-13.0, solved_at=None)
    failed(tmp_path, 1, optimal=-13.0)
    code, cells = row(capsys, tmp_path)
    assert code == 1
    assert cells[2:5] == ["0/2", ">= 1000 (>= 1000->= 1000)", "-60.000 [-568.248, 448.248]"]  # of -20 and -100


def test_a_run_without_an_evaluation_has_no_gap_of_0(tmp_path, capsys):
    folders = [write_run(tmp_path, "a", 0, exact=True, solved_at=None), failed(tmp_path, 1)]
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | {"players": [2, 2]}))
    _, cells = row(capsys, tmp_path)
    assert cells[4].startswith("0.501 [")  # of .001, its last gap, and 1.001, the largest one


def test_a_median_that_an_unsolved_run_may_move_is_a_lower_bound(tmp_path, capsys):
    """Unsolved at a cap of 300, solved at 700 and 800: the median may be 700 or 800."""
    write_run(tmp_path, "a", 0, returns=(0.0,) * 3, solved_at=None, cap=300)
    write_run(tmp_path, "a", 1, solved_at=700)
    write_run(tmp_path, "a", 2, solved_at=800)
    assert row(capsys, tmp_path)[1][2:4] == ["2/3", ">= 700 (>= 300->= 800)"]


def test_episodes_are_paired_by_world_and_an_unsolved_run_counts_at_its_cap(tmp_path, capsys):
    for seed, (ours, theirs) in enumerate([(300, 500), (400, None), (700, 800)]):
        write_run(tmp_path, "a", seed, solved_at=ours)
        write_run(tmp_path, "b", seed, **({"solved_at": theirs} if theirs else {"returns": (0.0,), "solved_at": None}))
    runpy.run_path(str(BENCHMARKS / "worlds_table.py"))["main"]([str(tmp_path)], "b")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "| a | 3/3 | -300 [-957, 357] | 0.250 |"  # of -200, -600 (cap 1000) and -100
    with pytest.raises(RlcError, match="--against must be one of a, b"):
        runpy.run_path(str(BENCHMARKS / "worlds_table.py"))["main"]([str(tmp_path)], "c")


def test_seeds_of_one_problem_are_all_in_the_table_of_objectives(tmp_path, capsys):
    for seed in range(2):
        folder = write_run(tmp_path / "x", "mle", seed, exact=True)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        text = "".join(json.dumps({**line, "tv": 0.5, "sin_angle": 0.1}) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text)
    main = runpy.run_path(str(BENCHMARKS / "objectives_table.py"))["main"]
    assert main([str(tmp_path / "x")], None) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("| mle | 2 | 0.500")
    (tmp_path / "x").rename(tmp_path / "y")
    write_run(tmp_path / "z", "mle", 0, exact=True)
    with pytest.raises(RlcError, match="two runs of mle are of seed 0"):
        main([str(tmp_path)], None)


@pytest.mark.parametrize("table", ["deep_table", "games_table", "low_rank_table", "objectives_table"])
def test_a_row_with_a_run_that_did_not_finish_has_no_figures(tmp_path, capsys, table):
    world = {"env": "low-rank", "env_config": {"num_states": 50}}
    write_run(tmp_path, "mle", 0, exact=True, **world)
    lost = {"returns": (0.0,), "solved_at": None, "status": "failed", "error": "boom.", "exact": True}
    write_run(tmp_path, "mle", 1, **lost, **world)
    main = runpy.run_path(str(BENCHMARKS / f"{table}.py"))["main"]
    if table == "deep_table":
        code = main(argparse.Namespace(folders=[str(tmp_path)], terminal=False, within=20_000, at=float("inf")))
    elif table == "objectives_table":
        write_run(tmp_path, "mle, exact", 0, exact=True, **world)
        metrics = tmp_path / "mle, exact--low-rank" / "seed-0" / "metrics.jsonl"
        lines = [json.loads(line) | {"tv": 0.1, "sin_angle": 0.1} for line in metrics.read_text().splitlines()]
        metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        code = main([str(tmp_path)], None)
    else:
        code = main([str(tmp_path)])
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].strip("|").split("|")]
    assert code == 1
    assert "1 of 2" in cells
    assert set(cells[cells.index("1 of 2") + 1 :]) == {"-"}


def test_depth_is_the_last_of_each_run_and_paired_by_seed(tmp_path, capsys):
    for label, depths in (("a", (2.0, 3.0)), ("no bonus", (1.0, 1.5))):
        for seed, depth in enumerate(depths):
            folder = write_run(tmp_path, label, seed)
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            text = "\n".join(
                json.dumps(line | {"env/depth": depth * (k == len(lines) - 1)}) for k, line in enumerate(lines)
            )
            (folder / "metrics.jsonl").write_text(text + "\n")
    assert runpy.run_path(str(BENCHMARKS / "depth_table.py"))["main"]([str(tmp_path)], "") == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows[0].startswith("| a | 2 | 2.50 [-3.85, 8.85] | 2.00 | 1.25 [-1.93, 4.43] |")  # of 1 and 1.5
    assert rows[1].startswith("| no bonus | 2 | 1.25 [")


def test_steps_to_a_bar_are_those_of_the_first_of_two_evaluations_in_a_row(tmp_path, capsys):
    """500 steps to an evaluation: `a` is at .5 after 1000 and 500, `b` never (one evaluation alone) and after 1500."""
    for seed, returns in enumerate([(0.0, 0.6, 0.5, 0.9), (0.7, 0.7, 0.0, 0.7)]):
        write_run(tmp_path, "a", seed, returns=returns)
    for seed, returns in enumerate([(0.6, 0.0, 0.0, 0.6), (0.0, 0.0, 0.5, 0.5)]):
        write_run(tmp_path, "b", seed, returns=returns)
    main = runpy.run_path(str(BENCHMARKS / "bar_table.py"))["main"]
    assert main([str(tmp_path)], 0.5, "b") == 0
    a, b = ([cell.strip() for cell in line.split("|")[2:-1]] for line in capsys.readouterr().out.splitlines()[2:])
    assert a[:4] == ["a", "2", "2/2", "1k (0k to 1k)"]
    assert b[:4] == ["b", "2", "1/2", "never (2k to never)"]
    assert a[4:6] == ["0.80 [-0.47, 2.07]", "0.70"]
    assert a[7] == "-1 [-1, -1]"  # 1000 - 2000 steps, as b's first run counts at its end, and 500 - 1500
    assert a[8] == "0.25 [-0.39, 0.89]"  # .9 - .6 and .7 - .5
    assert b[7:] == ["-", "-"]
    assert main([str(tmp_path)], 0.5, "b", at=1000) == 0
    a, b = ([cell.strip() for cell in line.split("|")[2:-1]] for line in capsys.readouterr().out.splitlines()[2:])
    assert (a[2], b[2]) == ("1/2", "0/2")  # at the end of 1000 steps, `a` had one evaluation there in its first run
    assert a[4] == "0.65 [0.01, 1.29]"  # .6 and .7
    with pytest.raises(RlcError, match="--at must be a number of steps from 500 on"):
        main([str(tmp_path)], 0.5, "b", at=10)


def test_runs_of_other_seeds_are_compared_by_welchs_interval(tmp_path, capsys):
    for seed, returns in enumerate([(0.0, 0.6, 0.5, 0.9), (0.7, 0.7, 0.0, 0.7)]):
        write_run(tmp_path, "a", seed, returns=returns)
        write_run(tmp_path, "b", 10 + seed, returns=(0.0, 0.0, 0.5, 0.5 + 0.1 * seed))
    main = runpy.run_path(str(BENCHMARKS / "bar_table.py"))["main"]
    assert main([str(tmp_path)], 0.5, "b") == 0
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[2].split("|")[2:-1]]
    # 1000, 500 against 1500, 1500: variances 125 000, 0 of two runs make a standard error of 250 with one degree of
    # freedom, and its 97.5 % point of t is 12.706
    assert cells[7] == "-1 [-4, 2] (Welch)"
    assert cells[8].startswith("0.25 [")
    assert main([str(tmp_path)], 0.5, "") == 0
    assert len(capsys.readouterr().out.splitlines()[2].split("|")) == 10


def test_tables_refuse_what_they_would_mix_up(tmp_path):
    for name, env in (("one", "lock"), ("two", "lock"), ("three", "other")):
        write_run(tmp_path / name, "a", 0, env=env)
    depth, bar = (runpy.run_path(str(BENCHMARKS / f"{name}_table.py"))["main"] for name in ("depth", "bar"))
    with pytest.raises(RlcError, match=r"give runs of one environment; these are of lock.*; other"):
        depth([str(tmp_path / "one"), str(tmp_path / "three")], "")
    with pytest.raises(RlcError, match="records no env/depth"):
        depth([str(tmp_path / "one")], "")
    with pytest.raises(RlcError, match="--against must be one of a; got b"):
        bar([str(tmp_path / "one")], 0.5, "b")
    for name in ("one", "two"):
        with_columns(next((tmp_path / name).glob("*/seed-0")), {"env/depth": [1.0] * 4})
    assert depth([str(tmp_path / "one")], "") == 0
    twice = [str(tmp_path / "one"), str(tmp_path / "two")]
    with pytest.raises(RlcError, match=r"a has two runs of lock.* with seed 0"):
        depth(twice, "")
    with pytest.raises(RlcError, match=r"a has two runs of lock.* with seed 0"):
        bar(twice, 0.5, "")
    deep = runpy.run_path(str(BENCHMARKS / "deep_table.py"))["main"]
    with pytest.raises(RlcError, match=r"a has two runs of lock.* with seed 0"):
        deep(argparse.Namespace(folders=twice, terminal=False, within=20_000, at=float("inf")))


def test_a_run_that_was_killed_before_its_first_evaluation_is_shown_as_lost(tmp_path, capsys):
    folder = write_run(tmp_path, "a", 0)
    (folder / "metrics.jsonl").write_text("")
    (folder / "summary.json").unlink()
    assert runpy.run_path(str(BENCHMARKS / "bar_table.py"))["main"]([str(tmp_path)], 0.5, "") == 1
    assert "| a | 0 of 1 | - |" in capsys.readouterr().out


@pytest.mark.parametrize("table", ["games_table", "low_rank_table"])
def test_runs_of_other_worlds_get_a_sentence(tmp_path, table):
    folder = write_run(tmp_path, "mle", 0)
    command = [sys.executable, str(BENCHMARKS / f"{table}.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"{folder}: ")
    assert "no option num_states" in done.stderr
    assert "Traceback" not in done.stderr
