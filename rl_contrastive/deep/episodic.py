"""A bonus that pays each pair (o, a) once an episode, beside whatever it counts over all episodes.

    b(o_t, a) 1[a was not taken at an observation equal to o_t earlier in this episode]

Counts of a lifetime tell rooms apart by how often they were seen; where rooms look alike, as through MiniGrid's partial
view, walking on is worth no more than turning on the spot. What was not done yet THIS time is what leads on. Source:
the episodic restriction of NovelD (Zhang et al. 2021) and the episodic counts of RIDE (Raileanu and Rocktaeschel 2020),
there of observations, here of pairs. Equal means equal bytes: observations with noise are never equal, and then nothing
changes. Values stay functions of o alone, though the bonus now depends on the past of the episode.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.deep.bonus import Bonus, Chunk
from rl_contrastive.deep.patches import Patches
from rl_contrastive.spec import Array, BoolArray, FloatArray, IntArray, State, Transition


class OncePerEpisode:
    """Another bonus, with what was taken before in the episode of each stored entry."""

    def __init__(self, inner: Bonus, capacity: int, num_actions: int) -> None:
        """capacity: entries of the replay, whose indices are used here too."""
        self.inner, self.known_ahead, self.of_features = inner, inner.known_ahead, inner.of_features
        self.taken: BoolArray = np.zeros((capacity, num_actions), dtype=np.bool_)
        """Of each entry: the actions that were taken at its observation before it."""
        self.patches = {**inner.patches, "taken": Patches(self.taken)}
        self._episodes: list[dict[bytes, BoolArray]] = []
        self._here: list[bytes] = []

    @property
    def visits(self) -> int:
        """Visits so far, repeated ones included: they are all counted."""
        return self.inner.visits

    def of(self, phi: FloatArray) -> FloatArray:
        """b of features (..., d) -> (...,), as of a pair that is new to its episode."""
        return self.inner.of(phi)

    def ahead(self, index: IntArray) -> FloatArray:
        """b of all actions at entries index (N,) -> (N, A)."""
        return self.inner.ahead(index) * ~self.taken[index]

    def along(self, index: IntArray, action: IntArray) -> FloatArray:
        """b of stored visits: entries and actions (...,) -> (...,)."""
        return self.inner.along(index, action) * ~self.taken[index, action]

    def put(self, index: IntArray, phi: FloatArray) -> None:
        """As the other bonus does."""
        self.inner.put(index, phi)

    def visit(self, index: IntArray, action: IntArray) -> None:
        """As the other bonus does."""
        self.inner.visit(index, action)

    def rebuild(self, sample: FloatArray, chunks: Iterator[Chunk]) -> None:
        """As the other bonus does: what was taken does not depend on features."""
        self.inner.rebuild(sample, chunks)

    def follow(self, transition: Transition, index: IntArray, newest: IntArray) -> None:
        """Note one step of all rows alive: they acted at entries index (k,), and newest (k,) hold what they saw then.

        Within an episode only: it begins at h = 0, and the steps must come in order.
        """
        alive = np.flatnonzero(transition.alive).tolist()
        if transition.h == 0:
            self._episodes = [{} for _ in transition.alive]
            self._here = [_name(obs) for obs in transition.obs]
            self.taken[index] = False
        none = np.zeros(self.taken.shape[1], dtype=np.bool_)
        for row, entry in zip(alive, newest.tolist(), strict=True):
            known = self._episodes[row]
            known.setdefault(self._here[row], none.copy())[transition.action[row]] = True
            self._here[row] = _name(transition.next_obs[row])
            self.taken[entry] = known.get(self._here[row], none)
        for changed in (index, newest) if transition.h == 0 else (newest,):
            self.patches["taken"].touch(changed)

    def state_dict(self, *, whole: bool = True) -> State:
        """The other bonus, and what was taken as far as it is not saved by `patches`."""
        taken = {"taken": np.packbits(self.taken, axis=1)} if whole else {}
        return {"inner": self.inner.state_dict(whole=whole), **taken}

    def load_state_dict(self, state: dict[str, Any], *, whole: bool = True) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        for key in ("inner", *(("taken",) if whole else ())):
            require(key in state, f"bonus: the saved state lacks '{key}'.")
        self.inner.load_state_dict(state["inner"], whole=whole)
        if not whole:
            return
        saved, (rows, actions) = np.asarray(state["taken"]), self.taken.shape
        fits = saved.dtype == np.uint8 and saved.shape == (rows, -(-actions // 8))
        require(fits, f"bonus: what was taken is saved as {saved.dtype} {saved.shape}, there is room for {rows} rows.")
        self.taken[:] = np.unpackbits(saved, axis=1, count=actions)
        self.patches["taken"].forget()


def _name(obs: Array) -> bytes:
    """Short for the bytes of an observation."""
    return blake2b(np.ascontiguousarray(obs).tobytes(), digest_size=16).digest()
