"""A bonus that fades within an episode: by hand, against a walk through the replay, by row and episode, saved."""

from __future__ import annotations

import numpy as np
import pytest
from agents_common import batches, same

from rl_contrastive import registry
from rl_contrastive.config import from_dict
from rl_contrastive.deep.bonus import EllipticalVisits
from rl_contrastive.deep.bonus_contract import Step
from rl_contrastive.deep.episodic import EpisodicBonus, LeastTried
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.loop import train
from rl_contrastive.spec import Transition

A, B = 7, 9
"""Observations."""


def two_rows() -> EpisodicBonus:
    """Two rows, two actions, features 1 for all pairs, lambda = 1, beta = 1: b = 1 / sqrt(1 + visits)."""
    bonus = EpisodicBonus(EllipticalVisits(20, 2, 1, lam=1.0, beta=1.0), 20, 2)
    return bonus


def step(bonus: EpisodicBonus, h: int, obs, action, next_obs, index, newest, alive=(True, True)) -> None:
    rows, alive = np.zeros(2), np.array(alive)
    transition = Transition(h, np.array(obs), np.array(action), rows, np.array(next_obs), rows + 1, rows > 0, alive)
    ones = np.ones((len(index), 2, 1))
    bonus.watch(Step(transition, np.array(index), np.array(newest), ones, ones))


def test_what_was_done_pays_nothing_and_what_was_seen_less_by_hand() -> None:
    bonus = two_rows()
    # Row 0 sees A, B, A, A and takes 0, 1, 0; row 1 sees A, A and takes 1, then its episode is over.
    step(bonus, 0, [A, A], [0, 1], [B, A], [0, 1], [2, 3])
    step(bonus, 1, [B, A], [1, 0], [A, A], [2], [4], alive=(True, False))
    step(bonus, 2, [A, A], [0, 0], [A, A], [4], [5], alive=(True, False))
    new = 1 / np.sqrt(1 + 4)  # four visits
    w = np.array([[1, 1], [1, 1], [1, 1], [1 / 2, 0], [0, 1 / 2], [0, 1 / 3]])
    np.testing.assert_allclose(bonus.at(np.arange(6)), w * new, rtol=1e-6)
    np.testing.assert_allclose(bonus.taken(np.array([[0, 2, 4]]), np.array([[0, 1, 0]])), [[new, new, 0]])
    np.testing.assert_allclose(bonus.value(np.ones((3, 1))), new)
    # The next episode owes nothing to this one, even in entries that are used again.
    step(bonus, 0, [A, A], [0, 0], [A, B], [4, 5], [0, 3])
    np.testing.assert_allclose(bonus.at(np.array([4, 5])), np.full((2, 2), 1 / np.sqrt(7)))
    np.testing.assert_array_equal(bonus.lost[[0, 3]], [[1, 0.5], [0, 0]])
    assert bonus.visits == 6


def agent(*, episodic: bool = True):
    env_entry, _ = registry.get("env", "low-rank")
    agent_entry, _ = registry.get("agent", "contrastive-ucb-deep")
    fields = {"num_states": 3, "num_actions": 2, "horizon": 8, "rank": 2}
    options = {"batch": 2, "warm_start": 30, "capacity": 150, "episodic": episodic, "learner": {"batch_size": 8}}
    env = env_entry.factory(from_dict(env_entry.config, fields), 2)
    return agent_entry.factory(env, from_dict(agent_entry.config, options), seed=0)


def test_the_agents_weights_are_those_of_its_replay() -> None:
    """Of every entry whose episode is still there from its start: after the ring was overwritten several times."""
    played = agent()
    batches(played, 0, 25)
    ring, checked = played.replay.ring, 0
    assert ring.total > 2 * ring.capacity
    for slot in ring.held().tolist():
        path = [slot]
        while ring.back[path[-1]] and (ring.total - 1 - path[-1]) % ring.capacity + ring.back[path[-1]] < ring.capacity:
            path.append((path[-1] - ring.back[path[-1]]) % ring.capacity)
        if ring.back[path[-1]]:
            continue  # its first entries are gone
        before = [p for p in path[1:] if ring.obs[p] == ring.obs[slot]]
        expected = [all(ring.action[p] != a for p in before) / (1 + len(before)) for a in range(2)]
        np.testing.assert_allclose(1 - played.bonus.lost[slot], expected, rtol=1e-6)
        checked += min(expected) < 1
    assert checked > 20
    some = ring.held()
    free = played.bonus.inner.at(some)
    assert (free > 0).all()  # the inner bonus has no zeros of its own
    np.testing.assert_array_equal(played.bonus.at(some) == 0, played.bonus.lost[some] == 1)


def test_it_changes_what_the_agent_does_and_its_state_survives() -> None:
    once, always, again = agent(), agent(episodic=False), agent()
    for one in (once, always):
        batches(one, 0, 12)
    assert not same(once.state_dict()["learner"], always.state_dict()["learner"])
    again.load_state_dict(once.state_dict())
    assert same(again.state_dict(), once.state_dict())
    for one in (once, again):
        batches(one, 12, 3)
    assert same(again.state_dict(), once.state_dict())


def test_greedy_play_ends_circles_by_hand() -> None:
    play, q = LeastTried(), np.array([[3.0, 2.0, 1.0], [1.0, 1.0, 0.0]])
    first, second, third = np.eye(3)
    even = np.array([0.5, 0.5, 0.0])
    np.testing.assert_array_equal(play(np.array([A, A]), 0, q), [first, even])
    np.testing.assert_array_equal(play(np.array([A, B]), 1, q), [second, even])  # rows and observations are apart
    np.testing.assert_array_equal(play(np.array([A, A]), 2, q), [third, third])
    np.testing.assert_array_equal(play(np.array([A, A]), 3, q), [first, even])  # all once, or half: greedy again
    np.testing.assert_array_equal(play(np.array([B, A]), 4, q), [first, even])
    np.testing.assert_array_equal(play(np.array([A]), 0, q[:1]), [first])
    with pytest.raises(RlcError, match="2 rows at step 1, 1 before"):
        play(np.array([A, A]), 1, q)


def test_a_policy_with_a_memory_is_evaluated_by_play_alone() -> None:
    played, plain = agent(), agent(episodic=False)
    line = train(played, played.env, episodes=4, eval_episodes=4).history[-1]
    assert "value" not in line
    assert "value" in train(plain, plain.env, episodes=4, eval_episodes=4).history[-1]
    with pytest.raises(RlcError, match="depends on the past"):
        train(agent(), agent().env, episodes=4, exact="always")


def test_bad_states_are_refused() -> None:
    good = two_rows().state_dict()
    for bad, words in (({"inner": good["inner"]}, "lacks 'lost'"), ({**good, "lost": np.zeros((3, 1))}, "saved lost")):
        with pytest.raises(RlcError, match=words):
            two_rows().load_state_dict(bad)
