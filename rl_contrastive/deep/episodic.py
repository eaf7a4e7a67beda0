"""Memory of an episode: a bonus that fades within it, and greedy play that does not go in circles.

    w(o_t, a) b(o_t, a),   w = 1[a was not taken at o_t earlier in this episode] / (1 + earlier visits of o_t in it)

Counts over all episodes tell places apart only by how often they were seen. Where rooms look alike, as through
MiniGrid's partial view, walking on is then worth no more than turning on the spot. Places not yet seen in THIS episode
lead on, and actions not yet tried there end a loop. Source: the episodic counts of RIDE (Raileanu and Rocktaeschel
2020) and NovelD (Zhang et al. 2021), there of observations alone. The same observation means the same bytes or, with
noise, where no bytes come again, close features (`names.py`). Of stacked frames the newest one counts, because the
others tell how the agent came here and not where it is; for features `representation.frames` says so. Values stay
functions of the stack, although the bonus now depends on the episode.

`LeastTried` is the same memory for the evaluated policy. A deterministic policy of views alone never leaves a circle
once it is in one. Learning and chance break circles in training, but nothing does in evaluation.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_contrastive.config import fill_arrays, require, require_keys
from rl_contrastive.deep.bonus_contract import Bonus, Chunk, Gone, Step
from rl_contrastive.deep.names import ByteNames, Closeness, FeatureNames, Leaders, Names, name_of
from rl_contrastive.deep.replay.changed_rows import Patches
from rl_contrastive.spec import Array, FloatArray, IntArray, State


@dataclass
class Seen:
    """One observation in one episode."""

    taken: set[int]
    """Actions that were taken there."""
    visits: int = 0


class EpisodeLog:
    """What the going episodes of B rows saw and did; nothing of it outlives them.

    `note` is for rows whose episodes begin together, `start` and `move` for others. Several parts may share a log and
    note the same steps. Whoever makes one by features has to renew its names when the features change.
    """

    def __init__(self, names: Names | None = None) -> None:
        """names: by which observations are the same, default bytes."""
        self.names: Names = names or ByteNames()
        self._episodes: list[dict[Hashable, Seen]] = []
        self._here: dict[int, Hashable] = {}
        self._noted: tuple[Step, list[Seen | None]] | None = None

    def note(self, step: Step) -> list[Seen | None]:
        """Note one step, once; h = 0 begins new episodes. Of each living row what its episode knows of the observation
        that it has reached, None: it is new."""
        if self._noted is not None and self._noted[0] is step:  # another part was here before
            return self._noted[1]
        t, rows = step.transition, step.rows
        if t.h == 0:
            self.begin(len(t.alive))
            self.start(rows, t.obs[rows], step.first[:, 0], step.index)
        found = self.move(rows, t.action[rows], t.next_obs[rows], step.phi[:, 0], step.newest)
        self._noted = step, found
        return found

    def begin(self, num_rows: int) -> None:
        """Nothing is known of any row."""
        self.names.begin(num_rows)
        self._episodes = [{} for _ in range(num_rows)]

    def start(self, rows: IntArray, obs: Array, psi: FloatArray, entries: IntArray) -> None:
        """These rows (k,) begin episodes with what they show, as in `Names.of`."""
        self.names.restart(rows)
        for row, name in zip(rows.tolist(), self.names.of(rows, obs, psi, entries), strict=True):
            self._episodes[row], self._here[row] = {}, name

    def here(self, row: int) -> Seen | None:
        """What this row's episode knows of the observation in which it is, None: it is new."""
        return self._episodes[row].get(self._here[row])

    def move(
        self, rows: IntArray, action: IntArray, obs: Array, psi: FloatArray, entries: IntArray
    ) -> list[Seen | None]:
        """These rows took actions (k,) and reached what they show now; returns what `here` says of that."""
        found = []
        reached = self.names.of(rows, obs, psi, entries)
        for row, taken, name in zip(rows.tolist(), action.tolist(), reached, strict=True):
            episode = self._episodes[row]
            here = episode.setdefault(self._here[row], Seen(set()))
            here.taken.add(taken)
            here.visits += 1
            self._here[row] = name
            found.append(episode.get(name))
        return found


class EpisodicBonus:
    """Wraps a bonus and multiplies it by the episodic weight w of each stored entry."""

    def __init__(self, inner: Bonus, capacity: int, num_actions: int, log: EpisodeLog | None = None) -> None:
        """capacity: entries of the replay, whose indices are used here too. log: of the going episodes, default one by
        bytes."""
        self.inner, self.pays = inner, inner.pays
        self._log = log or EpisodeLog()
        self.uses_features = inner.uses_features or isinstance(self._log.names, FeatureNames)
        self.lost: NDArray[np.float32] = np.zeros((capacity, num_actions), dtype=np.float32)
        """1 - w."""
        self.patches = {**inner.patches, "lost": Patches(self.lost)}

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
        """Passed on to the wrapped bonus."""
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
        require_keys(state, ("inner",), "bonus")
        if whole:
            fill_arrays({"lost": self.lost}, state, "bonus")
            self.patches["lost"].forget()
        self.inner.load_state_dict(state["inner"], whole=whole)


class LeastTried:
    """Greedy by Q, uniform over ties, among the actions taken least often at an equal observation of the episode.

    It serves B rows whose steps come in order; h = 0 begins an episode.
    """

    def __init__(self, closeness: Closeness | None = None) -> None:
        """closeness: observations with close features are equal; default: those of equal bytes."""
        self._leaders = None if closeness is None else Leaders(closeness)
        self._episodes: list[dict[Hashable, list[float]]] = []

    def __call__(self, obs: Array, h: int, q: FloatArray, psi: FloatArray | None = None) -> FloatArray:
        """Observations (B, ...), Q (B, A), features (B, d) -> probabilities (B, A); the actions are noted as taken."""
        if h == 0:
            self._episodes = [{} for _ in q]
            if self._leaders is not None:
                self._leaders.begin(len(q))
        require(len(self._episodes) == len(q), f"least tried: {len(q)} rows at step {h}, {len(self._episodes)} before.")
        names: list[Hashable]
        if self._leaders is None:
            names = [name_of(one) for one in obs]
        else:
            require(
                psi is not None and len(psi) == len(q), "least tried: features are compared: psi has a row for each."
            )
            assert psi is not None
            names = [self._leaders.assign(row, x)[0] for row, x in enumerate(psi)]
        never = [0.0] * q.shape[1]
        times = np.array([row.get(name, never) for row, name in zip(self._episodes, names, strict=True)])
        values = np.where(times == times.min(axis=1, keepdims=True), q, -np.inf)
        best = values == values.max(axis=1, keepdims=True)
        probabilities: FloatArray = best / best.sum(axis=1, keepdims=True)
        for row, name, counts in zip(self._episodes, names, (times + probabilities).tolist(), strict=True):
            row[name] = counts
        return probabilities
