"""Who compares trajectories: a labeller that sees the returns, and hands out labels alone.

    P(y is preferred to y') = sigma((R(y) - R(y')) / T),   R the sum of rewards of a whole episode   (Bradley-Terry)

A learner of preferences gets `labels` and nothing else; in `agents/preference_policy.py` the labeller is the only one
to whom a reward is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from scipy.special import expit

from rl_contrastive.config import Ge, In, Options, require, require_keys
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import Array, BoolArray, FloatArray, IntArray, State

FIRST, SECOND, NEITHER = 0, 1, -1
"""A label: which of the two is preferred."""


@dataclass(frozen=True)
class LabelsConfig(Options, where="labels"):
    """How the oracle labeller compares two episodes by their returns."""

    temperature: Annotated[float, Ge(0)] = 0.0
    """T of the Bradley-Terry law, in units of return; 0: the larger return is always preferred."""
    flips: Annotated[float, In(0, 1)] = 0.0
    """Probability that a label is turned round at last; at .5 labels are pure chance."""
    ties: Literal["drop", "coin"] = "drop"
    """Equal returns: no label (the pair is asked for, counted and dropped), or a fair coin."""


def bradley_terry(gap: FloatArray, temperature: float) -> FloatArray:
    """P(first) = sigma(gap / T) of gaps of return R - R'; with T = 0 the larger wins, and equal ones toss a coin."""
    # No division by T where it is tiny: the limit is a step.
    return np.asarray(expit(gap / temperature) if temperature > 1e-12 else 0.5 * (1.0 + np.sign(gap)))


class Labeller:
    """Adds up the rewards of the episodes being played, and compares episodes."""

    def __init__(self, config: LabelsConfig, *, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self.asked, self.dropped = 0, 0
        """Pairs shown so far, and those without a label because of equal returns."""
        self._returns: FloatArray = np.zeros(0)

    def begin(self, rows: int) -> None:
        """A new batch of episodes."""
        self._returns = np.zeros(rows)

    def watch(self, reward: FloatArray, alive: BoolArray) -> None:
        """Rewards (B,) of one step, of rows whose episode goes on."""
        self._returns[alive] += reward[alive]

    def labels(self, pairs: IntArray) -> IntArray:
        """(P, 2) rows of the batch that ended -> (P,): FIRST, SECOND or NEITHER."""
        R = self._returns[pairs]  # (P, 2)
        tied = R[:, 0] == R[:, 1]
        first = self.rng.random(len(pairs)) < bradley_terry(R[:, 0] - R[:, 1], self.config.temperature)
        turned = self.rng.random(len(pairs)) < self.config.flips
        out = np.where(first != turned, FIRST, SECOND)
        if self.config.ties == "drop":
            out[tied] = NEITHER
        self.asked += len(pairs)
        self.dropped += int(np.count_nonzero(out == NEITHER))
        return out

    def state_dict(self) -> State:
        """Between two batches; returns are of one batch only."""
        return {"asked": self.asked, "dropped": self.dropped, "rng": generator_state(self.rng)}

    def load_state_dict(self, state: State) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys."""
        require_keys(state, ("asked", "dropped", "rng"), "labeller")
        self.asked, self.dropped = int(state["asked"]), int(state["dropped"])
        restore_generator(self.rng, state["rng"])


def pair_up(start: Array, *, rng: np.random.Generator, across: bool = True) -> IntArray:
    """Disjoint pairs (P, 2) of rows with the same first observation; start (B, ...).

    Rows left over, one at most of each start, are paired with each other (`across`) or stay alone.
    """
    require(len(start) >= 2, f"pair_up: there must be at least 2 episodes to compare, got {len(start)}.")
    rows = rng.permutation(len(start))
    by_start: dict[bytes, list[int]] = {}
    for row in rows:
        by_start.setdefault(np.ascontiguousarray(start[row]).tobytes(), []).append(int(row))
    whole = [row for group in by_start.values() for row in group[: len(group) // 2 * 2]]
    left = [group[-1] for group in by_start.values() if len(group) % 2]
    if across:
        whole += left[: len(left) // 2 * 2]
    return np.array(whole, dtype=np.int64).reshape(-1, 2)
