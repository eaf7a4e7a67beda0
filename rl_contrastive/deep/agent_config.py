"""The options of `contrastive-ucb-deep`: acting, returns, counting, replay; `config.py` has those of its networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.deep.config import BonusConfig, DeepLearnerConfig, check_counts


@dataclass(frozen=True)
class ContrastiveUCBDeepConfig:
    """Deep Contrastive-UCB."""

    batch: int = 1
    """B, episodes side by side (>= 1). They start together and wait for the longest one."""
    warm_start: int = 1000
    """Steps of uniform actions before the first gradient step (>= 1)."""
    train_every: int = 1
    """Steps between two gradient steps (>= 1)."""
    gamma: float = 0.99
    """Discount per step, in [0, 1]."""
    n_step: int = 3
    """n of the n-step returns (>= 1)."""
    beta: float = 0.1
    """Scale of the bonus (>= 0), in units of reward: of n visits it is about beta / sqrt(n). 0 is the control without
    optimism, which learns no features and counts nothing."""
    bonus: BonusConfig = field(default_factory=BonusConfig)
    """How visits are counted."""
    clock: bool = False
    """Show the networks the step h beside the observation, where laws, rewards or the end depend on it: state indices
    and vectors only (`deep/clock.py`)."""
    episodic: bool = False
    """Memory of the episode, for places that look alike (`deep/episodic.py`): the bonus fades where the same was seen
    or done before, and what is evaluated takes the best of the actions tried least often there."""
    growth: float = 0.2
    """Freeze the features anew and count again when the visits grew by this fraction (> 0)."""
    epsilon: float = 0.01
    """Share of uniform actions beside optimism, in [0, 1]."""
    capacity: int = 100_000
    """Entries of the replay (>= 100): an observation each, final ones included."""
    storage: Literal["memory", "mapped"] = "memory"
    """Where the observations of the replay lie. mapped: in a file without a name on the run folder's disk, for replays
    larger than memory; it is reserved at the first episode, and goes with the process."""
    alpha: float = 0.0
    """Exponent of prioritised replay (>= 0); 0: uniform. Data-efficient Rainbow has .5."""
    priority_beta: float = 0.4
    """Exponent of the importance weights under priorities, in [0, 1]; rises to 1 over `priority_steps`."""
    priority_steps: int = 100_000
    """Steps until the importance weights correct in full (>= 1)."""
    learner: DeepLearnerConfig = field(default_factory=DeepLearnerConfig)
    """Networks, losses, optimiser."""

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("warm_start", 1), ("train_every", 1), ("n_step", 1), ("capacity", 100)):
            require(getattr(self, name) >= least, f"deep: {name} must be >= {least}, got {getattr(self, name)}.")
        for name in ("gamma", "epsilon", "priority_beta"):
            require(0.0 <= getattr(self, name) <= 1.0, f"deep: {name} must lie in [0, 1], got {getattr(self, name)}.")
        for name in ("beta", "alpha"):
            value = getattr(self, name)
            require(0.0 <= value < np.inf, f"deep: {name} must be >= 0 and finite, got {value}.")
        require(0.0 < self.growth < np.inf, f"deep: growth must be > 0 and finite, got {self.growth}.")
        both = "deep: clock and episodic exclude each other: with its step, no observation comes again in an episode."
        require(not (self.clock and self.episodic), both)
        check_counts(self.bonus, self.learner.representation)
        require(self.priority_steps >= 1, f"deep: priority_steps must be >= 1, got {self.priority_steps}.")
