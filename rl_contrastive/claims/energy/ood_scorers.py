"""Detectors: what scores an image as strange, from pixel distances to energies with features, each tuned equally.

Every detector is fitted to images of the known classes and maps points x (m, D) to scores (m,), higher for stranger.
Where two scores are joined each is first standardised on validation images, (s - mean)/sd: a product of the two
densities with exponents that give both the same spread on what is normal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rl_contrastive.claims.energy.image_data import ImageSet, Split, generator
from rl_contrastive.claims.energy.image_energies import EnergyConfig, train_energy
from rl_contrastive.claims.energy.image_features import EncoderConfig, class_energies, contrastive_encoder
from rl_contrastive.energy.gaussian_mixture import MixtureFitConfig, fit_mixture
from rl_contrastive.energy.kernel_density import KernelDensity
from rl_contrastive.energy.noise import Gaussian

Score = Callable[[Tensor], Tensor]
Options = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """What a detector may see."""

    images: ImageSet
    split: Split
    """Only its train, train_labels and validation parts are a detector's."""
    x: Tensor
    """(N, D) training points."""
    validation: Tensor
    """(V, D) points."""
    energy: EnergyConfig
    encoder: EncoderConfig
    seed: int
    device: str = "cpu"


@dataclass(frozen=True)
class Method:
    """A detector with the options that are tried for it."""

    kind: str
    """baseline | energy | attempt."""
    candidates: tuple[Options, ...]
    fit: Callable[[Problem, Options], Score]
    labels: bool = False
    """It is told the classes of the training images, which the others are not."""


def _gaussian(problem: Problem, options: Options) -> Score:
    law = Gaussian.fit(problem.x, ridge=options["ridge"])
    return lambda x: -law.log_prob(x)


def _mixture(problem: Problem, options: Options) -> Score:
    config = MixtureFitConfig(iterations=25, **options)
    law = fit_mixture(problem.x, config, rng=generator(problem.seed, "mixture")).law
    return lambda x: -law.log_prob(x)


def _nearest(problem: Problem, options: Options) -> Score:
    return nearest(problem.x, options["k"])


def nearest(points: Tensor, k: int) -> Score:
    """Mean distance to the k nearest of `points` (N, D)."""

    def score(x: Tensor) -> Tensor:
        pieces = [
            torch.cdist(part, points).topk(k, dim=1, largest=False).values.mean(1) for part in torch.split(x, 500)
        ]
        return torch.cat(pieces)

    return score


def _kernel(problem: Problem, options: Options) -> Score:
    law = KernelDensity(problem.x, options["bandwidth"])
    return lambda x: -law.log_prob(x)


def _energy(objective: str, law: str) -> Callable[[Problem, Options], Score]:
    def fit(problem: Problem, options: Options) -> Score:
        config = replace(problem.energy, **{"law": law, **options})
        energy = train_energy(
            problem.images, problem.x, objective, {}, config,
            seed=problem.seed, device=problem.device, validation=problem.validation,
        )  # fmt: skip
        return lambda x: -energy.score(x)

    return fit


def _features(problem: Problem, options: Options) -> Score:
    config = replace(problem.encoder, **options)
    encode = contrastive_encoder(problem.images, problem.split.train, config, seed=problem.seed)
    score = nearest(encode(problem.x), 1)
    return lambda x: score(encode(x))


def _classes(problem: Problem, options: Options) -> Score:
    config = replace(problem.encoder, **options)
    f = class_energies(problem.images, problem.split.train, problem.split.train_labels, config, seed=problem.seed)
    return lambda x: -torch.logsumexp(f(x), dim=1)


def _joined(
    first: Callable[[Problem], Score], second: Callable[[Problem, Options], Score]
) -> Callable[[Problem, Options], Score]:
    """The sum of the scores of `first` and of `second`, which has the candidates."""

    def fit(problem: Problem, options: Options) -> Score:
        return together([first(problem), second(problem, options)], problem.validation)

    return fit


def together(parts: list[Score], normal: Tensor) -> Score:
    """The sum of scores, each standardised on the points `normal` (V, D)."""
    scales = []
    for part in parts:
        values = part(normal).to(torch.float64)
        scales.append((values.mean(), values.std().clamp_min(1e-12)))  # a constant score says nothing

    def score(x: Tensor) -> Tensor:
        terms = [(part(x).to(torch.float64) - m) / sd for part, (m, sd) in zip(parts, scales, strict=True)]
        return torch.stack(terms).sum(0)

    return score


def _pixels(problem: Problem) -> Score:
    return nearest(problem.x, 1)


def _smooth(problem: Problem) -> Score:
    return _kernel(problem, {"bandwidth": 0.4})


MIXTURES: tuple[Options, ...] = (
    {"components": 10, "ridge": 0.02},
    {"components": 20, "ridge": 0.02},
    {"components": 20, "ridge": 0.1},
)
NETWORKS: tuple[Options, ...] = ({"network": "mlp"}, {"network": "mlp", "lr": 3e-3}, {"network": "conv"})
KERNELS: tuple[Options, ...] = ({"bandwidth": 0.2}, {"bandwidth": 0.4}, {"bandwidth": 0.6})
TEMPERATURES: tuple[Options, ...] = ({"temperature": 0.1}, {"temperature": 0.2}, {"temperature": 0.5})
RATES: tuple[Options, ...] = ({"lr": 1e-3}, {"lr": 3e-3}, {"lr": 3e-4})

METHODS: dict[str, Method] = {
    "Gaussian": Method("baseline", ({"ridge": 1e-3}, {"ridge": 1e-2}, {"ridge": 1e-1}), _gaussian),
    "GMM": Method("baseline", MIXTURES, _mixture),
    "k-NN": Method("baseline", ({"k": 1}, {"k": 3}, {"k": 5}), _nearest),
    "KDE": Method("baseline", ({"bandwidth": 0.2}, {"bandwidth": 0.4}, {"bandwidth": 0.8}), _kernel),
    "KDE + GMM": Method("baseline", MIXTURES, _joined(_smooth, _mixture)),
    "NCE, Gaussian": Method("energy", NETWORKS, _energy("nce", "gauss")),
    "MECO, Gaussian": Method("energy", NETWORKS, _energy("meco", "gauss")),
    "NCE, GMM": Method("energy", NETWORKS, _energy("nce", "gmm")),
    "MECO, GMM": Method("energy", NETWORKS, _energy("meco", "gmm")),
    "SNIS, GMM": Method("energy", NETWORKS, _energy("snis", "gmm")),
    "NCE, KDE": Method("attempt", KERNELS, _energy("nce", "kde")),
    "MECO, KDE": Method("attempt", KERNELS, _energy("meco", "kde")),
    "KDE + (NCE, GMM)": Method("attempt", NETWORKS, _joined(_smooth, _energy("nce", "gmm"))),
    "features": Method("attempt", TEMPERATURES, _features),
    "1-NN + features": Method("attempt", TEMPERATURES, _joined(_pixels, _features)),
    "1-NN + class energies": Method("attempt", RATES, _joined(_pixels, _classes), labels=True),
}
"""Objective and noise law of an energy f = log q + g; 'attempt': what goes beyond the usual recipe. `KDE + GMM` joins
two simple detectors, so that what an energy adds to such a sum is not mistaken for what joining adds."""
