"""A zero-sum Markov game of your own, written as rules: a pursuit on a ring, with its exact Nash value.

python examples/my_game.py
"""

from dataclasses import dataclass

from rl_contrastive import make_agent, make_env, register, train
from rl_contrastive.envs.game_table import TableGameEnv, build_table

CELLS, STEPS = 5, 4


@dataclass(frozen=True)
class PursuitConfig:
    """Nothing to choose."""


def outcomes(distance, a, b):
    """(probability, reward, next state or None for the end): both move by -1, 0 or 1, the minimiser slips at 1/4."""
    out = []
    for probability, step in ((0.75, b - 1), (0.25, 0)):
        after = (distance + step - (a - 1)) % CELLS
        out.append((probability, 1.0, None) if after == 0 else (probability, 0.0, after))
    return out


@register("env", "pursuit", PursuitConfig)
def make_pursuit(config, num_envs):
    """The maximiser pursues the minimiser on a ring; a catch pays 1."""

    def expand(distance):  # the outcomes of the joint actions (a, b), b running fastest
        return [outcomes(distance, a, b) for a in range(3) for b in range(3)]

    table = build_table("pursuit", (3, 3), [(1.0, 2)], expand)
    return TableGameEnv("pursuit", table, STEPS, num_envs, return_range=(0.0, 1.0))


if __name__ == "__main__":
    env = make_env("pursuit", num_envs=50)
    print("Nash value:", round(env.env_spec.optimal_return, 4))
    agent = make_agent("contrastive-ucb-game", env, seed=0)
    print("duality gap:", round(train(agent, env, episodes=2000).history[-1]["gap"], 4))
