"""The grid chooses on tuning seeds only, reports on the others, keeps failures, and goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from study_fits import BowlConfig, bowl

from rl_contrastive.claims.base import Context
from rl_contrastive.claims.grid import CELLS, Grid, all_failures, interval, paired, run_grid
from rl_contrastive.errors import RlcError

METHODS = {"a": [{"x": 0.0}, {"x": 2.0}, {"x": 5.0}], "fixed": [{"x": 1.0}]}


def grid(**changes):
    return replace(
        Grid(settings=["s"], methods=METHODS, select="loss", tune_seeds=(0, 1), seeds=(10, 11, 12)), **changes
    )


def test_the_best_candidate_of_the_tuning_seeds_is_reported_on_other_seeds(tmp_path):
    cells = run_grid(bowl, BowlConfig(), grid(), Context(tmp_path))
    cell = cells["s", "a"]
    assert cell.options == {"x": 2.0}
    assert cell.seeds == (10, 11, 12)
    assert [options for options, _ in cell.tuning] == METHODS["a"]
    expected = [2.0 + np.random.default_rng(seed).normal(scale=0.01) for seed in (10, 11, 12)]
    np.testing.assert_array_equal(cell.metrics["score"], expected)
    assert cells["s", "fixed"].options == {"x": 1.0}
    assert cells["s", "fixed"].tuning == []
    difference = paired(cell, cells["s", "fixed"], "score")  # seeds share their noise: it cancels
    assert difference.low == pytest.approx(1.0)
    assert difference.high == pytest.approx(1.0)


def test_together_gives_the_same_numbers(tmp_path):
    apart = run_grid(bowl, BowlConfig(), grid(), Context(tmp_path / "a"))
    joint = run_grid(bowl, BowlConfig(), grid(together=True), Context(tmp_path / "b"))
    np.testing.assert_array_equal(apart["s", "a"].metrics["loss"], joint["s", "a"].metrics["loss"])


@pytest.mark.long
def test_workers_do_not_change_a_number(tmp_path):
    one = run_grid(bowl, BowlConfig(), grid(), Context(tmp_path / "a"))
    two = run_grid(bowl, BowlConfig(), grid(), Context(tmp_path / "b", workers=2))
    assert one.keys() == two.keys()
    for pair in one:
        for name in one[pair].metrics:
            np.testing.assert_array_equal(one[pair].metrics[name], two[pair].metrics[name])


def test_measured_cells_are_not_measured_again(tmp_path):
    lines = []
    run_grid(bowl, BowlConfig(), grid(), Context(tmp_path))
    run_grid(bowl, BowlConfig(), grid(seeds=(10, 11, 12, 13)), Context(tmp_path, say=lines.append))
    assert lines[0] == "reporting: 2 of 8 fits to do, from s, a on"
    assert len(lines) == 3  # seed 13 of two methods
    text = (tmp_path / CELLS).read_text()
    (tmp_path / CELLS).write_text(text[:-20])  # the last line, cut as a kill would cut it
    again = []
    run_grid(bowl, BowlConfig(), grid(seeds=(10, 11, 12, 13)), Context(tmp_path, say=again.append))
    assert len(again) == 2  # how many there are to do, and the one
    assert len((tmp_path / CELLS).read_text().splitlines()) == len(text.splitlines())


def test_another_configuration_and_a_damaged_file_are_sentences(tmp_path):
    run_grid(bowl, BowlConfig(), grid(), Context(tmp_path))
    with pytest.raises(RlcError, match="another configuration"):
        run_grid(bowl, BowlConfig(best=3.0), grid(), Context(tmp_path))
    text = (tmp_path / CELLS).read_text().splitlines(keepends=True)
    (tmp_path / CELLS).write_text("".join([text[0], "{no json\n", *text[2:]]))
    with pytest.raises(RlcError, match="damaged"):
        run_grid(bowl, BowlConfig(), grid(), Context(tmp_path))


def test_failures_are_counted_and_never_chosen(tmp_path):
    methods = {"a": [{"x": 200.0}, {"x": 4.0}], "touchy": [{"x": 1.0}, {"x": 2.0}]}
    cells = run_grid(bowl, BowlConfig(), grid(methods=methods), Context(tmp_path))
    assert cells["s", "a"].options == {"x": 4.0}
    touchy = cells["s", "touchy"]
    assert sorted(touchy.failed) == [10, 11, 12]
    assert all_failures(cells.values())[0] == "s, touchy, seed 10: bowl: failed at (10,)."
    # A method that failed on all seeds has no metric of its own to ask for.
    assert touchy.metrics == {}


def test_not_finite_numbers_survive_the_file(tmp_path):
    assert json.loads('"inf"') == "inf"
    cells = run_grid(bowl, BowlConfig(best=1e200), grid(), Context(tmp_path))
    assert np.isinf(cells["s", "a"].metrics["loss"]).all()
    again = run_grid(bowl, BowlConfig(best=1e200), grid(), Context(tmp_path))
    np.testing.assert_array_equal(again["s", "a"].metrics["loss"], cells["s", "a"].metrics["loss"])


def test_arrays_of_a_fit_are_found_by_its_cell(tmp_path):
    cells = run_grid(bowl, BowlConfig(), grid(methods={"writes": [{"x": 3.0}]}), Context(tmp_path))
    with np.load(cells["s", "writes"].folders[11] / "x.npz") as data:
        assert data["x"] == 3.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": (1, 2)}, "both|tuning and for reporting"),
        ({"methods": {"a": [{}, {"x": 1.0}], "b": [{}, {"x": 1.0}, {"x": 2.0}]}}, "as many candidates"),
        ({"methods": {"a": []}}, "as many candidates"),
        ({"tune_seeds": ()}, "no tuning seeds"),
        ({"seeds": ()}, "needs a setting and a seed"),
    ],
)
def test_impossible_grids_are_refused(changes, words):
    with pytest.raises(RlcError, match=words):
        grid(**changes)


def test_a_selection_metric_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(RlcError, match="'nll' is not among the fit's metrics: loss, score"):
        run_grid(bowl, BowlConfig(), grid(select="nll"), Context(tmp_path))


def test_interval_counts_finite_values_only():
    assert interval(np.array([1.0, np.nan, 3.0])).estimate == 2.0
    assert np.isnan(interval(np.array([np.nan])).estimate)
