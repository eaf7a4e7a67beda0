"""Observations as the replay stores them -> the columns that layers in numpy take, and the encoder on them."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from threadpoolctl import threadpool_limits

from rl_contrastive.config import require
from rl_contrastive.deep.config import Backend
from rl_contrastive.deep.native.layers import Batch, Few, Network, Slot, known, shared
from rl_contrastive.deep.networks import Encoder, Inputs
from rl_contrastive.spec import Array

KINDS = ("mlp", "minatar", "minigrid")
"""Encoders of small observations; the convolutions of frames are large enough for torch."""


WIDE, SHARE = 256, 4
"""Flat inputs from this many on are looked through for those that are not zero: one in four or fewer make `Few`."""


class Columns:
    """`Inputs` with the batch last: (N, *obs_shape) -> (*out_shape, N), or `Few` of it for layers that take vectors."""

    def __init__(self, inputs: Inputs, *, vectors: bool = False) -> None:
        """vectors: the layers are an mlp's."""
        self.sparse = vectors and inputs.rule in ("flags", "bytes") and math.prod(inputs.obs_shape) >= WIDE
        self.rule, self.out_shape, self.codes = inputs.rule, inputs.out_shape, inputs.codes
        buffers = (inputs.centre, inputs.factor)  # `standardise` changes them in place
        self.centre, self.factor = (shared(x)[..., None] for x in buffers)
        self.value, self.dtype = shared(inputs.value), self.centre.dtype
        self.order = (*range(1, len(inputs.obs_shape) + 1), 0)

    def __call__(self, obs: Array) -> Batch:
        """In the precision of the buffers."""
        N = len(obs)
        if self.sparse:
            flat = obs.reshape(N, -1)
            places = np.flatnonzero(flat.any(axis=0))
            if SHARE * len(places) <= flat.shape[1]:
                return Few(places, self._scaled(np.ascontiguousarray(flat[:, places].T, dtype=self.dtype)))
        if self.rule == "states":
            x = obs.reshape(N, -1).T[:, None] == self.value[:, None]  # (k, S, N)
        elif self.rule == "codes":
            planes = obs.transpose(self.order)[:, None]  # (P, 1, H, W, N)
            values = (self.value[:count, None, None, None] for count in self.codes)
            x = np.concatenate([plane == value for plane, value in zip(planes, values, strict=True)])
        else:
            x = obs.astype(self.dtype).transpose(self.order)  # in this order both copies are fast
        x = np.ascontiguousarray(x, dtype=self.dtype)
        if self.rule == "floats":
            x -= self.centre
            x *= self.factor
            size = np.abs(x)
            np.copysign(np.log1p(size, out=size), x, out=x)
        return self._scaled(x).reshape(*self.out_shape, N)

    def _scaled(self, x: Array) -> Array:
        if self.rule == "bytes":
            x *= self.factor
        return x


class NativeEncoder:
    """`Encoder`: observations (N, *obs_shape) -> vectors (width, N)."""

    def __init__(self, encoder: Encoder, slot: Slot | None = None) -> None:
        """slot: as in `Network`."""
        self.columns, self.body = Columns(encoder.inputs, vectors=encoder.kind == "mlp"), Network(encoder.body, slot)

    def __call__(self, obs: Array) -> Array:
        return self.body(self.columns(obs))


def knows(encoder: Encoder) -> bool:
    """Whether `NativeEncoder` computes it."""
    return encoder.kind in KINDS and known(encoder.body)


def chosen(backend: Backend, possible: bool, what: str, option: str) -> bool:
    """Whether numpy computes; RlcError, with the option's name, if it is asked for where it cannot."""
    has = f"deep: {option} numpy has small mlp, minatar and minigrid networks on a CPU, but not {what}"
    require(possible or backend != "numpy", f"{has}: take auto or torch.")
    if not possible or backend == "torch":
        return False
    one_blas_thread()
    return True


@cache
def one_blas_thread() -> None:
    """Let numpy multiply on one thread from now on, in this process: on several, products this small take ten times as
    long. Runs have one thread anyway; this is for agents that a program makes itself."""
    threadpool_limits(limits=1, user_api="blas")
