"""Matches of known mixed strategies, whose every number is a sum over the payoff matrix."""

from __future__ import annotations

import json

import numpy as np
import pytest
from games_common import fixed_run

from rl_contrastive.analysis.matches import matches, play_matches
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.load import load_agent, load_trained

ROCK, PAPER, SCISSORS = (1, 0, 0), (0, 1, 0), (0, 0, 1)


def cells(result):
    return {(row["max"], row["min"]): row for row in result["matches"]}


def test_pure_strategies_give_the_payoff_matrix(tmp_path):
    for name, pure in (("rock", ROCK), ("paper", PAPER), ("scissors", SCISSORS)):
        fixed_run(tmp_path / "runs", name, mu=pure, nu=pure)
    result = matches([tmp_path / "runs"], tmp_path / "out", episodes=30)
    names = ("paper", "rock", "scissors")
    assert [row["agent"] for row in result["agents"]] == list(names)
    means = [[cells(result)[x, y]["mean_return"]["estimate"] for y in names] for x in names]
    assert means == [[0, 1, -1], [-1, 0, 1], [1, -1, 0]]
    assert cells(result)["paper", "rock"]["win"]["estimate"] == 1.0
    assert cells(result)["paper", "rock"]["win"]["low"] == pytest.approx(30 / (30 + 1.959964**2))  # Wilson, all won
    assert cells(result)["rock", "rock"]["draw"]["estimate"] == 1.0
    assert result["nash_value"] == 0.0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"matches.json", "table.md", "matches.png", "matches.svg"}
    assert json.loads((tmp_path / "out" / "matches.json").read_text()) == result
    assert "| paper" in (tmp_path / "out" / "table.md").read_text()


def test_the_intervals_hold_the_true_shares_of_mixed_strategies(tmp_path):
    """mu = (.5, .3, .2) against nu = (.2, .3, .5): win .5*.5 + .3*.2 + .2*.3, draw .1 + .09 + .1."""
    x = fixed_run(tmp_path, "x", mu=(0.5, 0.3, 0.2), nu=ROCK)
    y = fixed_run(tmp_path, "y", mu=ROCK, nu=(0.2, 0.3, 0.5))
    played = play_matches([load_trained(x), load_trained(y)], episodes=4000, seed=1)
    cell = played.cells["x", "y"]
    win, draw = 0.5 * 0.5 + 0.3 * 0.2 + 0.2 * 0.3, 0.5 * 0.2 + 0.3 * 0.3 + 0.2 * 0.5
    for interval, truth in (
        (cell.shares["win"], win),
        (cell.shares["draw"], draw),
        (cell.mean, win - (1 - win - draw)),
    ):
        assert interval.low < truth < interval.high
        assert interval.high - interval.low < 0.06  # not by being wide
    # Negative control: the sides are not mixed up, and another pair's share lies outside.
    assert not cell.shares["win"].low < played.cells["y", "x"].shares["win"].estimate < cell.shares["win"].high


def test_seeds_of_one_agent_are_pooled_and_the_interval_is_over_them(tmp_path):
    """Runs of x that win all and lose all against rock: mean 0, and an interval over two runs that says so."""
    fixed_run(tmp_path / "r", "x", mu=PAPER, nu=ROCK, seed=0)
    fixed_run(tmp_path / "r", "x", mu=SCISSORS, nu=ROCK, seed=1)
    fixed_run(tmp_path / "r", "rock", mu=ROCK, nu=ROCK)
    result = matches([tmp_path / "r"], tmp_path / "out", episodes=50)
    cell = cells(result)["x", "rock"]
    assert (cell["episodes"], cell["means_by_run"]) == (100, [[1.0], [-1.0]])
    assert cell["mean_return"] == {"estimate": 0.0, "low": -1.0, "high": 1.0}
    assert (cell["win"]["estimate"], cell["win"]["low"], cell["win"]["high"]) == (0.5, 0.0, 1.0)


def test_common_seeds_make_equal_policies_equal_and_the_order_of_runs_changes_nothing(tmp_path):
    a = load_trained(fixed_run(tmp_path, "a"))
    b = load_trained(fixed_run(tmp_path, "b"))
    one, two = play_matches([a, b], episodes=64), play_matches([b, a], episodes=64)
    means = {pair: cell.means.tolist() for pair, cell in one.cells.items()}
    assert len({str(value) for value in means.values()}) == 1
    assert means == {pair: cell.means.tolist() for pair, cell in two.cells.items()}
    assert play_matches([a, b], episodes=64, seed=5).cells["a", "b"].means.tolist() != means["a", "b"]


def test_returns_of_one_sign_have_no_wins(tmp_path):
    runs = [load_trained(fixed_run(tmp_path, "a", mu=PAPER, nu=ROCK, payoff="positive", horizon=2))]
    played = play_matches(runs, episodes=10)
    assert not played.signed
    assert played.cells["a", "a"].mean.estimate == 2.0
    assert played.nash_value == 1.0


def test_runs_of_different_games_are_refused(tmp_path):
    a = fixed_run(tmp_path / "a", "a")
    b = fixed_run(tmp_path / "b", "b", horizon=2)
    c = fixed_run(tmp_path / "c", "c", env="tiny-drawn-game")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RlcError, match="different horizon 2 and 1"):
        matches([a, b], tmp_path / "out")
    with pytest.raises(RlcError, match="give runs of one game"):
        matches([a, c], tmp_path / "out")
    with pytest.raises(RlcError, match="no run folder"):
        matches([empty], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_of_one_agent_is_no_game(tmp_path):
    run = fixed_run(tmp_path, "u", env="low-rank", agent="uniform", num_states=4, num_actions=2, horizon=2, rank=2)
    with pytest.raises(RlcError, match="low-rank is no two-player game"):
        matches([run], tmp_path / "out")


def test_a_run_that_cannot_play_says_why(tmp_path):
    run = fixed_run(tmp_path, "a")
    agent, config = load_agent(run)
    assert config.env == "tiny-game"
    assert np.allclose(agent.policy(np.zeros(1, int), 0).sum(), 1)
    summary = json.loads((run / "summary.json").read_text())
    del summary["sha256"]
    (run / "summary.json").write_text(json.dumps(summary | {"status": "aborted"}))
    with pytest.raises(RlcError, match="no finished run: go on with `rlc resume"):
        load_agent(run)
    (run / "summary.json").write_text(json.dumps(summary))
    for file in (run / "checkpoint").iterdir():
        file.unlink()
    with pytest.raises(RlcError, match="has no checkpoint"):
        load_agent(run)
    with pytest.raises(RlcError, match="no run folder"):
        load_agent(tmp_path / "absent")


def test_the_checkpoint_is_what_plays_and_a_config_that_was_changed_is_refused(tmp_path):
    run = fixed_run(tmp_path, "a", mu=PAPER, nu=ROCK)
    agent, _ = load_agent(run)
    assert agent.policy(np.zeros(1, int), 0).argmax() == 3  # paper against rock
    config = json.loads((run / "config.json").read_text())
    config["agent_config"]["mu"] = [1.0, 0.0, 0.0]
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(RlcError, match=r"config\.json was changed since the run ended"):
        load_agent(run)
    summary = json.loads((run / "summary.json").read_text())
    del summary["sha256"]
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(RlcError, match=r"of another run: agent_config\.mu is \[0.0, 1.0, 0.0\] there and \[1.0, 0.0"):
        load_agent(run)


def test_of_a_folder_those_that_can_play_do_and_the_others_are_named(tmp_path):
    fixed_run(tmp_path / "r", "a")
    broken = fixed_run(tmp_path / "r", "b")
    summary = json.loads((broken / "summary.json").read_text())
    (broken / "summary.json").write_text(json.dumps(summary | {"status": "failed"}))
    result = matches([tmp_path / "r"], tmp_path / "out", episodes=5)
    assert [row["agent"] for row in result["agents"]] == ["a"]
    (sentence,) = result["left_out"]
    assert "left out" in sentence
    assert str(broken) in sentence
    assert sentence in (tmp_path / "out" / "table.md").read_text()
    with pytest.raises(RlcError, match="no finished run"):
        matches([tmp_path / "r", broken], tmp_path / "out")  # it was asked for itself
    with pytest.raises(RlcError, match="no finished run"):
        matches([broken.parent], tmp_path / "out")  # nobody is left
