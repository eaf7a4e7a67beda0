"""Novelty of observations over all episodes, l(s'): counts of features, of bytes, or the error of a random network.

    cells, ellipse   `VisitBonus` of one action: (mean_j 1 / (lambda + N_j))^p or ||psi(s')||_{Sigma^-1}^(2 p)
    counts           (lambda + N)^-p, N the number of times that the same bytes were seen
    rnd              error(s') / spread of random network distillation (`rnd.py`)
    none             1

`at` is that of stored observations, `now` that of observations as they come, for code without a replay (`online.py`).
N counts each observation once when it is seen, the first one of an episode too. `counts` is a ceiling for
worlds without noise: its table grows with the number of distinct observations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rl_contrastive.config import require, require_keys
from rl_contrastive.deep.bonus import VisitBonus
from rl_contrastive.deep.bonus_contract import Chunk, Gone, Step
from rl_contrastive.deep.names import name_of
from rl_contrastive.deep.replay.changed_rows import Patches
from rl_contrastive.deep.replay.replay import Replay
from rl_contrastive.spec import Array, FloatArray, IntArray, State

if TYPE_CHECKING:
    from rl_contrastive.deep.rnd import RandomDistillation


class Lifelong(Protocol):
    """l of stored observations, as it is today."""

    uses_features: bool
    patches: dict[str, Patches]

    def at(self, entries: IntArray) -> FloatArray:
        """l >= 0 of the observations at entries (n,) -> (n,)."""

    def see(self, step: Step) -> None:
        """Count what this step showed, and at h = 0 what the episode began with."""

    def start(self, obs: Array) -> None:
        """Called after the warm start with observations (n, ...)."""

    def key(self, phi: FloatArray) -> Array:
        """(n, w) keys of features (n, 1, d): equal ones are not told apart."""

    def rebuild(self, sample: FloatArray, chunks: Iterator[Chunk], gone: Iterable[Gone]) -> None:
        """Count all observations again under new features."""

    def report(self) -> dict[str, float]:
        """Diagnostics."""

    def state_dict(self, *, whole: bool) -> State:
        """The state; where not `whole`, without the arrays of `patches`."""

    def load_state_dict(self, state: dict[str, Any], *, whole: bool) -> None:
        """Inverse of `state_dict`."""


class Flat:
    """l = 1: the gate alone is the bonus. Base of those that need no features."""

    uses_features = False

    def __init__(self) -> None:
        self.patches: dict[str, Patches] = {}

    def at(self, entries: IntArray) -> FloatArray:
        return np.ones(len(entries))

    def now(self, obs: Array, x: FloatArray) -> FloatArray:
        return np.ones(len(obs))

    def see(self, step: Step) -> None:
        """Nothing."""

    def count(self, obs: Array, x: FloatArray, *, first: bool = False) -> None:
        """Nothing."""

    def start(self, obs: Array) -> None:
        """Nothing."""

    def key(self, phi: FloatArray) -> Array:
        return np.zeros((len(phi), 0))

    def rebuild(self, sample: FloatArray, chunks: Iterator[Chunk], gone: Iterable[Gone]) -> None:
        """Nothing depends on features."""

    def report(self) -> dict[str, float]:
        return {}

    def state_dict(self, *, whole: bool) -> State:
        return {}

    def load_state_dict(self, state: dict[str, Any], *, whole: bool) -> None:
        """Nothing."""


class CountedFeatures:
    """Counts of features of states: a `VisitBonus` with one action and beta 1."""

    uses_features = True

    def __init__(self, counts: VisitBonus) -> None:
        require(counts.keys.shape[1] == 1, "bonus: states are counted without actions.")
        self.counts, self.patches = counts, {"states": counts.patches["keys"]}

    def at(self, entries: IntArray) -> FloatArray:
        return self.counts.taken(entries, np.zeros_like(entries))

    def now(self, obs: Array, x: FloatArray) -> FloatArray:
        return self.counts.value(x)

    def count(self, obs: Array, x: FloatArray, *, first: bool = False) -> None:
        self.counts.count(self.counts.key(x))

    def see(self, step: Step) -> None:
        shown = [(step.newest, step.phi)]
        if step.transition.h == 0:
            shown.insert(0, (step.index, step.first))
        for entries, phi in shown:
            self.counts.store(entries, phi)
            self.counts.visit(entries, np.zeros_like(entries))

    def start(self, obs: Array) -> None:
        """Nothing: features have their own scale."""

    def key(self, phi: FloatArray) -> Array:
        return self.counts.key(phi)[:, 0]

    def rebuild(self, sample: FloatArray, chunks: Iterator[Chunk], gone: Iterable[Gone]) -> None:
        """Observations without an action, final ones, count as well."""
        here = ((index, np.zeros_like(index), phi) for index, _, phi in chunks)
        left = ((phi, np.zeros_like(action), weight) for phi, action, weight in gone)
        self.counts.rebuild(sample, here, left)

    def report(self) -> dict[str, float]:
        return self.counts.report()

    def state_dict(self, *, whole: bool) -> State:
        return {"states": self.counts.state_dict(whole=whole)}

    def load_state_dict(self, state: dict[str, Any], *, whole: bool) -> None:
        require_keys(state, ("states",), "bonus")
        self.counts.load_state_dict(state["states"], whole=whole)


class CountedBytes(Flat):
    """(lambda + N)^-power of equal observations; of stacked frames the newest one counts."""

    def __init__(self, capacity: int, *, lam: float, power: float = 0.5) -> None:
        super().__init__()
        self.lam, self.power = float(lam), power
        self.number: IntArray = np.zeros(capacity, dtype=np.int64)
        """(capacity,) number of the observation of each entry, from 1 on; 0: none yet."""
        self.patches = {"number": Patches(self.number)}
        self._numbers: dict[bytes, int] = {}
        self._counts: list[int] = [0]

    def at(self, entries: IntArray) -> FloatArray:
        counts = np.array([self._counts[number] for number in self.number[entries].tolist()], dtype=np.float64)
        return np.asarray((self.lam + counts) ** -self.power)

    def now(self, obs: Array, x: FloatArray) -> FloatArray:
        counts = [self._counts[self._numbers.get(name_of(one), 0)] for one in obs]
        return np.asarray((self.lam + np.array(counts, dtype=np.float64)) ** -self.power)

    def see(self, step: Step) -> None:
        t = step.transition
        if t.h == 0:
            self._count(step.index, t.obs[step.rows])
        self._count(step.newest, t.next_obs[step.rows])

    def count(self, obs: Array, x: FloatArray, *, first: bool = False) -> None:
        for one in obs:
            self._add(one)

    def _count(self, entries: IntArray, obs: Array) -> None:
        for entry, one in zip(entries.tolist(), obs, strict=True):
            self.number[entry] = self._add(one)
        self.patches["number"].touch(entries)

    def _add(self, one: Array) -> int:
        """Count an observation; returns its number."""
        number = self._numbers.setdefault(name_of(one), len(self._counts))
        if number == len(self._counts):
            self._counts.append(0)
        self._counts[number] += 1
        return number

    def report(self) -> dict[str, float]:
        return {"distinct": float(len(self._numbers))}

    def state_dict(self, *, whole: bool) -> State:
        names = np.frombuffer(b"".join(self._numbers), dtype=np.uint8).reshape(-1, 16).copy()
        own = {"names": names, "counts": np.array(self._counts[1:], dtype=np.int64)}
        return {**own, **({"number": self.number.copy()} if whole else {})}

    def load_state_dict(self, state: dict[str, Any], *, whole: bool) -> None:
        require_keys(state, ("names", "counts", *(("number",) if whole else ())), "bonus")
        names, counts = np.asarray(state["names"], dtype=np.uint8), np.asarray(state["counts"])
        require(names.shape == (len(counts), 16), f"bonus: {len(counts)} saved counts for names {names.shape}.")
        self._numbers = {row.tobytes(): place + 1 for place, row in enumerate(names)}
        self._counts = [0, *counts.tolist()]
        if whole:
            saved = np.asarray(state["number"])
            fits = saved.shape == self.number.shape and (not len(saved) or int(saved.max()) <= len(counts))
            require(fits, f"bonus: the saved numbers {saved.shape} do not fit the replay or the counts.")
            self.number[:] = saved
            self.patches["number"].forget()


class Distilled(Flat):
    """error(s') / spread, current: errors are computed again whenever a step is sampled."""

    def __init__(self, rnd: RandomDistillation, replay: Replay) -> None:
        super().__init__()
        self.rnd, self.replay = rnd, replay
        self.waiting, self.started = 0, False
        """The number of newest visits that the predictor has not yet learned from, and whether it may learn."""

    def at(self, entries: IntArray) -> FloatArray:
        return self.rnd.bonus(self.replay.observations(entries))

    def now(self, obs: Array, x: FloatArray) -> FloatArray:
        return self.rnd.bonus(obs)

    def see(self, step: Step) -> None:
        """The predictor learns from each next observation once."""
        self.waiting += len(step.index)
        if self.started:
            self._learn()

    def start(self, obs: Array) -> None:
        """Standardise vector observations by these, and learn from the waiting visits."""
        self.rnd.standardise(obs)
        self.started = True
        self._learn()

    def _learn(self) -> None:
        """Learn from whole batches of waiting visits that are still in the replay, oldest first."""
        size = self.rnd.config.batch_size
        if self.waiting < size:
            return
        after = self.replay.ring.next[self.replay.last(self.waiting)]
        for first in range(0, len(after) - size + 1, size):
            self.rnd.visit(self.replay.observations(after[first : first + size]))
        self.waiting = len(after) % size

    def state_dict(self, *, whole: bool) -> State:
        return {"rnd": self.rnd.state_dict(), "waiting": self.waiting, "started": self.started}

    def load_state_dict(self, state: dict[str, Any], *, whole: bool) -> None:
        require_keys(state, ("rnd", "waiting", "started"), "rnd")
        self.rnd.load_state_dict(state["rnd"])
        self.waiting, self.started = int(state["waiting"]), bool(state["started"])
