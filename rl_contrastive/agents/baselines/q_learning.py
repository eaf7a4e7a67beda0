"""Shared parts of the tabular Q-learners: step sizes, many targets of one pair in order, and decoded states.

    Q_n(z,a) = (1 - alpha_n) Q_{n-1}(z,a) + alpha_n y_n,   n = 1, 2, ... the visits of (z,a) at step h
    alpha_n = (H + 1) / (H + n)   (Jin, Allen-Zhu, Bubeck, Jordan 2018), or a constant

A batch of episodes is learned from its last step to its first, so a reward propagates through a whole episode at once.
The rows of a pair are used in the order of arrival; m of them at once are a weighted sum:

    Q_{n+m} = kept(n, n+m) Q_n + sum_{k=n+1}^{n+m} alpha_k kept(k, n+m) y_k, kept(k, l) = prod_{j=k+1}^{l} (1 - alpha_j)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from rl_contrastive.config import fill_arrays, require_keys
from rl_contrastive.features.decoder import DecoderConfig, LatentDecoder
from rl_contrastive.features.steps import StepStore
from rl_contrastive.spec import Array, EnvSpec, FloatArray, IntArray, State, Transition


@dataclass(frozen=True)
class StepSize:
    """alpha_n: `constant`, or (H + 1) / (H + n) where it is None."""

    constant: float | None
    horizon: int

    def alpha(self, n: FloatArray) -> FloatArray:
        """Step size of visit n = 1, 2, ..."""
        if self.constant is not None:
            return np.full(n.shape, self.constant)
        return np.asarray((self.horizon + 1.0) / (self.horizon + n))

    def kept(self, k: FloatArray, m: FloatArray) -> FloatArray:
        """prod_{j=k+1}^{m} (1 - alpha_j): the share of what stood after visit k that is left after visit m >= 1."""
        if self.constant is not None:
            return np.asarray((1.0 - self.constant) ** (m - k))
        # prod (j - 1) / (H + j) by Gamma functions; 1 / Gamma(0) = 0, because the first visit keeps nothing.
        H = self.horizon
        return np.asarray(np.exp(gammaln(m) - gammaln(k) + gammaln(H + k + 1.0) - gammaln(H + m + 1.0)))


class QTable:
    """Q (G, S, A) and visits n (G, S, A) of one learner, G = H steps or, pooled, one for all; Q_H = 0 is not stored."""

    def __init__(
        self, horizon: int, num_states: int, num_actions: int, step: StepSize, *, pooled: bool = False
    ) -> None:
        self.horizon, self.step, self.pooled = horizon, step, pooled
        levels = 1 if pooled else horizon
        self.Q: FloatArray = np.zeros((levels, num_states, num_actions))
        self.visits: FloatArray = np.zeros((levels, num_states, num_actions))

    def level(self, h: int) -> int:
        """Index of step h in the tables."""
        return 0 if self.pooled else h

    def at(self, h: int, z: IntArray) -> FloatArray:
        """Q_h(z, .) (N, A)."""
        return np.asarray(self.Q[self.level(h), z])

    def learn(self, h: int, z: IntArray, a: IntArray, target: FloatArray) -> None:
        """Targets (N,) of the pairs (z, a) of step h, oldest first."""
        if not len(z):
            return
        g = self.level(h)
        Q, visits = self.Q[g].reshape(-1), self.visits[g].reshape(-1)  # views (SA,)
        pair = z * self.Q.shape[2] + a
        order = np.argsort(pair, kind="stable")
        pair, y = pair[order], target[order]
        first = np.flatnonzero(np.diff(pair, prepend=-1))  # where each distinct pair begins
        length = np.diff(first, append=len(pair))
        rank = np.arange(len(pair)) - np.repeat(first, length)
        n, m = visits[pair] + rank + 1.0, (visits[pair[first]] + length).astype(np.float64)
        weight = self.step.alpha(n) * self.step.kept(n, np.repeat(m, length))
        pairs = pair[first]
        Q[pairs] = self.step.kept(visits[pairs], m) * Q[pairs] + np.add.reduceat(weight * y, first)
        visits[pairs] = m

    def best_after(self, rows: Rows, sign: float) -> FloatArray:
        """max_a sign Q_{h+1}(z', a) (N,) of the rows' successors, 0 after the last step."""
        if rows.h + 1 == self.horizon:
            return np.zeros(len(rows.z_next))
        return np.asarray((sign * self.at(rows.h + 1, rows.z_next)).max(axis=1))

    def forget(self, levels: IntArray) -> None:
        """Reset the steps `levels`."""
        self.Q[levels] = 0.0
        self.visits[levels] = 0.0

    def state_dict(self) -> State:
        return {"Q": self.Q.copy(), "visits": self.visits.copy()}

    def load_state_dict(self, state: State) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        fill_arrays({"Q": self.Q, "visits": self.visits}, state, "q-table")


@dataclass(frozen=True)
class Rows:
    """Transitions of step h between labelled states, oldest first; every array (N,)."""

    h: int
    z: IntArray
    action: IntArray
    reward: FloatArray
    z_next: IntArray
    """Of step h + 1; at the last step its value is 0 whatever it is."""
    discount: FloatArray


class Episodes:
    """The rows of a batch of episodes, and the states they are between.

    Observed states are their own labels, and a row is used once and dropped. Vectors are decoded into latent states
    (`features.decoder`), as for the agents under comparison. The newest `capacity` rows of a step are kept. When a
    step's decoder is refitted (its rows grew by `growth`), all its rows are labelled and learned again.
    """

    def __init__(self, spec: EnvSpec, decoder: DecoderConfig, *, capacity: int, growth: float) -> None:
        self.horizon, self.growth = spec.horizon, growth
        self._batch: list[tuple[int, Array, IntArray, FloatArray, Array, FloatArray]] = []
        self.store: StepStore | None = None
        self.num_states = spec.num_states or decoder.most_latents
        if spec.num_states is None:
            self.store = StepStore(spec, capacity)
            self.decoder = LatentDecoder(
                decoder, horizon=spec.horizon, num_actions=spec.num_actions, obs_shape=spec.obs_shape
            )
            self.fitted: IntArray = np.zeros(spec.horizon, dtype=np.int64)  # rows ever stored at each step's last fit

    def add(self, transition: Transition) -> None:
        t, i = transition, np.flatnonzero(transition.alive)
        # Copies: an environment may write its next observations into the same array.
        self._batch.append((t.h, t.obs[i], t.action[i], t.reward[i], t.next_obs[i], t.discount[i]))
        if self.store is not None:
            self.store.add(t)

    def label(self, h: int, obs: Array, *, explore: bool = True) -> IntArray:
        """State of each observation of step h: (N, ...) -> (N,); explore as in `tables.Table.label`."""
        if self.store is None:
            return np.asarray(obs, dtype=np.int64)
        return self.decoder.label(h, np.asarray(obs), weighted=explore)

    def take(self) -> tuple[IntArray, list[Rows]]:
        """The steps to forget, and what to learn from, last step first. The batch is over after this."""
        redecoded = self._refit()
        rows = [self._stored(int(h)) for h in redecoded]
        rows += [self._labelled(*part) for part in self._batch if part[0] not in redecoded]
        self._batch = []
        return redecoded, sorted(rows, key=lambda part: -part.h)

    def _refit(self) -> IntArray:
        if self.store is None:
            return np.zeros(0, dtype=np.int64)
        total = self.store.total
        grown = np.flatnonzero(total >= np.maximum((1.0 + self.growth) * self.fitted, self.fitted + 1))
        self.fitted[grown] = total[grown]
        return self.decoder.refit(self.store.data(), grown)

    def _labelled(
        self, h: int, obs: Array, action: IntArray, reward: FloatArray, next_obs: Array, discount: FloatArray
    ) -> Rows:
        after = min(h + 1, self.horizon - 1)
        return Rows(h, self.label(h, obs), action, reward, self.label(after, next_obs), discount)

    def _stored(self, h: int) -> Rows:
        assert self.store is not None
        data, n, total = self.store.data(), int(self.store.count[h]), int(self.store.total[h])
        i = (np.arange(n) + (total if total > n else 0)) % n  # a ring that wrapped begins at slot total mod n
        columns = data.obs, data.action, data.reward, data.next_obs, data.discount
        obs, action, reward, next_obs, discount = (column[h, i] for column in columns)
        return self._labelled(h, obs, action, reward, next_obs, discount)

    def state_dict(self) -> State:
        if self.store is None:
            return {}
        return {"store": self.store.state_dict(), "decoder": self.decoder.state_dict(), "fitted": self.fitted.copy()}

    def load_state_dict(self, state: State) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        self._batch = []
        if self.store is None:
            return
        require_keys(state, ("store", "decoder", "fitted"), "episodes")
        self.store.load_state_dict(state["store"])
        self.decoder.load_state_dict(state["decoder"])
        self.fitted[...] = state["fitted"]
