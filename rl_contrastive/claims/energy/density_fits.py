"""The fits of density-2d: one energy, one objective, one noise law; exact NLL, and where the model put its mass.

Model: f = log b + g with b a wide Gaussian (so that exp f has a tail that can be integrated) and g a network. Its
log Z is the trapezoid rule on a large box whatever the noise was, so mass that a model leaves where no noise came is
counted and not hidden. With the exact density p of the toy law the test points give two numbers:
    nll = -mean f + log Z          excess = mean(log p - f) + log Z, an estimate of KL(p || model) with less variance.
"""

from __future__ import annotations

import functools
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.claims.energy.toy_densities import make_density
from rl_contrastive.claims.ledger import Task
from rl_contrastive.config import MOST_DRAWN, In, Options, require
from rl_contrastive.device import resolve_device
from rl_contrastive.energy.energies import MLPConfig, MLPEnergy, tilted
from rl_contrastive.energy.gaussian_mixture import MixtureFitConfig, fit_mixture
from rl_contrastive.energy.kernel_density import KernelDensity
from rl_contrastive.energy.noise import Gaussian, NoiseLaw, defended
from rl_contrastive.energy.objectives import make
from rl_contrastive.energy.partition import PartitionEstimate, Quadrature, log_partition
from rl_contrastive.energy.trainer import TrainConfig, Trainer

BULK = 0.999
"""Share of a Gaussian noise law's mass in the ellipse that counts as its bulk."""
VIEW = 10.0
"""Half side of the square of which pictures are kept."""
NETWORKS = {"sharp": (2, 2.0), "deep": (3, 1.0), "deep sharp": (3, 2.0)}
"""Hidden layers, standard deviation of the first one's initial weights."""
PIXELS = 301
"""Points of a picture an axis."""
Metrics = dict[str, Sequence[float]]


@dataclass(frozen=True)
class Density2DConfig(Options, where="density-2d"):
    """Objectives on four densities of the plane, under covering and under narrow noise."""

    densities: tuple[str, ...] = ("8gaussians", "spirals", "checkerboard", "pinwheel")
    """Toy laws of the comparison under covering noise."""
    narrow: tuple[str, ...] = ("spirals", "pinwheel")
    """Toy laws of the comparison under narrow noise."""
    curve: tuple[str, ...] = ("moons", "8gaussians")
    """Toy laws of the curve over widths of the noise."""
    widths: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.8, 1.2)
    """Its widths, in the data's standard deviations (> 0)."""
    points: int = 10_000
    """Training points, and as many again for validation and for the test (>= 100)."""
    steps: int = 1000
    """Optimiser steps of a fit (>= 1); cosine schedule, Adam."""
    batch: Annotated[int, In(1, MOST_DRAWN)] = 256
    """Data and noise points in a step."""
    rate: float = 5e-3
    """Adam's learning rate under covering noise, where every method chooses its network on the tuning seeds."""
    narrow_rates: tuple[float, ...] = (5e-3, 2e-3)
    """Learning rates that every method chooses from under narrow noise, where both networks are reported."""
    width: int = 128
    """Units of every hidden layer (>= 1)."""
    covering: float = 1.2
    """Covering noise: a Gaussian with the data's mean and this times their standard deviations (> 0)."""
    narrowness: float = 0.6
    """Narrow noise: the same with a factor below 1."""
    wide: float = 3.0
    """The wide law of the causal check: the same with a factor above 1."""
    share: Annotated[float, In(0, 1, above=True, below=True)] = 0.1
    """Share of the wide law where it is mixed in."""
    base: float = 1.5
    """The Gaussian b of f = log b + g: the same with this factor (> 0)."""
    box: float = 20.0
    """Half side of the square on which Z is computed (> 0)."""
    nodes: int = 501
    """Nodes of that square an axis (odd, >= 3)."""
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    """Reporting seeds: data, initial network, batches and noise."""
    tune_seeds: tuple[int, ...] = (0, 1)
    """Seeds on which learning rates are chosen."""

    @classmethod
    def quick(cls) -> Density2DConfig:
        """Seconds; far from trained."""
        return cls(
            densities=("8gaussians", "checkerboard"), narrow=("spirals",), curve=("moons",), widths=(0.4, 1.2),
            points=500, steps=60, batch=64, width=32, nodes=121, seeds=(10, 11), tune_seeds=(0,),
        )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (*self.densities, *self.narrow, *self.curve):
            make_density(name)
        named = min(len(self.densities), len(self.narrow), len(self.curve))
        require(named >= 1, "density-2d: name at least one density each.")
        widths = self.widths
        require(len(widths) >= 1 and min(widths) > 0, f"density-2d: widths must be > 0, at least one, got {widths}.")
        for field, least in (("points", 100), ("steps", 1)):
            require(getattr(self, field) >= least, f"density-2d: {field} must be >= {least}.")
        rates = self.narrow_rates
        require(len(rates) >= 1 and min(rates) > 0, f"density-2d: narrow_rates must be > 0, at least one, got {rates}.")
        for field in ("rate", "covering", "narrowness", "wide", "base", "box"):
            require(getattr(self, field) > 0, f"density-2d: {field} must be > 0, got {getattr(self, field)}.")
        network("deep", self)
        Quadrature((-self.box,) * 2, (self.box,) * 2, self.nodes)


def network(name: str, config: Density2DConfig) -> MLPConfig:
    """One of NETWORKS; steep initial slopes resolve fine structure and reach far beyond the data."""
    layers, scale = NETWORKS[name]
    return MLPConfig(hidden=(config.width,) * layers, first_scale=scale)


@dataclass(frozen=True)
class Data:
    """Points of one law and seed, the same for every method."""

    train: Tensor
    valid: Tensor
    test: Tensor
    log_p: Tensor
    """(test points,) float64: the exact log-density."""


@functools.lru_cache(maxsize=64)
def data_of(density: str, seed: int, points: int) -> Data:
    """(points, 2) each; the cache spares the spirals' quadrature for every method of a seed."""
    law = make_density(density)
    train, valid, test = (law.sample(points, rng=_rng(density, seed, i)) for i in range(3))
    return Data(train, valid, test, law.log_prob(test))


def _rng(density: str, seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(density, seed, stream))


def _seed(density: str, seed: int, stream: int) -> int:
    words = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(density.encode()), stream)).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def noise_law(kind: str, config: Density2DConfig, train: Tensor) -> NoiseLaw:
    """covering | narrow | mixed (narrow with a share of the wide one)."""
    if kind == "covering":
        return Gaussian.fit(train, inflate=config.covering**2)
    narrow = Gaussian.fit(train, inflate=config.narrowness**2)
    if kind == "narrow":
        return narrow
    require(kind == "mixed", f"density-2d: no noise law {kind!r}.")
    return defended(narrow, Gaussian.fit(train, inflate=config.wide**2), share=config.share)


def fit_energy(config: Density2DConfig, task: Task) -> Metrics:
    """Options: objective, its options `of`, noise, network, lr -> metrics. The setting is "density, network" where the
    options name no network, and "density, width" where the noise is "by setting"."""
    (seed,), options = task.seeds, task.options
    data = data_of(density_of(task), seed, config.points)
    start = time.process_time()
    model = _trained(config, options, data, task, seed)
    seconds = time.process_time() - start
    like = data.train[:1].to(resolve_device(task.device))
    everywhere = log_partition(model, square(config), like=like)
    scores = scores_of(model, data, everywhere, like)
    if options["noise"] in ("narrow", "mixed"):
        scores |= bulk_scores(config, model, data, everywhere, like)
    if seed == config.seeds[0]:
        _keep_picture(task, model, float(everywhere.log_z), like)
    scores |= {"grid_error": float(everywhere.error), "seconds": seconds}
    return {name: [value] for name, value in scores.items()}


def density_of(task: Task) -> str:
    """The toy law of a setting."""
    return task.setting.partition(", ")[0]


def square(config: Density2DConfig) -> Quadrature:
    """The large box."""
    return Quadrature((-config.box,) * 2, (config.box,) * 2, config.nodes)


def _trained(config: Density2DConfig, options: dict[str, Any], data: Data, task: Task, seed: int) -> nn.Module:
    device = resolve_device(task.device)
    density, net = density_of(task), network(options.get("network") or task.setting.partition(", ")[2], config)
    b = Gaussian.fit(data.train, inflate=config.base**2).to(device)
    f = tilted(b, MLPEnergy.for_data(data.train, net, rng=_rng(density, seed, 3)))
    train = TrainConfig(
        steps=config.steps, batch_size=config.batch, noise_batch=config.batch, lr=options["lr"], device=task.device
    )
    objective = make(options["objective"], options["of"])
    kind = options["noise"]
    if kind == "by setting":
        law: NoiseLaw = Gaussian.fit(data.train, inflate=float(task.setting.partition(", ")[2]) ** 2)
    else:
        law = noise_law(kind, config, data.train)
    # Noise that misses data is what this study looks at.
    trainer = Trainer(
        f, objective, data.train, q=law, config=train, rng_seed=_seed(density, seed, 4), allow_uncovered=True
    )
    trainer.run()
    return trainer.model


@torch.no_grad()
def scores_of(model: nn.Module, data: Data, z: PartitionEstimate, like: Tensor) -> dict[str, float]:
    log_z = float(z.log_z)
    f_test, f_valid = (model(x.to(like)).to(torch.float64).cpu() for x in (data.test, data.valid))
    return {
        "nll": log_z - float(f_test.mean()),
        "validation": log_z - float(f_valid.mean()),
        "excess": log_z + float((data.log_p - f_test).mean()),
    }


@torch.no_grad()
def bulk_scores(
    config: Density2DConfig, model: nn.Module, data: Data, everywhere: PartitionEstimate, like: Tensor
) -> dict[str, float]:
    """Mass of the model beyond the narrow law's bulk, and the NLL of model and data both restricted to the bulk.

    log Z = log Z_bulk + log(Z / Z_bulk): the second term, -log(1 - mass beyond), is what that mass costs in nats.
    """
    law = Gaussian.fit(data.train, inflate=config.narrowness**2)
    inside_law = _inside(law.to(like.device))
    log_z = float(
        log_partition(lambda x: model(x).masked_fill(~inside_law(x), -torch.inf), square(config), like=like).log_z
    )
    test = data.test.to(like)
    inside = inside_law(test)
    f_test = model(test).to(torch.float64)
    return {
        "mass_beyond": float(-torch.expm1(torch.tensor(log_z - float(everywhere.log_z), dtype=torch.float64))),
        "data_beyond": float((~inside).to(torch.float64).mean()),
        "cost_beyond": float(everywhere.log_z) - log_z,
        "nll_bulk": log_z - float(f_test[inside].mean()),
    }


def _inside(law: Gaussian) -> functools.partial[Tensor]:
    """x (..., 2) -> whether it lies in the ellipse that holds BULK of the law: r^2 <= -2 log(1 - BULK) in the plane."""
    edge = law.log_prob(law.mean[None])[0] + float(np.log1p(-BULK))  # log q falls by r^2/2 from its peak
    return functools.partial(_above, law, edge)


def _above(law: Gaussian, edge: Tensor, x: Tensor) -> Tensor:
    return law.log_prob(x) >= edge


@torch.no_grad()
def _keep_picture(task: Task, model: nn.Module, log_z: float, like: Tensor) -> None:
    axis = torch.linspace(-VIEW, VIEW, PIXELS)
    nodes = torch.cartesian_prod(axis, axis).to(like)
    picture = (model(nodes).to(torch.float64) - log_z).reshape(PIXELS, PIXELS).cpu()
    task.folder.mkdir(parents=True, exist_ok=True)
    np.savez(task.folder / "picture.npz", log_density=picture.numpy().astype(np.float32))


def fit_reference(config: Density2DConfig, task: Task) -> Metrics:
    """What needs no energy: the truth itself, a kernel density estimate, a mixture of 20 Gaussians."""
    (seed,) = task.seeds
    data = data_of(density_of(task), seed, config.points)
    start = time.process_time()
    if task.method == "truth":
        log_q = data.log_p
    elif task.method == "KDE":
        log_q = KernelDensity.fit(data.train, (0.06, 0.09, 0.14)).log_prob(data.test)
    else:
        rng = _rng(density_of(task), seed, 5)
        log_q = fit_mixture(data.train, MixtureFitConfig(components=20), rng=rng).law.log_prob(data.test)
    seconds = time.process_time() - start
    nll = -float(log_q.mean())
    return {"nll": [nll], "excess": [nll + float(data.log_p.mean())], "seconds": [seconds]}
