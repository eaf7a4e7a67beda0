"""What was seen, as counts of (h, s, a, s'): of observations that are states, else of decoded latents.

Both tables answer the same questions, so that an agent written for finite states runs on rich observations unchanged:
`label(h, obs)`, `counts` N_h(s,a,s'), `reward` r-hat_h(s,a), and `alive` g_h(s') = share of arrivals in s' that did
not end the episode (a true terminal has no value to come, whatever is believed of its state).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.experiment.store import LevelStore
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.decoder import DecoderConfig, LatentDecoder, seen
from rl_contrastive.spec import Array, BoolArray, EnvSpec, FloatArray, IntArray, LevelData, State, Transition


class Table(Protocol):
    """Counts of transitions between S states, kept up to date by `refresh`."""

    num_states: int
    reward: FloatArray
    """r-hat (H, S, A)."""
    alive: FloatArray
    """g (H, S)."""

    @property
    def counts(self) -> TransitionCounts:
        """N_h(s,a,s') as of the last `refresh`."""

    def add(self, transition: Transition, rows: BoolArray) -> None:
        """Store the masked rows of a step."""

    def refresh(self) -> None:
        """Bring `counts`, `reward` (H,S,A) and `alive` (H,S) up to date."""

    def rows(self) -> IntArray:
        """(H,) transitions ever stored of each step."""

    def label(self, h: int, obs: Array) -> IntArray:
        """State of each observation of step h: (N, ...) -> (N,)."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


def make_table(spec: EnvSpec, decoder: DecoderConfig, *, capacity: int | None, growth: float) -> Table:
    """StateTable where observations are states; LatentTable (decoder, newest `capacity` rows a step) elsewhere."""
    if spec.num_states is not None:
        return StateTable(spec)
    return LatentTable(spec, decoder, capacity=capacity, growth=growth)


class StateTable:
    """Observations are states 0..S-1. New rows wait in a buffer until `refresh`: merging sorts all counts."""

    def __init__(self, spec: EnvSpec) -> None:
        require(spec.num_states is not None, f"{spec.name}: observations are not states.")
        self.num_states = int(spec.num_states or 0)
        H, S, A = spec.horizon, self.num_states, spec.num_actions
        self._counts = TransitionCounts.empty(H, S, A)
        self.reward: FloatArray = np.zeros((H, S, A))
        self.alive: FloatArray = np.ones((H, S))
        self._reward_sum: FloatArray = np.zeros((H, S, A))
        self._ended: FloatArray = np.zeros((H, S))
        self._rows: IntArray = np.zeros(H, dtype=np.int64)
        self._buffer: list[tuple[Array, ...]] = []

    def add(self, transition: Transition, rows: BoolArray) -> None:
        index = np.flatnonzero(rows & transition.alive)
        if not len(index):
            return
        t, level = transition, np.full(len(index), transition.h)
        require(bool(np.isfinite(t.reward[index]).all()), f"a reward of step h={t.h} is NaN or infinite.")
        self._buffer.append(
            (level, t.obs[index], t.action[index], t.next_obs[index], t.reward[index], t.discount[index])
        )
        self._rows[t.h] += len(index)

    def refresh(self) -> None:
        if not self._buffer:
            return
        h, s, a, s_next, r, discount = (np.concatenate(column) for column in zip(*self._buffer, strict=True))
        self._buffer.clear()
        self._counts = self._counts.plus(h, s, a, s_next)
        np.add.at(self._reward_sum, (h, s, a), r)
        np.add.at(self._ended, (h, s_next), 1.0 - discount)
        self.reward = self._reward_sum / np.maximum(self.counts.pair_total(), 1.0)
        self.alive = 1.0 - self._ended / np.maximum(self.counts.succ_total(), 1.0)

    @property
    def counts(self) -> TransitionCounts:
        return self._counts

    def rows(self) -> IntArray:
        return self._rows

    def label(self, h: int, obs: Array) -> IntArray:
        return np.asarray(obs, dtype=np.int64)

    def state_dict(self) -> State:
        self.refresh()
        arrays = {"reward_sum": self._reward_sum, "ended": self._ended, "rows": self._rows}
        return {"counts": self.counts.state_dict(), **{name: array.copy() for name, array in arrays.items()}}

    def load_state_dict(self, state: State) -> None:
        for key in ("counts", "reward_sum", "ended", "rows"):
            require(key in state, f"table: the saved state lacks '{key}'.")
        self._counts = self._counts.with_state(state["counts"])
        self._reward_sum, self._ended = (np.array(state[k], dtype=np.float64) for k in ("reward_sum", "ended"))
        self._rows = np.array(state["rows"], dtype=np.int64)
        self.reward = self._reward_sum / np.maximum(self.counts.pair_total(), 1.0)
        self.alive = 1.0 - self._ended / np.maximum(self.counts.succ_total(), 1.0)


class LatentTable:
    """States are decoded: rows are kept, and counted anew at each step whose data or decoder changed."""

    def __init__(self, spec: EnvSpec, decoder: DecoderConfig, *, capacity: int | None, growth: float) -> None:
        require(0 < growth < np.inf, f"table: growth must be > 0, got {growth}.")
        H, K, A = spec.horizon, decoder.most_latents, spec.num_actions
        self.num_states, self.growth = K, growth
        self.store = LevelStore(spec, capacity)
        self.decoder = LatentDecoder(decoder, horizon=H, num_actions=A, obs_shape=spec.obs_shape)
        self.M: FloatArray = np.zeros((H, K, A, K))  # N_h(z,a,z')
        self.reward: FloatArray = np.zeros((H, K, A))
        self.alive: FloatArray = np.ones((H, K))
        self._fitted: IntArray = np.zeros(H, dtype=np.int64)  # rows ever stored of each step at its last fit
        self._counted: IntArray = np.zeros(H, dtype=np.int64)  # and at its last count

    @property
    def counts(self) -> TransitionCounts:
        return TransitionCounts.from_dense(self.M)

    def add(self, transition: Transition, rows: BoolArray) -> None:
        self.store.add(transition, rows)

    def rows(self) -> IntArray:
        return self.store.total

    def label(self, h: int, obs: Array) -> IntArray:
        return self.decoder.label(h, np.asarray(obs))

    def refresh(self) -> None:
        """Refit decoders where data grew by `growth`; recount where rows are new or a decoder on either side is."""
        total, data = self.store.total, self.store.data()
        stale = total > self._counted
        grown = np.flatnonzero(total >= np.maximum((1.0 + self.growth) * self._fitted, self._fitted + 1))
        redecoded = self.decoder.refit(data, grown)
        self._fitted[grown] = total[grown]
        stale[redecoded] = True
        stale[redecoded[redecoded > 0] - 1] = True
        self._counted = total.copy()
        self._count(data, np.flatnonzero(stale))

    def _count(self, data: LevelData, levels: IntArray) -> None:
        if not len(levels):
            return
        H, K, A, _ = self.M.shape
        z = self.decoder.labels(data.obs[levels], levels)  # (L, N)
        # The successor of the last step is decoded like its predecessor; its value is 0 whatever it is.
        z_next = self.decoder.labels(data.next_obs[levels], np.minimum(levels + 1, H - 1))
        weight = seen(data)[levels].astype(np.float64)
        level = np.arange(len(levels))[:, None]
        pair = (level * K + z) * A + data.action[levels]
        M = _sums(pair * K + z_next, weight, len(levels) * K * A * K).reshape(-1, K, A, K)
        arrivals = M.sum(axis=(1, 2))  # (L, K)
        survived = _sums(level * K + z_next, weight * data.discount[levels], len(levels) * K).reshape(-1, K)
        rewards = _sums(pair, weight * data.reward[levels], len(levels) * K * A).reshape(-1, K, A)
        self.M[levels] = M
        self.reward[levels] = rewards / np.maximum(M.sum(axis=3), 1.0)
        self.alive[levels] = np.where(arrivals > 0, survived / np.maximum(arrivals, 1.0), 1.0)

    def state_dict(self) -> State:
        arrays = {"M": self.M.copy(), "reward": self.reward.copy(), "alive": self.alive.copy()}
        marks = {"fitted": self._fitted.copy(), "counted": self._counted.copy()}
        return {**arrays, **marks, "store": self.store.state_dict(), "decoder": self.decoder.state_dict()}

    def load_state_dict(self, state: State) -> None:
        for key in ("M", "reward", "alive", "fitted", "counted", "store", "decoder"):
            require(key in state, f"table: the saved state lacks '{key}'.")
        self.M, self.reward, self.alive = (np.array(state[k], dtype=np.float64) for k in ("M", "reward", "alive"))
        self._fitted, self._counted = (np.array(state[k], dtype=np.int64) for k in ("fitted", "counted"))
        self.store.load_state_dict(state["store"])
        self.decoder.load_state_dict(state["decoder"])


def _sums(index: Any, weight: FloatArray, size: int) -> FloatArray:
    """Sum of the weights of each index 0..size-1."""
    return np.asarray(np.bincount(index.ravel(), weight.ravel(), size), dtype=np.float64)
