"""How actions follow from values: the best one where one agent acts, equilibria of the stage game where two do.

    one agent:   values Q and G;               V(s) = max_a,  acting by argmax_a b + G
    two players: values Q, G-bar and G-under;  U = G-bar + b,  L = G-under - b,  each a table (A, B) at each state
                 sigma(s) = CCE(U(s), L(s)),  V-bar = <sigma, U>,  V-under = <sigma, L>      (Qiu et al. 2022, Alg. 2)
                 (mu, nu)(s) = Nash(Q(s)),    V = mu'Q nu

`signs` says with which sign each value function gets the bonus: never Q, which is evaluated.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rl_contrastive.acting import choose, greedy, invert
from rl_contrastive.planning.equilibrium import cce, nash
from rl_contrastive.spec import FloatArray, IntArray, product


class Choice(Protocol):
    """What the deep agent and its learner ask."""

    signs: tuple[float, ...]
    """Of each value function, Q first."""

    def draw(self, optimistic: list[FloatArray], uniform: FloatArray) -> IntArray:
        """Actions (N,) of the values with their bonuses, each (N, A), without Q; by chance u in [0, 1) (N,)."""

    def law(self, optimistic: list[FloatArray]) -> FloatArray:
        """Their probabilities (N, A)."""

    def final(self, q: FloatArray) -> FloatArray:
        """The policy (N, A) that is handed out, of Q (N, A)."""


class Best:
    """One agent."""

    signs: tuple[float, ...] = (0.0, 1.0)

    def draw(self, optimistic: list[FloatArray], uniform: FloatArray) -> IntArray:
        """argmax_a, by chance among exact ties."""
        return choose(optimistic[0], uniform)

    def law(self, optimistic: list[FloatArray]) -> FloatArray:
        """Uniform over exact ties."""
        return greedy(optimistic[0])

    def final(self, q: FloatArray) -> FloatArray:
        """argmax_a Q, uniform over exact ties."""
        return greedy(q)


class StageGame:
    """Two players, A x B joint actions."""

    signs: tuple[float, ...] = (0.0, 1.0, -1.0)

    def __init__(self, players: tuple[int, int]) -> None:
        self.players = players

    def draw(self, optimistic: list[FloatArray], uniform: FloatArray) -> IntArray:
        """A joint action of sigma."""
        return invert(self.law(optimistic), uniform)

    def law(self, optimistic: list[FloatArray]) -> FloatArray:
        """sigma (N, AB) of U and L; uniform where all joint actions are worth the same to both."""
        upper, lower = optimistic
        A, B = self.players
        sigma = cce(upper.reshape(-1, A, B), lower.reshape(-1, A, B)).sigma.reshape(upper.shape)
        tied = (np.ptp(upper, axis=1) == 0) & (np.ptp(lower, axis=1) == 0)
        return np.where(tied[:, None], 1.0 / (A * B), sigma)

    def final(self, q: FloatArray) -> FloatArray:
        """mu nu (N, AB) of a Nash equilibrium of Q."""
        found = nash(q.reshape(-1, *self.players))
        return product(found.x, found.y)

    def weights(self, values: FloatArray) -> FloatArray:
        """What each value function is averaged by at the next state: Q, U and L (N, 3, AB) -> (N, 3, AB)."""
        sigma = self.law([values[:, 1], values[:, 2]])
        return np.stack([self.final(values[:, 0]), sigma, sigma], axis=1)


def choice_of(players: tuple[int, int] | None) -> Choice:
    """By the number of players."""
    return Best() if players is None else StageGame(players)
