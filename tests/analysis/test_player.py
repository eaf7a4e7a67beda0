"""A trained agent on raw observations, as an environment of one's own gives them; and what it may take to train one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from match_env import DEEP, STEPS, Match, match

from rl_contrastive import device
from rl_contrastive.config import from_dict
from rl_contrastive.deep.replay.ring import Ring
from rl_contrastive.energy.energies import MLPEnergy
from rl_contrastive.energy.objectives import make as make_objective
from rl_contrastive.energy.trainer import TrainConfig, Trainer
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import get
from rl_contrastive.runs.load import load_agent, load_trained
from rl_contrastive.runs.run import Budget, RunConfig, run, run_folder

SPACES = {
    "numbers": (gym.spaces.MultiDiscrete([3, 2], start=[1, 0]), lambda card: np.array([1 + card // 2, card % 2])),
    "bits": (gym.spaces.MultiBinary(2), lambda card: np.array([card // 2, card % 2], dtype=np.int8)),
    "from one": (gym.spaces.Discrete(4, start=1), lambda card: card + 1),
    "pair": (gym.spaces.Tuple((gym.spaces.Discrete(2), gym.spaces.Discrete(2))), lambda card: (card // 2, card % 2)),
    "vector": (gym.spaces.Box(0.0, 4.0, (1,)), lambda card: np.array([card], dtype=np.float32)),
}


class Shifted(Match):
    """Match, with actions that count from 3."""

    def __init__(self, kind: str) -> None:
        super().__init__(*SPACES[kind])
        self.action_space = gym.spaces.Discrete(4, start=3)

    def step(self, action):
        return super().step(action - 3)


@pytest.fixture(name="registered")
def registered_fixture():
    gym.register("Shifted-v0", Shifted, max_episode_steps=STEPS)
    yield "gym:Shifted-v0"
    gym.registry.pop("Shifted-v0")


@pytest.mark.parametrize(("kind", "agent"), [(kind, "ucbvi") for kind in SPACES if kind != "vector"])
def test_raw_observations_in_raw_actions_out(tmp_path, registered, kind, agent):
    score(tmp_path, registered, kind, agent, {"batch": 4}, Budget(steps=1600, eval_every_steps=1600, eval_episodes=2))


def test_with_networks_and_the_clock(tmp_path, registered):
    budget = Budget(steps=1600, eval_every_steps=1600, eval_episodes=2)
    score(tmp_path, registered, "vector", "contrastive-ucb-deep", {**DEEP, "clock": True}, budget)


def score(tmp_path, env, kind, agent, fields, budget):
    """The player's return on the environment itself is (nearly) the best one."""
    config = RunConfig(
        agent=agent, env=env, agent_config=fields, env_config={"kwargs": f'{{"kind": "{kind}"}}'}, budget=budget,
        tensorboard=False,
    )  # fmt: skip
    assert run(config, tmp_path)["status"] == "finished"
    player = load_trained(str(run_folder(tmp_path, config))).player()
    world, total = gym.make("Shifted-v0", kind=kind), 0.0
    for seed in range(5):
        obs, _ = world.reset(seed=seed)
        player.reset()
        for _ in range(STEPS):
            obs, reward, *_ = world.step(player.act(obs))
            total += float(reward)
    assert total > 0.9 * 5 * STEPS
    with pytest.raises(RlcError, match=r"at most 8 steps: call reset\(\)"):
        player.act(obs)
    player.reset()
    with pytest.raises(RlcError, match=r"^gym:Shifted-v0: "):
        player.act(np.zeros((5, 5)) if kind != "pair" else (9, 9))


def test_load_agent_takes_a_text():
    with pytest.raises(RlcError, match="nowhere is no run folder"):
        load_agent("nowhere")


def test_a_replay_that_memory_cannot_hold_is_a_sentence_before_the_first_step(monkeypatch):
    monkeypatch.setattr(device, "free_memory", lambda: 8 << 30)
    ring = Ring(100_000, (3, 400, 400), "uint8")
    words = (
        r"^replay: a capacity of 100000 .* uint8 needs 44\.7 GiB, but 8\.0 GiB are free: lower agent\.capacity, or use"
    )
    with pytest.raises(RlcError, match=words):
        ring.begin(1)
    space = gym.spaces.Box(0, 255, (3, 400, 400), np.uint8)
    env = match(space, lambda card: np.full((3, 400, 400), card, dtype=np.uint8), rows=1)
    entry, _ = get("agent", "contrastive-ucb-deep")
    fields = {"learner": {"device": "cpu", "encoder": {"hidden": [4]}, "feature_encoder": {"hidden": [4]}}}
    agent = entry.factory(env, from_dict(entry.config, fields), seed=0)
    with pytest.raises(RlcError, match=r"44\.7 GiB"):
        agent.learn(steps=10)
    monkeypatch.setattr(device, "free_memory", lambda: None)  # nobody says: the system decides
    device.require_memory(1 << 60, "all of it", "nothing")


def test_free_memory_is_known_here():
    free = device.free_memory()
    assert free is None or 1 << 20 < free < 1 << 50


def test_a_trainer_says_that_data_are_tensors():
    x = np.zeros((10, 2), dtype=np.float32)
    with pytest.raises(RlcError, match=r"the data must be a torch\.Tensor, got ndarray; torch\.as_tensor"):
        Trainer(
            MLPEnergy(2, rng=torch.Generator()), make_objective("meco"), x, q=None, config=TrainConfig(), rng_seed=0
        )  # type: ignore[arg-type]


def test_the_doctor_finds_a_broken_torch(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise OSError('libtorch.so: undefined symbol')")
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(tmp_path), str(root)])
    command = [sys.executable, "-m", "rl_contrastive.cli", "doctor"]
    answer = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 1
    assert "torch is installed, but broken: OSError: libtorch.so: undefined symbol" in answer.stdout
    assert "Traceback" not in answer.stderr
