"""Contrastive features phi, psi from logged transitions (s, a, s'), and the model of the world that they make.

python examples/features_from_transitions.py
"""

import numpy as np

from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.diagnostics import model_error
from rl_contrastive.features.spectral import fit_tabular

S, A, n = 50, 4, 20_000
rng = np.random.default_rng(0)
phi, psi = rng.dirichlet(np.ones(3), size=(S, A)), rng.dirichlet(np.ones(S), size=3).T  # a kernel of rank 3
P = phi @ psi.T  # (S, A, S)

# The log: n transitions. Yours go here instead; `level` is the step of the episode, 0 where the kernel is the same.
s, a = rng.integers(S, size=n), rng.integers(A, size=n)
s_next = (rng.random((n, 1)) < P[s, a].cumsum(axis=1)).argmax(axis=1)

counts = TransitionCounts.empty(1, S, A).plus(0, s, a, s_next)
fit = fit_tabular(counts, None)  # None: the number of features d is chosen from the data
print("d =", fit.features.dim)  # phi_table (1, S, A, d), psi_table (1, S, d)
print("singular values:", fit.singular_values[0].round(3))

error = model_error(fit.features.model(), P[None])
frequencies = counts.matrix(0).toarray().reshape(S, A, S) / np.maximum(counts.pair_total()[0], 1.0)[..., None]
print(f"TV to the true kernel: {error.mean[0]:.3f}")
print(f"TV of raw frequencies: {0.5 * np.abs(frequencies - P).sum(axis=-1).mean():.3f}")
