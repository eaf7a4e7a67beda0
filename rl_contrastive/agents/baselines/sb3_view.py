"""Our batched environment as Stable-Baselines3 wants to see it: flat float32 vectors that carry the clock.

Policies of a finite horizon depend on the step h, so the clock is part of the vector. Episodes are seeded batch by
batch exactly as in `runs.loop`, so SB3's agents meet the same seeds as ours, whatever the autoreset mode.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rl_contrastive.errors import RlcError
from rl_contrastive.runs.rollout import autoreset_mode, final_observations
from rl_contrastive.seeding import SeedTree
from rl_contrastive.spec import Array, BoolArray, Env, EnvSpec, FloatArray, IntArray

Clock = Literal["auto", "onehot", "fraction", "none"]
LARGEST = 1e30
"""Of rewards: float32 ends at 3e38, and returns are sums of many."""
LONGEST_ONEHOT = 128
"""Largest H whose clock is one-hot under "auto"."""


class ObservationView:
    """(o, h) -> float32 vector: one-hot state or flattened observation, then the clock (all zeros, or 1, at h = H)."""

    def __init__(self, spec: EnvSpec, clock: Clock = "auto") -> None:
        self.spec = spec
        self.clock = clock if clock != "auto" else ("onehot" if spec.horizon <= LONGEST_ONEHOT else "fraction")
        extra = {"onehot": spec.horizon, "fraction": 1, "none": 0}[self.clock]
        self.obs_dim = spec.num_states if spec.num_states is not None else int(np.prod(spec.obs_shape))
        self.dim = self.obs_dim + extra

    def __call__(self, obs: Array, h: int) -> NDArray[np.float32]:
        """Observations (N, ...) of step h, 0 <= h <= H -> (N, dim)."""
        n, H = len(obs), self.spec.horizon
        x = np.zeros((n, self.dim), dtype=np.float32)
        if self.spec.num_states is not None:
            x[np.arange(n), obs] = 1.0
        else:
            x[:, : self.obs_dim] = np.asarray(obs).reshape(n, -1)
        if self.clock == "onehot" and h < H:
            x[:, self.obs_dim + h] = 1.0
        elif self.clock == "fraction":
            x[:, self.obs_dim] = h / H
        return x


class EpisodeStream:
    """Whole episodes of B rows one after the other, in SB3's convention: at an episode's end the returned vector is
    already the next episode's first one, and the info holds `terminal_observation` and `TimeLimit.truncated`.
    """

    def __init__(self, env: Env, seeds: SeedTree, clock: Clock = "auto") -> None:
        self.env, self.seeds = env, seeds
        self.view = ObservationView(env.env_spec, clock)
        self.iteration = self.episodes = self.env_steps = 0
        self.h = 0

    @property
    def between_episodes(self) -> bool:
        """The last step ended all rows: the environment may be used for an evaluation, followed by `reset`."""
        return self.h == 0

    def reset(self) -> NDArray[np.float32]:
        """First vectors of batch number `iteration`: the same ones each time it is called."""
        self.h = 0
        obs, _ = self.env.reset(seed=self.seeds.env_seeds("env", self.iteration, self.env.num_envs))
        return self.view(obs, 0)

    def step(self, action: IntArray) -> tuple[NDArray[np.float32], FloatArray, BoolArray, list[dict[str, Any]]]:
        """Vectors (B, dim), rewards (B,), ends (B,), infos."""
        spec, B = self.env.env_spec, self.env.num_envs
        following, reward, terminated, truncated, info = self.env.step(np.asarray(action, dtype=np.int64))
        reward = np.asarray(reward, dtype=np.float64)
        if not np.isfinite(reward).all():
            raise RlcError(f"{spec.name}: a reward of step h={self.h} is NaN or infinite; it must be finite.")
        if (np.abs(reward) > LARGEST).any():
            raise RlcError(f"{spec.name}: a reward of step h={self.h} is above {LARGEST:g}, too large for float32.")
        ended: BoolArray = terminated | truncated
        mode = autoreset_mode(self.env)
        last = final_observations(following, info, ended) if mode.value == "SameStep" else following
        self.h += 1
        self.env_steps += B
        done = np.ones(B, dtype=np.bool_) if self.h == spec.horizon else ended
        infos: list[dict[str, Any]] = [{} for _ in range(B)]
        if not done.any():
            return self.view(last, self.h), reward, done, infos
        if not done.all():
            raise RlcError(f"{spec.name}: episodes end at different steps; SB3 agents then need batch = 1, got {B}.")
        final = self.view(last, self.h)
        for row in range(B):
            # The horizon cuts what the environment did not end: SB3 then bootstraps from the final observation.
            infos[row] = {"terminal_observation": final[row], "TimeLimit.truncated": not bool(terminated[row])}
        self.episodes += B
        self.iteration += 1
        return self.reset(), reward, done, infos


def as_vec_env(stream: EpisodeStream, num_actions: int | None = None) -> Any:
    """The stream as a `stable_baselines3` VecEnv of `num_actions` actions, by default those of its environment.

    The class is made here because SB3 is imported only where it runs.
    """
    from gymnasium import spaces
    from stable_baselines3.common.vec_env import VecEnv

    class StreamVecEnv(VecEnv):
        """Hands every call to the stream."""

        def __init__(self) -> None:
            self.action: IntArray = np.zeros(stream.env.num_envs, dtype=np.int64)
            box = spaces.Box(-np.inf, np.inf, (stream.view.dim,), np.float32)
            actions = spaces.Discrete(num_actions or stream.env.env_spec.num_actions)
            super().__init__(stream.env.num_envs, box, actions)

        def reset(self) -> Any:
            return stream.reset()

        def step_async(self, actions: Any) -> None:
            self.action = actions

        def step_wait(self) -> Any:
            return stream.step(self.action)

        def close(self) -> None:
            """The environment belongs to whoever made it."""

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [getattr(stream.env, attr_name, None)] * self.num_envs

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            raise NotImplementedError("attributes of the environment are not SB3's to set")

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            raise NotImplementedError("methods of the environment are not SB3's to call")

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * self.num_envs

    return StreamVecEnv()
