"""Learns from preferences between its own episodes and never sees a reward, by any registered preference objective.

    for each batch of B episodes
      1. each episode is played by pi, or with probability `mixture` by pi_ref
      2. pair up the episodes, those of the same start first; a labeller that sees returns says which it prefers
      3. keep the labelled pairs (y_w, y_l), and take `updates` gradient steps on the objective of
             h(y) = sum_t log pi(a_t|s_t) - log pi_ref(a_t|s_t)
         where losses of groups get 1 and 0 for winner and loser, or the returns of a Bradley-Terry reward model
         R(y) = sum_t r(s_t,a_t) that takes as many steps on the same pairs
      4. every `iterate_every` batches pi_ref <- pi

The policy is pi = softmax(log pi_0 + f) with f = 0 at first: a table of states, or a network. What is evaluated is pi
itself, with its randomness.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rl_contrastive.acting import sample
from rl_contrastive.agents.base import BaseAgent
from rl_contrastive.agents.preference_config import PreferencePolicyConfig
from rl_contrastive.config import require, require_keys
from rl_contrastive.device import resolve_device
from rl_contrastive.preferences.exact import policy_value
from rl_contrastive.preferences.labels import NEITHER, SECOND, Labeller, pair_up
from rl_contrastive.registry import build, kind_of, register
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import (
    Array,
    Behaviour,
    Env,
    EnvSpec,
    ExactModel,
    FloatArray,
    IntArray,
    State,
    Transition,
    is_memoryless,
)


@register("agent", "preference-policy", PreferencePolicyConfig)
class PreferencePolicy(BaseAgent):
    """A policy from labelled pairs of its episodes, without rewards: DPO, IPO, RPO, CoPG, reward model + RL."""

    config: PreferencePolicyConfig

    def __init__(self, env: Env, config: PreferencePolicyConfig, *, seed: int = 0) -> None:
        from rl_contrastive.deep.clock import Clock
        from rl_contrastive.deep.preference.episodes import PairReplay, Recorder
        from rl_contrastive.deep.preference.learner import PreferenceLearner, Training

        super().__init__(env, config, seed=seed)
        spec = self.env_spec
        require(spec.frame_stack == 1, f"preference-policy: {spec.name} needs stacked frames, which are not kept here.")
        clocked = spec.num_states is not None and not spec.stationary if config.clock is None else config.clock
        self.clock = Clock(spec) if clocked else None
        seen = spec if self.clock is None else self.clock.spec
        self.base = InitialPolicy(spec, config)
        kind = kind_of(config.OBJECTIVES, config.objective)
        objective = build(kind, config.objective, config.objective_options)
        grouped = kind == "group-objective"
        require(grouped or config.rewards == "auto", f"preference-policy: rewards are for losses of groups, and "
                f"{config.objective} is a loss of pairs; leave it at 'auto'.")  # fmt: skip
        modelled = config.rewards == "model" or (config.rewards == "auto" and grouped and objective.on_policy)
        training = Training(config.updates, config.minibatch, config.lr, config.max_norm)
        self.learner = PreferenceLearner(
            seen, config.encoder, training, objective,
            modelled=modelled, seed=self.seeds.integer("init"), device=resolve_device(config.device),
        )  # fmt: skip
        self.labeller = Labeller(config.labels, rng=self.seeds.generator("fit", 1))
        self.replay, self.recorder = PairReplay(config.capacity, seen, self.base.width), Recorder()
        self.rng, self.fit_rng = self.seeds.generator("act"), self.seeds.generator("fit")
        self.batches = 0
        self._by_reference = np.zeros(0, dtype=np.bool_)
        self._first: Array = np.zeros(0)

    def _seen(self, obs: Array, h: int) -> Array:
        """The observations that the policy gets at step h."""
        return np.asarray(obs) if self.clock is None else self.clock.show(obs, h)

    def begin(self, num_envs: int) -> None:
        """1. Who plays each episode."""
        self._by_reference = self.rng.random(num_envs) < self.config.mixture
        self.labeller.begin(num_envs)
        self.recorder.begin()

    def act(self, obs: Any, h: int) -> IntArray:
        pi = self.policy(obs, h)
        if self._by_reference.any():
            pi[self._by_reference] = self._probabilities(obs, h, reference=True)[self._by_reference]
        return sample(pi, rng=self.rng)

    def observe(self, transition: Transition) -> None:
        """The labeller alone sees the reward; what is recorded has none."""
        t = transition
        self.labeller.watch(t.reward, t.alive)
        if t.h == 0:
            self._first = np.array(t.obs)
        self.recorder.add(self._seen(t.obs, t.h), t.action, self.base.log_probs(t.obs, t.h), t.alive)

    def update(self) -> dict[str, float]:
        """2.-4."""
        from rl_contrastive.deep.preference.learner import Newest

        episodes, rows = self.recorder.episodes(), np.flatnonzero(~self._by_reference)
        if self.batches == 0:
            self.learner.standardise(episodes.obs[episodes.mask])
        pairs = self._labelled()
        newest = Newest(episodes.take(rows), episodes.take(pairs))
        told = {"pairs": float(self.labeller.asked), "ties": float(self.labeller.dropped)}
        if len(rows):
            told["kl_estimate"] = self.learner.policy.divergence(newest.own)
        if len(pairs):
            told["accuracy"] = self.learner.accuracy(newest.pairs)  # before they are learned from
            self.replay.add(newest.pairs)
        if len(self.replay) and (len(rows) >= 2 or not self.learner.needs_own):
            told |= self.learner.learn(self.replay, newest, rng=self.fit_rng)
            self.version += 1
        self.batches += 1
        if self.config.iterate_every and self.batches % self.config.iterate_every == 0:
            self.learner.policy.move_reference()
        return told

    def _labelled(self) -> IntArray:
        """2. Rows (P, 2) of the batch, winners first, of the pairs that got a label."""
        pairs = pair_up(self._first, rng=self.fit_rng, across=self.config.starts == "any")
        label = self.labeller.labels(pairs)
        pairs[label == SECOND] = pairs[label == SECOND, ::-1]
        return np.asarray(pairs[label != NEITHER])

    def policy(self, obs: Any, h: int, *, explore: bool = False) -> FloatArray:
        """pi (N, A), with or without `explore`."""
        return self._probabilities(obs, h, reference=False)

    def _probabilities(self, obs: Any, h: int, *, reference: bool) -> FloatArray:
        seen, base = self._seen(obs, h), self.base.log_probs(obs, h)
        return self.learner.policy.probabilities(seen, base, reference=reference)

    def behaviour(self, pi: FloatArray) -> Behaviour:
        """pi, or with probability `mixture` pi_ref, for a whole episode."""
        H, S, _ = pi.shape
        states, share = np.arange(S, dtype=np.int64), self.config.mixture
        ref = np.stack([self._probabilities(states, h, reference=True) for h in range(H)])
        return Behaviour(np.array([1.0 - share, share]), np.stack([pi, ref]))

    def exact_metrics(self, model: ExactModel) -> dict[str, float]:
        """KL(pi || pi_0) of the laws of trajectories, pi_0 the initial policy."""
        H, S, A = model.r.shape
        states = np.arange(S, dtype=np.int64)
        pi = np.stack([self.policy(states, h) for h in range(H)])
        base = np.stack([np.broadcast_to(self.base.log_probs(states, h), (S, A)) for h in range(H)])
        base = base - np.log(np.exp(base).sum(-1, keepdims=True))
        with np.errstate(divide="ignore"):  # log 0 of an action that float32 has given up
            return {"kl": policy_value(model.P, model.r, model.rho, np.log(pi), base).kl}

    def state_dict(self) -> State:
        return {
            "learner": self.learner.state_dict(),
            "replay": self.replay.state_dict(),
            "labeller": self.labeller.state_dict(),
            "batches": self.batches,
            "version": self.version,
            "rng": generator_state(self.rng),
            "fit_rng": generator_state(self.fit_rng),
        }

    def load_state_dict(self, state: State) -> None:
        keys = ("learner", "replay", "labeller", "batches", "version", "rng", "fit_rng")
        require_keys(state, keys, "preference-policy")
        self.learner.load_state_dict(state["learner"])
        self.replay.load_state_dict(state["replay"])
        self.labeller.load_state_dict(state["labeller"])
        self.batches, self.version = int(state["batches"]), int(state["version"])
        restore_generator(self.rng, state["rng"])
        restore_generator(self.fit_rng, state["fit_rng"])


class InitialPolicy:
    """log pi_0: zeros (N, 1) for uniform, else log((1 - floor) p + floor/A) (N, A) of a run's policy p."""

    def __init__(self, spec: EnvSpec, config: PreferencePolicyConfig) -> None:
        self.config, self.agent, self.width = config, None, 1
        if config.reference == "uniform":
            return
        from rl_contrastive.runs.load import load_trained  # it can make any agent, this one among them

        trained = load_trained(Path(config.reference.removeprefix("run:")))
        for name in ("num_actions", "horizon", "obs_shape", "num_states"):
            mine, theirs = getattr(spec, name), getattr(trained.spec, name)
            require(mine == theirs, f"preference-policy: {config.reference} was trained on {trained.spec.name} with "
                    f"{name} {theirs}; here it is {mine}.")  # fmt: skip
        require(is_memoryless(trained.agent), f"preference-policy: the policy of {config.reference} depends on the "
                "episode's past, so it has no probabilities to stay near.")  # fmt: skip
        self.agent, self.width = trained.agent, spec.num_actions

    def log_probs(self, obs: Any, h: int) -> FloatArray:
        """(N, W) at observations (N, ...) of step h, up to a constant."""
        if self.agent is None:
            return np.zeros((len(obs), 1))
        p, floor = self.agent.policy(obs, h), self.config.floor
        return np.asarray(np.log((1.0 - floor) * p + floor / p.shape[-1]))
