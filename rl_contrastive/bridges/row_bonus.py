"""Any bonus of `deep/bonus_config.py` for B rows whose episodes end one by one, paid once, when a step is taken.

    b = beta (w b(s,a) + e(s') l(s')),   l <- max(l(s') - alpha l(s), 0) with a difference,   w e l with the gate tried

b(s,a) of pairs, l of arrivals are those by the counts of before the step; e and w are those of the row's episode. All
rows of a step are paid first and counted then. The parts are those of the deep agent, which computes l again whenever
it samples a step, by counts that include the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np

from rl_contrastive.bridges.bonus_env_config import BonusEnvConfig
from rl_contrastive.bridges.row_parts import FeaturesOf, KeptNames, RowArrivals, RowMemory, RowStep
from rl_contrastive.config import require_keys
from rl_contrastive.deep.arrival import keys_of_both, pairs_among
from rl_contrastive.deep.bonus import VisitBonus
from rl_contrastive.deep.bonus_contract import Chunk, Gone
from rl_contrastive.deep.build_bonus import make_bonus, make_counts, make_gate
from rl_contrastive.deep.episodic import EpisodeLog
from rl_contrastive.deep.feature_net import ObsLayout
from rl_contrastive.deep.names import ByteNames, Closeness
from rl_contrastive.deep.online import DistilledOnline, Online
from rl_contrastive.deep.rnd import RandomDistillation
from rl_contrastive.deep.spread import Spread
from rl_contrastive.spec import Array, FloatArray, IntArray, State


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
                rnd = RandomDistillation(
                    layout,
                    features.encoder,
                    config.rnd,
                    seed=seed,
                    device=features.device,
                    backend=features.backend,
                    option="features.backend",
                )
                life = DistilledOnline(rnd, layout.shape, warm_start=config.warm_start)
            else:
                life = make_counts(options, capacity, 0, dim, rng=rng)
            gate = make_gate(options, capacity, dim, self.closeness, rng=rng)
            self.arrivals = RowArrivals(
                life, gate, num_rows, features_of, alpha=parts.difference, longest=features.capacity
            )
        self._gate = parts.gate or "none"
        if self._gate == "tried" or (parts.pays == "both" and self._gate != "none"):
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

    def _saved(self) -> dict[str, Any]:
        """The parts that have a state, by the names in it."""
        parts = {"counts": self.pair, "arrivals": self.arrivals, "names": self.closeness, "spread": self.spread}
        return {name: part for name, part in parts.items() if part is not None}

    def state_dict(self) -> State:
        """Counts, and what gates keep beyond an episode."""
        return {name: part.state_dict() for name, part in self._saved().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes. All rows begin anew."""
        for name, part in self._saved().items():
            require_keys(state, (name,), "sb3 bonus")
            part.load_state_dict(state[name])
        self.reset()
