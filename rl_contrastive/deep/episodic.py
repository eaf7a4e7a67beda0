"""Memory of an episode: a bonus that fades within it, and greedy play that does not go in circles.

    w(o_t, a) b(o_t, a),   w = 1[a was not taken at o_t earlier in this episode] / (1 + earlier visits of o_t in it)

Counts over all episodes tell places apart only by how often they were seen. Where rooms look alike, as through
MiniGrid's partial view, walking on is then worth no more than turning on the spot. Places not yet seen in THIS episode
lead on, and actions not yet tried there end a loop. Source: the episodic counts of RIDE (Raileanu and Rocktaeschel
2020) and NovelD (Zhang et al. 2021), there of observations alone. The same observation means the same bytes:
observations with noise are never the same, and then nothing changes. Of stacked frames the newest one counts, because
the others tell how the agent came here and not where it is. Values stay functions of the stack, although the bonus now
depends on the episode.

`LeastTried` is the same memory for the evaluated policy. A deterministic policy of views alone never leaves a circle
once it is in one. Learning and chance break circles in training, but nothing does in evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_contrastive.config import require, require_keys
from rl_contrastive.deep.bonus_contract import Bonus, Chunk, Gone, Step
from rl_contrastive.deep.replay.changed_rows import Patches
from rl_contrastive.spec import Array, FloatArray, IntArray, State


@dataclass
class Seen:
    """One observation in one episode."""

    taken: set[int]
    """Actions that were taken there."""
    visits: int = 0


class EpisodeLog:
    """What the going episodes saw and did, for B rows whose steps come in order; nothing of it outlives them."""

    def __init__(self) -> None:
        self._episodes: list[dict[bytes, Seen]] = []
        self._here: list[bytes] = []

    def note(self, step: Step) -> list[Seen | None]:
        """Note one step; h = 0 begins new episodes. Of each living row what its episode knows of the observation that
        it has reached, None: it is new."""
        t = step.transition
        if t.h == 0:
            self._episodes = [{} for _ in t.alive]
            self._here = [name_of(obs) for obs in t.obs]
        found = []
        for row in step.rows.tolist():
            episode = self._episodes[row]
            here = episode.setdefault(self._here[row], Seen(set()))
            here.taken.add(int(t.action[row]))
            here.visits += 1
            self._here[row] = name_of(t.next_obs[row])
            found.append(episode.get(self._here[row]))
        return found


class EpisodicBonus:
    """Wraps a bonus and multiplies it by the episodic weight w of each stored entry."""

    def __init__(self, inner: Bonus, capacity: int, num_actions: int) -> None:
        """capacity: entries of the replay, whose indices are used here too."""
        self.inner, self.pays, self.uses_features = inner, inner.pays, inner.uses_features
        self.lost: NDArray[np.float32] = np.zeros((capacity, num_actions), dtype=np.float32)
        """1 - w."""
        self.patches = {**inner.patches, "lost": Patches(self.lost)}
        self._log = EpisodeLog()

    @property
    def visits(self) -> int:
        """Visits so far, repeated ones included, because all of them are counted."""
        return self.inner.visits

    def value(self, phi: FloatArray) -> FloatArray:
        """b of features (..., d) -> (...,), for an observation that is new in its episode."""
        return self.inner.value(phi)

    def at(self, index: IntArray) -> FloatArray:
        """w b of all actions at entries index (N,) -> (N, A)."""
        return self.inner.at(index) * (1.0 - self.lost[index])

    def taken(self, index: IntArray, action: IntArray) -> FloatArray:
        """w b of stored visits: entries and actions (...,) -> (...,)."""
        out = 1.0 - self.lost[index, action].astype(np.float64)
        some = out > 0  # the others need not be computed
        out[some] *= self.inner.taken(index[some], action[some])
        return out

    def key_taken(self, phi: FloatArray, action: IntArray) -> Array:
        """Passed on to the wrapped bonus."""
        return self.inner.key_taken(phi, action)

    def rebuild(self, sample: FloatArray, chunks: Iterator[Chunk], gone: Iterable[Gone] = ()) -> None:
        """Passed on to the wrapped bonus, because w does not depend on features."""
        self.inner.rebuild(sample, chunks, gone)

    def start(self, obs: Array) -> None:
        """Passed on to the wrapped bonus."""
        self.inner.start(obs)

    def report(self) -> dict[str, float]:
        """Passed on to the wrapped bonus."""
        return self.inner.report()

    def watch(self, step: Step) -> None:
        """Note one step; an episode begins at h = 0, and its steps must come in order."""
        self.inner.watch(step)
        index, newest = step.index, step.newest
        if step.transition.h == 0:
            self._set(index, np.zeros((len(index), self.lost.shape[1])))
        lost = np.zeros((len(newest), self.lost.shape[1]))
        for k, again in enumerate(self._log.note(step)):
            if again is not None:
                lost[k] = 1.0 - 1.0 / (1 + again.visits)
                lost[k, list(again.taken)] = 1.0
        self._set(newest, lost)

    def _set(self, index: IntArray, lost: FloatArray) -> None:
        self.lost[index] = lost
        self.patches["lost"].touch(index)

    def state_dict(self, *, whole: bool = True) -> State:
        """The state of the wrapped bonus, and 1 - w unless `patches` saves it."""
        return {"inner": self.inner.state_dict(whole=whole), **({"lost": self.lost.copy()} if whole else {})}

    def load_state_dict(self, state: dict[str, Any], *, whole: bool = True) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, ("inner", *(("lost",) if whole else ())), "bonus")
        self.inner.load_state_dict(state["inner"], whole=whole)
        if not whole:
            return
        saved, room = np.asarray(state["lost"]), self.lost.shape
        require(saved.shape == room, f"bonus: weights of shape {saved.shape} are saved, there is room for {room}.")
        self.lost[:] = saved
        self.patches["lost"].forget()


class LeastTried:
    """Greedy by Q, uniform over ties, among the actions taken least often at an equal observation of the episode.

    It serves B rows whose steps come in order; h = 0 begins an episode.
    """

    def __init__(self) -> None:
        self._episodes: list[dict[bytes, list[float]]] = []

    def __call__(self, obs: Array, h: int, q: FloatArray) -> FloatArray:
        """Observations (B, ...) and Q (B, A) -> probabilities (B, A); their actions are noted as taken."""
        if h == 0:
            self._episodes = [{} for _ in q]
        require(len(self._episodes) == len(q), f"least tried: {len(q)} rows at step {h}, {len(self._episodes)} before.")
        names = [name_of(one) for one in obs]
        never = [0.0] * q.shape[1]
        times = np.array([row.get(name, never) for row, name in zip(self._episodes, names, strict=True)])
        values = np.where(times == times.min(axis=1, keepdims=True), q, -np.inf)
        best = values == values.max(axis=1, keepdims=True)
        probabilities: FloatArray = best / best.sum(axis=1, keepdims=True)
        for row, name, counts in zip(self._episodes, names, (times + probabilities).tolist(), strict=True):
            row[name] = counts
        return probabilities


def name_of(obs: Array) -> bytes:
    """Short for the bytes of an observation."""
    return blake2b(np.ascontiguousarray(obs).tobytes(), digest_size=16).digest()
