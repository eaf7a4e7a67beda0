"""Goofspiel on arrays: the rules of `goofspiel.py` for observations as vectors, up to 13 cards, and its exact model.

An observation is a float32 vector (4 K + 1,): the maximiser's cards left, the minimiser's, the prizes of later rounds
and the one at stake, each as K flags, and the maximiser's lead divided by K (K + 1) / 2 (0 where points are paid at
once). It holds all that both players know. The value is 0, because both players have the same cards.

`layered` lists the states by rounds, and of each round only its different moves: with 8 cards, descending prizes and
points paid at once 12869 states, and 300315 where only winning counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rl_contrastive.envs.base import BatchEnv, Outcome
from rl_contrastive.envs.streams import Words, uniforms
from rl_contrastive.spec import BoolArray, EnvSpec, FloatArray, IntArray, Layer, LayeredGame

MOST_OUTCOMES = 10_000_000
"""Most outcomes of one round that are listed: each takes some hundred bytes while they are."""


@dataclass(frozen=True)
class Rounds:
    """N games before a bid; cards and prizes as flags (N, K)."""

    own: BoolArray
    other: BoolArray
    later: BoolArray
    """Prizes of the rounds after this one."""
    prize: IntArray
    """(N,) at stake: 0..K-1, worth one more; K after the last round."""
    lead: IntArray
    """(N,)."""

    def observe(self) -> NDArray[np.float32]:
        """(N, 4 K + 1)."""
        K = self.own.shape[1]
        stake = np.arange(K) == self.prize[:, None]
        lead = self.lead[:, None] / (K * (K + 1) / 2)
        return np.concatenate([self.own, self.other, self.later, stake, lead], axis=1).astype(np.float32)

    def take(self, rows: IntArray) -> Rounds:
        """Some of the games."""
        return Rounds(self.own[rows], self.other[rows], self.later[rows], self.prize[rows], self.lead[rows])


def card(hand: BoolArray, action: IntArray) -> IntArray:
    """The card (N,) that an action plays: itself, or the lowest card left if it was played before."""
    return np.where(hand[np.arange(len(hand)), action], action, hand.argmax(axis=1))


def bid(state: Rounds, a: IntArray, b: IntArray, points: bool) -> tuple[Rounds, FloatArray]:
    """Games after a bid, their next prize still to be drawn, and rewards (N,)."""
    K, rows = state.own.shape[1], np.arange(len(a))
    first, second = card(state.own, a), card(state.other, b)
    won = (state.prize + 1) * np.sign(first - second)
    own, other = state.own.copy(), state.other.copy()
    own[rows, first], other[rows, second] = False, False
    lead = state.lead + (0 if points else won)
    over = ~own.any(axis=1)
    reward = won / (K * (K + 1) / 2) if points else np.where(over, np.sign(lead), 0).astype(np.float64)
    return Rounds(own, other, state.later, np.full(len(a), K), lead), reward


def reveal(state: Rounds, prize: IntArray) -> Rounds:
    """Games with the prize (N,) of `later` at stake."""
    later = state.later.copy()
    later[np.arange(len(prize)), prize] = False
    return replace(state, later=later, prize=prize)


def nth(flags: BoolArray, n: IntArray) -> IntArray:
    """Index of the n-th flag that is set (from 0) in each row."""
    return np.asarray((flags.cumsum(axis=1) <= n[:, None]).sum(axis=1))


def first_rounds(cards: int, count: int) -> Rounds:
    """Fresh games whose first prize is still to be drawn."""
    full = np.ones((count, cards), dtype=np.bool_)
    return Rounds(full, full.copy(), full.copy(), np.full(count, cards), np.zeros(count, dtype=np.int64))


class GoofspielCards(BatchEnv):
    """A batch of games, played by the rules on arrays."""

    def __init__(self, cards: int, random: bool, points: bool, num_envs: int) -> None:
        self.cards, self.random, self.points = cards, random, points
        largest = 2.0 / (cards + 1) if points else 1.0
        spec = EnvSpec(
            name="goofspiel",
            num_actions=cards * cards,
            horizon=cards,
            obs_shape=(4 * cards + 1,),
            obs_dtype="float32",
            optimal_return=0.0,
            reward_range=(-largest, largest),
            return_range=(-1.0, 1.0),
            players=(cards, cards),
            stationary=True,
        )
        super().__init__(spec, num_envs, words_per_step=1)
        self._state = first_rounds(cards, num_envs)

    def _prepare(self, words: Words) -> None:
        self._uniform = uniforms(words[:, 0])  # (calls, n)

    def _prizes(self, later: BoolArray, slot: int) -> IntArray:
        """The next prize of each game: the highest left, or a random one."""
        left = later.sum(axis=1)
        return nth(later, (self._uniform[slot] * left).astype(np.int64) if self.random else left - 1)

    def _start(self, slot: int, rows: BoolArray | None) -> None:
        fresh = first_rounds(self.cards, self.num_envs)
        self._state = reveal(fresh, self._prizes(fresh.later, slot))  # all rows begin together

    def _advance(self, action: IntArray, slot: int) -> Outcome:
        state, reward = bid(self._state, *np.divmod(action, self.cards), self.points)
        going_on = self.h + 1 < self.cards
        self._state = reveal(state, self._prizes(state.later, slot)) if going_on else state
        return reward, None, None

    def _observe(self, slot: int) -> NDArray[np.float32]:
        return self._state.observe()

    def exact(self) -> None:
        """None: a table of all states at all steps would be too large; see `layered`."""

    def layered(self, most: int) -> LayeredGame | None:
        """The model by rounds; None where it has more than `most` states."""
        K = self.cards
        start = first_rounds(K, K if self.random else 1)
        state = reveal(start, np.arange(K) if self.random else np.full(1, K - 1))
        rho, layers = np.full(len(state.prize), 1.0 / len(state.prize)), []
        for left in range(K, 0, -1):
            outcomes = len(state.lead) * left**2 * (left if self.random else 1)
            most -= len(state.lead)
            if most < 0 or outcomes > MOST_OUTCOMES:
                return None
            layer, state = self._layer(state, left)
            layers.append(layer)
        return LayeredGame(rho, tuple(layers))

    def _layer(self, state: Rounds, n: int) -> tuple[Layer, Rounds]:
        """The layer of all states with n cards left, and the states of the next one."""
        S, chances = len(state.lead), (n - 1 if self.random else 1) or 1
        # The n different moves of a state are its cards, ascending.
        cards = [np.argsort(~hand, axis=1, kind="stable")[:, :n] for hand in (state.own, state.other)]
        s, i, j, k = (axis.ravel() for axis in np.indices((S, n, n, chances)))
        after, reward = bid(state.take(s), cards[0][s, i], cards[1][s, j], self.points)
        successor, following = np.full((S, n, n, 1), -1), after.take(np.zeros(0, dtype=np.int64))
        if n > 1:
            shown = reveal(after, nth(after.later, k if self.random else np.full(len(s), n - 2)))
            _, where, which = np.unique(_numbers(shown), return_index=True, return_inverse=True)
            successor, following = which.reshape(S, n, n, chances), shown.take(where)
        own, other = (np.where(hand, hand.cumsum(axis=1) - 1, 0) for hand in (state.own, state.other))
        expected = reward.reshape(S, n, n, chances)[..., 0]  # the next prize does not change it
        return Layer(state.observe(), own, other, expected, successor, np.full(1, 1.0 / chances)), following


def _numbers(state: Rounds) -> IntArray:
    """(N,) a number for each different state."""
    K = state.own.shape[1]
    bits = 1 << np.arange(K)
    number = np.zeros(len(state.lead), dtype=np.int64)
    for flags in (state.own, state.other, state.later):
        number = (number << K) + flags @ bits
    return np.asarray((((number << 4) + state.prize) << 8) + state.lead + K * (K + 1) // 2)
