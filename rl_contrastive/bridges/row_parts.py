"""The parts of a bonus for B rows whose episodes end one by one: what is reached, and what was done before.

    RowArrivals   e(s') l(s')
    RowMemory     w(s,a) of the gate tried

Both know each row's going episode, and nothing of it is saved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_contrastive.config import require_keys
from rl_contrastive.deep.bonus_contract import Gone
from rl_contrastive.deep.episodic import EpisodeLog
from rl_contrastive.deep.gates import Gate
from rl_contrastive.deep.names import Closeness, LeaderNames
from rl_contrastive.deep.online import Online
from rl_contrastive.spec import Array, FloatArray, IntArray, State

FeaturesOf = Callable[[Array], FloatArray]
"""Observations (n, ...) -> their current features of states (n, d)."""


@dataclass(frozen=True)
class RowStep:
    """One step of B rows."""

    obs: Array
    action: IntArray
    next_obs: Array
    """(B, ...) what was reached, at the end of an episode too."""
    begins: IntArray
    """(k,) the rows that begin an episode with it."""
    place: IntArray
    """(B,) where the learner of the features keeps it."""
    phi: FloatArray
    """Features of obs, (B, A, d) or (B, 1, d) of states; d = 0 for a bonus that uses none."""
    phi_next: FloatArray
    """The same of next_obs, for a bonus that looks at them."""


class RowArrivals:
    """e(s') l(s')."""

    def __init__(
        self, lifelong: Online, gate: Gate | None, num_rows: int, features_of: FeaturesOf, *, alpha: float, longest: int
    ) -> None:
        """longest: newest observations of an episode by which e is computed again when the features change."""
        self.lifelong, self.gate, self.alpha, self._features_of = lifelong, gate, alpha, features_of
        self._sees = gate is not None and gate.uses_features
        self._past: list[deque[Array]] = [deque(maxlen=longest) for _ in range(num_rows)]
        self.reset()

    def reset(self) -> None:
        """All rows wait for an episode to begin."""
        for past in self._past:
            past.clear()
        if self.gate is not None:
            self.gate.begin(len(self._past))

    def begin(self, step: RowStep) -> None:
        """Count the first observations of the episodes that begin."""
        rows = step.begins
        self.lifelong.count(step.obs[rows], step.phi[rows, 0], first=True)
        if self.gate is None:
            return
        self.gate.restart(rows)
        self.gate.add(rows, step.phi[rows, 0] if self._sees else step.obs[rows])
        for row in rows.tolist():
            self._past[row].clear()
        self._remember(rows, step.obs[rows])

    def pay(self, step: RowStep) -> FloatArray:
        """e l (B,), then the arrivals are counted."""
        x, rows = step.phi_next[:, 0], np.arange(len(step.action))
        out = self.lifelong.now(step.next_obs, x)
        if self.alpha:
            out = np.maximum(out - self.alpha * self.lifelong.now(step.obs, step.phi[:, 0]), 0.0)
        self.lifelong.count(step.next_obs, x)
        if self.gate is not None:
            out = out * self.gate.meet(rows, x if self._sees else step.next_obs)
            self._remember(rows, step.next_obs)
        return out

    def _remember(self, rows: IntArray, obs: Array) -> None:
        if self._sees:
            for row, one in zip(rows.tolist(), obs, strict=True):
                self._past[row].append(np.array(one))

    def rebuild(self, sample: FloatArray, seen: Iterable[Gone]) -> None:
        """The features changed: count all observations again, and compute the going episodes' past again."""
        self.lifelong.rebuild(sample, iter(()), seen)
        if self.gate is None or not self._sees:
            return
        self.gate.adapt(sample)
        self.gate.begin(len(self._past))
        for row, past in enumerate(self._past):
            for x in self._features_of(np.stack(list(past))) if past else ():
                self.gate.add(np.array([row]), x[None])

    def state_dict(self) -> State:
        """What outlives episodes."""
        gate = {} if self.gate is None else {"gate": self.gate.state_dict()}
        return {"lifelong": self.lifelong.state_dict(whole=False), **gate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, ("lifelong", *(("gate",) if self.gate is not None else ())), "sb3 bonus")
        self.lifelong.load_state_dict(state["lifelong"], whole=False)
        if self.gate is not None:
            self.gate.load_state_dict(state["gate"])


class KeptNames(LeaderNames):
    """For observations that no replay holds: the marks are the observations themselves."""

    def __init__(self, closeness: Closeness, features_of: FeaturesOf) -> None:
        super().__init__(closeness)
        self._features_of = features_of

    def _mark(self, obs: Array, entry: int) -> Array:
        return np.array(obs)

    def renew(self) -> None:
        for row, kept in enumerate(self._marks):
            for number, x in enumerate(self._features_of(np.stack(kept)) if kept else ()):
                self._leaders.move(row, number, x)


class RowMemory:
    """w(s,a) of `episodic.py`: 1[a was not taken at s in this episode] / (1 + earlier visits of s in it)."""

    def __init__(self, log: EpisodeLog, num_rows: int) -> None:
        self.log, self.num_rows = log, num_rows
        self.reset()

    def reset(self) -> None:
        """All rows wait for an episode to begin."""
        self.log.begin(self.num_rows)

    def begin(self, step: RowStep) -> None:
        """The rows that begin an episode."""
        rows = step.begins
        self.log.start(rows, step.obs[rows], step.phi[rows, 0], step.place[rows])

    def pay(self, step: RowStep) -> FloatArray:
        """w (B,), then the steps are noted."""
        out = np.ones(self.num_rows)
        for row, action in enumerate(step.action.tolist()):
            again = self.log.here(row)
            if again is not None:
                out[row] = 0.0 if action in again.taken else 1.0 / (1 + again.visits)
        self.log.move(np.arange(self.num_rows), step.action, step.next_obs, step.phi_next[:, 0], step.place)
        return out
