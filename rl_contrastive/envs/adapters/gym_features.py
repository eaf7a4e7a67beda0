"""Observations of foreign environments as features: raw, Fourier cosines, tile coding, or bins (a table).

The low-rank theory wants features with bounded norm; these maps give them for observations of few dimensions.
Each coordinate is first brought to z in [0, 1]: linearly between its bounds, or by a logistic curve where it has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import Array, FloatArray, IntArray

FeatureKind = Literal["raw", "fourier", "tile", "bins"]
MAX_FEATURES = 4096
MAX_STATES = 100_000
UNBOUNDED = 1e18
"""Bounds of this size and more mean "none" (3.4e38, 9.2e18), as extremes of wide dtypes do. All others are meant."""


@dataclass(frozen=True)
class FeatureMap:
    """A batched map of observations (n, ...) -> features (n, *shape), or state indices (n,) when num_states is set."""

    shape: tuple[int, ...]
    dtype: str
    num_states: int | None
    apply: Callable[[Any], Array]
    space: gym.spaces.Box | None = None
    """Of raw observations, with the bounds that the environment declares."""


class OutsideError(Exception):
    """An observation that its finite space does not contain."""

    def __init__(self, row: int, value: Any) -> None:
        super().__init__(f"observation {value} in row {row}")
        self.row, self.value = row, value


def feature_map(space: gym.Space[Any], kind: FeatureKind, resolution: int, tilings: int, scale: float) -> FeatureMap:
    """The map for an observation space. Finite spaces become tables or one-hot vectors whatever `kind` is, a Box
    follows `kind`.

    resolution: order of the Fourier basis, tiles per coordinate, or bins per coordinate.
    """
    if (sizes := _finite_sizes(space)) is not None:
        return _finite(space, sizes)
    if not isinstance(space, gym.spaces.Box):
        raise RlcError(
            f"gym: observations must be Discrete, MultiDiscrete, MultiBinary, Tuple of Discrete or Box; got {space}. "
            "Flatten others first: gymnasium.wrappers.FlattenObservation."
        )
    if kind == "raw":
        return _raw(space)
    if space.shape == ():
        space = gym.spaces.Box(space.low.reshape(1), space.high.reshape(1), dtype=space.dtype.type)
    require(
        len(space.shape) == 1, f"gym: {kind} features need a one-dimensional Box, got shape {space.shape}; use raw."
    )
    k, unit = space.shape[0], _unit_cube(space, scale)
    if kind == "fourier":
        return _fourier(k, resolution, unit)
    if kind == "tile":
        return _tile(k, resolution, tilings, unit)
    hint = "lower env.resolution or choose raw"
    _limit(resolution**k, MAX_STATES, f"bins: {resolution}^{k} states", hint)
    weights = resolution ** np.arange(k - 1, -1, -1)

    def bins(obs: Array) -> IntArray:
        return np.asarray(_cells(unit(obs), resolution) @ weights, dtype=np.int64)

    return FeatureMap((), "int64", resolution**k, bins)


def check_space(name: str, what: str, space: gym.Space[Any]) -> None:
    """RlcError for a space without coordinates or values, and for a Box with bounds that are NaN or reversed."""
    sizes = _finite_sizes(space)
    empty = math.prod(space.shape) == 0 if isinstance(space, gym.spaces.Box) else sizes is not None and not sizes
    require(not empty, f"{name}: the space of {what} has no coordinates, got {space}; it needs one at least.")
    require(sizes is None or min(sizes) >= 1, f"{name}: the space of {what} has no values, got {space}.")
    if isinstance(space, gym.spaces.Box):
        known = not (np.isnan(space.low).any() or np.isnan(space.high).any())
        require(known, f"{name}: the Box of {what} has bounds that are NaN, got {space}; use -inf and inf for none.")
        require(bool((space.low <= space.high).all()), f"{name}: the Box of {what} has low > high, got {space}.")


def _finite_sizes(space: gym.Space[Any]) -> list[int] | None:
    """Sizes of the factors of a finite space, None for others."""
    if isinstance(space, gym.spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, gym.spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.ravel()]
    if isinstance(space, gym.spaces.MultiBinary):
        return [2] * int(np.prod(space.shape))
    if isinstance(space, gym.spaces.Tuple) and all(isinstance(s, gym.spaces.Discrete) for s in space.spaces):
        return [int(s.n) for s in space.spaces]  # type: ignore[attr-defined]
    return None


def _raw(space: gym.spaces.Box) -> FeatureMap:
    """A Box as it is, but single numbers as vectors of one, and pictures (H, W, C) as planes (C, H, W).

    Pictures: the last of three axes is shorter than both others. Stacks of them (k, H, W, C) become (k C, H, W).
    """
    shape = space.shape

    def apply(obs: Any) -> Array:
        return shown(np.array(obs))

    def shown(x: Array) -> Array:
        if last and len(shape) in (3, 4):
            x = np.moveaxis(x, -1, -3)
        return np.ascontiguousarray(x).reshape(len(x), *seen)

    last = len(shape) in (3, 4) and shape[-1] < min(shape[-3:-1])
    seen = shape or (1,)
    if last:
        seen = (math.prod(shape[:-3]) * shape[-1], *shape[-3:-1])
    low, high = (shown(bound[None])[0] for bound in (space.low, space.high))
    return FeatureMap(seen, space.dtype.name, None, apply, gym.spaces.Box(low, high, seen, space.dtype.type))


def _finite(space: gym.Space[Any], sizes: list[int]) -> FeatureMap:
    """A table: the mixed-radix index of the factors, each counted from its space's `start`. Of too many states the
    factors side by side, one-hot, of two values one number each."""
    total = math.prod(sizes)
    width = sum(n if n > 2 else 1 for n in sizes)
    table = total <= MAX_STATES
    if not table:
        hint = "show fewer, or a Box, in a gymnasium wrapper"
        _limit(width, MAX_FEATURES, f"{total} states, one-hot {width} numbers,", hint)
    if isinstance(space, gym.spaces.Tuple):
        start: Any = [int(s.start) for s in space.spaces]  # type: ignore[attr-defined]
    else:
        start = np.ravel(getattr(space, "start", 0))

    def factors(obs: Any) -> IntArray:
        columns = np.stack(obs, axis=-1) if isinstance(obs, tuple) else np.asarray(obs)
        values = columns.reshape(len(columns), -1).astype(np.int64)  # (n, factors)
        counted = np.asarray(values - start, dtype=np.int64)
        wrong = ((counted < 0) | (counted >= sizes)).any(axis=1)
        if wrong.any():
            row = int(wrong.argmax())
            raise OutsideError(row, values[row].tolist() if len(sizes) > 1 else int(values[row, 0]))
        return counted

    def index(obs: Any) -> IntArray:
        return np.asarray(np.ravel_multi_index(tuple(factors(obs).T), tuple(sizes)), dtype=np.int64)

    def one_hot(obs: Any) -> Array:
        columns = zip(factors(obs).T[:, :, None], sizes, strict=True)  # (n, 1) each
        parts = [column == np.arange(n) if n > 2 else column for column, n in columns]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    if table:
        return FeatureMap((), "int64", total, index)
    return FeatureMap((width,), "float32", None, one_hot)


def _unit_cube(space: gym.spaces.Box, scale: float) -> Callable[[Array], FloatArray]:
    """x (n, k) -> z in [0, 1]^k: (x - low) / (high - low) where bounded, 1 / (1 + exp(-x / scale)) elsewhere."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    none = _means_none(space.dtype)
    bounded = (np.abs(low) < none) & (np.abs(high) < none) & (high > low)
    low, width = np.where(bounded, low, 0.0), np.where(bounded, high - low, 1.0)

    def unit(obs: Array) -> FloatArray:
        x = np.asarray(obs, dtype=np.float64).reshape(len(obs), -1)
        # tanh is the logistic curve that cannot overflow: 1 / (1 + e^-t) = (1 + tanh(t / 2)) / 2.
        z = np.where(bounded, (x - low) / width, 0.5 + 0.5 * np.tanh(x / (2.0 * scale)))
        return np.asarray(np.clip(z, 0.0, 1.0))

    return unit


def _means_none(dtype: np.dtype[Any]) -> float:
    """Size from which on bounds of this dtype stand for none: UNBOUNDED, or the largest number of a narrower one."""
    if dtype.kind == "f":
        return min(UNBOUNDED, float(np.finfo(dtype).max))
    wide = dtype.kind in "iu" and dtype.itemsize >= 4  # a byte's 255 is meant
    return min(UNBOUNDED, float(np.iinfo(dtype).max)) if wide else UNBOUNDED


def _cells(z: FloatArray, count: int) -> IntArray:
    cells: IntArray = np.minimum((z * count).astype(np.int64), count - 1)
    return cells


def _fourier(k: int, order: int, unit: Callable[[Array], FloatArray]) -> FeatureMap:
    """cos(pi c . z) for all c in {0..order}^k (Konidaris, Osentoski and Thomas 2011), divided by sqrt(their number)."""
    size = (order + 1) ** k
    _limit(size, MAX_FEATURES, f"fourier: ({order} + 1)^{k} features", "lower env.resolution or choose raw")
    c = np.stack(np.meshgrid(*[np.arange(order + 1)] * k, indexing="ij"), axis=-1).reshape(-1, k)  # (size, k)

    def cosines(obs: Array) -> Array:
        return np.asarray(np.cos(np.pi * (unit(obs) @ c.T)) / np.sqrt(size), dtype=np.float32)

    return FeatureMap((size,), "float32", None, cosines)


def _tile(k: int, tiles: int, tilings: int, unit: Callable[[Array], FloatArray]) -> FeatureMap:
    """`tilings` shifted grids of tiles^k cells, one-hot each (Sutton and Barto 2018, 9.5.4); unit norm in all.

    Tiling t is shifted by t (1, 3, 5, ...) / tilings of a tile, modulo one tile: the asymmetric offsets.
    """
    size = tilings * (tiles + 1) ** k  # a shifted grid needs one more cell in each direction
    _limit(size, MAX_FEATURES, f"tile: {tilings} * ({tiles} + 1)^{k} features", "lower env.resolution or choose raw")
    shift = np.outer(np.arange(tilings), 2 * np.arange(k) + 1) % tilings / tilings  # (tilings, k)
    weights = (tiles + 1) ** np.arange(k - 1, -1, -1)
    first = np.arange(tilings) * (tiles + 1) ** k

    def code(obs: Array) -> Array:
        z = unit(obs)[:, None, :] * tiles + shift  # (n, tilings, k) in [0, tiles + 1)
        hit = np.minimum(z.astype(np.int64), tiles) @ weights + first  # (n, tilings)
        out = np.zeros((len(hit), size), dtype=np.float32)
        np.put_along_axis(out, hit, np.float32(1.0 / np.sqrt(tilings)), axis=1)
        return out

    return FeatureMap((size,), "float32", None, code)


def _limit(size: int, most: int, what: str, hint: str) -> None:
    require(size <= most, f"gym: {what} are more than the allowed {most}; {hint}.")
