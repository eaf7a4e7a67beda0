"""The options of the second head of values, by which the deep agent explores; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from rl_contrastive.config import MOST_WIDTH, Ge, In, Options, require
from rl_contrastive.spec import FloatArray


@dataclass(frozen=True)
class ExploreConfig(Options, where="explore"):
    """What the second head of values learns, what it is shown, and how it is acted by (`deep/value.py`)."""

    heads: Literal["optimistic", "apart"] = "optimistic"
    """optimistic: G of rewards and bonuses, acted by b + G; apart: I of bonuses alone, with a discount of its own and
    acted by Q + c (b + I), as in RND (Burda et al. 2018)."""
    weights: Annotated[tuple[float, ...], Ge(0)] = (1.0,)
    """c of the rows side by side, repeated where there are more of them; needs heads apart. A row with 0 acts for
    rewards alone. (0, 0, .25, .5, 1, 1, 1, 1) is in the manner of NGU and Agent57."""
    gamma: Annotated[float, In(0, 1)] = 0.99
    """Discount of I per step; needs heads apart."""
    endless: bool = False
    """I goes on beyond the true end of an episode, with the next one's first observation, as in RND: then an end that
    is not wanted is no loss of bonuses. Needs heads apart."""
    memory: bool = False
    """Show the second head what the bonus depends on in this episode (`deep/memory.py`): 1 / (1 + visits of this
    observation), whether it is new, and which actions were taken there (SOFE, Creus Castanyer et al. 2024)."""
    hidden: Annotated[int, In(1, MOST_WIDTH)] = 128
    """Width of the ReLU layer of the second head; needs `memory`. There it has a layer of its own, by which what it is
    shown can matter more in one place than in another."""

    @property
    def standard(self) -> bool:
        """Whether the second head is the optimistic G of observations alone, in one matrix with Q."""
        return self.heads == "optimistic" and not self.memory

    def values(self, q: FloatArray, optimistic: FloatArray) -> FloatArray:
        """What is acted by, of Q and b + (G or I), both (B, A) -> (B, A)."""
        if self.heads == "optimistic":
            return optimistic
        return q + np.resize(np.array(self.weights), len(q))[:, None] * optimistic

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.weights) > 0, "explore: weights must have one number or more.")
        used = self.memory or self.hidden == ExploreConfig.hidden
        require(used, "explore: hidden is for memory, and memory is off.")
        if self.heads == "apart":
            finite = self.gamma < 1 or not self.endless
            require(finite, "explore: gamma must be < 1 with endless, or the sums of bonuses are infinite.")
            require(any(self.weights), "explore: weights must have a number > 0, or no row acts by the bonuses.")
            return
        for name in ("weights", "gamma", "endless"):
            usual = getattr(ExploreConfig, name)
            require(getattr(self, name) == usual, f"explore: {name} is for heads apart, and heads is {self.heads}.")
