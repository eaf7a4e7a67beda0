"""The gradient stage on tables: exact expectations where the table is small, minibatches of transitions otherwise."""

from __future__ import annotations

import numpy as np
import torch

from rl_contrastive.features.anchors import anchor_coordinates, find_anchors, inverse_softplus
from rl_contrastive.features.batches import Batch, ExactTable, SampledTable, Sampler, held_out_table
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.maps import TabularFeatures, nonnegative_phi, softplus
from rl_contrastive.features.networks import Factors, Named, TableFactors
from rl_contrastive.features.spectral import SpectralFit, fit_tabular
from rl_contrastive.spec import BoolArray, FloatArray

BETA = 1.0
"""Sharpness of the softplus of table entries; these are free, so it only sets the scale of Adam's steps."""
FLOOR = 0.02
"""A lifted factor starts at least here: at 0 its softplus would have no gradient."""
JUDGE_ENTRIES = 1 << 22
"""Largest number of scores, over all steps, in one evaluation of held-out transitions."""
JUDGE_NEGATIVES = 512
"""Samples of P^- for judging where S is larger than this; otherwise P^- is summed exactly."""


class TableProblem:
    """Counts (H, S, A, S) as a `refine.Problem`."""

    def __init__(
        self,
        counts: TransitionCounts,
        law: FloatArray,
        config: LearnerConfig,
        *,
        spectral: SpectralFit | None,
        start: TabularFeatures | None,
        rng: np.random.Generator,
        version: int,
    ) -> None:
        self._counts, self._law, self._config, self._version = counts, law, config, version
        assert config.dim is not None  # the learner has resolved it
        H, S, A, d = counts.horizon, counts.num_states, counts.num_actions, config.dim
        self.exact = config.exact_entries >= H * S * A * S
        self._train, rest = counts.split(config.held_out, rng=rng)
        stop, judge = rest.split(0.5, rng=rng)
        draws = None if counts.num_states <= JUDGE_NEGATIVES else JUDGE_NEGATIVES
        limit = max(256, JUDGE_ENTRIES // (counts.horizon * (draws or counts.num_states)))
        self.stop: Batch = held_out_table(stop, law, limit, draws, rng=rng)
        self.judge: Batch = held_out_table(judge, law, limit, draws, rng=rng)
        self.spectral_all: TabularFeatures | None = None
        self.spectral_train: TabularFeatures | None = None
        if spectral is not None:
            self.spectral_all = spectral.features
            guess = spectral.features
            self.spectral_train = fit_tabular(self._train, config.dim, law=law, start=guess, version=version).features
        # An earlier fit has seen the data held out now, so a descent that is judged starts cold.
        goes_on = spectral is None and config.held_out == 0 and start is not None and start.dim == d
        self._given = start if goes_on else None
        self._random = {"phi": rng.standard_normal((H, S * A, d)), "psi": rng.standard_normal((H, S, d))}

    def start(self, *, train: bool) -> Named:
        """u_phi, u_psi of the spectral solution (of the training part or of all data), or given, or random."""
        features = self.spectral_train if train else self.spectral_all
        features = self._given if features is None else features
        if features is None:
            return self._random
        counts = self._train if train else self._counts
        H, S, A, d = features.phi_table.shape
        phi, psi = features.phi_table.reshape(H, S * A, d), features.psi_table
        if not ((phi >= 0).all() and (psi >= 0).all()):
            into, back = anchor_coordinates(find_anchors(phi, counts.pair_total().reshape(H, S * A)))
            phi, psi = phi @ into, psi @ back
        return {"phi": inverse_softplus(phi, BETA, FLOOR), "psi": inverse_softplus(psi, BETA, FLOOR)}

    def factors(self, start: Named, *, dtype: torch.dtype, device: str) -> Factors:
        """Trainable copies."""
        return TableFactors(start["phi"], start["psi"], beta=BETA, dtype=dtype, device=device)

    def sampler(self, *, train: bool) -> Sampler:
        """Exact where H S A S <= exact_entries."""
        counts = self._train if train else self._counts
        if self.exact:
            return ExactTable(counts, self._law)
        return SampledTable(counts, self._law, self._config.batch_size, self._config.negatives)

    def finish(self, start: Named, weights: Named) -> TabularFeatures:
        """Fold the normaliser in: E_{P^-} psi_k = 1 and phi on the simplex, so that P-hat sums to 1."""
        raw = softplus(weights["psi"], BETA)  # (H, S, d)
        scale = np.einsum("hs,hsd->hd", self._law, raw)
        phi = nonnegative_phi(weights["phi"], BETA, scale[:, None])
        H, S, A = self._counts.horizon, self._counts.num_states, self._counts.num_actions
        return TabularFeatures(phi.reshape(H, S, A, -1), raw / scale[:, None], self._law, self._version)

    def gather(self, features: TabularFeatures, batch: Batch) -> tuple[FloatArray, FloatArray, FloatArray]:
        """phi of the anchors, psi of their successors, psi of the negatives."""
        H, S, A, d = features.phi_table.shape
        assert batch.anchors is not None  # held-out batches list theirs
        assert batch.positives is not None
        phi = np.take_along_axis(features.phi_table.reshape(H, S * A, d), batch.anchors[..., None], axis=1)
        pos = np.take_along_axis(features.psi_table, batch.positives[..., None], axis=1)
        if batch.negatives is None:
            return phi, pos, features.psi_table
        return phi, pos, np.take_along_axis(features.psi_table, batch.negatives[..., None], axis=1)

    def merge(self, accepted: BoolArray, refined: TabularFeatures, spectral: TabularFeatures | None) -> TabularFeatures:
        """Refined factors at the accepted steps, spectral ones at the others."""
        if spectral is None:
            return refined
        phi = np.where(accepted[:, None, None, None], refined.phi_table, spectral.phi_table)
        psi = np.where(accepted[:, None, None], refined.psi_table, spectral.psi_table)
        return TabularFeatures(phi, psi, self._law, self._version)
