"""Hash counts of cells of learned contrastive features as a bonus, with two heads of values: Q, and an optimistic G.

Deep Contrastive-UCB follows Algorithm 1 of Qiu et al. 2022 with networks, for any environment with discrete actions.
Its bonus is not that of the authors' Atari agent, which is elliptical on last-layer features of SPR.

    at each step of B episodes side by side:
      1. act by argmax_a b(s,a) + G(s,a): the current bonus of phi(s,a) (`deep/bonus.py`) and the optimistic rest;
         a bonus b(s') that is paid on arrival (`deep/arrival.py`) is part of G, and then b(s,a) = 0
      2. store the step and count the visit, once                             (never at a gradient step)
      3. every `train_every` steps one gradient step on
             Q(s,a) <- n-step rewards + Q',   G(s,a) <- n-step rewards and bonuses + (b + G')      (`deep/value.py`)
             contrastive loss of f(s,a,s') = psi(s')'phi(s,a) with the batch's successors as negatives
         with heads apart (`deep/explore_config.py`) G is I(s,a) of bonuses alone, and 1. is argmax_a Q + c (b + I)
      4. when the visits grew by `growth`: freeze the current phi and count all visits again, also those no longer in
         the replay
    evaluations use argmax_a Q(s,a) of the target network, without bonus and noise

The official code (Atari, SPR-UCB) has another bonus: see docs/agents/contrastive-ucb-deep.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rl_contrastive.agents.base import BaseAgent
from rl_contrastive.config import require, require_keys
from rl_contrastive.deep.agent_config import ContrastiveUCBDeepConfig, epsilon_at
from rl_contrastive.deep.bonus_config import with_features
from rl_contrastive.deep.bonus_contract import Bonus, Step, acted, evenly
from rl_contrastive.deep.choice import choice_of
from rl_contrastive.deep.episodic import LeastTried
from rl_contrastive.deep.replay.changed_rows import Patches
from rl_contrastive.device import fetch_numbers
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import register
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import Array, Embedded, Env, FloatArray, IntArray, State, Transition

MOST_KEPT = 1 << 22
"""Numbers of features, 32 MiB, up to which a rebuild keeps them all."""
LARGEST_REWARD = 1e30
"""Limit for the networks' targets: float32 ends at 3e38, and returns and losses are sums of many terms."""


@register("agent", "contrastive-ucb-deep", ContrastiveUCBDeepConfig)
class ContrastiveUCBDeep(BaseAgent):
    """Networks for any observation: hash counts of cells of contrastive features, optimistic and plain values."""

    config: ContrastiveUCBDeepConfig

    def __init__(self, env: Env, config: ContrastiveUCBDeepConfig, *, seed: int = 0) -> None:
        from rl_contrastive.deep.build_bonus import BonusBuilder
        from rl_contrastive.deep.clock import Clock
        from rl_contrastive.deep.learner import DeepLearner
        from rl_contrastive.deep.memory import EpisodeMemory
        from rl_contrastive.deep.names import Closeness
        from rl_contrastive.deep.past import Past
        from rl_contrastive.deep.replay.frames import Frames, Tables
        from rl_contrastive.deep.replay.replay import Replay
        from rl_contrastive.deep.search import Search

        super().__init__(env, config, seed=seed)
        self._tables = Tables(self.env_spec)
        self.clock = Clock(self.env_spec) if config.clock else None
        if self.clock is not None:
            self.env_spec = self.clock.spec
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
        self.replay.ring.check_rows(config.batch)
        self.choice = choice_of(spec.players)
        seed = self.seeds.integer("init")
        learner = with_features(config.learner, config.bonus)
        shape, slots, explore = self.replay.stacked_shape, config.capacity, config.explore
        self.learner = DeepLearner(spec, shape, learner, seed=seed, slots=slots, explore=explore)
        self.closeness = Closeness(config.bonus.reach) if config.bonus.same == "features" else None
        """Of what counts as the same observation within an episode; None: equal bytes."""
        build = BonusBuilder(
            config, learner.representation, spec, self.replay, self._features_of, self.closeness, self.seeds
        )
        self.bonus: Bonus = build.build()
        self._log = build.log
        self.memory = EpisodeMemory(slots, spec.num_actions, build.log) if explore.memory else None
        room = min(config.bonus.past, config.capacity)
        self.past = Past(room, shape, spec.obs_dtype, rng=self.seeds.generator("fit", 1))
        self.rng, self.fit_rng = self.seeds.generator("act"), self.seeds.generator("fit")
        self.steps, self.rebuilt_at = 0, 0
        self.first_reward = self.first_terminal = 0
        """Steps until the first reward > 0 and the first true terminal; 0: none yet."""
        self._frames, self._shown, self._watched = (Frames(stack) for _ in range(3))
        self._search = Search(config.search) if config.search.alpha > 0 and self.bonus.uses_features else None
        self._least_tried, self.memoryless = LeastTried(self.closeness), not config.episodic
        self._report: dict[str, Any] = {}
        self._folder: Path | None = None
        self._lost = False  # loaded without its replay
        self._first: FloatArray = np.zeros((0, 0, 0))

    def _features_of(self, entries: IntArray) -> FloatArray:
        """Features of the states at entries (n,) of the replay -> (n, d)."""
        return self._phi(self.replay.observations(entries))[:, 0]

    def _phi(self, stacked: Array) -> FloatArray:
        """Features for the bonus: (N, ...) -> (N, A, d), (N, 1, d) of states, or d = 0 if it counts no features."""
        if not self.bonus.uses_features:
            return np.zeros((len(stacked), self.env_spec.num_actions, 0))
        return self.learner.features.phi(stacked)

    def _compared(self, stacked: Array) -> FloatArray:
        """Features (B, d) by which observations are compared; d = 0 where their bytes are."""
        return np.zeros((len(stacked), 0)) if self.closeness is None else self._phi(stacked)[:, 0]

    def _seen(self, obs: Array, h: int) -> Array:
        """The observations that the networks get at step h."""
        self._tables.check(obs, h)
        return obs if self.clock is None else self.clock.show(obs, h)

    def persist_in(self, folder: Path) -> None:
        """Keep the replay in `folder` (see `spec.Agent`): before the first episode, and before a state is loaded."""
        self._folder = folder
        if self.config.storage == "mapped":
            self.replay.map_to(folder)

    def begin(self, num_envs: int) -> None:
        self._require_replay()
        mapped = self.config.storage == "mapped"
        require(not mapped or self._folder is not None, "deep: storage mapped needs a folder: call persist_in(folder).")
        self.replay.begin(num_envs)

    def act(self, obs: Array, h: int) -> IntArray:
        """1. Actions of rows whose episodes are over are arbitrary: neither network sees them."""
        stacked = self._frames.push(self._seen(obs, h), h)
        if h == 0:
            self._first = self._phi(stacked)  # later ones have their keys since they came
        action: IntArray = self.rng.integers(self.env_spec.num_actions, size=len(obs))
        if self.rebuilt_at == 0:
            return action
        rows = self._going(h)
        seen, entries = stacked[rows], self.replay.ring.open[rows]  # no entries yet at h = 0
        b = self.bonus.value(self._first) if h == 0 else self.bonus.at(entries)  # (k, A)
        values = self.learner.q(seen, rng=self.rng, shown=self._recalled(len(seen), None if h == 0 else entries))
        optimistic = self._optimistic(b, values)
        hint = "lower learner.lr or learner.reward_scale"
        finite = all(bool(np.isfinite(values).all()) for values in optimistic)
        require(finite, f"deep: values are NaN or infinite at step {self.steps}; {hint}.")
        epsilon = epsilon_at(self.config, self.steps)
        # Numbers are drawn for all rows, so that no row's chance depends on which others have ended.
        chance, explored = (self.rng.random(len(obs))[rows] for _ in range(2))
        if self._search is None:
            planned = self.choice.draw(optimistic, chance)
        else:
            phi = self._first if h == 0 else self._phi(seen)
            planned = self._search.choose(optimistic[0], phi, h, self.rebuilt_at, chance, rows=rows)
        action[rows] = np.where(explored < epsilon, action[rows], planned)
        if self._search is not None:
            self._search.note(action)
        return action

    def _going(self, h: int) -> IntArray | slice:
        """(k,) the rows whose episodes go on at step h. All rows are a slice, which copies nothing."""
        over = self.replay.ring.open < 0
        return slice(None) if h == 0 or not over.any() else np.flatnonzero(~over)

    def _optimistic(self, b: FloatArray, values: tuple[FloatArray, ...]) -> list[FloatArray]:
        """What is acted by, (N, A): b + G, or Q + c (b + I) with heads apart; in games also G-under - b."""
        pairs = zip(self.choice.signs[1:], values[1:], strict=True)
        return [self.config.explore.values(values[0], sign * b + value) for sign, value in pairs]

    def _recalled(self, count: int, entries: IntArray | None = None) -> Array | None:
        """What the second head sees, if it does, beside observations at these entries; None: new in their episodes."""
        if self.memory is None:
            return None
        return self.memory.fresh(count) if entries is None else self.memory.at(entries)

    def behaviour(self, pi: FloatArray) -> None:
        """None: epsilon, noise and a bonus that changes with every step give no table of action probabilities."""

    def observe(self, transition: Transition) -> None:
        """2.-4."""
        self._tables.check(transition.next_obs, transition.h + 1)
        self._store(transition if self.clock is None else self.clock.timed(transition))
        before, self.steps = self.steps, self.steps + int(np.count_nonzero(transition.alive))
        if self.steps < self.config.warm_start or len(self.replay) == 0:
            return
        if self.rebuilt_at == 0:
            self._standardise()
        if self.bonus.visits >= (1.0 + self.config.growth) * self.rebuilt_at:
            self._rebuild()
        self.version = self.steps  # a visit changes the optimistic policy, a gradient step both
        every = self.config.train_every
        for _ in range(self.steps // every - before // every):
            share = min(1.0, self.steps / self.config.priority_steps)
            beta = self.config.priority_beta + share * (1.0 - self.config.priority_beta)
            # Not each gradient step is one of the features: their last loss stays in the report.
            rng, memory = self.fit_rng, self.memory
            self._report |= self.learner.step(self.replay, self.bonus, rng=rng, priority_beta=beta, memory=memory)

    def _store(self, transition: Transition) -> None:
        """2. The steps, the features of what was seen for the first time, and the visits."""
        alive = transition.alive.nonzero()[0]
        self._check_rewards(transition.reward[alive])
        if self.bonus.uses_features and self.replay.full(transition):
            self.past.add(*self._leaving(transition), self._taken)
        self.replay.observe(transition)
        if not self.first_reward and (transition.reward[alive] > 0).any():
            self.first_reward = self.steps + len(alive)
        if not self.first_terminal and (transition.discount[alive] == 0).any():
            self.first_terminal = self.steps + len(alive)
        index = self.replay.ring.acted
        newest = self.replay.ring.next[index]
        phi = np.zeros((len(newest), self.env_spec.num_actions, 0))
        if self.bonus.uses_features:
            phi = self._phi(self.replay.observations(newest))
        step = Step(transition, index, newest, self._first, phi)
        self.bonus.watch(step)
        if self.memory is not None:
            self.memory.watch(step)

    def _leaving(self, transition: Transition) -> tuple[Array, IntArray]:
        """What this step drops from the replay: observations and actions of visits, for a bonus of pairs.

        A bonus of arrivals counts all observations, final ones too: all with action 0, or, if pairs are counted as
        well, with their actions and A for none.
        """
        pays, ring = self.bonus.pays, self.replay.ring
        gone = self.replay.leaving(transition, final=pays != "pair")
        action = ring.action[gone].astype(np.int64)
        if pays == "arrival":
            action[:] = 0
        action[action < 0] = self.env_spec.num_actions
        return self.replay.observations(gone), action

    def _check_rewards(self, reward: FloatArray) -> None:
        """RlcError where sums of rewards as the networks learn them would be beyond float32."""
        learner = self.config.learner
        if learner.clip_rewards or not len(reward):
            return
        largest = float(np.maximum.reduce(np.abs(reward)))
        if largest * learner.reward_scale > LARGEST_REWARD:
            hint = f"scale them by --agent.learner.reward-scale, e.g. {1.0 / largest:.0e}, and beta with them"
            what = f"a reward of {largest:g} times learner.reward_scale {learner.reward_scale:g}"
            raise RlcError(f"deep: {what} is beyond what float32 can sum: {hint}.")

    def _standardise(self) -> None:
        """Centre and scale of vector observations, from the steps of the warm start."""
        some = self.replay.observations(self._some(4096))
        self.learner.standardise(some)
        self.bonus.start(some)

    def _rebuild(self) -> None:
        """4. Compute the current features of all stored data."""
        self.rebuilt_at = self.bonus.visits
        if not self.bonus.uses_features:
            return
        self.learner.features.freeze()
        left = round(4096 * self.past.visits / self.bonus.visits)  # each visit counts, in the replay or outside
        left = min(left, 4095)  # with final observations, of short episodes more may have left than there were steps
        phi, chunks = self.learner.features.phi, self.learner.entries(self.replay)
        if self.replay.ring.held_count * self.learner.features.online.width <= MOST_KEPT:
            kept = list(chunks)  # the features of the sample are among them
            visits = np.concatenate([acted(*chunk) for chunk in kept])
            sample, chunks = visits[evenly(len(visits), 4096 - left)], iter(kept)
        else:
            some = self._some(4096 - left)
            sample = phi(self.replay.observations(some), self.replay.actions(some))
        if left:
            sample = np.concatenate([sample, phi(*self.past.some(left))])
        if self.closeness is not None:
            self.closeness.adapt(sample)
        gone = ((phi(obs), action, weight) for obs, action, weight in self.past.chunks())
        self.bonus.rebuild(sample, chunks, gone)
        self._log.names.renew()

    def _taken(self, obs: Array, action: IntArray) -> Array:
        """The current keys of observations (n, ...) and actions (n,) in the bonus."""
        return self.bonus.key_taken(self._phi(obs), action)

    def _some(self, most: int) -> IntArray:
        """Indices of at most `most` stored visits, evenly spread."""
        visits = self.replay.visits()
        return visits[evenly(len(visits), most)]

    def histograms(self) -> dict[str, Array]:
        """Of up to 2048 stored visits: b(s,a), the coordinates of phi(s,a), and the singular values of phi / sqrt n."""
        some = self._some(2048)
        action = self.replay.actions(some)
        if not self.bonus.uses_features and self.bonus.pays != "pair":
            return {"bonus": self.bonus.taken(some, action)}
        phi = self.learner.features.phi(self.replay.observations(some), action)  # (n, d)
        singular = np.linalg.svd(phi / np.sqrt(len(phi)), compute_uv=False)
        return {"bonus": self.bonus.taken(some, action), "features": phi, "singular_values": singular}

    def embed(self, h: int, obs: Array, action: IntArray, next_obs: Array) -> Embedded | None:
        """Frozen phi(s,a) and psi(s') of f; one space for all steps. None where no features are learned."""
        if not self.bonus.uses_features or self.rebuilt_at == 0:
            return None
        now = self._watched.push(self._seen(obs, h), h)
        ahead = self._watched.then(self._seen(next_obs, h + 1))
        return Embedded(*self.learner.features.factors(now, action, ahead), np.zeros(len(action), dtype=np.int64))

    def stored_features(self) -> Embedded | None:
        """The same of 512 stored visits."""
        some = self._some(512)
        if not self.bonus.uses_features or self.rebuilt_at == 0 or not len(some):
            return None
        action, next_obs = self.replay.actions(some), self.replay.observations(self.replay.ring.next[some])
        found = self.learner.features.factors(self.replay.observations(some), action, next_obs)
        return Embedded(*found, np.zeros(len(some), dtype=np.int64))

    def update(self) -> dict[str, float]:
        """Diagnostics of the last gradient step; the learning itself goes on within episodes."""
        report = fetch_numbers(self._report)
        counts = {"visits": self.bonus.visits, "updates": self.learner.steps}
        firsts = {"first_reward": self.first_reward, "first_terminal": self.first_terminal}
        radius = {} if self.closeness is None else {"radius": self.closeness.radius}
        numbers = {**counts, **firsts, **self.bonus.report(), **radius}
        return {**report, **{name: float(number) for name, number in numbers.items()}}

    def policy(self, obs: Array, h: int, *, explore: bool = False) -> FloatArray:
        """argmax_a Q(s,a) of the target network, or with explore of what is acted by; uniform over exact ties. In games
        equilibria of the stage games (`deep/choice.py`).

        With `episodic` the former chooses among the actions tried least often at this observation in the episode, and b
        is the bonus of an observation that is new in its episode. Then, and with stacked frames, steps must come in
        order.
        """
        obs = self._seen(obs, h)
        stacked = self._shown.push(obs, h)
        if not explore:
            q = self.learner.target_q(stacked)
            memory = self.config.episodic
            return self._least_tried(obs, h, q, self._compared(stacked)) if memory else self.choice.final(q)
        if self.rebuilt_at == 0:
            return np.full((len(obs), self.env_spec.num_actions), 1.0 / self.env_spec.num_actions)
        values = self.learner.q(stacked, shown=self._recalled(len(obs)))
        return self.choice.law(self._optimistic(self.bonus.value(self._phi(stacked)), values))

    def state_dict(self) -> State:
        """Networks, replay, counts, generators; the state between two batches of episodes.

        After `persist_in` the new parts of the replay and of its keys go to that folder, and the state says what to
        find there.
        """
        self._require_replay()
        folder, memory = self._folder, self.memory
        return {
            "learner": self.learner.state_dict(),
            "replay": self.replay.state_dict() if folder is None else self.replay.save_log(folder, self._beside()),
            "bonus": self.bonus.state_dict(whole=folder is None),
            "past": self.past.state_dict(whole=folder is None),
            **({} if memory is None else {"memory": memory.state_dict(whole=folder is None)}),
            **({} if self.closeness is None else {"closeness": self.closeness.state_dict()}),
            "steps": self.steps,
            "rebuilt_at": self.rebuilt_at,
            "first": [self.first_reward, self.first_terminal],
            "version": self.version,
            "report": fetch_numbers(self._report),
            "rng": generator_state(self.rng),
            "fit_rng": generator_state(self.fit_rng),
        }

    def load_state_dict(self, state: State) -> None:
        """Inverse of `state_dict`, of either form. If the folder of the state's replay was not given, the
        agent can only play."""
        keys = ("learner", "replay", "bonus", "past", "steps", "rebuilt_at", "first", "version", "report")
        more = [name for name in ("memory", "closeness") if getattr(self, name) is not None]
        require_keys(state, (*keys, *more, "rng", "fit_rng"), "deep")
        self.learner.load_state_dict(state["learner"])
        whole = "check" not in state["replay"]
        self.bonus.load_state_dict(state["bonus"], whole=whole)
        if whole:
            self.replay.load_state_dict(state["replay"])
        elif self._folder is not None:
            self.replay.load_log(self._folder, state["replay"], self._beside())
        self.past.load_state_dict(state["past"], whole=whole)
        if self.memory is not None:
            self.memory.load_state_dict(state["memory"], whole=whole)
        if self.closeness is not None:
            self.closeness.load_state_dict(state["closeness"])
        self._lost = not whole and self._folder is None
        self.steps, self.rebuilt_at, self.version = (int(state[k]) for k in ("steps", "rebuilt_at", "version"))
        self.first_reward, self.first_terminal = (int(count) for count in state["first"])
        self._report = dict(state["report"])
        restore_generator(self.rng, state["rng"])
        restore_generator(self.fit_rng, state["fit_rng"])

    def _beside(self) -> dict[str, Patches]:
        """The arrays beside the replay, by the names of their files."""
        return {**self.bonus.patches, **self.past.patches, **(self.memory.patches if self.memory else {})}

    def _require_replay(self) -> None:
        hint = "call persist_in with the folder replay of its run before load_state_dict"
        require(not self._lost, f"deep: this agent was loaded without its replay, so it can only play: {hint}.")
