"""The options of the deep agent's networks and losses, in a module of their own that needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from rl_contrastive.config import MOST_DRAWN, MOST_WIDTH, Ge, Gt, In, Options, require
from rl_contrastive.device import DeviceOptions

Init = Literal["orthogonal", "he"]
Backend = Literal["auto", "torch", "numpy"]


@dataclass(frozen=True)
class EncoderConfig(Options, where="encoder"):
    """Raw observations -> vectors."""

    kind: Literal["auto", "mlp", "minatar", "minigrid", "nature", "impala"] = "auto"
    """auto, by the shape of an observation: (C, 10, 10) bool planes minatar; other small bool planes, and codes that
    the environment declares (`EnvSpec.codes`), minigrid; frames of 36 x 36 bytes or more nature; all else mlp."""
    hidden: Annotated[tuple[int, ...] | None, In(1, MOST_WIDTH)] = None
    """Widths of the linear layers, behind the convolutions if there are any; () for none there. Default: mlp
    (256, 256), minatar (128,), minigrid (256,), nature (512,), impala (256,)."""
    channels: Annotated[tuple[int, ...] | None, In(1, MOST_WIDTH)] = None
    """Output channels of the convolutions. Default: minatar (16,), minigrid (32, 64), nature (32, 64, 64) and impala
    (16, 32, 32). minigrid takes any number of them; with () the planes go straight into the linear layers."""
    init: Init = "orthogonal"
    """orthogonal: rows or columns of a random rotation, times sqrt 2; he: N(0, 2 / inputs). Biases start at 0."""
    layer_norm: bool = False
    """Normalise before the activation of each linear layer: keeps features bounded at high replay ratios."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.hidden != () or self.kind != "mlp", "encoder: an mlp needs at least one hidden layer.")
        if self.channels is not None:
            check_channels(self.kind, self.channels)


def check_channels(kind: str, channels: tuple[int, ...]) -> None:
    """RlcError unless this kind of encoder can have so many convolutions."""
    need = {"minatar": 1, "nature": 3}.get(kind, len(channels))
    require(len(channels) == need, f"encoder: {kind} has {need} convolutions, but channels {channels}.")


@dataclass(frozen=True)
class ValueConfig(Options, where="value"):
    """Heads and targets of both value functions."""

    dueling: bool = True
    """V + advantages (Wang et al. 2016)."""
    double: bool = True
    """The online network chooses the next action and the target network evaluates it; off: the target does both."""
    atoms: Annotated[int, In(1, 10_000)] = 1
    """Atoms of the return distributions; 1: plain values. Data-efficient Rainbow has 51."""
    low: float = -10.0
    """Smallest atom, in units of reward times `reward_scale`; returns, with the bonuses for G, are clipped to it."""
    high: float = 10.0
    """Largest atom (> low), as `low`."""
    hidden: Annotated[int, In(0, MOST_WIDTH)] = 0
    """Width of one hidden layer of each head (0: none)."""
    noisy: Annotated[float, Ge(0)] = 0.0
    """sigma_0 of noisy layers in the heads (`deep/noisy.py`), in gradient steps and acting (0: plain layers).
    The official agent has .5."""

    def __post_init__(self) -> None:
        super().__post_init__()
        finite = -math.inf < self.low < self.high < math.inf
        require(finite, f"value: low must be < high, both finite, got {self.low} and {self.high}.")


@dataclass(frozen=True)
class RepresentationConfig(Options, where="representation"):
    """phi(s,a) and psi(s')."""

    dim: Annotated[int, In(1, MOST_WIDTH)] = 64
    """d."""
    objective: str = "nce"
    """A registered objective (`rlc list objectives`), nce being the paper's; meco-keyed and isogclr remember something
    of each slot of the replay. Name it before --help-all to see its options."""
    objective_options: Any = field(default_factory=dict)
    """The objective's own config, or a table of its fields, such as {"temperature": 0.5}."""
    hidden: Annotated[int, In(0, MOST_WIDTH)] = 256
    """Width of the ReLU layer of each head; 0: linear heads on the encoder's vector."""
    beta: Annotated[float, Gt(0)] = 1.0
    """Sharpness of the softplus."""
    features: Literal["logits", "simplex", "unit", "raw", "psi"] = "logits"
    """What the bonus counts: u_phi itself, of which phi is the softplus; the mixture weights w, |w|_1 = 1; phi scaled
    to length 1; or phi. The bounded ones suit a full Sigma, but saturate: states further out in a known direction look
    as those seen there, and cells (`BonusConfig`) cannot tell them apart. psi: u_psi(s), what s tells about where it
    came from, and each action by itself: noise is left out, and an action never tried is not taken for another one."""
    frames: Literal["all", "newest"] = "all"
    """Of stacked frames the features are of all, or of the newest alone. Two stacks in a row share frames, so features
    of all can match them by noise that the shared frames hold; those of the newest cannot."""
    loss: Literal["contrast", "inverse", "temporal"] = "contrast"
    """contrast: the contrastive loss of f = psi'phi; inverse: cross-entropy of the action between u_psi(s) and
    u_psi(s'), as for the features of E3B; temporal: a contrast of states by the quasimetric of u_psi, as for ETD
    (`deep/temporal.py`), which suits `ahead` > 0. The last two train the encoder and psi and leave the head of phi as
    it was drawn: they are for bonuses that count psi."""
    ahead: Annotated[float, In(0, 0.999)] = 0.0
    """gamma_c: the positive is the observation K steps on in the same episode, K ~ Geometric(1 - gamma_c), so that f is
    the ratio of discounted visits to their share of the data; 0: the next observation. Not for loss inverse."""
    law_rate: Annotated[float, In(0, 1, above=True)] = 0.01
    """Weight of the newest batch in the moving average u of psi over P^-, for simplex features alone."""
    every: Annotated[int, Ge(1)] = 4
    """Gradient steps of the values to one of the contrastive loss: features are frozen between rebuilds."""
    weighted: bool = True
    """Where rows are drawn by priorities, use the importance weights in the contrastive loss too, so that P and P^- are
    distributions of the stored data. Off: of the drawn data, which tilts P(s'|s,a) towards surprising successors."""
    mask_identical: bool = False
    """Leave out negatives that equal the row's own successor. Off by default, because they belong to P^-. Without them
    f(s,a,s') grows without bound where s' is certain; with them it stops at 1 / P^-(s')."""

    def __post_init__(self) -> None:
        super().__post_init__()
        single = "representation: inverse dynamics is of single steps: ahead must be 0 with it"
        require(self.ahead == 0 or self.loss != "inverse", f"{single}, got {self.ahead}.")
        require(self.dim >= 2 or self.loss != "temporal", "representation: dim must be >= 2 with loss temporal, got 1.")

    @property
    def of_states(self) -> bool:
        """Whether the bonus counts features of states, (N, 1, d), separately by action, and not of pairs, (N, A, d)."""
        return self.features == "psi"


@dataclass(frozen=True)
class SelfPredictionConfig(Options, where="self-prediction"):
    """Self-prediction, in addition to the contrastive loss or in its place."""

    weight: Annotated[float, Ge(0)] = 0.0
    """Weight of the loss; 0 switches self-prediction off. The official agent has 5."""
    steps: Annotated[int, In(1, 1000)] = 5
    """K, steps predicted."""
    hidden: Annotated[int, In(1, MOST_WIDTH)] = 256
    """Width of the transition's hidden layer."""
    dim: Annotated[int, In(1, MOST_WIDTH)] = 128
    """Dimension in which vectors are compared."""
    tau: Annotated[float, In(0, 1, above=True)] = 0.01
    """Share of the online projection that its target takes over at each `follow`."""


@dataclass(frozen=True)
class AuxiliaryConfig(Options, where="auxiliary"):
    """A loss of embeddings on the encoder of Q and G (`deep/auxiliary.py`)."""

    OBJECTIVES: ClassVar[tuple[str, ...]] = ("view-objective",)
    """The kind of names that `objective` may have."""
    objective: str = ""
    """A registered view-objective, such as nt-xent (`rlc list view-objectives`); empty: no such loss."""
    objective_options: Any = field(default_factory=dict)
    """The objective's own config, or a table of its fields, such as {"temperature": 0.5}."""
    weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the loss beside those of Q and G."""
    views: Literal["successor", "shift"] = "successor"
    """successor: a state and the next one are two views of one instance; shift: two random shifts of a state's frames,
    for the encoders nature and impala."""
    shift: Annotated[int, In(1, 1000)] = 4
    """Largest shift in pixels, where views are shifts."""
    dim: Annotated[int, In(0, MOST_WIDTH)] = 64
    """Coordinates behind the projector, in which views are compared; 0: no projector, the encoder's own vectors."""
    hidden: Annotated[int, In(1, MOST_WIDTH)] = 256
    """Width of the projector's ReLU layer."""


@dataclass(frozen=True)
class AugmentConfig(Options, where="augment"):
    """Distorted observations in gradient steps (`deep/augment.py`), for frames: encoders nature and impala."""

    shift: Annotated[int, In(0, 1000)] = 0
    """Largest shift in pixels, up, down, left and right (0: none). The official agent has 4."""
    intensity: Annotated[float, In(0, 0.5, below=True)] = 0.0
    """Scale of the change in brightness; 0: none. The official agent has .05."""


@dataclass(frozen=True)
class DeepLearnerConfig(DeviceOptions, where="deep"):
    """Networks, losses and the optimiser."""

    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig(layer_norm=True))
    """Observations -> vectors for Q and G. Normalised layers bound what values of unseen states can become."""
    feature_encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Observations -> vectors for phi and psi. Not normalised, so that states far from all others look different."""
    value: ValueConfig = field(default_factory=ValueConfig)
    """Q of rewards and G of rewards and bonuses."""
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)
    """phi(s,a) and psi(s')."""
    self_prediction: SelfPredictionConfig = field(default_factory=SelfPredictionConfig)
    """SPR's loss, off by default."""
    auxiliary: AuxiliaryConfig = field(default_factory=AuxiliaryConfig)
    """A loss of embeddings that helps to shape the encoder of Q and G, off by default."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Shifts and intensities of frames, off by default."""
    learn_features: bool = True
    """Off: the features keep their random initial weights, as a control."""
    batch_size: Annotated[int, In(2, MOST_DRAWN)] = 64
    """Entries of the replay in a gradient step."""
    lr: Annotated[float, Gt(0)] = 3e-4
    """Adam's step size."""
    lr_falls_over: Annotated[int, Ge(0)] = 0
    """Gradient steps over which the step size of Q and G falls linearly to a twentieth; 0: it stays constant."""
    adam_eps: Annotated[float, Gt(0)] = 1e-8
    """Adam's epsilon for Q and G; large values, as 1.5e-4 on Atari, damp rare gradients, and so small bonuses."""
    clip: Annotated[float, Gt(0)] = 10.0
    """Largest norm of the gradient of Q, G, self-prediction and the auxiliary loss; that of the features is not
    clipped."""
    tau: Annotated[float, In(0, 1, above=True)] = 0.005
    """Share of the online network that its target takes over after each step."""
    reward_scale: Annotated[float, Gt(0)] = 1.0
    """Rewards and bonuses are multiplied by this for Q and G. Each of Adam's steps moves an output by about lr,
    whatever the returns are, so differences far below 1 are lost. 10 suits MiniGrid's returns below 1."""
    clip_rewards: bool = False
    """Learn from the sign of rewards, as is usual on Atari; evaluation uses the rewards themselves."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: matrix products in bfloat16 (autocast); losses, features and bonuses keep their precision."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda or cuda:N."""
    backend: Backend = "auto"
    """What computes small networks on a CPU. auto: numpy, with gradients by hand, where it has these options and
    networks (`deep/native`), else torch; torch: always torch; numpy: an error where it does not have them. They agree
    up to rounding."""
    compile: bool = False
    """torch.compile the losses (on a GPU with CUDA graphs): this takes a minute at first, then steps are faster."""

    def __post_init__(self) -> None:
        super().__post_init__()
        both = self.compile and self.auxiliary.objective
        require(not both, "deep: compile does not cover an auxiliary loss; leave one of them out.")
        fits = not self.compile or self.backend != "numpy"
        require(fits, "deep: learner.compile is of torch, and learner.backend is numpy: leave one of them out.")
