"""N agents with shared parameters: `multi:simple_spread_v3`, each agent of each copy a row of its own.

The rows c N, ..., c N + N - 1 are the N agents of copy c of a PettingZoo parallel environment. Every row is shown its
agent's observation and number, so one agent of this library plays them all and learns from each (parameter sharing;
Gupta et al. 2017). Rewards are each agent's own, or the sum of all where `cooperative`. An agent that ends early waits
for the others. The rows of a copy share one world, so for one row the world is not stationary: nothing here is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rl_contrastive.config import MOST_COPIES, Ge, Options, require, require_rows
from rl_contrastive.envs.adapters.gym_adapter import json_object, one_line
from rl_contrastive.envs.adapters.gym_features import check_space
from rl_contrastive.envs.adapters.pettingzoo_find import find
from rl_contrastive.envs.adapters.pettingzoo_spaces import own_limit
from rl_contrastive.envs.base import default_observation_space
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import register
from rl_contrastive.spec import Array, BoolArray, EnvSpec, FloatArray, IntArray

DEFAULT_HORIZON = 200


@dataclass(frozen=True)
class MultiAgentConfig(Options, where="multi"):
    """Which PettingZoo parallel environment of N agents, and what each of them is paid."""

    id: str = "simple_spread_v3"
    """Name in PettingZoo's packages, or module:attribute; given after the colon of `multi:ID`."""
    horizon: Annotated[int | None, Ge(1)] = None
    """H, cap on the steps of an episode; default: the environment's own limit, or 200 without one."""
    cooperative: bool = False
    """Pay every agent the sum of all rewards."""
    kwargs: str = "{}"
    """JSON object of keyword arguments for the environment, e.g. '{"N": 2}'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.id), "multi: id must name an environment, e.g. multi:simple_spread_v3.")
        self.make_arguments()

    def make_arguments(self) -> dict[str, Any]:
        """`kwargs` as a dict; RlcError unless it is a JSON object."""
        return json_object("multi", self.kwargs)


@register("env", "multi:", MultiAgentConfig)
def make_multi_agent(config: MultiAgentConfig, num_envs: int) -> MultiAgentEnv:
    """A PettingZoo parallel environment of N agents, each a row: multi:simple_spread_v3, or multi:my_module:make."""
    name, make = f"multi:{config.id}", find(config.id, "multi")
    try:
        first = make(**config.make_arguments())
    except Exception as error:
        raise RlcError(f"{name} cannot be made: {one_line(error)}.") from error
    agents = list(getattr(first, "possible_agents", []))
    require(len(agents) >= 1, f"{name}: this is no PettingZoo ParallelEnv, it has no possible_agents.")
    N = len(agents)
    hint = f"its {N} agents are a row each, so the number of rows (--agent.batch) must be a multiple of {N}"
    require_rows(f"{name}: num_envs", num_envs, MOST_COPIES)
    require(num_envs == 1 or num_envs % N == 0, f"{name}: {hint}, got {num_envs}.")
    # One row is asked for by whoever only looks at the spec or replays: it gets one copy.
    copies = [first, *(make(**config.make_arguments()) for _ in range(num_envs // N - 1))]
    return MultiAgentEnv(name, copies, agents, config)


class MultiAgentEnv(VectorEnv[Array, IntArray, Array]):
    """Copies of one parallel environment, flattened to rows."""

    def __init__(self, name: str, copies: list[Any], agents: list[Any], config: MultiAgentConfig) -> None:
        self.name, self.copies, self.agents, self.cooperative = name, copies, agents, config.cooperative
        first, N = copies[0], len(agents)
        self.num_envs, self.render_mode = N * len(copies), None
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}
        actions = _common(name, "action", [first.action_space(agent) for agent in agents])
        seen = _common(name, "observation", [first.observation_space(agent) for agent in agents])
        check_space(name, "observations", seen)
        if not isinstance(actions, gym.spaces.Discrete):
            raise RlcError(f"{name}: actions must be Discrete, got {actions}; PettingZoo has wrappers for others.")
        self._start, self._finite = int(actions.start), isinstance(seen, gym.spaces.Discrete)
        if isinstance(seen, gym.spaces.Discrete):
            self._first, states = int(seen.start), int(seen.n)
            shape: tuple[int, ...] = ()
            dtype, num_states = "int64", states * N
        elif isinstance(seen, gym.spaces.Box):
            shape, dtype, num_states = (int(np.prod(seen.shape)) + N,), "float32", 0
        else:
            raise RlcError(f"{name}: observations must be Discrete or a Box, got {seen}; flatten others in a wrapper.")
        self.env_spec = EnvSpec(
            name=name,
            num_actions=int(actions.n),
            horizon=config.horizon or own_limit(first) or DEFAULT_HORIZON,
            obs_shape=shape,
            obs_dtype=dtype,
            num_states=num_states or None,
            group=N,
        )
        self.single_observation_space = default_observation_space(self.env_spec)
        self.single_action_space = gym.spaces.Discrete(int(actions.n))
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._obs: Array = np.zeros((self.num_envs, *shape), dtype=dtype)
        self._over: BoolArray = np.ones(self.num_envs, dtype=np.bool_)
        self._clock = 0
        self._ready = False

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """All copies begin: seed None, an integer s, or a seed a row, of which each copy takes its first row's.

        With `options["reset_mask"]`, which asks to begin single rows anew, nothing begins: they wait for their copy.
        """
        if options is not None and "reset_mask" in options:
            return self._obs.copy(), {}
        N = len(self.agents)
        if seed is None or isinstance(seed, int | np.integer):
            seeds = [None if seed is None else int(seed) + N * c for c in range(len(self.copies))]
        else:
            require(len(seed) == self.num_envs, f"{self.name}: reset needs {self.num_envs} seeds, got {len(seed)}.")
            seeds = [None if s is None else int(s) for s in list(seed)[::N]]
        for c, (copy, one) in enumerate(zip(self.copies, seeds, strict=True)):
            observations, _ = self._call(copy, "reset", seed=one)
            self._show(c, observations)
        self._over[:] = False
        self._clock, self._ready = 0, True
        return self._obs.copy(), {}

    def step(self, actions: Any) -> tuple[Array, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """One step of every copy; rows whose agents are over keep their last observation and are paid 0."""
        action = self._checked(actions)
        reward, terminated = np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=np.bool_)
        truncated = terminated.copy()
        self._clock += 1
        N = len(self.agents)
        for c, copy in enumerate(self.copies):
            rows = range(c * N, (c + 1) * N)
            going = {agent: row for agent, row in zip(self.agents, rows, strict=True) if not self._over[row]}
            if not going:
                continue
            moves = {agent: int(action[row]) + self._start for agent, row in going.items()}
            observations, paid, terminations, truncations, _ = self._call(copy, "step", moves)
            self._show(c, observations)
            total = sum(float(value) for value in paid.values())
            for agent, row in going.items():
                reward[row] = total if self.cooperative else float(paid[agent])
                terminated[row], truncated[row] = bool(terminations[agent]), bool(truncations[agent])
        if not np.isfinite(reward).all():
            raise RlcError(f"{self.name}: a reward of step {self._clock} is {reward[~np.isfinite(reward)][0]}.")
        truncated |= ~terminated & ~self._over & (self._clock == self.env_spec.horizon)
        self._over |= terminated | truncated
        return self._obs.copy(), reward, terminated, truncated, {}

    def exact(self) -> None:
        """None: the world of one agent holds the others."""

    def close_extras(self, **kwargs: Any) -> None:
        """Close all copies."""
        for copy in self.copies:
            copy.close()

    def _show(self, copy: int, observations: dict[Any, Any]) -> None:
        """What the agents of one copy see, with their number: one-hot behind a vector, or s N + j of a state s."""
        N = len(self.agents)
        for j, agent in enumerate(self.agents):
            if agent not in observations:
                continue  # it is over
            row, x = copy * N + j, np.asarray(observations[agent])
            if self._finite:
                self._obs[row] = (int(x) - self._first) * N + j
                continue
            if not np.isfinite(x).all():
                raise RlcError(f"{self.name}: the observation of {agent} at step {self._clock} is not finite.")
            self._obs[row] = np.concatenate([x.ravel(), np.eye(N)[j]])

    def _checked(self, actions: Any) -> IntArray:
        require(self._ready, f"{self.name}: call reset() before step().")
        action = np.asarray(actions)
        most, n = self.env_spec.num_actions - 1, self.num_envs
        good = action.shape == (n,) and action.dtype.kind in "iu" and action.min() >= 0 and action.max() <= most
        require(good, f"{self.name}: step needs {n} integer actions in 0..{most}, got {action.tolist()}.")
        return action.astype(np.int64)

    def _call(self, copy: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(copy, method)(*args, **kwargs)
        except Exception as error:
            raise RlcError(f"{self.name} raised at {method} (step {self._clock}): {one_line(error)}.") from error


def _common(name: str, what: str, spaces: list[gym.Space[Any]]) -> gym.Space[Any]:
    """The one space that all agents have."""
    if any(space != spaces[0] for space in spaces[1:]):
        hint = (
            "shared parameters need one; pad them in a wrapper (supersuit's pad_observations_v0, pad_action_space_v0)"
        )
        raise RlcError(f"{name}: the agents have different {what} spaces: {hint}.")
    return spaces[0]
