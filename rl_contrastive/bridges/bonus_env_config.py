"""The options of the bonus for agents of other libraries."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

from rl_contrastive.config import Ge, Gt, Options
from rl_contrastive.deep.bonus_config import BonusConfig, RNDConfig, check_counts, representation_of
from rl_contrastive.deep.config import RepresentationConfig
from rl_contrastive.deep.feature_net import FeatureConfig


@dataclass(frozen=True)
class BonusEnvConfig(Options, where="sb3 bonus"):
    """The bonus and the learning of its features."""

    beta: Annotated[float, Ge(0)] = 0.05
    """Scale of the bonus, in units of reward; a first visit gets beta / sqrt(lambda)."""
    counts: BonusConfig = field(default_factory=lambda: BonusConfig(kind="elliptical", lam=0.001))
    """The kind of the bonus and its parts. Features of length 1 differ in directions of little length: a large lambda
    hides them. The gate `tried` is given as such, since there is no option `episodic` here."""
    growth: Annotated[float, Gt(0)] = 0.2
    """Freeze the features anew and count again when the visits grew by this fraction."""
    warm_start: Annotated[int, Ge(2)] = 500
    """Visits before the first gradient step; until the first freeze the features are random ones."""
    train_every: Annotated[int, Ge(1)] = 4
    """Visits between two gradient steps."""
    features: FeatureConfig = field(
        default_factory=lambda: FeatureConfig(representation=RepresentationConfig(features="unit"))
    )
    """Networks, memory and descent. Of the representation the bonus takes what its kind says: psi, inverse, ..."""
    rnd: RNDConfig = field(default_factory=RNDConfig)
    """The networks of random network distillation, for the bonuses with `lifelong` rnd; their encoders are those of
    `features`."""
    codes: Annotated[tuple[int, ...], Ge(1)] = ()
    """How many values each of the C planes of an observation has, where they are codes and no brightness:
    (11, 6, 3) for MiniGrid's images, channels first. They are read one-hot."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self.counts, self.counted_features.representation)

    @property
    def counted_features(self) -> FeatureConfig:
        """`features` with the representation that the bonus asks for."""
        return replace(self.features, representation=representation_of(self.features.representation, self.counts))
