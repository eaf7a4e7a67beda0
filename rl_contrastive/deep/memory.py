"""What happened at an observation earlier in its episode, as inputs of the head of values that explores.

    x = (1 / (1 + n), 1[n = 0], bits of the actions taken there),   n earlier visits in this episode

A bonus that is gated by the episode depends on it, so a value of observations alone chases a target that changes
within the episode. Source: SOFE (Creus Castanyer et al. 2024), which augments observations by what their bonus is
computed from. Equal observations are those of `episodic.py`. x is stored beside the replay when an observation is
reached, so a gradient step sees what acting saw.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_contrastive.config import fill_arrays
from rl_contrastive.deep.bonus_contract import Step
from rl_contrastive.deep.episodic import EpisodeLog
from rl_contrastive.deep.replay.changed_rows import Patches
from rl_contrastive.spec import IntArray, State


class EpisodeMemory:
    """x of each entry of the replay."""

    def __init__(self, capacity: int, num_actions: int, log: EpisodeLog | None = None) -> None:
        """capacity: entries of the replay, whose indices are used here too. log: as in `episodic.py`."""
        self.inputs: NDArray[np.float32] = np.zeros((capacity, inputs_of(num_actions)), dtype=np.float32)
        self.patches = {"memory": Patches(self.inputs)}
        self._log = log or EpisodeLog()

    def fresh(self, count: int) -> NDArray[np.float32]:
        """x (count, 2 + A) of observations that are new in their episodes."""
        out = np.zeros((count, self.inputs.shape[1]), dtype=np.float32)
        out[:, :2] = 1.0
        return out

    def at(self, index: IntArray) -> NDArray[np.float32]:
        """x (N, 2 + A) of entries index (N,)."""
        return self.inputs[index]

    def watch(self, step: Step) -> None:
        """Note one step, in order; h = 0 begins new episodes."""
        if step.transition.h == 0:
            self._set(step.index, self.fresh(len(step.index)))
        x = self.fresh(len(step.newest))
        for k, again in enumerate(self._log.note(step)):
            if again is not None:
                x[k, 0], x[k, 1] = 1.0 / (1 + again.visits), 0.0
                x[k, [2 + action for action in again.taken]] = 1.0
        self._set(step.newest, x)

    def _set(self, index: IntArray, x: NDArray[np.float32]) -> None:
        self.inputs[index] = x
        self.patches["memory"].touch(index)

    def state_dict(self, *, whole: bool = True) -> State:
        """x of the entries, unless `patches` saves them."""
        return {"inputs": self.inputs.copy()} if whole else {}

    def load_state_dict(self, state: dict[str, Any], *, whole: bool = True) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        if whole:
            fill_arrays({"inputs": self.inputs}, state, "memory")
            self.patches["memory"].forget()


def inputs_of(num_actions: int) -> int:
    """Numbers in x."""
    return 2 + num_actions
