"""The step h as a part of the observation, for agents whose values are of observations alone.

Where transitions, rewards or the end depend on h, values do too: Q_h(s,a). `Clock` makes the pair (h, o) the
observation:

    state indices s of S   ->  h S + s, one of (H + 1) S: each step has states of its own
    vectors of floats      ->  one more number, h / H

h = H is the step after the last one; final observations belong to it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.spec import Array, EnvSpec, Transition


class Clock:
    """Maps observations of one environment; `spec` describes the mapped observations."""

    def __init__(self, spec: EnvSpec) -> None:
        """RlcError for images and vectors of integers, which have no place for the step."""
        self.horizon, self.num_states = spec.horizon, spec.num_states
        if spec.num_states is not None:
            self.spec = replace(spec, num_states=(spec.horizon + 1) * spec.num_states)
            return
        floats = len(spec.obs_shape) == 1 and np.issubdtype(np.dtype(spec.obs_dtype), np.floating)
        have = f"{spec.name} has {spec.obs_dtype} of shape {spec.obs_shape}"
        require(floats, f"deep: clock: only state indices and vectors of floats can carry the step, {have}.")
        self.spec = replace(spec, obs_shape=(spec.obs_shape[0] + 1,))

    def show(self, obs: Array, h: int) -> Array:
        """Observations (N, ...) of step h, with h added."""
        obs = np.asarray(obs)
        if self.num_states is not None:
            return h * self.num_states + obs
        return np.concatenate([obs, np.full((len(obs), 1), h / self.horizon, obs.dtype)], axis=1)

    def timed(self, step: Transition) -> Transition:
        """The same transition between observations with their steps, h and h + 1."""
        return replace(step, obs=self.show(step.obs, step.h), next_obs=self.show(step.next_obs, step.h + 1))
