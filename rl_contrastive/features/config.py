"""The options of the contrastive fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from rl_contrastive.config import MOST_DRAWN, MOST_WIDTH, Ge, Gt, In, require
from rl_contrastive.device import DeviceOptions
from rl_contrastive.features.spectral_linear import LinearSpectralConfig
from rl_contrastive.objectives.laws import Law

VECTOR_DIM = 3
"""d of linear and neural features of vectors where none is given."""


@dataclass(frozen=True)
class LearnerConfig(DeviceOptions, where="learner"):
    """How features are learned."""

    method: Literal["spectral", "nce", "spectral+nce"] = "spectral"
    """spectral: closed form; nce: gradient descent alone; spectral+nce: closed form, then descent judged on held-out
    transitions."""
    objective: str = "nce"
    """Registered objective of the gradient stage (`rlc list objectives`); name it before --help-all to see its
    options."""
    objective_options: Any = field(default_factory=dict)
    """Its config, or a table of that config's fields, such as {"gamma": .3} for meco. A temperature other than 1 makes
    no ratio, so it needs allow_biased where P-hat is made."""
    allow_biased: bool = False
    """Make P-hat even if the minimiser of the objective is not the ratio P/P^-; a control, whose P-hat is wrong."""
    dim: Annotated[int | None, In(1, MOST_WIDTH)] = None
    """d, dimension of phi and psi (at least 2 for vector observations, where one is the constant). None: on tables the
    number of singular values above the sampling noise, at most 64; on vectors 3 (2 for one number)."""
    model: Literal["auto", "tabular", "linear", "neural"] = "auto"
    """Form of phi and psi: auto is tabular for state indices and linear for vectors."""
    law: Law = "marginal"
    """P^- of the negatives: marginal (empirical successors), uniform over S or a mixture (these two need S), or
    propensity: stored vectors weigh 1/(their estimated density), for method nce; on tables it is uniform."""
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
    hold_out: Annotated[float | None, In(0, 0.8)] = None
    """Share of the transitions held out, half for stopping and half for the verdict. None: .25 with spectral+nce,
    which needs some, and 0 with nce. With 0, nce takes all `steps` on all data and starts from the features of the
    last fit."""
    check_every: Annotated[int, Ge(1)] = 10
    """Iterations between two evaluations of the stopping loss."""
    patience: Annotated[int, Ge(1)] = 4
    """Evaluations without improvement after which a step h is frozen."""
    margin: Annotated[float, Ge(0)] = 1.0
    """Refinement is accepted if the held-out loss falls by more than this many standard errors."""
    hidden: Annotated[tuple[int, ...], In(1, MOST_WIDTH)] = (64,)
    """Widths of the neural model's hidden layers."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda or cuda:N."""
    compile: bool = False
    """torch.compile the loss; pays off for long runs only."""
    precision: Literal["float32", "float64", "bf16"] = "float32"
    """Precision of the gradient stage; bf16: float32 with autocast matrix products. Closed forms are in float64."""
    linear: LinearSpectralConfig = field(default_factory=LinearSpectralConfig)
    """Closed form of vector observations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.held_out > 0 or self.method != "spectral+nce",
            "learner: method spectral+nce judges refinement on held-out data; hold_out must be > 0.",
        )
        require(bool(self.hidden) or self.model != "neural", "learner: the neural model needs a hidden layer.")

    @property
    def held_out(self) -> float:
        """The share that `hold_out` stands for."""
        if self.hold_out is None:
            return 0.25 if self.method == "spectral+nce" else 0.0
        return self.hold_out
