"""Augmentation and noisy heads within the learner's gradient step: what they reach, what they leave, and resuming."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from agents_common import batches, same

from rl_contrastive import registry
from rl_contrastive.config import from_dict
from rl_contrastive.deep.bonus import VisitBonus
from rl_contrastive.deep.bonus_config import BonusConfig
from rl_contrastive.deep.build_bonus import make_bonus
from rl_contrastive.deep.config import DeepLearnerConfig
from rl_contrastive.deep.learner import DeepLearner
from rl_contrastive.deep.noisy import NoisyLinear
from rl_contrastive.deep.replay.replay import Replay
from rl_contrastive.errors import RlcError
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import EnvSpec

SIDE = 36
FRAMES = EnvSpec("frames", 3, 10, (SIDE, SIDE), "uint8", frame_stack=2)
SMALL = {
    "batch_size": 4,
    "encoder": {"channels": [4, 4, 4], "hidden": [8]},
    "representation": {"dim": 4, "hidden": 0, "every": 2},
}
BOTH = {"augment": {"shift": 2, "intensity": 0.05}, "value": {"noisy": 0.5, "hidden": 8}}


def learner(*, seed: int = 0, spec: EnvSpec = FRAMES, **options: Any) -> DeepLearner:
    shape = (spec.frame_stack, *spec.obs_shape) if spec.frame_stack > 1 else spec.obs_shape
    return DeepLearner(spec, shape, from_dict(DeepLearnerConfig, {**SMALL, "device": "cpu", **options}), seed=seed)


def stored() -> tuple[Replay, VisitBonus]:
    """Forty steps of random frames."""
    rng = np.random.default_rng(1)
    replay = Replay(60, FRAMES.obs_shape, "uint8", gamma=0.9, n_step=2, stack=2)
    for _ in range(4):
        replay.begin(1)
        obs = rng.integers(256, size=(1, SIDE, SIDE), dtype=np.uint8)
        for k in range(10):
            following = rng.integers(256, size=(1, SIDE, SIDE), dtype=np.uint8)
            end = np.array([k == 9])
            replay.add(obs, rng.integers(3, size=1), rng.normal(size=1), following, np.ones(1), end, np.array([True]))
            obs = following
    return replay, make_bonus(from_dict(BonusConfig, {"kind": "elliptical"}), 60, 3, 4, beta=1.0, rng=rng)


def shifted(frames: np.ndarray, u: int, v: int) -> np.ndarray:
    padded = np.pad(frames, [(0, 0), (2, 2), (2, 2)], mode="edge")
    return padded[:, 2 + u : 2 + u + SIDE, 2 + v : 2 + v + SIDE]


def test_each_observation_of_a_step_is_shifted_on_its_own() -> None:
    replay, bonus = stored()
    net, rng = learner(augment={"shift": 2}), np.random.default_rng(5)
    seen: list[np.ndarray] = []

    def gradient(obs: torch.Tensor, numbers: torch.Tensor, *rest: None) -> Any:
        seen.append(obs.numpy())
        return net._gradient(obs, numbers, *rest)

    def contrast(obs: torch.Tensor, action: torch.Tensor, ahead: torch.Tensor, *rest: None) -> Any:
        seen.append(torch.cat([obs, ahead]).numpy())
        return net.features._gradient(obs, action, ahead, *rest)

    net._gradient_of, net.features._gradient_of = gradient, contrast
    batch = replay.sample(4, rng=np.random.default_rng(5))  # what the step will draw
    net.step(replay, bonus, rng=rng)
    successors = replay.observations(replay.ring.next[batch.index])
    for got, plain in zip(seen, ([batch.obs, batch.next_obs], [batch.obs, successors]), strict=True):
        shifts = set()
        for x, frames in zip(got, np.concatenate(plain), strict=True):
            fits = [(u, v) for u in range(-2, 3) for v in range(-2, 3) if (x == shifted(frames, u, v)).all()]
            assert len(fits) == 1
            shifts.add(fits[0])
        assert len(shifts) > 4


def test_acting_features_and_bonus_see_plain_frames() -> None:
    obs = np.random.default_rng(2).integers(256, size=(3, 2, SIDE, SIDE), dtype=np.uint8)
    plain, augmented = learner(), learner(augment={"shift": 2, "intensity": 0.05})
    for left, right in zip(plain.q(obs), augmented.q(obs, rng=np.random.default_rng(0)), strict=True):
        np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(plain.features.phi(obs), augmented.features.phi(obs))


def test_switched_off_nothing_is_drawn() -> None:
    replay, bonus = stored()
    rng, twin = np.random.default_rng(5), np.random.default_rng(5)
    net = learner()
    net.step(replay, bonus, rng=rng)
    net.q(np.zeros((1, 2, SIDE, SIDE), dtype=np.uint8), rng=rng)
    replay.sample(4, rng=twin)
    assert generator_state(rng) == generator_state(twin)
    assert not any(isinstance(layer, NoisyLinear) for layer in net.values.modules())


@pytest.mark.parametrize("options", [{}, {"self_prediction": {"weight": 1.0, "steps": 2, "hidden": 8, "dim": 4}}])
def test_a_resumed_learner_goes_on_to_the_bit(options: dict[str, Any]) -> None:
    replay, bonus = stored()
    straight, rng = learner(**BOTH, **options), np.random.default_rng(7)
    for _ in range(3):
        straight.step(replay, bonus, rng=rng)
    resumed, other = learner(seed=9, **BOTH, **options), np.random.default_rng()
    resumed.load_state_dict(straight.state_dict())
    restore_generator(other, generator_state(rng))
    control = learner(seed=9, **BOTH, **options)
    control.load_state_dict(straight.state_dict())
    for net, own in ((straight, rng), (resumed, other), (control, np.random.default_rng(8))):
        for _ in range(3):
            net.step(replay, bonus, rng=own)
    assert same(straight.state_dict(), resumed.state_dict())
    assert not same(straight.state_dict(), control.state_dict())


@pytest.mark.parametrize(("shape", "dtype"), [((6, 10, 10), "bool"), ((4, 7, 7), "uint8"), ((5,), "float32")], ids=str)
def test_only_frames_can_be_augmented(shape: tuple[int, ...], dtype: str) -> None:
    spec = EnvSpec("other", 2, 10, shape, dtype)
    options = {"encoder": {}, "augment": {"shift": 1}}
    with pytest.raises(RlcError, match="augment: only for the encoders nature and impala, not for"):
        learner(spec=spec, **options)
    learner(spec=spec, encoder={})


def test_noise_is_for_acting_and_steps_only() -> None:
    obs = np.random.default_rng(2).integers(256, size=(3, 2, SIDE, SIDE), dtype=np.uint8)
    net, rng = learner(value={"noisy": 0.5}), np.random.default_rng(0)
    plain = learner().q(obs)
    first, second = net.q(obs, rng=rng), net.q(obs, rng=rng)
    for k in range(2):  # Q and G
        np.testing.assert_array_equal(net.q(obs)[k], plain[k])
        assert np.abs(first[k] - plain[k]).max() > 1e-3
        assert np.abs(first[k] - second[k]).max() > 1e-3


def test_scales_are_learned_followed_and_noise_is_new_at_each_step() -> None:
    replay, bonus = stored()
    net, rng = learner(value={"noisy": 0.5, "hidden": 8}, tau=0.5), np.random.default_rng(0)
    online, target = ([x for x in m.modules() if isinstance(x, NoisyLinear)] for m in (net.values, net.target))
    start = [layer.weight_scale.detach().clone() for layer in online]
    noises = []
    for _ in range(2):
        net.step(replay, bonus, rng=rng)
        noises.append([layer.c.clone() for layer in (*online, *target)])
    assert len(noises[0]) == 4
    for old, new in zip(*noises, strict=True):
        assert not torch.equal(old, new)
    for layer in range(2):  # two networks, two noises
        assert not torch.equal(noises[1][layer], noises[1][2 + layer])
    for before, layer, follower in zip(start, online, target, strict=True):
        assert not torch.equal(layer.weight_scale, before)
        assert not torch.equal(follower.weight_scale, before)


def noisy_sea(sigma: float) -> Any:
    env_entry, _ = registry.get("env", "deep-sea")
    agent_entry, _ = registry.get("agent", "contrastive-ucb-deep")
    options = {"batch_size": 4, "encoder": {"hidden": [8]}, "representation": {"dim": 4, "hidden": 0}}
    config = {"batch": 2, "warm_start": 12, "capacity": 200, "epsilon": 0.0, "bonus": {"kind": "elliptical"}}
    learner = {"learner": {**options, "value": {"noisy": sigma}}}
    env = env_entry.factory(from_dict(env_entry.config, {"size": 4}), 2)
    return agent_entry.factory(env, from_dict(agent_entry.config, {**config, **learner}), seed=0)


def test_a_noisy_agent_acts_by_noise_is_judged_without_and_resumes_to_the_bit() -> None:
    straight, first = noisy_sea(0.5), noisy_sea(0.5)
    batches(straight, 0, 6)
    batches(first, 0, 3)
    resumed = noisy_sea(0.5)
    resumed.load_state_dict(first.state_dict())
    batches(resumed, 3, 3)
    assert same(straight.state_dict(), resumed.state_dict())
    obs = np.arange(16)
    loaded = noisy_sea(0.5)  # its noise was never drawn
    loaded.load_state_dict(straight.state_dict())
    assert any(layer.on for layer in straight.learner.target.modules() if isinstance(layer, NoisyLinear))
    np.testing.assert_array_equal(straight.learner.target_q(obs), loaded.learner.target_q(obs))
    straight.begin(2)
    acts = {tuple(straight.act(np.zeros(2, dtype=np.int64), 0)) for _ in range(20)}
    quiet = noisy_sea(0.0)
    batches(quiet, 0, 6)
    quiet.begin(2)
    assert len(acts) > 1
    assert len({tuple(quiet.act(np.zeros(2, dtype=np.int64), 0)) for _ in range(20)}) == 1
