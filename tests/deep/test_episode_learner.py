"""Rows side by side whose episodes end one by one: each observation once, and positives of the same episode."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from bridge_common import assert_same, features_config

from rl_contrastive.deep.episode_learner import EpisodeLearner
from rl_contrastive.deep.feature_net import ObsLayout
from rl_contrastive.deep.transition_learner import TransitionLearner
from rl_contrastive.errors import RlcError

LAYOUT = ObsLayout((), "int64", 100)
ROWS = [[list(range(0, 6)), list(range(10, 13)), list(range(20, 30))], [[40, 41], list(range(50, 70))]]
"""Episodes of two rows; the states of an episode are numbered on, apart from all others."""


def learner(capacity: int = 50, ahead: float = 0.0, **fields) -> EpisodeLearner:
    representation = {"dim": 4, "hidden": 0, "features": "psi", "ahead": ahead, **fields}
    config = features_config(capacity=capacity, representation=representation)
    return EpisodeLearner(LAYOUT, 2, config, num_rows=2, rng=np.random.default_rng(0))


def play(mine: EpisodeLearner, steps: int) -> Counter[int]:
    """Store these steps; the observations that were replaced, with those of action A = 2."""
    left: Counter[int] = Counter()
    at, h = [0, 0], [0, 0]
    for _ in range(steps):
        now = [ROWS[i][at[i]] for i in (0, 1)]
        mine.begin(np.array([i for i in (0, 1) if h[i] == 0], dtype=int))
        obs, action = mine.leaving(2)
        assert (action[2:] == 2).all()
        left.update(obs.tolist())
        mine.store(
            np.array([now[i][h[i]] for i in (0, 1)]), np.zeros(2, int), np.array([now[i][h[i] + 1] for i in (0, 1)])
        )
        for i in (0, 1):
            h[i] += 1
            if h[i] == len(now[i]) - 1:
                at[i], h[i] = at[i] + 1, 0
    return left


@pytest.mark.parametrize("capacity", [2, 7, 50])
@pytest.mark.parametrize("steps", [1, 6, 15])
def test_each_observation_is_kept_or_has_left_exactly_once(capacity: int, steps: int) -> None:
    mine = learner(capacity)
    left = play(mine, steps)
    kept = Counter(int(s) for part in mine.observations(3) for s in part)
    shown: Counter[int] = Counter()
    for row in ROWS:
        rest = steps
        for states in row:
            shown.update(states[: rest + 1] if rest > 0 else [])
            rest -= len(states) - 1
    assert kept + left == shown
    assert set(shown.values()) == {1}
    assert mine.observed == sum(shown.values())
    assert len(mine) == min(2 * steps, capacity)


def test_positives_come_k_steps_later_in_the_episode() -> None:
    """K is geometric up to the last stored observation of the episode, by frequencies."""
    mine = learner(50, ahead=0.5)
    play(mine, 13)
    place = 2 * np.arange(7, 13)  # row 0, in its third episode: 20 -> 21, ..., 25 -> 26
    assert mine._obs[place].tolist() == [20, 21, 22, 23, 24, 25]
    for first, longest in ((20, 6), (24, 2), (25, 1)):
        drawn = mine._positives(np.full(4000, place[first - 20]))
        share = np.bincount(drawn - first, minlength=longest + 1)[1:] / 4000
        expected = 0.5 ** np.arange(1, longest + 1) / (1 - 0.5**longest)
        np.testing.assert_allclose(share, expected, atol=0.03)
    # An episode that is over, and one step of it.
    assert set(mine._positives(np.full(300, 2 * 3)).tolist()) == {4, 5}
    assert set(mine._positives(np.array([1])).tolist()) == {41}


def test_positives_after_the_ring_went_round_are_of_the_same_episode() -> None:
    mine = learner(9, ahead=0.9)
    play(mine, 15)
    for place in range(9):
        obs, drawn = int(mine._obs[place]), mine._positives(np.full(200, place))
        states = next(states for row in ROWS for states in row if obs in states)
        last = max(int(s) for s in mine._next[mine._next // 10 * 10 >= states[0]] if s in states)
        assert set(drawn.tolist()) == set(range(obs + 1, last + 1))


def test_a_state_goes_on_to_the_same_bytes_and_single_transitions_learn_the_same() -> None:
    mine, other = learner(9, ahead=0.9), learner(9, ahead=0.9)
    play(mine, 15)
    other.load_state_dict(mine.state_dict())
    other.rng = np.random.default_rng(0)
    mine.rng = np.random.default_rng(0)
    assert [float(mine.step()) for _ in range(3)] == [float(other.step()) for _ in range(3)]
    assert_same(mine.state_dict(), other.state_dict())
    plain, config = learner(), learner().config
    single = TransitionLearner(LAYOUT, 2, config, rng=np.random.default_rng(0))
    for one in (plain, single):
        one.store(np.array([1, 2]), np.array([0, 1]), np.array([3, 4]))
    assert float(plain.step()) == float(single.step())
    with pytest.raises(RlcError, match="saved ends have shape"):
        other.load_state_dict({**mine.state_dict(), "ended": np.zeros(3)})
    with pytest.raises(RlcError, match="expected 2 rows, got 1"):
        mine.store(np.array([1]), np.array([0]), np.array([3]))
