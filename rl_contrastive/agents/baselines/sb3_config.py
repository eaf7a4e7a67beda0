"""Hyperparameters of the SB3 baselines: SB3's defaults, except the discount, which suits a finite horizon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from rl_contrastive.agents.baselines.sb3_view import Clock
from rl_contrastive.config import MOST_DRAWN, MOST_WIDTH, Ge, Gt, In, Options
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import EnvSpec


@dataclass(frozen=True)
class Sb3Config(Options):
    """What all of them have."""

    batch: Annotated[int, Ge(1)] = 1
    """B, environments side by side; must be 1 where episodes end at different steps."""
    clock: Clock = "auto"
    """How the step h enters the observation: onehot | fraction (h/H) | none; auto: onehot up to H = 128."""
    learning_rate: Annotated[float, Gt(0)] = 3e-4
    """Step size of Adam."""
    gamma: Annotated[float | None, In(0, 1, above=True)] = None
    """Discount; default max(.99, 1 - 1/H), so that the last reward is seen from the first step."""
    net_arch: Annotated[tuple[int, ...], In(1, MOST_WIDTH)] = (64, 64)
    """Widths of the hidden layers of policy and value networks (PPO: tanh, DQN: ReLU)."""
    channels: Annotated[tuple[int, ...], In(1, MOST_WIDTH)] = ()
    """Output channels of 3 x 3 convolutions before the hidden layers, for planes (C, rows, columns); () flattens them.
    MinAtar's own DQN has (16,). Bytes are not divided by 255."""

    def algorithm(self) -> Any:
        """The SB3 class."""
        raise NotImplementedError

    def arguments(self, horizon: int, total_steps: int) -> dict[str, Any]:
        """Keyword arguments of the SB3 class."""
        return {"learning_rate": self.learning_rate, "gamma": discount(self.gamma, horizon)}


@dataclass(frozen=True)
class PpoConfig(Sb3Config, where="sb3-ppo"):
    """Stable-Baselines3 PPO."""

    n_steps: Annotated[int, In(2, 1_000_000)] = 2048
    """Steps of each environment between two updates."""
    minibatch: Annotated[int, In(2, MOST_DRAWN)] = 64
    """Rows of a gradient step."""
    n_epochs: Annotated[int, Ge(1)] = 10
    """Passes over the data of an update."""
    gae_lambda: Annotated[float, In(0, 1)] = 0.95
    """lambda of generalised advantage estimation."""
    clip_range: Annotated[float, Gt(0)] = 0.2
    """Clip of the probability ratio."""
    ent_coef: Annotated[float, Ge(0)] = 0.0
    """Weight of the entropy bonus."""

    def algorithm(self) -> Any:
        from stable_baselines3 import PPO

        return PPO

    def arguments(self, horizon: int, total_steps: int) -> dict[str, Any]:
        return {
            **super().arguments(horizon, total_steps),
            "n_steps": self.n_steps,
            "batch_size": self.minibatch,
            "n_epochs": self.n_epochs,
            "gae_lambda": self.gae_lambda,
            "clip_range": self.clip_range,
            "ent_coef": self.ent_coef,
        }


@dataclass(frozen=True)
class DqnConfig(Sb3Config, where="sb3-dqn"):
    """Stable-Baselines3 DQN."""

    learning_rate: float = 1e-4
    buffer_size: Annotated[int, Ge(1)] = 1_000_000
    """Rows of the replay buffer; never more than the run's steps are allocated."""
    learning_starts: Annotated[int, Ge(0)] = 100
    """Steps before the first gradient step."""
    minibatch: Annotated[int, In(1, MOST_DRAWN)] = 32
    """Rows of a gradient step."""
    train_freq: Annotated[int, Ge(1)] = 4
    """Steps of each environment between two updates."""
    gradient_steps: Annotated[int, Ge(1)] = 1
    """Gradient steps of an update."""
    target_update_interval: Annotated[int, Ge(1)] = 10_000
    """Environment steps between two copies to the target network."""
    exploration_fraction: Annotated[float, In(0, 1, above=True)] = 0.1
    """Share of the run's steps over which epsilon falls from 1."""
    exploration_final: Annotated[float, In(0, 1)] = 0.05
    """Final epsilon."""

    def algorithm(self) -> Any:
        from stable_baselines3 import DQN

        return DQN

    def arguments(self, horizon: int, total_steps: int) -> dict[str, Any]:
        return {
            **super().arguments(horizon, total_steps),
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
class QrDqnConfig(DqnConfig, where="sb3-qrdqn"):
    """sb3-contrib QR-DQN: DQN's fields, with its own defaults, and the number of quantiles."""

    learning_rate: float = 5e-5
    exploration_fraction: float = 0.005
    exploration_final: float = 0.01
    quantiles: Annotated[int, In(1, 10_000)] = 200
    """Number of quantiles of the return."""

    def algorithm(self) -> Any:
        try:
            from sb3_contrib import QRDQN
        except ImportError as error:
            raise RlcError("sb3-qrdqn needs sb3-contrib: pip install -e '.[bench]'.") from error

        return QRDQN


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
