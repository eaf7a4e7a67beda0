"""Claim: contrastive features recover the true phi up to an invertible linear map (a rotation of the feature space).

No loss on psi'phi can tell phi from A phi, so column spaces are compared: the sine of the largest principal angle
has to fall with the number of samples. Random features and shuffled successors stay at angle 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from rl_contrastive.analysis.figures import colour, counts_on, draw, rng_of, ticks_at, words
from rl_contrastive.analysis.slopes import slope_interval
from rl_contrastive.claims.base import Bar, Context, Report, control
from rl_contrastive.claims.theory.sampling import draw_counts, largest_angle, one_step_model, shuffled, sparse_counts
from rl_contrastive.config import Ge, Options, require
from rl_contrastive.features.spectral import fit_tabular
from rl_contrastive.registry import register

SLOPES = (-0.6, -0.35)


@dataclass(frozen=True)
class RecoveryConfig(Options, where="feature-recovery"):
    """Sizes of the measurement."""

    num_states: int = 50
    """S."""
    num_actions: int = 5
    """A."""
    rank: int = 3
    """d."""
    per_pair: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    """n, samples of each (s, a)."""
    mdps: int = 5
    """Number of MDPs."""
    seed: Annotated[int, Ge(0)] = 0
    """The first of their seeds, and the seed of the data."""

    @classmethod
    def quick(cls) -> RecoveryConfig:
        """Seconds."""
        return cls(num_states=30, num_actions=3, per_pair=(64, 512, 4096), mdps=3)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.per_pair) >= 2, "feature-recovery: give at least two n.")
        require(self.mdps >= 1, f"feature-recovery: mdps must be >= 1, got {self.mdps}.")


@register("claim", "theory/feature-recovery", RecoveryConfig)
def feature_recovery(config: RecoveryConfig, context: Context) -> Report:
    """Features are recovered up to rotation: principal angles shrink with n."""
    n = np.array(config.per_pair, dtype=np.float64)
    sine, random, lost = (np.empty((config.mdps, len(n))) for _ in range(3))
    for m in context.each("MDP", range(config.mdps)):
        model = one_step_model(config.num_states, config.num_actions, config.rank, config.seed + m)
        assert model.phi is not None
        phi = model.phi[0].reshape(-1, config.rank)  # (SA, d)
        for j, count in enumerate(config.per_pair):
            rng = rng_of(config.seed, m, j)
            counts = draw_counts(model.P[0], count, rng=rng)

            def angle(table: Any, phi: Any = phi) -> float:
                fit = fit_tabular(sparse_counts(table), config.rank)
                return largest_angle(fit.features.phi_table[0].reshape(-1, config.rank), phi)

            sine[m, j] = angle(counts)
            lost[m, j] = angle(shuffled(counts, rng=rng))
            random[m, j] = largest_angle(rng.standard_normal(phi.shape), phi)
    slope = slope_interval(n, sine)

    def paint(axis: Any) -> None:
        axis.loglog(n, sine.T, color=colour(0), alpha=0.35, linewidth=1)
        axis.loglog(n, sine.mean(axis=0), "o-", color=colour(0), label="contrastive (spectral)")
        axis.loglog(n, lost.mean(axis=0), "x--", color="#555555", label="shuffled successors")
        axis.loglog(n, random.mean(axis=0), "s:", color=colour(1), fillstyle="none", label="random features")
        axis.set(xlabel="samples a pair n", ylabel="sin of largest principal angle")
        ticks_at(axis.xaxis, config.per_pair)
        counts_on(axis.yaxis)

    worst = float(min(lost.min(), random.min()))
    return Report(
        claim="span(phi-hat) -> span(phi*): features are identified up to an invertible linear map",
        bars=[
            Bar("the claim", f"slope in [{SLOPES[0]}, {SLOPES[1]}], last sine <= 0.1 on each MDP",
                f"slope of sin(largest angle) in n: {words(slope)}; at n={config.per_pair[-1]} it is "
                f"{sine[:, -1].mean():.3f} (largest of {config.mdps} MDPs {sine[:, -1].max():.3f})",
                SLOPES[0] <= slope.estimate <= SLOPES[1] and bool(sine[:, -1].max() <= 0.1)),
            control(f"random features and shuffled successors: sine never below {worst:.2f} (must stay > 0.5)",
                    failed=worst > 0.5),
        ],
        plots=[draw(context.out, "feature-recovery", {"Angle to the true features": paint},
                    f"S={config.num_states}, A={config.num_actions}, d={config.rank}, {config.mdps} MDPs "
                    "(thin lines).")],
        numbers={"n": n, "sine": sine, "sine_shuffled": lost, "sine_random": random, "slope": slope},
    )  # fmt: skip
