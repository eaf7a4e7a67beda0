"""The elliptical bonus gamma ||phi||_{Sigma^-1}: large where features were rarely seen, small where they were.

python examples/elliptical_bonus.py
"""

import numpy as np

from rl_contrastive.planning.bonus import EllipticalBonus

H, d = 1, 8
rng = np.random.default_rng(0)
seen, unseen = np.eye(d)[:4], np.eye(d)[4:]  # features of pairs (s, a)

bonus = EllipticalBonus(H, d, lam=1.0)
for visits in (1, 9, 90):
    bonus.update(0, seen[rng.integers(4, size=visits)])  # Sigma_0 += sum phi phi', counted once a visit
    b = bonus.bonus(0, np.stack([seen[0], unseen[0]]), gamma=1.0, cap=float(H))
    print(f"after {visits:3d} more visits: {b[0]:.3f} where we were, {b[1]:.3f} where we were not")

phi = rng.normal(size=(H, 100, 5))  # features were learned anew: rebuild Sigma from all stored rows
bonus.rebuild(phi)
print("rebuilt for d =", bonus.dim)
