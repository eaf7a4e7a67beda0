"""A family of random low-rank MDPs that only optimism solves: one path of rare states leads to the reward.

Factor 0 of d leads to the few good states of the next step, the others to random mixtures of common states. A good
state has one good action, another one at each state and step, that leads to good states with probability `success`.
All other actions lead to the common states for good and pay a bait. The good action of the last step pays 1. To reach
it takes H right actions of A in a row. Planning without a bonus takes the bait from the first episode on, and uniform
actions find the needle once in A^H episodes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from rl_contrastive.config import Ge, In, require
from rl_contrastive.envs.low_rank import LowRankConfig, LowRankEnv, LowRankMDP, LowRankVariant
from rl_contrastive.registry import register


@dataclass(frozen=True)
class NeedleConfig(LowRankConfig, where="needle"):
    """A random low-rank MDP with a needle; everything about it is a function of `mdp_seed` and the sizes."""

    num_states: int = 30
    """S, number of states (> good_states)."""
    num_actions: Annotated[int, Ge(2)] = 4
    """A, number of actions."""
    horizon: int = 8
    """H, number of right actions in a row."""
    rank: Annotated[int, Ge(2)] = 3
    """d, dimension of phi and psi: one factor of good states, d - 1 of common ones."""
    good_states: Annotated[int, Ge(1)] = 3
    """Good states of each step."""
    success: Annotated[float, In(0, 1, above=True)] = 0.97
    """Probability that a good action leads on to a good state."""
    bait: Annotated[float, In(0, 1)] = 0.02
    """Most that another pair pays at a step: it pays bait times a uniform number.
    Above success^H / H the baits of an episode may pay more than the needle."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fewer = self.good_states < self.num_states
        require(fewer, f"needle: num_states must be > good_states, got {self.num_states} and {self.good_states}.")
        require(not self.stationary, "needle: each step has its own good states; stationary must be false.")


def draw_needle(config: LowRankConfig) -> LowRankMDP:
    """The MDP of `config.mdp_seed`."""
    assert isinstance(config, NeedleConfig)
    c = config
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(c.mdp_seed)))
    S, A, H, d = c.num_states, c.num_actions, c.horizon, c.rank
    good = np.zeros((H + 1, S), dtype=np.bool_)
    for h in range(H + 1):
        good[h, rng.choice(S, c.good_states, replace=False)] = True
    phi, psi = np.zeros((H, S, A, d)), np.zeros((H, d, S))
    phi[..., 1:] = rng.dirichlet(np.full(d - 1, c.alpha_phi), size=(H, S, A))
    right = rng.integers(A, size=(H, S))
    r = c.bait * rng.random((H, S, A))
    for h in range(H):
        psi[h, 0, good[h + 1]] = 1.0 / c.good_states
        psi[h, 1:, ~good[h + 1]] = rng.dirichlet(np.full(S - c.good_states, c.alpha_psi), size=d - 1).T
        s = np.flatnonzero(good[h])
        phi[h, s, right[h, s], 1:] *= 1.0 - c.success
        phi[h, s, right[h, s], 0] = c.success
        r[h, s, right[h, s]] = float(h == H - 1)
    return LowRankMDP(phi, psi, r, good[0] / c.good_states)


@register("env", "needle", NeedleConfig)
class NeedleEnv(LowRankEnv):
    """Random low-rank MDP with a reward behind rarely reached states: without optimism it is not found."""

    def __init__(self, config: NeedleConfig, num_envs: int) -> None:
        super().__init__(config, num_envs, variant=replace(LowRankVariant(), name="needle", draw=draw_needle))
