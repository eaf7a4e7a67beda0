"""An environment of your own, in gymnasium's interface, and an agent that learns it.

python examples/my_environment.py
rlc run contrastive-ucb gym:my/Cells-v0 --import examples/my_environment.py --episodes 300
"""

import gymnasium as gym

from rl_contrastive import make_agent, make_env, train


class Corridor(gym.Env):
    """Cells 0..9; the last one pays 1 and ends the episode."""

    observation_space, action_space = gym.spaces.Discrete(10), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = 0
        return self.cell, {}

    def step(self, action):
        self.cell = min(9, max(0, self.cell + (1 if action == 1 else -1)))
        end = self.cell == 9
        return self.cell, float(end), end, False, {}


gym.register("my/Cells-v0", entry_point=Corridor, max_episode_steps=20)  # for `rlc run ... gym:my/Cells-v0`

if __name__ == "__main__":
    env = make_env(Corridor, num_envs=10, horizon=20)  # ten of them side by side
    agent = make_agent("contrastive-ucb", env, seed=0)
    print("return:", train(agent, env, episodes=300).final_return)
