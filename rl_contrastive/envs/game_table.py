"""Tabular games by enumeration: write the rules once, get tables, a fast batch and the exact Nash value.

The rules are one function, `expand(key)`: for each joint action of a state the outcomes (probability, reward, next key
or None for "over"). `build_table` follows them from the start states, first come first numbered; the last state is
"over" (absorbing, reward 0), so that how a game goes on is a function of its state. `TableGameEnv` plays the tables:

    k ~ p(. | s, a, b),   r = reward[s, ab, k],   s' = successor[s, ab, k]

Values come from the sparse lists, Q_h(s, ab) = sum_k p_k (r_k + V_{h+1}(s'_k)), without the dense P that `exact` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.envs.base import BatchEnv, Outcome
from rl_contrastive.envs.streams import Words, uniforms
from rl_contrastive.planning.equilibrium import nash
from rl_contrastive.spec import BoolArray, EnvSpec, ExactModel, FloatArray, IntArray

MAX_PAIRS = 1_000_000
"""Most states times joint actions of a table: enumerating them takes seconds, and the lists some hundred megabytes."""

Key = TypeVar("Key", bound=Hashable)
Outcomes = list[tuple[float, float, Key | None]]
"""(probability, reward to the maximiser, next state or None for "over") of one joint action."""


@dataclass(frozen=True)
class GameTable:
    """A stationary game by its outcomes: S states of which the last is "over", at most K outcomes of a joint action."""

    players: tuple[int, int]
    successor: IntArray
    """(S, AB, K) next states; unused places have probability 0."""
    probability: FloatArray
    """(S, AB, K)."""
    reward: FloatArray
    """(S, AB, K) to the maximiser."""
    rho: FloatArray
    """(S,) start distribution."""
    keys: tuple[Hashable, ...]
    """The state behind each number but the last."""

    @property
    def over(self) -> int:
        """Number of the state "over"."""
        return len(self.keys)

    @cached_property
    def expected_reward(self) -> FloatArray:
        """r (S, AB)."""
        return np.asarray((self.probability * self.reward).sum(axis=-1))

    def values(self, horizon: int) -> tuple[FloatArray, FloatArray]:
        """Nash values V (H+1, S) and Q (H, S, AB) of the game that is over after `horizon` steps."""
        S, AB, _ = self.successor.shape
        V, Q = np.zeros((horizon + 1, S)), np.zeros((horizon, S, AB))
        for h in range(horizon - 1, -1, -1):
            Q[h] = self.expected_reward + (self.probability * V[h + 1][self.successor]).sum(axis=-1)
            V[h] = nash(Q[h].reshape(S, *self.players)).value
        return V, Q

    def dense(self) -> FloatArray:
        """P (S, AB, S)."""
        S, AB, K = self.successor.shape
        P = np.zeros((S, AB, S))
        s, ab = np.ogrid[:S, :AB]
        for k in range(K):  # outcomes of one joint action may lead to the same state
            P[s, ab, self.successor[..., k]] += self.probability[..., k]
        return P


def build_table(
    name: str,
    players: tuple[int, int],
    starts: Iterable[tuple[float, Key]],
    expand: Callable[[Key], list[Outcomes[Key]]],
) -> GameTable:
    """The table of all states that can be reached from `starts`; an RlcError where S A B is beyond MAX_PAIRS."""
    most = MAX_PAIRS // (players[0] * players[1])
    numbers: dict[Key, int] = {}
    keys: list[Key] = []

    def number(key: Key) -> int:
        if key not in numbers:
            require(
                len(keys) < most,
                f"{name}: more than {most} states of {players[0]} x {players[1]} actions; choose a smaller game.",
            )
            numbers[key] = len(keys)
            keys.append(key)
        return numbers[key]

    first = [(p, number(key)) for p, key in starts]
    rows: list[list[list[tuple[float, float, int]]]] = []
    while len(rows) < len(keys):
        outcomes = expand(keys[len(rows)])
        rows.append([[(p, r, -1 if key is None else number(key)) for p, r, key in action] for action in outcomes])
    S, AB = len(keys) + 1, players[0] * players[1]
    K = max(len(action) for row in rows for action in row)
    successor, probability, reward = np.full((S, AB, K), S - 1), np.zeros((S, AB, K)), np.zeros((S, AB, K))
    probability[..., 0] = 1.0  # of "over"; the others are written next
    for s, row in enumerate(rows):
        for ab, action in enumerate(row):
            n = len(action)
            probability[s, ab, :n], reward[s, ab, :n], following = zip(*action, strict=True)
            successor[s, ab, :n] = [S - 1 if t < 0 else t for t in following]
    rho = np.zeros(S)
    for p, s in first:
        rho[s] += p
    return GameTable(players, successor, probability, reward, rho, tuple(keys))


class TableGameEnv(BatchEnv):
    """A batch of one tabular game; rows end at different steps, so each row keeps its own clock."""

    def __init__(
        self, name: str, table: GameTable, horizon: int, num_envs: int, return_range: tuple[float, float]
    ) -> None:
        self.table = table
        self._V, self._Q = table.values(horizon)
        A, B = table.players
        spec = EnvSpec(
            name=name,
            num_actions=A * B,
            horizon=horizon,
            obs_shape=(),
            obs_dtype="int64",
            num_states=len(table.rho),
            optimal_return=float(table.rho @ self._V[0]),
            reward_range=(float(table.reward.min()), float(table.reward.max())),
            return_range=return_range,
            players=table.players,
            stationary=True,
        )
        super().__init__(spec, num_envs, words_per_step=1)
        self._bounds, self._start_bounds = _upper_ends(table.probability), _upper_ends(table.rho)
        self._state: IntArray = np.full(num_envs, table.over)
        self._clock: IntArray = np.zeros(num_envs, dtype=np.int64)

    def _prepare(self, words: Words) -> None:
        self._uniform = uniforms(words[:, 0])  # (K, n)

    def _start(self, slot: int, rows: BoolArray | None) -> None:
        first = np.searchsorted(self._start_bounds, self._uniform[slot], side="right")
        begun = np.ones(self.num_envs, np.bool_) if rows is None else rows
        self._state = np.where(begun, first, self._state)
        self._clock = np.where(begun, 0, self._clock)

    def _advance(self, action: IntArray, slot: int) -> Outcome:
        at = self._state, action
        k = (self._uniform[slot][:, None] >= self._bounds[at]).sum(axis=1)
        reward = self.table.reward[(*at, k)]
        self._state = self.table.successor[(*at, k)]
        self._clock = self._clock + 1
        terminated = (self._state == self.table.over) | (self._clock == self.env_spec.horizon)
        return reward, terminated, np.zeros(self.num_envs, np.bool_)

    def _observe(self, slot: int) -> IntArray:
        return self._state.copy()

    def latent_states(self) -> IntArray:
        """(n,) state indices, equal to the observations."""
        return self._state.copy()

    def exact(self) -> ExactModel:
        """The model over the enumerated states; no factors are shorter than P in general, so none are given."""
        return self._exact

    @cached_property
    def _exact(self) -> ExactModel:
        H, P, r = self.env_spec.horizon, self.table.dense(), self.table.expected_reward
        return ExactModel(
            P=np.broadcast_to(P, (H, *P.shape)),
            r=np.broadcast_to(r, (H, *r.shape)),
            rho=self.table.rho,
            phi=None,
            psi=None,
            V=self._V,
            Q=self._Q,
            observations_are_states=True,
            players=self.table.players,
        )


def _upper_ends(p: FloatArray) -> FloatArray:
    """Upper ends of the intervals of [0, 1) that stand for the outcomes of p (..., K); the number of ends <= u is the
    outcome of u. Those from the last possible outcome on are inf, so that rounding never leads to an impossible one."""
    ends = np.cumsum(p, axis=-1)
    rest = np.cumsum(p[..., ::-1], axis=-1)[..., ::-1] - p  # mass strictly after each outcome
    return np.where(rest > 0.0, ends, np.inf)
