"""Comparisons of synthetic run folders, whose every number is known beforehand; damaged folders count as failed."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from run_folders import never, write_run

from rl_contrastive.analysis import curve_plots, drawing, plots, solve_plots, tables
from rl_contrastive.analysis.compare import compare, load, render
from rl_contrastive.analysis.comparison import build, task_names
from rl_contrastive.analysis.comparison_tables import optimum
from rl_contrastive.analysis.curves import common_end, common_grid
from rl_contrastive.analysis.notes import notes
from rl_contrastive.analysis.runs import find_runs, read_run
from rl_contrastive.analysis.statistics import Interval
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.budget import Budget
from rl_contrastive.runs.run_config import RunConfig, config_json

PNG = b"\x89PNG\r\n\x1a\n"


def test_numbers_of_a_comparison(tmp_path):
    for seed, at in enumerate([200, 300, 400]):
        returns = (0.0,) * (at // 100 - 1) + (1.0, 1.0)
        write_run(tmp_path, "fast", seed, returns=returns, solved_at=at)
    write_run(tmp_path, "slow", 0, returns=(0.0,) * 7 + (1.0, 1.0), solved_at=800)
    never(tmp_path, "slow", 1)
    never(tmp_path, "slow", 2)
    result = compare([tmp_path], tmp_path / "out", reps=200)
    (task,) = result["tasks"]
    fast, slow = task["groups"]
    assert (fast["agent"], slow["agent"]) == ("fast", "slow")  # best first
    assert fast["episodes_to_solve"]["median"] == 300
    assert not fast["episodes_to_solve"]["median_censored"]
    assert (slow["n"], slow["solved"], slow["episodes_to_solve"]["median"]) == (3, 1, 1000)
    assert slow["episodes_to_solve"]["median_censored"]
    assert fast["env_steps_to_solve"]["median"] == 1500
    assert slow["final_return"]["estimate"] == pytest.approx((1.0 + 0.1 + 0.1) / 3)
    better = {(row["agent"], row["over"]): row["estimate"] for row in task["improvement"]}
    assert better == {("fast", "slow"): 1.0, ("slow", "fast"): 0.0}
    assert task["improvement_measure"] == "fewer episodes to solve"
    assert result == json.loads((tmp_path / "out" / "compare.json").read_text())


def test_curves_keep_the_last_value_of_solved_runs_and_mark_the_stops(tmp_path):
    write_run(tmp_path, "a", 0, returns=(0.0, 1.0, 1.0), solved_at=200)
    write_run(tmp_path, "a", 1, returns=(0.0, 0.0, 0.0, 0.5, 1.0, 1.0), solved_at=500)
    (task,) = load([tmp_path], reps=50)
    curve = task.groups[0].curve
    assert curve.x.tolist() == [100, 200, 300, 400, 500, 600]
    assert curve.centre.tolist() == [0.0, 0.5, 0.5, 0.75, 1.0, 1.0]
    assert curve.stops == (300.0,)  # seed 1 goes on to the end of the panel
    assert curve.solid_to == 600
    assert task.clock == "episodes"


def test_a_curve_goes_to_the_last_evaluation_of_equal_budgets_and_not_beyond_a_smaller_one():
    late = [np.array([100.0, 205.0, 302.0]), np.array([101.0, 200.0, 307.0]), np.array([100.0, 200.0, 300.0])]
    assert common_end(late, np.inf) == 307  # a budget of 300, used up with an episode
    assert common_end(late, 305) == 305
    longer = np.array([100.0, 200.0, 300.0, 400.0, 500.0])
    assert common_end([*late, longer], np.inf) == 307
    assert common_end([longer, np.array([250.0])], np.inf) == 250  # one evaluation tells no interval
    assert common_end([], 400) == 400


def test_a_curve_has_points_where_each_run_was_evaluated_anew():
    """Evaluations due at 100, 200, 300 that came a little later: no point between the first and the last of a kind."""
    counts = [np.array([100.0, 203.0, 300.0]), np.array([102.0, 200.0, 305.0])]
    assert common_grid(counts, 102.0, 305.0).tolist() == [102, 203, 305]
    assert common_grid(counts, 102.0, 304.0).tolist() == [102, 203]
    short = np.array([101.0, 201.0])  # it ended there, and is waited for no longer
    assert common_grid([*counts, short], 102.0, 305.0).tolist() == [102, 203, 305]
    rare = np.array([102.0, 305.0])
    assert common_grid([*counts, rare], 102.0, 305.0).tolist() == [102, 305]


def test_budgets_in_steps_are_drawn_over_steps(tmp_path):
    write_run(tmp_path, "a", 0, returns=(0.0, 1.0), solved_at=None, steps=1000)
    write_run(tmp_path, "b", 0, returns=(0.5, 0.5), every=60, solved_at=None, steps=600)
    (task,) = load([tmp_path], reps=50)
    assert task.clock == "env_steps"
    curves = {group.agent: group.curve for group in task.groups}
    assert curves["a"].x.tolist() == [500, 1000]
    assert curves["b"].x.tolist() == [300, 600]
    axis = curve_plots.learning_curves([task], ["a", "b"], bar=0.9).axes[0]
    assert axis.get_xlabel() == "environment steps"
    write_run(tmp_path, "c", 0, returns=(0.0, 1.0), solved_at=None)  # one budget in episodes: nothing else is shared
    (task,) = load([tmp_path], reps=50)
    assert task.clock == "episodes"
    assert curve_plots.learning_curves([task], ["a", "b", "c"], bar=0.9).axes[0].get_xlabel() == "episodes"


def test_a_failed_run_counts_and_never_flatters(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "a", seed, returns=(0.2, 1.0, 1.0), solved_at=200)
    # It had solved the task before it broke: a failed run is unsolved all the same.
    write_run(tmp_path, "a", 3, returns=(0.9, 1.0), solved_at=100, status="failed", error="The env raised: boom.")
    result = compare([tmp_path], tmp_path / "out", reps=50)
    (group,) = result["tasks"][0]["groups"]
    assert (group["n"], group["failed"], group["solved"]) == (4, 1, 3)
    assert group["episodes_to_solve"]["runs"] == [200, 200, 200, 1000]
    assert group["final_return"]["runs"] == [1.0, 1.0, 1.0, 0.2]  # the lowest return recorded on the task
    assert result["failed"] == ["failed: a on lock, seed 3: The env raised: boom."]
    for name in ("table.md", "index.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "The env raised: boom." in text
        assert "4 (1 failed)" in text
        assert "3/4" in text


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "summary.json").unlink(), "summary.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not valid JSON"),
        (lambda f: (f / "config.json").write_text("[1]"), "config.json holds no JSON object"),
        (
            lambda f: (f / "metrics.jsonl").write_text('{"episodes": 1, "ret'),
            "metrics.jsonl is not valid JSON in line 1",
        ),
        (lambda f: (f / "metrics.jsonl").write_text('{"episodes": 1, "return_mean": NaN}'), "no finite 'return_mean'"),
        (lambda f: (f / "metrics.jsonl").write_bytes(b"\x80\x04pickle"), "metrics.jsonl cannot be read"),
        (lambda f: (f / "metrics.jsonl").write_text(""), "holds no evaluation"),
        (lambda f: (f / "summary.json").write_text('{"status": "great"}'), "unknown status 'great'"),
        (lambda f: [p.unlink() for p in f.iterdir()], "config.json is missing"),
    ],
)
def test_a_damaged_folder_is_a_failed_run_with_a_sentence(tmp_path, damage, words):
    for seed in range(3):
        write_run(tmp_path, "a", seed)
    damage(tmp_path / "a--lock" / "seed-1")
    (task,) = load([tmp_path], reps=20)
    (group,) = task.groups
    assert len(group.runs) == 3
    status = "aborted" if words == "summary.json is missing" else "failed"
    assert [run.status for run in group.runs] == ["finished", status, "finished"]
    assert words in (group.runs[1].error or "")
    assert group.runs[1].seed == 1
    assert group.episodes.solved == 2


def test_only_failed_runs_still_give_a_page(tmp_path):
    folder = write_run(tmp_path, "a", 0)
    (folder / "metrics.jsonl").unlink()
    (folder / "summary.json").unlink()
    result = compare([tmp_path], tmp_path / "out", reps=20)
    assert result["tasks"][0]["groups"][0]["final_return"] is None
    assert "metrics.jsonl is missing" in (tmp_path / "out" / "index.html").read_text()


def test_a_run_that_failed_before_its_first_evaluation_says_why(tmp_path):
    folder = write_run(tmp_path, "a", 0, status="failed", error="The env raised: boom.")
    (folder / "metrics.jsonl").write_text("")
    assert read_run(folder).error == "The env raised: boom. metrics.jsonl holds no evaluation."


def test_a_gap_that_is_0_throughout_still_gives_a_page(tmp_path):
    """A logarithmic axis has no place for it."""
    folder = write_run(tmp_path, "a", 0, exact=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.update(gap=0.0, regret=0.0)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    compare([tmp_path], tmp_path / "out", reps=20)
    assert (tmp_path / "out" / "gap.png").is_file()


def test_no_run_is_one_sentence(tmp_path):
    with pytest.raises(RlcError, match="no run folder"):
        compare([tmp_path], tmp_path / "out")
    with pytest.raises(RlcError, match="no folder"):
        compare([tmp_path / "absent"], tmp_path / "out")
    write_run(tmp_path)
    with pytest.raises(RlcError, match="bar"):
        compare([tmp_path], tmp_path / "out", bar=1.5)
    (tmp_path / "file").write_text("")
    with pytest.raises(RlcError, match="cannot write"):
        compare([tmp_path / "ucb--lock"], tmp_path / "file", reps=5)


@pytest.mark.parametrize("steps", [None, 50_000])
def test_a_run_that_failed_early_is_never_the_fastest_in_either_unit(tmp_path, steps):
    """Two runs solve at 300 and 200 episodes, the third one fails after 10."""
    write_run(tmp_path, "a", 0, solved_at=300, steps=steps)
    write_run(tmp_path, "a", 1, solved_at=200, steps=steps)
    write_run(tmp_path, "a", 2, returns=(0.1,), every=10, solved_at=None, status="failed", error="x", steps=steps)
    caps = {"step_cap": steps, "episode_cap": None if steps else 1000}
    for path in tmp_path.rglob("summary.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | caps))
    group = build([read_run(p) for p in find_runs([tmp_path])], bar=0.9, reps=5, seed=0)[0].groups[0]
    assert group.steps is not None
    assert (group.episodes.low, group.episodes.median) == (200, 300)
    assert (group.steps.low, group.steps.median) == (1000, 1500)
    # At the cap of its own unit; in the other one, where none is known, with the slowest.
    assert (group.episodes.high, group.steps.high) == ((1000, 1500) if steps is None else (300, 50_000))
    assert group.episodes.high_censored
    assert group.steps.high_censored


def test_an_option_newer_than_a_record_does_not_make_another_task(tmp_path):
    """One record of low-rank lacks `stationary`, the other has its default; a third one differs in it."""
    write_run(tmp_path, "a", 0, env="low-rank", env_config={"num_states": 9})
    write_run(tmp_path, "a", 1, env="low-rank", env_config={"num_states": 9, "stationary": False})
    assert set(task_names([read_run(p) for p in find_runs([tmp_path])])) == {"low-rank"}
    write_run(tmp_path, "b", 0, env="low-rank", env_config={"num_states": 9, "stationary": True})
    names = task_names([read_run(p) for p in find_runs([tmp_path])])
    assert names == ["low-rank stationary=False"] * 2 + ["low-rank stationary=True"]


def test_runs_are_found_once_below_any_folder(tmp_path):
    write_run(tmp_path, "a", 0)
    write_run(tmp_path, "a", 10)
    two = write_run(tmp_path, "a", 2)
    assert [p.name for p in find_runs([tmp_path, two])] == ["seed-0", "seed-2", "seed-10"]


def test_tasks_are_told_apart_by_settings_but_not_by_their_seeds(tmp_path):
    write_run(tmp_path, "a", 0, env_config={"horizon": 5, "lock_seed": 0})
    write_run(tmp_path, "a", 1, env_config={"horizon": 5, "lock_seed": 1})
    write_run(tmp_path, "b", 0, env_config={"horizon": 10, "lock_seed": 0})
    names = task_names([read_run(p) for p in find_runs([tmp_path])])
    assert names == ["lock horizon=5", "lock horizon=5", "lock horizon=10"]


def test_another_bar_judges_the_recorded_evaluations(tmp_path):
    runs = [read_run(write_run(tmp_path, "a", 0, returns=(0.5, 0.92, 0.93, 0.97, 0.98), solved_at=200))]
    assert build(runs, bar=0.9, reps=5, seed=0)[0].groups[0].counts.tolist() == [200]
    assert build(runs, bar=0.95, reps=5, seed=0)[0].groups[0].counts.tolist() == [400]
    strict = build(runs, bar=0.99, reps=5, seed=0)[0].groups[0]
    assert (strict.solved, strict.counts.tolist()) == ((False,), [500])  # it stopped: nothing is known behind


def test_cap_and_bar_are_read_from_the_config_that_a_run_records(tmp_path):
    budget = Budget(episodes=700, solve_at=0.5, eval_episodes=10)
    config = RunConfig(agent="a", env="lock", agent_config={}, env_config={"horizon": 5}, seed=0, budget=budget)
    folder = write_run(tmp_path, "a", 0, returns=(0.0, 0.6, 0.6, 0.95, 0.95), solved_at=200)
    (folder / "config.json").write_text(json.dumps(config_json(config, "rlc run")))
    assert build([read_run(folder)], bar=0.5, reps=5, seed=0)[0].groups[0].counts.tolist() == [200]
    assert build([read_run(folder)], bar=0.9, reps=5, seed=0)[0].groups[0].counts.tolist() == [400]
    (folder / "summary.json").unlink()
    killed = build([read_run(folder)], bar=0.5, reps=5, seed=0)[0].groups[0]
    assert killed.counts.tolist() == [700]
    assert killed.steps is not None
    assert killed.steps.median == 2500  # those of its last evaluation


def test_tasks_come_in_the_order_of_their_numbers_and_titles_are_words(tmp_path):
    for horizon in (100, 5, 20):
        write_run(tmp_path, "a", 0, env=f"lock,num_actions=4,horizon={horizon}", env_config={"horizon": horizon})
    write_run(tmp_path, "a", 0, env="gym:Foo-v1")
    headings = [task.heading for task in load([tmp_path], reps=5)]
    assert headings == ["gym:Foo-v1", *(f"lock, num actions 4, horizon {h}" for h in (5, 20, 100))]


def test_worlds_of_a_family_are_pooled(tmp_path):
    """A sweep over lock_seed names it in the task; seed 0 of the run is that of each lock, and runs pair by lock."""
    for agent, solved in (("a", 300), ("b", 400)):
        for lock in range(5):
            name = f"lock,lock_seed={lock},horizon=5"
            write_run(
                tmp_path, agent, 0, env=name, env_config={"horizon": 5, "lock_seed": lock}, solved_at=solved + lock
            )
    (task,) = load([tmp_path], reps=5)
    assert task.heading == "lock, horizon 5"
    assert "Repeated seeds" not in " ".join(notes([task], bar=0.9, solve_gap=0.05, reps=5, seed=0))
    assert [(group.agent, len(group.runs), group.episodes.median) for group in task.groups] == [
        ("a", 5, 302),
        ("b", 5, 402),
    ]
    found = task.tests["a", "b"]
    assert found is not None
    assert (found.test, found.n) == ("Wilcoxon", 5)


def test_worlds_of_different_values_show_their_mean(tmp_path):
    for lock, value in enumerate((1.0, 2.0)):
        config = {"horizon": 5, "lock_seed": lock}
        write_run(tmp_path, "a", 0, env=f"lock,lock_seed={lock}", env_config=config, optimal=value)
    (task,) = load([tmp_path], reps=5)
    assert optimum(task) == "mean optimal return 1.5"


def test_runs_that_failed_for_the_same_reason_share_a_sentence(tmp_path):
    for seed, why in enumerate(["Boom.", "Boom.", "Bang."]):
        write_run(tmp_path, "a", seed, status="failed", error=why)
    result = compare([tmp_path], tmp_path / "out", reps=5)
    assert result["failed"] == ["failed: a on lock, seeds 0, 1: Boom.", "failed: a on lock, seed 2: Bang."]
    html = (tmp_path / "out" / "index.html").read_text()
    assert "3 runs are counted as" in " ".join(html.split())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((3.1712, 3.1405, 3.2), "3.17 [3.14, 3.20]"),
        ((1.0, 1.0, 1.0), "1 [1, 1]"),
        ((0.68, 0.0391, 1.0), "0.6800 [0.0391, 1.0000]"),
        ((1234.5, 900.25, 2000.0), "1 234 [900, 2 000]"),
        ((3.0, math.nan, math.nan), "3 [n < 5: no interval]"),
    ],
)
def test_an_interval_has_the_same_decimals_in_all_its_numbers(values, words):
    assert tables.interval(Interval(*values)) == words


def test_titles_and_long_names_stay_inside_their_panels(tmp_path):
    env = "combination-lock,horizon=100,lock_seed=1,noise=0.3,num_actions=10"
    for agent in ("pca-frontier, same settings and a name that goes on", "short"):
        for name in (env, env.replace("100", "50")):
            write_run(tmp_path, agent, 0, env=name)
    tasks = load([tmp_path], reps=5)
    agents = drawing.agents_of(tasks)
    with plots.style():
        figures = [
            curve_plots.learning_curves(tasks, agents, bar=0.9),
            solve_plots.episodes_to_solve(tasks, agents),
            solve_plots.improvement_matrix(tasks),
        ]
        for figure in figures:
            figure.draw_without_rendering()
            boxes = [axis.title.get_window_extent() for axis in figure.axes]
            boxes = [b for axis, b in zip(figure.axes, boxes, strict=True) if axis.get_visible()]
            assert all(box.x1 <= figure.bbox.x1 and box.x0 >= 0 for box in boxes)
            assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_markdown_table_lines_up(tmp_path):
    make_everything(tmp_path)
    compare([tmp_path], tmp_path / "out", reps=5)
    table = [line for line in (tmp_path / "out" / "table.md").read_text().splitlines() if line.startswith("|")]
    assert len(table) == 2 * ((2 + 3) + (2 + 2))  # three agents, two of them against the best
    for some in (table[:5], table[5:9]):
        assert len({len(line) for line in some}) == 1
    assert table[5].split("|")[1:5] != table[0].split("|")[1:5]
    assert "Mann-Whitney" in table[7] or "paired t" in table[7] or "Wilcoxon" in table[7]


def test_agents_that_share_seeds_and_problems_are_compared_in_pairs(tmp_path):
    for seed in range(5):
        write_run(
            tmp_path / "x",
            "first",
            seed,
            env_config={"mdp_seed": seed},
            returns=(0.1, 0.6 + 0.01 * seed),
            solved_at=None,
        )
        write_run(
            tmp_path / "y",
            "second",
            seed,
            env_config={"mdp_seed": seed},
            returns=(0.1, 0.5 + 0.011 * seed**2),
            solved_at=None,
        )
        write_run(tmp_path / "z", "third", seed + 5, env_config={"mdp_seed": seed}, returns=(0.1, 0.3), solved_at=None)
    compare([tmp_path], tmp_path / "out", reps=5)
    found = json.loads((tmp_path / "out" / "compare.json").read_text())["tasks"][0]["improvement"]
    tests = {(pair["agent"], pair["over"]): pair for pair in found}
    assert tests["first", "third"]["test"] == "Mann-Whitney"
    assert tests["first", "third"]["p"] == pytest.approx(2 / 252)
    assert tests["first", "second"]["test"] in ("paired t", "Wilcoxon")
    assert tests["first", "second"]["n"] == 5
    text = (tmp_path / "out" / "table.md").read_text()
    assert "Mann-Whitney, n = 10 | 0.0079" in text
    assert "p is not corrected" in text


def test_mixed_settings_and_repeated_seeds_are_named(tmp_path):
    write_run(tmp_path / "x", "a", 0)
    folder = write_run(tmp_path / "y", "a", 0)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"agent_config": {"batch": 99}}))
    said = " ".join(compare([tmp_path], tmp_path / "out", reps=5)["notes"])
    assert "Mixed settings: the runs of a on lock" in said
    assert "Repeated seeds" in said


@pytest.mark.parametrize(("values", "mixed"), [({}, False), ({"epsilon": 0.3}, True)])
def test_an_option_newer_than_a_run_has_its_default_there(values, mixed, tmp_path):
    for i, agent_config in enumerate(({"epsilon": 0.1, "batch": 10}, values)):
        folder = write_run(tmp_path / str(i), "a", i)
        config = json.loads((folder / "config.json").read_text())
        config |= {"agent": "epsilon-greedy", "label": "a", "agent_config": agent_config}
        (folder / "config.json").write_text(json.dumps(config))
    notes = " ".join(compare([tmp_path], tmp_path / "out", reps=5)["notes"])
    assert ("Mixed settings" in notes) == mixed


def markup(html: str) -> str:
    """A page without its scripts."""
    return re.sub(r"<script.*?</script>", "", html, flags=re.S)


def make_everything(root: Path) -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    for env in ("lock", "low-rank"):
        for seed in range(5):
            write_run(root, "fast", seed, env=env, solved_at=200 + 100 * seed, returns=(0.1,) * (seed + 1) + (1.0, 1.0),
                      exact=env == "low-rank")  # fmt: skip
            never(root, "never", seed, env=env, exact=env == "low-rank")
            noisy = tuple(np.clip(np.linspace(0, 0.8, 10) + rng.normal(0, 0.1, 10), 0, 1))
            write_run(root, "middling", seed, env=env, returns=noisy, solved_at=None, exact=env == "low-rank")


def test_old_records_of_the_loss_of_pi_k_are_not_shown_as_regret(tmp_path):
    folder = write_run(tmp_path, "old", 0, exact=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["suboptimality"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    series = read_run(folder).series
    assert "regret" not in series
    expected = [line["regret"] / line["episodes"] for line in lines]
    np.testing.assert_allclose(series["suboptimality"], expected)


def test_the_page_is_self_contained_and_same_runs_give_the_same_bytes(tmp_path):
    make_everything(tmp_path / "runs")
    for out in ("one", "two"):
        compare([tmp_path / "runs"], tmp_path / out, reps=100)
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    figures = ["episodes-to-solve", "gap", "improvement", "regret", "sample-efficiency", "suboptimality"]
    assert names == sorted(
        ["compare.json", "table.md", "index.html", *(f + e for f in figures for e in (".png", ".svg"))]
    )
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert (tmp_path / "one" / "gap.png").read_bytes()[:8] == PNG
    html = markup((tmp_path / "one" / "index.html").read_text())
    assert len(re.findall(r"<figure.*?<svg", html)) == 6
    external = [u for u in re.findall(r'(?:src|href)="([^"]*)"', html) if not u.startswith("#")]
    assert external == []
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))  # figures do not take each other's clip paths
    for reference in re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', html):
        assert "".join(reference) in ids
    assert "expanded percentiles of 100 resamples" in html


def test_names_are_escaped(tmp_path):
    folder = write_run(tmp_path, "a", 0, status="failed", error="<script>alert(1)</script>")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"label": "<b>x</b>"}))
    compare([tmp_path], tmp_path / "out", reps=5)
    html = (tmp_path / "out" / "index.html").read_text()
    assert "<script>alert" not in html
    assert "<b>" not in markup(html)
    assert "\\u003cb>x\\u003c/b>" in html  # as text, in the script's numbers


def test_the_terminal_table_has_a_row_per_group(tmp_path):
    from rich.console import Console

    make_everything(tmp_path)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(load([tmp_path], reps=20)))
    text = console.export_text()
    assert len(re.findall(r"\bmiddling\b", text)) == 2
    assert "≥ 1 000" in text


def test_where_the_best_return_is_not_known_nothing_is_called_solved(tmp_path):
    for name, optimal in (("known", 1.0), ("unknown", None)):
        never(tmp_path / name, "a", 0, optimal=optimal)
        compare([tmp_path / name], tmp_path / name / "out", reps=50)
    known, unknown = ((tmp_path / name / "out" / "table.md").read_text() for name in ("known", "unknown"))
    assert "0/1" in known
    assert "0/1" not in unknown
    assert "≥ 1 000" not in unknown


def test_runs_that_were_stopped_are_not_called_failed(tmp_path):
    for seed, status in enumerate(("finished", "failed", "aborted")):
        write_run(tmp_path, "a", seed, status=status, error=None if status == "finished" else "Why.")
    compare([tmp_path], tmp_path / "out", reps=50)
    assert "3 (1 failed, 1 unfinished)" in (tmp_path / "out" / "table.md").read_text()
