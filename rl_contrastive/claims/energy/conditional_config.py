"""The methods and the sizes of the study conditional."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rl_contrastive.claims.energy.conditional_learners import (
    Learner,
)
from rl_contrastive.claims.grid import Cell
from rl_contrastive.claims.ledger import Choice
from rl_contrastive.config import require

LIKELIHOOD = "exact likelihood"
COUNTS = "counts"


LEARNERS: dict[str, Learner] = {
    LIKELIHOOD: Learner("likelihood"),
    "NCE, 16 a row": Learner("nce", 16),
    "NCE, 1 a row": Learner("nce", 1),
    "NCE, 16 shared": Learner("nce", 16, shared=True),
    "InfoNCE, 16 a row": Learner("infonce", 16),
    "InfoNCE, 1 a row": Learner("infonce", 1),
    "InfoNCE, 16 shared": Learner("infonce", 16, shared=True),
    "MECO (s,a), 16 a row": Learner("table", 16),
    "MECO (s,a), 2 a row": Learner("table", 2),
    "SNIS, 2 a row": Learner("snis", 2),
    "MECO one u, 16 a row": Learner("one-u", 16),
    "MECO vector, 16 shared": Learner("vector", 16, shared=True),
    "MECO vector, 1 shared": Learner("vector", 1, shared=True),
    "MECO vector, 1 shared, averaged": Learner("vector", 1, shared=True, psi_steps="averaged"),
    "MECO vector, own outcomes": Learner("vector", 1, shared=True, outcomes_as_noise=True),
}


_ONE = Learner("vector", 1, shared=True)


_AVERAGED = replace(_ONE, psi_steps="averaged")


ONE_DRAW: dict[str, tuple[Learner, Choice]] = {
    "as it is: Adam, gamma .1": (_ONE, {}),
    "gamma .5": (_ONE, {"gamma": 0.5}),
    "gamma .02": (_ONE, {"gamma": 0.02}),
    "momentum .99": (_ONE, {"momentum": 0.99}),
    "step .01": (_ONE, {"lr": 0.01}),
    "step .01, 4x the steps": (_ONE, {"lr": 0.01, "longer": 4}),
    "oracle: exact u": (replace(_ONE, u="exact"), {}),
    "oracle: exact gradient of psi": (replace(_ONE, psi_gradient="exact"), {}),
    "psi by averaged descent": (_AVERAGED, {}),
    "averaged, 4x the steps": (_AVERAGED, {"longer": 4}),
    "averaged, exact u": (replace(_AVERAGED, u="exact"), {}),
    "averaged, exact gradient of psi": (replace(_AVERAGED, psi_gradient="exact"), {}),
    "own outcomes as noise": (replace(_ONE, outcomes_as_noise=True), {}),
    "NCE, 1 shared": (Learner("nce", 1, shared=True), {}),
    "InfoNCE, 1 shared": (Learner("infonce", 1, shared=True), {}),
    LIKELIHOOD: (Learner("likelihood"), {}),
}
"""One draw of q a step for the whole batch: what fails, and what repairs it (all with the default options else)."""


@dataclass(frozen=True)
class ConditionalConfig:
    """Random low-rank MDPs of one step, data of several sizes, and descents of one length."""

    num_states: int = 30
    """S."""
    num_actions: int = 3
    """A."""
    rank: int = 3
    """d."""
    sizes: tuple[int, ...] = (1000, 5000, 20000)
    """N, transitions; (s,a) uniform."""
    zipf_sizes: tuple[int, ...] = (5000,)
    """N with (s,a) by Zipf's law in a random order."""
    held_out: int = 2000
    """Transitions of the tuning seeds that choose the options."""
    steps: int = 2000
    """Minibatches of a fit."""
    batch: int = 256
    """Transitions to a minibatch."""
    lrs: tuple[float, float, float] = (0.01, 0.03, 0.1)
    """Adam's steps: the three candidates of each method without gamma."""
    draws: int = 1000
    """Draws of q with which Z = <u, phi> is estimated after a fit."""
    continuous_steps: int = 1000
    """Minibatches of a fit with continuous contexts."""
    continuous_size: int = 5000
    """Transitions with continuous contexts."""
    continuous_lrs: tuple[float, float] = (0.001, 0.003)
    """Adam's steps for the networks, two candidates."""
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    """Reporting seeds: MDP, data and descent."""
    tune_seeds: tuple[int, ...] = (0, 1)
    """Seeds that choose the options."""

    def __post_init__(self) -> None:
        require(min(*self.sizes, *self.zipf_sizes, self.held_out) >= 1, "conditional: sizes must be >= 1.")
        for name in ("num_states", "num_actions", "rank", "steps", "batch", "draws", "continuous_steps"):
            require(getattr(self, name) >= 1, f"conditional: {name} must be >= 1, got {getattr(self, name)}.")
        require(min(*self.lrs, *self.continuous_lrs) > 0, "conditional: learning rates must be > 0.")

    @classmethod
    def quick(cls) -> ConditionalConfig:
        """Seconds; the numbers mean nothing."""
        return cls(
            num_states=8,
            num_actions=2,
            rank=2,
            sizes=(300,),
            zipf_sizes=(300,),
            held_out=200,
            steps=8,
            batch=64,
            draws=50,
            continuous_steps=10,
            continuous_size=200,
            seeds=(10, 11),
            tune_seeds=(0,),
        )

    @property
    def settings(self) -> list[str]:
        """`uniform-5000` and so on."""
        return [f"uniform-{n}" for n in self.sizes] + [f"zipf-{n}" for n in self.zipf_sizes]

    @property
    def central(self) -> str:
        """The setting of the bars: uniform, N = 5000 where it is measured."""
        return f"uniform-{5000 if 5000 in self.sizes else self.sizes[-1]}"


@dataclass(frozen=True)
class Cells:
    """The three grids."""

    main: dict[tuple[str, str], Cell]
    one: dict[tuple[str, str], Cell]
    continuous: dict[tuple[str, str], Cell]
