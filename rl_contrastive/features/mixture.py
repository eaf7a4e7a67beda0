"""Contrastive features on the simplex for vector observations: both factors saturate, so that P-hat is a distribution.

    phi_h(o,a) = softmax(Phi_{h,a}'z(o)),   sigma_h(o') = softmax(Psi_h'z~(o')),   psi_h = sigma_h / E_{P^-} sigma_h
    f = psi'phi,   P-hat_h(o'|o,a) = P^-_h(o') psi_h(o')'phi_h(o,a),   sum over o' = 1 for every (o,a)

z and z~ are the forward and backward directions of the spectral contrastive fit (`spectral_linear.py`). Over all stored
successors as negatives the normaliser of InfoNCE, E_{o'~P^-} f(o,a,o'), is 1 for this class: its loss is -E log f, and
EM descends it: which factor k a transition came through is r_k ~ phi_k psi_k, phi is a softmax regression of r on (o,a)
and sigma a discriminant of r in the space of o'. A linear phi has noise at every action of every step, and a backward
pass takes the largest error each time. Here the error at a known state falls with its number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

import numpy as np

from rl_contrastive.config import Ge, Gt, Options, require
from rl_contrastive.features.latents import propose
from rl_contrastive.features.maps import coordinates
from rl_contrastive.features.spectral_linear import LinearSpectralConfig, first_columns, fit_linear
from rl_contrastive.spec import Array, BoolArray, FloatArray, IntArray, State, StepData

FIRST, LATER = 6, 1
"""Newton steps of phi in the first EM iteration, and in each later one."""
DAMPING = 0.7
HARD = 0.96
"""Share of the nearest cluster in the first guess of r."""


@dataclass(frozen=True)
class MixtureConfig(Options, where="mixture"):
    """The fit of simplex features."""

    directions: Annotated[int, Ge(1)] = 2
    """q, forward directions of o that phi may depend on."""
    iterations: Annotated[int, Ge(1)] = 10
    """EM iterations of a fit."""
    ridge: Annotated[float, Ge(1e-09)] = 1.0
    """Ridge of phi's softmax regression towards the factors' shares, in rows."""
    width: Annotated[float, Gt(0)] = 1e-3
    """Ridge of sigma's covariance within a factor, as a share of the mean variance of o'."""
    whitening: Literal["auto", "given", "full"] = "auto"
    """given: that of `learner.linear`; full: all directions down to the noise floor, right where distractors vary more
    than the coordinates that predict; auto: the one that predicts held-out rows better, chosen again as the rows
    grow."""
    most: Annotated[int, Ge(2)] = 4
    """Largest d that is tried where d is chosen from held-out rows."""
    folds: Annotated[int, Ge(2)] = 4
    """Parts of the rows that are held out in turn to choose d and the whitening."""
    # If the ridge is lost to rounding, the Newton steps of an action without rows are singular.


@dataclass(frozen=True)
class MixtureFeatures:
    """mean (H, D), forward (H, D, q), Phi (H, A, q+1, d); next_mean (H, D), backward (H, D, m), Psi (H, m+1, d),
    share (H, d) = E_{P^-} sigma. A factor that a step does not use has share 0 and phi = psi = 0 there."""

    mean: FloatArray
    forward: FloatArray
    Phi: FloatArray
    next_mean: FloatArray
    backward: FloatArray
    Psi: FloatArray
    share: FloatArray
    version: int = 0

    @property
    def dim(self) -> int:
        return int(self.share.shape[-1])

    @property
    def ranks(self) -> IntArray:
        """(H,) factors in use at each step."""
        return np.asarray((self.share > 0).sum(axis=1), dtype=np.int64)

    def phi(self, h: int, obs: Array) -> FloatArray:
        """(N, A, d), rows on the simplex."""
        z = coordinates(obs, self.mean[h], self.forward[h])  # (N, q+1)
        return np.asarray(softmax(np.swapaxes(z @ self.Phi[h], 0, 1), self.share[h] > 0))

    def psi(self, h: int, next_obs: Array) -> FloatArray:
        """(N, d), of mean 1 under P^-."""
        used = self.share[h] > 0
        z = coordinates(next_obs, self.next_mean[h], self.backward[h])  # (N, m+1)
        return np.asarray(softmax(z @ self.Psi[h], used) / np.where(used, self.share[h], 1.0))

    def state_dict(self) -> State:
        return {"kind": "mixture", **{field.name: getattr(self, field.name) for field in fields(self)}}

    @classmethod
    def from_state(cls, state: State) -> MixtureFeatures:
        """Inverse of `state_dict`; RlcError on missing keys."""
        for field in fields(cls):
            require(field.name in state, f"features: the saved state lacks '{field.name}'.")
        names = [field.name for field in fields(cls) if field.name != "version"]
        arrays = {name: np.asarray(state[name], dtype=np.float64) for name in names}
        return cls(**arrays, version=int(state["version"]))


def softmax(u: FloatArray, used: BoolArray) -> FloatArray:
    """exp(u) normalised over the last axis, 0 at the entries that are not used."""
    u = np.where(used, u, -np.inf)
    e = np.exp(u - u.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def one_factor(H: int, D: int, A: int, d: int, config: MixtureConfig, version: int = 0) -> MixtureFeatures:
    """phi = psi = e_1 at every step: the ratio is 1 and P-hat = P^-."""
    share = np.zeros((H, d))
    share[:, 0] = 1.0
    q, m = config.directions, d - 1
    return MixtureFeatures(
        np.zeros((H, D)), np.zeros((H, D, q)), np.zeros((H, A, q + 1, d)),
        np.zeros((H, D)), np.zeros((H, D, m)), np.zeros((H, m + 1, d)), share, version,
    )  # fmt: skip


def fit_mixture(
    data: StepData,
    num_actions: int,
    rank: int,
    config: MixtureConfig,
    linear: LinearSpectralConfig,
    *,
    dim: int | None = None,
    version: int = 0,
) -> MixtureFeatures:
    """EM from the clusters of the successors along the leading backward directions; `rank` factors of `dim` slots.

    Every step of `data` needs a row. The result is a deterministic function of the data.
    """
    require(rank >= 2, f"mixture: rank must be >= 2, got {rank}; one factor is `one_factor`.")
    H, N = data.action.shape
    real = np.arange(N) < data.count[:, None]
    spectral = fit_linear(data, num_actions, 2, linear)
    x, y = (np.asarray(o.reshape(H, N, -1), dtype=np.float64) for o in (data.obs, data.next_obs))
    forward = _unit(first_columns(spectral.forward, config.directions), x, spectral.here.mean, real)
    backward = _unit(first_columns(spectral.backward, rank - 1), y, spectral.there.mean, real)
    z = _coordinates(x, spectral.here.mean, forward, real)  # (H, N, q+1)
    z_next = _coordinates(y, spectral.there.mean, backward, real)  # (H, N, m+1)
    _, labels = propose(z_next[..., :-1], real, rank)
    r = HARD * np.eye(rank)[labels] + (1.0 - HARD) / rank  # (H, N, d)
    regression = _SoftmaxRegression(z, data.action, real, num_actions, config.ridge)
    n = data.count[:, None].astype(np.float64)
    for iteration in range(config.iterations):
        Psi, size = _discriminant(z_next, r * real[..., None], n, config.width)
        regression.newton(r, np.log(size / n), FIRST if iteration == 0 else LATER)
        sigma = softmax(z_next @ Psi, np.ones(rank, dtype=np.bool_))
        share = (sigma * real[..., None]).sum(axis=1) / n  # (H, d) E_{P^-} sigma
        r = regression.probabilities() * sigma / share[:, None]
        r /= r.sum(axis=-1, keepdims=True)
    width = dim or rank
    slots = one_factor(H, x.shape[2], num_actions, width, config, version)
    slots.share[:, :rank] = share
    slots.Phi[..., :rank] = regression.Phi
    slots.backward[..., : rank - 1] = backward
    slots.Psi[:, : rank - 1, :rank] = Psi[:, :-1]
    slots.Psi[:, -1, :rank] = Psi[:, -1]
    slots.mean[...], slots.forward[...], slots.next_mean[...] = spectral.here.mean, forward, spectral.there.mean
    return slots


class _SoftmaxRegression:
    """phi(o,a) = softmax(Phi_a'z) fitted to soft labels r by Newton steps, one class at a time, all steps h at once."""

    def __init__(self, z: FloatArray, action: IntArray, real: BoolArray, num_actions: int, ridge: float) -> None:
        H, N, k = z.shape
        self.z, self.action, self.ridge = z, action, ridge
        self.chosen = ((action[:, None] == np.arange(num_actions)[:, None]) & real[:, None]).astype(np.float64)  # HAN
        self.squares = (z[..., :, None] * z[..., None, :]).reshape(H, N, k * k)
        self.Phi: FloatArray = np.zeros((H, num_actions, k, 0))

    def probabilities(self) -> FloatArray:
        """phi of the stored pairs (H, N, d)."""
        H = len(self.z)
        own = self.Phi[np.arange(H)[:, None], self.action]  # (H, N, k, d)
        u = np.einsum("hnk,hnkd->hnd", self.z, own)
        return softmax(u, np.ones(u.shape[-1], dtype=np.bool_))

    def newton(self, r: FloatArray, log_share: FloatArray, steps: int) -> None:
        """Maximise sum r log phi - ridge/2 |Phi - Phi_0|^2, where Phi_0 are the constant log shares (H, d). For an
        action without rows phi is therefore the mix of all factors."""
        H, A = self.chosen.shape[:2]
        k, d = self.z.shape[2], r.shape[2]
        prior = np.zeros((H, A, k, d))
        prior[:, :, -1] = log_share[:, None]
        if not self.Phi.shape[3]:
            self.Phi = prior.copy()
        eye = self.ridge * np.eye(k)
        for _ in range(steps):
            phi = self.probabilities()
            for c in range(d):
                slope = self.chosen @ ((r - phi)[..., c, None] * self.z)  # (H, A, k)
                slope -= self.ridge * (self.Phi - prior)[..., c]
                weight = np.maximum(phi[..., c] * (1.0 - phi[..., c]), 1e-6)
                curvature = (self.chosen @ (weight[..., None] * self.squares)).reshape(H, A, k, k) + eye
                self.Phi[..., c] += DAMPING * np.linalg.solve(curvature, slope[..., None])[..., 0]


def _discriminant(z: FloatArray, r: FloatArray, n: FloatArray, width: float) -> tuple[FloatArray, FloatArray]:
    """Psi (H, m+1, d) of sigma = P(k|o') for Gaussians of a common covariance, and the factors' sizes (H, d).

    z (H, N, m+1) with a last column of ones, r (H, N, d) responsibilities, 0 at padding.
    """
    Y, m = z[..., :-1], z.shape[2] - 1
    size = r.sum(axis=1) + 1e-9
    centre = np.swapaxes(r, 1, 2) @ Y / size[..., None]  # (H, d, m)
    second = np.swapaxes(Y, 1, 2) @ Y  # padding is 0
    within = second - np.einsum("hd,hdi,hdj->hij", size, centre, centre)
    ridge = width * np.trace(second, axis1=1, axis2=2) / m + 1e-9
    within = (within + ridge[:, None, None] * np.eye(m)) / n[..., None]
    slope = np.linalg.solve(within, np.swapaxes(centre, 1, 2))  # (H, m, d)
    constant = np.log(size / n) - 0.5 * np.einsum("hdm,hmd->hd", centre, slope)
    return np.concatenate([slope, constant[:, None]], axis=1), size


def log_ratio(features: MixtureFeatures, data: StepData) -> FloatArray:
    """log f (H, N) of stored transitions, at least log 1e-3: minus the held-out InfoNCE loss."""
    rows = np.arange(data.action.shape[1])
    out = np.empty(data.action.shape)
    for h in range(len(out)):
        phi = features.phi(h, data.obs[h])[rows, data.action[h]]
        out[h] = np.log(np.maximum((phi * features.psi(h, data.next_obs[h])).sum(axis=1), 1e-3))
    return out


def held_out_score(
    data: StepData, num_actions: int, rank: int, config: MixtureConfig, linear: LinearSpectralConfig
) -> FloatArray:
    """(H, N) log f of each row by a fit that has not seen it; 0 at padding. rank 1 is 0 everywhere."""
    N = data.action.shape[1]
    real, fold = np.arange(N) < data.count[:, None], fold_of(N, config.folds)
    score = np.zeros(data.action.shape)
    for j in range(config.folds):
        held = real & (fold == j)
        fitted = fit_mixture(kept_rows(data, real & (fold != j)), num_actions, rank, config, linear)
        score += np.where(held, log_ratio(fitted, data), 0.0)
    return score


def fold_of(N: int, folds: int) -> IntArray:
    """(N,) the part that row n belongs to: a hash of its number, so that the order of the rows does not matter."""
    hashed = (np.arange(N, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return np.asarray(hashed % np.uint64(folds), dtype=np.int64)


def kept_rows(data: StepData, keep: BoolArray) -> StepData:
    """The rows marked in keep (H, N), moved to the front; what follows is zero padding."""
    count = keep.sum(axis=1)
    order = np.argsort(~keep, axis=1, kind="stable")[:, : max(int(count.max()), 1)]  # (H, M)
    level, real = np.arange(len(keep))[:, None], np.arange(order.shape[1]) < count[:, None]

    def taken(x: Array) -> Array:
        rows = x[level, order]
        return np.where(real.reshape(*real.shape, *[1] * (x.ndim - 2)), rows, np.zeros((), dtype=x.dtype))

    return StepData(
        taken(data.obs), taken(data.action), taken(data.reward), taken(data.next_obs), taken(data.discount),
        count.astype(np.int64),
    )  # fmt: skip


def _unit(directions: FloatArray, x: FloatArray, mean: FloatArray, real: BoolArray) -> FloatArray:
    """Directions scaled so that the stored rows have variance 1 along each; without variance a direction becomes 0."""
    u = ((x - mean[:, None]) @ directions) * real[..., None]
    deviation = np.sqrt(np.square(u).sum(axis=1) / np.maximum(real.sum(axis=1), 1)[:, None])  # (H, q)
    return np.asarray(directions * np.where(deviation > 1e-9, 1.0 / np.maximum(deviation, 1e-9), 0.0)[:, None])


def _coordinates(x: FloatArray, mean: FloatArray, directions: FloatArray, real: BoolArray) -> FloatArray:
    """(H, N, q+1): directions'(x - mean) and a column of ones; 0 at padding."""
    u = (x - mean[:, None]) @ directions
    return np.concatenate([u, np.ones((*u.shape[:2], 1))], axis=2) * real[..., None]
