"""Train, save, load, and play the policy in a plain gymnasium loop that knows nothing of this library.

python examples/play_policy.py
"""

import tempfile
from pathlib import Path

import gymnasium as gym

from rl_contrastive import Budget, load
from rl_contrastive.runs.run import run, run_folder
from rl_contrastive.runs.run_config import RunConfig


def main(out: Path, episodes: int = 4000, games: int = 200) -> float:
    """The share of games won on FrozenLake by the policy of a run saved under `out`."""
    config = RunConfig("contrastive-ucb", "gym:FrozenLake-v1", budget=Budget(episodes=episodes, eval_every=episodes))
    run(config, out)  # what `rlc run contrastive-ucb gym:FrozenLake-v1 --episodes 4000` does: trains and saves

    player = load(run_folder(out, config)).player(seed=0)
    env, won = gym.make("FrozenLake-v1"), 0.0
    for game in range(games):
        obs, _ = env.reset(seed=game)
        player.reset()  # before each episode
        over = False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(player.act(obs))
            won += float(reward)
            over = terminated or truncated
    return won / games


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print("share of games won:", main(Path(folder)))
