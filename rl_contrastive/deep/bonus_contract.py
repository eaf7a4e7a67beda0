"""The interface of an exploration bonus for the deep agent, and the control without one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from rl_contrastive.config import require_keys
from rl_contrastive.deep.replay.changed_rows import Patches
from rl_contrastive.spec import Array, FloatArray, IntArray, State, Transition

Chunk = tuple[IntArray, IntArray, FloatArray]
"""Entries (n,), their actions (n,) with -1 for none, and their features (n, A, d), or (n, 1, d) of states."""
Gone = tuple[FloatArray, IntArray, FloatArray]
"""Places that left the replay (`past.py`): features as above, actions (n,), and the number of visits of each."""


class Bonus(Protocol):
    """The interface of a bonus for the agent and its learner. `VisitBonus` and `rnd.py` implement it."""

    before_step: bool
    """Whether b(s,a) is known before the step. Then acting and the end of a path add it, and G(s,a) leaves it out."""
    uses_features: bool
    """Whether the bonus uses phi(s,a). If not, no features are learned or computed."""
    patches: dict[str, Patches]
    """Arrays beside the replay, by the names that their files have."""

    @property
    def visits(self) -> int: ...

    def value(self, phi: FloatArray) -> FloatArray: ...

    def at(self, index: IntArray) -> FloatArray: ...

    def taken(self, index: IntArray, action: IntArray) -> FloatArray: ...

    def store(self, index: IntArray, phi: FloatArray) -> None: ...

    def visit(self, index: IntArray, action: IntArray) -> None: ...

    def watch(self, transition: Transition, index: IntArray, newest: IntArray) -> None:
        """One step of the rows alive: they acted at entries index (k,); newest (k,) hold what they saw next."""

    def start(self, obs: Array) -> None:
        """Called after the warm start, with observations (n, ...) by which a bonus may standardise its inputs."""

    def key_taken(self, phi: FloatArray, action: IntArray) -> Array: ...

    def rebuild(self, sample: FloatArray, chunks: Iterator[Chunk], gone: Iterable[Gone] = ()) -> None: ...

    def state_dict(self, *, whole: bool = True) -> State: ...

    def load_state_dict(self, state: dict[str, Any], *, whole: bool = True) -> None: ...


class NoBonus:
    """b = 0 for all: the control without optimism, at the cost of plain Q-learning."""

    before_step, uses_features = True, False

    def __init__(self, num_actions: int) -> None:
        self.num_actions, self.visits = num_actions, 0
        self.patches: dict[str, Patches] = {}

    def value(self, phi: FloatArray) -> FloatArray:
        """(..., d) -> (...,)."""
        return np.zeros(phi.shape[:-1])

    def at(self, index: IntArray) -> FloatArray:
        """(N,) -> (N, A)."""
        return np.zeros((len(index), self.num_actions))

    def taken(self, index: IntArray, action: IntArray) -> FloatArray:
        """(...,) -> (...,)."""
        return np.zeros(index.shape)

    def store(self, index: IntArray, phi: FloatArray) -> None:
        """Nothing is kept."""

    def watch(self, transition: Transition, index: IntArray, newest: IntArray) -> None:
        """Nothing."""

    def start(self, obs: Array) -> None:
        """Nothing."""

    def visit(self, index: IntArray, action: IntArray) -> None:
        """Count them; only their number is kept."""
        self.visits += len(index)

    def key_taken(self, phi: FloatArray, action: IntArray) -> Array:
        """Nothing."""
        return np.zeros((len(action), 0))

    def rebuild(self, sample: FloatArray, chunks: Iterator[Chunk], gone: Iterable[Gone] = ()) -> None:
        """Nothing depends on features."""

    def state_dict(self, *, whole: bool = True) -> State:
        """The number of visits."""
        return {"visits": self.visits}

    def load_state_dict(self, state: dict[str, Any], *, whole: bool = True) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys."""
        require_keys(state, ("visits",), "bonus")
        self.visits = int(state["visits"])


def evenly(count: int, most: int) -> IntArray:
    """At most `most` indices of 0 .. count - 1, evenly spread, as the sample of `rebuild`."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)
