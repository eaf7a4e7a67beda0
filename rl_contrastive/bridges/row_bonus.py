"""Any bonus of `deep/bonus_config.py` for B rows whose episodes end one by one, paid once, when a step is taken.

    b = beta (w b(s,a) + e(s') l(s')),   l <- max(l(s') - alpha l(s), 0) with a difference,   w e l with the gate tried

b(s,a) of pairs, l of arrivals are those by the counts of before the step; e and w are those of the row's episode. All
rows of a step are paid first and counted then. The parts are those of the deep agent, which computes l again whenever
it samples a step, by counts that include the step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from rl_contrastive.bridges.bonus_env_config import BonusEnvConfig
from rl_contrastive.config import require_keys
from rl_contrastive.deep.arrival import keys_of_both, pairs_among
from rl_contrastive.deep.bonus import VisitBonus, make_bonus
from rl_contrastive.deep.bonus_contract import Chunk, Gone
from rl_contrastive.deep.build_bonus import make_counts, make_gate
from rl_contrastive.deep.episodic import EpisodeLog
from rl_contrastive.deep.feature_net import ObsLayout
from rl_contrastive.deep.gates import Gate
from rl_contrastive.deep.names import ByteNames, Closeness, Leaders
from rl_contrastive.deep.online import DistilledOnline, Online
from rl_contrastive.deep.rnd import RandomDistillation
from rl_contrastive.deep.spread import Spread
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
    """The same of next_obs, where they are features of states."""


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


class KeptNames:
    """Names of observations by their features, as `names.FeatureNames`, which are kept here to compute them again."""

    def __init__(self, closeness: Closeness, features_of: FeaturesOf) -> None:
        self._leaders, self._features_of = Leaders(closeness), features_of
        self._obs: list[list[Array]] = []

    def begin(self, num_rows: int) -> None:
        self._leaders.begin(num_rows)
        self._obs = [[] for _ in range(num_rows)]

    def restart(self, rows: IntArray) -> None:
        self._leaders.restart(rows)
        for row in rows.tolist():
            self._obs[row] = []

    def of(self, rows: IntArray, obs: Array, psi: FloatArray, entries: IntArray) -> list[Hashable]:
        out: list[Hashable] = []
        for row, one, x in zip(rows.tolist(), obs, psi, strict=True):
            number, new = self._leaders.assign(row, x)
            if new:
                self._obs[row].append(np.array(one))
            out.append(number)
        return out

    def renew(self) -> None:
        for row, kept in enumerate(self._obs):
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


class RowBonus:
    """The bonus of a `BonusEnvConfig`, without the learning of features."""

    def __init__(
        self,
        config: BonusEnvConfig,
        layout: ObsLayout,
        num_actions: int,
        num_rows: int,
        features_of: FeaturesOf,
        *,
        rng: np.random.Generator,
    ) -> None:
        """features_of: computes current features of observations; rng draws directions of cells and random networks."""
        self.config, self.num_actions = config, num_actions
        options, features, parts = config.counts, config.counted_features, config.counts.parts
        dim, capacity = features.representation.dim, features.capacity
        self.beta = 1.0 if options.unit else config.beta
        self.spread = Spread() if options.unit else None
        self.pair: VisitBonus | None = None
        self.arrivals: RowArrivals | None = None
        self.memory: RowMemory | None = None
        compared = parts is not None and parts.same == "features"
        self.closeness = Closeness(options.reach) if compared else None
        if parts is None:
            return
        if parts.pays != "arrival":
            of = features.representation.of_states
            self.pair = make_bonus(options, capacity, num_actions, dim, beta=self.beta, rng=rng, of_states=of)
        if parts.pays != "pair":
            life: Online
            if parts.lifelong == "rnd":
                seed = int(rng.integers(2**62))
                rnd = RandomDistillation(layout, features.encoder, config.rnd, seed=seed, device=features.device)
                life = DistilledOnline(rnd, layout.shape, warm_start=config.warm_start)
            else:
                life = make_counts(options, capacity, 0, dim, rng=rng)
            gate = make_gate(options, capacity, dim, self.closeness, rng=rng)
            self.arrivals = RowArrivals(
                life, gate, num_rows, features_of, alpha=parts.difference, longest=features.capacity
            )
        self._gate = parts.gate
        if parts.gate == "tried" or (parts.pays == "both" and parts.gate != "none"):
            names = ByteNames() if self.closeness is None else KeptNames(self.closeness, features_of)
            self.memory = RowMemory(EpisodeLog(names), num_rows)

    def reset(self) -> None:
        """All rows wait for an episode to begin."""
        for part in (self.arrivals, self.memory):
            if part is not None:
                part.reset()

    def pay(self, step: RowStep) -> FloatArray:
        """The bonuses (B,) by the counts of before, then the step is counted."""
        out: FloatArray = np.zeros(len(step.action))
        w: Any = 1.0
        if self.memory is not None:
            if len(step.begins):
                self.memory.begin(step)
            w = self.memory.pay(step)
        if self.pair is not None:
            self.pair.store(step.place, step.phi)
            out += w * self.pair.taken(step.place, step.action)
            self.pair.visit(step.place, step.action)
        if self.arrivals is not None:
            if len(step.begins):
                self.arrivals.begin(step)
            arrived = self.beta * self.arrivals.pay(step)
            out += w * arrived if self._gate == "tried" else arrived
        if self.spread is None:
            return out
        self.spread.add(out)
        return out * (self.config.beta / self.spread.value)

    def key_taken(self, phi: FloatArray, action: IntArray) -> Array:
        """What is counted for places of features (n, A, d) or (n, 1, d) and actions (n,), A for final observations."""
        if self.arrivals is None:
            assert self.pair is not None
            return self.pair.key_taken(phi, action)
        states = self.arrivals.lifelong.key(phi)
        if self.pair is None:
            return states
        final = action >= self.num_actions
        return keys_of_both(states, self.pair.key_taken(phi, np.where(final, 0, action)), final)

    def rebuild(
        self, sample: FloatArray, kept: Iterator[Chunk], seen: Iterable[Gone], gone: Iterable[Gone], *, left: int
    ) -> None:
        """The features changed: count again.

        sample (n, d): features of some visits; kept: the pairs in the memory; seen: its observations, final ones too;
        gone: places that left it; left: number of visits that did.
        """
        if self.closeness is not None:
            self.closeness.adapt(sample)
        if self.arrivals is not None:
            places = list(gone)
            self.arrivals.rebuild(sample, chain(seen, places))
            gone = pairs_among(places, self.num_actions, left)
        if self.pair is not None:
            self.pair.rebuild(sample, kept, gone)
        if self.memory is not None:
            self.memory.log.names.renew()

    def state_dict(self) -> State:
        """Counts, and what gates keep beyond an episode."""
        parts = {"counts": self.pair, "arrivals": self.arrivals, "names": self.closeness, "spread": self.spread}
        return {name: part.state_dict() for name, part in parts.items() if part is not None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes. All rows begin anew."""
        parts = {"counts": self.pair, "arrivals": self.arrivals, "names": self.closeness, "spread": self.spread}
        for name, part in parts.items():
            if part is not None:
                require_keys(state, (name,), "sb3 bonus")
                part.load_state_dict(state[name])
        self.reset()
