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


class Search:
    """Directions of phi of the actions taken in the going episodes; nothing of it outlives them."""

    def __init__(self, config: SearchConfig) -> None:
        self.config = config
        self._taken: list[FloatArray] = []
        self._phi: FloatArray = np.zeros((0, 0, 0))
        self._version = 0

    def choose(
        self, values: FloatArray, phi: FloatArray, h: int, version: int, *, rng: np.random.Generator
    ) -> IntArray:
        """Actions (N,): values (N, A), phi (N, A, d). Features of another `version` do not compare."""
        if h == 0 or version != self._version:
            self._taken, self._version = [], version
        self._phi, config = unit_rows(phi), self.config
        p = np.exp((values - values.max(axis=1, keepdims=True)) / config.temperature)
        p /= p.sum(axis=1, keepdims=True)
        history = np.stack(self._taken, axis=1) if self._taken else np.zeros((len(p), 0, phi.shape[2]))
        return choose(contrastive_scores(p, self._phi, history, alpha=config.alpha, k=config.k), rng=rng)

    def note(self, action: IntArray) -> None:
        """What was done in the end (N,), uniform actions included."""
        self._taken.append(self._phi[np.arange(len(action)), action])
        self._taken = self._taken[-self.config.memory :]
