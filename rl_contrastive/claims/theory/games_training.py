"""What the learning claims about games share: agents on random low-rank games, and what they record of each plan."""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_contrastive.claims.theory.training import column, run
from rl_contrastive.runs.loop import TrainingResult
from rl_contrastive.spec import FloatArray

BONUS = {"lsvi-game": "c", "contrastive-ucb-game": "gamma", "nash-vi": "c"}
"""The field that scales the bonus of each agent."""
FIRST_GAME = 300
"""The first game_seed by default, apart from those any constant was chosen on."""


def settings(agent: str, *, bonus: float | None = None) -> dict[str, Any]:
    """Config of a game agent that knows the rewards, as the analyses assume, not the rank; bonus None: its default."""
    values: dict[str, Any] = {"batch": 50}
    if agent == "contrastive-ucb-game":
        values |= {"known_reward": True}
    return values if bonus is None else values | {BONUS[agent]: bonus}


def play(
    agent: str,
    sizes: dict[str, Any],
    *,
    games: int,
    first: int,
    episodes: int,
    evaluations: int,
    bonus: float | None = None,
) -> list[TrainingResult]:
    """One run on each of `games` random low-rank games of these sizes from game_seed `first` on, with exact metrics."""
    return [
        run(
            agent, "low-rank-game", agent_config=settings(agent, bonus=bonus),
            env_config={**sizes, "game_seed": first + g}, seed=g,
            episodes=episodes, eval_every=max(50, episodes // evaluations), eval_episodes=1, exact="always",
        )
        for g in range(games)
    ]  # fmt: skip


def columns(results: list[TrainingResult], name: str) -> FloatArray:
    """One column of every run: (games, T)."""
    return np.stack([column(result, name) for result in results])
