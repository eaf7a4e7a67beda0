"""Contrastive features, latent states, and a walk to the most uncertain place that can be reached.

This is not the paper's Algorithm 1 (that is `contrastive-ucb`). Counts of decoded latents replace the elliptical bonus,
and the largest reachable uncertainty replaces the sum r + b. With one-hot features both bonuses agree.

    warm start: n0 uniform episodes
    repeat
      1. where a step's data grew by `growth`: refit directions and latents z_h(o) in closed form, relabel
      2. N_h(z,a), P-hat, r-hat from the labelled rows
      3. backward: b = 1/sqrt(1+N), E = max(b, P-hat max_a E_{h+1}); greedy Q from r-hat, P-hat
      4. roll in by argmax P-hat E; from the first state where max_a b >= max_a P-hat E on, act uniformly
      5. store the switch step and the next one (their actions are uniform, so P-hat is unbiased given the state)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np

from rl_contrastive.agents.base import BaseAgent
from rl_contrastive.config import Ge, Gt, Options, require_keys
from rl_contrastive.features.decoder import DecoderConfig
from rl_contrastive.features.tables import make_table
from rl_contrastive.planning.frontier import FrontierPlan, plan_frontier
from rl_contrastive.registry import register
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import Behaviour, BoolArray, Env, FloatArray, IntArray, State, Transition


@dataclass(frozen=True)
class FrontierConfig(Options, where="frontier"):
    """Contrastive-frontier; the defaults suit the combination lock at every horizon."""

    batch: Annotated[int, Ge(1)] = 50
    """B, episodes between two updates."""
    warm_start: Annotated[int, Ge(1)] = 100
    """n0, uniform episodes before the first plan; they count as episodes."""
    capacity: Annotated[int, Ge(10)] = 2000
    """Newest rows kept of each step, which keeps data recent and refits cheap. Tables of states keep all."""
    tail: Annotated[int, Ge(0)] = 100
    """While a step has fewer rows than this, all its uniform actions are stored, not only those near the switch."""
    growth: Annotated[float, Gt(0)] = 0.1
    """Refit a step when its data grew by this fraction."""
    uniform_steps: Annotated[int, Ge(1)] = 2
    """Number of stored steps of each episode from the switch on."""
    decoder: DecoderConfig = field(default_factory=lambda: DecoderConfig(arrivals=False, backward=None))
    """Observations -> latent states; unused where observations are states."""


@register("agent", "contrastive-frontier", FrontierConfig)
class ContrastiveFrontier(BaseAgent):
    """Max-propagated uncertainty over latents decoded from closed-form contrastive features."""

    config: FrontierConfig

    def __init__(self, env: Env, config: FrontierConfig, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        self.table = make_table(self.env_spec, config.decoder, capacity=config.capacity, growth=config.growth)
        self.rng = self.seeds.generator("act")
        self.episodes = 0
        self._replan()
        self._switch: IntArray = np.zeros(0, dtype=np.int64)

    def begin(self, num_envs: int) -> None:
        """No row has reached its frontier yet. In the warm start every row acts uniformly from the first step on."""
        warm = self.episodes < self.config.warm_start
        self._switch = np.full(num_envs, 0 if warm else self.env_spec.horizon, dtype=np.int64)

    def act(self, obs: Any, h: int) -> IntArray:
        """4. The way to the frontier, then uniform actions."""
        action = self.rng.integers(self.env_spec.num_actions, size=len(obs))
        going = self._switch > h
        if going.any():
            z = self.table.label(h, obs)
            arrived = going & self.frontier[h, z]
            self._switch[arrived] = h
            going &= ~arrived
            action[going] = self.plan.reachable[h, z].argmax(axis=1)[going]
        return np.asarray(action, dtype=np.int64)

    def observe(self, transition: Transition) -> None:
        """5. Uniform actions only: those right after the switch, and all of them while the step has little data."""
        h = transition.h
        near = h < self._switch + self.config.uniform_steps
        self.table.add(transition, (self._switch <= h) & (near | (self.table.rows()[h] < self.config.tail)))

    def update(self) -> dict[str, float]:
        """1.-3. Refit, recount, plan."""
        self.episodes += len(self._switch)
        self.table.refresh(rng=self.rng)
        self._replan()
        self.version += 1
        return {
            "frontier": float(np.minimum(self._switch, self.env_spec.horizon).mean()),
            "largest_uncertainty": float(self.plan.E[0].max()),
            "rows": float(self.table.rows().sum()),
            **self.table.scalars(),
        }

    def _replan(self) -> None:
        M = self.table.counts.dense()  # (H, S, A, S)
        N = M.sum(axis=3)
        P = M * self.table.alive[:, None, None, :] / np.maximum(N, 1.0)[..., None]
        self.plan: FrontierPlan = plan_frontier(P, self.table.reward, N)
        self.frontier: BoolArray = self.plan.frontier() > 0  # (H, S), read at every step of every batch

    def policy(self, obs: Any, h: int, *, explore: bool = False) -> FloatArray:
        """Greedy in Q (r-hat and P-hat, no bonus), or in the reachable uncertainty; ties to the first action."""
        z = self.table.label(h, obs, explore=explore)
        values = (self.plan.reachable if explore else self.plan.Q)[h, z]  # (N, A)
        return np.asarray(np.eye(self.env_spec.num_actions)[values.argmax(axis=1)])

    def behaviour(self, pi: FloatArray) -> Behaviour:
        """4. Two modes: the way, and uniform actions from the first frontier state on."""
        H, S, A = pi.shape
        warm = float(self.episodes < self.config.warm_start)
        states = np.arange(S)
        leave = np.stack([self.frontier[h, self.table.label(h, states)] for h in range(H)])
        return Behaviour(np.array([1.0 - warm, warm]), np.stack([pi, np.full(pi.shape, 1.0 / A)]), leave)

    def state_dict(self) -> State:
        numbers = {"episodes": self.episodes, "version": self.version, "rng": generator_state(self.rng)}
        return {**numbers, "table": self.table.state_dict()}

    def load_state_dict(self, state: State) -> None:
        require_keys(state, ("episodes", "version", "rng", "table"), "frontier")
        self.episodes, self.version = int(state["episodes"]), int(state["version"])
        restore_generator(self.rng, state["rng"])
        self.table.load_state_dict(state["table"])
        self._replan()


@dataclass(frozen=True)
class PCAFrontierConfig(FrontierConfig):
    """The control: the same planner on latents of the leading principal directions, without any dynamics."""

    decoder: DecoderConfig = field(default_factory=lambda: DecoderConfig(directions="pca", arrivals=False, backward=1))
    """Observations -> latent states."""


@register("agent", "pca-frontier", PCAFrontierConfig)
def pca_frontier(env: Env, config: PCAFrontierConfig, *, seed: int = 0) -> ContrastiveFrontier:
    """Control without representation learning: contrastive-frontier on PCA directions of the observation alone."""
    return ContrastiveFrontier(env, config, seed=seed)
