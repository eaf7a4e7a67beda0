"""Novelty over all episodes of observations as they come: the parts of `lifelong.py` for code that has no replay.

Nothing is stored of an observation but its count, so what was paid for it does not change afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rl_contrastive.config import require, require_keys
from rl_contrastive.deep.bonus_contract import Chunk, Gone
from rl_contrastive.deep.lifelong import Flat
from rl_contrastive.spec import Array, FloatArray, State

if TYPE_CHECKING:
    from rl_contrastive.deep.rnd import RandomDistillation


class Online(Protocol):
    """l of observations as they come; x are their features (n, d)."""

    uses_features: bool

    def now(self, obs: Array, x: FloatArray) -> FloatArray:
        """l >= 0 (n,) of observations (n, ...), as it is today."""

    def count(self, obs: Array, x: FloatArray, *, first: bool = False) -> None:
        """Count each of these once; first: they are the first ones of their episodes."""

    def key(self, phi: FloatArray) -> Array:
        """As in `Lifelong`."""

    def rebuild(self, sample: FloatArray, chunks: Iterator[Chunk], gone: Iterable[Gone]) -> None:
        """As in `Lifelong`; all observations are in `gone`."""

    def state_dict(self, *, whole: bool) -> State:
        """As in `Lifelong`."""

    def load_state_dict(self, state: dict[str, Any], *, whole: bool) -> None:
        """As in `Lifelong`."""


class DistilledOnline(Flat):
    """error(s') / spread of random network distillation, which learns from each observation that was reached once."""

    def __init__(self, rnd: RandomDistillation, obs_shape: tuple[int, ...], *, warm_start: int) -> None:
        """warm_start: observations by which vectors are standardised before the predictor learns from them."""
        super().__init__()
        self.rnd, self.obs_shape, self.warm_start, self.started = rnd, obs_shape, warm_start, False
        self.waiting: list[Array] = []
        """Those that the predictor has not yet learned from, oldest first."""

    def now(self, obs: Array, x: FloatArray) -> FloatArray:
        return self.rnd.bonus(obs)

    def count(self, obs: Array, x: FloatArray, *, first: bool = False) -> None:
        if first:
            return
        self.waiting += [np.array(one) for one in obs]
        if not self.started and len(self.waiting) >= self.warm_start:
            self.rnd.standardise(np.stack(self.waiting))
            self.started = True
        size = self.rnd.config.batch_size
        while self.started and len(self.waiting) >= size:
            self.rnd.visit(np.stack(self.waiting[:size]))
            self.waiting = self.waiting[size:]

    def state_dict(self, *, whole: bool) -> State:
        return {"rnd": self.rnd.state_dict(), "waiting": np.array(self.waiting), "started": self.started}

    def load_state_dict(self, state: dict[str, Any], *, whole: bool) -> None:
        require_keys(state, ("rnd", "waiting", "started"), "rnd")
        saved = np.asarray(state["waiting"])
        fits = not len(saved) or saved.shape[1:] == self.obs_shape
        require(fits, f"rnd: the saved observations have shape {saved.shape[1:]}, not {self.obs_shape}.")
        self.rnd.load_state_dict(state["rnd"])
        self.waiting, self.started = list(saved), bool(state["started"])
