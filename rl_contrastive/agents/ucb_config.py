"""The options of `contrastive-ucb`, which its models read too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rl_contrastive.config import Ge, Gt, Options
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.decoder import DecoderConfig
from rl_contrastive.features.mixture import MixtureConfig


@dataclass(frozen=True)
class ContrastiveUCBConfig(Options, where="ucb"):
    """Contrastive-UCB; learner.method chooses spectral | nce | spectral+nce features."""

    batch: Annotated[int, Ge(1)] = 50
    """B, episodes between two updates."""
    warm_start: Annotated[int, Ge(0)] = 100
    """Episodes of uniform actions before the first plan; they count as episodes and all their steps are kept."""
    roll_in: Literal["auto", "paper", "mixed", "thinned", "on-policy"] = "auto"
    """auto: mixed on tables of states, paper elsewhere. paper: uniform actions at t - 1 and t, only these steps are
    kept; the played regret grows with K. mixed: the same actions, all steps are kept. thinned: mixed with probability
    min(1, sqrt(warm_start / n)) in episode n, else pi_k to the end; this adds O(sqrt(K)) to the regret of pi_k.
    on-policy: pi_k to the end, all steps are kept."""
    gamma: Annotated[float, Ge(0)] = 1.0
    """gamma, scale of the elliptical bonus, in units of the rewards' range."""
    lam: Annotated[float, Gt(0)] = 1.0
    """lambda, ridge of Sigma."""
    feature_growth: Annotated[float, Ge(0)] = 0.1
    """Vectors: fit the features again when the stored transitions grew by this fraction."""
    growth: Annotated[float, Ge(0)] = 0.02
    """Plan again when the stored transitions grew by this fraction (0: after every batch). Any fraction above 0
    keeps the cost of an episode from growing with their number."""
    decoder_growth: Annotated[float, Gt(0)] = 0.1
    """Refit a step's decoder when its rows grew by this fraction."""
    known_reward: bool = False
    """Read r_h(s,a) from the environment's exact model, as the paper assumes it known; else use observed means."""
    reward_max: float | None = None
    """Largest reward; default the environment's bound, or the largest reward seen where it declares none."""
    pool: bool = True
    """Tables where the environment declares one kernel for all steps: fit one from the data of all steps."""
    representation: Literal["vector", "latent", "ridge"] = "vector"
    """Rich observations only (states are tables always). vector: phi(o,a) and psi(o') of the observations, planned
    through P-hat over the stored successors; latent: phi(z,a) over latent states decoded from them, a block function
    class with an exact backward pass; ridge: not Algorithm 1, see `contrastive-lsvi`."""
    capacity: Annotated[int, Ge(10)] = 5000
    """Rows kept of each step where observations are stored, the newest ones (simplex features need
    20). Tables of states keep all."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """The contrastive fit."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """Simplex features of vectors."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Rich observations -> latent states: of representation latent, and of the bonus-free policy of vector."""
