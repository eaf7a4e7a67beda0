"""Stable-Baselines3's PPO finds a needle once its rewards carry the bonus: Deep Sea with and without it.

    python examples/sb3_bonus.py --steps 12000 --seeds 3
    python examples/sb3_bonus.py --kind ours-arrival

Deep Sea of N cells pays only after N right decisions in a row and charges for each of them, so undirected exploration
needs about 2^N episodes. The environment is plain gymnasium; `BonusVecEnv` wraps any VecEnv like this.

Seen with the kind elliptical, N = 10, 12000 steps and two seeds: PPO found the treasure in 0 and 0 of 1200 episodes,
with the bonus in 738 and 800. Far fewer steps show nothing: after 2000 (one seed) neither had found it.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from rl_contrastive.bridges.sb3 import BonusEnvConfig, BonusVecEnv
from rl_contrastive.config import from_dict
from rl_contrastive.deep.bonus_config import KINDS, BonusConfig
from rl_contrastive.deep.config import EncoderConfig, RepresentationConfig
from rl_contrastive.deep.feature_net import FeatureConfig


class DeepSea(gym.Env[int, int]):
    """States row N + column; a hidden action moves right in each cell, the other one left; N steps an episode."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.observation_space: Any = spaces.Discrete(size * size)
        self.action_space: Any = spaces.Discrete(2)
        self.right = np.random.default_rng(7).integers(2, size=(size, size))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.row = self.column = 0
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        last, right = self.row == self.size - 1, bool(action == self.right[self.row, self.column])
        reward = float(last and right and self.column == self.size - 1) - 0.01 / self.size * right
        if not last:
            self.row += 1
            self.column = min(self.column + 1, self.size - 1) if right else max(self.column - 1, 0)
        return self.row * self.size + self.column, reward, last, False, {}


def train(size: int, steps: int, seed: int, *, kind: str) -> tuple[int, int]:
    """(episodes that found the treasure, episodes) of one run; `Monitor` sees the rewards without the bonus."""
    env: Any = DummyVecEnv([lambda: Monitor(DeepSea(size))] * 8)
    if kind != "none":
        representation = RepresentationConfig(hidden=0, features="unit")
        encoder = EncoderConfig(hidden=(128,))
        features = FeatureConfig(encoder=encoder, representation=representation, lr=1e-3, device="cpu")
        counts = from_dict(BonusConfig, {"kind": kind, "lam": 0.001 if kind == "elliptical" else 0.1})
        config = BonusEnvConfig(beta=0.05, counts=counts, growth=0.1, warm_start=200, features=features)
        env = BonusVecEnv(env, config, rng=np.random.default_rng(seed))
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=5 * size,
        batch_size=10 * size,
        n_epochs=6,
        learning_rate=2e-3,
        policy_kwargs={"net_arch": [64]},
        seed=seed,
        device="cpu",
    )
    returns: list[float] = []

    def note(local: dict[str, Any], _: dict[str, Any]) -> bool:
        returns.extend(info["episode"]["r"] for info in local["infos"] if "episode" in info)
        return True

    model.learn(steps, callback=note)
    return sum(r > 0.5 for r in returns), len(returns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10, help="N")
    parser.add_argument("--steps", type=int, default=12_000, help="environment steps of a run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--kind", choices=tuple(KINDS), default="elliptical", help="of the bonus")
    arguments = parser.parse_args()
    for name, least in (("size", 2), ("steps", 1), ("seeds", 1)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name} must be >= {least}, got {getattr(arguments, name)}")
    torch.set_num_threads(1)  # small networks are slower on many
    for kind in ("none", arguments.kind):
        for seed in range(arguments.seeds):
            found, episodes = train(arguments.size, arguments.steps, seed, kind=kind)
            name = "PPO" if kind == "none" else "PPO + bonus"
            print(f"{name:12s} seed {seed}: treasure found in {found} of {episodes} episodes", flush=True)


if __name__ == "__main__":
    main()
