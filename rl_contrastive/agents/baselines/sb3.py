"""Stable-Baselines3's PPO, DQN and QR-DQN as agents of this library: the deep baselines, in the same records.

They train in SB3's own loop (`spec.OwnLoop`), so they cannot be resumed midway: `rlc resume` starts them again from
their seed. Evaluation is by the mode of the policy (argmax of Q, or PPO's most probable action).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_contrastive.acting import sample
from rl_contrastive.agents.base import BaseAgent
from rl_contrastive.agents.baselines.sb3_config import DqnConfig, PpoConfig, QrDqnConfig, Sb3Config, network
from rl_contrastive.agents.baselines.sb3_view import EpisodeStream, as_vec_env
from rl_contrastive.config import require, require_keys
from rl_contrastive.device import copies
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import register
from rl_contrastive.spec import Env, FloatArray, IntArray, State, Transition


@register("agent", "sb3-ppo", PpoConfig)
def sb3_ppo(env: Env, config: PpoConfig, *, seed: int = 0) -> StableBaselines:
    """Stable-Baselines3 PPO (Schulman et al. 2017), the clock appended to the observation."""
    return StableBaselines(env, config, seed=seed)


@register("agent", "sb3-dqn", DqnConfig)
def sb3_dqn(env: Env, config: DqnConfig, *, seed: int = 0) -> StableBaselines:
    """Stable-Baselines3 DQN (Mnih et al. 2015), the clock appended to the observation."""
    return StableBaselines(env, config, seed=seed)


@register("agent", "sb3-qrdqn", QrDqnConfig)
def sb3_qrdqn(env: Env, config: QrDqnConfig, *, seed: int = 0) -> StableBaselines:
    """sb3-contrib QR-DQN (Dabney et al. 2018), the clock appended to the observation."""
    return StableBaselines(env, config, seed=seed)


@dataclass(frozen=True)
class _Globals:
    """State of the process-wide generators, and of torch's thread count."""

    python: Any
    numpy: Any
    torch: Any
    threads: int

    @classmethod
    def now(cls) -> _Globals:
        import torch

        # SB3 draws from numpy's legacy generator: saving its state needs the legacy call.
        legacy = np.random.get_state()  # noqa: NPY002
        return cls(random.getstate(), legacy, torch.get_rng_state(), torch.get_num_threads())

    def install(self) -> None:
        import torch

        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.torch)
        torch.set_num_threads(self.threads)


class PrivateGlobals:
    """SB3 seeds and draws from the global generators of random, numpy and torch; this gives it a set of its own.

    Inside `swapped()` the other set is installed, and on leaving they change places again. So nothing else in the
    process disturbs SB3's draws, and SB3 disturbs nobody's. `swapped()` inside `swapped()` is the outside again.
    """

    def __init__(self) -> None:
        now = _Globals.now()
        # One thread: small networks are slower on many (DLR-RM/stable-baselines3#90), and sums depend on their number.
        self._other = _Globals(now.python, now.numpy, now.torch, threads=1)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        now = _Globals.now()
        self._other.install()
        self._other = now


class Sb3Agent(BaseAgent):
    """Base of the agents that SB3 trains in its own loop."""

    def __init__(self, env: Env, config: Any, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        self.globals = PrivateGlobals()
        self.rng = self.seeds.generator("act")

    def act(self, obs: Any, h: int) -> IntArray:
        return sample(self.policy(obs, h, explore=True), rng=self.rng)

    def observe(self, transition: Transition) -> None:
        raise RlcError("SB3 agents train in their own loop: call train_in_own_loop (or learn), not observe and update.")

    def update(self) -> dict[str, float]:
        raise RlcError("SB3 agents train in their own loop: call train_in_own_loop (or learn), not observe and update.")

    def _check_budget(self, episodes: int | None, steps: int | None) -> None:
        require((episodes is None) != (steps is None), "train_in_own_loop: give exactly one of episodes and steps.")
        B = self.env.num_envs
        require(episodes is None or episodes >= B, f"train_in_own_loop: episodes must be >= batch {B}, got {episodes}.")


class StableBaselines(Sb3Agent):
    """One SB3 algorithm, chosen by its config, on a stream of whole episodes."""

    has_policy_state = False

    def __init__(self, env: Env, config: Sb3Config, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        self.algorithm: Any = config.algorithm()
        self.stream = EpisodeStream(env, self.seeds, config.clock)
        self.model: Any = self._build(total_steps=1)

    def _build(self, total_steps: int) -> Any:
        """A fresh SB3 model; its initial weights are a function of the seed alone."""
        config = self.config
        seed = int(self.seeds.sequence("init").generate_state(1)[0])
        arguments = config.arguments(self.env_spec.horizon, total_steps)
        with self.globals.swapped():
            return self.algorithm(
                "MlpPolicy",
                as_vec_env(self.stream),
                policy_kwargs=network(config, self.env_spec),
                seed=seed,
                device="cpu",
                **arguments,
            )

    def train_in_own_loop(
        self, *, episodes: int | None = None, steps: int | None = None, on_progress: Callable[[int, int], bool]
    ) -> None:
        """Train from scratch for a budget of episodes or steps; `on_progress(episodes, env_steps)` is called when all
        rows have ended an episode, and stops the training by returning False. Rules of the budget: `runs.loop`.
        """
        self._check_budget(episodes, steps)
        B, H, stream = self.env.num_envs, self.env_spec.horizon, self.stream
        total = steps if steps is not None else (episodes or 0) * H
        stream.iteration = stream.episodes = stream.env_steps = 0
        self.model = self._build(total)

        def after_step(_locals: dict[str, Any], _globals: dict[str, Any]) -> bool:
            if not stream.between_episodes:
                return True
            self.version = int(self.model._n_updates)
            with self.globals.swapped():
                going_on = on_progress(stream.episodes, stream.env_steps)
            stream.reset()  # an evaluation may have used the environment: back to the batch SB3 has seen the start of
            if episodes is not None:
                return going_on and stream.episodes + B <= episodes
            return going_on and stream.env_steps < (steps or 0)

        with self.globals.swapped():
            # The callback ends the training at the end of an episode; SB3's own limit would cut one.
            self.model.learn(total_timesteps=total + B * H, callback=after_step)
        self.version = int(self.model._n_updates)

    def policy(self, obs: Any, h: int, *, explore: bool = False) -> FloatArray:
        """The mode of the policy; explore=True: what training plays (PPO's distribution, DQN's epsilon-greedy)."""
        import torch

        A = self.env_spec.num_actions
        x = torch.as_tensor(self.stream.view(obs, h))
        with self.globals.swapped(), torch.no_grad():
            if explore and isinstance(self.config, PpoConfig):
                p = self.model.policy.get_distribution(x).distribution.probs.double()
                return np.asarray((p / p.sum(dim=-1, keepdim=True)).numpy())
            action = self.model.policy._predict(x, deterministic=True).numpy()
        epsilon = float(self.model.exploration_rate) if explore else 0.0
        return np.asarray((1.0 - epsilon) * np.eye(A)[action] + epsilon / A)

    def state_dict(self) -> State:
        """The networks only: enough to evaluate the policy, not to go on training."""
        return {"policy": copies(self.model.policy.state_dict()), "version": self.version}

    def load_state_dict(self, state: State) -> None:
        import torch

        require_keys(state, ("policy", "version"), "sb3")
        own = self.model.policy.state_dict()
        shapes = {name: tuple(np.shape(value)) for name, value in state["policy"].items()}
        expected = {name: tuple(value.shape) for name, value in own.items()}
        require(shapes == expected, f"sb3: the saved networks have shapes {shapes}, not {expected}.")
        self.model.policy.load_state_dict({name: torch.as_tensor(value) for name, value in state["policy"].items()})
        self.version = int(state["version"])
