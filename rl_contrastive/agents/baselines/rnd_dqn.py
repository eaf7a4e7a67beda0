"""RND on the deep agent's networks: the control that separates the effects of its bonus and its Q-learning.

This is `contrastive-ucb-deep` (`agents/contrastive_ucb_deep.py`) with `--agent.bonus.kind rnd` and other defaults;
the bonus of a step (s,a,s') is beta * error(s') / spread of random network distillation (`deep/rnd.py`):

    G(s,a) <- sum_{k<m} gamma^k (r_k + b_k) + discount G'(s_m, argmax_a G(s_m, a)),  b_k = beta bonus(s_{k+1})
    act by argmax_a G(s,a), with a share epsilon of uniform actions; evaluations use argmax_a Q(s,a)

G is the value within one episode, like that of contrastive-ucb-deep. Burda et al. 2018 let intrinsic returns continue
beyond its end, train by PPO, and clip observations.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from rl_contrastive.agents.contrastive_ucb_deep import ContrastiveUCBDeep
from rl_contrastive.config import require, to_dict
from rl_contrastive.deep.agent_config import ContrastiveUCBDeepConfig
from rl_contrastive.deep.bonus_config import BonusConfig, GateName
from rl_contrastive.deep.config import DeepLearnerConfig
from rl_contrastive.registry import register
from rl_contrastive.spec import Env


@dataclass(frozen=True)
class RndDqnConfig(ContrastiveUCBDeepConfig):
    """Random network distillation in the place of counted features: `bonus`, `growth`, and of `learner` the options of
    features (`representation`, `feature_encoder`) are of no use here, and refused."""

    beta: float = 0.01
    """Scale of the bonus, in units of reward: the bonus of an error of one spread. 0 is the control without
    optimism."""
    epsilon: float = 0.1
    """Share of uniform actions, in addition to optimism. It is larger than for contrastive-ucb-deep, because
    this bonus does not favour actions that were never tried."""
    learner: DeepLearnerConfig = field(default_factory=lambda: DeepLearnerConfig(learn_features=False))
    """Networks, losses, optimiser."""

    def __post_init__(self) -> None:
        super().__post_init__()
        usual, hint = DeepLearnerConfig(), "is of no use here, it learns and counts no features"
        require(self.growth == ContrastiveUCBDeepConfig.growth, f"rnd-dqn: growth {hint}.")
        # Older run folders name the usual width.
        bonus = replace(self.bonus, width=None) if self.bonus.width == 1.0 else self.bonus
        unused: dict[str, tuple[Any, Any]] = {"bonus": (bonus, BonusConfig())}
        for name in ("representation", "feature_encoder"):
            unused[f"learner.{name}"] = (getattr(self.learner, name), getattr(usual, name))
        for name, (given, default) in unused.items():
            # As tables: options of an objective may be its config or a table of the same fields.
            require(to_dict(given) == to_dict(default), f"rnd-dqn: {name} {hint}.")


@register("agent", "rnd-dqn", RndDqnConfig)
def make_rnd_dqn(env: Env, config: RndDqnConfig, *, seed: int = 0) -> ContrastiveUCBDeep:
    """Control: the deep agent's networks and replay with the bonus of random network distillation."""
    gate: GateName = "tried" if config.episodic else "none"
    own = {f.name: getattr(config, f.name) for f in fields(ContrastiveUCBDeepConfig)}
    bonus = BonusConfig(kind="rnd", gate=gate)
    return ContrastiveUCBDeep(env, ContrastiveUCBDeepConfig(**{**own, "bonus": bonus}), seed=seed)
