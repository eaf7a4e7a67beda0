"""Options of exploration in the deep agent: uniform actions over time, heads apart, memory; resumed to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from agents_common import batches, uniform
from deep_common import resumes, sea

from rl_contrastive.config import from_dict
from rl_contrastive.deep.agent_config import ContrastiveUCBDeepConfig, epsilon_at
from rl_contrastive.deep.episodic import EpisodeLog
from rl_contrastive.deep.explore_config import ExploreConfig
from rl_contrastive.deep.names import ByteNames, FeatureNames
from rl_contrastive.errors import RlcError


def test_epsilon_falls_linearly_by_hand() -> None:
    config = ContrastiveUCBDeepConfig(epsilon=0.2, epsilon_from=1.0, epsilon_over=100)
    assert [epsilon_at(config, steps) for steps in (0, 50, 75, 100, 10**6)] == pytest.approx([1.0, 0.6, 0.4, 0.2, 0.2])
    assert {epsilon_at(ContrastiveUCBDeepConfig(epsilon=0.3), steps) for steps in (0, 10**6)} == {0.3}
    for one in ({"epsilon_from": 0.5}, {"epsilon_over": 10}):
        with pytest.raises(RlcError, match="go together"):
            from_dict(ContrastiveUCBDeepConfig, one)


def test_the_agent_acts_by_the_epsilon_of_its_step() -> None:
    """Of a schedule that is still at 1 all actions are uniform; of one that ended at 0 none is."""
    for over, drawn in ((10**9, True), (1, False)):
        agent = sea({}, epsilon=0.0, epsilon_from=1.0, epsilon_over=over)
        batches(agent, 0, 8)
        best = np.tile([1e6, 0.0], (2000, 1))
        agent.learner.q = lambda stacked, best=best, **noise: (best, best)
        agent.begin(2)
        actions = agent.act(np.zeros(2000, dtype=np.int64), 0)
        assert uniform(actions, 2) == drawn


EXPLORE = [
    ({"kind": "rnd", "gate": "tried", "unit": True}, {"heads": "apart", "weights": [0.0, 1.0], "gamma": 0.9}),
    ({}, {"heads": "apart", "weights": [0.5], "endless": True, "memory": True}),
    ({"kind": "ours-both"}, {"memory": True, "hidden": 8}),
]


@pytest.mark.parametrize(("bonus", "explore"), EXPLORE, ids=str)
def test_it_resumes_to_the_bit(bonus: dict, explore: dict, tmp_path) -> None:
    resumes(lambda: sea(bonus, explore=explore, epsilon_from=0.5, epsilon_over=150), tmp_path)


def test_rows_act_by_their_own_weight_of_i() -> None:
    agent = sea({"kind": "ours-pair"}, epsilon=0.0, explore={"heads": "apart", "weights": [0.0, 10.0]})
    batches(agent, 0, 8)
    Q, more = np.tile([3.0, 0.0], (6, 1)), np.tile([0.0, 1.0], (6, 1))
    agent.learner.q = lambda stacked, **noise: (Q, more)
    agent.bonus.value = lambda phi: np.tile([0.0, 1.0], (6, 1))
    agent.begin(2)
    # Q = 3 against c (b + I) = 2 c.
    assert agent.act(np.zeros(6, dtype=np.int64), 0).tolist() == [0, 1, 0, 1, 0, 1]
    assert agent.policy(np.zeros(6, dtype=np.int64), 0, explore=True).argmax(1).tolist() == [0, 1, 0, 1, 0, 1]


def test_training_sees_what_acting_saw() -> None:
    """The memory shown at each step, against that of the entry in the replay, repeated observations included."""
    agent, seen, entries = sea({}, capacity=500, explore={"memory": True}), [], []
    q = agent.learner.q

    def spy(stacked, *, rng=None, shown=None):
        seen.append(shown.copy())
        return q(stacked, rng=rng, shown=shown)

    agent.learner.q = spy
    observe = agent.observe
    agent.observe = lambda step: (observe(step), entries.append(agent.replay.ring.acted.copy()))
    batches(agent, 0, 20)
    entries = entries[-len(seen) :]  # before the warm start was over, nothing was asked
    assert len(seen) == len(entries) > 50
    np.testing.assert_array_equal(np.concatenate(seen), agent.memory.at(np.concatenate(entries)))
    assert (np.concatenate(seen)[:, 1] == 0).any()  # some were not new


@pytest.mark.parametrize("same", ["bytes", "features"])
def test_memory_and_the_gate_share_a_log_and_name_each_step_once(same) -> None:
    """An agent whose memory has a log of its own names twice as often, and has the same numbers."""

    def counted(names: Any, found: list[int]) -> None:
        of = names.of
        names.of = lambda rows, *shown: found.append(len(rows)) or of(rows, *shown)

    one, two = (sea({"kind": "rnd", "gate": "tried", "same": same}, explore={"memory": True}) for _ in range(2))
    names, once, twice = two._log.names, [], []
    own = FeatureNames(two.closeness, two.replay.ring, two._features_of) if same == "features" else ByteNames()
    two.memory._log = EpisodeLog(own)
    for each, found in ((one._log.names, once), (names, twice), (own, twice)):
        counted(each, found)
    renew = names.renew
    names.renew = lambda: (renew(), own.renew())
    for each in (one, two):
        batches(each, 0, 30)
    assert 2 * sum(once) == sum(twice) > 200
    np.testing.assert_array_equal(one.memory.inputs, two.memory.inputs)
    np.testing.assert_array_equal(one.bonus.lost, two.bonus.lost)
    assert (one.bonus.lost > 0).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"explore": {"heads": "apart", "weights": [0, 0, 1]}, "batch": 2}, "but batch is 2: give >= 3"),
        ({"bonus": {"kind": "ours-arrival", "same": "features"}, "beta": 0.0}, "needs a bonus that learns them"),
        ({"bonus": {"kind": "none", "same": "features"}, "episodic": True}, "needs a bonus that learns them"),
        ({"bonus": {"kind": "e3b", "same": "features"}}, "none of these is on"),
        ({"bonus": {"kind": "rnd", "reach": 2.0}}, "reach needs bonus.same features"),
        ({"bonus": {"kind": "none", "gate": "tried"}}, "bonus: kind none has no parts: leave out gate."),
        ({"bonus": {"kind": "none", "gate": "none", "pays": "arrival"}}, "leave out pays and gate."),
        ({"explore": {"hidden": 64}}, "explore: hidden is for memory, and memory is off."),
        ({"explore": {"heads": "apart", "hidden": 64}}, "explore: hidden is for memory, and memory is off."),
    ],
)
def test_options_that_would_do_nothing_are_refused(options, words) -> None:
    with pytest.raises(RlcError, match=words):
        from_dict(ContrastiveUCBDeepConfig, options)


def test_defaults_that_do_nothing_may_be_written_out() -> None:
    written = {"bonus": {"kind": "none", "gate": None, "reach": 3.0, "width": 1.0}, "explore": {"hidden": 128}}
    config = from_dict(ContrastiveUCBDeepConfig, written)
    assert (config.bonus.parts, config.explore) == (None, ExploreConfig())


def test_the_newest_of_one_frame_is_refused() -> None:
    with pytest.raises(RlcError, match=r"frames newest is for stacked frames, .* give env\.stack >= 2"):
        sea({}, learner={"representation": {"frames": "newest"}})
