"""The options of the exploration bonus: named kinds, and the parts of which they are made; needs no torch.

    b(s,a,s') = beta e(s') l(s'),   l <- max(l(s') - alpha l(s), 0) with a difference

e is the gate of the episode (`gates.py`), l the lifelong novelty (`lifelong.py`), alpha the difference. A kind names
all parts; each may be given by itself as well.

| kind | pays for | lifelong | gate | difference | features | source |
|---|---|---|---|---|---|---|
| tiles | pair | cells | tried with `episodic` | 0 | as `representation` says | ours, the default |
| elliptical | pair | ellipse | tried with `episodic` | 0 | as `representation` says | Qiu et al. 2022 |
| ours-arrival | arrival | cells | first | 0 | psi | ours |
| ours-pair | pair | cells | tried | 0 | psi | ours |
| ours-both | both | cells | first | 0 | psi | ours |
| rnd | arrival | rnd | none | 0 | none | Burda et al. 2018 |
| noveld | arrival | rnd | first | .5 | none | Zhang et al. 2021 |
| e3b | arrival | none | e3b | 0 | inverse | Henaff et al. 2022 |
| deir | arrival | none | nearest | 0 | psi | Wan et al. 2023, without the recurrent trajectory |
| etd | arrival | none | temporal | 0 | temporal | Jiang et al. 2025 |
| counts | arrival | counts | first | 0 | none | exact counts of observations |
| none | | | | | | no bonus |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple

from rl_contrastive.config import MOST_DRAWN, MOST_WIDTH, Ge, Gt, In, Options, require
from rl_contrastive.deep.config import DeepLearnerConfig, RepresentationConfig

Pays = Literal["arrival", "pair", "both"]
Kind = Literal[
    "tiles",
    "elliptical",
    "ours-arrival",
    "ours-pair",
    "ours-both",
    "rnd",
    "noveld",
    "e3b",
    "deir",
    "etd",
    "counts",
    "none",
]
Lifelong = Literal["cells", "ellipse", "rnd", "counts", "none"]
GateName = Literal["none", "tried", "first", "cells", "ellipse", "e3b", "nearest", "temporal"]
Features = Literal["phi", "psi", "drawn", "inverse", "temporal"]
Same = Literal["bytes", "features"]


class Parts(NamedTuple):
    """What a bonus is made of."""

    pays: Pays
    lifelong: Lifelong
    gate: GateName | None
    """None: tried with the agent's `episodic`, else none."""
    difference: float = 0.0
    features: Features | None = None
    """None: as `learner.representation` says."""
    width: float = 1.0
    same: Same = "bytes"

    @property
    def uses_features(self) -> bool:
        """Whether a part is computed from features of the network."""
        return self.lifelong in ("cells", "ellipse") or self.gate in FEATURE_GATES or self.same == "features"


FEATURE_GATES = ("cells", "ellipse", "e3b", "nearest", "temporal")
ALLOWED = "psi, drawn, inverse or temporal"
"""Features of states."""
ETD_AHEAD = 0.99
"""gamma_c of temporal features where `representation.ahead` says nothing, as in ETD."""
KINDS: dict[str, Parts] = {
    "tiles": Parts("pair", "cells", None),
    "elliptical": Parts("pair", "ellipse", None),
    "ours-arrival": Parts("arrival", "cells", "first", 0.0, "psi", 0.25),
    "ours-pair": Parts("pair", "cells", "tried", 0.0, "psi", 0.25),
    "ours-both": Parts("both", "cells", "first", 0.0, "psi", 0.25),
    "rnd": Parts("arrival", "rnd", "none"),
    "noveld": Parts("arrival", "rnd", "first", 0.5),
    "e3b": Parts("arrival", "none", "e3b", 0.0, "inverse"),
    "deir": Parts("arrival", "none", "nearest", 0.0, "psi"),
    "etd": Parts("arrival", "none", "temporal", 0.0, "temporal"),
    "counts": Parts("arrival", "counts", "first"),
}
"""Kind -> its parts; `none` has none."""
REPLACED = ("pays", "lifelong", "gate", "difference", "features")
"""Options that each replace a part of the kind, None by default. `width` does too, but older runs name it anyway."""


@dataclass(frozen=True)
class BonusConfig(Options, where="bonus"):
    """The exploration bonus: a named kind, of which each part may be replaced (`bonus_config.py`)."""

    kind: Kind = "tiles"
    """tiles: counts of cells of phi(s,a), as is usual here; elliptical: phi itself, with a full Sigma; ours-arrival,
    ours-pair, ours-both: cells of psi, paid for what is reached, for what is tried, or for both; rnd, noveld, e3b,
    deir, etd, counts: published bonuses on the same networks; none."""
    pays: Pays | None = None
    """arrival: b(s'), known after the step alone; pair: b(s,a), known before it; both: their sum. Default: the
    kind's."""
    lifelong: Lifelong | None = None
    """Novelty over all episodes. cells: (mean 1 / (lam + N))^p over tilings; ellipse: the norm under a full Sigma, to
    the power 2 p; rnd: the error of random network distillation; counts: (lam + N)^-p of equal observations; none: 1.
    p: `power`. Default: the kind's."""
    gate: GateName | None = None
    """Novelty within the episode. first: 1 for an observation that is new in it; cells: mean (1 + n)^(-2); e3b: x'C^-1x
    of features; ellipse: q / (1 + q) of q = x'C^-1x and whitened features; nearest: the least squared distance to
    earlier features over its running mean; temporal: the same of the distances in time from earlier observations, for
    features temporal; tried: the fading weight of `episodic`, which alone fits pairs; none: 1. Default: the kind's."""
    same: Same = "bytes"
    """Which observations of an episode are the same for the gates first and tried, and for `episodic`. bytes: equal
    ones; features: those with close features of states (`deep/names.py`), for worlds with noise, where no bytes come
    again. Without noise the two agree."""
    reach: Annotated[float, Gt(0)] = 3.0
    """How close: within this many times the median distance of a visit to the nearest other one."""
    difference: Annotated[float | None, Ge(0)] = None
    """alpha of max(l(s') - alpha l(s), 0), as in NovelD; 0: off. Default: the kind's."""
    features: Features | None = None
    """phi: of pairs, as `learner.representation` says; psi: of states, by the contrastive loss; drawn: psi with random
    initial weights; inverse: of states, trained to tell the action between two; temporal: of states, trained so that
    their quasimetric is a distance in time (`temporal.py`). Default: the kind's; psi where arrivals are paid."""
    lam: Annotated[float, Gt(0)] = 0.1
    """lambda, prior visits of everything: a first visit is worth beta / lambda^power. Where noise keeps falling into
    new cells, a larger value (10) keeps these cells from outweighing all others."""
    power: Annotated[float, In(0, 2, above=True)] = 0.5
    """p of novelty by counts (lifelong cells, ellipse and counts), which falls as N^-p. 1/2: as the width of a
    confidence interval, and as in Qiu et al.; 1: as in BEB (Kolter and Ng 2009). Where nothing is random, one visit
    tells all, and with 1/2 the sum of the bonuses along known ways outweighs what is new behind them."""
    gate_lam: Annotated[float, Gt(0)] = 0.1
    """lambda of the gates e3b and ellipse: C = lambda I at the start of an episode."""
    tilings: Annotated[int, In(1, 1000)] = 4
    """T, number of partitions that are averaged."""
    directions: Annotated[int, In(1, 1000)] = 8
    """K, number of directions that cut the cells of a tiling."""
    width: Annotated[float | None, Gt(0)] = None
    """Width of the strips in units of the features' spread. Default: .25 for ours-arrival, ours-pair and ours-both, 1
    for the others."""
    rho: Annotated[float | None, In(0, 1, above=True)] = None
    """Fit the width at each rebuild, within .02 and 2, such that the occupied cells of a tiling are this share of the
    distinct visits. Default: the width is constant."""
    unit: bool = False
    """Divide the bonus by its running standard deviation over visits, so that beta is in units of reward."""
    past: Annotated[int, Ge(2)] = 10_000
    """Largest number of places (observation and action) that represent the visits that left the replay; at most
    the replay's capacity. Each takes the memory of a stacked observation. If more were visited, a sample represents
    them."""

    @property
    def parts(self) -> Parts | None:
        """All parts; None for no bonus."""
        if self.kind == "none":
            return None
        usual = KINDS[self.kind]
        given = {name: getattr(self, name) for name in (*REPLACED, "width", "same")}
        found = usual._replace(**{name: value for name, value in given.items() if value is not None})
        of_states = found.pays != "pair" or found.same == "features"
        if of_states and found.features is None and found.uses_features:
            found = found._replace(features="psi")
        return found

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = self.parts
        if parts is None:
            given = [name for name in REPLACED if getattr(self, name) is not None]
            require(not given, f"bonus: kind none has no parts: leave out {' and '.join(given)}.")
            return
        pays, lifelong, gate = parts.pays, parts.lifelong, parts.gate
        scaled = "bonus: with lifelong none a difference alpha scales the bonus by 1 - alpha alone, or makes it 0"
        flat = parts.difference > 0 and lifelong == "none"
        require(not flat, f"{scaled}: give difference 0, or a lifelong part.")
        if pays != "pair":
            require(parts.features != "phi", f"bonus: {pays} needs features of states: {ALLOWED}.")
            timed = gate != "temporal" or parts.features == "temporal"
            require(timed, f"bonus: gate temporal needs features temporal, got {parts.features}.")
        compared = parts.same == "bytes" or parts.features != "phi"
        require(compared, f"bonus: same features compares features of states: {ALLOWED}.")
        if pays != "arrival":
            fits = lifelong in ("cells", "ellipse") if pays == "pair" else lifelong == "cells"
            allowed = "cells or ellipse" if pays == "pair" else "cells"
            require(fits, f"bonus: lifelong {lifelong} cannot count pairs; with pays {pays} it must be {allowed}.")
            require(parts.difference == 0, f"bonus: a difference needs pays arrival, got {pays}.")
        if pays == "pair":
            require(gate in (None, "none", "tried"), f"bonus: gate {gate} weighs arrivals; pairs have tried or none.")


@dataclass(frozen=True)
class RNDConfig(Options, where="rnd"):
    """Random network distillation (`deep/rnd.py`)."""

    dim: Annotated[int, In(1, MOST_WIDTH)] = 128
    """k, outputs of both networks."""
    hidden: Annotated[int, In(0, MOST_WIDTH)] = 256
    """Width of the ReLU layer that the predictor has beyond its target (0: none)."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Adam's step size for the predictor. 1e-4 is usual where each observation is used several times. Here each is used
    once, and with 1e-4 the errors lag behind the visits."""
    batch_size: Annotated[int, In(1, MOST_DRAWN)] = 32
    """Visited observations of one step of the predictor; each is used once."""


def check_counts(bonus: BonusConfig, representation: RepresentationConfig) -> None:
    """RlcError unless this bonus can count these features."""
    parts = bonus.parts
    fits = parts is None or parts.pays != "pair" or parts.lifelong == "cells" or not representation.of_states
    features = representation.features
    require(fits, f"bonus: features {features} are those of states, which the kind tiles alone counts for each action.")
    loss = representation.loss
    untrained = loss != "contrast" and parts is not None and parts.uses_features and not representation.of_states
    hint = f"take loss contrast, or lifelong cells of features {loss}"
    require(not untrained, f"bonus: representation.loss {loss} trains no phi, which is counted here: {hint}.")


def with_features(learner: DeepLearnerConfig, bonus: BonusConfig) -> DeepLearnerConfig:
    """The learner's options with the features that the bonus asks for; unchanged where it does not say."""
    kind = None if bonus.parts is None else bonus.parts.features
    if kind is None or kind == "phi":
        return learner
    own = representation_of(learner.representation, bonus)
    return replace(learner, representation=own, learn_features=learner.learn_features and kind != "drawn")


def representation_of(given: RepresentationConfig, bonus: BonusConfig) -> RepresentationConfig:
    """The same of the options of the features alone."""
    kind = None if bonus.parts is None else bonus.parts.features
    if kind is None or kind == "phi":
        return given
    loss: Literal["contrast", "inverse", "temporal"] = given.loss
    if kind == "inverse" or kind == "temporal":
        loss = kind
    ahead = given.ahead or (ETD_AHEAD if kind == "temporal" else 0.0)
    return replace(given, features="psi", loss=loss, ahead=ahead)
