"""Hyperparameters of the SB3 baselines: SB3's defaults, but for the discount, which suits a finite horizon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from rl_contrastive.agents.baselines.sb3_view import Clock
from rl_contrastive.config import MOST_DRAWN, MOST_WIDTH, Gt, In, check_ranges, require
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import EnvSpec


@dataclass(frozen=True)
class PpoConfig:
    """Stable-Baselines3 PPO."""

    batch: int = 1
    """B, environments side by side (>= 1); must be 1 where episodes end at different steps."""
    clock: Clock = "auto"
    """How the step h enters the observation: onehot | fraction (h/H) | none; auto: onehot up to H = 128."""
    learning_rate: float = 3e-4
    """Step size of Adam (> 0)."""
    gamma: float | None = None
    """Discount in (0, 1]; default max(.99, 1 - 1/H), so that the last reward is seen from the first step."""
    net_arch: Annotated[tuple[int, ...], In(1, MOST_WIDTH)] = (64, 64)
    """Widths of the hidden layers of policy and value networks (tanh)."""
    channels: Annotated[tuple[int, ...], In(1, MOST_WIDTH)] = ()
    """Output channels of 3 x 3 convolutions before the hidden layers, for planes (C, rows, columns); () flattens them.
    MinAtar's own DQN has (16,). Bytes are not divided by 255."""
    n_steps: Annotated[int, In(2, 1_000_000)] = 2048
    """Steps of each environment between two updates."""
    minibatch: Annotated[int, In(2, MOST_DRAWN)] = 64
    """Rows of a gradient step."""
    n_epochs: int = 10
    """Passes over the data of an update (>= 1)."""
    gae_lambda: Annotated[float, In(0, 1)] = 0.95
    """lambda of generalised advantage estimation."""
    clip_range: Annotated[float, Gt(0)] = 0.2
    """Clip of the probability ratio."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus (>= 0)."""

    def __post_init__(self) -> None:
        check_ranges(self, "sb3-ppo")
        _check_common("sb3-ppo", self)
        _check_ranges("sb3-ppo", self, {"n_epochs": 1, "ent_coef": 0})

    def algorithm(self) -> Any:
        """The SB3 class."""
        from stable_baselines3 import PPO

        return PPO

    def arguments(self, horizon: int, total_steps: int) -> dict[str, Any]:
        """Keyword arguments of the SB3 class."""
        return {
            "learning_rate": self.learning_rate,
            "gamma": discount(self.gamma, horizon),
            "n_steps": self.n_steps,
            "batch_size": self.minibatch,
            "n_epochs": self.n_epochs,
            "gae_lambda": self.gae_lambda,
            "clip_range": self.clip_range,
            "ent_coef": self.ent_coef,
        }


@dataclass(frozen=True)
class DqnConfig:
    """Stable-Baselines3 DQN."""

    batch: int = 1
    """B, environments side by side; must be 1 where episodes end at different steps."""
    clock: Clock = "auto"
    """How the step h enters the observation: onehot | fraction (h/H) | none; auto: onehot up to H = 128."""
    learning_rate: float = 1e-4
    """Step size of Adam (> 0)."""
    gamma: float | None = None
    """Discount in (0, 1]; default max(.99, 1 - 1/H), so that the last reward is seen from the first step."""
    net_arch: Annotated[tuple[int, ...], In(1, MOST_WIDTH)] = (64, 64)
    """Widths of the hidden layers of the value network (ReLU)."""
    channels: Annotated[tuple[int, ...], In(1, MOST_WIDTH)] = ()
    """Output channels of 3 x 3 convolutions before the hidden layers, for planes (C, rows, columns); () flattens them.
    MinAtar's own DQN has (16,). Bytes are not divided by 255."""
    buffer_size: int = 1_000_000
    """Rows of the replay buffer (>= 1); never more than the run's steps are allocated."""
    learning_starts: int = 100
    """Steps before the first gradient step (>= 0)."""
    minibatch: Annotated[int, In(1, MOST_DRAWN)] = 32
    """Rows of a gradient step (>= 1)."""
    train_freq: int = 4
    """Steps of each environment between two updates (>= 1)."""
    gradient_steps: int = 1
    """Gradient steps of an update (>= 1)."""
    target_update_interval: int = 10_000
    """Environment steps between two copies to the target network (>= 1)."""
    exploration_fraction: float = 0.1
    """Share of the run's steps over which epsilon falls from 1, in (0, 1]."""
    exploration_final: float = 0.05
    """Final epsilon, in [0, 1]."""

    def __post_init__(self) -> None:
        check_ranges(self, "sb3-dqn")
        _check_dqn("sb3-dqn", self)

    def algorithm(self) -> Any:
        """The SB3 class."""
        from stable_baselines3 import DQN

        return DQN

    def arguments(self, horizon: int, total_steps: int) -> dict[str, Any]:
        """Keyword arguments of the SB3 class."""
        return {
            "learning_rate": self.learning_rate,
            "gamma": discount(self.gamma, horizon),
            # A buffer larger than the run holds the same rows, but SB3 allocates it whole.
            "buffer_size": max(min(self.buffer_size, total_steps), 1),
            "learning_starts": self.learning_starts,
            "batch_size": self.minibatch,
            "train_freq": self.train_freq,
            "gradient_steps": self.gradient_steps,
            "target_update_interval": self.target_update_interval,
            "exploration_fraction": self.exploration_fraction,
            "exploration_final_eps": self.exploration_final,
        }


@dataclass(frozen=True)
class QrDqnConfig(DqnConfig):
    """sb3-contrib QR-DQN: DQN's fields, with its own defaults, and the number of quantiles."""

    learning_rate: float = 5e-5
    """Step size of Adam (> 0)."""
    exploration_fraction: float = 0.005
    """Share of the run's steps over which epsilon falls from 1, in (0, 1]."""
    exploration_final: float = 0.01
    """Final epsilon, in [0, 1]."""
    quantiles: Annotated[int, In(1, 10_000)] = 200
    """Number of quantiles of the return."""

    def __post_init__(self) -> None:
        check_ranges(self, "sb3-qrdqn")
        _check_dqn("sb3-qrdqn", self)

    def algorithm(self) -> Any:
        """The sb3-contrib class."""
        try:
            from sb3_contrib import QRDQN
        except ImportError as error:
            raise RlcError("sb3-qrdqn needs sb3-contrib: pip install -e '.[bench]'.") from error

        return QRDQN


Sb3Config = PpoConfig | DqnConfig


def discount(gamma: float | None, horizon: int) -> float:
    """max(.99, 1 - 1/H) unless given: over H steps it keeps at least about 1/e of a reward."""
    return gamma if gamma is not None else max(0.99, 1.0 - 1.0 / horizon)


def network(config: Sb3Config, spec: EnvSpec) -> dict[str, Any]:
    """SB3's `policy_kwargs`."""
    kwargs: dict[str, Any] = {"net_arch": list(config.net_arch)}
    if isinstance(config, QrDqnConfig):
        kwargs["n_quantiles"] = config.quantiles
    if config.channels:
        from rl_contrastive.bridges.sb3_planes import planes_kwargs

        kwargs |= planes_kwargs(spec.obs_shape, config.channels)
    return kwargs


def _check_common(agent: str, config: Sb3Config) -> None:
    require(config.batch >= 1, f"{agent}: batch must be >= 1, got {config.batch}.")
    require(0.0 < config.learning_rate < np.inf, f"{agent}: learning_rate must be > 0, got {config.learning_rate}.")
    gamma = config.gamma
    require(gamma is None or 0.0 < gamma <= 1.0, f"{agent}: gamma must be in (0, 1], got {gamma}.")


def _check_ranges(agent: str, config: Sb3Config, least: dict[str, float]) -> None:
    for name, bound in least.items():
        value = getattr(config, name)
        require(bound <= value < np.inf, f"{agent}: {name} must be >= {bound}, got {value}.")


def _check_dqn(agent: str, config: DqnConfig) -> None:
    _check_common(agent, config)
    ones = ("buffer_size", "train_freq", "gradient_steps", "target_update_interval")
    _check_ranges(agent, config, {"learning_starts": 0, **dict.fromkeys(ones, 1)})
    fraction, final = config.exploration_fraction, config.exploration_final
    require(0.0 < fraction <= 1.0, f"{agent}: exploration_fraction must be in (0, 1], got {fraction}.")
    require(0.0 <= final <= 1.0, f"{agent}: exploration_final must be in [0, 1], got {final}.")
