"""Independent deep Q-learning: two of the deep agent's Q-networks, each of which takes the other for the environment.

    1. both play epsilon-greedily, each in its own values
    2. each stores (s, a, r, s') with its own action, the minimiser with -r
    3. Q1(s,a) <- r + max_a' Q1'(s',a'),   Q2(s,b) <- -r + max_b' Q2'(s',b')       (double DQN, `deep/value.py`)

The networks, the replay and the optimiser are those of `contrastive-ucb-deep` with beta = 0. It is `independent-q`
(Tan 1993) for observations that cannot be tabulated, and shows the same: nothing need converge, and a greedy policy is
deterministic where an equilibrium must mix.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

from rl_contrastive.agents.base import BaseAgent
from rl_contrastive.agents.baselines.independent_q import mixed
from rl_contrastive.agents.contrastive_ucb_deep import ContrastiveUCBDeep
from rl_contrastive.config import Ge, In, Options, require_keys
from rl_contrastive.deep.agent_config import ContrastiveUCBDeepConfig
from rl_contrastive.deep.config import DeepLearnerConfig
from rl_contrastive.registry import register
from rl_contrastive.spec import Array, Env, FloatArray, IntArray, State, Transition, joint_action, product, split_action

SIDES = ("max", "min")


@dataclass(frozen=True)
class IndependentDqnConfig(Options, where="independent-dqn"):
    """Two epsilon-greedy double DQNs."""

    batch: Annotated[int, Ge(1)] = 8
    """B, episodes side by side. They start together and wait for the longest one."""
    warm_start: Annotated[int, Ge(1)] = 1000
    """Steps of uniform actions before the first gradient step."""
    train_every: Annotated[int, Ge(1)] = 1
    """Steps between two gradient steps of each player."""
    gamma: Annotated[float, In(0, 1)] = 1.0
    """Discount per step; 1: none, episodes are finite."""
    epsilon: Annotated[float, In(0, 1)] = 0.1
    """Probability of a uniform action, of each player by itself."""
    capacity: Annotated[int, Ge(100)] = 100_000
    """Entries of each player's replay."""
    learner: DeepLearnerConfig = field(default_factory=lambda: DeepLearnerConfig(learn_features=False))
    """Networks, losses, optimiser."""

    def player(self) -> ContrastiveUCBDeepConfig:
        """The options of one player: one step, no bonus."""
        own = {name: getattr(self, name) for name in ("batch", "warm_start", "train_every", "gamma", "epsilon")}
        return ContrastiveUCBDeepConfig(**own, n_step=1, beta=0.0, capacity=self.capacity, learner=self.learner)


@register("agent", "independent-dqn", IndependentDqnConfig)
class IndependentDqn(BaseAgent):
    """Two deep Q-learners that ignore each other, greedy policies handed out (zero-sum games, any observation)."""

    plays = "game"

    def __init__(self, env: Env, config: IndependentDqnConfig, *, seed: int = 0) -> None:
        super().__init__(env, config, seed=seed)
        spec = self.env_spec
        self.players = spec.game
        self.learners: list[ContrastiveUCBDeep] = []
        for side, num_actions in enumerate(self.players):
            own = replace(spec, num_actions=num_actions, players=None, optimal_return=None, stationary=False)
            world: Any = SimpleNamespace(env_spec=own)  # of its environment, the agent reads this alone
            self.learners.append(ContrastiveUCBDeep(world, config.player(), seed=self.seeds.integer("init", side)))

    def persist_in(self, folder: Path) -> None:
        """Keep each player's replay in a folder of its own (see `spec.Agent`)."""
        for side, learner in zip(SIDES, self.learners, strict=True):
            learner.persist_in(folder / side)

    def begin(self, num_envs: int) -> None:
        for learner in self.learners:
            learner.begin(num_envs)

    def act(self, obs: Array, h: int) -> IntArray:
        """1."""
        a, b = (learner.act(obs, h) for learner in self.learners)
        return joint_action(a, b, self.players)

    def behaviour(self, pi: FloatArray) -> None:
        """None: the networks change within an episode."""

    def observe(self, transition: Transition) -> None:
        """2. and 3."""
        actions = split_action(transition.action, self.players)
        for learner, action, sign in zip(self.learners, actions, (1.0, -1.0), strict=True):
            learner.observe(replace(transition, action=action, reward=sign * transition.reward))
        self.version = max(learner.version for learner in self.learners)

    def update(self) -> dict[str, float]:
        """Diagnostics of both, those of the minimiser as NAME_min."""
        first, second = (learner.update() for learner in self.learners)
        return {**first, **{f"{name}_min": number for name, number in second.items()}}

    def policy(self, obs: Array, h: int, *, explore: bool = False) -> FloatArray:
        """The product of the players' greedy policies, uniform over exact ties; explore=True: epsilon-greedy."""
        epsilon = self.config.epsilon if explore else 0.0
        mu, nu = (mixed(learner.policy(obs, h, explore=explore), epsilon) for learner in self.learners)
        return product(mu, nu)

    def state_dict(self) -> State:
        states = {side: learner.state_dict() for side, learner in zip(SIDES, self.learners, strict=True)}
        return {**states, "version": self.version}

    def load_state_dict(self, state: State) -> None:
        require_keys(state, (*SIDES, "version"), "independent-dqn")
        for side, learner in zip(SIDES, self.learners, strict=True):
            learner.load_state_dict(state[side])
        self.version = int(state["version"])
