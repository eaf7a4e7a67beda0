"""A single-environment view of any native batch: a plain `gymnasium.Env` for tools that know nothing of batches.

    gymnasium.make("rl_contrastive.envs:rl_contrastive/combination-lock-v0", horizon=20)

Keyword arguments are the config's fields. `rl_contrastive.envs` registers the ids when it is imported; the prefix makes
gymnasium import it (since its version 1.0 gymnasium loads no plugins by itself).
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from rl_contrastive.config import from_dict
from rl_contrastive.envs.base import BatchEnv
from rl_contrastive.registry import get
from rl_contrastive.spec import EnvSpec, ExactModel


class SingleEnv(gym.Env[Any, Any]):
    """Row 0 of a batch of one. Stepping an ended episode is an error of the caller: call `reset` first."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - gymnasium's own class attribute

    def __init__(self, batch: BatchEnv) -> None:
        assert batch.num_envs == 1, "the single view needs a batch of one environment"
        self.batch = batch
        self.env_spec: EnvSpec = batch.env_spec
        self.observation_space = batch.single_observation_space
        self.action_space = batch.single_action_space
        self.render_mode = None
        self._tabular = self.env_spec.num_states is not None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; with a seed, the one that row i of a batch begins with the same seed."""
        super().reset(seed=seed)  # seeds gymnasium's own generator, which nothing here draws from
        obs, info = self.batch.reset(seed=None if seed is None else [seed], options=options or None)
        return self._first(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step: observation, reward, terminated, truncated, {}."""
        obs, reward, terminated, truncated, info = self.batch.step(np.asarray(action, dtype=np.int64).reshape(1))
        return self._first(obs), float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def _first(self, obs: Any) -> Any:
        return np.int64(obs[0]) if self._tabular else obs[0]

    def exact(self) -> ExactModel | None:
        """The batch's exact model."""
        return self.batch.exact()


def make_single(name: str, **fields: Any) -> SingleEnv:
    """The native environment `name` as a single `gymnasium.Env`; `fields` are those of its config."""
    entry, fixed = get("env", name)
    return SingleEnv(entry.factory(from_dict(entry.config, {**fixed, **fields}), 1))
