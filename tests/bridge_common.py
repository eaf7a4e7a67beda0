"""For tests of the bridge to Stable-Baselines3: small environments, a wrapped VecEnv, and walks through it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from rl_contrastive.bridges.sb3 import BonusEnvConfig, BonusVecEnv
from rl_contrastive.config import from_dict
from rl_contrastive.deep.feature_net import FeatureConfig


class Corridor(gym.Env[Any, Any]):
    """Cells 0..4: action 1 goes right, 0 left; the last cell ends it, reward 1; cut after `limit` steps."""

    def __init__(self, limit: int = 7, kind: str = "states") -> None:
        self.limit, self.kind = limit, kind
        self.action_space = spaces.Discrete(2)
        self.observation_space = {
            "states": spaces.Discrete(5),
            "floats": spaces.Box(-1.0, 5.0, (2,), np.float32),
            "bytes": spaces.Box(0, 255, (4, 36, 36), np.uint8),
        }[kind]

    def _observe(self) -> Any:
        if self.kind == "states":
            return self.cell
        if self.kind == "floats":
            return np.array([self.cell, 1.0], dtype=np.float32)
        return np.full((4, 36, 36), 40 * self.cell, dtype=np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.cell = self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.cell, self.steps = max(self.cell + (1 if action == 1 else -1), 0), self.steps + 1
        over = self.cell == 4
        return self._observe(), float(over), over, self.steps >= self.limit and not over, {}


SMALL = {
    "encoder": {"hidden": [16]},
    "representation": {"dim": 6, "hidden": 0, "features": "unit"},
    "batch_size": 16,
    "capacity": 400,
}


def features_config(**fields: Any) -> FeatureConfig:
    return from_dict(FeatureConfig, {**SMALL, **fields})


def wrapped(n: int = 2, *, kind: str = "states", limit: int = 7, seed: int = 0, **fields: Any) -> BonusVecEnv:
    counts = {"kind": "elliptical", "lam": 0.001, **fields.pop("counts", {})}
    config = from_dict(BonusEnvConfig, {"features": SMALL, "warm_start": 40, **fields, "counts": counts})
    venv = DummyVecEnv([lambda: Corridor(limit, kind)] * n)
    return BonusVecEnv(venv, config, rng=np.random.default_rng(seed))


def walk(env: BonusVecEnv, steps: int, seed: int = 1) -> list[np.ndarray]:
    rng, rewards = np.random.default_rng(seed), []
    for _ in range(steps):
        actions = (rng.random(env.num_envs) < 0.7).astype(np.int64)
        rewards.append(env.step(actions)[1])
    return rewards


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()  # averages that have not begun are NaN on both sides
    else:
        assert a == b


class Scripted(gym.Env[Any, Any]):
    """States 0..5 in the order of these episodes, whatever is done; no rewards."""

    observation_space, action_space = spaces.Discrete(6), spaces.Discrete(2)

    def __init__(self, episodes: list[list[int]]) -> None:
        self.episodes, self.number = episodes, -1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        self.number, self.h = self.number + 1, 0
        return self.episodes[min(self.number, len(self.episodes) - 1)][0], {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        states, self.h = self.episodes[min(self.number, len(self.episodes) - 1)], self.h + 1
        return states[self.h], 0.0, self.h == len(states) - 1, False, {}


def scripted(rows: list[list[list[int]]], of: Any, bonus: dict[str, Any], **fields: Any) -> BonusVecEnv:
    """Rows with these episodes, and the vector of[s] as the features of state s."""
    of = np.asarray(of, dtype=np.float64)
    options = {"features": SMALL, "rnd": {"dim": 8, "hidden": 8, "batch_size": 4}, "warm_start": 10**6, "beta": 1.0}
    config = from_dict(BonusEnvConfig, {**options, **fields, "counts": bonus})
    venv = DummyVecEnv([lambda episodes=episodes: Scripted(episodes) for episodes in rows])
    env = BonusVecEnv(venv, config, rng=np.random.default_rng(0))
    features_are(env, of)
    env.reset()
    return env


def features_are(env: BonusVecEnv, of: np.ndarray) -> None:
    """Features of state s are of[s] from now on."""

    def phi(obs: np.ndarray, action: np.ndarray | None = None) -> np.ndarray:
        return of[obs][:, None] if action is None else of[obs]

    if env.bonus_config.counts.parts is not None and env.bonus_config.counts.parts.uses_features:
        env.learner.net.phi = phi


def played(env: BonusVecEnv, actions: list[list[int]]) -> np.ndarray:
    """The rewards (T, B) of actions (T, B)."""
    return np.array([env.step(np.array(each))[1] for each in actions])
