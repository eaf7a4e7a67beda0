"""Any gymnasium id as an environment of this library: `gym:CartPole-v1`. Continuous actions are discretised.

The adapter wraps a `gymnasium.vector.VectorEnv` of any autoreset mode and keeps gymnasium's contract: NEXT_STEP stays
NEXT_STEP, SAME_STEP stays SAME_STEP with `info["final_obs"]`, and a DISABLED one becomes SAME_STEP, because the
adapter resets ended rows at once. So all three show the same transitions (o, a, r, o', discount).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from rl_contrastive.config import MOST_COPIES, Ge, Gt, Options, require, require_rows
from rl_contrastive.envs.adapters.gym_actions import action_map
from rl_contrastive.envs.adapters.gym_features import FeatureKind, OutsideError, check_space, feature_map
from rl_contrastive.envs.adapters.gym_table import exact_table
from rl_contrastive.envs.base import default_observation_space
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import register
from rl_contrastive.spec import Array, BoolArray, EnvSpec, ExactModel, FloatArray, IntArray

DEFAULT_HORIZON = 200


@dataclass(frozen=True)
class GymConfig(Options, where="gym"):
    """Which gymnasium environment, how long its episodes may be, and how its observations are seen."""

    id: str = "CartPole-v1"
    """gymnasium id, as in `gymnasium.make` (`module:ID` too); given after the colon of `gym:ID`."""
    horizon: Annotated[int | None, Ge(1)] = None
    """H, after which steps an episode is cut, in place of the environment's own limit; the default is that
    limit, or 200 without one."""
    observation: FeatureKind = "raw"
    """Box observations: raw (pictures with their channels first) | fourier | tile | bins (a table). Finite spaces are
    tables, and beyond 100000 states one-hot vectors."""
    resolution: Annotated[int, Ge(1)] = 3
    """Order of the Fourier basis, tiles per coordinate, or bins per coordinate."""
    tilings: Annotated[int, Ge(1)] = 4
    """Number of shifted grids of tile coding."""
    scale: Annotated[float, Gt(0)] = 1.0
    """Unit of coordinates without bounds: they enter as 1 / (1 + exp(-x / scale))."""
    bins: Annotated[int, Ge(2)] = 3
    """Values of each coordinate of a continuous action (Box), evenly from low to high (2 is bang-bang)."""
    kwargs: str = "{}"
    """JSON object of keyword arguments for `gymnasium.make`, e.g. '{"is_slippery": false}'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.id), "gym: id must name a gymnasium environment, e.g. gym:CartPole-v1.")
        limit = self.make_arguments().get("max_episode_steps", self.horizon)
        whole = limit is None or (isinstance(limit, int) and limit >= 1)
        require(whole, f"gym: max_episode_steps must be a whole number >= 1, got {limit!r}.")
        same = self.horizon in (None, limit)
        require(same, f"gym: horizon {self.horizon} and kwargs' max_episode_steps {limit} differ; give one of them.")

    def make_arguments(self) -> dict[str, Any]:
        """`kwargs` as a dict; RlcError unless it is a JSON object."""
        return json_object("gym", self.kwargs)


@register("env", "gym:", GymConfig)
def make_gym(config: GymConfig, num_envs: int) -> GymEnv:
    """Any gymnasium id: gym:CartPole-v1, gym:FrozenLake-v1, gym:Pendulum-v1 (actions in bins), ..."""
    require_rows(f"gym:{config.id}: num_envs", num_envs, MOST_COPIES)
    arguments = config.make_arguments()
    try:
        asked = arguments.pop("max_episode_steps", None) or config.horizon
        horizon = asked or own_limit(config.id, arguments) or DEFAULT_HORIZON
        make = partial(gym.make, config.id, max_episode_steps=horizon, **arguments)
        envs = SyncVectorEnv([make] * num_envs, copy=False)
    except RlcError:
        raise
    except Exception as error:
        ale, _, game = config.id.partition("/")
        hint = f" Atari games are atari:{game.partition('-')[0]} here." if ale == "ALE" else ""
        raise RlcError(f"gym:{config.id} cannot be made: {one_line(error)}.{hint}") from error
    return GymEnv(envs, config, horizon)


def adapt_gym(source: Any, config: GymConfig, num_envs: int) -> GymEnv:
    """A gymnasium environment of one's own: a function that makes one, or one environment for a single row.

    Episodes end after `config.horizon` steps, by default the environment's own limit, or 200 without one.
    """
    require_rows("make_env: num_envs", num_envs, MOST_COPIES)
    if isinstance(source, gym.Env):
        require(num_envs == 1, "make_env: one environment is one row; for more give a function that makes one.")
        first, rest = source, []
    else:
        require(callable(source), f"make_env: give a name, a function or a gymnasium environment, got {source!r}.")
        made = [_made(source) for _ in range(num_envs)]
        first, rest = made[0], made[1:]
    horizon = config.horizon or _time_limit(first) or DEFAULT_HORIZON
    rows = [partial(gym.wrappers.TimeLimit, env, horizon) for env in (first, *rest)]
    name = first.spec.id if first.spec is not None else type(first.unwrapped).__name__
    for what, field in (("actions", "action_space"), ("observations", "observation_space")):
        space = getattr(first, field, None)
        if not isinstance(space, gym.Space):
            raise RlcError(f"make_env: the {field} of {name} must be a gymnasium space, got {space!r}.")
        check_space(name, what, space)  # before the batch, which fails on them with words of its own
    return GymEnv(SyncVectorEnv(rows, copy=False), replace(config, id=name), horizon)


def _time_limit(env: Any) -> int | None:
    """The limit on an episode's steps of one environment, from its registration or from a wrapper."""
    if env.spec is not None and env.spec.max_episode_steps is not None:
        return int(env.spec.max_episode_steps)
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.TimeLimit):
            return int(env._max_episode_steps)
        env = env.env
    return None


def _made(source: Callable[[], Any]) -> gym.Env[Any, Any]:
    try:
        env = source()
    except RlcError:
        raise
    except Exception as error:
        raise RlcError(f"make_env: the function that makes the environment raised {one_line(error)}.") from error
    require(isinstance(env, gym.Env), f"make_env: the function made a {type(env).__name__}, no gymnasium environment.")
    found: gym.Env[Any, Any] = env
    return found


def own_limit(id: str, arguments: dict[str, Any]) -> int | None:
    """The limit on an episode's steps that the environment was registered with."""
    if id in gym.registry:
        return gym.registry[id].max_episode_steps
    env = gym.make(id, **arguments)  # `module:ID`, or a name without its version, which is resolved there
    env.close()
    return None if env.spec is None else env.spec.max_episode_steps


class GymEnv(VectorEnv[Array, IntArray, Array]):
    """A gymnasium vector environment with an `env_spec`, features, and checks of what comes out of it."""

    def __init__(self, envs: VectorEnv[Any, Any, Any], config: GymConfig, horizon: int) -> None:
        self.name = f"gym:{config.id}"
        check_space(self.name, "actions", envs.single_action_space)
        check_space(self.name, "observations", envs.single_observation_space)
        self._actions = action_map(self.name, envs.single_action_space, config.bins)
        if self._actions.note:
            _say_once(self._actions.note)
        self.envs, self.num_envs, self.render_mode = envs, envs.num_envs, None
        self._inner_mode = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        outer = AutoresetMode.NEXT_STEP if self._inner_mode == AutoresetMode.NEXT_STEP else AutoresetMode.SAME_STEP
        self.metadata = {"autoreset_mode": outer, "render_modes": []}
        self._features = feature_map(
            envs.single_observation_space, config.observation, config.resolution, config.tilings, config.scale
        )
        self._steps = 0
        self._horizon = horizon
        self.env_spec = EnvSpec(
            name=self.name,
            num_actions=self._actions.num_actions,
            horizon=horizon,
            obs_shape=self._features.shape,
            obs_dtype=self._features.dtype,
            num_states=self._features.num_states,
            optimal_return=None if self._exact is None else self._exact.optimal_return,
            stationary=self._exact is not None,  # a published table knows no clock
        )
        self.single_observation_space = self._features.space or default_observation_space(self.env_spec)
        self.single_action_space = gym.spaces.Discrete(self._actions.num_actions)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Reset all rows: seed None, an integer s (s, s+1, ...), or one seed per row."""
        if seed is not None and not isinstance(seed, int | np.integer):
            seed = [None if s is None else int(s) for s in seed]
            require(len(seed) == self.num_envs, f"{self.name}: reset needs {self.num_envs} seeds, got {len(seed)}.")
        obs, info = self._call("reset", seed=int(seed) if isinstance(seed, np.integer) else seed, options=options)
        self._steps = 0
        return self._seen(obs), info

    def step(self, actions: Any) -> tuple[Array, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """One step of every row; RlcError if the environment raises or pays a reward that is not finite."""
        action = np.asarray(actions)
        if action.shape != (self.num_envs,) or action.dtype.kind not in "iu":
            raise RlcError(
                f"{self.name}: step needs {self.num_envs} integer actions, got {action.dtype} {action.shape}."
            )
        if action.min() < 0 or action.max() >= self.env_spec.num_actions:
            raise RlcError(
                f"{self.name}: actions must be in 0..{self.env_spec.num_actions - 1}, got {action.tolist()}."
            )
        obs, reward, terminated, truncated, info = self._call("step", self._actions.decode(action))
        self._steps += 1
        reward = np.array(reward, dtype=np.float64)
        if not np.isfinite(reward).all():
            row = int(np.flatnonzero(~np.isfinite(reward))[0])
            raise RlcError(f"{self.name}: reward {reward[row]} at step {self._steps} of sub-environment {row}.")
        terminated, truncated = np.array(terminated), np.array(truncated)
        ended = terminated | truncated
        features = self._seen(obs)
        if self._inner_mode == AutoresetMode.NEXT_STEP or not ended.any():
            return features, reward, terminated, truncated, info
        # SAME_STEP outwards: final observations in the info, the first ones of the new episodes in place.
        final = self._final_features(features, info, ended)
        if self._inner_mode == AutoresetMode.DISABLED:
            obs, _ = self._call("reset", options={"reset_mask": ended})
            features = self._seen(obs)
        info = {**info, "final_obs": final, "_final_obs": ended}
        return features, reward, terminated, truncated, info

    def encode(self, observation: Any) -> Array:
        """One observation as gymnasium's single environment gives it -> features (1, ...), as agents see them."""
        space = self.envs.single_observation_space
        if isinstance(space, gym.spaces.Tuple):
            return self._seen(tuple(np.asarray(part)[None] for part in observation))
        x = np.asarray(observation)[None]
        require(x.shape[1:] == space.shape, f"{self.name}: an observation of shape {x.shape[1:]} is not in {space}.")
        return self._seen(x)

    def decode(self, action: int) -> Any:
        """An agent's action -> gymnasium's: a number that may count from elsewhere, or an array."""
        found = self._actions.decode(np.array([action]))[0]
        return int(found) if found.ndim == 0 else found

    def _final_features(self, features: Array, info: dict[str, Any], ended: BoolArray) -> Array:
        """(n, ...) features of the true final observations of the ended rows; other rows hold the current ones."""
        final = features.copy()
        if self._inner_mode == AutoresetMode.SAME_STEP:
            rows = np.flatnonzero(ended)
            observed = [info["final_obs"][row] for row in rows]
            # A Tuple observation arrives one tuple per row; the map takes one array per factor.
            batch = tuple(map(np.array, zip(*observed, strict=True))) if isinstance(observed[0], tuple) else observed
            final[rows] = self._seen(batch if isinstance(batch, tuple) else np.stack(batch))
        return final

    def _seen(self, obs: Any) -> Array:
        """Features of raw observations; RlcError if one is not finite, which would look like a fault of the agent."""
        if isinstance(obs, np.ndarray) and obs.dtype.kind == "f" and not np.isfinite(obs).all():
            row = int(np.flatnonzero(~np.isfinite(obs).reshape(len(obs), -1).all(axis=1))[0])
            where = f"at step {self._steps} of sub-environment {row}"
            raise RlcError(f"{self.name}: an observation with NaN or infinite values {where}.")
        try:
            return self._features.apply(obs)
        except OutsideError as error:
            where = f"at step {self._steps} of sub-environment {error.row}"
            space = self.envs.single_observation_space
            raise RlcError(f"{self.name}: observation {error.value} {where} is not in {space}.") from error

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call the wrapped environment; whatever it raises becomes one sentence that names it and the step."""
        try:
            return getattr(self.envs, method)(*args, **kwargs)
        except Exception as error:
            raise RlcError(f"{self.name} raised at {method} (step {self._steps}): {one_line(error)}.") from error

    def render(self) -> tuple[Any, ...] | None:
        """gymnasium's pictures, one a row, of environments made with `kwargs` '{"render_mode": "rgb_array"}'."""
        pictures: tuple[Any, ...] | None = self._call("render")
        return pictures

    def exact(self) -> ExactModel | None:
        """The model of environments that publish their table (FrozenLake, CliffWalking), else None."""
        return self._exact

    @cached_property
    def _exact(self) -> ExactModel | None:
        first = self.envs.envs[0].unwrapped if isinstance(self.envs, SyncVectorEnv) else None
        return exact_table(first, self._horizon)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the wrapped environments."""
        self.envs.close(**kwargs)


@cache
def _say_once(note: str) -> None:
    """One line a process on stderr: what was done with the actions changes what an agent can do."""
    print(f"rlc: {note}", file=sys.stderr)


def json_object(adapter: str, text: str) -> dict[str, Any]:
    """The option `kwargs` of an adapter as a dict; RlcError unless it is a JSON object."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, f"{adapter}: kwargs names {', '.join(twice)} twice: give it once.")
        return dict(pairs)

    try:
        arguments = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise RlcError(f"{adapter}: kwargs must be a JSON object, got {text!r} ({error.msg}).") from error
    require(isinstance(arguments, dict), f"{adapter}: kwargs must be a JSON object, got {text!r}.")
    return dict(arguments)


def one_line(error: Exception) -> str:
    """`ValueError: text` without line breaks, colour codes or a final stop."""
    text = " ".join(str(error).replace("\x1b", "").split()).rstrip(".")
    return f"{type(error).__name__}: {text}"
