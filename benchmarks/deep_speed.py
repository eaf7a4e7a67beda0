"""Steps per second of the deep agent against Stable-Baselines3's DQN and a plain script: equal network, batch, updates.

Run: `python benchmarks/deep_speed.py` (some ten minutes on one core; `--only` for some rows).
- cartpole: CartPole-v1, layers of 256 and 256; minatar: MinAtar's Breakout, 16 channels and a layer of 128;
- B environments side by side; a gradient step on 32 entries, n = 1, every 4th step or every step;
- all: Adam at 3e-4, 1% uniform actions, replay of 10^5, one thread, no layer norm; clip 10, in the script none.
SB3 takes max_a Q' of its target network, which it copies now and then. `script` is the loop of cleanrl's dqn.py, with
SB3's replay, as it is. `values` is the same work in our code: beta = 0, no double Q, no dueling; two heads are still
there (Q and G), and the target follows at each step. `agent` is the whole agent: the online network chooses the next
action (a third forward pass), every 4th gradient step is followed by one of the features, whose networks are more than
three times as large, and in each environment step it takes the features of what it sees, counts them, and counts all
anew when a fifth is new.

Switched off in these: layer norm, which our agent has by default, n-step returns (3) and batches of 64 for both. The
line `defaults` has them, with the row's layers, and does more than twice the work of the other lines. `--torch` adds
the agent on torch (`backend` torch), `--compiled` that with torch.compile, which takes minutes.

Contestants take turns in blocks of some hundred steps, timed in CPU seconds, so that other processes disturb all alike;
ratios are of medians and of 10th percentiles over the blocks. Steps are those of living rows. The shares of
environment, acting, bonus, replay, learner and the rest are measured apart, in a pass with clocks around them. Exit
code 1 where a bar is missed in a row, by 10th percentiles: agent 1.2 times SB3 and 1.0 times the script, values 1.8
times SB3.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

import rl_contrastive.cli  # noqa: F401  (registers agents and environments)
from rl_contrastive import registry
from rl_contrastive.agents.contrastive_ucb_deep import ContrastiveUCBDeep
from rl_contrastive.config import from_dict
from rl_contrastive.runs.rollout import play

BARS = (("agent", "SB3", 1.2), ("agent", "script", 1.0), ("values", "SB3", 1.8))
"""Who, against whom, and how many times as fast it must be."""
WARM, CAPACITY, BATCH, LR = 1000, 100_000, 32, 3e-4


@dataclass(frozen=True)
class Case:
    """One row: an environment, B, and environment steps to a gradient step."""

    env: str
    batch: int
    every: int

    @property
    def name(self) -> str:
        return f"{self.env}, B = {self.batch}, 1 : {self.every}"


CASES = tuple(Case(env, batch, every) for env in ("cartpole", "minatar") for batch in (1, 8) for every in (4, 1))
OURS = {"cartpole": "gym:CartPole-v1", "minatar": "minatar:Breakout"}
LAYERS = {"cartpole": [256, 256], "minatar": [128]}


class Planes(BaseFeaturesExtractor):
    """(N, 10, 10, C) -> the 3 x 3 convolution of MinAtar's own DQN, 16 channels, as a vector."""

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__(space, 16 * 8 * 8)
        self.body = nn.Sequential(nn.Conv2d(space.shape[2], 16, 3), nn.ReLU(), nn.Flatten())

    def forward(self, obs: Tensor) -> Tensor:
        return self.body(obs.permute(0, 3, 1, 2))


def maker(case: Case) -> Callable[[], Any]:
    """One environment."""
    if case.env == "cartpole":
        return partial(gym.make, "CartPole-v1")
    from minatar.gym import BaseEnv

    return partial(BaseEnv, "breakout", use_minimal_action_set=True)


class Script:
    """The loop of cleanrl's dqn.py (Huang et al. 2022), with B environments."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.envs = SyncVectorEnv([maker(case)] * case.batch, autoreset_mode=AutoresetMode.SAME_STEP)
        space, actions = self.envs.single_observation_space, self.envs.single_action_space
        self.q, self.target = self.network(space, actions.n), self.network(space, actions.n)
        self.target.load_state_dict(self.q.state_dict())
        self.optimizer = torch.optim.Adam(self.q.parameters(), lr=LR)
        options = {"device": "cpu", "n_envs": case.batch, "handle_timeout_termination": False}
        self.replay = ReplayBuffer(CAPACITY, space, actions, **options)
        self.steps, self.rng = 0, np.random.default_rng(0)
        self.obs, _ = self.envs.reset(seed=0)

    def network(self, space: gym.spaces.Box, actions: int) -> nn.Module:
        picture = self.case.env == "minatar"
        layers: list[nn.Module] = [Planes(space)] if picture else []
        widths = [16 * 8 * 8 if picture else space.shape[0], *LAYERS[self.case.env]]
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], int(actions)))

    def advance(self, steps: int) -> int:
        before = self.steps
        while self.steps < before + steps:
            self.step()
        return self.steps - before

    def step(self) -> None:
        B = self.case.batch
        actions = self.q(torch.Tensor(self.obs)).argmax(1).numpy()
        random = self.rng.random(B) < 0.01
        actions = np.where(random, self.rng.integers(self.envs.single_action_space.n, size=B), actions)
        following, rewards, terminated, truncated, infos = self.envs.step(actions)
        real = following.copy()
        for row in np.flatnonzero(truncated):
            real[row] = infos["final_obs"][row]
        self.replay.add(self.obs, real, actions, rewards, terminated, [infos] * B)
        self.obs, before, self.steps = following, self.steps, self.steps + B
        if self.steps < WARM:
            return
        for _ in range(self.steps // self.case.every - before // self.case.every):
            self.learn()
        if self.steps // 500 > before // 500:
            self.target.load_state_dict(self.q.state_dict())

    def learn(self) -> None:
        data = self.replay.sample(BATCH)
        with torch.no_grad():
            best, _ = self.target(data.next_observations.float()).max(dim=1)
            goal = data.rewards.flatten() + 0.99 * best * (1 - data.dones.flatten())
        now = self.q(data.observations.float()).gather(1, data.actions).squeeze()
        loss = nn.functional.mse_loss(goal, now)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Theirs:
    """SB3's DQN."""

    def __init__(self, case: Case) -> None:
        policy: dict[str, Any] = {"net_arch": LAYERS[case.env]}
        if case.env == "minatar":
            policy["features_extractor_class"] = Planes
        # train_freq counts calls of `step`, each of B steps.
        self.model = DQN(
            "MlpPolicy",
            make_vec_env(maker(case), case.batch, seed=0),
            batch_size=BATCH,
            buffer_size=CAPACITY,
            learning_rate=LR,
            learning_starts=WARM,
            train_freq=max(1, case.every // case.batch),
            gradient_steps=max(1, case.batch // case.every),
            exploration_initial_eps=0.01,
            exploration_final_eps=0.01,
            policy_kwargs=policy,
            device="cpu",
            seed=0,
        )

    def advance(self, steps: int) -> int:
        before = self.model.num_timesteps
        self.model.learn(steps, reset_num_timesteps=before == 0)
        return self.model.num_timesteps - before


class Ours:
    """Contrastive-UCB with networks, in the library's own loop."""

    def __init__(
        self, case: Case, *, compiled: bool = False, alone: bool = False, backend: str = "auto", usual: bool = False
    ) -> None:
        """alone: the work of DQN; usual: with the defaults that are switched off elsewhere."""
        agents, envs = (
            registry.get(kind, name) for kind, name in (("agent", "contrastive-ucb-deep"), ("env", OURS[case.env]))
        )
        (entry, _), (env_entry, fixed) = agents, envs
        network = {"hidden": LAYERS[case.env], "layer_norm": usual}
        learner: dict[str, Any] = {"encoder": network, "lr": LR, "device": "cpu", "backend": backend}
        learner |= {"compile": compiled, "value": {"double": not alone, "dueling": not alone}}
        learner |= {} if usual else {"batch_size": BATCH}
        options = {
            "beta": 0.0 if alone else 0.1,
            "batch": case.batch,
            "train_every": case.every,
            "n_step": 3 if usual else 1,
            "warm_start": WARM,
            "capacity": CAPACITY,
        }
        self.env = env_entry.factory(from_dict(env_entry.config, fixed), case.batch)
        self.agent: ContrastiveUCBDeep = entry.factory(
            self.env, from_dict(entry.config, {**options, "learner": learner}), seed=0
        )
        self._steps = self._play()

    def _play(self) -> Iterator[int]:
        """Living rows of one step after another, without end."""
        agent, iteration = self.agent, 0
        while True:
            agent.begin(agent.batch)
            for step in play(self.env, agent.seeds.env_seeds("env", iteration, agent.batch), self._act):
                agent.observe(step)
                yield int(np.count_nonzero(step.alive))
            agent.update()
            iteration += 1

    def _act(self, obs: Any, h: int) -> Any:
        return self.agent.act(obs, h)  # looked up at each step: `shares` wraps it

    def advance(self, steps: int) -> int:
        done = 0
        while done < steps:
            done += next(self._steps)
        return done


class Clocks:
    """CPU seconds within some calls of ours, each without what other clocks stop within it."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._inner = [0.0]

    def wrap(self, owner: Any, name: str, share: str) -> None:
        """Let calls of owner.name count as `share`."""
        call: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **options: Any) -> Any:
            self._inner.append(0.0)
            start = time.process_time()
            out = call(*args, **options)
            elapsed = time.process_time() - start
            own = elapsed - self._inner.pop()
            self._inner[-1] += elapsed
            self.spent[share] = self.spent.get(share, 0.0) + own
            return out

        setattr(owner, name, timed)


def shares(ours: Ours, steps: int) -> dict[str, float]:
    """Microseconds a step of each part; `rest` is the loop, and what the agent does between the parts."""
    clocks, agent = Clocks(), ours.agent
    for owner, names, share in (
        (ours.env, ("step", "reset"), "environment"),
        (agent, ("act",), "acting"),
        (agent.bonus, ("value", "at", "taken", "watch"), "bonus"),
        (agent, ("_phi",), "features"),
        (agent, ("_rebuild",), "rebuild"),
        (agent.past, ("add",), "past"),
        (agent.replay, ("observe", "sample", "last", "observations", "begin"), "replay"),
        (agent.learner, ("step",), "learner"),
    ):
        for name in names:
            clocks.wrap(owner, name, share)
    start = time.process_time()
    done = ours.advance(steps)
    total = time.process_time() - start
    spent = {**clocks.spent, "rest": total - sum(clocks.spent.values())}
    return {share: 1e6 * seconds / done for share, seconds in spent.items()}


Contestant = Ours | Theirs | Script


def seconds_per_step(contestant: Contestant, steps: int) -> float:
    start = time.process_time()
    done = contestant.advance(steps)
    return (time.process_time() - start) / done


def contestants(case: Case, torch_too: bool, compiled: bool) -> dict[str, Contestant]:
    found: dict[str, Contestant] = {
        "SB3": Theirs(case),
        "script": Script(case),
        "agent": Ours(case),
        "values": Ours(case, alone=True),
        "defaults": Ours(case, usual=True),
    }
    if torch_too:
        found |= {"agent, torch": Ours(case, backend="torch"), "values, torch": Ours(case, alone=True, backend="torch")}
    if compiled:
        found |= {
            "agent, compiled": Ours(case, compiled=True),
            "values, compiled": Ours(case, compiled=True, alone=True),
        }
    return found


def compare(case: Case, args: argparse.Namespace) -> bool:
    """The lines of one row; False if a bar is missed."""
    named = contestants(case, args.torch, args.compiled)
    for contestant in named.values():
        contestant.advance(WARM + 20 * case.every + 500)  # the replay filled, the graphs made
    times: dict[str, list[float]] = {name: [] for name in named}
    for _ in range(args.repeats):
        for name, contestant in named.items():
            times[name].append(seconds_per_step(contestant, args.steps))
    usual = {name: (median(column), float(np.quantile(column, 0.1))) for name, column in times.items()}
    for name, own in usual.items():
        ratios = "".join(f"{usual[other][k] / own[k]:>9.2f}x" for other in ("SB3", "script") for k in (0, 1))
        print(f"{case.name:<28}{name:<18}{1 / own[0]:>8.0f}{ratios}", flush=True)
    for name, contestant in named.items():
        if args.shares and isinstance(contestant, Ours):
            parts = shares(contestant, 2 * args.steps)
            text = ", ".join(f"{share} {micro:.0f}" for share, micro in sorted(parts.items()))
            print(f"    {name}, microseconds a step: {text}", flush=True)
    reached = [(who, other, bar, usual[other][1] / usual[who][1]) for who, other, bar in BARS]
    for who, other, bar, ratio in reached:
        words = "met" if ratio >= bar else "MISSED"
        print(f"    bar: {who} >= {bar:g} times {other}: {words} ({ratio:.2f}x)", flush=True)
    return all(ratio >= bar for *_, bar, ratio in reached)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=15, help="blocks of each contestant")
    parser.add_argument("--steps", type=int, default=200, help="environment steps of a block")
    parser.add_argument("--only", default="", help="rows whose name contains this, e.g. 'cartpole, B = 1'")
    parser.add_argument("--torch", action="store_true", help="the agent on torch too")
    parser.add_argument("--compiled", action="store_true", help="the agent with torch.compile too")
    parser.add_argument("--shares", action="store_true", help="where our time goes")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    met = True
    print("Layer norm, n-step returns and batches of 64 are switched off, except in `defaults`.")
    print(f"{'':<46}{'steps/s':>8}{'SB3: medians, 10th':>20}{'script: medians, 10th':>22}")
    for case in CASES:
        if args.only in case.name:
            met &= compare(case, args)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
