"""Exact values of an agent's policies where the environment exposes its model, for one agent and for games.

    one agent: value = rho . V^pi_0,            gap = V* - value
    game:      value = rho . V^{mu,nu}_0,       gap = V^{br,nu} - V^{mu,br}

There are two losses. `policy_loss` is the gap of the optimistic policy pi_k, which the theorem bounds. `played_loss` is
the expected gap of the episodes as played, including the uniform actions of the roll-in. It is a term of the regret.

The policies of a game are the marginals of the agent's joint action probabilities. Over rich observations they are
averaged over fresh emissions of every latent state, drawn once a run, so that all evaluations see the same ones.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.planning.behaviour import behaviour_value, policy_value
from rl_contrastive.planning.games import DualityGap, duality_gap, kernels, layered_gap
from rl_contrastive.runs.evaluate import checked_policy, exact_evaluation, policy_table
from rl_contrastive.spec import (
    Agent,
    Array,
    Behaviour,
    Certified,
    Env,
    ExactModel,
    FloatArray,
    KnownBehaviour,
    LayeredGame,
    WithLayers,
    marginals,
)

EMISSIONS = 64
"""Observations drawn for each latent state and step, for the exact gap over rich observations."""


class Oracle(Protocol):
    """The interface that the loop uses. Every result is computed once for each version of the agent."""

    model: ExactModel

    def policy_loss(self, agent: Agent) -> float:
        """The loss of an episode of the optimistic policy pi_k: a term of the average sub-optimality."""

    def played_loss(self, agent: Agent) -> float | None:
        """The expected loss of an episode as played now: a term of the regret. None without known probabilities."""

    def covered(self, agent: Agent) -> bool | None:
        """Whether the agent's certificate bounds the loss of pi_k, in games the gap of sigma's marginals; None without
        a certificate."""

    def metrics(self, agent: Agent) -> dict[str, float]:
        """value, gap and more of the bonus-free policy. In games `certificate` bounds `gap_explore`, of sigma's
        marginals, and not `gap`, of the pair that is handed out."""


def make_oracle(model: ExactModel, rng: np.random.Generator) -> Oracle:
    """The oracle of a model; `rng` draws emissions."""
    return MdpOracle(model) if model.players is None else GameOracle(model, rng)


class MdpOracle:
    """One agent on observed states."""

    def __init__(self, model: ExactModel) -> None:
        self.model = model
        self._value: tuple[int, float] | None = None  # (agent version, of the bonus-free policy)
        self._losses: tuple[int, float, float | None] | None = None  # (agent version, of pi_k, as played)

    def policy_loss(self, agent: Agent) -> float:
        return self._both(agent)[0]

    def played_loss(self, agent: Agent) -> float | None:
        return self._both(agent)[1]

    def covered(self, agent: Agent) -> bool | None:
        return None

    def metrics(self, agent: Agent) -> dict[str, float]:
        if self._value is None or self._value[0] != agent.version:
            self._value = (agent.version, exact_evaluation(agent, self.model, explore=False))
        value = self._value[1]
        return {"value": value, "gap": self.model.optimal_return - value}

    def _both(self, agent: Agent) -> tuple[float, float | None]:
        """Both losses of a version, from one table of its optimistic policy."""
        if self._losses is None or self._losses[0] != agent.version:
            pi = policy_table(agent, self.model, explore=True)
            law = behaviour_of(agent, pi)
            optimum, value = self.model.optimal_return, policy_value(self.model, pi)
            played: float | None = None
            if law is not None:
                itself = len(law.start) == 1 and np.shares_memory(law.pi, pi)
                played = optimum - (value if itself else behaviour_value(self.model, law))
            self._losses = (agent.version, optimum - value, played)
        return self._losses[1], self._losses[2]


class GameOracle:
    """Two players: best responses to each of their policies."""

    def __init__(self, model: ExactModel, rng: np.random.Generator) -> None:
        H, S, _ = model.r.shape
        self.model = model
        self.kernels = kernels(model.P)
        self.samples = 1 if model.emissions is None else EMISSIONS
        self.observations: list[Array] = []
        """For each step, S * M observations, state by state."""
        for h in range(H):
            if model.emissions is None:
                self.observations.append(np.arange(S, dtype=np.int64))
            else:
                drawn = model.emissions(h, EMISSIONS, rng)
                self.observations.append(drawn.reshape(S * EMISSIONS, *drawn.shape[2:]))
        self._gaps: dict[bool, tuple[int, DualityGap]] = {}
        self._played: tuple[int, float | None] | None = None
        self._explore: tuple[int, FloatArray] | None = None  # (agent version, table of pi_k)

    def policy_loss(self, agent: Agent) -> float:
        return self.gap(agent, explore=True).gap

    def played_loss(self, agent: Agent) -> float | None:
        """The loss of the Markov policy that an episode plays, averaged over its initial draw."""
        if self._played is None or self._played[0] != agent.version:
            joint = self._joint(agent, explore=True)
            law = behaviour_of(agent, joint)
            loss = None
            if law is not None and law.leave is None:
                if len(law.start) == 1 and np.shares_memory(law.pi, joint):  # pi_k itself, whose gap is known
                    loss = self.policy_loss(agent)
                else:
                    loss = float(law.start @ np.array([self._gap_of(pi).gap for pi in law.pi]))
            self._played = (agent.version, loss)
        return self._played[1]

    def covered(self, agent: Agent) -> bool | None:
        width = self.certificate(agent)
        return None if width is None else width >= self.gap(agent, explore=True).gap - 1e-9

    def certificate(self, agent: Agent) -> float | None:
        """rho . (V-bar_0 - V-under_0) of agents that have one."""
        width = agent.certificate(self.observations[0]) if isinstance(agent, Certified) else None
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
            found = self._gap_of(self._joint(agent, explore=explore))
            self._gaps[explore] = (agent.version, found)
        return found

    def _gap_of(self, joint: FloatArray) -> DualityGap:
        H, S, AB = self.model.r.shape
        assert self.model.players is not None
        policies = marginals(joint.reshape(H, S, self.samples, AB), self.model.players)
        return duality_gap(self.model, *policies, self.kernels)

    def _joint(self, agent: Agent, *, explore: bool) -> FloatArray:
        """Joint probabilities (H, S * samples, AB) at the observations of every step."""
        if explore and self._explore is not None and self._explore[0] == agent.version:
            return self._explore[1]
        AB = self.model.r.shape[2]
        joint = np.stack([checked_policy(agent, x, h, AB, explore=explore) for h, x in enumerate(self.observations)])
        if explore:
            self._explore = (agent.version, joint)
        return joint


def make_layered(env: Env, mode: str = "auto") -> LayeredOracle | None:
    """The oracle of a game that lists its states by steps, or None. mode: as in `exact_model`."""
    if mode == "never" or not isinstance(env, WithLayers):
        return None
    game, spec = env.layered(MOST_LISTED[mode]), env.env_spec
    many = f"{spec.name}: more than {MOST_LISTED[mode]} states are too many for exact values; give exact never"
    require(game is not None or mode == "auto", f"{many}.")
    assert spec.optimal_return is not None
    return None if game is None else LayeredOracle(game, spec.game, spec.optimal_return)


MOST_LISTED = {"auto": 20_000, "always": 2_000_000}
"""Most states of a game that is listed: evaluations take about 30 microseconds a state."""
ROWS = 4096
"""States that a policy is asked for at once."""


class LayeredOracle:
    """Two players on a game that is listed step by step: exact values of the pair that is handed out, and no more."""

    model = None

    def __init__(self, game: LayeredGame, players: tuple[int, int], optimum: float) -> None:
        self.game, self.players, self.optimum = game, players, optimum
        self._gap: tuple[int, DualityGap] | None = None  # (agent version, of the bonus-free policy)

    def metrics(self, agent: Agent) -> dict[str, float]:
        """value, gap, and what each side loses by best responses."""
        found = self.gap(agent)
        sides = {"loss_max": self.optimum - found.best_min, "loss_min": found.best_max - self.optimum}
        return {"value": found.value, "gap": found.gap, **sides}

    def gap(self, agent: Agent) -> DualityGap:
        """Exact duality gap of the marginals of `agent.policy`."""
        if self._gap is None or self._gap[0] != agent.version:
            self._gap = (agent.version, layered_gap(self.game, lambda obs, h: self._policies(agent, obs, h)))
        return self._gap[1]

    def _policies(self, agent: Agent, obs: Array, h: int) -> tuple[FloatArray, FloatArray]:
        A, B = self.players
        parts = [
            checked_policy(agent, obs[start : start + ROWS], h, A * B, explore=False)
            for start in range(0, len(obs), ROWS)
        ]
        return marginals(np.concatenate(parts), self.players)


def behaviour_of(agent: Agent, pi: FloatArray) -> Behaviour | None:
    """The distribution of the agent's episodes, given its table pi of `policy(explore=True)`; by default pi itself."""
    return agent.behaviour(pi) if isinstance(agent, KnownBehaviour) else Behaviour.memoryless(pi)
