"""Bonuses that are paid for what is reached: gate x lifelong novelty; with one for what is tried; and their unit.

    arrival   b(s,a,s') = beta e(s') l(s'),   or with a difference   beta e(s') max(l(s') - alpha l(s), 0)
    both      b(s,a) + b(s,a,s')
    unit      beta b / (running standard deviation of b over visits)

e is computed once, when s' is reached, and stored beside the replay; l is that of today whenever a step is sampled.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_contrastive.config import fill_arrays, require, require_keys
from rl_contrastive.deep.bonus_config import Pays
from rl_contrastive.deep.bonus_contract import Bonus, Chunk, Gone, Step
from rl_contrastive.deep.gates import Gate
from rl_contrastive.deep.lifelong import Lifelong
from rl_contrastive.deep.names import FeaturesOf
from rl_contrastive.deep.replay.changed_rows import Patches
from rl_contrastive.deep.replay.replay import Replay
from rl_contrastive.deep.spread import Spread
from rl_contrastive.spec import Array, BoolArray, FloatArray, IntArray, State


class ArrivalBonus:
    """beta e(s') l(s') of the steps in a replay."""

    pays: Pays = "arrival"

    def __init__(
        self,
        lifelong: Lifelong,
        gate: Gate | None,
        replay: Replay,
        num_actions: int,
        features_of: FeaturesOf,
        *,
        beta: float,
        alpha: float = 0.0,
    ) -> None:
        """gate: None for e = 1. alpha >= 0: of the difference. features_of: computes features of stored entries."""
        require(0.0 <= beta < np.inf, f"bonus: beta must be >= 0 and finite, got {beta}.")
        self.lifelong, self.gate, self.replay, self.num_actions = lifelong, gate, replay, num_actions
        self.beta, self.alpha, self._features_of, self.visits = float(beta), float(alpha), features_of, 0
        self._gate_sees = gate is not None and gate.uses_features
        self.uses_features = lifelong.uses_features or self._gate_sees
        self.patches = dict(lifelong.patches)
        self.weight: NDArray[np.float32] = np.zeros(replay.ring.capacity if gate else 0, dtype=np.float32)
        """(capacity,) e of each entry; of an episode's first one it is never used."""
        if gate is not None:
            self.patches["gate"] = Patches(self.weight)
        self._episodes: list[list[int]] = []

    def value(self, phi: FloatArray) -> FloatArray:
        """Nothing is known before the step: zeros (N, A)."""
        return np.zeros((len(phi), self.num_actions))

    def at(self, index: IntArray) -> FloatArray:
        """Zeros (N, A)."""
        return np.zeros((len(index), self.num_actions))

    def taken(self, index: IntArray, action: IntArray) -> FloatArray:
        """beta e(s') l(s') of stored steps (...,) -> (...,)."""
        here = index.ravel()
        after = self.replay.ring.next[here]
        if self.gate is None:
            return (self.beta * self._novelty(here, after)).reshape(index.shape)
        out = self.beta * self.weight[after].astype(np.float64)
        some = out > 0  # the others need not be computed
        out[some] *= self._novelty(here[some], after[some])
        return out.reshape(index.shape)

    def _novelty(self, here: IntArray, after: IntArray) -> FloatArray:
        """l(s'), or what it exceeds alpha l(s) by."""
        novelty = self.lifelong.at(after)
        return np.maximum(novelty - self.alpha * self.lifelong.at(here), 0.0) if self.alpha else novelty

    def watch(self, step: Step) -> None:
        """Count what was seen, and compute e of it."""
        self.visits += len(step.index)
        self.lifelong.see(step)
        if self.gate is None:
            return
        gate, t, rows = self.gate, step.transition, step.rows
        if t.h == 0:
            gate.begin(len(t.alive))
            gate.add(rows, step.first[:, 0] if self._gate_sees else t.obs[rows])
            self._episodes = [[] for _ in t.alive]
            self._remember(rows, step.index)
        seen = step.phi[:, 0] if self._gate_sees else t.next_obs[rows]
        self.weight[step.newest] = gate.meet(rows, seen)
        self.patches["gate"].touch(step.newest)
        self._remember(rows, step.newest)

    def _remember(self, rows: IntArray, entries: IntArray) -> None:
        """Serial numbers of what the going episodes saw, by which their features can be computed again."""
        if self._gate_sees:
            serial = self.replay.ring.serial(entries)
            for row, number in zip(rows.tolist(), serial.tolist(), strict=True):
                self._episodes[row].append(number)

    def start(self, obs: Array) -> None:
        """Passed on."""
        self.lifelong.start(obs)

    def key_taken(self, phi: FloatArray, action: IntArray) -> Array:
        """The keys of states."""
        return self.lifelong.key(phi)

    def rebuild(self, sample: FloatArray, chunks: Iterator[Chunk], gone: Iterable[Gone] = ()) -> None:
        """Count again, and compute the past of the going episodes again."""
        self.lifelong.rebuild(sample, chunks, gone)
        if self.gate is None or not self._gate_sees:
            return
        self.gate.adapt(sample)
        self.gate.begin(len(self._episodes))
        ring = self.replay.ring
        for row, serials in enumerate(self._episodes):
            entries = np.array([serial % ring.capacity for serial in serials if serial >= ring.oldest], dtype=np.int64)
            entries = entries[ring.whole[entries]]  # an episode longer than the replay has lost its beginning
            for x in self._features_of(entries) if len(entries) else ():
                self.gate.add(np.array([row]), x[None])

    def report(self) -> dict[str, float]:
        """Diagnostics of the lifelong part."""
        return self.lifelong.report()

    def state_dict(self, *, whole: bool = True) -> State:
        """Counts, and e of the entries where `whole`."""
        gate = {} if self.gate is None else {"gate": self.gate.state_dict()}
        weight = {"weight": self.weight.copy()} if whole and self.gate is not None else {}
        return {"visits": self.visits, **self.lifelong.state_dict(whole=whole), **gate, **weight}

    def load_state_dict(self, state: dict[str, Any], *, whole: bool = True) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, ("visits", *(("gate",) if self.gate is not None else ())), "bonus")
        if whole and self.gate is not None:
            fill_arrays({"weight": self.weight}, state, "bonus")
            self.patches["gate"].forget()
        self.lifelong.load_state_dict(state, whole=whole)
        self.visits = int(state["visits"])
        if self.gate is not None:
            self.gate.load_state_dict(state["gate"])


def keys_of_both(states: Array, pairs: Array, final: BoolArray) -> Array:
    """Keys of states (n, w) and of pairs (n, v) in one; final observations (n,) have no pair."""
    return np.concatenate([states, np.where(final[:, None], -1, pairs)], axis=1)


def pairs_among(gone: list[Gone], num_actions: int, visits: int) -> list[Gone]:
    """The places that are pairs, with the number of visits that left the memory as the sum of their weights."""
    A = num_actions
    found = [(phi[action < A], action[action < A], weight[action < A]) for phi, action, weight in gone]
    total = float(sum(weight.sum() for _, _, weight in found))
    # A sample of all places keeps the sum of all weights, and that of pairs on average only.
    share = visits / total if total > 0 else 1.0
    return [(phi, action, weight * share) for phi, action, weight in found]


class Both:
    """The sum of a bonus for what is tried and one for what is reached."""

    pays: Pays = "both"
    uses_features = True

    def __init__(self, pair: Bonus, arrival: ArrivalBonus) -> None:
        """pair: of features of states."""
        self.pair, self.arrival = pair, arrival
        self.patches = {**pair.patches, **arrival.patches}

    @property
    def visits(self) -> int:
        """Steps so far."""
        return self.pair.visits

    def value(self, phi: FloatArray) -> FloatArray:
        """b(s,a)."""
        return self.pair.value(phi)

    def at(self, index: IntArray) -> FloatArray:
        """b(s,a)."""
        return self.pair.at(index)

    def taken(self, index: IntArray, action: IntArray) -> FloatArray:
        """b(s,a) + b(s,a,s')."""
        return self.pair.taken(index, action) + self.arrival.taken(index, action)

    def watch(self, step: Step) -> None:
        """Passed on to both."""
        self.pair.watch(step)
        self.arrival.watch(step)

    def start(self, obs: Array) -> None:
        """Passed on."""
        self.arrival.start(obs)

    def key_taken(self, phi: FloatArray, action: IntArray) -> Array:
        """Keys of both; places of final observations, whose action is A, are apart from all others."""
        final = action >= self.arrival.num_actions
        pairs = self.pair.key_taken(phi, np.where(final, 0, action))
        return keys_of_both(self.arrival.key_taken(phi, action), pairs, final)

    def rebuild(self, sample: FloatArray, chunks: Iterator[Chunk], gone: Iterable[Gone] = ()) -> None:
        """Both count the same places; of pairs there are none at final observations."""
        mine, theirs = itertools.tee(chunks)
        left = list(gone)
        away = self.visits - len(self.arrival.replay.visits())
        acted = pairs_among(left, self.arrival.num_actions, away)
        # tee keeps what the first has read until the second has: features of all entries, for this moment.
        self.pair.rebuild(sample, mine, acted)
        self.arrival.rebuild(sample, theirs, left)

    def report(self) -> dict[str, float]:
        """Diagnostics of the part of arrivals."""
        return self.arrival.report()

    def state_dict(self, *, whole: bool = True) -> State:
        """Of both."""
        return {"pair": self.pair.state_dict(whole=whole), "arrival": self.arrival.state_dict(whole=whole)}

    def load_state_dict(self, state: dict[str, Any], *, whole: bool = True) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, ("pair", "arrival"), "bonus")
        self.pair.load_state_dict(state["pair"], whole=whole)
        self.arrival.load_state_dict(state["arrival"], whole=whole)


class UnitScale:
    """Wraps a bonus and divides it by its running standard deviation over visits, so that beta has units of reward."""

    def __init__(self, inner: Bonus, *, beta: float) -> None:
        """inner: with beta 1."""
        self.inner, self.beta, self.spread = inner, float(beta), Spread()
        self.pays, self.uses_features, self.patches = inner.pays, inner.uses_features, inner.patches

    @property
    def visits(self) -> int:
        """Steps so far."""
        return self.inner.visits

    @property
    def _scale(self) -> float:
        return self.beta / self.spread.value

    def value(self, phi: FloatArray) -> FloatArray:
        """(N, ..., d) -> (N, A)."""
        return self._scale * self.inner.value(phi)

    def at(self, index: IntArray) -> FloatArray:
        """(N,) -> (N, A)."""
        return self._scale * self.inner.at(index)

    def taken(self, index: IntArray, action: IntArray) -> FloatArray:
        """(...,) -> (...,)."""
        return self._scale * self.inner.taken(index, action)

    def watch(self, step: Step) -> None:
        """The bonus of each visit enters the deviation once, when the visit is counted."""
        self.inner.watch(step)
        self.spread.add(self.inner.taken(step.index, step.action))

    def start(self, obs: Array) -> None:
        """Passed on."""
        self.inner.start(obs)

    def key_taken(self, phi: FloatArray, action: IntArray) -> Array:
        """Passed on."""
        return self.inner.key_taken(phi, action)

    def rebuild(self, sample: FloatArray, chunks: Iterator[Chunk], gone: Iterable[Gone] = ()) -> None:
        """Passed on."""
        self.inner.rebuild(sample, chunks, gone)

    def report(self) -> dict[str, float]:
        """The deviation, too."""
        return {**self.inner.report(), "bonus_spread": self.spread.value}

    def state_dict(self, *, whole: bool = True) -> State:
        """Of the wrapped bonus, and the deviation."""
        return {"inner": self.inner.state_dict(whole=whole), "spread": self.spread.state_dict()}

    def load_state_dict(self, state: dict[str, Any], *, whole: bool = True) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, ("inner", "spread"), "bonus")
        self.inner.load_state_dict(state["inner"], whole=whole)
        self.spread.load_state_dict(state["spread"])
