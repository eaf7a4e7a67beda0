"""Random low-rank MDPs with simplex features: P_h(s'|s,a) = psi_h(s') . phi_h(s,a), known exactly, S to 1000.

phi_h(s,a) is a distribution over d latent factors and psi_h[k] a distribution over next states, so a step draws
k ~ phi_h(s,a), then s' ~ psi_h[k], both by alias tables. Stepping does not need the (H,S,A,S) kernel. A small kernel is
tabulated as a whole, so that one draw is enough; the distribution is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import numpy as np

from rl_contrastive.config import Ge, Gt, Options, require
from rl_contrastive.device import require_memory
from rl_contrastive.envs.alias import MOST_VALUES, alias_table
from rl_contrastive.envs.base import BatchEnv, Outcome
from rl_contrastive.envs.streams import Words, high_half, low_half
from rl_contrastive.registry import register
from rl_contrastive.spec import BoolArray, EnvSpec, ExactModel, FloatArray, IntArray

WHOLE_KERNEL = 1 << 19
"""Largest number of entries of all kernels together (4 MiB) that is tabulated whole."""


@dataclass(frozen=True)
class LowRankConfig(Options, where="low-rank"):
    """A random low-rank MDP; everything about it is a function of `mdp_seed` and the sizes."""

    num_states: Annotated[int, Ge(1)] = 50
    """S, number of states."""
    num_actions: Annotated[int, Ge(1)] = 5
    """A, number of actions."""
    horizon: Annotated[int, Ge(1)] = 5
    """H, steps per episode."""
    rank: Annotated[int, Ge(1)] = 3
    """d, dimension of phi and psi."""
    mdp_seed: Annotated[int, Ge(0)] = 0
    """Which MDP of the family; not the seed of the run."""
    alpha_phi: Annotated[float, Gt(0)] = 0.3
    """Concentration of phi_h(s,a) ~ Dirichlet(alpha_phi) over the d factors; small is nearly one-hot."""
    alpha_psi: Annotated[float, Gt(0)] = 0.5
    """Concentration of psi_h[k] ~ Dirichlet(alpha_psi) over the S states, and of the start distribution."""
    reward: Literal["table", "linear"] = "table"
    """"table": r_h(s,a) ~ Beta(.3, .9), mean 1/4, most pairs pay almost nothing and one in nine more than .75;
    "linear": r_h(s,a) = phi_h(s,a) . theta_h with theta_h uniform on [0,1]^d (a linear MDP)."""
    stationary: bool = False
    """One kernel and reward for all steps instead of one per step."""


@dataclass(frozen=True)
class LowRankMDP:
    """The drawn law, with G = 1 (stationary) or H kernels: phi (G,S,A,d), psi (G,d,S), r (G,S,A), rho (S,)."""

    phi: FloatArray
    psi: FloatArray
    r: FloatArray
    rho: FloatArray


DrawReward = Callable[[FloatArray, np.random.Generator], FloatArray]
"""phi (G,S,A,d) and a generator -> rewards (G,S,A) in [0,1]."""


def table_reward(phi: FloatArray, rng: np.random.Generator) -> FloatArray:
    """r_h(s,a) ~ Beta(.3, .9), independent of phi."""
    return rng.beta(0.3, 0.9, size=phi.shape[:3])


def linear_reward(phi: FloatArray, rng: np.random.Generator) -> FloatArray:
    """r_h(s,a) = phi_h(s,a) . theta_h with theta_h uniform on [0,1]^d."""
    G, _, _, d = phi.shape
    return np.asarray(np.einsum("gsad,gd->gsa", phi, rng.random((G, d))))


REWARDS: dict[str, DrawReward] = {"table": table_reward, "linear": linear_reward}


def require_tables(name: str, config: LowRankConfig) -> None:
    """RlcError where phi, psi, rewards and values of these sizes do not fit into memory, or into an alias table."""
    S, A, d, H = config.num_states, config.num_actions, config.rank, config.horizon
    require(max(S, d) <= MOST_VALUES, f"{name}: num_states and rank must be at most {MOST_VALUES}, got {S} and {d}.")
    size = 8 * H * (2 * d * S * A + 2 * d * S + 3 * S * A)
    require_memory(size, f"{name}: {H} steps, {S} states, {A} actions and rank {d}", "make them fewer")


def draw_mdp(config: LowRankConfig, draw_reward: DrawReward | None = None) -> LowRankMDP:
    """Draw the MDP of `config.mdp_seed` (PCG64, so the same on each machine); the reward of the config unless given."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(config.mdp_seed)))
    S, A, d = config.num_states, config.num_actions, config.rank
    G = 1 if config.stationary else config.horizon
    phi = _dirichlet(config.alpha_phi, (G, S, A, d), rng=rng)
    psi = _dirichlet(config.alpha_psi, (G, d, S), rng=rng)
    rho = _dirichlet(config.alpha_psi, (S,), rng=rng)
    r = (draw_reward or REWARDS[config.reward])(phi, rng)
    return LowRankMDP(phi, psi, r, rho)


def _dirichlet(alpha: float, shape: tuple[int, ...], *, rng: np.random.Generator) -> FloatArray:
    """Symmetric Dirichlet over the last axis. Tiny alpha can underflow all gammas, so numpy's own sampler is used."""
    return rng.dirichlet(np.full(shape[-1], alpha), size=shape[:-1])


@dataclass(frozen=True)
class LowRankVariant:
    """The parts that a game with the same dynamics changes; the defaults are the plain MDP."""

    name: str = "low-rank"
    """Registry name."""
    draw_reward: DrawReward | None = None
    """The distribution of the rewards, if it is none of the config's."""
    players: tuple[int, int] | None = None
    """(A, B) of the two players whose joint actions the A of the config counts."""
    state_value: Callable[[FloatArray], FloatArray] = lambda Q: np.asarray(Q.max(axis=-1))
    """Q_h (S, A) -> V_h (S,): the maximum for one agent, the value of each state's matrix game for two players."""
    draw: Callable[[LowRankConfig], LowRankMDP] | None = None
    """Draws the MDP, in the place of `draw_mdp`."""
    reward_range: tuple[float, float] = (0.0, 1.0)
    """Least and largest reward of a step."""


PLAIN = LowRankVariant()


@register("env", "low-rank", LowRankConfig)
class LowRankEnv(BatchEnv):
    """Random low-rank MDP with tabular observations: the validation ground of the theory.

    Episodes have exactly H steps and end in a true terminal. Rewards are deterministic given (h, s, a).
    """

    def __init__(self, config: LowRankConfig, num_envs: int, *, variant: LowRankVariant = PLAIN) -> None:
        self.config, self.variant = config, variant
        require_tables(variant.name, config)
        self.mdp = draw_mdp(config, variant.draw_reward) if variant.draw is None else variant.draw(config)
        S, A, H = config.num_states, config.num_actions, config.horizon
        spec = EnvSpec(
            name=variant.name,
            num_actions=A,
            horizon=H,
            obs_shape=(),
            obs_dtype="int64",
            num_states=S,
            optimal_return=float(self._values[0][0] @ self.mdp.rho),
            reward_range=variant.reward_range,
            players=variant.players,
            stationary=config.stationary,
        )
        super().__init__(spec, num_envs, words_per_step=1)
        kernels = range(self.mdp.phi.shape[0])
        # One table of successors: of P(.|s,a) itself, or of psi[k] with a table of factors before it.
        whole = self.mdp.phi.shape[0] * S * A * S <= WHOLE_KERNEL
        self._factor = None if whole else [alias_table(self.mdp.phi[g]) for g in kernels]
        self._successor = [
            alias_table(self.mdp.phi[g] @ self.mdp.psi[g] if whole else self.mdp.psi[g]) for g in kernels
        ]
        self._num_actions = np.array(A)  # 0-d, as in `AliasTable`
        self._reward = [self.mdp.r[g].ravel() for g in kernels]
        self._first = alias_table(self.mdp.rho)
        self._state: IntArray = np.zeros(num_envs, dtype=np.int64)

    @cached_property
    def _values(self) -> tuple[FloatArray, FloatArray]:
        """V (H+1, S), Q (H, S, A) through the factors: Q_h = r_h + phi_h (psi_h V_{h+1}), never forming P."""
        H, S, A = self.config.horizon, self.config.num_states, self.config.num_actions
        V, Q = np.zeros((H + 1, S)), np.zeros((H, S, A))
        for h in range(H - 1, -1, -1):
            g = 0 if self.config.stationary else h
            Q[h] = self.mdp.r[g] + self.mdp.phi[g] @ (self.mdp.psi[g] @ V[h + 1])
            V[h] = self.variant.state_value(Q[h])
        return V, Q

    def _prepare(self, words: Words) -> None:
        # One word drives both draws of a step.
        self._y_successor, self._j_successor = self._successor[0].columns(high_half(words[:, 0]))  # (K, n)
        if self._factor is not None:
            self._y_factor, self._j_factor = self._factor[0].columns(low_half(words[:, 0]))

    def _start(self, slot: int, rows: BoolArray | None) -> None:
        # rho has S values, as psi has: the columns of the successor draw serve.
        row = np.zeros(self.num_envs, dtype=np.int64)
        self._state = self._first.draw(row, self._y_successor[slot], self._j_successor[slot])

    def _advance(self, action: IntArray, slot: int) -> Outcome:
        g = 0 if self.config.stationary else self.h
        pair = self._state * self._num_actions
        pair += action  # (n,) index of (s, a)
        row = pair
        if self._factor is not None:
            row = self._factor[g].draw(pair, self._y_factor[slot], self._j_factor[slot])
        self._state = self._successor[g].draw(row, self._y_successor[slot], self._j_successor[slot])
        return self._reward[g][pair], None, None

    def _observe(self, slot: int) -> IntArray:
        return self._state.copy()

    def latent_states(self) -> IntArray:
        """(n,) state indices; here they are the observations."""
        return self._state.copy()

    def exact(self) -> ExactModel:
        """P, r, phi, psi, rho and optimal values; P is (H,S,A,S) float64, a broadcast view when stationary."""
        return self._exact

    @cached_property
    def _exact(self) -> ExactModel:
        H, S, A = self.config.horizon, self.config.num_states, self.config.num_actions
        what = f"{self.variant.name}: the exact model of {S} states and {A} actions at {len(self.mdp.phi)} steps"
        require_memory(8 * len(self.mdp.phi) * S * A * S, what, "make them fewer, or take --exact never")
        psi = self.mdp.psi.transpose(0, 2, 1)  # (G, S, d)
        P = np.einsum("gsad,gdt->gsat", self.mdp.phi, self.mdp.psi, optimize=True)
        V, Q = self._values

        def along_h(x: FloatArray) -> FloatArray:
            return np.broadcast_to(x, (H, *x.shape[1:]))

        return ExactModel(
            P=along_h(P),
            r=along_h(self.mdp.r),
            rho=self.mdp.rho,
            phi=along_h(self.mdp.phi),
            psi=along_h(psi),
            V=V,
            Q=Q,
            observations_are_states=True,
            players=self.variant.players,
        )
