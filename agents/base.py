"""What every agent shares: its environment's spec, its seed tree, and `learn(episodes)` for use from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rl_contrastive.seeding import SeedTree
from rl_contrastive.spec import Env, EnvSpec, ExactModel, FloatArray, IntArray, State, Transition

if TYPE_CHECKING:
    from rl_contrastive.experiment.loop import TrainingResult


class BaseAgent:
    """Base of the agents (one level deep): subclasses implement the `rl_contrastive.spec.Agent` protocol.

    `BaseAgent(env, config, seed=0)`: `env` is read for its `env_spec` (and, by the ceilings, its exact model).
    Every config has a field `batch`.
    """

    version: int = 0

    def __init__(self, env: Env, config: Any, *, seed: int = 0) -> None:
        self.env = env
        self.env_spec: EnvSpec = env.env_spec
        self.config = config
        self.batch: int = config.batch
        self.seeds = SeedTree(seed)

    def learn(self, episodes: int, **options: Any) -> TrainingResult:
        """Train for `episodes` episodes on the agent's environment; options are those of `loop.train`."""
        from rl_contrastive.experiment.loop import train

        return train(self, self.env, episodes=episodes, **options)

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

    def exact_metrics(self, model: ExactModel) -> dict[str, float]:
        """No model of its own by default."""
        return {}

    def state_dict(self) -> State:
        raise NotImplementedError

    def load_state_dict(self, state: State) -> None:
        raise NotImplementedError
