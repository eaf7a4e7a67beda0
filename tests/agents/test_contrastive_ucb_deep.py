"""Deep Contrastive-UCB: counts are visits, evaluation is bonus-free, bonuses end with their episode, seeds are used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from agents_common import batches, same

from rl_contrastive import registry
from rl_contrastive.acting import choose, greedy, sample
from rl_contrastive.config import from_dict
from rl_contrastive.deep.bonus_config import BonusConfig
from rl_contrastive.deep.build_bonus import make_bonus
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import Transition

SMALL = {
    "warm_start": 30,
    "capacity": 500,
    "learner": {
        "batch_size": 8,
        "encoder": {"hidden": [16]},
        "feature_encoder": {"hidden": [16]},
        "representation": {"dim": 8, "hidden": 16},
    },
}


def make(env: str = "deep-sea", env_options: dict | None = None, *, seed: int = 0, batch: int = 2, **options):
    env_entry, fixed = registry.get("env", env)
    agent_entry, _ = registry.get("agent", "contrastive-ucb-deep")
    learner = {**SMALL["learner"], **options.pop("learner", {})}
    config = from_dict(agent_entry.config, {**SMALL, "batch": batch, **options, "learner": learner})
    rows = env_entry.factory(from_dict(env_entry.config, {**(env_options or {}), **fixed}), batch)
    return agent_entry.factory(rows, config, seed=seed)


def sea(**options):
    return make(env_options={"size": 6}, **options)


ELLIPTICAL = {
    "bonus": {"kind": "elliptical", "lam": 0.01},
    "learner": {"representation": {"dim": 8, "hidden": 16, "features": "unit"}},
}
PSI = {"learner": {"representation": {"dim": 8, "hidden": 16, "features": "psi"}}}


def test_a_choice_is_the_largest_value_and_a_fair_one_among_ties() -> None:
    rng, twin = np.random.default_rng(0), np.random.default_rng(0)
    for ties in (False, True):
        for _ in range(20):
            values = rng.normal(size=(4, 3))
            twin.normal(size=(4, 3))
            if ties:
                values[1] = values[1].max()
                values[3, :2] = values[3].max() + 1.0
            np.testing.assert_array_equal(choose(values, rng.random(4)), sample(greedy(values), rng=twin))
    drawn = choose(np.tile([1.0, 0.0, 1.0], (4000, 1)), rng.random(4000))
    assert np.bincount(drawn, minlength=3) / 4000 == pytest.approx([0.5, 0.0, 0.5], abs=0.04)


def test_the_last_contrastive_loss_is_reported_whichever_gradient_step_it_was_of() -> None:
    agent = sea(train_every=1, learner={"representation": {"dim": 8, "hidden": 16, "every": 7}})
    batches(agent, 0, 4)
    losses = set()
    for batch in range(4, 8):
        batches(agent, batch, 1)
        losses.add(agent.update()["loss_contrast"])
    assert agent.learner.steps % 7 != 1  # the last step was none of the features
    assert len(losses) > 1


def test_a_replay_too_small_for_its_rows_is_refused_at_once() -> None:
    with pytest.raises(RlcError, match=r"capacity must be > batch \* \(n_step \+ stack\) = 2 \* \(300 \+ 1\) = 602"):
        sea(n_step=300)


def test_values_that_diverged_stop_the_agent() -> None:
    agent = sea()
    batches(agent, 0, 4)
    with torch.no_grad():
        next(agent.learner.values.parameters()).fill_(float("nan"))
    agent.begin(2)
    with pytest.raises(RlcError, match="values are NaN or infinite at step"):
        agent.act(np.zeros(2, dtype=np.int64), 0)


def test_without_a_bonus_nothing_is_counted_and_the_values_are_those_of_a_bonus_of_zero() -> None:
    plain, counting = sea(beta=0.0), sea(beta=0.0)
    counting.bonus = make_bonus(BonusConfig(), 500, 2, 8, beta=0.0, rng=np.random.default_rng(0))
    for agent in (plain, counting):
        batches(agent, 0, 8)
    assert counting.bonus.counts.any()
    assert "loss_contrast" not in plain.update()
    assert plain.bonus.visits == counting.bonus.visits == 96
    for name, array in counting.learner.state_dict()["values"].items():
        np.testing.assert_array_equal(plain.learner.state_dict()["values"][name], array)
    start = plain.learner.features.online.state_dict()["heads.phi_head.0.weight"]
    assert torch.equal(start, sea(beta=0.0).learner.features.online.state_dict()["heads.phi_head.0.weight"])
    assert not plain.histograms()["bonus"].any()
    again = sea(beta=0.0, seed=1)
    again.load_state_dict(plain.state_dict())
    for agent in (plain, again):
        batches(agent, 8, 3)
    assert same(plain.state_dict(), again.state_dict())


@pytest.mark.parametrize("train_every", [1, 7])
def test_counts_are_visits_whatever_the_number_of_gradient_steps(train_every: int) -> None:
    agent = sea(train_every=train_every, **ELLIPTICAL)
    batches(agent, 0, 10)
    assert agent.bonus.visits == agent.steps == 120
    assert agent.learner.steps == pytest.approx(90 / train_every, abs=2.0)
    # Features of unit length: each visit adds exactly 1 to the trace.
    trace = float(np.trace(agent.bonus.confidence.Sigma[0])) - 0.01 * 8
    assert trace == pytest.approx(120.0, rel=1e-5)
    before = agent.bonus.confidence.Sigma.copy()
    for _ in range(20):  # gradient steps alone
        agent.learner.step(agent.replay, agent.bonus, rng=agent.fit_rng)
    np.testing.assert_array_equal(agent.bonus.confidence.Sigma, before)


def test_every_visit_is_in_one_cell_of_each_tiling() -> None:
    agent = sea(growth=0.05)
    batches(agent, 0, 10)
    per_tiling = agent.bonus.counts.reshape(agent.bonus.tiles.tilings, -1).sum(axis=1)
    np.testing.assert_allclose(per_tiling, 120.0)


def test_the_evaluated_policy_has_no_bonus_and_no_noise() -> None:
    agent = sea(epsilon=1.0)
    batches(agent, 0, 10)
    obs = np.arange(4)
    plain, optimistic = agent.policy(obs, 0), agent.policy(obs, 0, explore=True)
    agent.bonus.beta = 1e6
    np.testing.assert_array_equal(agent.policy(obs, 0), plain)
    b = agent.bonus.value(agent.learner.features.phi(obs))
    np.testing.assert_array_equal(agent.policy(obs, 0, explore=True).argmax(1), b.argmax(1))
    assert optimistic.shape == plain.shape == (4, 2)
    np.testing.assert_allclose(plain.sum(1), 1.0)


@pytest.mark.parametrize("options", [{}, ELLIPTICAL, PSI], ids=["tiles", "elliptical", "psi"])
def test_bonuses_are_those_of_the_frozen_network_and_todays_counts(options) -> None:
    """What is kept beside the replay is what a pass through the network would give, final observations included."""
    agent = make("gym:MountainCar-v0", batch=1, capacity=300, n_step=3, **options)
    batches(agent, 0, 2)
    visits = agent.replay.visits()
    ends = agent.replay.ring.next[visits]
    for index in (visits, ends):
        fresh = agent.bonus.value(agent.learner.features.phi(agent.replay.observations(index)))
        # A feature on the border of two cells may fall on the other side in a batch of another size.
        assert np.isclose(agent.bonus.at(index), fresh, rtol=1e-4).mean() > 0.99
    assert (agent.replay.ring.action[ends] < 0).any()


def test_bonuses_on_the_way_end_with_the_episode_and_leave_out_the_first() -> None:
    agent = sea(n_step=4)
    batches(agent, 0, 12)
    batch = agent.replay.sample(64, rng=np.random.default_rng(0))
    _, numbers = agent.learner.returns.of(batch, agent.replay, agent.bonus)
    b = agent.bonus.taken(batch.steps, agent.replay.actions(batch.steps))
    expected = [sum(0.99**k * b[i, k] for k in range(1, int(batch.mask[i].sum()))) for i in range(64)]
    np.testing.assert_allclose(numbers[:, 1] - numbers[:, 0], expected, rtol=1e-4, atol=1e-6)
    assert (batch.mask.sum(1) < 4).any()  # some episodes end within n steps, or this test says nothing
    leaky = (0.99 ** np.arange(4) * b)[:, 1:].sum(1)
    assert np.abs(leaky - np.array(expected)).max() > 1e-4


def test_the_seed_given_is_the_seed_used() -> None:
    states = []
    for seed in (3, 3, 4):
        agent = sea(seed=seed)
        batches(agent, 0, 6)
        states.append(agent.state_dict())
    assert same(states[0], states[1])
    assert not same(states[0]["learner"], states[2]["learner"])


def test_global_generators_are_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    batches(sea(), 0, 6)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.5},
        ELLIPTICAL,
        PSI,
        {"learner": {"representation": {"dim": 8, "hidden": 0, "every": 3, "features": "simplex"}}},
        {"learner": {"value": {"atoms": 11, "low": -1.0, "high": 3.0}}},
        {"learner": {"self_prediction": {"weight": 1.0, "steps": 2}}},
        {"learner": {"representation": {"dim": 8, "hidden": 0, "objective": "meco"}}},
        {"learner": {"representation": {"dim": 8, "objective": "infonce", "mask_identical": True}}},
        {"learner": {"precision": "bf16"}},
        {"learner": {"value": {"dueling": False, "double": False, "hidden": 8}}},
    ],
    ids=["priorities", "elliptical", "psi", "simplex", "atoms", "self-prediction", "meco", "masked", "bf16", "plain"],
)
def test_every_option_learns_and_resumes_to_the_bit(options) -> None:
    straight, first = sea(**options), sea(**options)
    batches(straight, 0, 8)
    batches(first, 0, 4)
    resumed = sea(**options)
    resumed.load_state_dict(first.state_dict())
    batches(resumed, 4, 4)
    assert same(straight.state_dict(), resumed.state_dict())
    report = straight.update()
    assert all(np.isfinite(value) for value in report.values())


def test_a_stack_of_frames_and_vectors_are_seen() -> None:
    agent = make("gym:CartPole-v1", batch=1, n_step=2)
    batches(agent, 0, 8)
    centre = agent.learner.values.encoder.inputs.centre
    assert float(centre.abs().max()) > 0  # standardised by the warm start
    assert torch.equal(centre, agent.learner.features.frozen.encoder.inputs.centre)
    assert torch.equal(centre, agent.learner.target.encoder.inputs.centre)


def test_features_move_only_at_a_rebuild() -> None:
    agent = sea(growth=1e6)
    batches(agent, 0, 4)
    probe = np.arange(6)
    frozen = agent.learner.features.phi(probe)
    batches(agent, 4, 4)
    np.testing.assert_array_equal(agent.learner.features.phi(probe), frozen)
    agent.learner.features.freeze()
    assert np.abs(agent.learner.features.phi(probe) - frozen).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": -1.0}, "beta must be >= 0"),
        ({"n_step": 0}, "n_step must lie in"),
        ({"gamma": 1.5}, "gamma must lie in"),
        ({"learner": {"batch_size": 1}}, "batch_size must lie in"),
        ({"learner": {"representation": {"objective": "meco-keyed", "mask_identical": True}}}, "cannot leave out"),
        ({"learner": {"representation": {"objective": "nceee"}}}, "nce"),
        ({"bonus": {"kind": "elliptical"}, **PSI}, "kind tiles alone"),
    ],
)
def test_bad_options_are_sentences(options, words) -> None:
    with pytest.raises(RlcError, match=words):
        sea(**options)


def test_missing_state_is_a_sentence() -> None:
    with pytest.raises(RlcError, match="lacks 'learner'"):
        sea().load_state_dict({})


@pytest.mark.parametrize("options", [{}, ELLIPTICAL, PSI], ids=["tiles", "elliptical", "psi"])
def test_visits_that_left_the_replay_are_counted_as_if_they_were_there(options) -> None:
    """The same visits in a ring that lost most of them and in one that holds all: the same counts after a rebuild."""
    small, large = (sea(capacity=size, growth=1e6, train_every=10**6, **options) for size in (100, 500))
    for agent in (small, large):
        batches(agent, 0, 25)
        agent._rebuild()
    assert small.past.visits == 300 - len(small.replay.visits()) > 200
    assert large.past.visits == 0
    assert small.bonus.visits == large.bonus.visits == 300
    obs = np.arange(6)
    expected = large.bonus.value(large.learner.features.phi(obs))
    assert small.bonus.value(small.learner.features.phi(obs)) == pytest.approx(expected, rel=1e-3)


def test_a_place_that_left_the_replay_keeps_its_bonus_through_rebuilds_and_a_load() -> None:
    """State 0 some 2000 times, then others only, in a ring of 200 (fidelity 7): to 1 %, and to the byte when loaded."""
    agent = sea(capacity=200, growth=1e6, train_every=10**6)
    walk = (lambda k: np.zeros((2, 7), dtype=np.int64)), (lambda k: np.arange(1, 8).clip(max=5) * np.ones((2, 1), int))
    for episodes, states in zip((167, 60), walk, strict=True):
        for k in range(episodes):
            show(agent, states(k))
    agent._rebuild()
    assert 0 not in agent.replay.ring.obs[agent.replay.visits()]
    stayed = agent.bonus.value(agent.learner.features.phi(np.zeros(1, dtype=np.int64)))[0, 0]
    assert stayed == pytest.approx(0.1 / np.sqrt(167 * 12 + 0.1), rel=0.01)
    again = sea(seed=1, capacity=200, growth=1e6, train_every=10**6)
    again.load_state_dict(agent.state_dict())
    for one in (agent, again):
        show(one, walk[1](0))
        for _ in range(3):
            one._rebuild()
        b = one.bonus.value(one.learner.features.phi(np.zeros(1, dtype=np.int64)))[0, 0]
        assert b == pytest.approx(stayed, rel=0.01)
    assert same(agent.state_dict(), again.state_dict())


def show(agent, states: np.ndarray) -> None:
    """An episode of states (2, T + 1) in which action 0 is always taken."""
    agent.begin(2)
    for h in range(states.shape[1] - 1):
        last = np.full(2, h == states.shape[1] - 2)
        agent.act(states[:, h], h)
        row = (states[:, h], np.zeros(2, dtype=np.int64), np.zeros(2), states[:, h + 1], np.ones(2), last)
        agent.observe(Transition(h, *row, np.ones(2, dtype=bool)))
