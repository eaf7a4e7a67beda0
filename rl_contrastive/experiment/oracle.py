"""Exact values of what an agent does, where the environment exposes its model: for one agent, and for games.

    one agent: value = rho . V^pi_0,            gap = V* - value,        loss of an episode = V* - V^{pi_k}
    game:      value = rho . V^{mu,nu}_0,       gap = V^{br,nu} - V^{mu,br},   loss of an episode = that gap of pi_k

The policies of a game are the marginals of the agent's joint action probabilities. Over rich observations they are
averaged over fresh emissions of every latent state, drawn once a run, so that all evaluations see the same ones.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rl_contrastive.experiment.evaluate import checked_policy, exact_evaluation
from rl_contrastive.planning.games import DualityGap, duality_gap, kernels
from rl_contrastive.spec import Agent, Array, ExactModel, FloatArray, marginals

EMISSIONS = 64
"""Observations drawn of every latent state and step for the exact gap over rich observations."""


class Oracle(Protocol):
    """What the loop asks; every answer is computed once for a version of the agent."""

    model: ExactModel

    def episode_loss(self, agent: Agent) -> float:
        """What an episode of the behaviour policy pi_k loses: one term of the regret."""

    def covered(self, agent: Agent) -> bool | None:
        """Whether the agent's certificate bounds the loss of its behaviour policy; None without a certificate."""

    def metrics(self, agent: Agent) -> dict[str, float]:
        """value, gap and more of the bonus-free policy."""


def make_oracle(model: ExactModel, rng: np.random.Generator) -> Oracle:
    """The oracle of a model; `rng` draws emissions."""
    return MdpOracle(model) if model.players is None else GameOracle(model, rng)


class MdpOracle:
    """One agent on states that are observed."""

    def __init__(self, model: ExactModel) -> None:
        self.model = model
        self._values: dict[bool, tuple[int, float]] = {}  # explore -> (agent version, exact value)

    def episode_loss(self, agent: Agent) -> float:
        return self.model.optimal_return - self._value(agent, explore=True)

    def covered(self, agent: Agent) -> bool | None:
        return None

    def metrics(self, agent: Agent) -> dict[str, float]:
        value = self._value(agent, explore=False)
        return {"value": value, "gap": self.model.optimal_return - value}

    def _value(self, agent: Agent, *, explore: bool) -> float:
        version, value = self._values.get(explore, (None, 0.0))
        if version != agent.version:
            value = exact_evaluation(agent, self.model, explore=explore)
            self._values[explore] = (agent.version, value)
        return value


class GameOracle:
    """Two players: best responses to what each of them does."""

    def __init__(self, model: ExactModel, rng: np.random.Generator) -> None:
        H, S, _ = model.r.shape
        self.model = model
        self.kernels = kernels(model.P)
        self.samples = 1 if model.emissions is None else EMISSIONS
        self.observations: list[Array] = []
        """Of each step, S * M observations, state by state."""
        for h in range(H):
            if model.emissions is None:
                self.observations.append(np.arange(S, dtype=np.int64))
            else:
                drawn = model.emissions(h, EMISSIONS, rng)
                self.observations.append(drawn.reshape(S * EMISSIONS, *drawn.shape[2:]))
        self._gaps: dict[bool, tuple[int, DualityGap]] = {}

    def episode_loss(self, agent: Agent) -> float:
        return self.gap(agent, explore=True).gap

    def covered(self, agent: Agent) -> bool | None:
        width = self.certificate(agent)
        return None if width is None else width >= self.gap(agent, explore=True).gap - 1e-9

    def certificate(self, agent: Agent) -> float | None:
        """rho . (V-bar_0 - V-under_0) of agents that have one."""
        width = getattr(agent, "certificate", lambda obs: None)(self.observations[0])
        if width is None:
            return None
        return float(self.model.rho @ np.asarray(width).reshape(-1, self.samples).mean(axis=1))

    def metrics(self, agent: Agent) -> dict[str, float]:
        found, optimum = self.gap(agent, explore=False), self.model.optimal_return
        out = {
            "value": found.value,
            "gap": found.gap,
            "loss_max": optimum - found.best_min,
            "loss_min": found.best_max - optimum,
        }
        width = self.certificate(agent)
        if width is not None:
            out |= {"certificate": width, "gap_explore": self.gap(agent, explore=True).gap}
        return out

    def gap(self, agent: Agent, *, explore: bool) -> DualityGap:
        """Exact duality gap of the marginals of `agent.policy`."""
        version, found = self._gaps.get(explore, (None, None))
        if version != agent.version or found is None:
            found = duality_gap(self.model, *self._policies(agent, explore), self.kernels)
            self._gaps[explore] = (agent.version, found)
        return found

    def _policies(self, agent: Agent, explore: bool) -> tuple[FloatArray, FloatArray]:
        H, S, AB = self.model.r.shape
        assert self.model.players is not None
        joint = np.stack([checked_policy(agent, x, h, AB, explore=explore) for h, x in enumerate(self.observations)])
        return marginals(joint.reshape(H, S, self.samples, AB), self.model.players)
