"""What the tabular baselines share: visit counts of every step, the empirical model they make, and when to replan.

P-hat_h(s'|s,a) = N_h(s,a,s') / N_h(s,a),  r-hat_h(s,a) = sum of rewards / N_h(s,a). Successors of true terminals are
not counted, so P-hat has the missing mass there: what follows a terminal is worth 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.spec import EnvSpec, FloatArray, IntArray, State, Transition


def tabular_states(spec: EnvSpec, agent: str) -> int:
    """S, or an RlcError where observations are not state indices."""
    if spec.num_states is None:
        raise RlcError(
            f"{agent} needs tabular observations, but {spec.name} has observations of shape {spec.obs_shape}; "
            "use an environment with num_states, or gym:ID with --env.observation bins."
        )
    return spec.num_states


def reward_bounds(spec: EnvSpec, reward_max: float | None) -> tuple[float, float]:
    """(floor, ceiling) of one reward for planning: 0 is always inside, because what follows a terminal pays 0.

    `reward_max` overrides the environment's upper bound; without either it is 1.
    """
    low, high = spec.reward_range
    if reward_max is not None:
        high = reward_max
    return min(low, 0.0), max(high, 0.0) if np.isfinite(high) else 1.0


def return_caps(spec: EnvSpec, reward_max: float | None) -> tuple[FloatArray, FloatArray]:
    """(floor_h, cap_h), each (H,): bounds of the return to go over the H - h steps that are left."""
    low, high = reward_bounds(spec, reward_max)
    left = np.arange(spec.horizon, 0, -1, dtype=np.float64)
    return low * left, high * left


def due(seen: float, planned_at: float, growth: float) -> bool:
    """Lazy planning: only when the data grew by the fraction `growth` since the last plan (0: whenever it grew)."""
    return seen > planned_at and seen >= (1.0 + growth) * planned_at


@dataclass(frozen=True)
class EmpiricalModel:
    """P-hat from sparse counts: an expectation costs O(nnz), so S = 1000 needs no (H, S, A, S) table."""

    counts: TransitionCounts
    visits: FloatArray
    """N_h(s,a) (H, S, A), terminal transitions included."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.visits.shape[0], self.visits.shape[1], self.visits.shape[2]

    def expect(self, h: int, values: FloatArray) -> FloatArray:
        """E_{s' ~ P-hat_h(.|s,a)}[V(s')], 0 for pairs without visits; (S,) -> (S, A)."""
        _, S, A = self.shape
        total = np.asarray(self.counts.matrix(h) @ values).reshape(S, A)
        return np.asarray(total / np.maximum(self.visits[h], 1.0))

    def rows(self, h: int) -> FloatArray:
        """P-hat_h as a table (S, A, S)."""
        _, S, A = self.shape
        table = self.counts.matrix(h).toarray().reshape(S, A, S)
        return np.asarray(table / np.maximum(self.visits[h], 1.0)[..., None])


class History:
    """Visits, reward sums and sparse successor counts of all steps; new transitions wait until the next plan."""

    def __init__(self, horizon: int, num_states: int, num_actions: int) -> None:
        shape = (horizon, num_states, num_actions)
        self.visits: FloatArray = np.zeros(shape)
        self.reward_sum: FloatArray = np.zeros(shape)
        self._counts = TransitionCounts.empty(*shape)
        self._waiting: list[tuple[IntArray, IntArray, IntArray, IntArray]] = []  # (level, s, a, s'), each (n,)

    def add(self, t: Transition) -> None:
        """Count the alive rows; a reward that is not finite is an RlcError."""
        s, a, reward = t.obs[t.alive], t.action[t.alive], t.reward[t.alive]
        if not np.isfinite(reward).all():
            raise RlcError(f"history: a reward of step h={t.h} is NaN or infinite.")
        np.add.at(self.visits[t.h], (s, a), 1.0)
        np.add.at(self.reward_sum[t.h], (s, a), reward)
        goes_on = t.alive & (t.discount > 0)
        level = np.full(int(goes_on.sum()), t.h, dtype=np.int64)
        self._waiting.append((level, t.obs[goes_on], t.action[goes_on], t.next_obs[goes_on]))

    @property
    def seen(self) -> float:
        """Number of transitions."""
        return float(self.visits.sum())

    @property
    def counts(self) -> TransitionCounts:
        """N_h(s,a,s') of the transitions that did not end in a terminal."""
        if self._waiting:
            # One sort for all that waited: a sort a step would dominate the run.
            level, s, a, s_next = (np.concatenate(column) for column in zip(*self._waiting, strict=True))
            self._counts = self._counts.plus(level, s, a, s_next)
            self._waiting = []
        return self._counts

    @property
    def reward(self) -> FloatArray:
        """r-hat (H, S, A), 0 for pairs without visits."""
        return np.asarray(self.reward_sum / np.maximum(self.visits, 1.0))

    def model(self) -> EmpiricalModel:
        """P-hat of everything seen."""
        return EmpiricalModel(self.counts, self.visits)

    def state_dict(self) -> State:
        return {
            "visits": self.visits.copy(),
            "reward_sum": self.reward_sum.copy(),
            "counts": self.counts.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        for key in ("visits", "reward_sum", "counts"):
            require(key in state, f"history: the saved state lacks '{key}'.")
        for key in ("visits", "reward_sum"):
            saved = np.array(state[key], dtype=np.float64)
            shape = self.visits.shape
            require(saved.shape == shape, f"history: the saved {key} has shape {saved.shape}, not {shape}.")
            setattr(self, key, saved)
        self._counts = self._counts.with_state(state["counts"])
        self._waiting = []
