"""A user's file: an environment that breaks in a chosen way at a chosen batch of episodes (`--import`)."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rl_contrastive.config import from_dict
from rl_contrastive.registry import get, register


@dataclass(frozen=True)
class BrokenConfig:
    """How and when it breaks."""

    how: Literal["raise", "nan", "die", "no"] = "raise"
    """raise an exception | pay NaN | kill its own process | work."""
    at: int = 3
    """Number of the reset after which it breaks."""


@register("env", "broken", BrokenConfig)
def broken(config, num_envs):
    """Low-rank MDP that breaks."""
    entry, _ = get("env", "low-rank")
    fields = {"num_states": 6, "num_actions": 3, "horizon": 3, "rank": 2}
    env = entry.factory(from_dict(entry.config, fields), num_envs)
    resets, reset, step = [0], env.reset, env.step
    how = "no" if "MENDED" in os.environ else config.how  # the cause of a failure lies outside the run, and goes away

    def counting_reset(**kwargs):
        resets[0] += 1
        return reset(**kwargs)

    def breaking_step(actions):
        obs, reward, terminated, truncated, info = step(actions)
        if resets[0] >= config.at and how == "raise":
            raise ZeroDivisionError("the simulator\nhas crashed.")
        if resets[0] >= config.at and how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if resets[0] >= config.at and how == "nan":
            reward = np.where(np.arange(num_envs) == 1, np.nan, reward)
        return obs, reward, terminated, truncated, info

    env.reset, env.step = counting_reset, breaking_step
    return env
