"""Bounds of one reward and of the return to go: declared by the environment, given by the user, or seen so far.

Optimistic values are clipped to these bounds, and bonuses are in units of their range, so both must fit the scale of
the rewards. If an environment declares no bounds (most of gymnasium's), the smallest and largest rewards so far count.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.spec import EnvSpec, FloatArray, State


class ReturnBounds:
    """floor_h and cap_h (H,) of the return over the H - h steps left; they include 0, which a terminal pays for good.

    `reward_max` overrides the declared upper bound of a reward. Where neither is finite, the largest reward seen is
    used, or 1 while all rewards were 0. If no lower bound is declared, the smallest reward seen is used. In a game,
    where optimism needs both ends, the lower bound is at most minus the upper one.
    """

    def __init__(self, spec: EnvSpec, reward_max: float | None) -> None:
        self.spec, self.reward_max = spec, reward_max
        self.seen: FloatArray = np.zeros(2)  # smallest and largest reward so far, 0 included
        low, high = spec.reward_range
        self.estimated = not (np.isfinite(low) and (np.isfinite(high) or reward_max is not None))
        """Whether some bound comes from the rewards seen."""

    def note(self, rewards: FloatArray) -> None:
        """Rewards (n,) that were paid."""
        if self.estimated and len(rewards):
            self.seen[0] = min(self.seen[0], float(rewards.min()))
            self.seen[1] = max(self.seen[1], float(rewards.max()))

    def reward(self) -> tuple[float, float]:
        """(low <= 0, high >= 0) of one reward."""
        low, high = self.spec.reward_range
        if self.reward_max is not None:
            high = max(self.reward_max, 0.0)
        elif np.isfinite(high):
            high = max(high, 0.0)
        else:
            high = float(self.seen[1]) if self.seen.any() else 1.0
        if not np.isfinite(low):
            low = float(self.seen[0])
            if self.spec.players is not None:
                low = min(low, -high)
        return min(low, 0.0), high

    @property
    def unit(self) -> float:
        """Range of a reward, high - low."""
        low, high = self.reward()
        return high - low

    def returns(self) -> tuple[FloatArray, FloatArray]:
        """(floor_h, cap_h), each (H,). With `reward_max` the environment's own bounds of the return do not count."""
        low, high = self.reward()
        left = np.arange(self.spec.horizon, 0, -1, dtype=np.float64)
        if self.reward_max is not None:
            return low * left, high * left
        worst, best = self.spec.return_range
        return np.maximum(low * left, min(worst, 0.0)), np.minimum(high * left, max(best, 0.0))

    def scalars(self) -> dict[str, float]:
        """The estimated bounds, for the record."""
        low, high = self.reward()
        return {"reward_low": low, "reward_high": high} if self.estimated else {}

    def state_dict(self) -> State:
        return {"seen": self.seen.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; RlcError on a missing or wrong entry."""
        seen = np.asarray(state.get("seen", ()), dtype=np.float64)
        good = seen.shape == (2,) and bool(np.isfinite(seen).all())
        require(good, "bounds: the saved state lacks the smallest and largest reward, two finite numbers.")
        self.seen = np.array(seen)
