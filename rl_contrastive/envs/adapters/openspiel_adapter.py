"""OpenSpiel's zero-sum Markov games as tables: `openspiel:markov_soccer`, `openspiel:oshi_zumo(coins=6,size=1)`.

Two players who move at once, know the state and share a sum of zero: exactly OpenSpiel's simultaneous games of perfect
information. Their states are enumerated once, told apart by their text `str(state)`, which makes the batch fast and the
Nash value exact. A player's action that is not legal in a state counts as its first legal one, so that the action set
is 0..A-1 everywhere.

A state's text may leave out a clock (markov_soccer ends after `horizon` moves). So the table is checked against games
played in OpenSpiel itself; a difference is an error that names the step up to which they agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import numpy as np

from rl_contrastive.config import Ge, Options, require
from rl_contrastive.envs.adapters.gym_adapter import one_line
from rl_contrastive.envs.game_table import GameTable, Outcomes, TableGameEnv, build_table
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import register

DEFAULT_HORIZON = 50
"""Steps where the game's own limit is longer: markov_soccer's is 1000."""
CHECKED_GAMES = 200
"""Games that are played in OpenSpiel to check the table."""
ALLOWED = "allowed are two-player zero-sum games with simultaneous moves and perfect information, such as "
EXAMPLES = "markov_soccer, oshi_zumo(coins=6,size=1), goofspiel(num_cards=4,points_order=descending), matrix_rps"
PROBABILITY = 1e-12
"""Chance outcomes that are no likelier do not count."""


@dataclass(frozen=True)
class OpenSpielConfig(Options, where="openspiel"):
    """Which OpenSpiel game and how long its episodes may be."""

    id: str = "markov_soccer"
    """OpenSpiel's name with its parameters in brackets; given after the colon of `openspiel:ID`."""
    horizon: Annotated[int | None, Ge(1)] = None
    """H, cap on the steps of an episode; the default is the game's own limit, at most 50."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.id), "openspiel: id must name a game, e.g. openspiel:markov_soccer.")


@register("env", "openspiel:", OpenSpielConfig)
def make_openspiel(config: OpenSpielConfig, num_envs: int) -> TableGameEnv:
    """A simultaneous zero-sum OpenSpiel game as a table: openspiel:oshi_zumo(coins=6), openspiel:markov_soccer."""
    name = f"openspiel:{config.id}"
    game = load(config.id)
    limit = int(game.max_game_length())
    horizon = min(limit, DEFAULT_HORIZON) if config.horizon is None else min(limit, config.horizon)
    table = _checked_table(config.id, horizon)
    bounds = float(game.min_utility()), float(game.max_utility())
    # Returns from a later step on are differences of two returns.
    one_payment = "TERMINAL" in str(game.get_type().reward_model)
    width = bounds[1] - bounds[0]
    return TableGameEnv(name, table, horizon, num_envs, return_range=bounds if one_payment else (-width, width))


def load(id: str) -> Any:
    """The pyspiel game; RlcError without OpenSpiel, and for games of another kind."""
    name = f"openspiel:{id}"
    try:
        import pyspiel
    except ImportError as error:
        raise RlcError(f"{name} needs OpenSpiel, which is missing: pip install -e '.[games]'.") from error
    known = id.partition("(")[0] in pyspiel.registered_names()
    require(known, f"{name}: OpenSpiel has no game '{id.partition('(')[0]}'; {ALLOWED}{EXAMPLES}.")
    try:
        game = pyspiel.load_game(id)
    except Exception as error:
        raise RlcError(f"{name} cannot be loaded: {one_line(error)}.") from error
    kind, sees = game.get_type(), pyspiel.GameType.Information
    refusals = [
        (game.num_players() != 2, f"it has {game.num_players()} players"),
        (kind.dynamics != pyspiel.GameType.Dynamics.SIMULTANEOUS, "its players do not move at once"),
        (kind.information not in (sees.PERFECT_INFORMATION, sees.ONE_SHOT), "its players do not know the state"),
        (kind.utility != pyspiel.GameType.Utility.ZERO_SUM, "its returns do not sum to zero by definition"),
    ]
    for refused, why in refusals:
        require(not refused, f"{name}: {why}; {ALLOWED}{EXAMPLES}.")
    return game


@lru_cache(maxsize=4)
def _checked_table(id: str, horizon: int) -> GameTable:
    table = enumerate_game(id)
    check_table(f"openspiel:{id}", load(id), table, horizon)
    return table


def enumerate_game(id: str) -> GameTable:
    """The table of all states of a game, without regard to its clock."""
    name, game = f"openspiel:{id}", load(id)
    A = int(game.num_distinct_actions())
    states: dict[str, Any] = {}  # one state for each text

    def expand(key: str) -> list[Outcomes[str]]:
        state = states[key]
        before = state.returns()[0]
        outcomes: list[Outcomes[str]] = []
        found: dict[tuple[int, int], Outcomes[str]] = {}
        for joint in range(A * A):
            pair = legal_pair(state, joint, A)
            if pair not in found:
                child = state.clone()
                child.apply_actions(list(pair))
                found[pair] = [
                    (p, end.returns()[0] - before, None if end.is_terminal() else note(end))
                    for p, end in _after_chance(name, child)
                ]
            outcomes.append(found[pair])
        return outcomes

    def note(state: Any) -> str:
        text = str(state)
        states.setdefault(text, state)
        return text

    starts = [(p, note(state)) for p, state in _after_chance(name, game.new_initial_state())]
    return build_table(name, (A, A), starts, expand)


def legal_pair(state: Any, joint: int, B: int) -> tuple[int, int]:
    """Both players' actions of a joint one, with the first legal action in place of one that is not legal."""
    a, b = divmod(joint, B)
    legal = state.legal_actions(0), state.legal_actions(1)
    return (a if a in legal[0] else legal[0][0], b if b in legal[1] else legal[1][0])


def _after_chance(name: str, state: Any) -> list[tuple[float, Any]]:
    """(probability, state) of the states where both players move or the game is over, after all chance moves."""
    open_, reached = [(1.0, state)], []
    while open_:
        p, state = open_.pop()
        if state.is_terminal() or state.is_simultaneous_node():
            reached.append((p, state))
            continue
        require(state.is_chance_node(), f"{name}: only one player moves in the state '{' '.join(str(state).split())}'.")
        open_.extend((p * q, state.child(outcome)) for outcome, q in state.chance_outcomes() if q > PROBABILITY)
    return reached


def check_table(name: str, game: Any, table: GameTable, horizon: int) -> None:
    """Play random games in OpenSpiel and follow them in the table; RlcError at the first difference.

    The last step's successor does not matter: the horizon ends the episode there.
    """
    rng = np.random.default_rng(0)
    numbers = {key: s for s, key in enumerate(table.keys)}
    for _ in range(CHECKED_GAMES):
        state = _chance(game.new_initial_state(), rng)
        for h in range(horizon):
            joint = int(rng.integers(table.players[0] * table.players[1]))
            s, before = numbers[str(state)], state.returns()[0]
            state.apply_actions(list(legal_pair(state, joint, table.players[1])))
            state = _chance(state, rng)
            over, reward = state.is_terminal(), state.returns()[0] - before
            following = table.over if over else numbers.get(str(state), -1)
            at = s, joint
            same = (table.probability[at] > 0) & np.isclose(table.reward[at], reward)
            if h < horizon - 1:
                same &= table.successor[at] == following
            if not same.any():
                what = f"{name}: at step {h} the game goes otherwise than the same state did elsewhere"
                advice = f"set env.horizon to at most {h}" if h else "it is no table"
                raise RlcError(f"{what}, so its text leaves something out, such as a clock; {advice}.")
            if over:
                break


def _chance(state: Any, rng: np.random.Generator) -> Any:
    """The state after sampled chance moves."""
    while state.is_chance_node():
        outcomes, p = zip(*state.chance_outcomes(), strict=True)
        state.apply_action(outcomes[rng.choice(len(outcomes), p=np.array(p) / np.sum(p))])
    return state
