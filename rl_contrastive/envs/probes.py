"""Probe environments: the smallest problems with values known by hand, one for each typical defect of an agent.

Each is a tiny tabular MDP written out as arrays; an agent that fails one of them has a named defect: the value of a
constant, of an observation, over time, of an action, of both together, at a terminal, or at a truncation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rl_contrastive.envs.alias import alias_table
from rl_contrastive.envs.base import BatchEnv, Outcome
from rl_contrastive.envs.streams import Words, high_half
from rl_contrastive.registry import register
from rl_contrastive.spec import BoolArray, EnvSpec, ExactModel, FloatArray, IntArray, optimal_values


@dataclass(frozen=True)
class ProbeConfig:
    """Probe environments have nothing to choose: their values are the point."""


@dataclass(frozen=True)
class Probe:
    """A tabular MDP by its arrays: P (S, A, S), r (S, A), rho (S,); `terminal` states end the episode on arrival."""

    P: FloatArray
    r: FloatArray
    rho: FloatArray
    horizon: int = 1
    terminal: tuple[int, ...] = field(default=())
    truncates: bool = False
    """The horizon is a time limit (truncation, discount 1), not an end of the problem."""


class ProbeEnv(BatchEnv):
    """A batch of one probe. Rows may end at different steps, so each row keeps its own clock."""

    def __init__(self, name: str, probe: Probe, num_envs: int) -> None:
        self.probe = probe
        S, A = probe.r.shape
        spec = EnvSpec(
            name=name,
            num_actions=A,
            horizon=probe.horizon,
            obs_shape=(),
            obs_dtype="int64",
            num_states=S,
            reward_range=(float(probe.r.min()), float(probe.r.max())),
            optimal_return=_exact_model(probe).optimal_return,
        )
        super().__init__(spec, num_envs, words_per_step=1)
        self._table, self._first = alias_table(probe.P), alias_table(probe.rho)
        self._terminal = np.isin(np.arange(S), probe.terminal)
        self._state: IntArray = np.zeros(num_envs, dtype=np.int64)
        self._clock: IntArray = np.zeros(num_envs, dtype=np.int64)

    def _prepare(self, words: Words) -> None:
        self._y, self._j = self._table.columns(high_half(words[:, 0]))

    def _start(self, slot: int, rows: BoolArray | None) -> None:
        first = self._first.draw(np.zeros(self.num_envs, dtype=np.int64), self._y[slot], self._j[slot])
        begun = np.ones(self.num_envs, np.bool_) if rows is None else rows
        self._state = np.where(begun, first, self._state)
        self._clock = np.where(begun, 0, self._clock)

    def _advance(self, action: IntArray, slot: int) -> Outcome:
        pair = self._state * self.env_spec.num_actions + action
        self._state = self._table.draw(pair, self._y[slot], self._j[slot])
        self._clock = self._clock + 1
        terminated = self._terminal[self._state]
        at_limit = ~terminated & (self._clock == self.probe.horizon)
        never = np.zeros(self.num_envs, np.bool_)
        reward = self.probe.r.ravel()[pair]
        return (reward, terminated, at_limit) if self.probe.truncates else (reward, terminated | at_limit, never)

    def _observe(self, slot: int) -> IntArray:
        return self._state.copy()

    def latent_states(self) -> IntArray:
        """(n,) state indices, equal to the observations."""
        return self._state.copy()

    def exact(self) -> ExactModel:
        """The model over H steps, with terminal states absorbing at reward 0; phi = P, psi = identity."""
        return _exact_model(self.probe)


def _exact_model(probe: Probe) -> ExactModel:
    S, A = probe.r.shape
    P, r = probe.P.copy(), probe.r.copy()
    for s in probe.terminal:
        P[s], r[s] = np.eye(S)[s], 0.0
    P = np.broadcast_to(P, (probe.horizon, S, A, S))
    r = np.broadcast_to(r, (probe.horizon, S, A))
    V, Q = optimal_values(P, r)
    psi = np.broadcast_to(np.eye(S), (probe.horizon, S, S))
    return ExactModel(P, r, probe.rho, P, psi, V, Q, observations_are_states=True)


@register("env", "probe-constant", ProbeConfig)
def probe_constant(config: ProbeConfig, num_envs: int) -> ProbeEnv:
    """One step, one state, reward 1 whatever is done: V = 1. Fails: the value of a constant."""
    return ProbeEnv("probe-constant", Probe(P=np.ones((1, 2, 1)), r=np.ones((1, 2)), rho=np.ones(1)), num_envs)


@register("env", "probe-observation", ProbeConfig)
def probe_observation(config: ProbeConfig, num_envs: int) -> ProbeEnv:
    """One step, reward +1 in state 1 and -1 in state 0: V = (-1, 1). Fails: values that ignore the observation."""
    r = np.array([[-1.0, -1.0], [1.0, 1.0]])
    return ProbeEnv("probe-observation", Probe(P=np.full((2, 2, 2), 0.5), r=r, rho=np.full(2, 0.5)), num_envs)


@register("env", "probe-delay", ProbeConfig)
def probe_delay(config: ProbeConfig, num_envs: int) -> ProbeEnv:
    """Two steps, reward 1 at the second one: V_0 = V_1 = 1. Fails: propagation of values over time."""
    P = np.zeros((2, 2, 2))
    P[:, :, 1] = 1.0
    probe = Probe(P=P, r=np.array([[0.0, 0.0], [1.0, 1.0]]), rho=np.array([1.0, 0.0]), horizon=2)
    return ProbeEnv("probe-delay", probe, num_envs)


@register("env", "probe-action", ProbeConfig)
def probe_action(config: ProbeConfig, num_envs: int) -> ProbeEnv:
    """One step, action 1 pays +1 and action 0 pays -1: Q = (-1, 1). Fails: values that ignore the action."""
    return ProbeEnv("probe-action", Probe(np.ones((1, 2, 1)), np.array([[-1.0, 1.0]]), np.ones(1)), num_envs)


@register("env", "probe-match", ProbeConfig)
def probe_match(config: ProbeConfig, num_envs: int) -> ProbeEnv:
    """One step, +1 if the action equals the observation, else -1: Q = 2 1[a = s] - 1. Fails: their interaction."""
    return ProbeEnv("probe-match", Probe(np.full((2, 2, 2), 0.5), 2.0 * np.eye(2) - 1.0, np.full(2, 0.5)), num_envs)


@register("env", "probe-terminal", ProbeConfig)
def probe_terminal(config: ProbeConfig, num_envs: int) -> ProbeEnv:
    """Three steps of reward 1 by action 1; action 0 pays 1.5 and ends the episode. V = (3.5, 2.5, 1.5).

    Optimal: go on twice and leave at the last step. An agent that adds a value after the terminal leaves too early,
    one that ignores the clock never leaves.
    """
    P = np.zeros((2, 2, 2))
    P[0, 0, 1] = P[0, 1, 0] = P[1, :, 1] = 1.0
    probe = Probe(P, np.array([[1.5, 1.0], [0.0, 0.0]]), np.array([1.0, 0.0]), horizon=3, terminal=(1,))
    return ProbeEnv("probe-terminal", probe, num_envs)


@register("env", "probe-truncation", ProbeConfig)
def probe_truncation(config: ProbeConfig, num_envs: int) -> ProbeEnv:
    """Reward 1 a step with no end, cut by a time limit of 3: return 3; with discount g the value is 1 / (1 - g).

    The last step keeps discount 1 and its true final observation; an agent that takes the limit for an end learns
    values that depend on the clock.
    """
    P = np.zeros((2, 2, 2))
    P[0, :, 1] = P[1, :, 0] = 1.0  # the state alternates, so that the final observation can be told from the first
    probe = Probe(P, np.ones((2, 2)), np.array([1.0, 0.0]), horizon=3, truncates=True)
    return ProbeEnv("probe-truncation", probe, num_envs)
