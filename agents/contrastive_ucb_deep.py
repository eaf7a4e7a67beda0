"""Deep Contrastive-UCB: Algorithm 1 of Qiu et al. 2022 with networks, for any environment with discrete actions.

    at each step of B episodes side by side:
      1. act by argmax_a b(s,a) + G(s,a),  b = beta ||phi(s,a)||_{Sigma^-1}: today's bonus and the optimistic rest
      2. store the step; Sigma <- Sigma + phi phi'                        (a visit, once; never a gradient step)
      3. every `train_every` steps one gradient step on
             Q(s,a) <- n-step rewards + Q',   G(s,a) <- n-step rewards and bonuses + (b + G')      (`deep/value.py`)
             contrastive loss of f(s,a,s') = psi(s')'phi(s,a) with the batch's successors as negatives
      4. when the visits grew by `growth`: freeze phi anew and rebuild Sigma from the replay
    what is evaluated is argmax_a Q(s,a): no bonus, no noise

The official code (Atari, SPR-UCB) differs in what it calls a bonus: see README, "What the deep agent does not copy".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rl_contrastive.agents.base import BaseAgent, greedy
from rl_contrastive.config import require
from rl_contrastive.deep.config import DeepLearnerConfig
from rl_contrastive.experiment.evaluate import sample
from rl_contrastive.registry import register
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import Array, Env, FloatArray, IntArray, State, Transition


@dataclass(frozen=True)
class ContrastiveUCBDeepConfig:
    """Deep Contrastive-UCB."""

    batch: int = 1
    """B, episodes side by side (>= 1). They start together and wait for the longest one."""
    warm_start: int = 1000
    """Steps of uniform actions before the first gradient step (>= 1)."""
    train_every: int = 1
    """Steps between two gradient steps (>= 1)."""
    gamma: float = 0.99
    """Discount per step, in [0, 1]."""
    n_step: int = 3
    """n of the n-step returns (>= 1)."""
    beta: float = 0.01
    """Scale of the bonus (>= 0): the first visit of a direction is worth beta / sqrt(lam) in units of reward. 0 is the
    control without optimism."""
    lam: float = 0.01
    """lambda, ridge of Sigma (> 0). Features of unit length share much of it, so that with lam = 1 a pair never seen
    looks as if its relatives had been it (`RepresentationConfig.features`)."""
    growth: float = 0.2
    """Freeze the features anew and rebuild Sigma when the visits grew by this fraction (> 0)."""
    epsilon: float = 0.01
    """Share of uniform actions beside optimism, in [0, 1]."""
    capacity: int = 100_000
    """Entries of the replay (>= 100): an observation each, final ones included."""
    alpha: float = 0.0
    """Exponent of prioritised replay (>= 0); 0: uniform. Data-efficient Rainbow has .5."""
    priority_beta: float = 0.4
    """Exponent of the importance weights under priorities, in [0, 1]; rises to 1 over `priority_steps`."""
    priority_steps: int = 100_000
    """Steps until the importance weights correct in full (>= 1)."""
    learner: DeepLearnerConfig = field(default_factory=DeepLearnerConfig)
    """Networks, losses, optimiser."""

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("warm_start", 1), ("train_every", 1), ("n_step", 1), ("capacity", 100)):
            require(getattr(self, name) >= least, f"deep: {name} must be >= {least}, got {getattr(self, name)}.")
        for name in ("gamma", "epsilon", "priority_beta"):
            require(0.0 <= getattr(self, name) <= 1.0, f"deep: {name} must lie in [0, 1], got {getattr(self, name)}.")
        for name in ("beta", "alpha"):
            require(0.0 <= getattr(self, name) < np.inf, f"deep: {name} must be >= 0, got {getattr(self, name)}.")
        for name in ("lam", "growth"):
            require(0.0 < getattr(self, name) < np.inf, f"deep: {name} must be > 0, got {getattr(self, name)}.")
        require(self.priority_steps >= 1, f"deep: priority_steps must be >= 1, got {self.priority_steps}.")


@register("agent", "contrastive-ucb-deep", ContrastiveUCBDeepConfig)
class ContrastiveUCBDeep(BaseAgent):
    """Networks for any observation: contrastive features, elliptical bonus of visits, optimistic and plain values."""

    config: ContrastiveUCBDeepConfig

    def __init__(self, env: Env, config: ContrastiveUCBDeepConfig, *, seed: int = 0) -> None:
        from rl_contrastive.deep.bonus import VisitBonus
        from rl_contrastive.deep.frames import Frames
        from rl_contrastive.deep.learner import DeepLearner
        from rl_contrastive.deep.replay import Replay

        super().__init__(env, config, seed=seed)
        spec, stack = self.env_spec, self.env_spec.frame_stack
        self.replay = Replay(
            config.capacity,
            spec.obs_shape,
            spec.obs_dtype,
            gamma=config.gamma,
            n_step=config.n_step,
            stack=stack,
            alpha=config.alpha,
        )
        init = int(self.seeds.sequence("init").generate_state(1, np.uint64)[0] >> np.uint64(1))
        self.learner = DeepLearner(spec, self.replay.stacked_shape, config.learner, seed=init)
        self.bonus = VisitBonus(config.capacity, config.learner.representation.dim, lam=config.lam, beta=config.beta)
        self.rng, self.fit_rng = self.seeds.generator("act"), self.seeds.generator("fit")
        self.steps, self.rebuilt_at = 0, 0
        self._frames, self._shown = (Frames(stack) for _ in range(2))
        self._phi: FloatArray | None = None
        self._report: dict[str, Any] = {}

    def begin(self, num_envs: int) -> None:
        self.replay.begin(num_envs)

    def act(self, obs: Array, h: int) -> IntArray:
        """1."""
        stacked = self._frames.push(obs, h)
        uniform = self.rng.integers(self.env_spec.num_actions, size=len(obs))
        if self.rebuilt_at == 0:
            self._phi = None
            return uniform
        self._phi = self.learner.features(stacked)  # (B, A, d)
        planned = sample(greedy(self.bonus.of(self._phi) + self.learner.q(stacked)[1]), rng=self.rng)
        return np.where(self.rng.random(len(obs)) < self.config.epsilon, uniform, planned)

    def observe(self, transition: Transition) -> None:
        """2.-4."""
        alive = np.flatnonzero(transition.alive)
        self.replay.observe(transition)
        if self._phi is None:
            self.bonus.visits += len(alive)
        else:
            self.bonus.visit(self.replay.last(len(alive)), self._phi[alive, transition.action[alive]])
        before, self.steps = self.steps, self.steps + len(alive)
        if self.steps < self.config.warm_start or len(self.replay) == 0:
            return
        if self.rebuilt_at == 0:
            self._standardise()
        if self.bonus.visits >= (1.0 + self.config.growth) * self.rebuilt_at:
            self._rebuild()
        every = self.config.train_every
        for _ in range(self.steps // every - before // every):
            self.version += 1
            share = min(1.0, self.steps / self.config.priority_steps)
            beta = self.config.priority_beta + share * (1.0 - self.config.priority_beta)
            self._report = self.learner.step(self.replay, self.bonus, rng=self.fit_rng, priority_beta=beta)

    def _standardise(self) -> None:
        """Centre and scale of vector observations, from the steps of the warm start."""
        chunks = [obs for _, obs, _, _ in self.replay.rows(4096)]
        self.learner.standardise(np.concatenate(chunks))

    def _rebuild(self) -> None:
        """4. Features of this moment for all visits."""
        self.learner.freeze()
        self.bonus.rebuild(self.learner.visits(self.replay))
        self.rebuilt_at = self.bonus.visits

    def update(self) -> dict[str, float]:
        """Diagnostics of the last gradient step; the learning itself goes on within episodes."""
        report = {name: float(value) for name, value in self._report.items()}
        return {**report, "visits": float(self.bonus.visits), "updates": float(self.version)}

    def policy(self, obs: Array, h: int, *, explore: bool = False) -> FloatArray:
        """argmax_a Q(s,a), or argmax_a b + G with explore; uniform over exact ties. Steps must come in order where
        the environment's frames are stacked."""
        stacked = self._shown.push(obs, h)
        Q, G = self.learner.q(stacked)
        return greedy(self.bonus.of(self.learner.features(stacked)) + G if explore else Q)

    def state_dict(self) -> State:
        """Networks, replay, Sigma, generators; the state between two batches of episodes."""
        return {
            "learner": self.learner.state_dict(),
            "replay": self.replay.state_dict(),
            "bonus": self.bonus.state_dict(),
            "steps": self.steps,
            "rebuilt_at": self.rebuilt_at,
            "version": self.version,
            "report": {name: float(value) for name, value in self._report.items()},
            "rng": generator_state(self.rng),
            "fit_rng": generator_state(self.fit_rng),
        }

    def load_state_dict(self, state: State) -> None:
        keys = ("learner", "replay", "bonus", "steps", "rebuilt_at", "version", "report", "rng", "fit_rng")
        for key in keys:
            require(key in state, f"deep: the saved state lacks '{key}'.")
        self.learner.load_state_dict(state["learner"])
        self.replay.load_state_dict(state["replay"])
        self.bonus.load_state_dict(state["bonus"])
        self.steps, self.rebuilt_at, self.version = (int(state[k]) for k in ("steps", "rebuilt_at", "version"))
        self._report = dict(state["report"])
        restore_generator(self.rng, state["rng"])
        restore_generator(self.fit_rng, state["fit_rng"])
