"""The labeller: hand-computed labels, the Bradley-Terry law, ties, flips, and pairs of the same start."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from rl_contrastive.errors import RlcError
from rl_contrastive.preferences.labels import FIRST, NEITHER, SECOND, Labeller, LabelsConfig, pair_up


def labeller(returns, *, seed=0, **fields) -> Labeller:
    """One that has seen an episode of each return."""
    made = Labeller(LabelsConfig(**fields), rng=np.random.default_rng(seed))
    made.begin(len(returns))
    made.watch(np.asarray(returns, dtype=float), np.ones(len(returns), dtype=bool))
    return made


def test_returns_are_summed_while_alive_and_the_larger_wins():
    made = Labeller(LabelsConfig(), rng=np.random.default_rng(0))
    made.begin(3)
    made.watch(np.array([1.0, 0.5, 2.0]), np.array([True, True, True]))
    made.watch(np.array([1.0, 9.0, 0.5]), np.array([True, False, True]))  # returns 2, .5, 2.5
    assert made.labels(np.array([[0, 1], [0, 2], [2, 1]])).tolist() == [FIRST, SECOND, FIRST]
    assert (made.asked, made.dropped) == (3, 0)


def test_labels_follow_bradley_terry():
    pairs = np.tile([[0, 1]], (20000, 1))
    found = labeller([1.0, 0.4], temperature=0.5).labels(pairs)
    assert np.mean(found == FIRST) == pytest.approx(expit(0.6 / 0.5), abs=0.01)
    turned = labeller([1.0, 0.4], temperature=0.5, flips=0.25).labels(pairs)
    p = expit(1.2)
    assert np.mean(turned == FIRST) == pytest.approx(0.75 * p + 0.25 * (1 - p), abs=0.01)


def test_ties_are_dropped_and_counted_or_a_fair_coin():
    pairs = np.tile([[0, 1]], (4000, 1))
    for temperature in (0.0, 0.3):
        made = labeller([1.0, 1.0], temperature=temperature)
        assert (made.labels(pairs) == NEITHER).all()
        assert (made.asked, made.dropped) == (4000, 4000)
        coin = labeller([1.0, 1.0], temperature=temperature, ties="coin")
        assert np.mean(coin.labels(pairs) == FIRST) == pytest.approx(0.5, abs=0.03)
        assert coin.dropped == 0


def test_its_state_goes_on_equally():
    one, two = labeller([1.0, 0.0], temperature=1.0), labeller([1.0, 0.0], seed=9, temperature=1.0)
    pairs = np.tile([[0, 1]], (50, 1))
    one.labels(pairs)
    two.load_state_dict(one.state_dict())
    assert one.labels(pairs).tolist() == two.labels(pairs).tolist()
    assert two.asked == 100
    with pytest.raises(RlcError, match="lacks 'rng'"):
        two.load_state_dict({"asked": 0, "dropped": 0})


def test_pairs_have_the_same_start_where_possible():
    start = np.array([0, 1, 0, 1, 0, 2])  # three of 0, two of 1, one of 2
    for seed in range(20):
        same = pair_up(start, rng=np.random.default_rng(seed), across=False)
        assert sorted(start[same[:, 0]]) == [0, 1]
        assert (start[same[:, 0]] == start[same[:, 1]]).all()
        more = pair_up(start, rng=np.random.default_rng(seed))
        assert sorted(more.ravel()) == list(range(6))  # each once
        assert np.count_nonzero(start[more[:, 0]] != start[more[:, 1]]) == 1  # the rest of 0 and of 2
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    assert pair_up(vectors, rng=np.random.default_rng(0)).shape == (2, 2)
    assert pair_up(vectors, rng=np.random.default_rng(0), across=False).shape == (0, 2)


@pytest.mark.parametrize(("fields", "match"), [
    ({"temperature": -1.0}, "labels: temperature must be >= 0"),
    ({"flips": 1.5}, r"labels: flips must lie in \[0, 1\]"),
    ({"ties": "skip"}, "labels: ties must be one of 'drop', 'coin'"),
])  # fmt: skip
def test_wrong_options_are_a_sentence(fields, match):
    with pytest.raises(RlcError, match=match):
        LabelsConfig(**fields)


def test_one_episode_makes_no_pair():
    with pytest.raises(RlcError, match="at least 2 episodes"):
        pair_up(np.zeros(1), rng=np.random.default_rng(0))
