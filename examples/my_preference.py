"""A preference objective of your own, trained on a bandit; `--import` makes its name known to the agent.

python examples/my_preference.py
rlc run preference-policy combination-lock --import examples/my_preference.py --agent.objective hinge --episodes 200
"""

from dataclasses import dataclass
from typing import Annotated

import torch

from rl_contrastive.config import In, Options
from rl_contrastive.preferences import Completions, PairObjective
from rl_contrastive.preferences.base import mean_rows
from rl_contrastive.preferences.pairwise import margins
from rl_contrastive.registry import register


@dataclass(frozen=True)
class HingeConfig(Options, where="hinge"):
    """The scale of the margin."""

    beta: Annotated[float, In(1e-4, 1e4)] = 0.1
    """beta: the loss of a pair is 0 from the margin 1/beta on."""


@register("pair-objective", "hinge", HingeConfig)
class Hinge(PairObjective):
    """max(0, 1 - beta m), m = h_w - h_l, as in SLiC (Zhao et al. 2023)."""

    def __init__(self, config=None):
        self.config = config or HingeConfig()

    def loss(self, pairs, state):
        m = margins(pairs)  # (..., P)
        return mean_rows((1 - self.config.beta * m).clamp_min(0), m, pairs.weight, {}), state


if __name__ == "__main__":
    logits, ref = torch.zeros(3, requires_grad=True), torch.full((3,), 1 / 3).log()
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):  # arm 0 beats 1, and 1 beats 2
        logp = logits.log_softmax(-1)
        chosen, rejected = (Completions(logp[i, None], ref[i, None]) for i in ([0, 1], [1, 2]))
        optimiser.zero_grad()
        Hinge()(chosen, rejected).loss.backward()
        optimiser.step()
    print(f"P(arm 0) = {logits.softmax(-1)[0]:.3f}")
