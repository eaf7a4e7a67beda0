"""A bonus in the rewards of any VecEnv of Stable-Baselines3: every kind and part of `deep/bonus_config.py`.

    r + b(s,a,s'),   b by the counts of before the step (`row_bonus.py`); features are learned on the way

Counts are visits: gradient steps never touch them, and all is counted again when the features are frozen anew, visits
that left the memory too (`past.py`). An SB3 replay buffer keeps the bonus of the moment a step was taken, so with DQN
old steps look more novel than they still are; `contrastive-ucb-deep` recomputes them. A gate makes the bonus depend on
what the episode showed before, which SB3's policies do not see. Observations must have their channels first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import Tensor

from rl_contrastive.bridges.bonus_env_config import BonusEnvConfig
from rl_contrastive.bridges.row_bonus import RowBonus
from rl_contrastive.bridges.row_parts import RowStep
from rl_contrastive.bridges.sb3_features import obs_layout
from rl_contrastive.config import require, require_keys
from rl_contrastive.deep.bonus import VisitBonus
from rl_contrastive.deep.episode_learner import EpisodeLearner
from rl_contrastive.deep.past import Past
from rl_contrastive.deep.transition_learner import TransitionLearner
from rl_contrastive.errors import RlcError
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import Array, BoolArray, FloatArray, IntArray, State


class BonusVecEnv(VecEnvWrapper):
    """Adds the bonus of each step to the rewards of a VecEnv, then counts the step.

    `infos[i]` keeps both parts: "extrinsic" and "bonus". With `training = False` rewards pass unchanged and nothing is
    counted or learned, for evaluation; the going episodes begin anew afterwards. Wrap VecNormalize around this, not
    inside: stored observations must keep their meaning. Episodes are not cut: at an episode's end the successor is
    `terminal_observation`. Raises RlcError for observations that the encoders cannot read, for actions that are no
    Discrete space, for an rng that is no generator, and for a VecEnv that hands over no `terminal_observation`.
    """

    def __init__(self, venv: VecEnv, config: BonusEnvConfig | None = None, *, rng: np.random.Generator) -> None:
        good, example = isinstance(rng, np.random.Generator), "np.random.default_rng(0)"
        require(good, f"sb3 bonus: rng must be a generator of numpy, such as {example}, got {rng!r}.")
        super().__init__(venv)
        action_space = venv.action_space
        if not isinstance(action_space, spaces.Discrete) or int(action_space.start) != 0:
            raise RlcError(f"sb3 bonus: actions must be a Discrete space from 0, got {action_space}.")
        self.bonus_config = config or BonusEnvConfig()
        self.training = True
        self.rng, self.num_actions = rng, int(action_space.n)
        self.layout = obs_layout(venv.observation_space, self.bonus_config.codes)
        self._pays = "none"
        self._learner: TransitionLearner | None = None
        self._episodes: EpisodeLearner | None = None
        self._make_learner()
        self.bonus = RowBonus(self.bonus_config, self.layout, self.num_actions, venv.num_envs, self._psi, rng=rng)
        self.rebuilt_at = 0
        """Visits at the last rebuild; 0: the features are still random."""
        self.report: dict[str, Tensor] = {}
        """Loss of the last gradient step."""
        self._obs: Array | None = None
        self._action: IntArray = np.zeros(venv.num_envs, dtype=np.int64)
        self._begins: BoolArray = np.ones(venv.num_envs, dtype=np.bool_)

    def _make_learner(self) -> None:
        """The features and their memory, for bonuses that use features."""
        config, parts = self.bonus_config.counted_features, self.bonus_config.counts.parts
        if parts is None:
            return
        self._pays = parts.pays
        if not parts.uses_features:
            return
        if parts.pays == "pair" and config.representation.ahead == 0:
            self._learner = TransitionLearner(self.layout, self.num_actions, config, rng=self.rng)
        else:
            rows = self.num_envs
            self._episodes = EpisodeLearner(self.layout, self.num_actions, config, num_rows=rows, rng=self.rng)
            self._learner = self._episodes
        room = min(self.bonus_config.counts.past, config.capacity)
        # A generator of its own: whatever left the memory, the same batches are drawn.
        self.past = Past(room, self.layout.shape, self.layout.dtype, rng=np.random.default_rng(0))

    @property
    def learner(self) -> TransitionLearner:
        """What learns the features; RlcError for a bonus without any."""
        if self._learner is None:
            raise RlcError(f"sb3 bonus: the kind {self.bonus_config.counts.kind} learns no features.")
        return self._learner

    @property
    def counts(self) -> VisitBonus:
        """The counts of pairs; RlcError for a bonus without any."""
        if self.bonus.pair is None:
            raise RlcError(f"sb3 bonus: the kind {self.bonus_config.counts.kind} counts no pairs.")
        return self.bonus.pair

    def reset(self) -> Any:
        obs = self.venv.reset()
        self._obs = np.array(obs)
        self._begins[:] = True
        return obs

    def step_async(self, actions: Array) -> None:
        self._action = np.array(actions, dtype=np.int64).reshape(-1)
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        if self.training:
            bonus = self._visit(np.asarray(obs), dones, infos)
            for row, info in enumerate(infos):
                info["extrinsic"], info["bonus"] = float(rewards[row]), float(bonus[row])
            rewards = rewards + bonus.astype(rewards.dtype)
        self._begins[:] = dones if self.training else True  # after steps that were not seen, episodes begin anew
        self._obs = np.array(obs)
        return obs, rewards, dones, infos

    def _visit(self, obs: Array, dones: BoolArray, infos: list[dict[str, Any]]) -> FloatArray:
        """The bonuses (B,) by the visits of before, then these B are counted and learned from."""
        require(self._obs is not None, "sb3 bonus: reset() comes before step().")
        assert self._obs is not None
        successor = np.array(obs)
        for row in np.flatnonzero(dones):
            require("terminal_observation" in infos[row], "sb3 bonus: an ended episode has no terminal_observation.")
            successor[row] = infos[row]["terminal_observation"]
        bonus = self.bonus.pay(self._step(self._obs, successor))
        if self._learner is not None:
            self._learn(self._learner)
        return bonus

    def _step(self, obs: Array, successor: Array) -> RowStep:
        """The step, with features where the bonus uses some, and stored in their memory."""
        B, begins, learner = len(self._action), np.flatnonzero(self._begins), self._learner
        if learner is None:
            nothing = np.zeros((B, 1, 0))
            return RowStep(obs, self._action, successor, begins, np.arange(B), nothing, nothing)
        if self._episodes is not None:
            self._episodes.begin(begins)
        left, action = learner.leaving(B)
        # Where arrivals alone are counted, an observation is one place whatever was done there.
        self.past.add(left, np.zeros_like(action) if self._pays == "arrival" else action, self._taken)
        place, phi = learner.store(obs, self._action, successor), learner.net.phi(obs)
        looked_at = self.bonus.arrivals is not None or self.bonus.closeness is not None
        phi_next = learner.net.phi(successor) if looked_at else phi
        return RowStep(obs, self._action, successor, begins, place, phi, phi_next)

    def _learn(self, learner: TransitionLearner) -> None:
        """Gradient steps and rebuilds that these visits are the occasion for."""
        config, visits, parts = self.bonus_config, learner.stored, self.bonus_config.counts.parts
        if visits < config.warm_start:
            return
        if learner.steps == 0 and self.rebuilt_at == 0:
            learner.standardise()
        learns = parts is None or parts.features != "drawn"
        before = visits - len(self._action)
        for _ in range(visits // config.train_every - before // config.train_every if learns else 0):
            self.report = {"loss": learner.step()}
        if visits >= (1.0 + config.growth) * self.rebuilt_at and (learner.steps > 0 or not learns):
            self._rebuild()
            self.rebuilt_at = visits

    def _rebuild(self) -> None:
        learner, phi = self.learner, self.learner.net.phi
        learner.net.freeze()
        observed = learner.stored if self._episodes is None else self._episodes.observed
        left = round(4096 * self.past.visits / observed)  # each visit counts, wherever it is kept
        sample = learner.sample(4096 - left)
        if left:
            sample = np.concatenate([sample, phi(*self.past.some(left))])
        seen = (
            (phi(obs), np.zeros(len(obs), dtype=np.int64), np.ones(len(obs)))
            for obs in (() if self._episodes is None else self._episodes.observations())
        )
        gone = ((phi(obs), action, weight) for obs, action, weight in self.past.chunks())
        self.bonus.rebuild(sample, learner.visits(), seen, gone, left=learner.stored - len(learner))

    def _taken(self, obs: Array, action: IntArray) -> Array:
        """What the bonus counts of observations (n, ...) and actions (n,) today."""
        return self.bonus.key_taken(self.learner.net.phi(obs), action)

    def _psi(self, obs: Array) -> FloatArray:
        """Features of states (n, d) today."""
        return self.learner.net.phi(obs)[:, 0]

    def _parts(self) -> list[Any]:
        """What the bonus is made of; empty for none."""
        return list(self.bonus_config.counts.parts or ())

    def state_dict(self) -> State:
        """Everything but the environment: the same calls afterwards give the same bytes."""
        learned = {}
        if self._learner is not None:
            learned = {"learner": self._learner.state_dict(), "past": self.past.state_dict()}
        own = {"rebuilt_at": self.rebuilt_at, "rng": generator_state(self.rng), "parts": self._parts()}
        return {**learned, **self.bonus.state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes. `reset` must follow."""
        learned = () if self._learner is None else ("learner", "past")
        require_keys(state, ("parts",), "sb3 bonus")
        saved, own = list(state["parts"]), self._parts()
        require(saved == own, f"sb3 bonus: saved with the parts {saved}, but this one has {own}.")
        require_keys(state, (*learned, "rebuilt_at", "rng"), "sb3 bonus")
        if self._learner is not None:
            self._learner.load_state_dict(state["learner"])
        self.bonus.load_state_dict(state)
        if self._learner is not None:
            self.past.load_state_dict(state["past"])
        self.rebuilt_at = int(state["rebuilt_at"])
        restore_generator(self.rng, state["rng"])
        self._obs = None
