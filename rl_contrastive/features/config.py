"""The options of the contrastive fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from rl_contrastive.config import MOST_DRAWN, MOST_WIDTH, Ge, Gt, In, check_ranges, require
from rl_contrastive.device import check_device
from rl_contrastive.features.spectral_linear import LinearSpectralConfig
from rl_contrastive.objectives.laws import Law

VECTOR_DIM = 3
"""d of linear and neural features of vectors where none is given."""


@dataclass(frozen=True)
class LearnerConfig:
    """How features are learned."""

    method: Literal["spectral", "nce", "spectral+nce"] = "spectral"
    """spectral: closed form; nce: gradient descent alone; spectral+nce: closed form, then descent judged on held-out
    transitions."""
    objective: str = "nce"
    """Registered objective of the gradient stage (`rlc list objectives`); name it before --help to see its options."""
    objective_options: Any = field(default_factory=dict)
    """Its config, or a table of that config's fields, such as {"gamma": .3} for meco."""
    allow_biased: bool = False
    """Make P-hat even if the minimiser of the objective is not the ratio P/P^-: a control, whose P-hat is wrong."""
    dim: Annotated[int | None, In(1, MOST_WIDTH)] = None
    """d, dimension of phi and psi (>= 2 for vector observations, where one is the constant); None: from the data,
    on tables the singular values above the sampling noise, at most 64, on vectors 3 (2 for
    one number)."""
    model: Literal["auto", "tabular", "linear", "neural"] = "auto"
    """Form of phi and psi: auto is tabular for state indices and linear for vectors."""
    law: Law = "marginal"
    """P^- of the negatives: marginal (empirical successors), uniform over S or a mixture (the last two need S)."""
    mixture: Annotated[float, In(0, 1)] = 0.1
    """Weight of the uniform law in the mixture."""
    steps: Annotated[int, Ge(1)] = 200
    """Largest number of gradient iterations."""
    batch_size: Annotated[int, In(1, MOST_DRAWN)] = 128
    """Positives per step h and iteration where expectations are sampled."""
    negatives: Annotated[int, In(1, MOST_DRAWN)] = 64
    """Draws of P^- per step h and iteration, shared by its positives."""
    exact_entries: Annotated[int, Ge(0)] = 1 << 20
    """Tables of at most H S A S entries are fitted with exact expectations, larger ones with minibatches."""
    lr: Annotated[float, Gt(0)] = 0.03
    """Adam's step size."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decoupled weight decay."""
    hold_out: float | None = None
    """Share of the transitions held out (in [0, .8]), half for stopping and half for the verdict; None: .25 with
    spectral+nce, which needs it > 0, and 0 with nce, which then takes all `steps` on all data, from the features of
    the last fit."""
    check_every: Annotated[int, Ge(1)] = 10
    """Iterations between two looks at the stopping loss."""
    patience: Annotated[int, Ge(1)] = 4
    """Looks without improvement after which a step h is frozen."""
    margin: Annotated[float, Ge(0)] = 1.0
    """Refinement is accepted if the held-out loss falls by more than this many standard errors."""
    hidden: Annotated[tuple[int, ...], In(1, MOST_WIDTH)] = (64,)
    """Widths of the neural model's hidden layers."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda or cuda:N."""
    compile: bool = False
    """torch.compile the loss; pays off for long runs only."""
    precision: Literal["float32", "float64", "bf16"] = "float32"
    """Of the gradient stage; bf16 is float32 with autocast matrix products. Closed forms are always float64."""
    linear: LinearSpectralConfig = field(default_factory=LinearSpectralConfig)
    """Closed form of vector observations."""

    def __post_init__(self) -> None:
        check_ranges(self, "learner")
        check_device(self.device)
        require(self.dim is None or self.dim >= 1, f"learner: dim must be >= 1, got {self.dim}.")
        require(0.0 <= self.held_out <= 0.8, f"learner: hold_out must lie in [0, .8], got {self.hold_out}.")
        require(
            self.held_out > 0 or self.method != "spectral+nce",
            "learner: method spectral+nce judges refinement on held-out data; hold_out must be > 0.",
        )
        require(all(w >= 1 for w in self.hidden), f"learner: hidden widths must be >= 1, got {self.hidden}.")
        require(bool(self.hidden) or self.model != "neural", "learner: the neural model needs a hidden layer.")

    @property
    def held_out(self) -> float:
        """The share that `hold_out` stands for."""
        if self.hold_out is None:
            return 0.25 if self.method == "spectral+nce" else 0.0
        return self.hold_out
