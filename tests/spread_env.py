"""Three agents on a ring of five cells, a user's PettingZoo environment: each is paid for standing on its own cell."""

from __future__ import annotations

from typing import ClassVar

import gymnasium as gym
import numpy as np
from pettingzoo import ParallelEnv

CELLS, STEPS = 5, 6


class Ring(ParallelEnv):
    """Actions: stay, left, right. Agent 2 ends after three steps where `early`."""

    metadata: ClassVar = {"name": "ring", "max_cycles": STEPS}

    def __init__(self, vector: bool = True, early: bool = False, odd: bool = False):
        self.possible_agents, self.vector, self.early, self.odd = ["a", "b", "c"], vector, early, odd

    def observation_space(self, agent):
        if not self.vector:
            return gym.spaces.Discrete(CELLS, start=10)
        return gym.spaces.Box(0.0, 1.0, (CELLS + (self.odd and agent == "c"),))

    def action_space(self, agent):
        return gym.spaces.Discrete(3)

    def reset(self, seed=None, options=None):
        self.agents, self.t = list(self.possible_agents), 0
        rng = np.random.default_rng(seed)
        self.cell = {agent: int(rng.integers(CELLS)) for agent in self.agents}
        return {agent: self._see(agent) for agent in self.agents}, {}

    def _see(self, agent):
        where = np.bincount([self.cell[agent]], minlength=CELLS).astype(np.float32)
        return where if self.vector else 10 + self.cell[agent]

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.t += 1
        for agent, action in actions.items():
            self.cell[agent] = (self.cell[agent] + (0, -1, 1)[action]) % CELLS
        # Agent j belongs on cell j.
        paid = {agent: float(self.cell[agent] == self.possible_agents.index(agent)) for agent in self.agents}
        over = {agent: self.early and agent == "c" and self.t == 3 for agent in self.agents}
        cut = dict.fromkeys(self.agents, self.t == STEPS)
        seen = {agent: self._see(agent) for agent in self.agents}
        self.agents = [agent for agent in self.agents if not (over[agent] or cut[agent])]
        return seen, paid, over, cut, {}


def make(**arguments):
    return Ring(**arguments)
