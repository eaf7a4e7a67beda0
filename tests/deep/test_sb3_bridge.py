"""Features and bonus inside Stable-Baselines3: what is counted, when, and what SB3 must not undo."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from bridge_common import SMALL, Corridor, assert_same, features_config, walk, wrapped
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from rl_contrastive.bridges.sb3 import (
    ContrastiveExtractor,
    EllipticalBonusVecEnv,
    extractor_kwargs,
    obs_layout,
)
from rl_contrastive.deep.feature_net import ObsLayout, TransitionFeatures
from rl_contrastive.deep.transition_learner import TransitionLearner
from rl_contrastive.deep.weights import weights
from rl_contrastive.errors import RlcError


def test_the_bonus_is_that_of_visits_before_by_hand() -> None:
    env = wrapped(n=2, beta=0.5, counts={"lam": 0.1})
    venv, twin = DummyVecEnv([lambda: Corridor()] * 2), np.random.default_rng(1)
    obs = np.array(venv.reset())
    assert np.array_equal(env.reset(), obs)
    Sigma, count = 0.1 * np.eye(6), 0
    for _ in range(15):  # below the warm start: one network, no gradient step
        actions = (twin.random(2) < 0.7).astype(np.int64)
        phi = env.learner.net.phi(obs, actions)
        expected = 0.5 * np.sqrt(np.einsum("nd,de,ne->n", phi, np.linalg.inv(Sigma), phi))
        Sigma += phi.T @ phi
        count += 2
        obs, plain, dones, _ = venv.step(actions)
        seen, rewards, ended, infos = env.step(actions)
        assert np.array_equal(seen, obs)
        assert np.array_equal(ended, dones)
        assert rewards == pytest.approx(plain + expected, rel=1e-5)
        assert [info["extrinsic"] for info in infos] == plain.tolist()
        assert [info["bonus"] for info in infos] == pytest.approx(expected, rel=1e-5)
    assert env.counts.visits == count == len(env.learner)
    assert env.learner.steps == 0


def test_counts_are_visits_and_never_gradient_steps() -> None:
    env = wrapped(train_every=1, growth=1e9, counts={"lam": 0.1})  # trains all the time, rebuilds once
    env.reset()
    walk(env, 30)
    assert env.learner.steps > 20
    phi = env.learner.net.phi(np.array([0, 1]), np.array([1, 1]))
    before = env.counts.value(phi)
    for _ in range(50):
        env.learner.step()
    assert np.array_equal(env.learner.net.phi(np.array([0, 1]), np.array([1, 1])), phi)  # frozen
    assert np.array_equal(env.counts.value(phi), before)
    assert env.counts.visits == 60
    moved = env.learner.net.online(torch.tensor([0, 1]), torch.tensor([1, 1])).numpy()
    assert np.abs(moved - phi).max() > 1e-3  # what would have changed


def test_a_rebuild_counts_every_stored_visit_once_with_the_new_features() -> None:
    env = wrapped(train_every=2, growth=0.3, counts={"lam": 0.1})
    env.reset()
    walk(env, 60)
    learner, visits = env.learner, env.counts.visits
    assert env.rebuilt_at >= visits / 1.3 - 2
    assert env.rebuilt_at > 0
    Sigma = 0.1 * np.eye(6)
    for _, action, phi in learner.visits(7):
        taken = phi[np.arange(len(phi)), action]
        Sigma += taken.T @ taken
    assert env.counts.confidence.Sigma[0] == pytest.approx(Sigma, rel=1e-5)
    # A rebuild on the spot changes nothing but rounding, unless the network moved.
    env.counts.rebuild(learner.sample(), learner.visits())
    assert env.counts.confidence.Sigma[0] == pytest.approx(Sigma, rel=1e-5)
    learner.net.freeze()
    env.counts.rebuild(learner.sample(), learner.visits())
    assert np.abs(env.counts.confidence.Sigma[0] - Sigma).max() > 1e-3


@pytest.mark.parametrize("limit", [7, 3])
def test_successors_of_ends_are_final_observations(limit: int) -> None:
    env = wrapped(n=3, limit=limit)
    env.reset()
    walk(env, 40)
    learner = env.learner
    n = len(learner)
    obs, action, following = learner._obs[:n], learner._action[:n], learner._next[:n]
    assert np.array_equal(following, np.maximum(obs + 2 * action - 1, 0))  # the law of the corridor, at ends too
    assert (following == 4).any() == (limit == 7)
    assert not (obs == 4).any()


def test_evaluation_leaves_everything_as_it_is() -> None:
    env = wrapped()
    env.reset()
    walk(env, 30)
    env.training = False
    state = env.state_dict()
    env.reset()
    rewards = walk(env, 30)
    assert set(np.concatenate(rewards).tolist()) <= {0.0, 1.0}
    assert_same(env.state_dict(), state)
    env.training = True
    env.reset()
    assert float(walk(env, 1)[0].min()) > 0.0


def test_a_saved_state_goes_on_to_the_same_bytes() -> None:
    env = wrapped(train_every=2)
    env.reset()
    walk(env, 40)
    state = env.state_dict()
    env.reset()
    rewards = walk(env, 40, seed=2)
    other = wrapped(seed=5, train_every=2)
    other.load_state_dict(state)
    other.reset()
    assert_same(walk(other, 40, seed=2), rewards)
    assert_same(other.state_dict(), env.state_dict())
    fresh = wrapped(seed=5, train_every=2)
    fresh.reset()
    assert not np.array_equal(walk(fresh, 40, seed=2), rewards)  # the comparison can fail
    with pytest.raises(RlcError, match="lacks 'counts'"):
        other.load_state_dict({key: value for key, value in state.items() if key != "counts"})
    with pytest.raises(RlcError, match="saved obs has shape"):
        other.load_state_dict({**state, "learner": {**state["learner"], "obs": np.zeros(3)}})


def test_the_memory_is_a_ring_and_forgotten_visits_still_count() -> None:
    env = wrapped(features={**SMALL, "capacity": 50}, growth=0.5)
    env.reset()
    walk(env, 100)
    assert len(env.learner) == 50
    assert env.counts.visits == 200
    assert env.past.visits == 150
    env._rebuild()
    phi, weight = [], []
    for _, action, each in env.learner.visits():
        phi.append(each[np.arange(len(each)), action])
        weight.append(np.ones(len(each)))
    for obs, action, times in env.past.chunks():
        phi.append(env.learner.net.phi(obs, action))
        weight.append(times)
    rows, total = np.concatenate(phi), np.concatenate(weight)
    expected = env.bonus_config.counts.lam * np.eye(6) + rows.T @ (rows * total[:, None])
    assert env.counts.confidence.Sigma[0] == pytest.approx(expected, rel=1e-4)


def trained(layout: ObsLayout) -> TransitionFeatures:
    learner = TransitionLearner(layout, 2, features_config(), rng=np.random.default_rng(0))
    return learner.net.online


LAYOUTS = {
    "states": ObsLayout((), "int64", 5),
    "floats": ObsLayout((2,), "float32"),
    "bytes": ObsLayout((4, 36, 36), "uint8"),
}


@pytest.mark.parametrize("kind", ["states", "floats", "bytes"])
@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_a_policy_begins_with_the_pretrained_weights_and_sees_the_same_vectors(kind: str, algorithm: Any) -> None:
    features = trained(LAYOUTS[kind])
    env = DummyVecEnv([lambda: Corridor(kind=kind)])
    model = algorithm("MlpPolicy", env, policy_kwargs=extractor_kwargs(features, net_arch=[8]), seed=0, device="cpu")
    net = model.policy if algorithm is PPO else model.policy.q_net
    extractor = net.features_extractor
    assert_same(weights(extractor.features), weights(features))  # PPO fills all other layers anew
    obs = env.reset()
    env.step(np.array([1]))
    obs = np.concatenate([obs, env.step(np.array([1]))[0]])
    with torch.no_grad():
        got = net.extract_features(net.obs_to_tensor(obs)[0], extractor)
        expected = features.encoder(torch.as_tensor(obs))
    assert torch.allclose(got, expected, atol=1e-6)
    assert not torch.allclose(got[0], got[1])
    if algorithm is DQN:
        assert model.policy.q_net_target.features_extractor.features is not extractor.features


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_training_moves_the_encoder_only_if_it_may(frozen: bool, algorithm: Any) -> None:
    features = trained(LAYOUTS["states"])
    fields = {"n_steps": 32, "batch_size": 32} if algorithm is PPO else {"learning_starts": 8}
    env = DummyVecEnv([lambda: Corridor()])
    kwargs = extractor_kwargs(features, frozen=frozen, net_arch=[8])
    model = algorithm("MlpPolicy", env, policy_kwargs=kwargs, seed=0, device="cpu", **fields)
    before = weights(features)
    heads = [p.detach().clone() for p in model.policy.parameters() if p.requires_grad]
    model.learn(64)
    net = model.policy if algorithm is PPO else model.policy.q_net
    after = weights(net.features_extractor.features)
    assert all(np.array_equal(before[name], after[name], equal_nan=True) for name in before) == frozen
    assert_same(weights(features), before)  # the original is nobody's to change
    now = [p for p in model.policy.parameters() if p.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(heads, now, strict=True))


def test_phi_of_all_actions_as_features() -> None:
    features = trained(LAYOUTS["states"])
    extractor = ContrastiveExtractor(spaces.Discrete(5), features, output="phi")
    assert extractor.features_dim == 2 * 6
    out = extractor(torch.eye(5))
    assert torch.equal(out.reshape(5, 2, 6), features(torch.arange(5)))
    assert out.reshape(5, 2, 6).square().sum(-1).numpy() == pytest.approx(1.0, abs=1e-5)
    assert not any(p.requires_grad for p in extractor.parameters())


def test_bytes_that_the_policy_scaled_are_refused() -> None:
    features = trained(LAYOUTS["bytes"])
    env = DummyVecEnv([lambda: Corridor(kind="bytes")])
    kwargs = {**extractor_kwargs(features), "normalize_images": True}
    model = PPO("MlpPolicy", env, policy_kwargs=kwargs, device="cpu")
    model.predict(env.reset())  # black: nothing to see yet
    with pytest.raises(RlcError, match="normalize_images=False"):
        model.predict(env.step(np.array([1]))[0])


@pytest.mark.parametrize("algorithm", [PPO, DQN])
@pytest.mark.parametrize("kind", ["states", "floats"])
def test_sb3_learns_with_the_bonus_and_repeats_it(algorithm: Any, kind: str) -> None:
    """Two runs of one seed give the same bytes; the rewards of the buffer carry the bonus."""
    fields = {"n_steps": 32, "batch_size": 32} if algorithm is PPO else {"learning_starts": 8, "train_freq": 2}
    results = []
    for _ in range(2):
        env = wrapped(kind=kind, seed=3, limit=1000)  # at a cut PPO adds gamma V to the reward
        model = algorithm("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **fields)
        model.learn(128)
        assert env.learner.steps > 0
        assert env.counts.visits == 128
        buffer = model.rollout_buffer.rewards if algorithm is PPO else model.replay_buffer.rewards[:64]
        assert float(buffer.min()) > 0.0
        results.append((weights(model.policy), env.state_dict()))
    assert_same(*results)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(RlcError, match="channels first"):
        obs_layout(spaces.Box(0, 255, (84, 84, 3), np.uint8))
    with pytest.raises(RlcError, match="Box or Discrete"):
        obs_layout(spaces.Dict({"a": spaces.Discrete(2)}))
    with pytest.raises(RlcError, match="from 0"):
        obs_layout(spaces.Discrete(3, start=1))
    with pytest.raises(RlcError, match="the policy sees"):
        ContrastiveExtractor(spaces.Discrete(6), trained(LAYOUTS["states"]))
    with pytest.raises(RlcError, match="Discrete space"):
        EllipticalBonusVecEnv(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), rng=np.random.default_rng(0))
    env = wrapped()
    env.venv.reset()
    with pytest.raises(RlcError, match="reset"):
        env.step(np.array([0, 0]))
    for fields in ({"beta": -1.0}, {"growth": 0.0}, {"warm_start": 1}, {"train_every": 0}):
        with pytest.raises(RlcError, match="sb3 bonus"):
            wrapped(**fields)
    for fields in ({"capacity": 1}, {"batch_size": 1}, {"lr": 0.0}):
        with pytest.raises(RlcError, match="features"):
            features_config(**fields)


def test_standardising_comes_before_the_first_step() -> None:
    learner = TransitionLearner(LAYOUTS["floats"], 2, features_config(), rng=np.random.default_rng(0))
    with pytest.raises(RlcError, match="two stored"):
        learner.step()
    learner.store(np.ones((3, 2)), np.zeros(3, dtype=np.int64), np.zeros((3, 2)))
    learner.standardise()
    learner.step()
    with pytest.raises(RlcError, match="before the first"):
        learner.standardise()
    with pytest.raises(RlcError, match="expected"):
        learner.store(np.ones((3, 4)), np.zeros(3, dtype=np.int64), np.zeros((3, 4)))


@pytest.mark.parametrize(
    ("script", "options", "lines"),
    [
        ("sb3_bonus.py", ["--size", "4", "--steps", "320", "--seeds", "1"], ("PPO ", "PPO + bonus")),
        (
            "sb3_features.py",
            ["--noise", "3", "--play", "160", "--steps", "512"],
            ("features after", "PPO, frozen", "PPO, fine-tuned"),
        ),
    ],
)
def test_examples_run(
    script: str,
    options: list[str],
    lines: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = Path(__file__).parents[2] / "examples" / script
    threads = torch.get_num_threads()
    monkeypatch.setattr("sys.argv", [str(path), *options])
    runpy.run_path(str(path), run_name="__main__")
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert all(line in printed for line in lines)
