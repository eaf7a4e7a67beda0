"""Contrastive-UCB for zero-sum games with networks, where observations cannot be tabulated.

This is `contrastive-ucb-deep` (`agents/contrastive_ucb_deep.py`) with the joint actions (a, b) as its actions, three
values on one encoder, and equilibria of the stage games in place of the best action (`deep/choice.py`):

    at each step of B episodes side by side:
      1. U = G-bar(s) + b(s), L = G-under(s) - b(s), tables (A, B): the current bonus of phi(s,a,b) and the rest
         play (a, b) ~ sigma(s) = CCE(U, L), or uniformly with probability epsilon
      2. store the step and count the visit, once
      3. every `train_every` steps one gradient step on
             Q(s,a,b)       <- r + mu'Q'(s')nu,        (mu, nu) = Nash(Q(s')),         without bonus
             G-bar(s,a,b)   <- r + <sigma', U'(s')>,   sigma' = CCE(U(s'), L(s'))
             G-under(s,a,b) <- r + <sigma', L'(s')>
             contrastive loss of f(s,a,b,s') = psi(s')'phi(s,a,b) with the batch's successors as negatives
      4. when the visits grew by `growth`: freeze the current phi and count all visits again
    evaluations use (mu, nu) = Nash(Q(s)) of the target network, without bonus

' marks the target network; values at s' are clipped to the range of returns where the game declares it. The two values
with bonuses are those of Algorithm 2 of Qiu et al. 2022. Deviations: docs/agents/contrastive-ucb-game-deep.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

from rl_contrastive.agents.contrastive_ucb_deep import ContrastiveUCBDeep
from rl_contrastive.config import Ge, In, require
from rl_contrastive.deep.agent_config import ContrastiveUCBDeepConfig
from rl_contrastive.deep.config import DeepLearnerConfig, ValueConfig
from rl_contrastive.registry import register


def game_learner() -> DeepLearnerConfig:
    """The networks' options with plain values: no dueling streams of joint actions."""
    return replace(DeepLearnerConfig(), value=ValueConfig(dueling=False, double=False))


@dataclass(frozen=True)
class ContrastiveUCBGameDeepConfig(ContrastiveUCBDeepConfig, where="game-deep"):
    """Deep Contrastive-UCB for games: the options of `contrastive-ucb-deep`, with other defaults."""

    batch: Annotated[int, Ge(1)] = 8
    """B, episodes side by side. They start together and wait for the longest one."""
    gamma: Annotated[float, In(0, 1)] = 1.0
    """Discount per step; 1: none, episodes are finite."""
    n_step: Annotated[int, In(1, 1)] = 1
    """Always 1: the next steps of an old episode are no equilibrium of today."""
    growth: float = 0.5
    """Freeze the current features and count again when the visits have grown by this fraction."""
    epsilon: Annotated[float, In(0, 1)] = 0.1
    """Share of uniform joint actions, in addition to optimism."""
    learner: DeepLearnerConfig = field(default_factory=game_learner)
    """Networks, losses, optimiser."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refused = {
            "episodic": self.episodic,
            "search.alpha > 0": self.search.alpha > 0,
            "learner.value.atoms > 1": self.learner.value.atoms > 1,
            "learner.compile": self.learner.compile,
        }
        for name, given in refused.items():
            require(not given, f"game-deep: {name} is made for one agent; a stage game has no single best action.")


@register("agent", "contrastive-ucb-game-deep", ContrastiveUCBGameDeepConfig)
class ContrastiveUCBGameDeep(ContrastiveUCBDeep):
    """Networks for games: counts of cells of contrastive features of (s,a,b), two-sided optimism, stage equilibria."""

    plays = "game"
    config: ContrastiveUCBGameDeepConfig
