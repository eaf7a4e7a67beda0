"""Every choice of the deep agent's networks and losses, apart from them: a config can be read without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np

from rl_contrastive.config import MOST_DRAWN, MOST_WIDTH, Ge, Gt, In, check_ranges, require
from rl_contrastive.device import check_device

Init = Literal["orthogonal", "he"]


@dataclass(frozen=True)
class EncoderConfig:
    """Raw observations -> vectors."""

    kind: Literal["auto", "mlp", "minatar", "minigrid", "nature", "impala"] = "auto"
    """auto, by the shape of an observation: (C, 10, 10) bool planes minatar; other small bool planes, and codes that
    the environment declares (`EnvSpec.codes`), minigrid; frames of 36 x 36 bytes or more nature; all else mlp."""
    hidden: Annotated[tuple[int, ...] | None, In(1, MOST_WIDTH)] = None
    """Widths of the linear layers, behind the convolutions if there are any; () for none there. Default: mlp
    (256, 256), minatar (128,), minigrid (256,), nature (512,), impala (256,)."""
    channels: Annotated[tuple[int, ...] | None, In(1, MOST_WIDTH)] = None
    """Output channels of the convolutions. Default: minatar (16,), minigrid (32, 64), nature (32, 64, 64) and impala
    (16, 32, 32). minigrid takes any number of them, () for none: planes go straight into the linear layers."""
    init: Init = "orthogonal"
    """orthogonal: rows or columns of a random rotation, times sqrt 2; he: N(0, 2 / inputs). Biases start at 0."""
    layer_norm: bool = False
    """Normalise before the activation of each linear layer: keeps features bounded at high replay ratios."""

    def __post_init__(self) -> None:
        hidden, channels = self.hidden, self.channels
        check_ranges(self, "encoder")
        require(hidden != () or self.kind != "mlp", "encoder: an mlp needs at least one hidden layer.")
        if channels is not None:
            check_channels(self.kind, channels)


def check_channels(kind: str, channels: tuple[int, ...]) -> None:
    """RlcError unless this kind of encoder can have so many convolutions."""
    need = {"minatar": 1, "nature": 3}.get(kind, len(channels))
    require(len(channels) == need, f"encoder: {kind} has {need} convolutions, but channels {channels}.")


@dataclass(frozen=True)
class ValueConfig:
    """Heads and targets of both value functions."""

    dueling: bool = True
    """V + advantages (Wang et al. 2016)."""
    double: bool = True
    """The online network chooses the next action, the target network rates it; else the target does both."""
    atoms: Annotated[int, In(1, 10_000)] = 1
    """Atoms of the return distributions; 1: plain values. Data-efficient Rainbow has 51."""
    low: float = -10.0
    """Smallest atom, in units of reward times `reward_scale`; returns beyond count as it, G's with their bonuses."""
    high: float = 10.0
    """Largest atom (> low), as `low`."""
    hidden: Annotated[int, In(0, MOST_WIDTH)] = 0
    """Width of one hidden layer of each head (0: none)."""
    noisy: float = 0.0
    """sigma_0 of noisy layers in the heads (`deep/noisy.py`), in gradient steps and acting (>= 0; 0: plain layers).
    The official agent has .5."""

    def __post_init__(self) -> None:
        check_ranges(self, "value")
        finite = -math.inf < self.low < self.high < math.inf
        require(finite, f"value: low must be < high, both finite, got {self.low} and {self.high}.")
        require(0.0 <= self.noisy < math.inf, f"value: noisy must be >= 0 and finite, got {self.noisy}.")


@dataclass(frozen=True)
class RepresentationConfig:
    """phi(s,a) and psi(s')."""

    dim: Annotated[int, In(1, MOST_WIDTH)] = 64
    """d."""
    objective: str = "nce"
    """A registered objective: nce (the paper's), logistic, infonce, mle, meco, spectral; name it before --help to see
    its options."""
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
    law_rate: Annotated[float, In(0, 1, above=True)] = 0.01
    """Weight of the newest batch in the moving average u of psi over P^-, for simplex features alone."""
    every: Annotated[int, Ge(1)] = 4
    """Gradient steps of the values to one of the contrastive loss: features are frozen between rebuilds."""
    weighted: bool = True
    """Where rows are drawn by priorities, weigh them back as those of the values, so that P and P^- are laws of what is
    stored. Off: of what is drawn, which tilts P(s'|s,a) towards successors that surprise."""
    mask_identical: bool = False
    """Leave out negatives that equal the row's own successor. Off, because they belong to P^-: without them nothing
    holds f(s,a,s') down where s' is certain, and it grows without bound; with them it stops at 1 / P^-(s')."""

    def __post_init__(self) -> None:
        check_ranges(self, "representation")
        kinds = ("logits", "simplex", "unit", "raw", "psi")
        require(self.features in kinds, f"representation: features must be one of {', '.join(kinds)}.")

    @property
    def of_states(self) -> bool:
        """The bonus counts features of states, (N, 1, d), and each action by itself; else those of pairs, (N, A, d)."""
        return self.features == "psi"


@dataclass(frozen=True)
class BonusConfig:
    """How visits are counted (`bonus.py`)."""

    kind: Literal["tiles", "elliptical"] = "tiles"
    """tiles: visits of the cells that phi falls into; elliptical: phi itself, with a full Sigma."""
    lam: float = 0.1
    """lambda (> 0), visits that everything had beforehand: a first visit is worth beta / sqrt(lambda). Where noise
    falls into new cells again and again, a larger one (10) keeps them from outshining all else."""
    tilings: Annotated[int, In(1, 1000)] = 4
    """T, partitions that are averaged."""
    directions: Annotated[int, In(1, 1000)] = 8
    """K, directions that cut the cells of a tiling."""
    width: float = 1.0
    """Width of the strips in units of the features' spread (> 0)."""
    past: int = 10_000
    """Places (observation and action, >= 2) that stand for the visits that left the replay, at most as many as its
    capacity. Each takes the memory of a stacked observation; where more were visited, a sample stands for them."""

    def __post_init__(self) -> None:
        check_ranges(self, "bonus")
        require(self.kind in ("tiles", "elliptical"), "bonus: kind must be tiles or elliptical.")
        for name in ("lam", "width"):
            value = getattr(self, name)
            require(0.0 < value < math.inf, f"bonus: {name} must be > 0 and finite, got {value}.")
        require(self.past >= 2, f"bonus: past must be >= 2, got {self.past}.")


def check_counts(bonus: BonusConfig, representation: RepresentationConfig) -> None:
    """RlcError unless this bonus can count these features."""
    fits = bonus.kind == "tiles" or not representation.of_states
    features = representation.features
    require(fits, f"bonus: features {features} are those of states, which the kind tiles alone counts for each action.")


@dataclass(frozen=True)
class SelfPredictionConfig:
    """Self-prediction beside, or in place of, the contrastive loss."""

    weight: float = 0.0
    """Weight of the loss (>= 0); 0 switches self-prediction off. The official agent has 5."""
    steps: Annotated[int, In(1, 1000)] = 5
    """K, steps predicted."""
    hidden: Annotated[int, In(1, MOST_WIDTH)] = 256
    """Width of the transition's hidden layer."""
    dim: Annotated[int, In(1, MOST_WIDTH)] = 128
    """Dimension in which vectors are compared."""
    tau: Annotated[float, In(0, 1, above=True)] = 0.01
    """Share of the online projection that its target takes over at each `follow`."""

    def __post_init__(self) -> None:
        check_ranges(self, "self-prediction")
        require(0.0 <= self.weight < float("inf"), f"self-prediction: weight must be >= 0, got {self.weight}.")


@dataclass(frozen=True)
class AugmentConfig:
    """Distorted observations in gradient steps (`deep/augment.py`), for frames: encoders nature and impala."""

    shift: Annotated[int, In(0, 1000)] = 0
    """Largest shift in pixels, up, down, left and right (0: none). The official agent has 4."""
    intensity: Annotated[float, In(0, 0.5, below=True)] = 0.0
    """Scale of the change in brightness; 0: none. The official agent has .05."""

    def __post_init__(self) -> None:
        check_ranges(self, "augment")


@dataclass(frozen=True)
class DeepLearnerConfig:
    """Networks, losses and the optimiser."""

    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig(layer_norm=True))
    """Observations -> vectors for Q and G. Normalised layers bound what values of unseen states can become."""
    feature_encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Observations -> vectors for phi and psi. Not normalised: states far from all others must look so."""
    value: ValueConfig = field(default_factory=ValueConfig)
    """Q of rewards and G of rewards and bonuses."""
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)
    """phi(s,a) and psi(s')."""
    self_prediction: SelfPredictionConfig = field(default_factory=SelfPredictionConfig)
    """SPR's loss, off by default."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Shifts and intensities of frames, off by default."""
    learn_features: bool = True
    """Off: the features stay as they were drawn, a control."""
    batch_size: Annotated[int, In(2, MOST_DRAWN)] = 64
    """Entries of the replay in a step."""
    lr: float = 3e-4
    """Adam's step size (> 0)."""
    lr_falls_over: Annotated[int, Ge(0)] = 0
    """Gradient steps over which the step size of Q and G falls linearly to a twentieth; 0: it stays."""
    adam_eps: float = 1e-8
    """Adam's epsilon for Q and G (> 0); large values, as 1.5e-4 on Atari, damp rare gradients, and so small bonuses."""
    clip: float = 10.0
    """Largest norm of the gradient of Q, G and self-prediction (> 0); that of the features is not clipped."""
    tau: Annotated[float, In(0, 1, above=True)] = 0.005
    """Share of the online network that its target takes over after each step."""
    reward_scale: float = 1.0
    """Q and G are learned of rewards and bonuses times this (> 0). Each of Adam's steps moves an output by
    about lr whatever the returns are, so differences far below 1 drown in it. 10 suits MiniGrid's returns below 1."""
    clip_rewards: bool = False
    """Learn from the sign of rewards, as is usual on Atari; evaluation is not touched."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: matrix products in bfloat16 (autocast); losses, features and bonuses keep their precision."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda or cuda:N."""
    compile: bool = False
    """torch.compile the losses (on a GPU with CUDA graphs): a minute first, then faster steps."""

    def __post_init__(self) -> None:
        check_ranges(self, "deep")
        check_device(self.device)
        for name in ("lr", "adam_eps", "clip", "reward_scale"):
            value = getattr(self, name)
            require(0 < value < np.inf, f"deep: {name} must be > 0 and finite, got {value}.")


@dataclass(frozen=True)
class RNDConfig:
    """Random network distillation (`deep/rnd.py`)."""

    dim: Annotated[int, In(1, MOST_WIDTH)] = 128
    """k, outputs of both networks."""
    hidden: Annotated[int, In(0, MOST_WIDTH)] = 256
    """Width of the ReLU layer that the predictor has beyond its target (0: none)."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Adam's step size for the predictor. 1e-4 is usual where each observation is used several times; here once,
    and then errors lag behind the visits."""
    batch_size: Annotated[int, In(1, MOST_DRAWN)] = 32
    """Visited observations of one step of the predictor; each is used once."""

    def __post_init__(self) -> None:
        check_ranges(self, "rnd")
