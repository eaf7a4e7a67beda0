"""Steps per second of the deep agent against Stable-Baselines3's DQN: equal network, batch and gradient steps per step.

Run: `python benchmarks/deep_speed.py` (a quarter of an hour on one core, most of it compiling; `--only` for some rows).
- cartpole: CartPole-v1, layers of 256 and 256; minatar: MinAtar's Breakout, 16 channels and a layer of 128;
- B environments side by side; a gradient step on 32 entries, n = 1, every 4th step or every step;
- both: Adam at 3e-4, clip 10, 1% uniform actions, replay of 10^5, one thread, no layer norm.
SB3 takes max_a Q' of its target network, which it copies now and then. `values` is the same work in our code: beta = 0,
no double Q, no dueling; two heads are still there (Q and G), and the target follows at each step. `ours` is the whole
agent: the online network chooses the next action (a third forward pass), every 4th gradient step is followed by one of
the features, whose networks are more than three times as large, and in each environment step it takes the features of
what it sees, counts them, and counts all anew when a fifth is new. Each also with torch.compile.

Contestants take turns in blocks of some hundred steps, timed in CPU seconds, so that other processes disturb all alike;
ratios are of medians and of minima over the blocks. Steps are those of living rows. The shares of environment, acting,
bonus, replay, learner and the rest are measured apart, in a pass with clocks around them. Exit code 1 where the equal
work, compiled or not, is not 1.5 times as fast as SB3 by medians.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

import rl_contrastive.cli  # noqa: F401  (registers agents and environments)
from rl_contrastive import registry
from rl_contrastive.agents.contrastive_ucb_deep import ContrastiveUCBDeep
from rl_contrastive.config import from_dict
from rl_contrastive.runs.rollout import play

BAR = 1.5
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


class Theirs:
    """SB3's DQN."""

    def __init__(self, case: Case) -> None:
        if case.env == "minatar":
            from minatar.gym import BaseEnv

            make: Any = partial(BaseEnv, "breakout", use_minimal_action_set=True)
            policy: dict[str, Any] = {"features_extractor_class": Planes, "net_arch": LAYERS[case.env]}
        else:
            make, policy = "CartPole-v1", {"net_arch": LAYERS[case.env]}
        # train_freq counts calls of `step`, each of B steps.
        self.model = DQN(
            "MlpPolicy",
            make_vec_env(make, case.batch, seed=0),
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

    def __init__(self, case: Case, *, compiled: bool, alone: bool = False) -> None:
        agents, envs = (
            registry.get(kind, name) for kind, name in (("agent", "contrastive-ucb-deep"), ("env", OURS[case.env]))
        )
        (entry, _), (env_entry, fixed) = agents, envs
        network = {"hidden": LAYERS[case.env], "layer_norm": False}
        learner: dict[str, Any] = {"encoder": network, "batch_size": BATCH, "lr": LR, "device": "cpu"}
        learner |= {"compile": compiled, "value": {"double": not alone, "dueling": not alone}}
        options = {
            "beta": 0.0 if alone else 0.1,
            "batch": case.batch,
            "train_every": case.every,
            "n_step": 1,
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


def seconds_per_step(contestant: Ours | Theirs, steps: int) -> float:
    start = time.process_time()
    done = contestant.advance(steps)
    return (time.process_time() - start) / done


def compare(case: Case, repeats: int, steps: int, compiled: bool) -> bool:
    """The lines of one row; False if the bar is missed."""
    contestants: dict[str, Ours | Theirs] = {"SB3": Theirs(case)}
    for name, alone in (("ours", False), ("values", True)):
        contestants[name] = Ours(case, compiled=False, alone=alone)
        if compiled:
            contestants[f"{name}, compiled"] = Ours(case, compiled=True, alone=alone)
    for contestant in contestants.values():
        contestant.advance(WARM + 20 * case.every + 500)  # the replay filled, the graphs made
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            times[name].append(seconds_per_step(contestant, steps))
    best = 0.0
    for name, column in times.items():
        middle, least = (of(times["SB3"]) / of(column) for of in (median, min))
        if name.startswith("values"):
            best = max(best, middle)
        print(f"{case.name:<28}{name:<18}{1 / median(column):>10.0f}{middle:>9.2f}x{least:>9.2f}x", flush=True)
    for name, contestant in contestants.items():
        if isinstance(contestant, Ours):
            parts = shares(contestant, 2 * steps)
            text = ", ".join(f"{share} {micro:.0f}" for share, micro in sorted(parts.items()))
            print(f"    {name}, microseconds a step: {text}", flush=True)
    print(f"{case.name:<28}bar: values >= {BAR:g}x: {'met' if best >= BAR else 'MISSED'} ({best:.2f}x)", flush=True)
    return best >= BAR


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=9, help="blocks of each contestant")
    parser.add_argument("--steps", type=int, default=400, help="environment steps of a block")
    parser.add_argument("--only", default="", help="rows whose name contains this, e.g. 'cartpole, B = 1'")
    parser.add_argument("--eager", action="store_true", help="leave torch.compile out")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    met = True
    print(f"{'':<46}{'steps / s':>10}{'medians':>10}{'minima':>10}")
    for case in CASES:
        if args.only in case.name:
            met &= compare(case, args.repeats, args.steps, not args.eager)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
