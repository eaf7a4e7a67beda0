"""Contrastive search in acting: of the most promising actions the one whose outcome is least like this episode's past.

phi(s,a) stands for the predicted next state, because f = psi(s')'phi(s,a) makes P(.|s,a) a function of phi(s,a) alone.
The policy is softmax of the values that the agent maximises; see `planning/contrastive_search.py` for the rule.
"""

from __future__ import annotations

import numpy as np

from rl_contrastive.acting import choose
from rl_contrastive.deep.agent_config import SearchConfig
from rl_contrastive.planning.contrastive_search import contrastive_scores, unit_rows
from rl_contrastive.spec import FloatArray, IntArray

ALL = slice(None)
"""All rows."""


class Search:
    """Directions of phi of the actions taken in the going episodes of B rows; nothing of it outlives them.

    It is asked only for rows whose episodes go on. All rows begin together, and a row that ended does not come back.
    """

    def __init__(self, config: SearchConfig) -> None:
        self.config = config
        self._taken: list[FloatArray] = []
        """(B, d) of each step, zeros in rows that had ended."""
        self._phi: FloatArray = np.zeros((0, 0, 0))
        self._rows: IntArray | slice = ALL
        self._version = 0

    def choose(
        self,
        values: FloatArray,
        phi: FloatArray,
        h: int,
        version: int,
        uniform: FloatArray,
        *,
        rows: IntArray | slice = ALL,
    ) -> IntArray:
        """Actions (k,) of these rows: values (k, A), phi (k, A, d), uniform (k,) of [0, 1) for chance among ties.

        Features of another `version` do not compare.
        """
        if h == 0 or version != self._version:
            self._taken, self._version = [], version
        self._phi, self._rows, config = unit_rows(phi), rows, self.config
        p = np.exp((values - values.max(axis=1, keepdims=True)) / config.temperature)
        p /= p.sum(axis=1, keepdims=True)
        past = [taken[rows] for taken in self._taken]
        history = np.stack(past, axis=1) if past else np.zeros((len(p), 0, phi.shape[2]))
        return choose(contrastive_scores(p, self._phi, history, alpha=config.alpha, k=config.k), uniform)

    def note(self, action: IntArray) -> None:
        """What all rows did in the end (B,), uniform actions included; those of rows that ended do not count."""
        taken = np.zeros((len(action), self._phi.shape[2]))
        taken[self._rows] = self._phi[np.arange(len(self._phi)), action[self._rows]]
        self._taken.append(taken)
        self._taken = self._taken[-self.config.memory :]
