"""One SeedSequence tree per run: named streams, independent of each other and of every other run.

No code of this library touches the global generators of numpy, random or torch; it is handed a Generator.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from rl_contrastive.errors import RlcError

STREAMS = ("env", "init", "act", "negatives", "evaluation", "fit", "opponent")


class SeedTree:
    """Streams of one run: stream(name) depends on (seed, name) only, so adding a stream changes no other one.

    Example: `SeedTree(3).generator("act").random()` is the same number in each process and on each machine.
    """

    def __init__(self, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise RlcError(f"seed must be a non-negative integer, got {seed!r}.")
        self.seed = int(seed)

    def sequence(self, name: str, *indices: int) -> np.random.SeedSequence:
        """SeedSequence of the stream `name`, or of its element `indices` (an iteration number, say)."""
        if name not in STREAMS:
            raise RlcError(f"unknown random stream '{name}'. Allowed: {', '.join(STREAMS)}.")
        return np.random.SeedSequence(self.seed, spawn_key=(zlib.crc32(name.encode()), *indices))

    def generator(self, name: str, *indices: int) -> np.random.Generator:
        """A fresh PCG64 generator at the beginning of the stream."""
        return np.random.Generator(np.random.PCG64(self.sequence(name, *indices)))

    def integer(self, name: str, *indices: int) -> int:
        """The stream as one integer of 63 bits, for generators of torch."""
        return int(self.sequence(name, *indices).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def env_seeds(self, name: str, iteration: int, count: int) -> list[int]:
        """`count` reset seeds (31 bits each, what gymnasium accepts everywhere) of one batch of episodes."""
        words = self.sequence(name, iteration).generate_state(count, np.uint32)
        return [int(w) for w in words >> np.uint32(1)]


def generator_state(rng: np.random.Generator) -> dict[str, Any]:
    """JSON-ready state of a generator (Python integers of 128 bits are fine in JSON)."""
    return dict(rng.bit_generator.state)


def restore_generator(rng: np.random.Generator, state: dict[str, Any]) -> None:
    """Put `rng` back to a state of `generator_state`."""
    try:
        rng.bit_generator.state = state
    except (ValueError, KeyError, TypeError) as error:
        raise RlcError(f"the checkpoint holds no valid generator state: {error}.") from error
