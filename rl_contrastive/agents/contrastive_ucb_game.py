"""Contrastive-UCB for zero-sum Markov games: Algorithm 2 of Qiu et al. 2022, "Contrastive UCB".

    for k = 1, 2, ...
      1. roll in with sigma_k, draw both actions uniformly at t - 1 and t, for t = 0..H: D_h and D~_h
      2. (phi_h, psi_h)(s,a,b) <- contrastive fit on D_h and D~_h against negatives s' ~ P^-, all h at once
      3. Sigma_h = lambda I + sum phi_h phi_h',  b_h = min(gamma sqrt(A B) ||phi_h||_{Sigma_h^-1}, 1) (H - h)
      4. for h = H-1..0: Q-bar_h = min(r_h + P-hat V-bar_{h+1} + b_h, H - h)
         Q-under_h = max(r_h + P-hat V-under_{h+1} - b_h, 0)
         sigma_h(s) = iota-CCE(Q-bar_h(s), Q-under_h(s)), V-bar_h = <sigma_h, Q-bar_h>, V-under_h = <sigma_h, Q-under_h>
      5. pi_{k+1}, nu_{k+1} = marginals of sigma; certificate V-bar_0 - V-under_0 + misfit >= their duality gap

The misfit is the error of P-hat where d is too small, which no bonus covers. It is estimated from the residuals of both
values (`features/diagnostics.py:misfit`). The pair handed out is a Nash equilibrium of the same recursion with b = 0;
the certificate says nothing about it. The equilibria are exact (iota ~ 1e-15). The episodes of a batch draw their t
uniformly; in expectation this is step 1. With an opponent that is not controlled the agent plays the maximiser alone:
it uses only Q-bar and its Nash equilibrium.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_contrastive.acting import sample
from rl_contrastive.agents.base import BaseAgent, grew_by
from rl_contrastive.agents.game_config import ContrastiveUCBGameConfig
from rl_contrastive.agents.game_model import GameModel
from rl_contrastive.agents.opponents import make_opponent
from rl_contrastive.config import require_keys
from rl_contrastive.planning.behaviour import uniform_around
from rl_contrastive.registry import register
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import (
    Behaviour,
    BoolArray,
    Embedded,
    Env,
    ExactModel,
    FloatArray,
    IntArray,
    State,
    Transition,
    joint_action,
    split_action,
)


@register("agent", "contrastive-ucb-game", ContrastiveUCBGameConfig)
class ContrastiveUCBGame(BaseAgent):
    """The paper's algorithm for games: contrastive features of (s,a,b), two-sided optimism, CCE, certificate."""

    plays = "game"
    config: ContrastiveUCBGameConfig

    def __init__(self, env: Env, config: ContrastiveUCBGameConfig, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        self.players = self.env_spec.game
        self.model = GameModel(env, config)
        self.opponent = None
        if config.opponent != "none":
            self.opponent = make_opponent(config.opponent, self.env_spec, seed=seed)
        self.rng, self.fit_rng = self.seeds.generator("act"), self.seeds.generator("fit")
        self.episodes, self.fitted_rows = 0, 0
        self._t: IntArray = np.zeros(0, dtype=np.int64)
        self._earned = 0.0  # return of the batch that is being played, summed over its episodes
        self.report: dict[str, float] = {}

    def begin(self, num_envs: int) -> None:
        """1. The step t of every episode, in 0..H: t = H fills D~_{H-1}, as t = 0 fills D_0."""
        self._t = self.rng.integers(self.env_spec.horizon + 1, size=num_envs)

    def act(self, obs: Any, h: int) -> IntArray:
        """1. sigma_k, uniform at t - 1 and t; an opponent puts its own b in place of ours."""
        joint = self.rng.integers(self.env_spec.num_actions, size=len(obs))
        if self.version > 0:
            planned = sample(self.policy(obs, h, explore=True), rng=self.rng)
            joint = np.where(self._uniform(h), joint, planned)
        if self.opponent is not None:
            a, _ = split_action(joint, self.players)
            joint = joint_action(a, self.opponent.act(obs, h), self.players)
        return joint

    def _uniform(self, h: int) -> BoolArray:
        """(B,) episodes that act uniformly at step h."""
        if self.config.roll_in in ("on-policy", "uniform"):
            return np.full(len(self._t), self.config.roll_in == "uniform")
        return np.asarray((h == self._t) | (h == self._t - 1))

    def behaviour(self, pi: FloatArray) -> Behaviour | None:
        """1. as an exact distribution; None with an opponent that is not controlled."""
        if self.opponent is not None:
            return None
        if self.config.roll_in == "uniform":
            return Behaviour.memoryless(np.full(pi.shape, 1.0 / pi.shape[-1]))
        if self.version == 0 or self.config.roll_in == "on-policy":
            return Behaviour.memoryless(pi)
        return uniform_around(pi)

    def observe(self, transition: Transition) -> None:
        """1. D and D~; mixed and on-policy keep every step, as the next state depends on (s,a,b) alone."""
        if self.opponent is not None:
            self.opponent.observe(transition)
            self._earned += float(transition.reward[transition.alive].sum())
        self.model.bounds.note(transition.reward[transition.alive])
        keep_all = self.version == 0 or self.config.roll_in != "paper"
        self.model.learned.add(transition, transition.alive if keep_all else self._uniform(transition.h))

    def update(self) -> dict[str, float]:
        """2.-5. when the data grew enough."""
        self.episodes += len(self._t)
        earned = {} if self.opponent is None else {"earned": self._earned / max(len(self._t), 1)}
        self._earned = 0.0
        rows = int(self.model.learned.rows().sum())
        if grew_by(rows, self.fitted_rows, self.config.growth) and self.episodes >= self.config.warm_start:
            self.version += 1
            self.fitted_rows = rows
            self.report = {**self.model.fit(self.version, rng=self.fit_rng), "rows": float(rows)}
        return {**self.report, **earned}

    def policy(self, obs: Any, h: int, *, explore: bool = False) -> FloatArray:
        """sigma_k (explore), or the product of the equilibrium policies without a bonus; uniform before any plan."""
        return self.model.policy(h, obs, explore=explore)

    def certificate(self, obs: Any) -> FloatArray | None:
        """V-bar_0 - V-under_0 + misfit at first observations; None before the first plan and with a free opponent."""
        return self.model.width(obs) if self.version and self.config.opponent == "none" else None

    def exact_metrics(self, model: ExactModel) -> dict[str, float]:
        """TV of P-hat, largest principal angle of phi, V-bar_0 - V*_0 and V*_0 - V-under_0; on states that are seen."""
        return self.model.exact_metrics(model) if self.version and model.observations_are_states else {}

    def embed(self, h: int, obs: Any, action: IntArray, next_obs: Any) -> Embedded | None:
        """phi_h(s,a) and psi_h(s') of transitions of step h; None before the first fit."""
        return self.model.learned.embed(h, obs, action, next_obs)

    def stored_features(self) -> Embedded | None:
        """The same of a sample of the stored transitions."""
        return self.model.learned.stored_features()

    def state_dict(self) -> State:
        numbers = {name: getattr(self, name) for name in ("episodes", "version", "fitted_rows", "report")}
        streams = {"rng": generator_state(self.rng), "fit_rng": generator_state(self.fit_rng)}
        opponent = None if self.opponent is None else self.opponent.state_dict()
        return {**numbers, **streams, "model": self.model.state_dict(), "opponent": opponent}

    def load_state_dict(self, state: State) -> None:
        require_keys(
            state, ("episodes", "version", "fitted_rows", "report", "rng", "fit_rng", "model", "opponent"), "ucb-game"
        )
        self.episodes, self.version, self.fitted_rows = (int(state[k]) for k in ("episodes", "version", "fitted_rows"))
        self.report = {str(k): float(v) for k, v in state["report"].items()}
        restore_generator(self.rng, state["rng"])
        restore_generator(self.fit_rng, state["fit_rng"])
        self.model.load_state_dict(state["model"])
        if self.opponent is not None:
            self.opponent.load_state_dict(state["opponent"])
