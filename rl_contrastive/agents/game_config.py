"""The options of `contrastive-ucb-game`, which its model reads too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rl_contrastive.config import Ge, Gt, Options
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.decoder import DecoderConfig


@dataclass(frozen=True)
class ContrastiveUCBGameConfig(Options, where="ucb-game"):
    """Contrastive-UCB for games; learner.method chooses spectral | nce | spectral+nce features of (s, a, b)."""

    batch: Annotated[int, Ge(1)] = 50
    """B, episodes between two updates."""
    warm_start: Annotated[int, Ge(0)] = 100
    """Episodes of uniform actions before the first plan; they count as episodes and all their steps are kept."""
    roll_in: Literal["paper", "mixed", "on-policy", "uniform"] = "mixed"
    """paper: uniform actions at t - 1 and t, only these steps are kept; mixed: the same actions, all steps are kept;
    on-policy: sigma_k to the end, all are kept; uniform: no optimism in acting, for games that uniform play covers."""
    gamma: Annotated[float, Ge(0)] = 0.1
    """gamma: the bonus is min(gamma sqrt(A B) ||phi||, 1) times the range of the return to go (0: no bonus)."""
    lam: Annotated[float, Gt(0)] = 1.0
    """lambda, ridge of Sigma."""
    growth: Annotated[float, Ge(0)] = 0.02
    """Refit and replan when the stored transitions grew by this fraction (0: after every batch, which takes three
    times as long and needs fewer episodes on long locks)."""
    decoder_growth: Annotated[float, Gt(0)] = 0.1
    """Refit a step's decoder when its rows grew by this fraction."""
    known_reward: bool = False
    """Read r_h(s,a,b) from the environment's exact model, as the paper assumes it known; else use observed means."""
    reward_max: float | None = None
    """Largest reward; default the environment's bound, or the largest reward seen where it declares none."""
    pool: bool = True
    """Where the environment declares one kernel for all steps, fit one from the data of all steps."""
    capacity: Annotated[int, Ge(10)] = 20000
    """Rows kept of each step where observations are stored, the newest ones. Tables of states keep all."""
    opponent: str = "none"
    """The player of the minimiser: none (the agent controls both players) or a registered opponent (`rlc list
    opponents`), whose actions the agent only observes. The scalar `earned` includes uniform actions, unless roll_in is
    on-policy."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """The contrastive fit."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Rich observations -> latent states."""
