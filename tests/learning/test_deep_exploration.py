"""The deep agent finds what dithering does not, and the bonus is why: Deep Sea's picture, and MountainCar's goal."""

from __future__ import annotations

from typing import Any

import pytest

from rl_contrastive import registry
from rl_contrastive.config import from_dict
from rl_contrastive.runs.loop import train

LEARNER = {
    "lr": 1e-3,
    "tau": 0.02,
    "encoder": {"hidden": [64, 64]},
    "feature_encoder": {"hidden": [64]},
    "representation": {"dim": 32, "hidden": 64},
}


def play(env: str, env_options: dict[str, Any], steps: int, seed: int, **options: Any) -> Any:
    env_entry, fixed = registry.get("env", env)
    agent_entry, _ = registry.get("agent", "contrastive-ucb-deep")
    config = from_dict(agent_entry.config, {"warm_start": 300, "learner": LEARNER, **options})
    rows = env_entry.factory(from_dict(env_entry.config, {**env_options, **fixed}), 1)
    agent = agent_entry.factory(rows, config, seed=seed)
    train(agent, rows, steps=steps, eval_every=10**6, eval_episodes=1)
    return agent


SEA = {"size": 12, "observation": "onehot"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_treasure_of_deep_sea_is_found(seed: int) -> None:
    """N = 12, 250 episodes; uniform play finds it in one of 4096."""
    assert 0 < play("deep-sea", SEA, 3000, seed).first_reward <= 3000


@pytest.mark.slow
def test_without_the_bonus_it_is_not() -> None:
    assert play("deep-sea", SEA, 3000, 0, beta=0.0, epsilon=0.1).first_reward == 0


@pytest.mark.slow
def test_the_top_of_the_hill_is_reached_without_shaping() -> None:
    """MountainCar within 15 000 steps; uniform play does not get there in a million."""
    agent = play("gym:MountainCar-v0", {}, 15_000, 0, beta=3.0, train_every=2)
    assert 0 < agent.first_terminal <= 15_000
    control = play("gym:MountainCar-v0", {}, 15_000, 0, beta=0.0, epsilon=0.1, train_every=4)
    assert control.first_terminal == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_a_replay_of_a_sixth_of_the_run_solves_what_one_of_the_whole_run_solves(seed: int) -> None:
    """N = 12, 3000 steps. With counts of the stored visits alone, seed 3 is not solved and seed 1 in 240 episodes."""
    entry, _ = registry.get("env", "deep-sea")
    agent_entry, _ = registry.get("agent", "contrastive-ucb-deep")
    learner = {**LEARNER, "batch_size": 64, "encoder": {"hidden": [64, 64], "layer_norm": True}}
    for capacity in (500, 3300):
        options = {"warm_start": 300, "train_every": 2, "bonus": {"width": 0.2}, "learner": learner}
        rows = entry.factory(from_dict(entry.config, SEA), 1)
        agent = agent_entry.factory(rows, from_dict(agent_entry.config, {**options, "capacity": capacity}), seed=seed)
        result = train(agent, rows, steps=3000, eval_every=40, eval_episodes=1, exact="never")
        assert (agent.past.visits > 2000) == (capacity == 500)
        assert result.solved_at_episode is not None
        assert result.solved_at_episode <= 200
