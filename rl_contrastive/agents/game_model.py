"""The learned model behind Contrastive-UCB for games: features of (s, a, b), bonus, two-sided optimistic plan.

Joint actions are treated as the A B actions of one agent: so are counts, decoder, features and P-hat = P^- psi'phi.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rl_contrastive.agents.base import true_reward
from rl_contrastive.agents.table_features import TableFeatures, fit_scalars
from rl_contrastive.config import load_arrays, require_keys
from rl_contrastive.features.diagnostics import misfit
from rl_contrastive.planning.bounds import ReturnBounds
from rl_contrastive.planning.optimistic_games import plan_game, plan_nash
from rl_contrastive.spec import Array, Env, ExactModel, FloatArray, State, product

if TYPE_CHECKING:
    from rl_contrastive.agents.game_config import ContrastiveUCBGameConfig

PLANS = ("sigma", "final_policy", "V_upper", "V_lower")


class GameModel:
    """Plans over states or decoded latents: sigma (H, S, AB) to explore by, mu x nu (H, S, AB) to hand out."""

    def __init__(self, env: Env, config: ContrastiveUCBGameConfig) -> None:
        spec = env.env_spec
        self.config, self.players = config, spec.game
        self.learned = TableFeatures(spec, config, pooled=config.pool)
        self.bounds = ReturnBounds(spec, config.reward_max)
        self.floor, self.cap = self.bounds.returns()
        self.true_reward = true_reward(env) if config.known_reward else None
        H, S, AB = spec.horizon, self.learned.table.num_states, spec.num_actions
        self.sigma: FloatArray = np.full((H, S, AB), 1.0 / AB)
        self.final_policy: FloatArray = self.sigma.copy()
        self.V_upper: FloatArray = np.tile(self.cap[0], S)  # of the first step
        self.V_lower: FloatArray = np.tile(self.floor[0], S)
        self.misfit = 0.0
        """The certificate's term for the error of P-hat that no bonus covers, over both ends and all steps."""

    def fit(self, version: int, *, rng: np.random.Generator) -> dict[str, float]:
        """Features, bonus, plans from all stored rows; scalars to record."""
        fit, config, players = self.learned.refit(version, rng=rng), self.config, self.players
        table = self.learned.table
        self.floor, self.cap = self.bounds.returns()
        b = self.bonus()
        r = np.broadcast_to(table.reward, b.shape) if self.true_reward is None else self.true_reward
        model, bounds = self.learned.planner(), {"cap": self.cap, "floor": self.floor}
        alive = table.alive
        nash = plan_nash(model, r, players, alive=alive)
        self.final_policy = nash.joint()
        if config.opponent != "none":
            upper = plan_nash(model, r, players, b, alive=alive, **bounds)
            self.sigma = product(upper.mu, nash.nu)
            self.V_upper, self.V_lower, self.misfit = upper.V[0], nash.V[0], 0.0
            saturated, iota = float((self.cap[:, None, None] <= upper.Q).mean()), 0.0
        else:
            plan = plan_game(model, r, b, players, alive=alive, **bounds)
            self.sigma, saturated, iota = plan.sigma, plan.saturated, plan.gap
            self.V_upper, self.V_lower = plan.V_upper[0], plan.V_lower[0]
            ends = np.stack([plan.V_upper, plan.V_lower], axis=2)  # (H+1, S, 2)
            self.misfit = float(misfit(table.counts, model, ends, alive).sum())
        N = np.broadcast_to(self.learned.visits, b.shape)
        scalars = {"saturated": saturated, "bonus": float((b * N).sum() / max(N.sum(), 1.0)), "iota": iota}
        return {**scalars, "misfit": self.misfit, **self.bounds.scalars(), **fit_scalars(fit)}

    def bonus(self) -> FloatArray:
        """b_h(s,a,b) = min(gamma sqrt(A B) ||phi||, 1) (cap_h - floor_h) (H, S, AB), the 1 for what was never tried.

        sqrt(A B): phi-hat is right on average over uniform actions, and so at one of the A B pairs up to that factor.
        Pairs without data have the features of P^-, which look familiar although nothing is known about them.
        """
        scale = self.config.gamma * np.sqrt(self.players[0] * self.players[1])
        unknown = 1.0 if scale > 0 else 0.0
        norms = np.where(self.learned.visits > 0, np.minimum(scale * self.learned.norms(), 1.0), unknown)
        return np.asarray((self.cap - self.floor)[:, None, None] * norms)

    def policy(self, h: int, obs: Array, *, explore: bool) -> FloatArray:
        """Joint probabilities (N, AB): sigma_h of the states, or the product of the policies handed out."""
        table = self.sigma if explore else self.final_policy
        return np.asarray(table[h, self.learned.label(h, obs, explore=explore)])

    def width(self, obs: Array) -> FloatArray:
        """V-bar_0 - V-under_0 + sum_h (m_h(V-bar) + m_h(V-under)) (N,) at observations of the first step.

        m_h (`diagnostics.misfit`) is the same for all (s,a,b) and about 0 where d is large enough. Added to every bonus
        it would not change sigma. Except for the bounds of the return, it would only move the two ends by its sum.
        """
        width = (self.V_upper - self.V_lower)[self.learned.label(0, obs, explore=True)]
        return np.asarray(np.minimum(width + self.misfit, self.cap[0] - self.floor[0]))

    def exact_metrics(self, model: ExactModel) -> dict[str, float]:
        """The margins of V-bar and V-under over V*, and the errors of `TableFeatures`."""
        value = model.optimal_return
        sides = {
            "optimism": float(model.rho @ self.V_upper) - value,
            "pessimism": value - float(model.rho @ self.V_lower),
        }
        return {**self.learned.exact_metrics(model), **sides}

    def state_dict(self) -> State:
        return {
            **{name: getattr(self, name) for name in PLANS},
            "misfit": self.misfit,
            "learned": self.learned.state_dict(),
            "bounds": self.bounds.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        require_keys(state, (*PLANS, "misfit", "learned", "bounds"), "ucb-game")
        load_arrays(self, state, PLANS, "ucb-game")
        self.misfit = float(state["misfit"])
        self.learned.load_state_dict(state["learned"])
        self.bounds.load_state_dict(state["bounds"])
