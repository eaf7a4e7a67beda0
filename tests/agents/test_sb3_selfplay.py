"""Self-play PPO: whose actions and rewards each side sees, private generators, turns, the loop, saved policies."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from matrix_game import PENNIES, MatrixGame

from rl_contrastive.agents.baselines.sb3_selfplay import SelfPlay, SelfPlayConfig, SideStream, probabilities
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.loop import train
from rl_contrastive.seeding import SeedTree
from rl_contrastive.spec import marginals

SMALL = {"n_steps": 16, "minibatch": 16, "n_epochs": 2, "net_arch": (8,)}
GAME = {"num_states": 4, "num_actions": 2, "num_opponent_actions": 3, "horizon": 3, "rank": 2}
WIDE = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def no_progress(episodes: int, env_steps: int) -> bool:
    return True


def bytes_of(agent: SelfPlay) -> bytes:
    state = agent.state_dict()
    return b"".join(value.tobytes() for side in ("max", "min") for value in state[side].values())


def on_matrix(payoff=PENNIES, *, horizon: int = 1, rich: bool = False, seed: int = 0, **fields) -> SelfPlay:
    config = SelfPlayConfig(**{**SMALL, **fields})
    return SelfPlay(MatrixGame(config.batch, payoff, horizon=horizon, rich=rich), config, seed=seed)


class Always:
    """Stands for a policy that plays one action."""

    def __init__(self, action: int, num_actions: int) -> None:
        self.probs = torch.eye(num_actions)[action]
        self.loaded: list[int] = []

    def load_state_dict(self, snapshot) -> None:
        self.loaded.append(snapshot)

    def get_distribution(self, x):
        class Found:
            distribution = torch.distributions.Categorical(self.probs.expand(len(x), -1))

        return Found


# What a side meets.


@pytest.mark.parametrize(("side", "action", "reward"), [(0, 1, 5.0), (1, 2, -3.0)])
def test_each_side_plays_its_own_actions_for_its_own_reward(side, action, reward):
    """[[1, 2, 3], [4, 5, 6]], the other max plays row 0, the other min plays column 1."""
    stream = SideStream(MatrixGame(2, WIDE, horizon=2), SeedTree(0), "auto")
    stream.side, stream.frozen, stream.pools = side, [Always(0, 2), Always(1, 3)], ([7], [8])
    stream.reset()
    x, rewards, done, _ = stream.step(np.array([action, action]))
    np.testing.assert_array_equal(rewards, [reward, reward])
    np.testing.assert_array_equal(x, [[1, 0, 1], [1, 0, 1]])  # state, clock h = 1
    assert not done.any()
    assert (stream.frozen[1 - side].loaded, stream.frozen[side].loaded) == ([8 - side], [])


def test_snapshots_and_draws_are_functions_of_the_batch_number():
    stream = SideStream(MatrixGame(64, np.zeros((2, 3)), horizon=1), SeedTree(0), "auto")
    met, draws = [], []
    mixed = Always(0, 3)
    mixed.probs = torch.tensor([0.2, 0.3, 0.5])
    stream.frozen, stream.pools = [Always(0, 2), mixed], ([0], [0, 1, 2])
    for iteration in (0, *range(12)):
        stream.iteration = iteration
        stream.reset()
        met.append(mixed.loaded[-1])
        draws.append(stream._rng.random(3).tolist())
    assert (met[0], draws[0]) == (met[1], draws[1])
    assert set(met) == {0, 1, 2}
    assert len({tuple(d) for d in draws}) == 12


def test_policies_are_the_distributions_and_their_product():
    agent = on_matrix(WIDE, horizon=2)
    joint = agent.policy(np.zeros(4, dtype=int), 1)
    x = agent.stream.view(np.zeros(4, dtype=int), 1)
    mu, nu = (probabilities(model.policy, x) for model in agent.models)
    assert (mu.shape, nu.shape) == ((4, 2), (4, 3))
    np.testing.assert_allclose(joint.reshape(4, 2, 3), mu[:, :, None] * nu[:, None])
    assert ((joint > 0.01) & (joint < 0.99)).all()  # no mode: both mix
    np.testing.assert_array_equal(agent.policy(np.zeros(4, dtype=int), 1, explore=True), joint)
    drawn = agent.act(np.zeros(3000, dtype=int), 1)
    np.testing.assert_allclose(np.bincount(drawn, minlength=6) / 3000, joint[0], atol=0.04)


# Training.


@pytest.mark.long
def test_both_sides_learn_a_game_with_a_dominant_action():
    """[[3, 2], [1, 0]]: row 0 and column 1 are dominant. Untrained networks play them half of the time."""
    agent = on_matrix([[3.0, 2.0], [1.0, 0.0]], batch=8, n_steps=32, learning_rate=5e-3, ent_coef=0.0)
    before = marginals(agent.policy(np.array([0]), 0), (2, 2))
    agent.train_in_own_loop(episodes=6000, on_progress=no_progress)
    after = marginals(agent.policy(np.array([0]), 0), (2, 2))
    assert max(before[0][0, 0], before[1][0, 1]) < 0.7
    assert min(after[0][0, 0], after[1][0, 1]) > 0.9


def test_sides_take_turns_and_keep_a_pool():
    agent = on_matrix(batch=2, pool=3)
    turns: list[tuple[int, bytes, bytes]] = []
    end_turn = agent._end_turn

    def noted(learner) -> None:
        side = agent.stream.side
        assert learner is agent.models[side]
        end_turn(learner)
        weights = [b"".join(t.numpy().tobytes() for t in m.policy.state_dict().values()) for m in agent.models]
        turns.append((side, *weights))

    agent._end_turn = noted
    agent.train_in_own_loop(episodes=7 * 32, on_progress=no_progress)
    assert [side for side, _, _ in turns] == [0, 1, 0, 1, 0, 1, 0]
    for (_, *before), (side, *after) in itertools.pairwise(turns[:-1]):  # the budget cuts the last
        assert after[side] != before[side]  # who has the turn learns
        assert after[1 - side] == before[1 - side]  # the other one waits
    assert [len(pool) for pool in agent.stream.pools] == [3, 3]


def seed_globals(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def global_draws() -> tuple:
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def test_same_seed_same_weights_whatever_the_globals_and_the_callback_do(make_agent):
    def disturb(episodes: int, env_steps: int) -> bool:
        global_draws()
        agent.env.reset(seed=episodes)  # an evaluation on the training environment
        agent.env.step(np.zeros(agent.batch, dtype=int))
        agent.policy(np.array([0]), 0)
        return True

    results = []
    for seed, callback in ((0, no_progress), (0, disturb), (1, no_progress)):
        seed_globals(len(results))
        expected = global_draws()
        seed_globals(len(results))
        agent = make_agent("sb3-ppo-selfplay", "low-rank-game", seed=seed, env=GAME, **SMALL)
        untrained = bytes_of(agent)
        agent.train_in_own_loop(steps=150, on_progress=callback)
        assert bytes_of(agent) != untrained
        if callback is no_progress:
            assert global_draws() == expected
        results.append(bytes_of(agent))
    assert results[0] == results[1]
    assert results[0] != results[2]


@pytest.mark.parametrize(("env_name", "env"), [("low-rank-game", GAME), ("duel-lock", {"horizon": 3})])
def test_the_loop_trains_and_measures_gaps(env_name, env, make_agent):
    agent = make_agent("sb3-ppo-selfplay", env_name, env=env, batch=4, **SMALL)
    result = train(agent, agent.env, episodes=62, eval_every=20, eval_episodes=8)
    assert [line["episodes"] for line in result.history] == [20, 40, 60]  # whole batches of 4, at most 62
    for line in result.history:
        assert line["gap"] == pytest.approx(line["loss_max"] + line["loss_min"])
        assert line["gap"] > 0
    assert result.history[-1]["version"] == agent.version > 0


def test_on_progress_stops_the_training():
    agent = on_matrix()
    calls = []
    agent.train_in_own_loop(episodes=50, on_progress=lambda e, s: calls.append((e, s)) or e < 3)
    assert calls == [(1, 1), (2, 2), (3, 3)]


# Saved policies.


def test_saved_networks_give_the_same_policy():
    agent, fresh = on_matrix(WIDE), on_matrix(WIDE, seed=9)
    agent.train_in_own_loop(steps=60, on_progress=no_progress)
    assert not np.array_equal(fresh.policy(np.array([0]), 0), agent.policy(np.array([0]), 0))
    fresh.load_state_dict(agent.state_dict())
    np.testing.assert_array_equal(fresh.policy(np.array([0]), 0), agent.policy(np.array([0]), 0))
    state = agent.state_dict()
    for key in state:
        with pytest.raises(RlcError, match=f"lacks '{key}'"):
            fresh.load_state_dict({k: v for k, v in state.items() if k != key})
    with pytest.raises(RlcError, match="saved networks of max have shapes"):
        on_matrix(WIDE, net_arch=(4,)).load_state_dict(state)


def test_a_finished_run_can_be_loaded_to_play(tmp_path):
    """The run's folder has a checkpoint of both networks, though the run cannot be resumed midway."""
    from rl_contrastive.runs.budget import Budget
    from rl_contrastive.runs.load import load_agent
    from rl_contrastive.runs.run import RunConfig, run, run_folder

    fields = {**SMALL, "net_arch": [8]}
    config = RunConfig(
        "sb3-ppo-selfplay",
        "low-rank-game",
        fields,
        GAME,
        budget=Budget(episodes=20, eval_episodes=5),
        tensorboard=False,
    )
    summary = run(config, tmp_path)
    assert summary["status"] == "finished", summary["error"]
    loaded, _ = load_agent(run_folder(tmp_path, config))
    fresh = SelfPlay(loaded.env, SelfPlayConfig(**SMALL), seed=0)
    assert loaded.version > 0
    assert bytes_of(loaded) != bytes_of(fresh)


# Bad input.


def test_rewards_that_are_not_its_game_are_refused(make_agent):
    with pytest.raises(RlcError, match="is made for games"):
        make_agent("sb3-ppo-selfplay", "probe-match")
    with pytest.raises(RlcError, match="train in their own loop"):
        on_matrix().update()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [({"pool": 0}, "pool must be >= 1"), ({"rollouts": 0}, "rollouts must be >= 1"), ({"batch": 0}, "batch must be")],
)
def test_impossible_values(fields, sentence):
    with pytest.raises(RlcError, match=sentence):
        SelfPlayConfig(**fields)
