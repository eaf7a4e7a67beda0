"""Contrastive features in numpy: those that the bonus counts, and the gradient of the paper's loss by hand.

    f_ij = psi(s'_j)'phi(s_i,a_i),   phi = softplus(beta u)/beta of u = u_phi(z_i, a_i), psi the same of v = u_psi(z'_j)
    loss = sum_i w_i [ log(1 + 1/f_ii) + sum_{j != i} v_ij log(1 + f_ij) ],   v_ij = w_j / sum_{k != i} w_k
    d loss / d f_ii = -w_i / (f_ii (1 + f_ii)),   d loss / d f_ij = w_i v_ij / (1 + f_ij)
    d phi / d u = sigmoid(beta u) = 1 - exp(-beta phi)

The rows of a batch are sorted by action, so that each action's part of the head sees its own rows alone.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl_contrastive.deep.config import Backend, RepresentationConfig
from rl_contrastive.deep.native.encoder import NativeEncoder, chosen, knows
from rl_contrastive.deep.native.layers import Dense, Network, Slot, known, shared, slots
from rl_contrastive.deep.networks import Encoder
from rl_contrastive.deep.representation import LEAST, Representation
from rl_contrastive.deep.weights import FlatParameters
from rl_contrastive.spec import Array, IntArray

BLOCK = 256
"""Rows that go through the layers together: more would not fit into the fast caches."""


class NativeFeatures:
    """One copy of an encoder with its heads."""

    def __init__(self, encoder: Encoder, heads: Representation, slot: Slot | None = None) -> None:
        """slot: as in `Network`."""
        self.encoder, self.of_states = NativeEncoder(encoder, slot), heads.config.of_states
        self.before = Network(list(heads.phi_head)[:-1], slot)
        last = Network(list(heads.phi_head)[-1:], slot).layers[0]
        assert isinstance(last, Dense)
        self.last, self.A, self.d = last, heads.num_actions, heads.config.dim
        self.psi = Network(heads.psi_head, slot)

    def __call__(self, obs: Array, action: IntArray | None = None) -> Array:
        """u of observations (N, ...): (N, A, d), (N, 1, d) of states, or (N, d) of the actions (N,); float64."""
        if len(obs) <= BLOCK:
            return self._block(obs, action)
        starts = range(0, len(obs), BLOCK)
        parts = [slice(start, start + BLOCK) for start in starts]
        return np.concatenate([self._block(obs[part], None if action is None else action[part]) for part in parts])

    def _block(self, obs: Array, action: IntArray | None) -> Array:
        z = self.encoder(obs)
        if self.of_states:
            v = self.psi(z).T.astype(np.float64, order="C")
            return v[:, None] if action is None else v
        u = self.last.forward(self.before(z))[0].T.reshape(-1, self.A, self.d)
        if action is not None:
            u = u[np.arange(len(u)), action]
        return u.astype(np.float64, order="C")


class NativeContrast:
    """The copy that learns, and its gradient."""

    def __init__(self, encoder: Encoder, heads: Representation, flat: FlatParameters) -> None:
        self.gradient = torch.zeros_like(flat.vector)
        self.net, self.beta = NativeFeatures(encoder, heads, slots(flat, shared(self.gradient))), heads.config.beta

    def step(
        self, obs: Tensor, action: Tensor, next_obs: Tensor, weight: Tensor | None, *unused: Any
    ) -> tuple[Tensor, Tensor]:
        """`FeatureNet._gradient`: the loss, and the gradient."""
        net, actions, N = self.net, shared(action), len(action)
        order = np.argsort(actions, kind="stable")
        ends = np.concatenate([shared(obs)[order], shared(next_obs)[order]])
        parts = np.searchsorted(actions[order], np.arange(net.A + 1)).tolist()  # rows of action a: parts[a] and on
        z, kept = net.encoder.body.saving(net.encoder.columns(ends))
        hidden, kept_phi = net.before.saving(z[:, :N])
        u = self._of_actions(hidden, parts)
        v, kept_psi = net.psi.saving(z[:, N:])
        w = np.full(N, 1.0 / N, dtype=u.dtype)
        if weight is not None:
            given = shared(weight)[order].astype(u.dtype)
            w = given / given.sum()
        loss, du, dv = contrast_gradient(u, v, w, self.beta)
        dz = np.empty_like(z)
        dz[:, :N] = net.before.backward(self._back(du, hidden, parts), kept_phi, inner=True)
        dz[:, N:] = net.psi.backward(dv, kept_psi, inner=True)
        net.encoder.body.backward(dz, kept, inner=False)
        return torch.tensor(loss), self.gradient

    def _of_actions(self, hidden: Array, parts: list[int]) -> Array:
        """u_phi (d, N) of the rows' actions, from the head's hidden layer."""
        last, d = self.net.last, self.net.d
        u = np.empty((d, hidden.shape[1]), dtype=hidden.dtype)
        for a, (start, stop) in enumerate(pairwise(parts)):
            here = slice(a * d, (a + 1) * d)
            u[:, start:stop] = last.w[here] @ hidden[:, start:stop] + last.b[here]
        return u

    def _back(self, du: Array, hidden: Array, parts: list[int]) -> Array:
        """The gradient of `_of_actions` by its hidden layer; writes that of the weights."""
        last, d = self.net.last, self.net.d
        dh = np.empty_like(hidden)
        for a, (start, stop) in enumerate(pairwise(parts)):
            here, some = slice(a * d, (a + 1) * d), du[:, start:stop]
            last.dw[here] = some @ hidden[:, start:stop].T
            last.db[here] = some.sum(1)
            dh[:, start:stop] = last.w[here].T @ some
        return dh


def contrast_gradient(u: Array, v: Array, w: Array, beta: float) -> tuple[float, Array, Array]:
    """The loss, and its gradients by u and v: columns (d, N); weights w (N,) with sum 1."""
    phi, psi = softplus(u, beta), softplus(v, beta)
    f = phi.T @ psi  # (N, N)
    small = f < LEAST
    np.maximum(f, LEAST, out=f)
    odds = f + 1.0
    law = np.repeat(w[None], len(w), axis=0)
    law.reshape(-1)[:: len(w) + 1] = 0.0
    law *= (w / np.add.reduce(law, axis=1))[:, None]  # w_i v_ij
    own = f.diagonal()
    loss = float(w @ np.log1p(1.0 / own) + np.vdot(law, np.log(odds)))
    df = law / odds
    df.reshape(-1)[:: len(w) + 1] = -w / (own * (1.0 + own))
    df[small] = 0.0
    du, dv = psi @ df.T, phi @ df
    du *= -np.expm1(-beta * phi)
    dv *= -np.expm1(-beta * psi)
    return loss, du, dv


def softplus(u: Array, beta: float) -> Array:
    """log(1 + exp(beta u)) / beta without overflow."""
    x = beta * u
    out = np.log1p(np.exp(-np.abs(x)))
    out += np.maximum(x, 0.0)
    out /= beta
    return out


def native_features(encoder: Encoder, heads: Representation, backend: Backend, option: str) -> NativeFeatures | None:
    """The features of a copy in numpy, or None where torch is to compute them. option: that of the backend."""
    known_here = _known(encoder, heads) and heads.config.features in ("logits", "psi")
    return NativeFeatures(encoder, heads) if chosen(backend, known_here, "these features", option) else None


def native_contrast(
    encoder: Encoder, heads: Representation, flat: FlatParameters, backend: Backend, option: str
) -> NativeContrast | None:
    """The gradient of the copy that learns in numpy, or None; options unknown here must have their defaults."""
    given = heads.config
    free = ("dim", "hidden", "beta", "features", "law_rate", "every", "weighted", "frames", "ahead")
    usual = dataclasses.replace(RepresentationConfig(), **{name: getattr(given, name) for name in free})
    known_here = _known(encoder, heads) and given == usual and given.features != "simplex"  # psi is averaged for that
    if not chosen(backend, known_here, "this loss of features", option):
        return None
    return NativeContrast(encoder, heads, flat)


def _known(encoder: Encoder, heads: Representation) -> bool:
    here = encoder.inputs.centre.device.type == "cpu"
    return here and knows(encoder) and known(heads.phi_head) and known(heads.psi_head)
