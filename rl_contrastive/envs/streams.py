"""Counter-based random numbers: word c of stream i is a hash of (seed_i, c), so a batch equals its singles.

A stream has no hidden state: `state = (seed, counter)`. All streams of a batch share the counter, because every
environment of a batch draws the same number of words per step; n environments in a batch therefore see exactly
the numbers that n single environments with the same seeds see. Words are computed for a block of future steps at
once, which spreads numpy's cost per call over the block.

The hash is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014):
a Weyl sequence of odd increment followed by a bijective mix of 64 bits; the seed is mixed twice to give the start.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rl_contrastive.errors import RlcError
from rl_contrastive.spec import FloatArray, IntArray

Words = NDArray[np.uint64]

NORMAL_BOUND = 6.8
"""No value of `normals` is larger: sqrt(-2 log(2^-33)) = 6.76."""

_WEYL = 0x9E3779B97F4A7C15
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
_LOW_32 = np.uint64(0xFFFFFFFF)
_S11 = np.uint64(11)
_MASK_64 = (1 << 64) - 1


def mix(x: Words) -> Words:
    """SplitMix64's finaliser, a bijection of 64-bit words, in place on `x` (any shape)."""
    scratch = x >> _S30
    np.bitwise_xor(x, scratch, out=x)
    np.multiply(x, _MIX_1, out=x)
    np.right_shift(x, _S27, out=scratch)
    np.bitwise_xor(x, scratch, out=x)
    np.multiply(x, _MIX_2, out=x)
    np.right_shift(x, _S31, out=scratch)
    np.bitwise_xor(x, scratch, out=x)
    return x


class Streams:
    """n parallel streams of 64-bit words, one per seed, with a common counter.

    `Streams([3, 7]).words(4)` is a (4, 2) uint64 array; column 0 is what `Streams([3]).words(4)` gives.
    """

    def __init__(self, seeds: Sequence[int], counter: int = 0) -> None:
        for seed in seeds:
            if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
                raise RlcError(f"an environment seed must be a non-negative integer, got {seed!r}.")
        self.seeds = [int(seed) for seed in seeds]
        self.counter = counter
        # Seeds above 64 bits fold, so that gymnasium's 128-bit entropy is accepted.
        folded = np.array([(s ^ (s >> 64)) & _MASK_64 for s in self.seeds], dtype=np.uint64)
        self._start = mix(mix(folded + np.uint64(_WEYL)) ^ np.uint64(_WEYL >> 1))

    def words(self, count: int) -> Words:
        """The next `count` words of each stream: (count, n) uint64; advances the counter."""
        first = (self.counter + 1) * _WEYL & _MASK_64
        offsets = np.uint64(first) + np.arange(count, dtype=np.uint64) * np.uint64(_WEYL)
        self.counter += count
        return mix(offsets[:, None] + self._start)  # (count, n)


def high_half(words: Words) -> IntArray:
    """High 32 bits of each word as int64 in [0, 2^32)."""
    return (words >> _S32).view(np.int64)


def low_half(words: Words) -> IntArray:
    """Low 32 bits of each word as int64 in [0, 2^32): independent of the high ones."""
    return (words & _LOW_32).view(np.int64)


def uniforms(words: Words) -> FloatArray:
    """Uniform float64 in [0, 1) with 53 random bits, same shape as `words`."""
    return np.asarray((words >> _S11) * 2.0**-53, dtype=np.float64)


def integers(words: Words, bound: int) -> IntArray:
    """Uniform int64 in 0..bound-1 (bound <= 2^31) by fixed-point scaling; the bias is below bound / 2^32."""
    return ((words >> _S32) * np.uint64(bound) >> _S32).view(np.int64)


def normals(words: Words) -> NDArray[np.float32]:
    """Standard normal float32 by Box-Muller, two per word: (...) words -> (2, ...) values, |x| <= NORMAL_BOUND.

    radius = sqrt(-2 log u_1), angle = 2 pi u_2; out[0] = radius cos(angle), out[1] = radius sin(angle).
    """
    high = (words >> _S32).astype(np.float32)
    low = (words & _LOW_32).astype(np.float32)
    # Half a step is added so that u_1 is never 0; u_1 may round to 1, whose radius 0 is right.
    radius = np.sqrt(np.float32(-2.0) * np.log((high + np.float32(0.5)) * np.float32(2.0**-32)))
    angle = low * np.float32(2.0 * np.pi * 2.0**-32)
    out = np.empty((2, *words.shape), dtype=np.float32)
    np.multiply(radius, np.cos(angle), out=out[0])
    np.multiply(radius, np.sin(angle), out=out[1])
    return out
