"""A contrastive objective of your own, and the check that it keeps the rules.

python examples/my_objective.py
"""

from dataclasses import dataclass

from torch.nn.functional import softplus

from rl_contrastive import make_agent, make_env, register, train
from rl_contrastive.objectives.base import Objective, ObjectiveResult, reduce_rows
from rl_contrastive.testing import check_objective


@dataclass(frozen=True)
class WeightedConfig:
    """Options of the objective."""

    weight: float = 1.0
    """Weight of the negatives (> 0); with 1 the minimiser is the log ratio log P(s'|s,a) / P^-(s')."""


@register("objective", "weighted-nce", WeightedConfig)
class WeightedNCE(Objective):
    """log(1 + e^-s) on positives + weight * E_{P^-} log(1 + e^s) on negatives."""

    space, recovers = "log", "ratio"  # scores are logarithms; the minimiser is log P/P^-

    def __init__(self, config=None):
        self.config = config or WeightedConfig()

    def loss(self, pos, neg, pos_weight, neg_weight):  # (..., N, K) and (..., N, M) scores, and their weights
        negatives = self.config.weight * (neg_weight * softplus(neg)).sum(-1)
        return ObjectiveResult(*reduce_rows(softplus(-pos), negatives, pos_weight))


if __name__ == "__main__":
    print("kept:", ", ".join(check_objective(WeightedNCE())))
    env = make_env("low-rank", num_envs=50, num_states=12, horizon=3)
    agent = make_agent("contrastive-ucb", env, seed=0, learner={"method": "nce", "objective": "weighted-nce"})
    print("gap:", round(train(agent, env, episodes=300).history[-1]["gap"], 4))
