"""The terms of the contrastive losses, each once: for energies against noise here, for features in `objectives/`.

A score l is a log density ratio; the classifier's log-odds that a point is data are l - log nu, nu noise points to a
datum. MECO's moving average is `compositional.average_log`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


def data_term(score: Tensor, log_nu: float = 0.0) -> Tensor:
    """-log P(data) = softplus(log nu - l), finite for scores of any size where log(sigmoid) is not."""
    return softplus(log_nu - score)


def noise_term(score: Tensor, log_nu: float = 0.0) -> Tensor:
    """-log P(noise) = softplus(l - log nu)."""
    return softplus(score - log_nu)


def among(score: Tensor, log_rest: Tensor) -> Tensor:
    """-log (e^l / (e^l + rest)): cross-entropy of the datum among itself and the rest."""
    return torch.logaddexp(score, log_rest) - score
