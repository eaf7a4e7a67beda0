"""The gradient stage on stored rows of vector observations: factors over whitened coordinates, minibatches of rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from rl_contrastive.features.anchors import anchor_coordinates, find_anchors
from rl_contrastive.features.batches import Batch, SampledRows, Sampler, held_out_rows, split_rows
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.maps import LinearFeatures, constant_features
from rl_contrastive.features.networks import Factors, Named, RowFactors, mlp_weights
from rl_contrastive.features.neural_maps import NeuralFeatures
from rl_contrastive.features.spectral_linear import LinearSpectralFit, fit_linear, whiten
from rl_contrastive.objectives.laws import row_law
from rl_contrastive.spec import BoolArray, FloatArray, IntArray, StepData

BETA = 10.0
"""Sharpness of the softplus: linear features of unit size pass it nearly unchanged, so a lifted start stays close."""
JUDGES, JUDGE_NEGATIVES = 1024, 256
"""Rows of a step used for stopping or judging, and negatives for them."""

RowFeatures = LinearFeatures | NeuralFeatures


class RowProblem:
    """Stored rows (H, N, ...) as a `refine.Problem`; every step has at least one row."""

    def __init__(
        self,
        data: StepData,
        num_actions: int,
        config: LearnerConfig,
        *,
        spectral: LinearSpectralFit | None,
        start: RowFeatures | None,
        rng: np.random.Generator,
        version: int,
    ) -> None:
        H, N = data.action.shape
        assert config.dim is not None  # the learner has resolved it
        self.exact, self._dim = False, config.dim
        self._config, self._version, self._num_actions = config, version, num_actions
        self._data = replace(data, obs=data.obs.reshape(H, N, -1), next_obs=data.next_obs.reshape(H, N, -1))
        self._mask = (np.arange(N) < data.count[:, None]).astype(np.float64)
        self._law = successor_law(self._data, config)
        half = config.held_out / 2
        stop, judge, self._train = split_rows(data.count, N, (half, half), rng=rng)
        self.stop: Batch = held_out_rows(*stop, self._law, JUDGES, JUDGE_NEGATIVES, rng=rng)
        self.judge: Batch = held_out_rows(*judge, self._law, JUDGES, JUDGE_NEGATIVES, rng=rng)
        self.spectral_all: RowFeatures | None = None
        self.spectral_train: LinearFeatures | None = None
        self._mlps = self._fresh_mlps(warm=spectral is not None, rng=rng)
        if spectral is not None:
            self.spectral_all = self._with_mlps(spectral.features)
            part = _rows_of(self._data, *self._train)
            self.spectral_train = fit_linear(part, num_actions, self._dim, config.linear, version=version).features
        # An earlier fit has seen the data held out now, so a descent that is judged starts cold.
        given = start if config.held_out == 0 else None
        self._first = self._random_start(given, rng) if spectral is None else None

    def start(self, *, train: bool) -> RowFeatures:
        """Signed or random factors in the coordinates of their fit, ready for the softplus."""
        if self._first is not None:
            return self._first
        if train:
            assert self.spectral_train is not None
            return self._with_mlps(self._lifted(self.spectral_train, *self._train))
        full = self.spectral_all.linear if isinstance(self.spectral_all, NeuralFeatures) else self.spectral_all
        assert full is not None
        rows = np.broadcast_to(np.arange(self._mask.shape[1]), self._mask.shape)
        return self._with_mlps(self._lifted(full, rows, self._data.count))

    def factors(self, start: RowFeatures, *, dtype: torch.dtype, device: str) -> Factors:
        """Trainable copies over the coordinates of all stored rows."""
        f = _linear(start)
        here = _coordinates(self._data.obs, f.mean, f.whitening)
        there = _coordinates(self._data.next_obs, f.next_mean, f.next_whitening)
        weights: Named = {"Phi": f.Phi, "Psi": f.Psi}
        if isinstance(start, NeuralFeatures):
            weights |= start.weights
        return RowFactors(here, self._data.action, there, weights, beta=BETA, dtype=dtype, device=device)

    def sampler(self, *, train: bool) -> Sampler:
        """Minibatches of the training rows or of all."""
        rows = np.broadcast_to(np.arange(self._mask.shape[1]), self._mask.shape)
        index, count = self._train if train else (rows, self._data.count)
        return SampledRows(index, count, self._law, self._config.batch_size, self._config.negatives)

    def finish(self, start: RowFeatures, weights: Named) -> RowFeatures:
        """The descended factors as a feature map, its scale E_{P^-} psi over all stored successors."""
        f = _linear(start)
        H, _, d = f.Psi.shape
        linear = replace(f, Phi=weights["Phi"], Psi=weights["Psi"], sharpness=np.full(H, BETA), scale=np.ones((H, d)))
        mlps = {name: value for name, value in weights.items() if name not in ("Phi", "Psi")}
        raw = NeuralFeatures(linear, mlps) if mlps else linear
        psi = np.stack([raw.psi(h, self._data.next_obs[h]) for h in range(H)])  # (H, N, d), scale 1
        linear = replace(linear, scale=np.einsum("hn,hnd->hd", self._law, psi))
        return NeuralFeatures(linear, mlps) if mlps else linear

    def gather(self, features: RowFeatures, batch: Batch) -> tuple[FloatArray, FloatArray, FloatArray]:
        """phi of the anchors, psi of their successors, psi of the negatives."""
        assert batch.anchors is not None  # held-out batches list all three
        assert batch.positives is not None
        assert batch.negatives is not None
        phi, pos, neg = [], [], []
        for h in range(len(batch.anchors)):
            rows = batch.anchors[h]
            all_actions = features.phi(h, self._data.obs[h, rows])
            phi.append(all_actions[np.arange(len(rows)), self._data.action[h, rows]])
            pos.append(features.psi(h, self._data.next_obs[h, batch.positives[h]]))
            neg.append(features.psi(h, self._data.next_obs[h, batch.negatives[h]]))
        return np.stack(phi), np.stack(pos), np.stack(neg)

    def merge(self, accepted: BoolArray, refined: RowFeatures, spectral: RowFeatures | None) -> RowFeatures:
        """Refined arrays at the accepted steps, spectral ones (signed, MLP heads 0) at the others."""
        if spectral is None:
            return refined
        a, b = _linear(refined), _linear(spectral)
        names = ("mean", "whitening", "Phi", "next_mean", "next_whitening", "Psi", "sharpness", "scale")
        linear = LinearFeatures(
            **{name: _choose(accepted, getattr(a, name), getattr(b, name)) for name in names}, version=self._version
        )
        if isinstance(refined, NeuralFeatures) and isinstance(spectral, NeuralFeatures):
            mlps = {n: _choose(accepted, value, spectral.weights[n]) for n, value in refined.weights.items()}
            return NeuralFeatures(linear, mlps)
        return linear

    def _lifted(self, signed: LinearFeatures, rows: IntArray, count: IntArray) -> LinearFeatures:
        """phi A^+ and psi A' for anchors A among the phi of the listed rows, in coordinates of leading variance 1."""
        phi = np.empty((*rows.shape, signed.dim))
        for h in range(len(rows)):
            action = self._data.action[h, rows[h]]
            phi[h] = signed.phi(h, self._data.obs[h, rows[h]])[np.arange(len(action)), action]
        weight = (np.arange(rows.shape[1]) < count[:, None]).astype(np.float64)
        into, back = anchor_coordinates(find_anchors(phi, weight))
        return self._rescaled(replace(signed, Phi=signed.Phi @ into[:, None], Psi=signed.Psi @ back))

    def _rescaled(self, f: LinearFeatures) -> LinearFeatures:
        """The same map with T sqrt(1 + rho). Soft whitening leaves the first coordinate at variance 1/(1 + rho), where
        steps of a given size have almost no effect. Without rho the variance is already near 1."""
        c = float(np.sqrt(1.0 + (self._config.linear.rho or 0.0)))
        Phi, Psi = f.Phi.copy(), f.Psi.copy()
        Phi[:, :, :-1] /= c
        Psi[:, :-1] /= c
        return replace(f, whitening=f.whitening * c, next_whitening=f.next_whitening * c, Phi=Phi, Psi=Psi)

    def _random_start(self, given: RowFeatures | None, rng: np.random.Generator) -> RowFeatures:
        """Random factors around ratio 1, or those of `given` where it has non-negative features of the same form."""
        data, config = self._data, self._config
        H, _, D = data.obs.shape
        here, _ = whiten(data.obs, data.count, config.linear)
        there, _ = whiten(data.next_obs, data.count, config.linear)
        k, d = here.matrix.shape[2], self._dim
        empty = constant_features(H, D, k, self._num_actions, d, self._version)
        Phi = 0.3 * rng.standard_normal(empty.Phi.shape)
        Psi = 0.3 * rng.standard_normal(empty.Psi.shape)
        Phi[:, :, -1] += 1.0 / d
        Psi[:, -1] += 1.0
        fresh = self._rescaled(
            replace(
                empty,
                mean=here.mean,
                whitening=here.matrix,
                next_mean=there.mean,
                next_whitening=there.matrix,
                Phi=Phi,
                Psi=Psi,
            )
        )
        start = self._with_mlps(fresh)
        same = given is not None and type(given) is type(start) and _linear(given).Phi.shape == Phi.shape
        if given is None or not same:
            return start
        return self.merge(_linear(given).sharpness > 0, given, start)

    def _fresh_mlps(self, *, warm: bool, rng: np.random.Generator) -> Named:
        if self._config.model != "neural":
            return {}
        H, _, D = self._data.obs.shape
        k, d, hidden = min(self._config.linear.pca_dim, D), self._dim, self._config.hidden
        phi = mlp_weights("phi", k, self._num_actions * d, hidden, H, rng=rng, warm=warm)
        return phi | mlp_weights("psi", k, d, hidden, H, rng=rng, warm=warm)

    def _with_mlps(self, f: LinearFeatures) -> RowFeatures:
        return NeuralFeatures(f, self._mlps) if self._mlps else f


def successor_law(data: StepData, config: LearnerConfig) -> FloatArray:
    """P^- (H, N) over the stored successors, 0 at padding; its density is of their whitened coordinates."""
    H, N = data.action.shape
    if config.law == "marginal":
        return row_law(np.zeros((H, N, 0)), data.count)
    some = data.count > 0  # a step without rows has nothing to whiten
    rows = np.zeros((H, N, min(config.linear.pca_dim, int(np.prod(data.next_obs.shape[2:], dtype=np.int64)))))
    if some.any():
        rows[some] = whiten(data.next_obs.reshape(H, N, -1)[some], data.count[some], config.linear)[1]
    return row_law(rows, data.count, config.law)


def _linear(features: RowFeatures) -> LinearFeatures:
    return features.linear if isinstance(features, NeuralFeatures) else features


def _choose(accepted: BoolArray, yes: FloatArray, no: FloatArray) -> FloatArray:
    return np.where(accepted.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)


def _coordinates(x: FloatArray, mean: FloatArray, whitening: FloatArray) -> FloatArray:
    """(H, N, k+1): T'(x - mu) and a column of ones."""
    z = (np.asarray(x, dtype=np.float64) - mean[:, None]) @ whitening
    return np.concatenate([z, np.ones((*z.shape[:2], 1))], axis=2)


def _rows_of(data: StepData, rows: IntArray, count: IntArray) -> StepData:
    """The first count[h] of the listed rows of each step; padding is zeroed."""
    level = np.arange(len(rows))[:, None]
    real = np.arange(rows.shape[1]) < count[:, None]
    obs = np.where(real[..., None], data.obs[level, rows], 0.0)
    next_obs = np.where(real[..., None], data.next_obs[level, rows], 0.0)
    others = (np.where(real, x[level, rows], 0) for x in (data.action, data.reward, data.discount))
    action, reward, discount = others
    return StepData(obs, action, reward, next_obs, discount, count)
