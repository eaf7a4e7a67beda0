"""A family of random low-rank zero-sum games that only optimism solves: each player has a path of rare states to find.

Factor 0 of d leads to the few states of the maximiser's path at the next step, factor 1 to those of the minimiser's,
the others to random mixtures of common states. An episode begins on either path with probability 1/2. On it the owner
has one right action, another one at each state and step, which stays on the path with probability `success`. The other
player's action makes no difference. All other actions lead to the common states for good and pay the owner a bait. It
is larger the sooner it is taken, so that a player without optimism takes it at once. At the last step the owner has two
right actions and wins 1, unless the other player guesses which one it is:

    V_h = success^(H-1-h) / 2 on the maximiser's path,   minus that on the minimiser's,   0 at common states,

where each stage game is antisymmetric. The rewards lie in [-1, 1] and the value of the whole game is 0. The uniform
actions of Algorithm 2 take two right steps by chance: a planner without a bonus fails where H is clearly larger than
that (from 6 on, with a bait above 0) and success^(H-1) is well above the gap that counts as solved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from rl_contrastive.config import Ge, Gt, In, Options, require
from rl_contrastive.envs.game_low_rank import matrix_value
from rl_contrastive.envs.low_rank import LowRankConfig, LowRankEnv, LowRankMDP, LowRankVariant
from rl_contrastive.registry import register
from rl_contrastive.spec import BoolArray, FloatArray


@dataclass(frozen=True)
class NeedleGameConfig(Options, where="needle-game"):
    """A random low-rank game with a needle for each player; all of it is a function of `game_seed` and the sizes."""

    num_states: int = 30
    """S, number of states (> 2 path_states)."""
    num_actions: Annotated[int, Ge(2)] = 3
    """A, number of actions of each player."""
    horizon: Annotated[int, Ge(1)] = 6
    """H, right actions in a row."""
    rank: Annotated[int, Ge(3)] = 4
    """d, dimension of phi and psi: a factor for each path and d - 2 of common states."""
    game_seed: Annotated[int, Ge(0)] = 0
    """Which game of the family; not the seed of the run."""
    path_states: Annotated[int, Ge(1)] = 2
    """States of each path at each step."""
    success: Annotated[float, In(0, 1, above=True)] = 0.97
    """Probability that a right action stays on the path."""
    bait: float = 0.02
    """Most that the owner of a path is paid for leaving it, in [0, success^(H-1) / 2): staying is worth more."""
    alpha_phi: Annotated[float, Gt(0)] = 0.3
    """Concentration of phi_h(s,a,b) ~ Dirichlet(alpha_phi) over the factors of common states."""
    alpha_psi: Annotated[float, Gt(0)] = 0.5
    """Concentration of psi_h[k] ~ Dirichlet(alpha_psi) over the common states."""

    def __post_init__(self) -> None:
        super().__post_init__()
        room = self.num_states > 2 * self.path_states
        require(room, f"needle-game: num_states must be > 2 path_states, got {self.num_states} and {self.path_states}.")
        most = self.success ** (self.horizon - 1) / 2
        require(0.0 <= self.bait < most, f"needle-game: bait must be in [0, {most:.3g}), got {self.bait}.")


def draw_needle_game(c: NeedleGameConfig) -> LowRankMDP:
    """The game of `game_seed` over the joint actions a A + b."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(c.game_seed)))
    S, A, H, d, g = c.num_states, c.num_actions, c.horizon, c.rank, c.path_states
    path = np.zeros((2, H + 1, S), dtype=np.bool_)  # of the maximiser, of the minimiser
    for h in range(H + 1):
        states = rng.choice(S, 2 * g, replace=False)
        path[0, h, states[:g]] = path[1, h, states[g:]] = True
    phi, psi = np.zeros((H, S, A, A, d)), np.zeros((H, d, S))
    phi[..., 2:] = rng.dirichlet(np.full(d - 2, c.alpha_phi), size=(H, S, A, A))
    games = rng.random((H, S, A, A))
    r = c.bait * (games - games.swapaxes(2, 3))  # antisymmetric
    for h in range(H):
        common = ~path[:, h + 1].any(axis=0)
        psi[h, 2:, common] = rng.dirichlet(np.full(common.sum(), c.alpha_psi), size=d - 2).T
        psi[h, :2] = path[:, h + 1] / g
        bait = c.bait * (1.0 - (h + rng.random((S, A))) / (H + 1))  # larger than any of a later step
        for player, sign in enumerate((1.0, -1.0)):
            # As the owner sees it: axis 1 counts its own actions, axis 2 the other player's.
            features, reward = (x[h] if player == 0 else x[h].swapaxes(1, 2) for x in (phi, r))
            for s in np.flatnonzero(path[player, h]):
                reward[s] = sign * bait[s][:, None]
                right, guess = rng.permutation(A)[:2], rng.permutation(A)[:2]
                if h == H - 1:
                    reward[s, right] = sign
                    reward[s, right, guess] = 0.0
                else:
                    reward[s, right[0]] = 0.0
                    features[s, right[0]] *= 1.0 - c.success
                    features[s, right[0], :, player] = c.success
    return LowRankMDP(phi.reshape(H, S, A * A, d), psi, r.reshape(H, S, A * A), _start(path[:, 0]))


def _start(path: BoolArray) -> FloatArray:
    """(S,) uniform over the first states of both paths (2, S)."""
    first = path.any(axis=0)
    return np.asarray(first / first.sum())


@register("env", "needle-game", NeedleGameConfig)
def needle_game(config: NeedleGameConfig, num_envs: int) -> LowRankEnv:
    """Zero-sum game with a rarely reached reward for each player: without optimism neither is found."""
    A = config.num_actions
    dynamics = LowRankConfig(
        num_states=config.num_states,
        num_actions=A * A,
        horizon=config.horizon,
        rank=config.rank,
        mdp_seed=config.game_seed,
    )
    variant = LowRankVariant(
        name="needle-game",
        players=(A, A),
        state_value=matrix_value((A, A)),
        draw=lambda _: draw_needle_game(config),
        reward_range=(-1.0, 1.0),
    )
    return LowRankEnv(dynamics, num_envs, variant=variant)
