"""Nash and coarse correlated equilibria of many payoff matrices at once, each with a certificate.

python examples/equilibria.py
"""

import numpy as np

from rl_contrastive.planning.equilibrium import cce, nash

rock_paper_scissors = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
penalty_kick = np.array([[0.58, 0.95, 0.9], [0.93, 0.70, 0.9], [0.9, 0.95, 0.6]])
M = np.stack([rock_paper_scissors, penalty_kick])  # (N, A, B), paid to the row player, who maximises

found = nash(M)
for name, x, y, value in zip(("rock, paper, scissors", "penalty kick"), found.x, found.y, found.value, strict=True):
    print(f"{name}: value {abs(value):.3f}, row plays {x.round(3)}, column plays {y.round(3)}")
print(f"exploitability, computed from the payoffs: at most {found.gap.max():.1e}")

many = nash(np.random.default_rng(0).uniform(size=(10_000, 4, 4)))
print(f"10 000 random games: largest exploitability {many.gap.max():.1e}")

# The row player believes `upper`, the column player `lower`: optimism for both, as in Contrastive-UCB for games.
both = cce(M + 0.1, M - 0.1)
print("joint strategy of the first pair:", both.sigma[0].round(3).tolist())
print("largest gain of a deviation (negative: every deviation costs):", both.gap.round(3))
