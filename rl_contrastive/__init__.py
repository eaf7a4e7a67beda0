"""rl_contrastive: contrastive representation learning in online reinforcement learning.

Start with `rl_contrastive.spec` (the contracts), `rl_contrastive.agents.contrastive_ucb` (the paper's Algorithm 1)
and `rl_contrastive.runs.loop` (how a run goes).
"""

__version__ = "0.1.0"
