"""Stacks several frames into one observation, for environments that return only the newest frame.

The oldest frame comes first. Before an episode's start its first frame repeats. The replay stores single frames and
stacks the entries it draws; while acting, `Frames` does the same for a batch of rows.
"""

from __future__ import annotations

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import Array, EnvSpec

FLOAT32 = float(np.finfo(np.float32).max)


def stacked_shape(obs_shape: tuple[int, ...], stack: int) -> tuple[int, ...]:
    """Shape of `stack` observations as one: planes (C, H, W) give (stack * C, H, W), others (stack, *obs_shape)."""
    if stack == 1:
        return obs_shape
    return (stack * obs_shape[0], *obs_shape[1:]) if len(obs_shape) == 3 else (stack, *obs_shape)


class Tables:
    """Checks that the networks can read observations: state indices and codes must have an entry in their tables,
    because others would be read as nothing, and floats must fit float32."""

    def __init__(self, spec: EnvSpec) -> None:
        self.name = spec.name
        self.sizes: Array | None = None if spec.num_states is None else np.array(spec.num_states)
        if spec.codes:
            fits = spec.obs_dtype == "uint8" and len(spec.obs_shape) == 3 and spec.obs_shape[0] % len(spec.codes) == 0
            require(fits, f"{spec.name}: codes {spec.codes} do not fit {spec.obs_dtype} of shape {spec.obs_shape}.")
            frames = spec.obs_shape[0] // len(spec.codes)
            self.sizes = np.array(spec.codes * frames)[:, None, None]

    def check(self, obs: Array, h: int) -> None:
        """RlcError unless all observations (N, ...) of step h are in the tables."""
        if self.sizes is None:
            if obs.dtype == np.float64 and not (np.abs(obs) <= FLOAT32).all():
                worst = float(obs.flat[int(np.abs(obs).argmax())])
                raise RlcError(
                    f"{self.name}: {worst:g} in an observation at step {h} is beyond float32; scale it down."
                )
            return
        bad = (obs < 0) | (obs >= self.sizes)
        if np.count_nonzero(bad):
            place = tuple(np.argwhere(bad)[0])
            most = int(np.broadcast_to(self.sizes, np.shape(obs)[1:])[place[1:]]) - 1
            what = f"plane {place[1]} of an observation" if len(place) > 1 else "an observation"
            raise RlcError(f"{self.name}: {what} holds {obs[place]} at step {h}, but only 0..{most} is declared.")


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

    def then(self, next_obs: Array) -> Array:
        """What `push` of the next step's observations would give; they are not kept."""
        ahead = Frames(self.stack)
        ahead._frames = self._frames
        return ahead.push(next_obs, 1)
