"""The options of `contrastive-ucb-deep`: acting, returns, counting, replay; `config.py` has those of its networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np

from rl_contrastive.config import Ge, Gt, In, check_ranges, require
from rl_contrastive.deep.config import BonusConfig, DeepLearnerConfig, check_counts


@dataclass(frozen=True)
class ContrastiveUCBDeepConfig:
    """Deep Contrastive-UCB."""

    batch: Annotated[int, Ge(1)] = 1
    """B, episodes side by side. They start together and wait for the longest one."""
    warm_start: Annotated[int, Ge(1)] = 1000
    """Steps of uniform actions before the first gradient step."""
    train_every: Annotated[int, Ge(1)] = 1
    """Steps between two gradient steps."""
    gamma: Annotated[float, In(0, 1)] = 0.99
    """Discount per step."""
    n_step: Annotated[int, In(1, 100_000)] = 3
    """n of the n-step returns."""
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
    growth: Annotated[float, Gt(0)] = 0.2
    """Freeze the features anew and count again when the visits grew by this fraction."""
    epsilon: Annotated[float, In(0, 1)] = 0.01
    """Share of uniform actions beside optimism."""
    capacity: Annotated[int, Ge(100)] = 100_000
    """Entries of the replay: an observation each, final ones included."""
    storage: Literal["memory", "mapped"] = "memory"
    """Where the observations of the replay lie. mapped: in a file without a name on the run folder's disk, for replays
    larger than memory; it is reserved at the first episode, and goes with the process."""
    alpha: float = 0.0
    """Exponent of prioritised replay (>= 0); 0: uniform. Data-efficient Rainbow has .5."""
    priority_beta: Annotated[float, In(0, 1)] = 0.4
    """Exponent of the importance weights under priorities; rises to 1 over `priority_steps`."""
    priority_steps: Annotated[int, Ge(1)] = 100_000
    """Steps until the importance weights correct in full."""
    learner: DeepLearnerConfig = field(default_factory=DeepLearnerConfig)
    """Networks, losses, optimiser."""

    def __post_init__(self) -> None:
        check_ranges(self, "deep")
        for name in ("beta", "alpha"):
            value = getattr(self, name)
            require(0.0 <= value < np.inf, f"deep: {name} must be >= 0 and finite, got {value}.")
        both = "deep: clock and episodic exclude each other: with its step, no observation comes again in an episode."
        require(not (self.clock and self.episodic), both)
        check_counts(self.bonus, self.learner.representation)
