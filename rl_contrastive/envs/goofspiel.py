"""Goofspiel: K prizes, K cards each, one sealed bid a prize; the higher card takes it. Pure bids can be overbid.

In each round both players play a card at once; the prize goes to the higher one, and to nobody if they are equal. A
player that knew the other's card would play the next higher one, or its worst: equilibria are mixed.

The action set is 0..K-1 in each state, action c being card c + 1 (worth its number). A card that was played before
counts as the lowest card left. States: the cards left to each, the prizes left with the one at stake, and, where only
winning counts, the maximiser's lead in points; S is what can be reached. `observation cards` shows them as a vector
(`goofspiel_cards.py`), for games with too many states for a table.
Source: Ross, "Goofspiel, the game of pure strategy", Journal of Applied Probability 8 (1971).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

from rl_contrastive.config import In, Options, require
from rl_contrastive.envs.game_table import GameTable, Outcomes, TableGameEnv, build_table
from rl_contrastive.envs.goofspiel_cards import GoofspielCards
from rl_contrastive.registry import register

PayBy = Literal["win", "points"]
Prizes = Literal["descending", "random"]
MOST_TABULATED = 6
"""Most cards of a table."""


@dataclass(frozen=True)
class GoofspielConfig(Options, where="goofspiel"):
    """Size of the game, order of the prizes, and what the maximiser receives."""

    cards: Annotated[int, In(2, 13)] = 4
    """K, number of cards of each player and of prizes 1..K; horizon H = K, A = B = K. At most 6 for a table."""
    prizes: Prizes = "descending"
    """"descending": K, K-1, ..., 1; "random": each order is equally likely, the prize at stake is seen."""
    pay: PayBy = "win"
    """"win": +1, 0 or -1 at the end by the sum of won prizes; "points": the prize at once, + or -, divided by
    K (K + 1) / 2, so that returns are in [-1, 1] too."""
    observation: Literal["state", "cards"] = "state"
    """state: the number of the state, a table; cards: what is left to each player, prizes and lead, as a vector."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.observation == "cards" or self.cards <= MOST_TABULATED
        hint = f"at most {MOST_TABULATED}, or observation cards"
        require(fits, f"goofspiel: {self.cards} cards have too many states for a table: {hint}.")


class Round(NamedTuple):
    """What both players know when they bid."""

    own: tuple[int, ...]
    """Cards left to the maximiser, ascending."""
    other: tuple[int, ...]
    """Cards left to the minimiser."""
    prize: int
    """At stake now."""
    later: tuple[int, ...]
    """Prizes of the rounds after this one."""
    lead: int
    """Maximiser's points minus minimiser's; always 0 where the points are paid at once."""


def start_rounds(config: GoofspielConfig) -> list[tuple[float, Round]]:
    """(probability, first round)."""
    hand = tuple(range(1, config.cards + 1))
    return [(p, Round(hand, hand, prize, later, 0)) for p, prize, later in _next_prizes(hand, config.prizes)]


def bid(config: GoofspielConfig, state: Round, a: int, b: int) -> Outcomes[Round]:
    """Outcomes of the maximiser's action a and the minimiser's b."""
    card = a + 1 if a + 1 in state.own else state.own[0]
    card_other = b + 1 if b + 1 in state.other else state.other[0]
    won = state.prize * ((card > card_other) - (card < card_other))
    points = config.pay == "points"
    reward = 2.0 * won / (config.cards * (config.cards + 1)) if points else 0.0
    lead = 0 if points else state.lead + won
    own = tuple(c for c in state.own if c != card)
    other = tuple(c for c in state.other if c != card_other)
    if not own:
        return [(1.0, reward if points else float((lead > 0) - (lead < 0)), None)]
    return [
        (p, reward, Round(own, other, prize, later, lead))
        for p, prize, later in _next_prizes(state.later, config.prizes)
    ]


def _next_prizes(left: tuple[int, ...], order: Prizes) -> list[tuple[float, int, tuple[int, ...]]]:
    """(probability, prize at stake, prizes after it)."""
    choices = [max(left)] if order == "descending" else list(left)
    return [(1.0 / len(choices), prize, tuple(x for x in left if x != prize)) for prize in choices]


@lru_cache(maxsize=4)
def goofspiel_table(config: GoofspielConfig) -> GameTable:
    """The table of the game: 278 states for 4 cards in descending order, where only winning counts."""
    K = config.cards

    def expand(state: Round) -> list[Outcomes[Round]]:
        return [bid(config, state, a, b) for a in range(K) for b in range(K)]

    return build_table("goofspiel", (K, K), start_rounds(config), expand)


@register("env", "goofspiel", GoofspielConfig)
def make_goofspiel(config: GoofspielConfig, num_envs: int) -> TableGameEnv | GoofspielCards:
    """Goofspiel: sealed bids for K prizes with K cards each, a zero-sum game whose equilibria are mixed."""
    if config.observation == "cards":
        return GoofspielCards(config.cards, config.prizes == "random", config.pay == "points", num_envs)
    return TableGameEnv("goofspiel", goofspiel_table(config), config.cards, num_envs, return_range=(-1.0, 1.0))
