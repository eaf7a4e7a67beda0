"""A small deep agent on a small Deep Sea, for tests of its bonuses and values."""

from __future__ import annotations

from typing import Any

from rl_contrastive import registry
from rl_contrastive.config import from_dict

LEARNER = {
    "batch_size": 8,
    "encoder": {"hidden": [16]},
    "feature_encoder": {"hidden": [16]},
    "representation": {"dim": 8, "hidden": 16},
}
SMALL = {
    "warm_start": 30,
    "train_every": 4,
    "capacity": 120,
    "growth": 0.1,
    "rnd": {"dim": 8, "hidden": 16, "batch_size": 8},
}


def sea(bonus: dict, *, seed: int = 0, size: int = 6, agent: str = "contrastive-ucb-deep", **options: Any) -> Any:
    """Two rows of Deep Sea with this bonus; options are those of the agent."""
    env_entry, _ = registry.get("env", "deep-sea")
    entry, _ = registry.get("agent", agent)
    rows = env_entry.factory(from_dict(env_entry.config, {"size": size}), 2)
    config = {"batch": 2, "n_step": 3, **SMALL, "learner": LEARNER, "bonus": bonus, **options}
    return entry.factory(rows, from_dict(entry.config, config), seed=seed)
