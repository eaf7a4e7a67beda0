"""Any PettingZoo parallel environment of two players as a zero-sum game of this library: `pettingzoo:rps_v2`.

The first agent of `possible_agents` is the maximiser. Actions are joint, a B + b; the reward is the first agent's, and
the two rewards must sum to zero at every step. What both agents observe becomes one observation: finite observations
the pair's number (a table), boxes one flat float32 vector. Autoreset is NEXT_STEP, as in every environment here.

An id is a name in PettingZoo's packages (`rps_v2`) or `module:attribute` for one's own: a class or function that makes
the environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rl_contrastive.config import MOST_COPIES, Ge, Gt, Options, require, require_rows
from rl_contrastive.envs.adapters.gym_adapter import json_object, one_line
from rl_contrastive.envs.adapters.gym_features import FeatureKind
from rl_contrastive.envs.adapters.pettingzoo_find import find
from rl_contrastive.envs.adapters.pettingzoo_spaces import ALLOWED, joint_features, own_limit, two_players
from rl_contrastive.envs.base import Frame, default_observation_space
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import register
from rl_contrastive.spec import Array, BoolArray, EnvSpec, FloatArray, IntArray, split_action

DEFAULT_HORIZON = 200
ZERO_SUM = 1e-6
"""Largest |r + r'| relative to max(1, |r|, |r'|): environments may compute in float32."""


@dataclass(frozen=True)
class PettingZooConfig(Options, where="pettingzoo"):
    """Which PettingZoo environment, how long its episodes may be, and how its observations are seen."""

    id: str = "rps_v2"
    """Name in PettingZoo's packages, or module:attribute; given after the colon of `pettingzoo:ID`."""
    horizon: Annotated[int | None, Ge(1)] = None
    """H, cap on the steps of an episode, at most the environment's own limit, which is the default; 200 without
    one."""
    reward_bound: Annotated[float, Gt(0)] = 1.0
    """Largest |reward| of one step, which optimism needs to know; a larger reward is an error."""
    sees: Literal["both", "first"] = "both"
    """The state is what both agents observe, or the first agent's observation alone (where all see everything)."""
    observation: FeatureKind = "raw"
    """Boxes: raw | fourier | tile | bins (a table), as for `gym:`. Finite observations are tables, and
    beyond 100000 states one-hot vectors."""
    resolution: Annotated[int, Ge(1)] = 3
    """Order of the Fourier basis, tiles per coordinate, or bins per coordinate."""
    kwargs: str = "{}"
    """JSON object of keyword arguments for the environment, e.g. '{"num_actions": 5}'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.id), "pettingzoo: id must name an environment, e.g. pettingzoo:rps_v2.")
        self.make_arguments()

    def make_arguments(self) -> dict[str, Any]:
        """`kwargs` as a dict; RlcError unless it is a JSON object."""
        return json_object("pettingzoo", self.kwargs)


@register("env", "pettingzoo:", PettingZooConfig)
def make_pettingzoo(config: PettingZooConfig, num_envs: int) -> PettingZooEnv:
    """Any two-player zero-sum PettingZoo parallel environment: pettingzoo:rps_v2, or pettingzoo:my_module:make."""
    name = f"pettingzoo:{config.id}"
    require_rows(f"{name}: num_envs", num_envs, MOST_COPIES)
    make, arguments = find(config.id), config.make_arguments()
    try:
        envs = [make(**arguments) for _ in range(num_envs)]
    except Exception as error:
        raise RlcError(f"{name} cannot be made: {one_line(error)}.") from error
    require(len(set(map(id, envs))) == num_envs, f"{name}: it must make a new environment at each call.")
    return PettingZooEnv(envs, config)


class PettingZooEnv(VectorEnv[Array, IntArray, Array]):
    """n instances of a two-player parallel environment, with an `env_spec` and checks of all that comes out of them."""

    def __init__(self, envs: list[Any], config: PettingZooConfig) -> None:
        self.name = f"pettingzoo:{config.id}"
        self.envs, self.num_envs = envs, len(envs)
        self.players, actions, spaces = two_players(self.name, envs[0])
        self._start = [int(space.start) for space in actions]
        self._seen = 2 if config.sees == "both" else 1
        self._spaces = spaces[: self._seen]
        self._features, self._flat = joint_features(self.name, self._spaces, config.observation, config.resolution)
        own = own_limit(envs[0])
        fits = own is None or config.horizon is None or config.horizon <= own
        hint = f"raise it in env.kwargs, where the environment takes it: '{{\"max_cycles\": {config.horizon}}}'"
        require(fits, f"{self.name}: horizon {config.horizon} is beyond the environment's own limit of {own}; {hint}.")
        A, B = (int(space.n) for space in actions)
        self.env_spec = EnvSpec(
            name=self.name,
            num_actions=A * B,
            horizon=config.horizon or own or DEFAULT_HORIZON,
            obs_shape=self._features.shape,
            obs_dtype=self._features.dtype,
            num_states=self._features.num_states,
            reward_range=(-config.reward_bound, config.reward_bound),
            players=(A, B),
        )
        self.render_mode = getattr(envs[0], "render_mode", None)
        modes = ["rgb_array"] if self.render_mode == "rgb_array" else []
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": modes}
        self.single_observation_space = default_observation_space(self.env_spec)
        self.single_action_space = gym.spaces.Discrete(A * B)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._seeds: list[int] = []
        self._episode = np.zeros(self.num_envs, dtype=np.int64)  # of each row since it was seeded
        self._clock = np.zeros(self.num_envs, dtype=np.int64)
        self._over = np.zeros(self.num_envs, np.bool_)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Reset all rows: seed None (go on), an integer s (s, s+1, ...), or one seed per row.

        Episode k of a row is seeded with a word of SeedSequence(seed, spawn_key=(k,)), the first with the seed itself:
        whatever an environment does at reset(seed=None), its episodes are a function of the seeds and the actions.
        """
        if options:
            raise RlcError(f"{self.name}: reset has no options, got {sorted(options)}.")
        if seed is not None or not self._seeds:
            self._seeds = self._seed_list(seed)
            self._episode[:] = 0
        self._over[:] = False
        return self._encode([self._reset_row(row) for row in range(self.num_envs)]), {}

    def step(self, actions: Any) -> tuple[Array, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """One step of every row; rows whose episode is over begin a new one and pay 0."""
        a, b = split_action(self._checked(actions), self.env_spec.game)
        n = self.num_envs
        reward, terminated, truncated = np.zeros(n), np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        observed = []
        for row in range(n):
            if self._over[row]:
                observed.append(self._reset_row(row))
                continue
            moves = {
                player: int(action) + start
                for player, action, start in zip(self.players, (a[row], b[row]), self._start, strict=True)
            }
            result = self._call(row, "step", moves)
            self._clock[row] += 1
            obs, reward[row], terminated[row], truncated[row] = self._read(row, result)
            observed.append(obs)
        truncated |= ~terminated & (self._clock == self.env_spec.horizon) & ~self._over
        self._over = terminated | truncated
        return self._encode(observed), reward, terminated, truncated, {}

    def exact(self) -> None:
        """None: PettingZoo environments publish no model."""

    # A tuple of one frame per row is gymnasium's rule for batches; one row is what a replay needs.
    def render(self, row: int = 0) -> Frame:  # type: ignore[override]
        """The picture of a row's environment, made with `--env.kwargs '{"render_mode": "rgb_array"}'`."""
        if self.render_mode != "rgb_array":
            raise RlcError(f'{self.name}: pictures need env.kwargs \'{{"render_mode": "rgb_array"}}\'.')
        require(0 <= row < self.num_envs, f"{self.name}: render has no row {row}, only {self.num_envs} rows.")
        return np.asarray(self._call(row, "render"), dtype=np.uint8)

    def close_extras(self, **kwargs: Any) -> None:
        """Close all instances."""
        for env in self.envs:
            env.close()

    # One row.

    def _reset_row(self, row: int) -> list[Any]:
        """Begin the row's next episode: what its players see."""
        seed, episode = self._seeds[row], int(self._episode[row])
        if episode:
            seed = int(np.random.SeedSequence(seed, spawn_key=(episode,)).generate_state(1)[0])
        result = self._call(row, "reset", seed=seed)
        self._episode[row] += 1
        self._clock[row] = 0
        if not isinstance(result, tuple) or len(result) != 2:
            raise self._nonsense(row, "reset returned no pair (observations, infos)")
        return self._observations(row, result[0])

    def _read(self, row: int, result: Any) -> tuple[list[Any], float, bool, bool]:
        """What the players see, the maximiser's reward, terminated, truncated; RlcError on what no game may do."""
        if not isinstance(result, tuple) or len(result) != 5:
            raise self._nonsense(row, "step returned no five dictionaries")
        observations, rewards, terminations, truncations, _ = result
        r, r_other = (float(self._entry(row, "reward", rewards, player)) for player in self.players)
        if not np.isfinite(r) or not np.isfinite(r_other):
            raise self._nonsense(row, f"rewards {r:g} and {r_other:g}")
        if abs(r + r_other) > ZERO_SUM * max(1.0, abs(r), abs(r_other)):
            raise self._nonsense(row, f"rewards {r:g} and {r_other:g} do not sum to 0; {ALLOWED}")
        if abs(r) > self.env_spec.reward_range[1]:
            raise self._nonsense(row, f"reward {r:g} is beyond env.reward_bound {self.env_spec.reward_range[1]:g}")
        ended = [
            [bool(self._entry(row, what, flags, player)) for player in self.players]
            for what, flags in (("termination", terminations), ("truncation", truncations))
        ]
        left = [terminated or truncated for terminated, truncated in zip(*ended, strict=True)]
        if left[0] != left[1]:
            who = self.players[left.index(True)]
            raise self._nonsense(row, f"'{who}' left while the other plays on; both must end together")
        terminated = any(ended[0])
        return self._observations(row, observations), r, terminated, not terminated and any(ended[1])

    def _observations(self, row: int, observations: Any) -> list[Any]:
        seen = []
        for player, space in zip(self.players, self._spaces, strict=False):
            x = np.asarray(self._entry(row, "observation", observations, player))
            box = isinstance(space, gym.spaces.Box)
            if x.shape != space.shape or x.dtype.kind not in ("biuf" if box else "biu"):
                raise self._nonsense(row, f"observation of '{player}' has shape {x.shape} of {x.dtype}, not {space}")
            if not (np.isfinite(x).all() if box else space.contains(x.astype(space.dtype))):
                raise self._nonsense(row, f"observation {_short(x)} of '{player}' is not in {space}")
            seen.append(x)
        return seen

    def _entry(self, row: int, what: str, table: Any, player: Any) -> Any:
        try:
            return table[player]
        except (KeyError, TypeError, IndexError) as error:
            raise self._nonsense(row, f"no {what} for '{player}'") from error

    def _nonsense(self, row: int, what: str) -> RlcError:
        return RlcError(f"{self.name}: {what} (step {self._clock[row]} of sub-environment {row}).")

    def _call(self, row: int, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call an instance; whatever it raises becomes one sentence that names it and the step."""
        try:
            return getattr(self.envs[row], method)(*args, **kwargs)
        except Exception as error:
            at = f"step {self._clock[row]} of sub-environment {row}"
            raise RlcError(f"{self.name} raised at {method} ({at}): {one_line(error)}.") from error

    def encode(self, observations: Any) -> Array:
        """One observation of each player by name -> features (1, ...), as agents see them."""
        return self._encode([self._observations(0, observations)])

    def decode(self, action: int) -> dict[Any, int]:
        """A joint action -> each player's, by name."""
        pair = split_action(np.array(action), self.env_spec.game)
        return {name: int(a) + start for name, a, start in zip(self.players, pair, self._start, strict=True)}

    # All rows.

    def _encode(self, observed: list[list[Any]]) -> Array:
        """Features of all rows; observed[row][player]."""
        columns = [np.stack([row[player] for row in observed]) for player in range(self._seen)]
        return self._features.apply(self._flat(columns))

    def _checked(self, actions: Any) -> IntArray:
        require(bool(self._seeds), f"{self.name}: call reset() before step().")
        action = np.asarray(actions)
        if action.shape != (self.num_envs,) or action.dtype.kind not in "iu":
            raise RlcError(
                f"{self.name}: step needs {self.num_envs} integer actions, got {action.dtype} {action.shape}."
            )
        most = self.env_spec.num_actions - 1
        if action.min() < 0 or action.max() > most:
            raise RlcError(f"{self.name}: joint actions must be in 0..{most}, got {action.tolist()}.")
        return action.astype(np.int64)

    def _seed_list(self, seed: Any) -> list[int]:
        if seed is None:
            return [int(word) for word in np.random.SeedSequence().generate_state(self.num_envs)]
        if isinstance(seed, int | np.integer):
            return [int(seed) + row for row in range(self.num_envs)]
        seeds = [int(np.random.SeedSequence().generate_state(1)[0]) if s is None else int(s) for s in seed]
        require(len(seeds) == self.num_envs, f"{self.name}: reset needs {self.num_envs} seeds, got {len(seeds)}.")
        return seeds


def _short(x: Array) -> str:
    text = " ".join(str(x).split())
    return text if len(text) <= 60 else text[:57] + "..."
