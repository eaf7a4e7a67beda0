"""A replay as plain lists of episodes, and scripted episodes to feed it: what deep.replay.replay must equal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from rl_contrastive.spec import Transition


@dataclass
class Entry:
    episode: int
    pos: int
    obs: int
    action: int | None = None
    reward: float = 0.0
    discount: float = 1.0


@dataclass
class Reference:
    """Entries by serial number; everything else is asked for and found by walking the lists."""

    capacity: int
    gamma: float
    n: int
    stack: int
    entries: list[Entry] = field(default_factory=list)
    episodes: list[list[int]] = field(default_factory=list)
    closed: list[bool] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)

    def begin(self, num_envs: int) -> None:
        self.closed = [True] * len(self.closed)
        self.rows = {}

    def _append(self, episode: int, obs: int) -> None:
        self.episodes[episode].append(len(self.entries))
        self.entries.append(Entry(episode, len(self.episodes[episode]) - 1, obs))

    def observe(self, step: Transition) -> None:
        alive = [row for row in range(len(step.alive)) if step.alive[row]]
        for row in alive:
            if row not in self.rows:
                self.rows[row] = len(self.episodes)
                self.episodes.append([])
                self.closed.append(False)
                self._append(self.rows[row], int(step.obs[row]))
        for row in alive:
            entry = self.entries[self.episodes[self.rows[row]][-1]]
            assert entry.obs == step.obs[row]
            entry.action, entry.reward = int(step.action[row]), float(step.reward[row])
            entry.discount = float(step.discount[row])
        for row in alive:
            self._append(self.rows[row], int(step.next_obs[row]))
            self.closed[self.rows[row]] = self.closed[self.rows[row]] or bool(step.boundary[row])

    @property
    def oldest(self) -> int:
        return max(0, len(self.entries) - self.capacity)

    def _frames(self, episode: int, pos: int) -> list[int]:
        return [self.episodes[episode][max(pos - j, 0)] for j in range(self.stack - 1, -1, -1)]

    def stacked(self, episode: int, pos: int) -> list[int]:
        return [self.entries[t].obs for t in self._frames(episode, pos)]

    def visit(self, t: int) -> bool:
        entry = self.entries[t]
        return entry.action is not None and min(self._frames(entry.episode, entry.pos)) >= self.oldest

    def ready(self) -> list[int]:
        out = []
        for t in range(self.oldest, len(self.entries)):
            e = self.entries[t].episode
            enough = self.entries[t].pos + self.n < len(self.episodes[e])
            if self.visit(t) and (enough or self.closed[e]):
                out.append(t)
        return out

    def expected(self, t: int) -> dict[str, object]:
        """The fields of a ReplayBatch for one entry."""
        first = self.entries[t]
        serials = self.episodes[first.episode][first.pos :]
        steps: list[int] = []
        reward, bootstrap = 0.0, 1.0
        for k in range(self.n):
            entry = self.entries[serials[k]]
            if entry.action is None:
                break
            steps.append(serials[k])
            reward += self.gamma**k * entry.reward
            if entry.discount == 0.0:
                bootstrap = 0.0
                break
        m = len(steps)
        return {
            "obs": self.stacked(first.episode, first.pos),
            "action": first.action,
            "reward": reward,
            "next_obs": self.stacked(first.episode, first.pos + m),
            "discount": self.gamma**m * bootstrap,
            "steps": steps,
        }


@dataclass(frozen=True)
class Script:
    """One batch: per row the length, how the episode ends, and a step with discount 0 that does not end it (or -1).

    `cut` < max(lengths) leaves the batch unfinished: the next one begins while rows are going.
    """

    lengths: tuple[int, ...]
    terminal: tuple[bool, ...]
    inner: tuple[int, ...]
    cut: int

    def transitions(self, counter: list[int], rng: np.random.Generator) -> Iterator[Transition]:
        """Observations are distinct numbers; dead rows carry rubbish that must not be stored."""
        B = len(self.lengths)
        lengths = np.array(self.lengths)

        def fresh() -> np.ndarray:
            counter[0] += B
            return np.arange(counter[0] - B, counter[0])

        obs = fresh()
        for h in range(min(max(self.lengths), self.cut)):
            alive, boundary = h < lengths, h == lengths - 1
            next_obs, reward = fresh(), rng.normal(size=B)
            gone = (boundary & np.array(self.terminal)) | (np.array(self.inner) == h)
            action = rng.integers(4, size=B)
            reward[~alive], action[~alive] = np.nan, -7
            yield Transition(h, obs, action, reward, next_obs, np.where(gone, 0.0, 1.0), boundary & alive, alive)
            obs = next_obs


@st.composite
def scripts(draw: st.DrawFn, max_batches: int = 6) -> list[Script]:
    """Batches of 1..3 rows with episodes of 1..7 steps."""
    out = []
    for _ in range(draw(st.integers(1, max_batches))):
        B = draw(st.integers(1, 3))
        lengths = tuple(draw(st.lists(st.integers(1, 7), min_size=B, max_size=B)))
        terminal = tuple(draw(st.lists(st.booleans(), min_size=B, max_size=B)))
        inner = tuple(draw(st.lists(st.integers(-4, 6), min_size=B, max_size=B)))
        out.append(Script(lengths, terminal, inner, draw(st.sampled_from([99, 99, 99, 2, 4]))))
    return out
