"""Observations of foreign environments as features: raw, Fourier cosines, tile coding, or bins (a table).

The low-rank theory wants features with bounded norm; these maps give them for observations of few dimensions.
Each coordinate is first brought to z in [0, 1]: linearly between its bounds, or by a logistic curve where it has none.
"""

from __future__ import annotations

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
UNBOUNDED = 1e3
"""Bounds beyond this size are treated as missing (gymnasium's boxes use 3.4e38 and inf for "none")."""


@dataclass(frozen=True)
class FeatureMap:
    """A batched map of observations (n, ...) -> features (n, *shape), or state indices (n,) when num_states is set."""

    shape: tuple[int, ...]
    dtype: str
    num_states: int | None
    apply: Callable[[Any], Array]


def feature_map(space: gym.Space[Any], kind: FeatureKind, resolution: int, tilings: int, scale: float) -> FeatureMap:
    """The map for an observation space. Finite spaces become tables whatever `kind` is; a Box follows `kind`.

    resolution: order of the Fourier basis, tiles per coordinate, or bins per coordinate.
    """
    if (sizes := _finite_sizes(space)) is not None:
        return _tabular(space, sizes)
    if not isinstance(space, gym.spaces.Box):
        raise RlcError(
            f"gym: observations must be Discrete, MultiDiscrete, MultiBinary, Tuple of Discrete or Box; got {space}. "
            "Flatten others in a gymnasium wrapper first."
        )
    if kind == "raw":
        return FeatureMap(space.shape, space.dtype.name, None, np.array)
    require(
        len(space.shape) == 1, f"gym: {kind} features need a one-dimensional Box, got shape {space.shape}; use raw."
    )
    k, unit = space.shape[0], _unit_cube(space, scale)
    if kind == "fourier":
        return _fourier(k, resolution, unit)
    if kind == "tile":
        return _tile(k, resolution, tilings, unit)
    _limit(resolution**k, MAX_STATES, f"bins: {resolution}^{k} states")
    weights = resolution ** np.arange(k - 1, -1, -1)

    def bins(obs: Array) -> IntArray:
        return np.asarray(_cells(unit(obs), resolution) @ weights, dtype=np.int64)

    return FeatureMap((), "int64", resolution**k, bins)


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


def _tabular(space: gym.Space[Any], sizes: list[int]) -> FeatureMap:
    """Mixed-radix index of the factors, each counted from its space's `start`."""
    total = int(np.prod(np.array(sizes, dtype=object)))
    _limit(total, MAX_STATES, f"a table of {total} states")
    if isinstance(space, gym.spaces.Tuple):
        start: Any = [int(s.start) for s in space.spaces]  # type: ignore[attr-defined]
    else:
        start = np.ravel(getattr(space, "start", 0))

    def index(obs: Any) -> IntArray:
        columns = np.stack(obs, axis=-1) if isinstance(obs, tuple) else np.asarray(obs)
        columns = columns.reshape(len(columns), -1).astype(np.int64) - start  # (n, factors)
        return np.asarray(np.ravel_multi_index(tuple(columns.T), tuple(sizes)), dtype=np.int64)

    return FeatureMap((), "int64", total, index)


def _unit_cube(space: gym.spaces.Box, scale: float) -> Callable[[Array], FloatArray]:
    """x (n, k) -> z in [0, 1]^k: (x - low) / (high - low) where bounded, 1 / (1 + exp(-x / scale)) elsewhere."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = (np.abs(low) < UNBOUNDED) & (np.abs(high) < UNBOUNDED) & (high > low)
    low, width = np.where(bounded, low, 0.0), np.where(bounded, high - low, 1.0)

    def unit(obs: Array) -> FloatArray:
        x = np.asarray(obs, dtype=np.float64)
        # tanh is the logistic curve that cannot overflow: 1 / (1 + e^-t) = (1 + tanh(t / 2)) / 2.
        z = np.where(bounded, (x - low) / width, 0.5 + 0.5 * np.tanh(x / (2.0 * scale)))
        return np.asarray(np.clip(z, 0.0, 1.0))

    return unit


def _cells(z: FloatArray, count: int) -> IntArray:
    cells: IntArray = np.minimum((z * count).astype(np.int64), count - 1)
    return cells


def _fourier(k: int, order: int, unit: Callable[[Array], FloatArray]) -> FeatureMap:
    """cos(pi c . z) for all c in {0..order}^k (Konidaris, Osentoski and Thomas 2011), divided by sqrt(their number)."""
    size = (order + 1) ** k
    _limit(size, MAX_FEATURES, f"fourier: ({order} + 1)^{k} features")
    c = np.stack(np.meshgrid(*[np.arange(order + 1)] * k, indexing="ij"), axis=-1).reshape(-1, k)  # (size, k)

    def cosines(obs: Array) -> Array:
        return np.asarray(np.cos(np.pi * (unit(obs) @ c.T)) / np.sqrt(size), dtype=np.float32)

    return FeatureMap((size,), "float32", None, cosines)


def _tile(k: int, tiles: int, tilings: int, unit: Callable[[Array], FloatArray]) -> FeatureMap:
    """`tilings` shifted grids of tiles^k cells, one-hot each (Sutton and Barto 2018, 9.5.4); unit norm in all.

    Tiling t is shifted by t (1, 3, 5, ...) / tilings of a tile, modulo one tile: the asymmetric offsets.
    """
    size = tilings * (tiles + 1) ** k  # a shifted grid needs one more cell in each direction
    _limit(size, MAX_FEATURES, f"tile: {tilings} * ({tiles} + 1)^{k} features")
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


def _limit(size: int, most: int, what: str) -> None:
    require(size <= most, f"gym: {what} are more than the allowed {most}; lower env.resolution or choose raw.")
