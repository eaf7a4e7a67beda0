"""Three locks that change one thing each: distractors, soft latents, or a dense reward.

`distractor-lock` tests representation learning. Its extra coordinates vary more than the latents do, so directions of
large variance (PCA) are the wrong features. Only directions that predict or are predictable matter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from rl_contrastive.config import Ge, Gt, In
from rl_contrastive.envs.lock import LockConfig, LockEnv, LockVariant
from rl_contrastive.registry import register


@dataclass(frozen=True)
class DistractorLockConfig(LockConfig):
    """The combination lock with coordinates of pure noise, larger than the signal."""

    num_distractors: Annotated[int, In(0, 64)] = 4
    """Number of extra coordinates, each +-distractor_scale by a fair coin at each observation. They come
    after the one-hots and before the rotation, which mixes them into all observed coordinates."""
    distractor_scale: Annotated[float, Ge(0)] = 1.0
    """Standard deviation of a distractor; a latent's coordinate has .5 at most."""


@register("env", "distractor-lock", DistractorLockConfig)
def distractor_lock(config: DistractorLockConfig, num_envs: int) -> LockEnv:
    """Combination lock with 4 extra +-1 coordinates whose variance exceeds the latents': PCA picks the wrong ones."""
    variant = LockVariant(num_distractors=config.num_distractors, distractor_scale=config.distractor_scale)
    return LockEnv(config, num_envs, name="distractor-lock", variant=variant)


@dataclass(frozen=True)
class DenseLockConfig(LockConfig):
    """The combination lock without bait and with a reward for each good action."""

    anti_reward: float = 0.0
    """Bait paid with probability 1/2 for the first wrong action."""
    step_reward: Annotated[float, In(0, 1)] = 0.1
    """Paid for each good action before the last one; the last pays 1. Optimal: 1 + step_reward (H-1)."""


@register("env", "dense-lock", DenseLockConfig)
def dense_lock(config: DenseLockConfig, num_envs: int) -> LockEnv:
    """Combination lock that pays 0.1 for each good action on the way and no bait."""
    return LockEnv(config, num_envs, name="dense-lock", variant=LockVariant(step_reward=config.step_reward))


@dataclass(frozen=True)
class VariableLockConfig(LockConfig):
    """The combination lock whose latent state is drawn anew from each observation (a simplex, not a block)."""

    num_latents: Annotated[int, In(3, 6)] = 3
    """m + 1: m = num_latents - 1 good latents and the bad one."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """tau: the state is drawn from softmax(latent coordinates / tau). At 1 a good latent stays what it was
    drawn as with probability .576 (three latents, no noise); towards 0 the plain lock returns."""


@register("env", "variable-lock", VariableLockConfig)
def variable_lock(config: VariableLockConfig, num_envs: int) -> LockEnv:
    """Combination lock with 3..6 latents and simplex emission: the state is drawn from its own observation.

    The rule is BRIEE's `variable_latent`, here applied at the first observation as well. The bad latent is no longer
    absorbing. `env_spec.optimal_return` is the optimum over observations; `exact()` is the model for one who sees s.
    """
    variant = LockVariant(num_good=config.num_latents - 1, temperature=config.temperature)
    env = LockEnv(config, num_envs, name="variable-lock", variant=variant)
    env.env_spec = replace(env.env_spec, optimal_return=soft_optimal_return(env))
    return env


def soft_optimal_return(env: LockEnv) -> float:
    """Optimal return of a variable lock over policies that see x, by backward induction with a quadrature over x.

    Given x the state's law is s ~ p(.|x) = softmax(x / tau), so x is a Markov state, and with z the latent that the
    dynamics drew: V_h(z) = E_{x|z}[max_a sum_s p(s|x) Q_h(s, a)], Q_h(s, a) = r_h(s, a) + E[V_{h+1}(z') | s, a].
    """
    m, p, config = env.variant.num_good, env.config.p_switch, env.config
    nodes = [env.posterior_nodes(z) for z in range(m + 1)]
    V = np.zeros(m + 1)
    for h in range(config.horizon - 1, -1, -1):
        after_good = (1.0 - p) * V[:m] + p * (V[:m].sum() - V[:m]) / (m - 1)
        reward = 1.0 if h == config.horizon - 1 else env.variant.step_reward
        good = np.arange(config.num_actions) == env.good_actions[h, :m, None]  # (m, A)
        Q = np.full((m + 1, config.num_actions), V[m])
        Q[:m] = np.where(good, reward + after_good[:, None], config.anti_reward / 2 + V[m])
        V = np.array([(shares.T @ Q).max(axis=1) @ weights for shares, weights in nodes])
    return float(V[:m].mean())
