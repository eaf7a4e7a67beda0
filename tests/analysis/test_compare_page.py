"""What the page holds: any metric, thinned curves, differences of configurations; and figures for papers."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from PIL import Image
from run_folders import with_columns, write_run

from rl_contrastive.analysis import page_data
from rl_contrastive.analysis.compare import compare, load
from rl_contrastive.analysis.config_table import differences
from rl_contrastive.analysis.drawing import Paper, agents_of, inches
from rl_contrastive.analysis.tables import Table
from rl_contrastive.cli import main
from rl_contrastive.errors import RlcError


def with_options(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def data_of(tasks):
    return page_data.data(tasks, agents_of(tasks), bar=0.9, solve_gap=0.05)


def test_a_metric_gets_a_column_a_figure_and_a_note(tmp_path):
    for seed in range(4):
        folder = write_run(tmp_path, "a", seed)
        with_columns(folder, {"agent/error": [0.4, 0.3, None, 0.1 * seed]})
    write_run(tmp_path, "b", 0)
    plain = compare([tmp_path], tmp_path / "plain", reps=20)
    result = compare([tmp_path], tmp_path / "out", reps=20, metric="agent/error")
    groups = {group["agent"]: group for group in result["tasks"][0]["groups"]}
    assert groups["a"]["metric"]["estimate"] == pytest.approx(0.15)  # the middle two of 0, .1, .2, .3
    assert groups["a"]["metric"]["n"] == 4
    assert "metric" not in groups["b"]
    text = (tmp_path / "out" / "table.md").read_text()
    assert "Last agent/error: IQM [95% CI]" in text
    assert "nothing says which values are bad" in text
    assert (tmp_path / "out" / "metric-agent-error.png").is_file()
    # No other number moves, and the figure of an earlier call goes when it is not asked for again.
    same = [{k: v for k, v in group.items() if k != "metric"} for group in result["tasks"][0]["groups"]]
    assert same == plain["tasks"][0]["groups"]
    compare([tmp_path], tmp_path / "out", reps=20)
    assert not list((tmp_path / "out").glob("metric-*"))


def test_an_unknown_metric_is_told_what_was_recorded(tmp_path, capsys):
    write_run(tmp_path / "runs", "a", 0, exact=True)
    assert main(["compare", str(tmp_path / "runs"), "--metric", "regert", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "unknown metric 'regert'; did you mean 'regret'? Allowed: gap, regret, return_mean, return_sem" in said
    assert not (tmp_path / "out").exists()


def test_the_page_has_every_scalar_over_episodes_steps_and_seconds(tmp_path):
    for seed in range(2):
        folder = write_run(tmp_path, "a", seed, returns=(0.0, 0.5, 1.0 + seed, 1.0 + seed))
        with_columns(folder, {"tv": [None, 0.4, 0.2, 0.1]})
        timing = [{"episodes": e, "env_steps": 5 * e, "wall_s": (1 + seed) * e / 100} for e in (100, 200, 300, 400)]
        (folder / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timing))
    data = data_of(load([tmp_path], reps=10))
    assert data["metrics"] == data["menu"] == ["return_mean", "return_sem", "tv"]
    assert data["note"] == ""
    (group,) = data["tasks"][0]["groups"]
    grid = group["grids"][group["curves"]["return_mean"]["grid"]]
    assert grid == {
        "episodes": [100, 200, 300, 400],
        "env_steps": [500, 1000, 1500, 2000],
        "wall_s": [1.5, 3, 4.5, 6],
    }
    assert group["curves"]["return_mean"]["mid"] == [0, 0.5, 1.5, 1.5]
    assert "low" not in group["curves"]["return_mean"]  # two runs
    assert group["curves"]["tv"]["mid"] == [0.4, 0.2, 0.1]
    assert group["grids"][group["curves"]["tv"]["grid"]]["episodes"] == [200, 300, 400]
    assert group["runs"][1]["y"]["tv"] == [None, 0.4, 0.2, 0.1]
    assert group["runs"][1]["x"]["wall_s"] == [2, 4, 6, 8]
    assert data["tasks"][0]["bars"] == {"return_mean": [0.9, "bar: 0.9 of optimal"]}


def test_a_large_comparison_is_thinned_and_says_so(tmp_path, monkeypatch):
    for agent in "ab":
        for seed in range(6):
            write_run(tmp_path, agent, seed, returns=tuple(np.linspace(0, 1, 500)), solved_at=None, exact=True)
    tasks = load([tmp_path], reps=10)
    monkeypatch.setattr(page_data, "NUMBERS", 3000)
    used, data = page_data.plan(tasks), data_of(tasks)
    assert (used.runs, used.run_points, used.run_metrics) == (3, 50, ("return_mean", "gap"))
    assert used.points * 2 * 3 * 5 <= 1500  # two agents, five metrics: a line and two edges of a band each
    assert data["note"].startswith("This comparison is large: curves of agents are thinned to ")
    assert "3 runs of an agent on a task can be seen one by one" in data["note"]
    numbers = len(re.findall(r"[\d.e-]+", json.dumps(data["tasks"])))
    assert numbers < 2 * 3000
    for group in data["tasks"][0]["groups"]:
        assert group["curves"]["return_mean"]["mid"][-1] == 1  # ends are kept


def test_five_digits_and_no_nan():
    assert page_data.values(np.array([1234567.0, 0.123456789, math.nan])) == [1234567, 0.12346, None]


def test_only_options_that_differ_on_a_task_are_listed(tmp_path):
    for i, (agent, rate) in enumerate((("a", 0.1), ("b", 0.2), ("b", 0.3))):
        for horizon in (5, 10):
            folder = write_run(tmp_path / str(i), agent, i, env=f"e{horizon}", env_config={"horizon": horizon})
            with_options(folder, agent_config={"learner": {"rate": rate}, "batch": 1}, eval_every=100 * (i > 0))
    table = differences(load([tmp_path], reps=5))
    assert table.columns[0] == "Option"
    rows = {row[0]: dict(zip(table.columns[1:], row[1:], strict=True)) for row in table.rows}
    assert rows == {
        "eval_every": {"a": "0", "b": "100"},
        "agent.learner.rate": {"a": "0.1", "b": "0.2, 0.3"},
    }  # neither horizon, which tells the tasks apart, nor seeds
    compare([tmp_path], tmp_path / "out", reps=5)
    assert "agent.learner.rate" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.long
@pytest.mark.parametrize(("width", "value"), [("column", 3.25), ("text", 6.75), ("5.5", 5.5)])
def test_figures_for_a_paper_have_its_width(tmp_path, width, value):
    for agent in ("a", "contrastive-frontier, a long name"):
        write_run(tmp_path / "runs", agent, 0, exact=True)
        write_run(tmp_path / "runs", agent, 1, env="other")
    out = tmp_path / "out"
    assert main(["compare", str(tmp_path / "runs"), "--out", str(out), "--reps", "5", "--width", width]) == 0
    pdf = (out / "paper" / "sample-efficiency.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", pdf)
    assert box is not None
    assert float(box.group(1)) == pytest.approx(72 * value, abs=0.01)
    assert "**sample-efficiency** Line: IQM over runs" in (out / "paper" / "captions.md").read_text()
    compare([tmp_path / "runs"], out, reps=5, paper=Paper("png", value))
    assert Image.open(out / "paper" / "improvement.png").width == pytest.approx(300 * value, abs=1)


def test_words_of_an_svg_are_text_or_outlines(tmp_path):
    write_run(tmp_path, "a", 0)
    for kind in ("text", "path"):
        compare([tmp_path], tmp_path / kind, reps=5, paper=Paper("svg", 3.25, kind))
        svg = (tmp_path / kind / "paper" / "sample-efficiency.svg").read_text()
        assert ("<text" in svg) == (kind == "text")
        assert 'width="234pt"' in svg
        sizes = [float(size) for size in re.findall(r"font: ([\d.]+)px", svg)]
        assert all(6 < size < 9.5 for size in sizes)


@pytest.mark.parametrize("width", ["wide", "0.2", "nan", "50"])
def test_a_width_that_is_none_is_one_sentence(width):
    with pytest.raises(RlcError, match=r"column \(3.25 in\), text \(6.75 in\) or inches from 1 to 20"):
        inches(width)


def test_svg_text_belongs_to_svg(tmp_path, capsys):
    write_run(tmp_path, "a", 0)
    assert main(["compare", str(tmp_path), "--svg-text", "path", "--format", "pdf"]) == 2
    assert "--svg-text needs --format svg" in capsys.readouterr().err


def test_one_table_in_two_forms():
    table = Table("t", ("name", "n"), [("a|b", "1"), ("c [x]", "20")], text_columns=1)
    assert table.markdown() == ["| name  |  n |", "| ----- | -: |", "| a\\|b  |  1 |", "| c [x] | 20 |"]
    assert [column.justify for column in table.rich().columns] == ["left", "right"]
    with pytest.raises(RlcError, match="has not 2 cells"):
        Table("t", ("a", "b"), [("1",)])
