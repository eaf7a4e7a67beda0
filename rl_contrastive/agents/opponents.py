"""Opponents that the agent does not control: players of the minimiser in the asymmetric setting, and how to add one.

An opponent sees what the minimiser sees: the observation before each step, and the step afterwards. It is registered
with `@register("opponent", NAME, Config)`; its factory is called with (env_spec, config, *, rng) and returns an object
of the protocol below. A user's file is named by `--import FILE`. Agents ask `make_opponent(name, spec, seed=...)`,
which checks every answer: an illegal action or an exception ends the run with one sentence that names the opponent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np

from rl_contrastive import registry
from rl_contrastive.acting import greedy, sample
from rl_contrastive.agents.baselines.independent_q import mixed
from rl_contrastive.agents.baselines.q_learning import Episodes, QTable, StepSize
from rl_contrastive.config import Ge, Gt, In, Options, from_dict, require, require_keys
from rl_contrastive.errors import RlcError
from rl_contrastive.features.decoder import DecoderConfig
from rl_contrastive.registry import register
from rl_contrastive.seeding import SeedTree, generator_state, restore_generator
from rl_contrastive.spec import Array, EnvSpec, FloatArray, IntArray, State, Transition, marginals, split_action


class Opponent(Protocol):
    """Plays the minimiser's actions 0..B-1 in a game whose `env_spec.players` is (A, B)."""

    def act(self, obs: Array, h: int) -> IntArray:
        """Actions (N,) of the minimiser at the observations (N, ...) of step h."""

    def observe(self, transition: Transition) -> None:
        """The step that was played; `transition.action` is joint, a B + b, and the reward goes to the maximiser."""

    def state_dict(self) -> State:
        """The state that a resumed run needs to give the same bytes."""

    def load_state_dict(self, state: State) -> None:
        """Inverse of `state_dict`."""


@dataclass(frozen=True)
class NoOptions:
    """An opponent with nothing to choose."""


@register("opponent", "uniform", NoOptions)
class UniformOpponent:
    """Every action with probability 1/B."""

    def __init__(self, spec: EnvSpec, config: NoOptions, *, rng: np.random.Generator) -> None:
        self.num_actions, self.rng = spec.game[1], rng

    def act(self, obs: Array, h: int) -> IntArray:
        return self.rng.integers(self.num_actions, size=len(obs))

    def observe(self, transition: Transition) -> None:
        """Nothing is learned."""

    def state_dict(self) -> State:
        return {"rng": generator_state(self.rng)}

    def load_state_dict(self, state: State) -> None:
        require_keys(state, ("rng",), "opponent uniform")
        restore_generator(self.rng, state["rng"])


@register("opponent", "fixed-random", NoOptions)
class FixedRandomOpponent:
    """One deterministic policy, drawn from the seed: a table of states, or argmax_b of random linear scores (x, 1)."""

    def __init__(self, spec: EnvSpec, config: NoOptions, *, rng: np.random.Generator) -> None:
        H, B = spec.horizon, spec.game[1]
        self.tabular = spec.num_states is not None
        size = spec.num_states if spec.num_states is not None else int(np.prod(spec.obs_shape)) + 1
        self.scores: FloatArray = rng.normal(size=(H, size, B))

    def act(self, obs: Array, h: int) -> IntArray:
        if self.tabular:
            return np.asarray(self.scores[h, obs].argmax(axis=1))
        x = np.asarray(obs, dtype=np.float64).reshape(len(obs), -1)
        return np.asarray((x @ self.scores[h, :-1] + self.scores[h, -1]).argmax(axis=1))

    def observe(self, transition: Transition) -> None:
        """Nothing is learned."""

    def state_dict(self) -> State:
        return {"scores": self.scores.copy()}

    def load_state_dict(self, state: State) -> None:
        require_keys(state, ("scores",), "opponent fixed-random")
        shape = np.shape(state["scores"])
        require(
            shape == self.scores.shape,
            f"opponent fixed-random: the saved scores have shape {shape}, not {self.scores.shape}.",
        )
        self.scores = np.array(state["scores"], dtype=np.float64)


@dataclass(frozen=True)
class QOpponentConfig(Options, where="q-learner"):
    """An epsilon-greedy Q-learner that adapts to the other player."""

    alpha: Annotated[float, In(0, 1, above=True)] = 0.1
    """Step size, constant because the other player changes and old targets must fade."""
    epsilon: Annotated[float, In(0, 1)] = 0.1
    """Probability of a uniform action."""
    capacity: Annotated[int, Ge(10)] = 5000
    """Rows kept of each step where observations are decoded, the newest ones."""
    decoder_growth: Annotated[float, Gt(0)] = 0.1
    """Refit a step's decoder when its rows grew by this fraction."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Rich observations -> latent states."""


@register("opponent", "q-learner", QOpponentConfig)
class QOpponent:
    """An adversary that adapts: epsilon-greedy in Q_h(s,b) += alpha (r + min_b' Q_{h+1}(s',b') - Q_h(s,b))."""

    def __init__(self, spec: EnvSpec, config: QOpponentConfig, *, rng: np.random.Generator) -> None:
        self.config, self.players, self.rng = config, spec.game, rng
        self.data = Episodes(spec, config.decoder, capacity=config.capacity, growth=config.decoder_growth)
        step = StepSize(config.alpha, spec.horizon)
        self.table = QTable(spec.horizon, self.data.num_states, self.players[1], step)

    def act(self, obs: Array, h: int) -> IntArray:
        nu = greedy(-self.table.at(h, self.data.label(h, obs)))
        return sample(mixed(nu, self.config.epsilon), rng=self.rng)

    def observe(self, transition: Transition) -> None:
        self.data.add(transition)
        if (transition.boundary | ~transition.alive).all():
            self._learn()

    def _learn(self) -> None:
        """The batch of episodes is over."""
        redecoded, parts = self.data.take()
        self.table.forget(redecoded)
        for rows in parts:
            b = split_action(rows.action, self.players)[1]
            best = -self.table.best_after(rows, sign=-1.0)  # min Q = -max (-Q)
            self.table.learn(rows.h, rows.z, b, rows.reward + rows.discount * best)

    def state_dict(self) -> State:
        parts = {"table": self.table.state_dict(), "data": self.data.state_dict()}
        return {**parts, "rng": generator_state(self.rng)}

    def load_state_dict(self, state: State) -> None:
        require_keys(state, ("table", "data", "rng"), "opponent q-learner")
        self.table.load_state_dict(state["table"])
        self.data.load_state_dict(state["data"])
        restore_generator(self.rng, state["rng"])


@dataclass(frozen=True)
class RunOpponentConfig:
    """A finished run."""

    id: str = ""
    """Its folder."""


@register("opponent", "run:", RunOpponentConfig)
class RunOpponent:
    """The minimiser's policy of a finished run of the same game, `run:FOLDER`; it learns no more."""

    def __init__(self, spec: EnvSpec, config: RunOpponentConfig, *, rng: np.random.Generator) -> None:
        from rl_contrastive.runs.load import load_trained  # it can make any agent, this one's among them

        trained = load_trained(Path(config.id))
        for name in ("players", "horizon", "obs_shape", "num_states"):
            mine, theirs = getattr(spec, name), getattr(trained.spec, name)
            require(
                mine == theirs,
                f"opponent run:{config.id} was trained on {trained.spec.name} with {name} {theirs}; here it is {mine}.",
            )
        self.agent, self.players, self.rng = trained.agent, spec.game, rng

    def act(self, obs: Array, h: int) -> IntArray:
        return sample(marginals(self.agent.policy(obs, h), self.players)[1], rng=self.rng)

    def observe(self, transition: Transition) -> None:
        """Nothing is learned."""

    def state_dict(self) -> State:
        """The policy is in the run's own folder."""
        return {"rng": generator_state(self.rng)}

    def load_state_dict(self, state: State) -> None:
        require_keys(state, ("rng",), "opponent run")
        restore_generator(self.rng, state["rng"])


class CheckedOpponent:
    """An opponent whose answers are checked and whose exceptions become one RlcError with its name."""

    def __init__(self, name: str, opponent: Opponent, num_actions: int) -> None:
        self.name, self.opponent, self.num_actions = name, opponent, num_actions

    def act(self, obs: Array, h: int) -> IntArray:
        """Actions (N,) int64 in 0..B-1 at the observations (N, ...) of step h."""
        try:
            actions = self.opponent.act(obs, h)
        except Exception as error:
            raise _blamed(self.name, f"act at step h={h}", error) from error
        return checked_actions(self.name, actions, h, len(obs), self.num_actions)

    def observe(self, transition: Transition) -> None:
        """Hand the step on."""
        try:
            self.opponent.observe(transition)
        except Exception as error:
            raise _blamed(self.name, f"observe at step h={transition.h}", error) from error

    def state_dict(self) -> State:
        """The opponent's own state, and whose it is."""
        return {"name": self.name, "state": self.opponent.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Inverse of `state_dict`; RlcError if the state is of another opponent."""
        require_keys(state, ("state",), f"opponent '{self.name}'")
        found = state.get("name")
        require(found == self.name, f"the saved opponent is '{found}', not '{self.name}'.")
        self.opponent.load_state_dict(state["state"])


def make_opponent(name: str, spec: EnvSpec, *, seed: int) -> CheckedOpponent:
    """The registered opponent `name` (or run:FOLDER) for a game, with a stream of its own; RlcError if unknown."""
    require(spec.players is not None, f"opponent '{name}': {spec.name} is no two-player game.")
    entry, fixed = registry.get("opponent", name)
    config: Any = from_dict(entry.config, fixed, f"opponent {name}: ")
    rng = SeedTree(seed).generator("opponent")
    try:
        opponent: Opponent = entry.factory(spec, config, rng=rng)
    except Exception as error:
        raise _blamed(name, "its construction", error) from error
    return CheckedOpponent(name, opponent, spec.game[1])


def checked_actions(name: str, actions: Any, h: int, rows: int, num_actions: int) -> IntArray:
    """An opponent's actions as (rows,) int64 in 0..num_actions-1; else an RlcError that says what is allowed."""
    try:
        given = np.asarray(actions)
    except ValueError:  # lists of unequal length
        given = np.empty(0, dtype=object)
    allowed = f"it must give {rows} integers in 0..{num_actions - 1}"
    if given.shape != (rows,) or given.dtype.kind not in "iu":
        what = f"an array of shape {given.shape} and type {given.dtype}"
        raise RlcError(f"opponent '{name}' gave {what} at step h={h}; {allowed}, one for each row.")
    bad = np.flatnonzero((given < 0) | (given >= num_actions))
    if len(bad):
        raise RlcError(f"opponent '{name}' gave action {given[bad[0]]} in row {bad[0]} at step h={h}; {allowed}.")
    return given.astype(np.int64)


def _blamed(name: str, where: str, error: Exception) -> RlcError:
    """One sentence for an opponent's exception; an RlcError stays unchanged."""
    if isinstance(error, RlcError):
        return error
    text = " ".join(str(error).split()).rstrip(".")
    return RlcError(f"opponent '{name}' raised {type(error).__name__} in {where}{': ' if text else ''}{text}.")
