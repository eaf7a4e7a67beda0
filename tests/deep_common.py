"""For tests of bonuses and values: a small deep agent on a small Deep Sea, and one row that walks over states."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from agents_common import batches, same

from rl_contrastive import registry
from rl_contrastive.config import from_dict
from rl_contrastive.deep.bonus_contract import Step
from rl_contrastive.deep.replay.replay import Replay
from rl_contrastive.spec import Transition

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


class Walk:
    """One row that walks over states; the features of state s are the vector `of[s]`."""

    def __init__(self, make: Any, of: Any, *, capacity: int = 40) -> None:
        """make(replay, features_of): the bonus, or what else watches steps."""
        self.of = np.asarray(of, dtype=np.float64)
        self.replay = Replay(capacity, (), "int64", gamma=1.0)
        self.bonus = make(self.replay, lambda entries: self.of[self.replay.ring.obs[entries]])
        self.visited: list[int] = []

    def episode(self, states: list[int], action: int = 0, actions: list[int] | None = None) -> np.ndarray:
        """Its states in order, with one action or these; the entries in which the agent acted."""
        one, entries = np.ones(1), []
        self.replay.begin(1)
        for h, (s, s_next) in enumerate(itertools.pairwise(states)):
            end = np.array([h == len(states) - 2])
            now, then = np.array([s]), np.array([s_next])
            act = np.array([action if actions is None else actions[h]])
            t = Transition(h, now, act, 0 * one, then, one, end, np.array([True]))
            self.replay.observe(t)
            index = self.replay.ring.acted
            features = (self.of[now][:, None], self.of[then][:, None])
            self.bonus.watch(Step(t, index, self.replay.ring.next[index], *features))
            entries.append(int(index[0]))
        return np.array(entries)

    def rebuild(self, sample: np.ndarray, gone: Any = ()) -> None:
        """Count again under the features of today."""
        held = self.replay.ring.held()
        phi = self.of[self.replay.ring.obs[held]][:, None]
        self.bonus.rebuild(sample, iter([(held, self.replay.ring.action[held].astype(np.int64), phi)]), gone)


def resumes(make: Any, folder: Any) -> None:
    """The agents of `make` resume to the bit, from a state and from this folder, after their replay was overwritten."""
    straight, first, resumed = (make() for _ in range(3))
    batches(straight, 0, 16)
    batches(first, 0, 12)
    assert first.replay.ring.total > 120
    resumed.load_state_dict(first.state_dict())
    batches(resumed, 12, 4)
    assert same(straight.state_dict(), resumed.state_dict())
    kept, again = make(), make()
    for one in (kept, again):
        one.persist_in(folder)
    batches(kept, 0, 12)
    again.load_state_dict(kept.state_dict())
    batches(again, 12, 4)
    for part in ("bonus", "learner"):
        assert same(getattr(again, part).state_dict(), getattr(straight, part).state_dict())


def walked(*episodes: list[int], gamma: float = 0.5, n_step: int = 2, ends: bool = True) -> Replay:
    """Episodes of one row, one after the other; rewards are 1 a step. ends: the last observation is a true terminal."""
    replay, one = Replay(40, (), "int64", gamma=gamma, n_step=n_step), np.ones(1)
    for states in episodes:
        replay.begin(1)
        for h, (s, then) in enumerate(itertools.pairwise(states)):
            last = h == len(states) - 2
            end, discount = np.array([last]), 0.0 * one if ends and last else one
            replay.add(np.array([s]), np.array([0]), one, np.array([then]), discount, end, np.array([True]))
    return replay
