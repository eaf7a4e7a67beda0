"""Random low-rank zero-sum Markov games: P_h(s'|s,a,b) = psi_h(s') . phi_h(s,a,b), with exact Nash values.

The dynamics are those of the random low-rank MDP over the A B joint actions (a B + b). Two parts are new: the reward
must give both players a reason to mix, and the values are those of a matrix game at each state:

    Q_h = r_h + phi_h (psi_h V_{h+1}),    V_h(s) = max_mu min_nu mu' Q_h(s) nu,    Q_h(s) an A x B matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from rl_contrastive.config import Ge, Gt, Options
from rl_contrastive.envs.low_rank import LowRankConfig, LowRankEnv, LowRankVariant
from rl_contrastive.planning.equilibrium import nash
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray


@dataclass(frozen=True)
class LowRankGameConfig(Options, where="low-rank-game"):
    """A random low-rank zero-sum game; everything about it is a function of `game_seed` and the sizes."""

    num_states: Annotated[int, Ge(1)] = 20
    """S, number of states."""
    num_actions: Annotated[int, Ge(1)] = 3
    """A, number of actions of the maximiser."""
    num_opponent_actions: Annotated[int, Ge(1)] = 3
    """B, number of actions of the minimiser."""
    horizon: Annotated[int, Ge(1)] = 5
    """H, steps per episode."""
    rank: Annotated[int, Ge(1)] = 3
    """d, dimension of phi and psi."""
    game_seed: Annotated[int, Ge(0)] = 0
    """Which game of the family; not the seed of the run."""
    alpha_phi: Annotated[float, Gt(0)] = 0.3
    """Concentration of phi_h(s,a,b) ~ Dirichlet(alpha_phi) over the d factors; small is nearly one-hot."""
    alpha_psi: Annotated[float, Gt(0)] = 0.2
    """Concentration of psi_h[k] ~ Dirichlet(alpha_psi) over the S states, and of the start distribution."""
    stationary: bool = False
    """One kernel and reward for all steps instead of one per step."""


def game_reward(phi: FloatArray, rng: np.random.Generator) -> FloatArray:
    """r_h(s,a,b) = .6 X_h(s) + .4 U_h(s,a,b) with X ~ Beta(.5, .5) and U uniform: (G, S, A B) in [0, 1].

    X makes states worth reaching or avoiding; U makes the matrix of each state a game whose equilibria mix.
    """
    G, S, joint, _ = phi.shape
    of_state = rng.beta(0.5, 0.5, size=(G, S, 1))
    return np.clip(0.6 * of_state + 0.4 * rng.random((G, S, joint)), 0.0, 1.0)


def matrix_value(players: tuple[int, int]) -> Callable[[FloatArray], FloatArray]:
    """Q_h (S, A B) -> V_h (S,): the value of each state's A x B matrix game."""

    def value(Q: FloatArray) -> FloatArray:
        return nash(Q.reshape(-1, *players)).value

    return value


@register("env", "low-rank-game", LowRankGameConfig)
def low_rank_game(config: LowRankGameConfig, num_envs: int) -> LowRankEnv:
    """Random low-rank zero-sum Markov game with tabular observations and exact Nash values."""
    players = (config.num_actions, config.num_opponent_actions)
    dynamics = LowRankConfig(
        num_states=config.num_states,
        num_actions=players[0] * players[1],
        horizon=config.horizon,
        rank=config.rank,
        mdp_seed=config.game_seed,
        alpha_phi=config.alpha_phi,
        alpha_psi=config.alpha_psi,
        stationary=config.stationary,
    )

    variant = LowRankVariant("low-rank-game", game_reward, players, matrix_value(players))
    return LowRankEnv(dynamics, num_envs, variant=variant)
