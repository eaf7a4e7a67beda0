"""The base of every agent: its environment's spec, its seed tree, and `learn(episodes)` for use from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from rl_contrastive import registry
from rl_contrastive.config import require_finite
from rl_contrastive.errors import RlcError
from rl_contrastive.seeding import SeedTree
from rl_contrastive.spec import Behaviour, Env, EnvSpec, ExactModel, FloatArray, IntArray, State, Transition

if TYPE_CHECKING:
    from rl_contrastive.runs.loop import TrainingResult


def grew_by(seen: float, planned_at: float, growth: float) -> bool:
    """Whether to plan again: only if the data grew by the fraction `growth` since the last plan (0: by any amount)."""
    return seen > planned_at and seen >= (1.0 + growth) * planned_at


def true_reward(env: Env) -> FloatArray:
    """r_h(s,a) (H, S, A) of the exact model, for agents that are told the rewards (`known_reward`)."""
    model = env.exact()
    if model is None or not model.observations_are_states:
        raise RlcError(f"known_reward: {env.env_spec.name} has no exact model over its observations.")
    return model.r


def _registered(config: Any) -> str | None:
    """The name of the agent with this class of config, as users type it; None if it is not registered."""
    return next((entry.name for entry in registry.entries("agent") if entry.config is type(config)), None)


class BaseAgent:
    """Base of the agents (one level deep): subclasses implement the `rl_contrastive.spec.Agent` protocol.

    `BaseAgent(env, config, seed=0)` reads the `env_spec` of `env`; agents on true features also read its exact model.
    Every config has a field `batch`.
    """

    version: int = 0
    plays: Literal["mdp", "game", "any"] = "mdp"
    """The problems that the agent can handle: one agent, two-player zero-sum games, or both."""

    def __init__(self, env: Env, config: Any, *, seed: int = 0) -> None:
        if not isinstance(getattr(env, "env_spec", None), EnvSpec):
            raise RlcError(
                f"{type(self).__name__} needs an environment with an env_spec, but {type(env).__name__} has none: make "
                "it by its name here, as in make_env('gym:CartPole-v1', num_envs)."
            )
        require_finite(config, "agent.")
        self.env = env
        game = env.env_spec.players is not None
        if self.plays != "any" and (self.plays == "game") != game:
            have = "a two-player game" if game else "an environment of one agent"
            want = "games" if self.plays == "game" else "environments of one agent"
            who = _registered(config) or type(self).__name__
            raise RlcError(f"{who} is made for {want}, but {env.env_spec.name} is {have} (see `rlc list agents`).")
        self.env_spec: EnvSpec = env.env_spec
        self.config = config
        self.batch: int = config.batch
        self.seeds = SeedTree(seed)

    def learn(self, episodes: int | None = None, *, steps: int | None = None, **options: Any) -> TrainingResult:
        """Train on the agent's environment, for `episodes` or for `steps`; options are those of `loop.train`."""
        from rl_contrastive.runs.loop import train

        return train(self, self.env, episodes=episodes, steps=steps, **options)

    def begin(self, num_envs: int) -> None:
        """Nothing to draw per episode by default."""

    def act(self, obs: Any, h: int) -> IntArray:
        raise NotImplementedError

    def observe(self, transition: Transition) -> None:
        raise NotImplementedError

    def update(self) -> dict[str, float]:
        raise NotImplementedError

    def policy(self, obs: Any, h: int, *, explore: bool = False) -> FloatArray:
        raise NotImplementedError

    def behaviour(self, pi: FloatArray) -> Behaviour | None:
        """Distribution of the next episodes, given the table pi (H, S, A) of `policy(explore=True)`; here pi itself."""
        return Behaviour.memoryless(pi)

    def exact_metrics(self, model: ExactModel) -> dict[str, float]:
        """No model of its own by default."""
        return {}

    def state_dict(self) -> State:
        raise NotImplementedError

    def load_state_dict(self, state: State) -> None:
        raise NotImplementedError
