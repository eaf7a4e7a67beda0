"""The contracts between environments, agents and the loop: read this file before writing any of the three.

Everything is batched over B environments that are at the same step h of an episode. The loop plays whole
episodes (at most H steps), so `h` is one integer; rows whose episode ended earlier are masked out by `alive`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Array = NDArray[Any]
State = dict[str, Any]
"""A checkpointable state: nested dicts whose leaves are numpy arrays or JSON values (never pickles)."""


@dataclass(frozen=True)
class EnvSpec:
    """What an agent may know of its environment before the first step."""

    name: str
    """Registry name or gymnasium id, as printed in records."""
    num_actions: int
    """A: actions are the integers 0..A-1."""
    horizon: int
    """H: an episode has at most H steps, h = 0..H-1."""
    obs_shape: tuple[int, ...]
    """Shape of one observation; () for a tabular state index."""
    obs_dtype: str
    """numpy dtype name of an observation ("int64" for tabular)."""
    num_states: int | None = None
    """S when observations are state indices 0..S-1 (tabular), else None."""
    optimal_return: float | None = None
    """Expected return of an optimal policy from the start distribution, where it is known."""
    reward_range: tuple[float, float] = (-np.inf, np.inf)
    """Bounds of one reward."""
    return_range: tuple[float, float] = (-np.inf, np.inf)
    """Bounds of the return from any step on, where they are tighter than H - h times those of a reward."""
    players: tuple[int, int] | None = None
    """(A, B) of a two-player zero-sum Markov game, None for one agent. Actions are then joint, a B + b with a of the
    maximiser and b of the minimiser, so num_actions = A B; rewards go to the maximiser, and `optimal_return` is the
    Nash value."""
    stationary: bool = False
    """P_h and r_h are the same at every step h."""
    codes: tuple[int, ...] = ()
    """How many values each of the C planes of an observation (C, rows, columns) of bytes has, where these are codes of
    things (MiniGrid: objects, colours, states, direction) and no brightness; () for none."""
    life_loss: bool = False
    """The environment gives `info["life_lost"]` (see `Env`); of any other one such an entry means nothing."""
    frame_stack: int = 1
    """How many of the newest observations in a row make up a state. Above 1 (Atari) the environment returns single
    frames, which an agent stacks itself: planes (C, H, W) to (stack C, H, W), others along a new first axis."""
    group: int = 1
    """Rows that share one world, such as the N agents of `multi:`: num_envs is a multiple of it."""

    @property
    def game(self) -> tuple[int, int]:
        """(A, B) of a game; for code that was given one."""
        assert self.players is not None, f"{self.name} is no game"
        return self.players


@dataclass(frozen=True)
class Transition:
    """One step of B environments: (o_h, a_h, r_h, o_{h+1}) and how the episode goes on.

    Leading axis B everywhere. `discount` is 0.0 at a true terminal and 1.0 otherwise (a truncation keeps 1.0 and
    `next_obs` is the final observation); `boundary` marks the last step of an episode of either kind. Where losing a
    life counts as an end for learning only (Atari's training), `discount` is 0.0 and `boundary` False: play goes on;
    `alive` is False for rows whose episode was over before this step: they carry no information.
    """

    h: int
    obs: Array
    action: IntArray
    reward: FloatArray
    next_obs: Array
    discount: FloatArray
    boundary: BoolArray
    alive: BoolArray


@dataclass(frozen=True)
class StepData:
    """Stored transitions of every step h, ready for a learner that fits all steps at once.

    Leading axes (H, N): `obs` (H, N, ...), `action` (H, N), `reward` (H, N), `next_obs` (H, N, ...),
    `discount` (H, N). Rows n >= count[h] are zero padding; `count` is (H,) int64.
    """

    obs: Array
    action: IntArray
    reward: FloatArray
    next_obs: Array
    discount: FloatArray
    count: IntArray


def joint_action(a: Array, b: Array, players: tuple[int, int]) -> IntArray:
    """a B + b of the two players' actions."""
    return np.asarray(a, dtype=np.int64) * players[1] + np.asarray(b, dtype=np.int64)


def split_action(action: Array, players: tuple[int, int]) -> tuple[IntArray, IntArray]:
    """(a, b) of joint actions: the inverse of `joint_action`."""
    a, b = np.divmod(np.asarray(action, dtype=np.int64), players[1])
    return a, b


def marginals(joint: FloatArray, players: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """mu (..., A) and nu (..., B) of joint probabilities (..., A B)."""
    table = joint.reshape(*joint.shape[:-1], *players)
    return table.sum(axis=-1), table.sum(axis=-2)


def product(mu: FloatArray, nu: FloatArray) -> FloatArray:
    """mu(a) nu(b) as joint probabilities: (..., A), (..., B) -> (..., A B)."""
    return np.asarray((mu[..., :, None] * nu[..., None, :]).reshape(*mu.shape[:-1], -1))


def optimal_values(P: FloatArray, r: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Backward induction Q_h = r_h + P_h V_{h+1}, V_h = max_a Q_h, V_H = 0; P (H,S,A,S), r (H,S,A) -> V (H+1,S), Q."""
    H, S, _ = r.shape
    V = np.zeros((H + 1, S))
    Q = np.zeros_like(r, dtype=np.float64)
    for h in range(H - 1, -1, -1):
        Q[h] = r[h] + P[h] @ V[h + 1]
        V[h] = Q[h].max(axis=-1)
    return V, Q


@dataclass(frozen=True)
class ExactModel:
    """The true finite-horizon model behind an environment with S (latent) states.

    P (H, S, A, S), r (H, S, A) expected rewards, rho (S,) start distribution, float64. `phi` (H, S, A, d) and
    `psi` (H, S, d) satisfy P[h,s,a,s'] = psi[h,s'] . phi[h,s,a]. `V` (H+1, S) and `Q` (H, S, A) are optimal values.
    Stationary models may hand out broadcast views along H (read-only). `observations_are_states` is False for
    rich observations: then the environment's `latent_states()` tells each row's current state, for tests and
    diagnostics only.

    Of a zero-sum game the actions are joint (`players` = (A, B), actions a B + b) and V, Q are Nash values. `emissions`
    (h, n, rng) -> (S, n, ...) draws n fresh observations of every latent state at step h: the emission law of rich
    observations, which exact evaluation averages a policy over.
    """

    P: FloatArray
    r: FloatArray
    rho: FloatArray
    phi: FloatArray | None
    psi: FloatArray | None
    V: FloatArray
    Q: FloatArray
    observations_are_states: bool
    players: tuple[int, int] | None = None
    emissions: Callable[[int, int, np.random.Generator], Array] | None = None

    @property
    def optimal_return(self) -> float:
        """rho . V_0."""
        return float(self.rho @ self.V[0])


@dataclass(frozen=True)
class Layer:
    """The S states that a game can be in at one step, and what follows their n x m different joint actions.

    `obs` (S, ...) observations. `own` (S, A) and `other` (S, B) say which of the n (m) different moves an action is:
    several actions may be the same move. `reward` (S, n, m) expected rewards, `successor` (S, n, m, K) states of the
    next layer, -1 for over, each with a probability, (S, n, m, K) or what broadcasts to it.
    """

    obs: Array
    own: IntArray
    other: IntArray
    reward: FloatArray
    successor: IntArray
    probability: FloatArray


@dataclass(frozen=True)
class LayeredGame:
    """The true model of a game by its steps, where a table of all states at all steps would be too large."""

    rho: FloatArray
    """(S_0,) start distribution."""
    layers: tuple[Layer, ...]
    """One for each step h; observations tell the states apart."""


@dataclass(frozen=True)
class Behaviour:
    """What an agent plays while it learns. An episode draws a mode m ~ start (M,) and acts by pi[m] of pi (M, H, S, A).

    At a state marked in `leave` (H, S) mode 0 becomes mode M - 1 (`planning/behaviour.py`). S counts
    states, or the observations that stand for them. `leave` is None where no episode changes its mode.
    """

    start: FloatArray
    pi: FloatArray
    leave: BoolArray | None = None

    @classmethod
    def memoryless(cls, pi: FloatArray) -> Behaviour:
        """One Markov policy pi (H, S, A)."""
        return cls(np.ones(1), pi[None])


@runtime_checkable
class Env(Protocol):
    """A batched environment: a `gymnasium.vector.VectorEnv` that also declares its `env_spec`.

    `reset(seed=[...])` takes one seed per sub-environment and makes everything that follows a function of these
    seeds and the actions; `step(actions)` returns (obs, reward, terminated, truncated, info), with the final
    observation of an ended episode under `metadata["autoreset_mode"]`'s rule. `info["life_lost"]` (B,) bool, where
    `env_spec.life_loss` declares it, marks steps whose discount is 0 although the episode goes on. `exact()` returns
    the true model or None.
    """

    num_envs: int
    env_spec: EnvSpec

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]: ...

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, dict[str, Any]]: ...

    def exact(self) -> ExactModel | None: ...

    def close(self) -> None: ...


@runtime_checkable
class WithEpisodeMetrics(Protocol):
    """An environment that measures episodes beyond their return."""

    def episode_metrics(self) -> dict[str, FloatArray]:
        """Name -> a number (B,) of the episode of each row since the last `reset`. The loop records the mean over
        training episodes as `env/NAME`."""


@runtime_checkable
class WithLayers(Protocol):
    """A game that lists its states step by step, for exact values where there is no `ExactModel`."""

    def layered(self, most: int) -> LayeredGame | None:
        """The model, or None where it has more than `most` states."""


@runtime_checkable
class Agent(Protocol):
    """act / observe / update / state: everything the loop, the records and the checkpoints need.

    What only some agents can do are protocols of their own, below; the loop asks for them with isinstance.
    """

    batch: int
    """B: episodes played side by side between two updates."""
    version: int
    """Number of updates that changed the policy: the exact evaluation is redone when it moves."""

    def begin(self, num_envs: int) -> None:
        """A new batch of episodes starts: draw what is fixed per episode (the switch step of a roll-in, say)."""

    def act(self, obs: Array, h: int) -> IntArray:
        """Behaviour actions (B,) for the observations (B, ...) of step h."""

    def observe(self, transition: Transition) -> None:
        """Store the step; rank-one bonus updates happen here."""

    def update(self) -> dict[str, float]:
        """After each batch of episodes: refit, rebuild, replan as the agent sees fit; returns scalars to record."""

    def policy(self, obs: Array, h: int, *, explore: bool = False) -> FloatArray:
        """Action probabilities (N, A). explore=False: the bonus-free policy; True: the optimistic policy pi_k.

        In a game, of the joint actions (N, A B); the two players' policies are its marginals.
        """

    def exact_metrics(self, model: ExactModel) -> dict[str, float]:
        """What the agent's own model misses of the true one (TV of P-hat, principal angles, ...); {} if nothing."""

    def state_dict(self) -> State:
        """Everything that a resumed run needs to give the same bytes (data, features, generators, counters)."""

    def load_state_dict(self, state: State) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""


@runtime_checkable
class OwnLoop(Protocol):
    """An agent that another library trains in its own loop, as Stable-Baselines3 does. It cannot be resumed midway."""

    has_policy_state: bool
    """Whether `state_dict` holds the trained policy, so that a finished run can be loaded and played."""

    def train_in_own_loop(
        self, *, episodes: int | None, steps: int | None, on_progress: Callable[[int, int], bool]
    ) -> None:
        """Train from scratch. `on_progress(episodes, steps)` says how far it is; False asks to stop."""


@runtime_checkable
class Persistent(Protocol):
    """An agent that keeps what is large, such as a replay, in a folder of its run instead of in each checkpoint."""

    def persist_in(self, folder: Path) -> None:
        """Called by a run before it loads a state or trains.

        A run calls `state_dict` once a checkpoint. After this call it may write to `folder` and return only what finds
        it there again. What the last two checkpoints need must be there whenever the process is killed. Without
        this call the state holds everything.
        """


@runtime_checkable
class KnownBehaviour(Protocol):
    """An agent that says by which law it plays its next episodes; for all others that is pi_k itself."""

    def behaviour(self, pi: FloatArray) -> Behaviour | None:
        """The law, given pi (H, S, A) of `policy(explore=True)`; None where it is not known: no regret is recorded."""


@runtime_checkable
class Certified(Protocol):
    """An agent for games that bounds the duality gap of its own plan."""

    def certificate(self, obs: Array) -> FloatArray | None:
        """V-bar_0 - V-under_0 (N,) at observations of the first step; None before the first plan."""


@runtime_checkable
class WithMemory(Protocol):
    """An agent whose policy may depend on the episode's past: it is asked for all steps in order, never for its exact
    value."""

    memoryless: bool
    """True where this agent, by its configuration, needs no memory after all."""


@runtime_checkable
class WithHistograms(Protocol):
    """An agent with arrays whose distributions TensorBoard shows."""

    def histograms(self) -> dict[str, Array]:
        """Name -> array of any shape. Called at evaluations only; it draws from no generator and changes no state."""


@dataclass(frozen=True)
class Embedded:
    """N transitions as features show them: phi of (s,a) and psi of s', P(s'|s,a) ~ P^-(s') psi(s')'phi(s,a)."""

    phi: FloatArray
    """(N, d)."""
    psi: FloatArray
    """(N, d)."""
    level: IntArray
    """(N,) the feature space of each row: its step where features are fitted by step, else 0."""
    states: tuple[IntArray, IntArray, IntArray] | None = None
    """s, a, s' (N,) where observations are states."""


@runtime_checkable
class WithFeatures(Protocol):
    """An agent with learned features of transitions that can be looked at. Neither draws from a generator or changes
    what the agent learns or does."""

    def embed(self, h: int, obs: Array, action: IntArray, next_obs: Array) -> Embedded | None:
        """Of N transitions of step h; in order from h = 0, all rows, where frames are stacked. None: no features."""

    def stored_features(self) -> Embedded | None:
        """Of an evenly spread sample of what is stored. None: no features."""


def is_memoryless(agent: Agent) -> bool:
    """Whether `policy` depends on the observation and the step alone."""
    return not isinstance(agent, WithMemory) or agent.memoryless
