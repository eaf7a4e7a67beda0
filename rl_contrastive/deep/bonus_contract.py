"""The interface of an exploration bonus for the deep agent, and the control without one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rl_contrastive.config import require_keys
from rl_contrastive.deep.bonus_config import Pays
from rl_contrastive.deep.replay.changed_rows import Patches
from rl_contrastive.spec import Array, FloatArray, IntArray, State, Transition

Chunk = tuple[IntArray, IntArray, FloatArray]
"""Entries (n,), their actions (n,) with -1 for none, and their features (n, A, d), or (n, 1, d) of states."""
Gone = tuple[FloatArray, IntArray, FloatArray]
"""Places that left the replay (`past.py`): features as above, actions (n,), and the number of visits of each."""


@dataclass(frozen=True)
class Step:
    """One step of the k rows alive, which is in the replay already."""

    transition: Transition
    index: IntArray
    """(k,) the entries in which they acted."""
    newest: IntArray
    """(k,) the entries of what they saw next."""
    first: FloatArray
    """Features of `index`, (k, A, d) or (k, 1, d) of states, at h = 0; otherwise those of an earlier step."""
    phi: FloatArray
    """Features of `newest`, as `first`; d = 0 for a bonus that uses none."""

    @property
    def rows(self) -> IntArray:
        """(k,) the rows alive."""
        return self.transition.alive.nonzero()[0]

    @property
    def action(self) -> IntArray:
        """(k,) what they did."""
        return self.transition.action[self.transition.alive]


class Bonus(Protocol):
    """The interface of a bonus for the agent and its learner. `build_bonus.py` makes one from its options."""

    pays: Pays
    """pair: b(s,a) is known before the step. Then acting and the end of a path add it, and G(s,a) leaves it out.
    arrival: b(s') is known after it and is part of G(s,a). both: the sum of two such parts."""
    uses_features: bool
    """Whether the bonus uses features of the network. If not, none are learned or computed."""
    patches: dict[str, Patches]
    """Arrays beside the replay, by the names that their files have."""

    @property
    def visits(self) -> int:
        """Steps so far."""

    def value(self, phi: FloatArray) -> FloatArray:
        """The part that is known before the step, of all actions, of features (N, A, d) or (N, 1, d) -> (N, A)."""

    def at(self, index: IntArray) -> FloatArray:
        """The same at entries index (N,) -> (N, A)."""

    def taken(self, index: IntArray, action: IntArray) -> FloatArray:
        """The whole bonus of stored steps, as it is today: entries and actions (...,) -> (...,)."""

    def watch(self, step: Step) -> None:
        """Take in one step: store its keys, count it."""

    def start(self, obs: Array) -> None:
        """Called after the warm start, with observations (n, ...) by which a bonus may standardise its inputs."""

    def key_taken(self, phi: FloatArray, action: IntArray) -> Array:
        """What the bonus counts for places of features (n, A, d) and actions (n,): (n, w). Equal: not told apart."""

    def rebuild(self, sample: FloatArray, chunks: Iterator[Chunk], gone: Iterable[Gone] = ()) -> None:
        """Features changed: count again, from the entries of the replay and the places that left it.

        sample (n, d): features of some visits, to adapt to.
        """

    def report(self) -> dict[str, float]:
        """Diagnostics to record."""

    def state_dict(self, *, whole: bool = True) -> State:
        """The state; where not `whole`, without the arrays that `patches` saves."""

    def load_state_dict(self, state: dict[str, Any], *, whole: bool = True) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""


def acted(index: IntArray, action: IntArray, phi: FloatArray) -> FloatArray:
    """Features (n, d) of the actions in a chunk, or of its states; rows without an action are left out."""
    some = np.flatnonzero(action >= 0)
    found: FloatArray = phi[some, action[some] if phi.shape[1] > 1 else 0]
    return found


class NoBonus:
    """b = 0 for all: the control without optimism, at the cost of plain Q-learning."""

    pays: Pays = "pair"
    uses_features = False

    def __init__(self, num_actions: int) -> None:
        self.num_actions, self.visits = num_actions, 0
        self.patches: dict[str, Patches] = {}

    def value(self, phi: FloatArray) -> FloatArray:
        """(N, ..., d) -> (N, A)."""
        return np.zeros((len(phi), self.num_actions))

    def at(self, index: IntArray) -> FloatArray:
        """(N,) -> (N, A)."""
        return np.zeros((len(index), self.num_actions))

    def taken(self, index: IntArray, action: IntArray) -> FloatArray:
        """(...,) -> (...,)."""
        return np.zeros(index.shape)

    def watch(self, step: Step) -> None:
        """Only the number of visits is kept."""
        self.visits += len(step.index)

    def start(self, obs: Array) -> None:
        """Nothing."""

    def key_taken(self, phi: FloatArray, action: IntArray) -> Array:
        """Nothing."""
        return np.zeros((len(action), 0))

    def rebuild(self, sample: FloatArray, chunks: Iterator[Chunk], gone: Iterable[Gone] = ()) -> None:
        """Nothing depends on features."""

    def report(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def state_dict(self, *, whole: bool = True) -> State:
        """The number of visits."""
        return {"visits": self.visits}

    def load_state_dict(self, state: dict[str, Any], *, whole: bool = True) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, ("visits",), "bonus")
        self.visits = int(state["visits"])


def evenly(count: int, most: int) -> IntArray:
    """At most `most` indices of 0 .. count - 1, evenly spread, as the sample of `rebuild`."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)
