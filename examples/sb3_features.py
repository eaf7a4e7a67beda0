"""Features learned from random play as the first layers of Stable-Baselines3's PPO, frozen or fine-tuned: CartPole.

    python examples/sb3_features.py --play 4000 --steps 16000

No reward is used for the features: which successor belongs to (s, a) is all that they are taught.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from rl_contrastive.deep.config import EncoderConfig
from rl_contrastive.deep.sb3 import EllipticalBonusConfig, EllipticalBonusVecEnv, extractor_kwargs
from rl_contrastive.deep.transitions import FeatureConfig, TransitionFeatures


def pretrain(steps: int, seed: int) -> TransitionFeatures:
    """Contrastive features of `steps` transitions of uniform actions, with a gradient step for every two of them."""
    features = FeatureConfig(encoder=EncoderConfig(hidden=(64, 64)), lr=1e-3, device="cpu")
    config = EllipticalBonusConfig(warm_start=steps // 4, train_every=2, features=features)
    env = EllipticalBonusVecEnv(make_vec_env("CartPole-v1", 8, seed=seed), config, rng=np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    env.reset()
    for _ in range(steps // 8):
        env.step(rng.integers(2, size=8))
    env.learner.freeze()
    numbers = ", ".join(f"{name} {value:.2f}" for name, value in env.learner.diagnose().items())
    print(f"features after {env.learner.steps} gradient steps: {numbers}", flush=True)
    return env.learner.frozen


def train(steps: int, seed: int, policy_kwargs: dict[str, Any]) -> float:
    """Mean return of the last episodes (at most 100) of a PPO run."""
    env = make_vec_env("CartPole-v1", 8, seed=seed)
    model = PPO(
        "MlpPolicy",
        env,
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
    parser.add_argument("--play", type=int, default=4000, help="transitions of random play")
    parser.add_argument("--steps", type=int, default=16_000, help="environment steps of a PPO run")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # small networks are slower on many
    features = pretrain(arguments.play, arguments.seed)
    arms: dict[str, dict[str, Any]] = {
        "from scratch": {"net_arch": [64, 64]},
        "frozen features": extractor_kwargs(features, frozen=True, net_arch=[]),
        "fine-tuned features": extractor_kwargs(features, frozen=False, net_arch=[]),
    }
    for name, policy_kwargs in arms.items():
        print(f"PPO, {name:20s} return {train(arguments.steps, arguments.seed, policy_kwargs):.0f}", flush=True)


if __name__ == "__main__":
    main()
