"""Contrastive features, latent states, and a walk to the most uncertain place that can be reached.

Not the paper's Algorithm 1 (that is `contrastive-ucb`): counts of decoded latents take the place of the elliptical bonus,
and the largest reachable uncertainty that of the sum r + b. With one-hot features both bonuses agree.

    warm start: n0 uniform episodes
    repeat
      1. where a step's data grew by `growth`: refit directions and latents z_h(o) in closed form, relabel
      2. N_h(z,a), P-hat, r-hat from the labelled rows
      3. backward: b = 1/sqrt(1+N), E = max(b, P-hat max_a E_{h+1}); greedy Q from r-hat, P-hat
      4. roll in by argmax P-hat E; from the first state where max_a b >= max_a P-hat E on, act uniformly
      5. store the switch step and the next one (uniform actions, so that P-hat is unbiased given the state)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rl_contrastive.agents.base import BaseAgent
from rl_contrastive.config import require
from rl_contrastive.experiment.store import LevelStore
from rl_contrastive.features.decoder import DecoderConfig, LatentDecoder, seen
from rl_contrastive.planning.frontier import FrontierPlan, plan_frontier
from rl_contrastive.registry import register
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import Env, ExactModel, FloatArray, IntArray, LevelData, State, Transition


@dataclass(frozen=True)
class FrontierConfig:
    """Contrastive-frontier; the defaults suit the combination lock at every horizon."""

    batch: int = 50
    """B, episodes between two updates (>= 1)."""
    warm_start: int = 100
    """n0, uniform episodes before the first plan (>= 1); they count as episodes."""
    capacity: int = 500
    """Rows kept of each step, the newest ones (>= 10): a fresher mix and a cheaper refit."""
    tail: int = 100
    """While a step has fewer rows than this, all its uniform actions are stored, not only those near the switch."""
    growth: float = 0.1
    """Refit a step when its data grew by this fraction (> 0)."""
    uniform_steps: int = 2
    """Stored steps of each episode from the switch on (>= 1)."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Observations -> latent states; unused where observations are states."""

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("warm_start", 1), ("capacity", 10), ("tail", 0), ("uniform_steps", 1)):
            require(getattr(self, name) >= least, f"frontier: {name} must be >= {least}, got {getattr(self, name)}.")
        require(0 < self.growth < np.inf, f"frontier: growth must be > 0, got {self.growth}.")


@register("agent", "contrastive-frontier", FrontierConfig)
class ContrastiveFrontier(BaseAgent):
    """Max-propagated uncertainty over latents decoded from closed-form contrastive features."""

    config: FrontierConfig

    def __init__(self, env: Env, config: FrontierConfig, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        spec = self.env_spec
        self.store = LevelStore(spec, config.capacity)
        self.rng = self.seeds.generator("act")
        self.decoder: LatentDecoder | None = None
        if spec.num_states is None:
            self.decoder = LatentDecoder(
                config.decoder, horizon=spec.horizon, num_actions=spec.num_actions, obs_shape=spec.obs_shape
            )
        self.num_latents = spec.num_states or config.decoder.most_latents
        H, K, A = spec.horizon, self.num_latents, spec.num_actions
        self.N: FloatArray = np.zeros((H, K, A))
        self.P: FloatArray = np.zeros((H, K, A, K))
        self.r: FloatArray = np.zeros((H, K, A))
        self.fitted: IntArray = np.zeros(H, dtype=np.int64)  # rows ever added to each step at its last fit
        self.counted: IntArray = np.zeros(H, dtype=np.int64)  # and at its last count
        self.episodes = 0
        self.plan: FrontierPlan = plan_frontier(self.P, self.r, self.N)
        self._switch: IntArray = np.zeros(0, dtype=np.int64)

    def begin(self, num_envs: int) -> None:
        """No row has reached its frontier yet; in the warm start every row acts uniformly from the first step on."""
        warm = self.episodes < self.config.warm_start
        self._switch = np.full(num_envs, 0 if warm else self.env_spec.horizon, dtype=np.int64)

    def act(self, obs: Any, h: int) -> IntArray:
        """4. The way to the frontier, then uniform actions."""
        action = self.rng.integers(self.env_spec.num_actions, size=len(obs))
        going = self._switch > h
        if going.any():
            z = self.latents(h, obs)
            arrived = going & (self.plan.frontier()[h, z] > 0)
            self._switch[arrived] = h
            going &= ~arrived
            action[going] = self.plan.reachable[h, z].argmax(axis=1)[going]
        return np.asarray(action, dtype=np.int64)

    def observe(self, transition: Transition) -> None:
        """5. Uniform actions only: those right after the switch, and all of them while the step has little data."""
        h = transition.h
        uniform = self._switch <= h
        near = h < self._switch + self.config.uniform_steps
        self.store.add(transition, uniform & (near | (self.store.count[h] < self.config.tail)))

    def update(self) -> dict[str, float]:
        """1.-3. Refit, recount, plan."""
        self.episodes += len(self._switch)
        data = self.store.data()
        changed = self._refit(data)
        self._count(data, changed)
        self.plan = plan_frontier(self.P, self.r, self.N)
        self.version += 1
        return {
            "latents": float(self.decoder.clusters.count.mean()) if self.decoder else float(self.num_latents),
            "frontier": float(np.minimum(self._switch, self.env_spec.horizon).mean()),
            "largest_uncertainty": float(self.plan.E[0].max()),
            "rows": float(self.store.count.sum()),
        }

    def _refit(self, data: LevelData) -> IntArray:
        """Steps whose rows must be counted again: new rows, or a new decoder on either side."""
        total = self.store.total
        stale = total > self.counted
        if self.decoder is not None:
            grown = np.flatnonzero(total >= np.maximum((1.0 + self.config.growth) * self.fitted, self.fitted + 1))
            redecoded = self.decoder.refit(data, grown)
            self.fitted[grown] = total[grown]
            stale[redecoded] = True
            stale[redecoded[redecoded > 0] - 1] = True
        self.counted = total.copy()
        return np.flatnonzero(stale)

    def _count(self, data: LevelData, levels: IntArray) -> None:
        """2. N_h(z,a), P-hat_h(z'|z,a) and r-hat_h(z,a) of some steps; a terminal adds to N but reaches no state."""
        if not len(levels):
            return
        H, K, A = self.env_spec.horizon, self.num_latents, self.env_spec.num_actions
        z, z_next = self._labels(data.obs[levels], levels), self._labels(
            data.next_obs[levels], np.minimum(levels + 1, H - 1)
        )  # at the last step z' is not read: V_H = 0
        weight = seen(data)[levels].astype(np.float64)
        pair = (np.arange(len(levels))[:, None] * K + z) * A + data.action[levels]  # (L, N)
        size = len(levels) * K * A
        N = np.bincount(pair.ravel(), weight.ravel(), size)
        into = weight * data.discount[levels]
        P = np.bincount((pair * K + z_next).ravel(), into.ravel(), size * K).reshape(size, K)
        r = np.bincount(pair.ravel(), (weight * data.reward[levels]).ravel(), size)
        visits = np.maximum(N, 1.0)
        self.N[levels] = N.reshape(-1, K, A)
        self.P[levels] = (P / visits[:, None]).reshape(-1, K, A, K)
        self.r[levels] = (r / visits).reshape(-1, K, A)

    def _labels(self, obs: Any, levels: IntArray) -> IntArray:
        return self.decoder.labels(obs, levels) if self.decoder else np.asarray(obs, dtype=np.int64)

    def latents(self, h: int, obs: Any) -> IntArray:
        """z_h of observations (N, ...)."""
        return self.decoder.label(h, np.asarray(obs)) if self.decoder else np.asarray(obs, dtype=np.int64)

    def policy(self, obs: Any, h: int, *, explore: bool = False) -> FloatArray:
        """Greedy in Q (r-hat and P-hat, no bonus), or in the reachable uncertainty; ties to the first action."""
        values = (self.plan.reachable if explore else self.plan.Q)[h, self.latents(h, obs)]  # (N, A)
        return np.eye(self.env_spec.num_actions)[values.argmax(axis=1)]

    def exact_metrics(self, model: ExactModel) -> dict[str, float]:
        """Mean TV of the counted P-hat over the pairs tried, where observations are the states of the model."""
        if not model.observations_are_states:
            return {}
        tried = self.N > 0
        tv = 0.5 * np.abs(self.P - model.P).sum(axis=-1)
        return {"tv": float(tv[tried].mean())} if tried.any() else {}

    def state_dict(self) -> State:
        state: State = {name: getattr(self, name).copy() for name in ("N", "P", "r", "fitted", "counted")}
        state |= {"episodes": self.episodes, "version": self.version, "rng": generator_state(self.rng)}
        decoder = self.decoder.state_dict() if self.decoder else {}
        return {**state, "store": self.store.state_dict(), "decoder": decoder}

    def load_state_dict(self, state: State) -> None:
        for key in ("N", "P", "r", "fitted", "counted", "episodes", "version", "rng", "store", "decoder"):
            require(key in state, f"frontier: the saved state lacks '{key}'.")
        for name in ("N", "P", "r"):
            setattr(self, name, np.array(state[name], dtype=np.float64))
        self.fitted, self.counted = (np.array(state[k], dtype=np.int64) for k in ("fitted", "counted"))
        self.episodes, self.version = int(state["episodes"]), int(state["version"])
        restore_generator(self.rng, state["rng"])
        self.store.load_state_dict(state["store"])
        if self.decoder:
            self.decoder.load_state_dict(state["decoder"])
        self.plan = plan_frontier(self.P, self.r, self.N)
