"""Makes the bonus that the options of the deep agent ask for, from its parts (`bonus_config.py`)."""

from __future__ import annotations

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.deep.agent_config import ContrastiveUCBDeepConfig
from rl_contrastive.deep.arrival import ArrivalBonus, Both, UnitScale
from rl_contrastive.deep.bonus import EllipticalVisits, TileVisits, VisitBonus
from rl_contrastive.deep.bonus_config import BonusConfig, Parts
from rl_contrastive.deep.bonus_contract import Bonus, NoBonus
from rl_contrastive.deep.cells import Tiles
from rl_contrastive.deep.config import RepresentationConfig
from rl_contrastive.deep.episodic import EpisodeLog, EpisodicBonus
from rl_contrastive.deep.feature_net import ObsLayout
from rl_contrastive.deep.gates import CellVisits, Ellipse, FirstLook, FirstVisit, Gate, Nearest, Temporal
from rl_contrastive.deep.lifelong import CountedBytes, CountedFeatures, Distilled, Flat, Lifelong
from rl_contrastive.deep.names import Closeness, FeatureNames, FeaturesOf
from rl_contrastive.deep.replay.replay import Replay
from rl_contrastive.deep.rnd import RandomDistillation
from rl_contrastive.seeding import SeedTree
from rl_contrastive.spec import EnvSpec


class BonusBuilder:
    """What all parts are made from."""

    def __init__(
        self,
        config: ContrastiveUCBDeepConfig,
        representation: RepresentationConfig,
        spec: EnvSpec,
        replay: Replay,
        features_of: FeaturesOf,
        closeness: Closeness | None,
        seeds: SeedTree,
    ) -> None:
        """representation: that of the features which the bonus gets; features_of: computes those of stored entries;
        closeness: of the same observation, None for bytes."""
        self.config, self.representation, self.spec, self.replay = config, representation, spec, replay
        self.features_of, self.closeness, self.seeds = features_of, closeness, seeds
        self.log = EpisodeLog(None if closeness is None else FeatureNames(closeness, replay.ring, features_of))
        """Of the going episodes, for all parts that remember them."""

    def build(self) -> Bonus:
        """The bonus of the agent's options."""
        config, parts = self.config, self.config.bonus.parts
        if config.beta == 0 or parts is None:
            return NoBonus(self.spec.num_actions)
        beta = 1.0 if config.bonus.unit else config.beta
        gate = parts.gate or ("tried" if config.episodic else "none")
        bonus: Bonus
        if parts.pays == "pair":
            bonus = self._pairs(beta)
        elif parts.pays == "arrival":
            bonus = self._arrivals(parts, beta)
        else:
            pair: Bonus = self._pairs(beta)
            if gate not in ("none", "tried"):  # what the gate is to arrivals
                pair = EpisodicBonus(pair, config.capacity, self.spec.num_actions, self.log)
            bonus = Both(pair, self._arrivals(parts, beta))
        if gate == "tried":
            bonus = EpisodicBonus(bonus, config.capacity, self.spec.num_actions, self.log)
        return UnitScale(bonus, beta=config.beta) if config.bonus.unit else bonus

    def _pairs(self, beta: float) -> VisitBonus:
        of, rng = self.representation, self.seeds.generator("init", 1)
        options, A = self.config.bonus, self.spec.num_actions
        return make_bonus(options, self.config.capacity, A, of.dim, beta=beta, rng=rng, of_states=of.of_states)

    def _arrivals(self, parts: Parts, beta: float) -> ArrivalBonus:
        life, gate, A = self._lifelong(parts), self._gate(), self.spec.num_actions
        return ArrivalBonus(life, gate, self.replay, A, self.features_of, beta=beta, alpha=parts.difference)

    def _lifelong(self, parts: Parts) -> Lifelong:
        if parts.lifelong == "rnd":
            layout = ObsLayout(self.replay.stacked_shape, self.spec.obs_dtype, self.spec.num_states, self.spec.codes)
            own, seed = self.config.learner, self.seeds.integer("init", 1)
            rnd = RandomDistillation(
                layout, own.encoder, self.config.rnd, seed=seed, device=own.device, backend=own.backend
            )
            return Distilled(rnd, self.replay)
        options, capacity, dim = self.config.bonus, self.config.capacity, self.representation.dim
        return make_counts(options, capacity, capacity, dim, rng=self.seeds.generator("init", 3))

    def _gate(self) -> Gate | None:
        options, capacity, dim = self.config.bonus, self.config.capacity, self.representation.dim
        return make_gate(options, capacity, dim, self.closeness, rng=self.seeds.generator("init", 4))


def make_bonus(
    config: BonusConfig,
    capacity: int,
    num_actions: int,
    dim: int,
    *,
    beta: float,
    rng: np.random.Generator,
    of_states: bool = False,
    entries: int | None = None,
) -> VisitBonus:
    """Counts of pairs in the cells or the ellipse of features in R^dim; rng draws the tilings' directions.

    capacity: visits for which the tilings have enough cells; entries: of the replay, by default as many. of_states:
    features of states, each action counted separately (`RepresentationConfig.of_states`); cells only.
    """
    entries = capacity if entries is None else entries
    parts = config.parts
    require(parts is not None, "bonus: kind none counts nothing.")
    assert parts is not None
    if parts.lifelong == "ellipse":
        return EllipticalVisits(entries, num_actions, dim, lam=config.lam, beta=beta, power=config.power)
    require(parts.lifelong == "cells", f"bonus: {parts.lifelong} are no counts of features: take cells or ellipse.")
    tiles = make_tiles(config, capacity, dim, rng=rng)
    lam, power = config.lam, config.power
    return TileVisits(entries, num_actions, tiles, lam=lam, beta=beta, power=power, of_states=of_states)


def make_tiles(config: BonusConfig, capacity: int, dim: int, *, rng: np.random.Generator) -> Tiles:
    """The cells that the options ask for; capacity: entries of the replay."""
    width = 1.0 if config.parts is None else config.parts.width
    return Tiles(
        dim,
        tilings=config.tilings,
        directions=config.directions,
        width=width,
        rho=config.rho,
        rng=rng,
        per_tiling=max(1 << 18, 1 << (capacity - 1).bit_length()),  # at least a cell for each entry
    )


def make_counts(
    options: BonusConfig, capacity: int, entries: int, dim: int, *, rng: np.random.Generator
) -> CountedBytes | CountedFeatures | Flat:
    """l of states by counts, for parts other than rnd.

    capacity: visits for which the tilings have enough cells; entries: of the replay, 0 without one; rng draws the
    tilings' directions.
    """
    kind = None if options.parts is None else options.parts.lifelong
    if kind == "counts":
        return CountedBytes(entries, lam=options.lam, power=options.power)
    if kind in ("cells", "ellipse"):
        return CountedFeatures(make_bonus(options, capacity, 1, dim, beta=1.0, rng=rng, entries=entries))
    return Flat()


def make_gate(
    options: BonusConfig, capacity: int, dim: int, closeness: Closeness | None, *, rng: np.random.Generator
) -> Gate | None:
    """The gate of arrivals, None for none and tried; closeness: of the same observation, None for bytes."""
    gate = None if options.parts is None else options.parts.gate
    if gate == "first":
        return FirstVisit() if closeness is None else FirstLook(closeness)
    if gate == "cells":
        return CellVisits(make_tiles(options, capacity, dim, rng=rng))
    if gate in ("e3b", "ellipse"):
        return Ellipse(dim, lam=options.gate_lam, bounded=gate == "ellipse")
    if gate == "temporal":
        return Temporal()
    return Nearest() if gate == "nearest" else None
