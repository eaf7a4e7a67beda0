"""Deep Sea from its picture: how many pairs that were never tried have no bonus, because they look like tried ones.

Run: `python benchmarks/untried_pairs.py --label "power 1" --size 100 --episodes 3000` (10 minutes on one core), and the
same with `--label "power 1, psi"`. The settings are those of `docs/results/deep-sea-pictures.toml`, the seed is not one
of its.

A pair (s,a) is at the frontier if s was seen and a was never tried there. Its bonus should be beta / lambda^power, that
of a pair without a visit. It is blocked if it has less than a tenth of this: its cells hold visits of other pairs. The
learned features decide that, and only a rebuild can end it. Prints a markdown table: episodes, pairs tried of those
that can be reached, the frontier, how many of it are blocked, and the steps to the first reward (0: none yet).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import rl_contrastive.cli  # noqa: F401  (registers agents and environments)
from rl_contrastive.agents.contrastive_ucb_deep import ContrastiveUCBDeep
from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.rollout import play
from rl_contrastive.runs.run import RunConfig, build
from rl_contrastive.runs.sweep import load_sweep
from rl_contrastive.spec import Array, BoolArray

SWEEP = Path(__file__).parents[1] / "docs" / "results" / "deep-sea-pictures.toml"
SHARE = 0.1


def settings(label: str, size: int, seed: int) -> RunConfig:
    """The run of the sweep with this label, on a grid of this size."""
    found = {run.label: run for run in load_sweep(SWEEP).runs if run.label}
    require(label in found, f"--label must be one of {', '.join(map(repr, found))}; got {label!r}.")
    run = found[label]
    return replace(run, seed=seed, env_config={**run.env_config, "size": size})


def frontier(tried: BoolArray) -> tuple[Array, Array]:
    """Pictures (n, N N) of seen states and actions (n,) that were never tried there; tried (N N, 2)."""
    state, action = np.nonzero(tried.any(axis=1)[:, None] & ~tried)
    obs = np.zeros((len(state), len(tried)), dtype=np.bool_)
    obs[np.arange(len(state)), state] = True
    return obs, action


def blocked(agent: ContrastiveUCBDeep, obs: Array, action: Array) -> int:
    """How many of these pairs have less than a tenth of the bonus of a new one."""
    if not len(obs):
        return 0
    options = agent.config.bonus
    bonus = agent.bonus.value(agent._phi(obs))[np.arange(len(obs)), action]
    return int((bonus < SHARE * agent.config.beta * options.lam**-options.power).sum())


def main() -> int:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--label", default="power 1", help="a row of the sweep (%(default)s)")
    parser.add_argument("--size", type=int, default=100, help="N (%(default)s)")
    parser.add_argument("--episodes", type=int, default=3000, help="in all (%(default)s)")
    parser.add_argument("--every", type=int, default=500, help="episodes between two rows (%(default)s)")
    parser.add_argument("--seed", type=int, default=2, help="(%(default)s)")
    given = parser.parse_args()
    require(min(given.every, given.episodes) >= 1, "untried_pairs: --every and --episodes must be >= 1.")
    torch.set_num_threads(1)
    agent, env, _ = build(settings(given.label, given.size, given.seed))
    assert isinstance(agent, ContrastiveUCBDeep)
    N, tried = given.size, np.zeros((given.size**2, 2), dtype=np.bool_)
    print("| episodes | pairs tried | at the frontier | blocked | steps to the reward |\n|---|---|---|---|---|")
    for episode in range(1, given.episodes + 1):
        agent.begin(1)
        for step in play(env, agent.seeds.env_seeds("env", episode - 1, 1), agent.act):
            tried[step.obs.argmax(axis=1), step.action] = True
            agent.observe(step)
        agent.update()
        if episode % given.every == 0 or episode == given.episodes:
            obs, action = frontier(tried)
            counts = f"{tried.sum()} of {N * (N + 1)} | {len(obs)} | {blocked(agent, obs, action)}"
            print(f"| {episode} | {counts} | {agent.first_reward} |", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RlcError as error:
        sys.exit(str(error))
