"""Nash-Q (Hu, Wellman 2003) for zero-sum games: Q-learning with the equilibrium value of the next stage game.

    for each transition (s, a, b, r, s') of step h, with the step size alpha_n of `q_learning`:
      1. Q_h(s,a,b) += alpha_n (r + V_{h+1}(s') - Q_h(s,a,b))
      2. (mu_h(s), nu_h(s)) = Nash equilibrium of Q_h(s,.,.),  V_h(s) its value         (only at states just visited)
      3. both play mu, nu, each uniformly with probability epsilon

One learner serves both players: in a zero-sum game Hu and Wellman's second table is the first one's negative (Littman
1994 calls this minimax-Q). Rich observations are decoded into latent states first, as for independent-q.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_contrastive.acting import sample
from rl_contrastive.agents.base import BaseAgent
from rl_contrastive.agents.baselines.independent_q import IndependentQConfig, decayed, mixed, pools
from rl_contrastive.agents.baselines.q_learning import Episodes, QTable, Rows, StepSize
from rl_contrastive.config import require_keys
from rl_contrastive.planning.equilibrium import nash
from rl_contrastive.registry import register
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import Array, Env, FloatArray, IntArray, State, Transition, product

ARRAYS = ("V", "mu", "nu")


@dataclass(frozen=True)
class NashQConfig(IndependentQConfig, where="nash-q"):
    """Nash-Q with epsilon-greedy exploration."""

    epsilon: float = 0.3
    """Final probability of a uniform action, of each player by itself."""


@register("agent", "nash-q", NashQConfig)
class NashQ(BaseAgent):
    """Q-learning on the values of stage games, Nash policies handed out (zero-sum games, any observation)."""

    plays = "game"

    def __init__(self, env: Env, config: NashQConfig, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        spec = self.env_spec
        A, B = spec.game
        self.data = Episodes(spec, config.decoder, capacity=config.capacity, growth=config.decoder_growth)
        H, S = spec.horizon, self.data.num_states
        self.table = QTable(H, S, A * B, StepSize(config.alpha, H), pooled=pools(spec, config.pool))
        G = len(self.table.Q)  # H, or 1
        self.V: FloatArray = np.zeros((G, S))
        self.mu: FloatArray = np.full((G, S, A), 1.0 / A)
        self.nu: FloatArray = np.full((G, S, B), 1.0 / B)
        self.rng = self.seeds.generator("act")
        self.episodes = 0

    def act(self, obs: Any, h: int) -> IntArray:
        return sample(self.policy(obs, h, explore=True), rng=self.rng)

    def observe(self, transition: Transition) -> None:
        self.data.add(transition)

    def update(self) -> dict[str, float]:
        self.episodes += self.batch
        redecoded, parts = self.data.take()
        self.table.forget(redecoded)
        for h in redecoded:
            self._solve(int(h), np.arange(self.data.num_states))
        for rows in parts:
            self._learn(rows)
        self.version += 1
        return {"epsilon": decayed(self.config, self.episodes)}

    def _learn(self, rows: Rows) -> None:
        target = rows.reward
        if rows.h + 1 < self.env_spec.horizon:  # V_H = 0
            target = target + rows.discount * self.V[self.table.level(rows.h + 1), rows.z_next]
        self.table.learn(rows.h, rows.z, rows.action, target)  # (1)
        self._solve(rows.h, np.unique(rows.z))

    def _solve(self, h: int, z: IntArray) -> None:
        """(2) at the states z."""
        found, g = nash(self.table.at(h, z).reshape(len(z), *self.env_spec.game)), self.table.level(h)
        self.mu[g, z], self.nu[g, z], self.V[g, z] = found.x, found.y, found.value

    def policy(self, obs: Array, h: int, *, explore: bool = False) -> FloatArray:
        """The product of the equilibrium policies of the stage games; explore=True: (3)."""
        z = self.data.label(h, obs, explore=explore)
        epsilon = decayed(self.config, self.episodes) if explore else 0.0
        g = self.table.level(h)
        return product(mixed(self.mu[g, z], epsilon), mixed(self.nu[g, z], epsilon))

    def state_dict(self) -> State:
        return {
            **{name: getattr(self, name).copy() for name in ARRAYS},
            "table": self.table.state_dict(),
            "data": self.data.state_dict(),
            "episodes": self.episodes,
            "version": self.version,
            "rng": generator_state(self.rng),
        }

    def load_state_dict(self, state: State) -> None:
        require_keys(state, (*ARRAYS, "table", "data", "episodes", "version", "rng"), "nash-q")
        self.table.load_state_dict(state["table"])
        self.data.load_state_dict(state["data"])
        for name in ARRAYS:
            getattr(self, name)[...] = state[name]  # of the table's shape, which was just checked
        self.episodes, self.version = int(state["episodes"]), int(state["version"])
        restore_generator(self.rng, state["rng"])
