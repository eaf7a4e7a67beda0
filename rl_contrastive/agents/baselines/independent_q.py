"""Independent Q-learning: each player of a game treats the other as a part of the environment.

    for each transition (s, a, b, r, s') of step h, with the step size alpha_n of `q_learning`:
      1. maximiser:  Q1_h(s,a) += alpha_n (r + max_a' Q1_{h+1}(s',a') - Q1_h(s,a))
      2. minimiser:  Q2_h(s,b) += alpha_n (r + min_b' Q2_{h+1}(s',b') - Q2_h(s,b))
      3. both play epsilon-greedily, each in its own table

For each player the environment changes with the other's policy, so nothing need converge. A greedy policy is
deterministic. Where an equilibrium must mix, as in rock-paper-scissors, it can be exploited whatever was learned. This
baseline shows why games need equilibria. Source: Tan 1993.

Rich observations are first decoded into latent states, by the decoder that contrastive-ucb-game may use. So the
comparison is about the use of the states and not about how they are found.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np

from rl_contrastive.acting import greedy, sample
from rl_contrastive.agents.base import BaseAgent
from rl_contrastive.agents.baselines.q_learning import Episodes, QTable, StepSize
from rl_contrastive.config import Ge, Gt, In, Options, require_keys
from rl_contrastive.features.decoder import DecoderConfig
from rl_contrastive.registry import register
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import Array, Env, EnvSpec, FloatArray, IntArray, State, Transition, product, split_action


@dataclass(frozen=True)
class IndependentQConfig(Options, where="independent-q"):
    """Two epsilon-greedy Q-learners."""

    batch: Annotated[int, Ge(1)] = 10
    """B, episodes between two updates."""
    alpha: Annotated[float | None, In(0, 1, above=True)] = None
    """Constant step size; default (H + 1) / (H + n) at the n-th visit."""
    epsilon: Annotated[float, In(0, 1)] = 0.1
    """Final probability of a uniform action, of each player by itself."""
    decay_episodes: Annotated[int, Ge(0)] = 0
    """epsilon_k falls linearly from 1 to `epsilon` over this many episodes (0: constant)."""
    pool: bool = False
    """Where the environment declares one kernel for all steps and shows its states: one table for all steps,
    independent of h. This suits long games (soccer) and fails where the last steps differ much from the first."""
    capacity: Annotated[int, Ge(10)] = 5000
    """Rows kept of each step where observations are decoded, the newest ones."""
    decoder_growth: Annotated[float, Gt(0)] = 0.1
    """Refit a step's decoder when its rows grew by this fraction."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Rich observations -> latent states."""


@register("agent", "independent-q", IndependentQConfig)
class IndependentQ(BaseAgent):
    """Two Q-learners that ignore each other, greedy policies handed out (zero-sum games, any observation)."""

    plays = "game"

    def __init__(self, env: Env, config: IndependentQConfig, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        spec = self.env_spec
        self.players = spec.game
        self.data = Episodes(spec, config.decoder, capacity=config.capacity, growth=config.decoder_growth)
        step, S = StepSize(config.alpha, spec.horizon), self.data.num_states
        pooled = pools(spec, config.pool)
        self.max_player, self.min_player = (QTable(spec.horizon, S, n, step, pooled=pooled) for n in self.players)
        self.rng = self.seeds.generator("act")
        self.episodes = 0

    def act(self, obs: Any, h: int) -> IntArray:
        return sample(self.policy(obs, h, explore=True), rng=self.rng)

    def observe(self, transition: Transition) -> None:
        self.data.add(transition)

    def update(self) -> dict[str, float]:
        self.episodes += self.batch
        redecoded, parts = self.data.take()
        for table in (self.max_player, self.min_player):
            table.forget(redecoded)
        for rows in parts:
            a, b = split_action(rows.action, self.players)
            for table, own, sign in ((self.max_player, a, 1.0), (self.min_player, b, -1.0)):
                best = sign * table.best_after(rows, sign)  # (1) and (2)
                table.learn(rows.h, rows.z, own, rows.reward + rows.discount * best)
        self.version += 1
        return {"epsilon": decayed(self.config, self.episodes)}

    def policy(self, obs: Array, h: int, *, explore: bool = False) -> FloatArray:
        """The product of the players' greedy policies, uniform over exact ties; explore=True: epsilon-greedy."""
        z = self.data.label(h, obs, explore=explore)
        epsilon = decayed(self.config, self.episodes) if explore else 0.0
        mu = mixed(greedy(self.max_player.at(h, z)), epsilon)
        return product(mu, mixed(greedy(-self.min_player.at(h, z)), epsilon))  # (3)

    def state_dict(self) -> State:
        return {
            "max": self.max_player.state_dict(),
            "min": self.min_player.state_dict(),
            "data": self.data.state_dict(),
            "episodes": self.episodes,
            "version": self.version,
            "rng": generator_state(self.rng),
        }

    def load_state_dict(self, state: State) -> None:
        require_keys(state, ("max", "min", "data", "episodes", "version", "rng"), "independent-q")
        self.max_player.load_state_dict(state["max"])
        self.min_player.load_state_dict(state["min"])
        self.data.load_state_dict(state["data"])
        self.episodes, self.version = int(state["episodes"]), int(state["version"])
        restore_generator(self.rng, state["rng"])


def pools(spec: EnvSpec, wanted: bool) -> bool:
    """Whether one table serves all steps; decoders are fitted step by step, so only where states are observed."""
    return wanted and spec.stationary and spec.num_states is not None


def mixed(policy: FloatArray, epsilon: float) -> FloatArray:
    """(1 - epsilon) policy + epsilon uniform."""
    return np.asarray((1.0 - epsilon) * policy + epsilon / policy.shape[1])


def decayed(config: Any, episodes: int) -> float:
    """epsilon_k after `episodes` episodes, of a config with `epsilon` and `decay_episodes`."""
    if episodes >= config.decay_episodes:
        return float(config.epsilon)
    return float(1.0 - (1.0 - config.epsilon) * episodes / config.decay_episodes)
