"""Counts of (h, s, a, s'), where s are observed states, or decoded latents of rich observations.

Both tables answer the same questions, so that an agent written for finite states runs on rich observations unchanged:
`label(h, obs)`, `counts` N_h(s,a,s'), `reward` r-hat_h(s,a), and `alive` g_h(s') = share of arrivals in s' that did
not end the episode (after a true terminal there is no value, whatever the estimate of its state). Where observations
are states, `StateTable.model` is P-hat itself; in it the mass of episode ends is missing from each pair.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from rl_contrastive.config import fill_arrays, require, require_keys
from rl_contrastive.errors import RlcError
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.decoder import DecoderConfig, LatentDecoder, seen
from rl_contrastive.features.steps import StepStore
from rl_contrastive.spec import Array, BoolArray, EnvSpec, FloatArray, IntArray, State, StepData, Transition


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

    def add(self, transition: Transition, rows: BoolArray | None = None) -> None:
        """Store the alive rows of a step, or only the masked ones among them; raises RlcError on NaN rewards."""

    def refresh(self, *, rng: np.random.Generator | None = None) -> None:
        """Bring `counts`, `reward` (H,S,A) and `alive` (H,S) up to date."""

    def rows(self) -> IntArray:
        """(H,) transitions ever stored of each step."""

    def scalars(self) -> dict[str, float]:
        """Choices that were made from the data, for the record."""

    def label(self, h: int, obs: Array, *, explore: bool = True) -> IntArray:
        """State of each observation of step h: (N, ...) -> (N,).

        An ambiguous observation is assigned to the state that is common in the data (explore: as the counts do) or to
        the nearest one (a good policy mostly meets states that are rare in the data).
        """

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


def one_kernel(spec: EnvSpec, wanted: bool) -> bool:
    """Whether one table serves all steps, because the environment declares the same kernel for several steps."""
    return wanted and spec.stationary and spec.horizon > 1


def add_pooled(table: Table, transition: Transition, horizon: int, rows: BoolArray | None = None) -> None:
    """Store a step in a table of all steps, except the last step, which ends by the horizon and not by the kernel."""
    if transition.h + 1 < horizon:
        table.add(replace(transition, h=0), rows)


def make_table(spec: EnvSpec, decoder: DecoderConfig, *, capacity: int | None, growth: float) -> Table:
    """StateTable where observations are states; LatentTable (decoder, newest `capacity` rows a step) elsewhere."""
    if spec.num_states is not None:
        return StateTable(spec)
    return LatentTable(spec, decoder, capacity=capacity, growth=growth)


@dataclass(frozen=True)
class EmpiricalModel:
    """P-hat_h(s'|s,a) = N_h(s,a,s') / N_h(s,a) from sparse counts: an expectation costs O(nnz), whatever S.

    Successors of true terminals are not counted, so P-hat sums to less than 1 there: what follows is worth 0.
    """

    counts: TransitionCounts
    """N_h(s,a,s') of the transitions after which the episode continued."""
    visits: FloatArray
    """N_h(s,a) (H, S, A) of all transitions."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.visits.shape[0], self.visits.shape[1], self.visits.shape[2]

    def expect(self, h: int, values: FloatArray) -> FloatArray:
        """E_{s' ~ P-hat_h(.|s,a)}[V(s')], 0 for pairs without visits; (S,) or (S, k) -> (S, A) or (S, A, k)."""
        _, S, A = self.shape
        total = np.asarray(self.counts.matrix(h) @ values).reshape(S, A, *values.shape[1:])
        return np.asarray(total / np.maximum(self.visits[h], 1.0).reshape(S, A, *[1] * (values.ndim - 1)))

    def rows(self, h: int) -> FloatArray:
        """P-hat_h as a table (S, A, S)."""
        _, S, A = self.shape
        table = self.counts.matrix(h).toarray().reshape(S, A, S)
        return np.asarray(table / np.maximum(self.visits[h], 1.0)[..., None])


class StateTable:
    """Observations are states 0..S-1. New rows wait in a buffer until `refresh`, because merging sorts all counts.

    `visits` N_h(s,a) and `reward_sum`, each (H, S, A), and everything computed from them date from the last `refresh`.
    """

    def __init__(self, spec: EnvSpec, agent: str = "a table of states") -> None:
        if spec.num_states is None:
            raise RlcError(
                f"{agent} needs tabular observations, but {spec.name} has observations of shape {spec.obs_shape}: use "
                "an agent that reads vectors (contrastive-ucb-deep), an environment with fewer states, or, where they "
                "are a short Box, gym:ID with --env.observation bins."
            )
        self.num_states = spec.num_states
        shape = spec.horizon, self.num_states, spec.num_actions
        self._counts = TransitionCounts.empty(*shape)
        self._ended = TransitionCounts.empty(*shape)  # those of the transitions into a true terminal
        self.reward_sum: FloatArray = np.zeros(shape)
        self._rows: IntArray = np.zeros(spec.horizon, dtype=np.int64)
        self._buffer: list[tuple[Array, ...]] = []
        self._summarise()

    def add(self, transition: Transition, rows: BoolArray | None = None) -> None:
        index = np.flatnonzero(transition.alive if rows is None else rows & transition.alive)
        if not len(index):
            return
        t, level = transition, np.full(len(index), transition.h)
        require(bool(np.isfinite(t.reward[index]).all()), f"a reward of step h={t.h} is NaN or infinite.")
        self._buffer.append(
            (level, t.obs[index], t.action[index], t.next_obs[index], t.reward[index], t.discount[index])
        )
        self._rows[t.h] += len(index)

    def refresh(self, *, rng: np.random.Generator | None = None) -> None:
        if not self._buffer:
            return
        h, s, a, s_next, r, discount = (np.concatenate(column) for column in zip(*self._buffer, strict=True))
        self._buffer.clear()
        over = discount == 0
        self._counts = self._counts.plus(h, s, a, s_next)
        self._ended = self._ended.plus(h[over], s[over], a[over], s_next[over])
        np.add.at(self.reward_sum, (h, s, a), r)
        self._summarise()

    def _summarise(self) -> None:
        self.visits = self._counts.pair_total()
        self.reward = self.reward_sum / np.maximum(self.visits, 1.0)
        self.alive = 1.0 - self._ended.succ_total() / np.maximum(self._counts.succ_total(), 1.0)

    @property
    def counts(self) -> TransitionCounts:
        return self._counts

    def model(self) -> EmpiricalModel:
        """P-hat of everything merged by the last `refresh`."""
        return EmpiricalModel(self._counts.minus(self._ended), self.visits)

    def rows(self) -> IntArray:
        return self._rows

    def scalars(self) -> dict[str, float]:
        return {}

    def label(self, h: int, obs: Array, *, explore: bool = True) -> IntArray:
        return np.asarray(obs, dtype=np.int64)

    def state_dict(self) -> State:
        self.refresh()
        parts = {"counts": self._counts.state_dict(), "ended": self._ended.state_dict()}
        return {**parts, **_copies(self._arrays())}

    def load_state_dict(self, state: State) -> None:
        require_keys(state, ("counts", "ended"), "table")
        fill_arrays(self._arrays(), state, "table")
        self._counts, self._ended = (self._counts.with_state(state[key]) for key in ("counts", "ended"))
        self._buffer.clear()
        self._summarise()

    def _arrays(self) -> dict[str, Array]:
        return {"reward_sum": self.reward_sum, "rows": self._rows}


class LatentTable:
    """States are decoded. Rows are kept, and counted again at each step whose data or decoder changed."""

    def __init__(self, spec: EnvSpec, decoder: DecoderConfig, *, capacity: int | None, growth: float) -> None:
        require(0 < growth < np.inf, f"table: growth must be > 0, got {growth}.")
        H, K, A = spec.horizon, decoder.most_latents, spec.num_actions
        self.num_states, self.growth = K, growth
        self.store = StepStore(spec, capacity)
        self.decoder = LatentDecoder(decoder, horizon=H, num_actions=A, obs_shape=spec.obs_shape)
        self.M: FloatArray = np.zeros((H, K, A, K))  # N_h(z,a,z')
        self.reward: FloatArray = np.zeros((H, K, A))
        self.alive: FloatArray = np.ones((H, K))
        self._fitted: IntArray = np.zeros(H, dtype=np.int64)  # rows ever stored of each step at its last fit
        self._counted: IntArray = np.zeros(H, dtype=np.int64)  # and at its last count

    @property
    def counts(self) -> TransitionCounts:
        return TransitionCounts.from_dense(self.M)

    def add(self, transition: Transition, rows: BoolArray | None = None) -> None:
        self.store.add(transition, rows)

    def rows(self) -> IntArray:
        return self.store.total

    def scalars(self) -> dict[str, float]:
        """Whether the decoder's whitening is the full one, where it was chosen."""
        return {"full": float(self.decoder.full)} if self.decoder.config.whitening == "auto" else {}

    def label(self, h: int, obs: Array, *, explore: bool = True) -> IntArray:
        return self.decoder.label(h, np.asarray(obs), weighted=explore)

    def refresh(self, *, rng: np.random.Generator | None = None) -> None:
        """Refit decoders where the data grew by `growth`; recount where rows are new or a decoder on either side is."""
        total, data = self.store.total, self.store.data()
        stale = total > self._counted
        grown = np.flatnonzero(total >= np.maximum((1.0 + self.growth) * self._fitted, self._fitted + 1))
        redecoded = self.decoder.refit(data, grown, rng=rng)
        self._fitted[grown] = total[grown]
        stale[redecoded] = True
        stale[redecoded[redecoded > 0] - 1] = True
        self._counted = total.copy()
        self._count(data, np.flatnonzero(stale))

    def _count(self, data: StepData, levels: IntArray) -> None:
        if not len(levels):
            return
        H, K, A, _ = self.M.shape
        z = self.decoder.labels(data.obs[levels], levels)  # (L, N)
        # The successor of the last step is decoded like its predecessor, because its value is 0 in any case.
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
        return {**_copies(self._arrays()), "store": self.store.state_dict(), "decoder": self.decoder.state_dict()}

    def load_state_dict(self, state: State) -> None:
        require_keys(state, ("store", "decoder"), "table")
        fill_arrays(self._arrays(), state, "table")
        self.store.load_state_dict(state["store"])
        self.decoder.load_state_dict(state["decoder"])

    def _arrays(self) -> dict[str, Array]:
        marks = {"fitted": self._fitted, "counted": self._counted}
        return {"M": self.M, "reward": self.reward, "alive": self.alive, **marks}


def _copies(arrays: dict[str, Array]) -> State:
    """A snapshot: the table's own arrays change in place."""
    return {name: array.copy() for name, array in arrays.items()}


def _sums(index: Any, weight: FloatArray, size: int) -> FloatArray:
    """Sum of the weights of each index 0..size-1."""
    return np.asarray(np.bincount(index.ravel(), weight.ravel(), size), dtype=np.float64)
