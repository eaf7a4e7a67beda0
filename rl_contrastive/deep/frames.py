"""Several frames as one observation, for environments that hand out the newest frame only.

Oldest first; before an episode's start its first frame repeats. The replay stores single frames and stacks what it
draws; while acting, `Frames` of a batch of rows does the same.
"""

from __future__ import annotations

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.spec import Array


def stacked_shape(obs_shape: tuple[int, ...], stack: int) -> tuple[int, ...]:
    """Shape of `stack` observations as one: planes (C, H, W) give (stack * C, H, W), others (stack, *obs_shape)."""
    if stack == 1:
        return obs_shape
    return (stack * obs_shape[0], *obs_shape[1:]) if len(obs_shape) == 3 else (stack, *obs_shape)


class Frames:
    """The newest `stack` observations of B rows, for acting: what `Replay.observations` gives of the same entries."""

    def __init__(self, stack: int) -> None:
        require(stack >= 1, f"frames: stack must be >= 1, got {stack}.")
        self.stack = stack
        self._frames: Array = np.zeros((0, stack))  # (B, stack, ...)

    def push(self, obs: Array, h: int) -> Array:
        """Observations (B, ...) of step h -> (B, *stacked_shape); at h = 0 the first one fills the stack."""
        obs = np.asarray(obs)
        if self.stack == 1:
            return obs
        if h == 0:
            self._frames = np.repeat(obs[:, None], self.stack, axis=1)
        else:
            before = (len(self._frames), *self._frames.shape[2:])
            require(before == obs.shape, f"frames: observations of shape {obs.shape} at step {h}, {before} before.")
            self._frames = np.concatenate([self._frames[:, 1:], obs[:, None]], axis=1)
        return self._frames.reshape(len(obs), *stacked_shape(obs.shape[1:], self.stack))
