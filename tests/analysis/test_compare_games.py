"""Comparisons of two-player games: the headline is the duality gap, and every number is known beforehand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from run_folders import never, write_run

from rl_contrastive.analysis.compare import compare, load, render
from rl_contrastive.analysis.comparison import build
from rl_contrastive.analysis.runs import read_run
from rl_contrastive.errors import RlcError


def write_game(root: Path, agent: str, seed: int, gaps: tuple[float, ...], *, status: str = "finished", **more) -> Path:
    """A run of a game whose returns say nothing (0 always), with these gaps; solved means gap <= .05."""
    low = np.array(gaps) <= 0.05
    twice = np.flatnonzero(low[:-1] & low[1:])
    solved = 100 * (int(twice[0]) + 1) if len(twice) else None
    folder = write_run(root, agent, seed, env="duel", returns=(0.0,) * len(gaps), solved_at=solved, optimal=0.6,
                       status=status, **more)  # fmt: skip
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line, gap in zip(lines, gaps, strict=True):
        line |= {"gap": gap, "loss_max": gap / 2, "loss_min": gap / 2}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"players": [5, 5]}))
    return folder


def power_law(scale: float, exponent: float, n: int = 10) -> tuple[float, ...]:
    return tuple(float(g) for g in scale * (100.0 * np.arange(1, n + 1)) ** exponent)


def make_games(root: Path) -> None:
    for seed in range(4):
        write_game(root, "fast", seed, power_law(0.5 + 0.01 * seed, -0.5))
        write_game(root, "slow", seed, power_law(1.0 + 0.01 * seed, -0.1))


def test_games_are_compared_by_their_gap_and_lower_is_better(tmp_path):
    make_games(tmp_path)
    result = compare([tmp_path], tmp_path / "out", reps=100)
    (task,) = result["tasks"]
    assert (task["game"], task["headline"], task["improvement_measure"]) == (True, "gap", "lower final gap")
    fast, slow = task["groups"]
    assert (fast["agent"], slow["agent"]) == ("fast", "slow")
    assert fast["gap_slope"]["estimate"] == pytest.approx(-0.5, abs=1e-6)
    assert fast["gap_slope"]["low"] is None  # four runs
    assert slow["gap_slope"]["estimate"] == pytest.approx(-0.1, abs=1e-6)
    middle = [(0.5 + 0.01 * seed) * 1000**-0.5 for seed in (1, 2)]  # the IQM of four runs cuts the first and the last
    assert fast["final_gap"]["estimate"] == pytest.approx(np.mean(middle))
    assert "final_return" not in fast
    assert (fast["solved"], slow["solved"]) == (4, 0)
    assert fast["episodes_to_solve"]["runs"] == [100, 200, 200, 200]  # .5 / sqrt(100) = .05
    better = {(row["agent"], row["over"]): row["estimate"] for row in task["improvement"]}
    assert better == {("fast", "slow"): 1.0, ("slow", "fast"): 0.0}
    text = (tmp_path / "out" / "table.md").read_text()
    assert "## duel (Nash value 0.6)" in text
    assert "Final gap: IQM [95% CI] | Log-log slope of the gap" in text
    assert "in a game the exact duality gap of the bonus-free policies is at most 0.05" in text
    figures = {p.stem for p in (tmp_path / "out").glob("*.png")}
    assert figures == {"gap", "episodes-to-solve", "improvement"}  # returns of self-play are not drawn
    assert "Final gap" in (tmp_path / "out" / "index.html").read_text()


def test_another_gap_judges_the_recorded_evaluations(tmp_path):
    runs = [read_run(write_game(tmp_path, "a", 0, (0.5, 0.2, 0.09, 0.08, 0.04, 0.03)))]
    for solve_gap, count in ((0.05, 500), (0.1, 300)):
        (task,) = build(runs, bar=0.9, solve_gap=solve_gap, reps=5, seed=0)
        assert task.groups[0].counts.tolist() == [count]
    (task,) = build(runs, bar=0.9, solve_gap=0.01, reps=5, seed=0)
    assert task.groups[0].solved == (False,)
    with pytest.raises(RlcError, match="solve_gap must be > 0"):
        compare([tmp_path], tmp_path / "out", solve_gap=0.0)


def test_a_failed_run_of_a_game_counts_with_the_largest_gap(tmp_path):
    make_games(tmp_path)
    write_game(tmp_path, "fast", 9, (0.04, 0.01), status="failed", error="The env raised: boom.")
    (task,) = load([tmp_path], reps=50)
    fast = next(group for group in task.groups if group.agent == "fast")
    worst = 1.03 * 100**-0.1  # slow's first evaluation
    assert fast.finals[-1] == pytest.approx(worst)
    assert not fast.solved[-1]
    assert fast.curve is not None
    assert fast.exact["gap"] is fast.curve
    # Negative control for the slope: the failed run's steep drop is no part of it.
    assert fast.slope is not None
    assert fast.slope.estimate == pytest.approx(-0.5, abs=1e-6)


def test_a_killed_run_of_a_game_is_still_one(tmp_path):
    folder = write_game(tmp_path, "a", 0, (0.5, 0.4, 0.3))
    (folder / "summary.json").unlink()
    (task,) = load([tmp_path], reps=5)
    assert (task.game, task.headline.key) == (True, "gap")
    assert task.groups[0].finals.tolist() == [0.5]  # unfinished: the worst


def test_a_gap_that_vanishes_has_no_slope_but_is_drawn(tmp_path):
    write_game(tmp_path, "exact", 0, (0.5, 0.1, 0.0, 0.0))
    write_game(tmp_path, "exact", 1, (0.5, 0.1, 0.0, 0.0))
    result = compare([tmp_path], tmp_path / "out", reps=5)
    (group,) = result["tasks"][0]["groups"]
    assert group["gap_slope"] is None
    assert group["final_gap"]["estimate"] == 0.0
    assert (tmp_path / "out" / "gap.png").exists()


def test_returns_of_self_play_rank_nothing(tmp_path):
    for agent, value in (("a", 1.0), ("b", -1.0)):
        folder = write_run(tmp_path, agent, 0, env="rps", returns=(value,) * 4, solved_at=None, optimal=None)
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | {"players": [3, 3]}))
    result = compare([tmp_path], tmp_path / "out", reps=5)
    (task,) = result["tasks"]
    assert (task["game"], task["headline"], task["improvement"]) == (True, "return_mean", [])
    assert any("rlc matches" in note for note in result["notes"])
    assert not (tmp_path / "out" / "sample-efficiency.png").exists()


def test_games_and_other_tasks_share_a_page(tmp_path):
    from rich.console import Console

    make_games(tmp_path)
    never(tmp_path, "slow", 0)
    compare([tmp_path], tmp_path / "out", reps=5)
    table = [line for line in (tmp_path / "out" / "table.md").read_text().splitlines() if line.startswith("| Agent")]
    assert ["Final gap" in line for line in table] == [True, False]
    assert {p.stem for p in (tmp_path / "out").glob("*.png")} >= {"gap", "sample-efficiency"}
    console = Console(width=260, record=True, file=io.StringIO())
    console.print(render(load([tmp_path], reps=5)))
    assert "Final return or gap" in console.export_text()
