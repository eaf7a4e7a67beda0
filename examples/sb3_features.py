"""Features learned from random play as the first layers of Stable-Baselines3's PPO, frozen or fine-tuned.

    python examples/sb3_features.py --noise 60 --play 8000 --steps 16000

CartPole, its four numbers hidden by a rotation among as many numbers of noise as you like. No reward is used for the
features: they are taught which successor belongs to (s, a), for which the noise is no help.

Mean returns seen with three seeds, too few to decide by: from scratch 127, 107, 123; frozen 148, 148, 145; fine-tuned
127, 136, 152. Without noise (`--noise 0`) no features are needed: one run of each gave 154 from scratch, 150 and 146.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from rl_contrastive.bridges.sb3 import BonusEnvConfig, BonusVecEnv, extractor_kwargs
from rl_contrastive.deep.config import EncoderConfig
from rl_contrastive.deep.feature_net import FeatureConfig, TransitionFeatures


class Hidden(gym.ObservationWrapper[Any, Any, Any]):
    """x -> R [x / scale, noise] with a fixed rotation R and fresh noise N(0, 1) at each step."""

    def __init__(self, env: gym.Env[Any, Any], noise: int) -> None:
        super().__init__(env)
        self.size = 4 + noise
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (self.size,), np.float32)
        self.scale = np.array([1.0, 1.0, 0.1, 1.0])
        self.rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(self.size, self.size)))[0]

    def observation(self, observation: Any) -> Any:
        noise = self.np_random.normal(size=self.size - 4)
        return (self.rotation @ np.concatenate([observation / self.scale, noise])).astype(np.float32)


def cart_poles(noise: int, seed: int) -> VecEnv:
    """Eight of them side by side."""
    return make_vec_env(lambda: Hidden(gym.make("CartPole-v1"), noise), 8, seed=seed)


def pretrain(noise: int, steps: int, seed: int) -> TransitionFeatures:
    """Contrastive features of `steps` transitions of uniform actions, with a gradient step for every two of them."""
    features = FeatureConfig(encoder=EncoderConfig(hidden=(64, 64)), lr=1e-3, device="cpu")
    config = BonusEnvConfig(warm_start=steps // 4, train_every=2, features=features)
    env = BonusVecEnv(cart_poles(noise, seed), config, rng=np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    env.reset()
    for _ in range(steps // 8):
        env.step(rng.integers(2, size=8))
    env.learner.net.freeze()
    numbers = ", ".join(f"{name} {value:.2f}" for name, value in env.learner.diagnose().items())
    print(f"features after {env.learner.steps} gradient steps: {numbers}", flush=True)
    return env.learner.net.frozen


def train(noise: int, steps: int, seed: int, policy_kwargs: dict[str, Any]) -> float:
    """Mean return of the last episodes (at most 100) of a PPO run."""
    model = PPO(
        "MlpPolicy",
        cart_poles(noise, seed),
        n_steps=64,
        batch_size=128,
        n_epochs=5,
        learning_rate=1e-3,
        policy_kwargs=policy_kwargs,
        seed=seed,
        device="cpu",
    )
    model.learn(steps)
    assert model.ep_info_buffer is not None
    return float(np.mean([episode["r"] for episode in model.ep_info_buffer]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise", type=int, default=60, help="numbers of noise in an observation")
    parser.add_argument("--play", type=int, default=8000, help="transitions of random play")
    parser.add_argument("--steps", type=int, default=16_000, help="environment steps of a PPO run")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each kind")
    arguments = parser.parse_args()
    for name, least in (("noise", 0), ("play", 160), ("steps", 1), ("seeds", 1)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name} must be >= {least}, got {getattr(arguments, name)}")
    torch.set_num_threads(1)  # small networks are slower on many
    for seed in range(arguments.seeds):
        features = pretrain(arguments.noise, arguments.play, seed)
        arms: dict[str, dict[str, Any]] = {
            "from scratch": {"net_arch": [64, 64]},
            "frozen features": extractor_kwargs(features, frozen=True, net_arch=[64, 64]),
            "fine-tuned features": extractor_kwargs(features, frozen=False, net_arch=[64, 64]),
        }
        for name, policy_kwargs in arms.items():
            result = train(arguments.noise, arguments.steps, seed, policy_kwargs)
            print(f"PPO, {name:20s} seed {seed}: return {result:.0f}", flush=True)


if __name__ == "__main__":
    main()
