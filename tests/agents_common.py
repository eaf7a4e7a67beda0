"""What the tests of agents share: the loop without its evaluations, and what "the same" means."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import chisquare

from rl_contrastive.runs.rollout import play


def batches(agent: Any, first: int, count: int, each: Any = None) -> None:
    """`count` iterations of the loop without its evaluations, from iteration `first`; `each(step)` sees every
    transition first."""
    for k in range(first, first + count):
        agent.begin(agent.batch)
        for step in play(agent.env, agent.seeds.env_seeds("env", k, agent.batch), agent.act):
            if each is not None:
                each(step)
            agent.observe(step)
        agent.update()


def uniform(actions: np.ndarray, num: int) -> bool:
    """No evidence against equal shares of 0..num-1 at the level 1e-4."""
    return bool(chisquare(np.bincount(actions, minlength=num)).pvalue > 1e-4)


def same(left: Any, right: Any) -> bool:
    """Two states agree to the bit."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.tobytes() == right.tobytes()
    return left == right
