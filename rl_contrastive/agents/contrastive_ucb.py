"""Contrastive-UCB for low-rank MDPs: Algorithm 1 of Qiu et al. 2022, "Contrastive UCB".

    for k = 1, 2, ...
      1. roll in with the last policy pi_k to step t - 1, take uniform actions at t - 1 and t, for t = 0..H: the pair
         (s_{t-1}, a, s_t) joins D~_{t-1} (state of pi_k, uniform action), (s_t, a', s_{t+1}) joins D_t (both uniform)
      2. (phi_h, psi_h) <- contrastive fit on D_h and D~_h against negatives s' ~ P^-, all h at once
      3. Sigma_h = lambda I + sum phi_h phi_h' over the stored rows,  b_h = min(gamma ||phi_h||_{Sigma_h^-1}, H)
      4. for h = H-1..0: Q_h = min(r_h + b_h + P-hat_h V_{h+1}, H - h), V_h = max_a Q_h, P-hat = P^- psi'phi
      5. pi_{k+1} = argmax_a Q_h;  the policy handed out is greedy in the same recursion with b = 0

The episodes of a batch draw their t uniformly. In expectation this is step 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rl_contrastive.acting import greedy, sample
from rl_contrastive.agents.base import BaseAgent, grew_by
from rl_contrastive.agents.ridge_decoder_model import RidgeDecoderModel
from rl_contrastive.agents.ucb_config import ContrastiveUCBConfig
from rl_contrastive.agents.ucb_models import Model, TableModel
from rl_contrastive.agents.vector_model import VectorModel
from rl_contrastive.config import require_keys
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.planning.behaviour import uniform_around
from rl_contrastive.registry import register
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import Behaviour, Embedded, Env, ExactModel, FloatArray, IntArray, State, Transition


@register("agent", "contrastive-ucb", ContrastiveUCBConfig)
class ContrastiveUCB(BaseAgent):
    """The paper's algorithm: contrastive features, elliptical bonus, optimistic value iteration."""

    config: ContrastiveUCBConfig

    def __init__(self, env: Env, config: ContrastiveUCBConfig, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        tabular = self.env_spec.num_states is not None
        kind = "latent" if tabular else config.representation
        make: dict[str, Callable[[Env, ContrastiveUCBConfig], Model]] = {
            "latent": TableModel,
            "vector": VectorModel,
            "ridge": RidgeDecoderModel,
        }
        self.model = make[kind](env, config)
        self.roll_in = config.roll_in if config.roll_in != "auto" else "mixed" if tabular else "paper"
        self.rng, self.fit_rng = self.seeds.generator("act"), self.seeds.generator("fit")
        self.episodes, self.fitted_rows = 0, 0
        self._t: IntArray = np.zeros(0, dtype=np.int64)
        self.report: dict[str, float] = {}

    def begin(self, num_envs: int) -> None:
        """1. The step t of every episode, in 0..H: t = H fills D~_{H-1}, as t = 0 fills D_0; H + 2 is never reached."""
        H, share = self.env_spec.horizon, self._share()
        self._t = self.rng.integers(H + 1, size=num_envs)
        if share < 1.0:
            self._t = np.where(self.rng.random(num_envs) < share, self._t, H + 2)

    def _share(self) -> float:
        """The share of the episodes that act uniformly around their t."""
        if self.roll_in == "on-policy":
            return 0.0
        if self.roll_in == "thinned":
            return min(1.0, float(np.sqrt(max(self.config.warm_start, 1) / max(self.episodes, 1))))
        return 1.0

    def behaviour(self, pi: FloatArray) -> Behaviour:
        """1. as an exact distribution."""
        share = self._share()
        return Behaviour.memoryless(pi) if self.version == 0 or share == 0.0 else uniform_around(pi, share)

    def act(self, obs: Any, h: int) -> IntArray:
        """1. pi_k, uniform at t - 1 and t."""
        A = self.env_spec.num_actions
        uniform = self.rng.integers(A, size=len(obs))
        if self.version == 0:
            return uniform
        planned = sample(self.policy(obs, h, explore=True), rng=self.rng)
        return np.where(self._uniform(h), uniform, planned)

    def _uniform(self, h: int) -> Any:
        """(B,) episodes that act uniformly at step h."""
        return (h == self._t) | (h == self._t - 1)

    def observe(self, transition: Transition) -> None:
        """1. D and D~; given (s,a) the next state has one law, however a was chosen, so other steps may be kept."""
        self.model.bounds.note(transition.reward[transition.alive])
        keep_all = self.version == 0 or self.roll_in != "paper"
        self.model.add(transition, transition.alive if keep_all else self._uniform(transition.h))

    def update(self) -> dict[str, float]:
        """2.-5. when the data grew enough."""
        self.episodes += len(self._t)
        rows = int(self.model.rows().sum())
        if grew_by(rows, self.fitted_rows, self.config.growth) and self.episodes >= self.config.warm_start:
            self.version += 1
            self.fitted_rows = rows
            self.report = {**self.model.fit(self.version, rng=self.fit_rng), "rows": float(rows)}
        return self.report

    def policy(self, obs: Any, h: int, *, explore: bool = False) -> FloatArray:
        """Greedy in Q with the bonus (explore) or without; uniform over exact ties, and before the first plan."""
        if self.version == 0:
            return np.full((len(obs), self.env_spec.num_actions), 1.0 / self.env_spec.num_actions)
        return greedy(self.model.q(h, obs, explore=explore))

    def exact_metrics(self, model: ExactModel) -> dict[str, float]:
        """TV of P-hat, largest principal angle of phi, optimism V^UCB_0 - V*_0; where observations are states."""
        return self.model.exact_metrics(model) if self.version and model.observations_are_states else {}

    def embed(self, h: int, obs: Any, action: IntArray, next_obs: Any) -> Embedded | None:
        """phi_h(s,a) and psi_h(s') of transitions of step h; None before the first fit."""
        return self.model.embed(h, obs, action, next_obs)

    def stored_features(self) -> Embedded | None:
        """The same of a sample of the stored transitions."""
        return self.model.stored_features()

    def state_dict(self) -> State:
        numbers = {name: getattr(self, name) for name in ("episodes", "version", "fitted_rows", "report")}
        streams = {"rng": generator_state(self.rng), "fit_rng": generator_state(self.fit_rng)}
        return {**numbers, **streams, "model": self.model.state_dict()}

    def load_state_dict(self, state: State) -> None:
        require_keys(state, ("episodes", "version", "fitted_rows", "report", "rng", "fit_rng", "model"), "ucb")
        self.episodes, self.version, self.fitted_rows = (int(state[k]) for k in ("episodes", "version", "fitted_rows"))
        self.report = {str(k): float(v) for k, v in state["report"].items()}
        restore_generator(self.rng, state["rng"])
        restore_generator(self.fit_rng, state["fit_rng"])
        self.model.load_state_dict(state["model"])


@dataclass(frozen=True)
class ContrastiveLSVIConfig(ContrastiveUCBConfig):
    """Contrastive-UCB's roll-in and features, with ridge LSVI and a decoder's policy in the place of P-hat."""

    growth: float = 0.0
    """Plan again when the stored transitions grew by this fraction (0: after every batch)."""
    representation: Literal["vector", "latent", "ridge"] = "ridge"
    """For rich observations only (states are always tables): ridge LSVI on phi, and a decoder's policy to hand out."""


@register("agent", "contrastive-lsvi", ContrastiveLSVIConfig)
def contrastive_lsvi(env: Env, config: ContrastiveLSVIConfig, *, seed: int = 0) -> ContrastiveUCB:
    """Not Algorithm 1: acts by ridge LSVI on contrastive features, hands out the policy of a decoder's latents."""
    return ContrastiveUCB(env, config, seed=seed)


@dataclass(frozen=True)
class RepUCBConfig(ContrastiveUCBConfig):
    """Rep-UCB (Uehara et al. 2022): the same planner on features of maximum likelihood."""

    growth: float = 0.1
    """Refit and replan when the stored transitions grew by this fraction: each fit descends a loss."""
    learner: LearnerConfig = field(default_factory=lambda: LearnerConfig(method="spectral+nce", objective="mle"))
    """The fit: maximum likelihood from the spectral start."""


@register("agent", "rep-ucb", RepUCBConfig)
def rep_ucb(env: Env, config: RepUCBConfig, *, seed: int = 0) -> ContrastiveUCB:
    """Rep-UCB: roll-in, bonus and planner of contrastive-ucb with maximum-likelihood features."""
    return ContrastiveUCB(env, config, seed=seed)
