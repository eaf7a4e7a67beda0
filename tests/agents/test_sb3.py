"""SB3 baselines: what they see of an environment, private generators, same seed same run, probes (slow)."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from rl_contrastive.agents.baselines.sb3 import PrivateGlobals
from rl_contrastive.agents.baselines.sb3_config import discount
from rl_contrastive.agents.baselines.sb3_view import EpisodeStream, ObservationView
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import get
from rl_contrastive.runs.loop import train
from rl_contrastive.seeding import SeedTree

SMALL = {
    "sb3-ppo": {"n_steps": 32, "minibatch": 32, "n_epochs": 2, "net_arch": [8]},
    "sb3-dqn": {"learning_starts": 10, "net_arch": [8]},
    "sb3-qrdqn": {"learning_starts": 10, "net_arch": [8], "quantiles": 5},
}
FAST_DQN = {"learning_rate": 5e-3, "target_update_interval": 50, "train_freq": 1, "exploration_fraction": 0.5}
LEARNING = {
    "sb3-ppo": {"n_steps": 64, "learning_rate": 3e-3},
    "sb3-dqn": FAST_DQN,
    "sb3-qrdqn": {**FAST_DQN, "quantiles": 10},
}
each_agent = pytest.mark.parametrize("name", sorted(SMALL))


def no_progress(episodes: int, env_steps: int) -> bool:
    return True


def weights(agent) -> bytes:
    return b"".join(value.tobytes() for value in agent.state_dict()["policy"].values())


# What SB3 sees.


def test_the_clock_is_part_of_the_observation(make_env):
    spec = make_env("probe-delay", 1).env_spec  # S = 2, H = 2
    np.testing.assert_array_equal(ObservationView(spec)(np.array([1, 0]), 1), [[0, 1, 0, 1], [1, 0, 0, 1]])
    np.testing.assert_array_equal(ObservationView(spec)(np.array([1]), 2), [[0, 1, 0, 0]])  # after the last step
    np.testing.assert_array_equal(ObservationView(spec, "fraction")(np.array([1]), 1), [[0, 1, 0.5]])
    np.testing.assert_array_equal(ObservationView(spec, "none")(np.array([0]), 1), [[1, 0]])
    rich = make_env("combination-lock", 3, horizon=4)
    obs, _ = rich.reset(seed=0)
    seen = ObservationView(rich.env_spec)(obs, 2)
    np.testing.assert_array_equal(seen[:, :-4], obs.astype(np.float32))
    np.testing.assert_array_equal(seen[:, -4:], np.tile([0, 0, 1, 0], (3, 1)))


def test_a_terminal_is_not_a_truncation(make_env):
    stream = EpisodeStream(make_env("probe-terminal", 1), SeedTree(0))
    stream.reset()
    x, reward, done, infos = stream.step(np.array([0]))  # leaves at once: 1.5 and a true end
    assert (reward[0], done[0], infos[0]["TimeLimit.truncated"]) == (1.5, True, False)
    np.testing.assert_array_equal(x, [[1, 0, 1, 0, 0]])  # already the next episode: state 0, h = 0
    np.testing.assert_array_equal(infos[0]["terminal_observation"], [0, 1, 0, 1, 0])  # state 1, h = 1

    stream = EpisodeStream(make_env("probe-truncation", 2), SeedTree(0))
    stream.reset()
    steps = [stream.step(np.zeros(2, dtype=int)) for _ in range(3)]
    assert [bool(step[2].all()) for step in steps] == [False, False, True]
    assert all(info["TimeLimit.truncated"] for info in steps[2][3])
    np.testing.assert_array_equal(steps[2][3][1]["terminal_observation"], [0, 1, 0, 0, 0])
    assert (stream.episodes, stream.env_steps) == (2, 6)


def test_rows_that_end_apart_are_refused(make_env):
    stream = EpisodeStream(make_env("probe-terminal", 2), SeedTree(0))
    stream.reset()
    with pytest.raises(RlcError, match=r"episodes end at different steps; SB3 agents then need batch = 1, got 2"):
        stream.step(np.array([0, 1]))


def test_reset_repeats_the_batch_and_the_next_one_differs(make_env):
    stream = EpisodeStream(make_env("low-rank", 8), SeedTree(1))
    first = stream.reset()
    np.testing.assert_array_equal(stream.reset(), first)
    for _ in range(5):
        following = stream.step(np.zeros(8, dtype=int))[0]
    assert not np.array_equal(following, first)
    np.testing.assert_array_equal(stream.reset(), following)


# Private generators.


def global_draws() -> tuple:
    # The legacy generators are the point here: SB3 uses them, and must leave them alone.
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def seed_globals(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def test_two_sets_of_generators_do_not_mix():
    before = torch.get_num_threads()
    private = PrivateGlobals()
    seed_globals(1)
    expected_outside = [global_draws() for _ in range(2)]
    seed_globals(2)
    expected_inside = [global_draws() for _ in range(2)]
    seed_globals(1)
    with private.swapped():
        seed_globals(2)
        assert torch.get_num_threads() == 1
        assert global_draws() == expected_inside[0]
        with private.swapped():
            assert torch.get_num_threads() == before
            assert global_draws() == expected_outside[0]
        assert global_draws() == expected_inside[1]
    assert global_draws() == expected_outside[1]


@each_agent
def test_training_leaves_the_global_generators_alone(name, make_agent):
    get("agent", name)[0].config().algorithm()  # the first import of SB3 draws from random
    seed_globals(5)
    expected = global_draws()
    seed_globals(5)
    agent = make_agent(name, "low-rank", **SMALL[name])
    agent.train_in_own_loop(steps=60, on_progress=no_progress)
    agent.policy(np.array([0]), 0)
    assert global_draws() == expected


@each_agent
def test_same_seed_same_weights_whatever_the_globals_and_the_callback_do(name, make_agent):
    def disturb(episodes: int, env_steps: int) -> bool:
        global_draws()
        agent.env.reset(seed=episodes)  # an evaluation on the training environment
        agent.env.step(np.zeros(agent.batch, dtype=int))
        return True

    results = []
    for seed, callback in ((0, no_progress), (0, disturb), (1, no_progress)):
        seed_globals(len(results))
        agent = make_agent(name, "low-rank", seed=seed, **SMALL[name])
        untrained = weights(agent)
        agent.train_in_own_loop(steps=100, on_progress=callback)
        assert weights(agent) != untrained
        results.append(weights(agent))
    assert results[0] == results[1]
    assert results[0] != results[2]


# Through the loop and the record format.


@each_agent
def test_the_loop_trains_evaluates_and_stops_at_the_budget(name, make_agent):
    agent = make_agent(name, "low-rank", batch=2, **SMALL[name])
    result = train(agent, agent.env, episodes=21, eval_every=8, eval_episodes=10)
    assert [line["episodes"] for line in result.history] == [8, 16, 20]  # whole batches of 2, at most 21
    assert result.history[-1]["env_steps"] == 100
    assert result.history[-1]["version"] == agent.version > 0
    for explore in (False, True):
        p = agent.policy(np.arange(50), 3, explore=explore)
        np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-9)
        assert (p.max(axis=1) == 1.0).all() == (not explore)  # evaluation plays the mode


@each_agent
def test_on_progress_stops_the_training(name, make_agent):
    agent = make_agent(name, "low-rank", **SMALL[name])
    calls = []
    agent.train_in_own_loop(episodes=50, on_progress=lambda e, s: calls.append((e, s)) or e < 3)
    assert calls == [(1, 5), (2, 10), (3, 15)]


@each_agent
def test_saved_networks_give_the_same_policy(name, make_agent):
    agent = make_agent(name, "low-rank", **SMALL[name])
    agent.train_in_own_loop(steps=60, on_progress=no_progress)
    fresh = make_agent(name, "low-rank", seed=9, **SMALL[name])
    fresh.load_state_dict(agent.state_dict())
    assert weights(fresh) == weights(agent)
    with pytest.raises(RlcError, match="lacks 'version'"):
        fresh.load_state_dict({"policy": {}})
    with pytest.raises(RlcError, match="saved networks have shapes"):
        make_agent(name, "low-rank", **{**SMALL[name], "net_arch": [4]}).load_state_dict(agent.state_dict())


@each_agent
def test_planes_are_convolved_and_the_clock_goes_beside_them(name, make_agent):
    from torch.nn.functional import conv2d

    from rl_contrastive.bridges.sb3_planes import Planes

    pytest.importorskip("minatar")
    agent = make_agent(name, "minatar:Breakout", **{**SMALL[name], "channels": [3, 2], "clock": "fraction"})
    spec = agent.env_spec
    extractor = next(module for module in agent.model.policy.modules() if isinstance(module, Planes))
    obs, _ = agent.env.reset(seed=[0])
    first, second = (layer for layer in extractor.body if isinstance(layer, torch.nn.Conv2d))
    x = torch.as_tensor(ObservationView(spec, "fraction")(obs, spec.horizon // 2))
    by_hand = conv2d(conv2d(torch.as_tensor(obs, dtype=torch.float32), first.weight, first.bias).relu(), second.weight)
    by_hand = (by_hand + second.bias[:, None, None]).relu().reshape(1, -1)
    with torch.no_grad():
        z = extractor(x)
    assert extractor.features_dim == z.shape[1] == 2 * 6 * 6 + 1
    torch.testing.assert_close(z[:, :-1], by_hand)
    assert z[0, -1] == 0.5
    before = weights(agent)
    agent.train_in_own_loop(steps=100, on_progress=no_progress)
    assert weights(agent) != before


@each_agent
@pytest.mark.parametrize("env", ["low-rank", "combination-lock"])
def test_what_is_no_picture_is_not_convolved(name, env, make_agent):
    with pytest.raises(RlcError, match=r"1 convolutions need planes \(C, >= 3, >= 3\), got \("):
        make_agent(name, env, **{**SMALL[name], "channels": [4]})


@each_agent
@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"gamma": 1.5}, "gamma must lie in"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"batch": 0}, "batch must be >= 1"),
        ({"net_arch": [0]}, "net_arch must lie in"),
        ({"channels": [16, 0]}, "channels must lie in"),
        ({"minibatch": 0}, "minibatch must lie in"),
        ({"clock": "sundial"}, "must be one of"),
    ],
)
def test_impossible_values(name, fields, sentence, make_agent):
    with pytest.raises(RlcError, match=sentence):
        make_agent(name, "low-rank", **fields)


def test_discount_suits_the_horizon():
    assert discount(None, 10) == 0.99
    assert discount(None, 1000) == 0.999
    assert discount(1.0, 10) == 1.0


def test_listing_agents_imports_no_torch():
    """Discovery imports each agent's module: the deep ones must not drag torch into a tabular run."""
    code = (
        "import sys; from rl_contrastive.registry import get; get('agent', 'sb3-ppo'); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'stable_baselines3', 'sb3_contrib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Learning.


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("probe", ["probe-match", "probe-terminal", "probe-truncation"])
@each_agent
def test_probes_are_solved_in_1000_steps(name, probe, seed, make_agent):
    agent = make_agent(name, probe, seed=seed, **LEARNING[name])
    result = train(agent, agent.env, steps=1000, eval_every=1000)
    assert result.history[-1]["gap"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.slow
@each_agent
def test_untrained_networks_do_not_match(name, make_agent):
    """Negative control: over 5 seeds the initial policy is optimal in probe-match on few."""
    from rl_contrastive.runs.evaluate import exact_evaluation

    values = []
    for seed in range(5):
        agent = make_agent(name, "probe-match", seed=seed, **LEARNING[name])
        values.append(exact_evaluation(agent, agent.env.exact(), explore=False))
    assert np.mean(values) < 0.9
