"""preference-policy: labels alone decide what is learned; learning with controls; KL by hand; resume; wrong use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from agents_common import batches, same

from rl_contrastive.deep.preference.episodes import Episodes, PairReplay
from rl_contrastive.deep.preference.learner import PreferenceLearner, Training
from rl_contrastive.errors import RlcError
from rl_contrastive.preferences import IPO, CoPG, CoPGConfig, IPOConfig
from rl_contrastive.runs.evaluate import exact_evaluation
from rl_contrastive.runs.loop import Budget, train
from rl_contrastive.runs.rollout import play
from rl_contrastive.runs.run import RunConfig, run
from rl_contrastive.spec import EnvSpec

WORLD = {"num_states": 6, "num_actions": 3, "horizon": 3, "rank": 2}
LOCK = {"horizon": 3, "num_actions": 3}
FAST = {"updates": 10, "lr": 0.05}


def value(agent, episodes: int) -> float:
    """Exact value after training."""
    train(agent, agent.env, episodes=episodes, eval_every=episodes, eval_episodes=2)
    return exact_evaluation(agent, agent.env.exact(), explore=False)


# The learner sees no reward.


class Recorded:
    """A labeller that answers what another one answered, whatever it is shown."""

    def __init__(self, answers):
        self.answers, self.asked, self.dropped = iter(answers), 0, 0

    def begin(self, rows):
        pass

    def watch(self, reward, alive):
        pass

    def labels(self, pairs):
        return next(self.answers)


@pytest.mark.parametrize("objective", ["dpo", "copg", "ppo"])
def test_rewards_of_nan_change_nothing_where_labels_are_the_same(objective, make_agent):
    def made():
        return make_agent("preference-policy", "low-rank", env=WORLD, objective=objective, updates=3)

    seeing, blind, answers = made(), made(), []
    labels = seeing.labeller.labels
    seeing.labeller.labels = lambda pairs: answers.append(labels(pairs)) or answers[-1]
    batches(seeing, 0, 4)
    blind.labeller = Recorded(answers)
    for k in range(4):
        blind.begin(blind.batch)
        for step in play(blind.env, blind.seeds.env_seeds("env", k, blind.batch), blind.act):
            blind.observe(replace(step, reward=np.full(blind.batch, np.nan)))
        blind.update()
    assert same(seeing.learner.state_dict(), blind.learner.state_dict())
    assert same(seeing.replay.state_dict(), blind.replay.state_dict())
    assert np.abs(seeing.learner.policy.net.table.detach().numpy()).max() > 0


def test_other_rewards_in_the_same_order_give_the_same_bytes(make_agent):
    agents = [make_agent("preference-policy", "low-rank", env=WORLD, updates=3) for _ in range(2)]
    batches(agents[0], 0, 4)
    watch = agents[1].labeller.watch
    agents[1].labeller.watch = lambda reward, alive: watch(7.0 * reward - 1.0, alive)  # all have 3 steps
    batches(agents[1], 0, 4)
    assert same(agents[0].state_dict(), agents[1].state_dict())


# Learning and its controls.

OBJECTIVES = ("dpo", "ipo", "rpo", "copg", "hypo", "tdpo", "best-of-n", "rloo", "ppo")
SOME = ("dpo", "copg", "ppo")


@pytest.mark.parametrize(
    "objective", [name if name in SOME else pytest.param(name, marks=pytest.mark.long) for name in OBJECTIVES]
)
def test_it_learns_from_labels_and_the_opposite_from_turned_labels(objective, make_agent):
    for flips, good in ((0.0, lambda v: v > 0.8), (1.0, lambda v: v < -0.8)):
        agent = make_agent("preference-policy", "probe-match", objective=objective, labels={"flips": flips}, **FAST)
        assert good(value(agent, 400)), (flips, value)


@pytest.mark.parametrize("objective", ["dpo", "copg"])
def test_labels_of_pure_chance_teach_nothing(objective, make_agent):
    found = [
        value(make_agent("preference-policy", "probe-match", seed=seed, objective=objective,
                         labels={"flips": 0.5}, **FAST), 200)
        for seed in range(6)
    ]  # fmt: skip
    # The policy still drifts, either way: no seed is told which action is right.
    assert np.mean(found) < 0.5
    assert min(found) < 0.0


def test_a_network_learns_the_short_lock(make_agent):
    agent = make_agent("preference-policy", "combination-lock", env=LOCK, updates=10, lr=0.01)
    result = train(agent, agent.env, episodes=1500, eval_every=1500, eval_episodes=100)
    assert result.final_return > 0.8
    assert agent.labeller.asked == 750


# Numbers.


def test_kl_by_hand_and_its_estimate(make_agent):
    agent = make_agent("preference-policy", "probe-match", mixture=0.0, **FAST)
    batches(agent, 0, 3)
    model = agent.env.exact()
    pi = agent.policy(np.arange(2), 0)
    by_hand = float((model.rho[:2, None] * pi * np.log(pi / 0.5)).sum())
    assert agent.exact_metrics(model)["kl"] == pytest.approx(by_hand, abs=1e-6)
    assert by_hand > 0.05
    y = Episodes(np.array([[0], [1]]), np.zeros((2, 1), np.int64), np.ones(2, np.int64), np.zeros((2, 1, 1)))
    each = (pi * np.log(pi / 0.5)).sum(1)
    assert agent.learner.policy.divergence(y) == pytest.approx(each.mean(), abs=1e-6)


def test_copg_on_labels_is_ipo_of_half_its_beta():
    spec, beta = EnvSpec("x", 3, 4, (), "int64", num_states=5), 0.4
    rng = np.random.default_rng(0)
    pairs = Episodes(
        rng.integers(5, size=(6, 2, 4)), rng.integers(3, size=(6, 2, 4)), rng.integers(1, 5, size=(6, 2)),
        np.zeros((6, 2, 4, 1)),
    )  # fmt: skip
    losses = []
    for objective in (CoPG(CoPGConfig(beta)), IPO(IPOConfig(beta / 2))):
        learner = PreferenceLearner(
            spec, None, Training(1, 1, 0.1, 1.0), objective, modelled=False, seed=0, device=torch.device("cpu")
        )
        with torch.no_grad():
            learner.policy.net.table.copy_(torch.randn(5, 3, generator=torch.Generator().manual_seed(1)))
        losses.append(float(learner._of_pairs(pairs, pairs).detach()))
    assert losses[0] == pytest.approx(beta**2 * losses[1], rel=1e-5)


def test_the_first_policy_is_the_reference_which_moves_if_asked(make_agent):
    agent = make_agent("preference-policy", "low-rank", env=WORLD, iterate_every=2, **FAST)
    obs = np.arange(6)
    np.testing.assert_allclose(agent.policy(obs, 1), 1 / 3, atol=1e-7)
    batches(agent, 0, 1)
    ref = agent._probabilities(obs, 0, reference=True)
    np.testing.assert_allclose(ref, 1 / 3, atol=1e-7)
    batches(agent, 1, 1)
    np.testing.assert_array_equal(agent._probabilities(obs, 0, reference=True), agent.policy(obs, 0))
    assert np.abs(agent.policy(obs, 0) - 1 / 3).max() > 0.01
    assert agent.exact_metrics(agent.env.exact())["kl"] > 0.01  # from the initial policy


def test_behaviour_is_the_mixture_that_plays(make_agent):
    agent = make_agent("preference-policy", "low-rank", env=WORLD, batch=200, mixture=0.25, **FAST)
    batches(agent, 0, 1)
    pi = np.stack([agent.policy(np.arange(6), h) for h in range(3)])
    law = agent.behaviour(pi)
    assert law.start.tolist() == [0.75, 0.25]
    np.testing.assert_allclose(law.pi[1], 1 / 3, atol=1e-7)
    agent.begin(4000)
    assert agent._by_reference.mean() == pytest.approx(0.25, abs=0.03)


def test_a_finished_run_can_be_the_reference(make_agent, tmp_path):
    config = RunConfig("ucbvi", "probe-match", budget=Budget(episodes=60, eval_every=60, eval_episodes=5),
                       tensorboard=False)  # fmt: skip
    run(config, tmp_path)
    (folder,) = {path.parent for path in tmp_path.rglob("config.json")}
    agent = make_agent("preference-policy", "probe-match", reference=f"run:{folder}", floor=0.2)
    np.testing.assert_allclose(agent.policy(np.arange(2), 0), [[0.9, 0.1], [0.1, 0.9]], atol=1e-6)
    batches(agent, 0, 2)
    with pytest.raises(RlcError, match="was trained on probe-match with num_actions 2; here it is 3"):
        make_agent("preference-policy", "low-rank", env=WORLD, reference=f"run:{folder}")


def test_the_replay_keeps_the_newest_pairs_cut_at_their_ends():
    spec = EnvSpec("x", 2, 3, (1,), "float32")
    replay = PairReplay(2, spec, 1)
    for k in (1, 2, 3):
        T = min(k, 2)
        replay.add(Episodes(
            np.full((1, 2, T, 1), k, np.float32), np.full((1, 2, T), k % 2), np.full((1, 2), T), np.zeros((1, 2, T, 1))
        ))  # fmt: skip
    state = replay.state_dict()
    assert sorted(state["obs"][:, 0, 0, 0].tolist()) == [2.0, 3.0]
    assert state["obs"].shape == (2, 2, 2, 1)
    other = PairReplay(2, spec, 1)
    other.load_state_dict(state)
    assert same(other.state_dict(), state)
    with pytest.raises(RlcError, match="do not fit"):
        PairReplay(1, spec, 1).load_state_dict(state)


# Resume.


def killed(two_lives, objective: str, **fields) -> None:
    config = RunConfig(
        "preference-policy", "combination-lock",
        {"objective": objective, "batch": 8, "capacity": 12, "updates": 3, "iterate_every": 3, **fields}, LOCK,
        budget=Budget(episodes=96, eval_every=16, eval_episodes=10), checkpoint_seconds=0.0, tensorboard=False,
    )  # fmt: skip
    whole, again = two_lives(config)
    for name in ("metrics.jsonl", "checkpoint/state.npz"):
        assert (whole / name).read_bytes() == (again / name).read_bytes(), name


def test_killed_and_resumed_a_reward_model_and_ppo_give_the_same_bytes(two_lives):
    killed(two_lives, "ppo")


@pytest.mark.long
@pytest.mark.parametrize("objective", ["hypo", "sparsepo", "copg"])
def test_killed_and_resumed_networks_and_masks_give_the_same_bytes(objective, two_lives):
    killed(two_lives, objective, labels={"temperature": 0.1, "ties": "coin"})


# Wrong use.


@pytest.mark.parametrize(("env", "fields", "match"), [
    ("low-rank", {"objective": "dpi"}, "unknown pair-objective or group-objective 'dpi'; did you mean 'dpo'"),
    ("low-rank", {"objective_options": {"beta": 0.0}}, "beta must lie in"),
    ("low-rank", {"objective_options": {"bet": 1.0}}, "unknown config key 'dpo.bet'"),
    ("low-rank", {"rewards": "model"}, "dpo is a loss of pairs; leave it at 'auto'"),
    ("low-rank", {"objective": "sparsepo"}, "reads features of a network, but low-rank has a table"),
    ("low-rank", {"reference": "greedy"}, "must be 'uniform' or 'run:FOLDER', got 'greedy'"),
    ("duel-lock", {}, "made for environments of one agent, but duel-lock is a two-player game"),
    ("low-rank", {"mixture": 1.0}, r"mixture must lie in \[0, 1\)"),
])  # fmt: skip
def test_wrong_use_is_a_sentence(env, fields, match, make_agent):
    with pytest.raises(RlcError, match=match):
        make_agent("preference-policy", env, **fields)


def test_a_batch_of_one_has_no_pairs(make_agent):
    with pytest.raises(RlcError, match="batch must be >= 2, as pairs are formed within a batch, got 1"):
        make_agent("preference-policy", "low-rank", batch=1)
