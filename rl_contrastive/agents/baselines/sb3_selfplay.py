"""Self-play PPO (Stable-Baselines3): two policies of a zero-sum game that take turns in learning against each other.

    for segment = 1, 2, ...
      1. the learner is the maximiser in odd segments, the minimiser in even ones
      2. PPO for `rollouts` rollouts of n_steps: the learner's action joins one drawn from the other player's policy, of
         a random snapshot among its last `pool` for each batch of episodes; the minimiser is paid -r
      3. the learner's new policy joins its snapshots

Handed out is the product of both policies' action probabilities, not their modes: an equilibrium mixes. Nothing makes
the last policies of self-play converge to one; that is what this baseline shows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from rl_contrastive.acting import sample
from rl_contrastive.agents.baselines.sb3 import Sb3Agent
from rl_contrastive.agents.baselines.sb3_config import PpoConfig, network
from rl_contrastive.agents.baselines.sb3_view import Clock, EpisodeStream, as_vec_env
from rl_contrastive.config import Ge, require, require_keys
from rl_contrastive.device import copies
from rl_contrastive.registry import register
from rl_contrastive.seeding import SeedTree
from rl_contrastive.spec import Array, BoolArray, Env, FloatArray, IntArray, State, joint_action, product

SIDES = ("max", "min")


@dataclass(frozen=True)
class SelfPlayConfig(PpoConfig, where="sb3-ppo-selfplay"):
    """Two Stable-Baselines3 PPOs in self-play."""

    n_steps: int = 256
    """Steps of each environment between two updates."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus, which keeps both policies mixed."""
    rollouts: Annotated[int, Ge(1)] = 1
    """Updates of one player before the other's turn."""
    pool: Annotated[int, Ge(1)] = 5
    """Latest snapshots of a player that the other one meets (1: the last policy only)."""


def probabilities(policy: Any, x: NDArray[np.float32]) -> FloatArray:
    """Action probabilities (N, A) of an SB3 actor-critic policy at vectors (N, dim)."""
    import torch

    with torch.no_grad():
        p = policy.get_distribution(torch.as_tensor(x)).distribution.probs.double().numpy()
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def weights(model: Any) -> dict[str, Any]:
    """A copy of the tensors of a model's networks."""
    return {name: tensor.detach().clone() for name, tensor in model.policy.state_dict().items()}


class SideStream(EpisodeStream):
    """The game as the player `side` (0: maximiser) meets it: its own actions and rewards, the other one's are drawn."""

    def __init__(self, env: Env, seeds: SeedTree, clock: Clock) -> None:
        super().__init__(env, seeds, clock)
        self.side = 0
        self.frozen: list[Any] = []
        """A network of each player that never learns: it plays a snapshot."""
        self.pools: tuple[list[Any], list[Any]] = ([], [])
        """Snapshots of each player's weights, oldest first."""

    def reset(self) -> NDArray[np.float32]:
        """The other player's snapshot and draws are functions of the batch number, as the episodes' seeds are."""
        self._rng = self.seeds.generator("opponent", self.iteration)
        snapshots = self.pools[1 - self.side]
        self._other = self.frozen[1 - self.side]
        self._other.load_state_dict(snapshots[int(self._rng.integers(len(snapshots)))])
        self._x = super().reset()
        return self._x

    def step(self, action: IntArray) -> tuple[NDArray[np.float32], FloatArray, BoolArray, list[dict[str, Any]]]:
        other = sample(probabilities(self._other, self._x), rng=self._rng)
        players = self.env.env_spec.game
        joint = joint_action(action, other, players) if self.side == 0 else joint_action(other, action, players)
        x, reward, done, infos = super().step(joint)
        self._x = x
        return x, reward if self.side == 0 else -reward, done, infos


@register("agent", "sb3-ppo-selfplay", SelfPlayConfig)
class SelfPlay(Sb3Agent):
    """Self-play by two Stable-Baselines3 PPOs that learn in turn, the clock appended to the observation (games)."""

    has_policy_state = True
    plays = "game"

    def __init__(self, env: Env, config: SelfPlayConfig, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        self.stream = SideStream(env, self.seeds, config.clock)
        self.models: list[Any] = self._build()

    def _build(self) -> list[Any]:
        """Fresh models of both players; their initial weights are a function of the seed alone."""
        from stable_baselines3 import PPO

        config, horizon = self.config, self.env_spec.horizon
        seeds = self.seeds.sequence("init").generate_state(2)
        # The number of steps to come is only needed by off-policy learners, for their buffers.
        arguments = config.arguments(horizon, total_steps=1)
        with self.globals.swapped():
            return [
                PPO(
                    "MlpPolicy",
                    as_vec_env(self.stream, num_actions),
                    policy_kwargs=network(config, self.env_spec),
                    seed=int(seed),
                    device="cpu",
                    **arguments,
                )
                for seed, num_actions in zip(seeds, self.env_spec.game, strict=True)
            ]

    def train_in_own_loop(
        self, *, episodes: int | None = None, steps: int | None = None, on_progress: Callable[[int, int], bool]
    ) -> None:
        """Train from scratch for a budget, as `StableBaselines.train_in_own_loop`.

        An episode that a change of sides cuts is not counted; its steps are.
        """
        self._check_budget(episodes, steps)
        B, stream, config = self.env.num_envs, self.stream, self.config
        stream.iteration = stream.episodes = stream.env_steps = 0
        self.models = self._build()
        stream.side = 0
        stream.frozen = [copy.deepcopy(model.policy) for model in self.models]
        stream.pools = ([weights(self.models[0])], [weights(self.models[1])])
        going_on = True

        def after_step(_locals: dict[str, Any], _globals: dict[str, Any]) -> bool:
            nonlocal going_on
            if not stream.between_episodes:
                return True
            self._count_updates()
            with self.globals.swapped():
                going_on = on_progress(stream.episodes, stream.env_steps)
            stream.reset()  # an evaluation may have used the environment
            within = stream.env_steps < (steps or 0) if episodes is None else stream.episodes + B <= episodes
            going_on = going_on and within
            return going_on

        while going_on:
            learner = self.models[stream.side]
            # The environment has moved on since this player's last turn: SB3 resets it where there is no observation.
            learner._last_obs = None
            with self.globals.swapped():
                turn = config.rollouts * config.n_steps * B
                learner.learn(total_timesteps=turn, callback=after_step, reset_num_timesteps=False)
            self._end_turn(learner)

    def _end_turn(self, learner: Any) -> None:
        """(3), and the other side's turn."""
        stream = self.stream
        snapshots = stream.pools[stream.side]
        snapshots.append(weights(learner))
        del snapshots[: -self.config.pool]
        stream.side = 1 - stream.side
        self._count_updates()

    def _count_updates(self) -> None:
        self.version = sum(int(model._n_updates) for model in self.models)

    def policy(self, obs: Array, h: int, *, explore: bool = False) -> FloatArray:
        """The product of both players' action probabilities: what training plays and what is handed out."""
        x = self.stream.view(obs, h)
        with self.globals.swapped():
            mu, nu = (probabilities(model.policy, x) for model in self.models)
        return product(mu, nu)

    def state_dict(self) -> State:
        """The networks only: enough to play the policies, not to go on training."""
        networks = {side: copies(model.policy.state_dict()) for side, model in zip(SIDES, self.models, strict=True)}
        return {**networks, "version": self.version}

    def load_state_dict(self, state: State) -> None:
        import torch

        require_keys(state, (*SIDES, "version"), "sb3-ppo-selfplay")
        for side, model in zip(SIDES, self.models, strict=True):
            own = {name: tuple(tensor.shape) for name, tensor in model.policy.state_dict().items()}
            shapes = {name: tuple(np.shape(value)) for name, value in state[side].items()}
            require(shapes == own, f"sb3-ppo-selfplay: the saved networks of {side} have shapes {shapes}, not {own}.")
        for side, model in zip(SIDES, self.models, strict=True):
            model.policy.load_state_dict({name: torch.as_tensor(value) for name, value in state[side].items()})
        self.version = int(state["version"])
