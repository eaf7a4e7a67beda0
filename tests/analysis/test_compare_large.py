"""Comparisons of many runs, long records and odd names: quick, small, readable, and nothing said that is not known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from plotly.offline import get_plotlyjs
from run_folders import never, with_columns, write_run

from rl_contrastive.analysis import drawing
from rl_contrastive.analysis.compare import compare, load
from rl_contrastive.analysis.curves import FEWEST, MOST_POINTS, common_grid, spread
from rl_contrastive.analysis.groups import SLOPE_FROM
from rl_contrastive.analysis.runs import read_run
from rl_contrastive.cli import main


def test_a_long_record_is_thinned_and_its_ends_are_kept(tmp_path):
    folder = write_run(tmp_path, "a", 0, solved_at=None, cap=10**6)
    n = 20 * MOST_POINTS
    lines = [{"episodes": i, "env_steps": 5 * i, "return_mean": i / n, "gap": 1.1 - i / n} for i in range(1, n + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = compare([tmp_path], tmp_path / "out", reps=10)
    (group,) = result["tasks"][0]["groups"]
    assert group["area_under_curve"]["estimate"] == pytest.approx(0.5, abs=1e-3)  # of a straight line, thinned or not
    assert (tmp_path / "out" / "index.html").stat().st_size - len(get_plotlyjs().encode()) < 500_000
    series = read_run(folder).series
    assert len(series["episodes"]) == n


def test_solved_is_judged_before_a_record_is_thinned(tmp_path):
    n = 3 * MOST_POINTS
    returns = np.zeros(n)
    returns[1000:1002] = 0.7  # twice in a row, at lines that thinning would leave out
    write_run(tmp_path, "a", 0, returns=tuple(returns), every=1, solved_at=None, cap=n)
    (group,) = compare([tmp_path], tmp_path / "out", reps=10, bar=0.6)["tasks"][0]["groups"]
    assert group["episodes_to_solve"]["runs"] == [1001]


def test_numbers_are_of_all_evaluations_and_curves_of_some(tmp_path):
    """What happens once, between two points of the curve, is in the worst value, area, slope and last of a metric."""
    n = 2 * MOST_POINTS
    kept = spread(n, MOST_POINTS)
    once = int(np.setdiff1d(np.arange(n // 2, n), kept)[0])
    returns = np.zeros(n)
    returns[once] = -5.0
    folder = write_run(tmp_path / "one", "a", 0, returns=tuple(returns), every=1, solved_at=None, cap=n)
    with_columns(folder, {"tv": [0.3 if i == once else None for i in range(n)]})
    write_run(tmp_path / "one", "a", 1, returns=(0.0,), every=1, solved_at=None, cap=n, status="failed", error="Lost.")
    (task,) = load([tmp_path / "one"], reps=10, metric="tv")
    (group,) = task.groups
    assert group.finals.tolist() == [0.0, -5.0]  # a failed run counts as the worst that any run recorded
    # The failed one is at the worst from its second evaluation on.
    mean = -5.0 * np.array([1.0, n - 1.5]) / (n - 1)
    assert group.area.estimate == pytest.approx(mean.mean())
    assert group.metric.finals.tolist() == [0.3]
    assert len(group.curve.x) <= MOST_POINTS
    assert group.curve.x[-1] == n


def test_a_slope_is_of_all_evaluations(tmp_path):
    n = 2 * MOST_POINTS
    x, kept = np.arange(1.0, n + 1), spread(n, MOST_POINTS)
    gap = x**-0.5
    gap[np.setdiff1d(np.arange(n - n // 10, n), kept)] /= 2.0
    folder = write_run(tmp_path, "a", 0, returns=(0.0,) * n, every=1, solved_at=None, cap=n)
    with_columns(folder, {"gap": gap.tolist(), "loss_max": gap.tolist()})
    (task,) = load([tmp_path], reps=10)
    late = slice(int(np.ceil(SLOPE_FROM * n)) - 1, None)
    expected = np.polyfit(np.log(x[late]), np.log(gap[late]), 1)[0]
    assert task.groups[0].slope.estimate == pytest.approx(expected, abs=1e-5)
    few = kept[x[kept] >= SLOPE_FROM * n]
    assert abs(np.polyfit(np.log(x[few]), np.log(gap[few]), 1)[0] - expected) > 0.01


def test_a_grid_is_what_its_definition_says():
    """Of all counts, those between which each run was evaluated again or has ended."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = [np.unique(rng.integers(0, 40, size=rng.integers(1, 12))).astype(float) for _ in range(3)]
        first, last = float(rng.integers(0, 20)), float(rng.choice([rng.integers(10, 45), np.inf]))
        seen, grid = [0, 0, 0], []
        for at in sorted({float(x) for each in counts for x in each if first <= x <= last}):
            done = [int((each <= at).sum()) for each in counts]
            if all(now > then or then == len(each) for now, then, each in zip(done, seen, counts, strict=True)):
                grid, seen = [*grid, at], done
        assert common_grid(counts, first, last).tolist() == grid


def test_figures_show_what_a_page_can_hold_and_tables_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "MOST_PANELS", 2)
    monkeypatch.setattr(drawing, "MOST_AGENTS", 3)
    for env in ("e1", "e2", "e3"):
        for agent in "abcde":
            write_run(tmp_path, agent, 0, env=env, solved_at=300 + 10 * "abcde".index(agent))
    said = []
    result = compare([tmp_path], tmp_path / "out", reps=10, say=said.append)
    assert len(result["tasks"]) == 3
    assert [len(task["groups"]) for task in result["tasks"]] == [5, 5, 5]
    assert any("Figures show the first 2 of 3 tasks and at most 3 agents" in note for note in result["notes"])
    svg = (tmp_path / "out" / "sample-efficiency.svg").read_text()
    assert ">c (n=1)<" in svg
    assert ">d (n=1)<" not in svg
    assert said[0] == "reading the runs: 0 of 15"
    assert "drawing sample-efficiency" in said


def test_nothing_is_solved_where_the_best_return_is_not_known(tmp_path):
    for seed in range(2):
        never(tmp_path, "a", seed, optimal=None)
    result = compare([tmp_path], tmp_path / "out", reps=10)
    (group,) = result["tasks"][0]["groups"]
    assert (group["solved"], group["episodes_to_solve"], group["env_steps_to_solve"]) == (None, None, None)
    assert not (tmp_path / "out" / "episodes-to-solve.svg").exists()
    assert "0/2" not in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize("n", [1, 3, FEWEST - 1, FEWEST])
def test_few_runs_have_no_interval(tmp_path, n):
    for seed in range(n):
        never(tmp_path, "a", seed)
    result = compare([tmp_path], tmp_path / "out", reps=10)
    (group,) = result["tasks"][0]["groups"]
    text = (tmp_path / "out" / "table.md").read_text()
    assert ("[n < 5: no interval]" in text) == (n < FEWEST) == (group["final_return"]["low"] is None)


@pytest.mark.parametrize("label", ["$x^{$", "cost $5 or $6", "a_b^c", "\\frac{", "$\\alpha$"])
def test_a_name_is_text_as_it_is_written(tmp_path, label):
    for seed in range(2):
        write_run(tmp_path / str(seed), "a", seed, env=label)
        config = json.loads(next((tmp_path / str(seed)).rglob("config.json")).read_text())
        next((tmp_path / str(seed)).rglob("config.json")).write_text(json.dumps(config | {"label": label}))
    compare([tmp_path], tmp_path / "out", reps=10)
    assert not list((tmp_path / "out").glob("*.part"))
    assert f">{label} (n=2)<" in (tmp_path / "out" / "sample-efficiency.svg").read_text()


def test_text_stays_text_in_svg_and_pdf(tmp_path, capsys):
    write_run(tmp_path, "a", 0)
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "out"), "--pdf", "--reps", "10"]) == 0
    assert capsys.readouterr().err.count("rlc: --pdf is now called --format pdf.") == 1
    assert b"/FontFile2" in (tmp_path / "out" / "sample-efficiency.pdf").read_bytes()  # a font, not drawn outlines
    assert "<text" in (tmp_path / "out" / "sample-efficiency.svg").read_text()
    before = (tmp_path / "out" / "sample-efficiency.pdf").read_bytes()
    compare([tmp_path], tmp_path / "again", reps=10, paper=drawing.Paper("pdf"))
    assert (tmp_path / "again" / "sample-efficiency.pdf").read_bytes() == before


def test_numbers_that_no_float_holds_are_a_failed_run(tmp_path):
    folder = write_run(tmp_path, "a", 0)
    (folder / "metrics.jsonl").write_text('{"episodes": 1%s, "return_mean": 1.0}\n' % ("0" * 400))
    assert "no number 'episodes' in line 1" in (read_run(folder).error or "")


def test_without_a_terminal_a_line_comes_every_half_minute(monkeypatch, capsys):
    from rl_contrastive.runs import progress

    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    say = progress.Occasionally(30.0)
    for clock[0] in (1.0, 29.0, 30.5, 31.0, 61.0):
        say(f"at {clock[0]:g}")
    assert capsys.readouterr().err == "rlc: at 30.5\nrlc: at 61\n"
